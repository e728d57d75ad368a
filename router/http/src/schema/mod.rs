//! The wire structs of request bodies, and what they mean once their values are in range.

mod beam_fields;
pub(crate) mod chat;
mod chat_message;
mod completion_logprobs;
pub(crate) mod embeddings;
mod message;
pub(crate) mod native;
pub(crate) mod native_answer;
pub(crate) mod openai;
pub(crate) mod openai_answer;
pub(crate) mod openai_fields;
pub(crate) mod openai_stream;
mod prompt_logprobs;
mod tools;

use serde::Deserialize;
use utoipa::ToSchema;

/// `stop`: one string or a list.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a string or a list of strings")]
pub(crate) enum StopField {
    One(String),
    Many(Vec<String>),
}

impl StopField {
    pub(crate) fn into_strings(self) -> Vec<String> {
        match self {
            Self::One(stop) => vec![stop],
            Self::Many(stops) => stops,
        }
    }
}
