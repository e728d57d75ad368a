//! Text in and out: tokenizer, chat template, incremental detokenizer, stop strings, tool calls and reasoning in answers.
//!
//! Pure: knows no runtime, no clock, no HTTP. What the time is, is passed in.

pub mod answer;
pub mod chat_template;
pub mod detokenize;
pub mod grammar;
mod markers;
pub mod model_files;
mod python_text;
mod quick_encoder;
pub mod reasoning;
mod shield;
pub mod stop_match;
mod template_filters;
pub mod tokenizer;
pub mod tools;

pub use answer::{AnswerParser, AnswerRules};
pub use chat_template::{ChatTemplate, Ending, Prompt, Rendering, TemplateError};
pub use detokenize::{Detokenizer, Places};
pub use grammar::GrammarCheck;
pub use model_files::LoadError;
pub use reasoning::{Phase, ReasoningFormat};
pub use ribbon_grammar::{Grammar, GrammarError, Written};
pub use stop_match::{StopMatcher, StopStrings, StopText};
pub use tokenizer::{EncodeError, SHORT_BYTES, SpecialTokens, TokenSpan, Tokenizer};
pub use tools::{Part, ToolFormat, ToolUse};
