//! HTTP in, tokens out: routes, wire structs, the one error table, streams, request metrics.
//!
//! Knows engines only by [`ribbon_core::Engine`]. Wiring, for `router/bin`:
//!
//! ```ignore
//! let prometheus = ribbon_http::metrics::install(&scheduler_buckets)?;      // once, before AppState::new
//! ribbon_scheduler::metrics::describe();
//! tasks.spawn(ribbon_http::metrics::upkeep(prometheus.clone()));
//! let tokenizer = Arc::new(Tokenizer::load(&model_path)?);
//! let template = ChatTemplate::load(&model_path, &tokenizer)?;
//! let text = ModelText { tokenizer, template, grammars: GrammarCheck::new(&model_path) };
//! let state = AppState::new(settings, Engines::single(model_id, engine), text, prometheus);
//! axum::serve(listener.tap_io(|tcp| { let _ = tcp.set_nodelay(true); }), ribbon_http::router(state)).await?;
//! ```

mod answer;
mod api_error;
mod auth;
mod beams;
mod beginning;
mod caller;
mod checks;
mod choices;
mod collect;
mod conversation;
mod edge;
pub mod error;
mod estimate;
mod extract;
mod fields;
mod grammar;
mod headers;
mod instruments;
mod large_json;
pub mod metrics;
mod openapi;
mod refusal;
mod routes;
mod running;
mod schema;
pub mod settings;
mod sse;
pub mod state;
mod submit;
mod telemetry;
#[cfg(test)]
mod tests;
mod token_texts;
mod wish;
mod workers;
mod writing;

pub use auth::ApiKey;
pub use routes::router;
pub use settings::HttpSettings;
pub use state::{AppState, Engines, ModelText};
