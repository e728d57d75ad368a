//! The simulated model: the next token is a hash of the whole history, so a gap, a repeat or a mix-up shows at once.

use ribbon_core::TokenScore;

/// What the model thinks of a prompt token: something that tells which one it was.
pub(crate) fn score(token: u32) -> TokenScore {
    TokenScore {
        logprob: -(token as f32),
        top: vec![(token, -0.5)],
    }
}

/// Ends a sequence.
pub(crate) const STOP: u32 = 2;
/// A prompt that begins with it fails every step in which it has five generated tokens or more.
pub(crate) const FAILS_STEPS: u32 = 3;
/// A prompt that begins with it kills the shard there.
pub(crate) const KILLS_SHARDS: u32 = 4;
/// Generated tokens after which a poisoned prompt acts.
pub(crate) const POISON_AFTER: usize = 5;
const VOCABULARY: u64 = 60;

/// A running hash of a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct History(pub(crate) u64);

impl History {
    pub(crate) fn of(tokens: &[u32]) -> Self {
        let mut history = Self::default();
        for token in tokens {
            history.push(*token);
        }
        history
    }

    pub(crate) fn push(&mut self, token: u32) {
        self.0 = Rng::mix(self.0 ^ u64::from(token).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }

    /// The token that follows; one in sixty is the stop token.
    pub(crate) fn next(self, seed: u64) -> u32 {
        let token = (Rng::mix(self.0 ^ Rng::mix(seed ^ 0xabcd)) % VOCABULARY) as u32;
        if token == 0 { STOP } else { token + 10 }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): a run is named by its seed.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    fn mix(mut z: u64) -> u64 {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        Self::mix(self.0)
    }

    /// From `low` to `high`, both possible.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// True `per_mille` times in a thousand.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.next() % 1000 < per_mille
    }
}
