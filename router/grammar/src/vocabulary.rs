//! The bytes of every token, from `tokenizer.json`. Knows no model and tokenizes no text.

use std::sync::Arc;

use llguidance::{
    panic_utils::catch_unwind,
    token_bytes_from_tokenizer_json,
    toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie},
};
use serde_json::Value;

use crate::{GrammarError, error::words};

/// Longest token a trie can hold; no grammar misses longer ones.
const MAX_TOKEN_BYTES: usize = 1000;

/// What masks are made over; cheap to clone.
#[derive(Clone)]
pub struct Vocabulary {
    environment: TokEnv,
}

impl Vocabulary {
    /// Reads the tokens of a `tokenizer.json`. `size` is the number of scores the model gives, with or without padding;
    /// `end_tokens` are those that end a text.
    ///
    /// # Errors
    /// [`GrammarError::Vocabulary`]: the tokenizer does not work on bytes, or there is no end token.
    pub fn from_tokenizer_json(
        json: &[u8],
        size: usize,
        end_tokens: &[u32],
    ) -> Result<Self, GrammarError> {
        Self::new(read(json)?, size, end_tokens)
    }

    /// The tokens of a `tokenizer.json` for trying grammars out: no model says how many scores there are, and any token ends
    /// a text.
    ///
    /// # Errors
    /// The tokenizer does not work on bytes.
    pub fn of_tokenizer(json: &[u8]) -> Result<Self, GrammarError> {
        let tokens = read(json)?;
        let size = tokens.len();
        Self::new(tokens, size, &[0])
    }

    /// A vocabulary of these tokens, by id; a first byte of 0xFF marks a special token.
    ///
    /// # Errors
    /// As for [`Self::from_tokenizer_json`].
    pub fn new(
        mut tokens: Vec<Vec<u8>>,
        size: usize,
        end_tokens: &[u32],
    ) -> Result<Self, GrammarError> {
        let ends: Vec<u32> = end_tokens
            .iter()
            .copied()
            .filter(|&id| (id as usize) < size)
            .collect();
        let Some(&end) = ends.first() else {
            let reason = "no token ends a text".to_owned();
            return Err(GrammarError::Vocabulary(reason));
        };
        tokens.resize(size, Vec::new());
        for token in &mut tokens {
            if token.len() > MAX_TOKEN_BYTES {
                token.clear();
            }
        }
        let trie = TokTrie::from(&TokRxInfo::new(size as u32, end), &tokens);
        let trie = trie.with_eos_tokens(&ends);
        Ok(Self {
            environment: Arc::new(ApproximateTokEnv::new(trie)),
        })
    }

    pub(crate) fn environment(&self) -> &TokEnv {
        &self.environment
    }

    /// Scores the model gives.
    pub fn size(&self) -> usize {
        self.environment.tok_trie().vocab_size()
    }

    /// 32-bit words of a mask.
    pub fn mask_words(&self) -> usize {
        self.size().div_ceil(32)
    }
}

fn read(json: &[u8]) -> Result<Vec<Vec<u8>>, GrammarError> {
    let tokenizer: Value = serde_json::from_slice(json)
        .map_err(|error| GrammarError::Vocabulary(format!("tokenizer.json: {error}")))?;
    let read = catch_unwind(|| token_bytes_from_tokenizer_json(&tokenizer));
    read.map_err(|error| GrammarError::Vocabulary(words(&error)))
}
