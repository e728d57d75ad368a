//! Why a sequence ended.

use serde::{Deserialize, Serialize};

/// Why a sequence ended. The spelling is the native API's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// `max_new_tokens` or the context limit was reached.
    Length,
    /// An end-of-sequence or stop token id was sampled.
    EosToken,
    /// The text ends with one of the request's stop strings.
    StopSequence,
}
