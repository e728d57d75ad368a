//! The limits in force, resolved once the shards are warm.

/// Limits of one engine; they never change while a generation of shards lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest prompt, in tokens.
    pub max_input_tokens: u32,
    /// Longest prompt plus generation, in tokens.
    pub max_total_tokens: u32,
    /// Token budget of one step.
    pub max_batch_prefill_tokens: u32,
    /// Tokens that fit the KV memory.
    pub max_batch_total_tokens: u64,
    /// Sequences that may hold a slot at once.
    pub max_concurrent_sequences: u32,
    /// Rows of the output head; a token id below this is valid.
    pub vocab_size: u32,
}
