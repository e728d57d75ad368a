//! All routes. Counting sits around the generation routes; unknown paths and methods under `/v1` get JSON.
//!
//! Routes are added by `routes!`, which puts them into the OpenAPI document too, so that it cannot miss one.

mod debug;
mod docs;
mod embeddings;
mod generate;
mod health;
mod info;
mod openai;
mod prometheus;
mod sagemaker;
mod tokenize;
mod vertex;

#[cfg(test)]
pub(crate) use openai::prompts;

use axum::{Router, extract::Request, middleware};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::{edge, error::Cause, openapi, refusal::refuse, state::AppState, telemetry};

/// The whole HTTP side, ready to be served.
pub fn router(state: AppState) -> Router {
    let (routes, document) = documented(&state);
    let routes = routes
        .merge(docs::routes(document))
        .merge(debug::routes(&state.settings))
        .fallback(async |request: Request| refuse(&request, Cause::NotFound))
        .method_not_allowed_fallback(async |request: Request| {
            refuse(&request, Cause::MethodNotAllowed)
        });
    edge::around(routes, &state).with_state(state)
}

/// Every public route, and the document that describes them.
pub(crate) fn documented(state: &AppState) -> (Router<AppState>, OpenApi) {
    let counted = middleware::from_fn_with_state(state.clone(), telemetry::tally);
    let (routes, document) = OpenApiRouter::with_openapi(openapi::beginning())
        .merge(generate::routes())
        .merge(openai::routes())
        .merge(embeddings::routes(&state.settings))
        .merge(sagemaker::routes())
        .merge(vertex::routes())
        .merge(tokenize::chat_routes())
        .route_layer(counted)
        .merge(tokenize::routes())
        .merge(health::routes())
        .merge(info::routes())
        .merge(prometheus::routes())
        .split_for_parts();
    (routes, openapi::completed(document))
}
