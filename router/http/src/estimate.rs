//! How many tokens a text will have, before it is tokenized. Learns from every prompt; knows no tokenizer.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is believed at first: English under a common vocabulary.
const FIRST_BYTES: u64 = 4096;
const FIRST_TOKENS: u64 = 1024;
/// Beyond so many tokens the past counts half.
const MEMORY_TOKENS: u64 = 1 << 18;

/// The running mean of bytes per token.
#[derive(Debug)]
pub(crate) struct BytesPerToken {
    bytes: AtomicU64,
    tokens: AtomicU64,
}

impl Default for BytesPerToken {
    fn default() -> Self {
        Self {
            bytes: AtomicU64::new(FIRST_BYTES),
            tokens: AtomicU64::new(FIRST_TOKENS),
        }
    }
}

impl BytesPerToken {
    /// A text of so many bytes had so many tokens. Two at once may blur the mean a little.
    pub(crate) fn learn(&self, bytes: u64, tokens: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let before = self.tokens.fetch_add(tokens, Ordering::Relaxed);
        if before + tokens > MEMORY_TOKENS {
            let halve = |value: u64| Some(value / 2);
            self.bytes
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, halve)
                .ok();
            self.tokens
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, halve)
                .ok();
        }
    }

    /// Tokens that a text of so many bytes has, on average.
    pub(crate) fn tokens(&self, bytes: u64) -> u64 {
        let mean = self.bytes.load(Ordering::Relaxed) as f64
            / self.tokens.load(Ordering::Relaxed).max(1) as f64;
        (bytes as f64 / mean.max(f64::MIN_POSITIVE)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_follows_what_is_seen() {
        let mean = BytesPerToken::default();
        assert_eq!(mean.tokens(400), 100);
        for _ in 0..2_000 {
            mean.learn(2_000, 1_000);
        }
        assert!(
            (190..=205).contains(&mean.tokens(400)),
            "{}",
            mean.tokens(400)
        );
        assert_eq!(mean.tokens(0), 0);
    }
}
