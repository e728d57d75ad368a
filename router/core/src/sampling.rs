//! How the next token is picked. Ranges are checked at the edge; a value here is always usable.

use std::sync::Arc;

use crate::Grammar;

/// The soft watermark of Kirchenbauer et al., <https://arxiv.org/abs/2301.10226>.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Watermark {
    /// Share of the vocabulary that each token marks green, above 0 and at most 1.
    pub gamma: f32,
    /// Added to the scores of green tokens.
    pub delta: f32,
}

/// Sampling parameters of one sequence, fully resolved: no field is absent.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Take the highest score; no filter, no noise.
    pub greedy: bool,
    /// Divisor of the scores, above 0.
    pub temperature: f32,
    /// Highest scores kept; 0 keeps all.
    pub top_k: u32,
    /// Probability mass kept; 1 keeps all.
    pub top_p: f32,
    /// Least probability kept, as a share of the highest; 0 keeps all.
    pub min_p: f32,
    /// Typical mass kept; 1 keeps all.
    pub typical_p: f32,
    /// Divides positive and multiplies negative scores of tokens in the history; 1 is off.
    pub repetition_penalty: f32,
    /// TGI's relative frequency penalty over the history; 0 is off.
    pub frequency_penalty: f32,
    /// OpenAI's presence penalty over generated tokens; 0 is off.
    pub presence_penalty: f32,
    /// OpenAI's frequency penalty over generated tokens; 0 is off.
    pub count_penalty: f32,
    /// Favours the tokens that the last one marks green.
    pub watermark: Option<Watermark>,
    /// Key of the counter-based generator.
    pub seed: u64,
    /// Index among the sequences that share a seed.
    pub choice: u32,
    /// How many top tokens are reported for each generated token.
    pub top_tokens: u32,
    /// Report what the model thought of the prompt's tokens, with so many top tokens beside each.
    pub prompt_top_tokens: Option<u32>,
    /// Added to the score of a token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Tokens that it does not allow cannot be picked.
    pub grammar: Option<Arc<Grammar>>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            greedy: true,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            count_penalty: 0.0,
            watermark: None,
            seed: 0,
            choice: 0,
            top_tokens: 0,
            prompt_top_tokens: None,
            logit_bias: Vec::new(),
            grammar: None,
        }
    }
}
