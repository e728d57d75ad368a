//! Text in and out: tokenizer, chat template, incremental detokenizer, stop strings.
//!
//! Pure: knows no runtime, no clock, no HTTP. What the time is, is passed in.

pub mod chat_template;
pub mod detokenize;
pub mod model_files;
pub mod stop_match;
mod template_filters;
pub mod tokenizer;

pub use chat_template::{ChatTemplate, Rendering, TemplateError};
pub use detokenize::Detokenizer;
pub use model_files::LoadError;
pub use stop_match::{StopMatcher, StopStrings, StopText};
pub use tokenizer::{EncodeError, SpecialTokens, TokenSpan, Tokenizer};
