//! Counter-based noise: the same (seed, position, choice, token) gives the same number on every device and in every batch.
//! Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// Names the noise of one row.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// The request's seed.
    pub seed: u64,
    /// Index of the new token in its history.
    pub position: u32,
    /// Index of the sequence among those that share a seed.
    pub choice: u32,
}

/// Four random words of one counter.
#[inline(always)]
pub fn philox(mut counter: [u32; 4], seed: u64) -> [u32; 4] {
    let mut key = [seed as u32, (seed >> 32) as u32];
    for _ in 0..ROUNDS {
        let first = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let second = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// Gumbel noise of one word: u = (⌊x/2⁹⌋ + ½)·2⁻²³ and −ln(−ln u), within [−2.82, 16.64].
#[inline(always)]
pub fn gumbel(word: u32) -> f32 {
    let u = ((word >> 9) as f32 + 0.5) * (1.0 / 8_388_608.0);
    -(-u.ln()).ln()
}

impl Stream {
    /// The four words that belong to tokens 4·block to 4·block + 3.
    #[inline(always)]
    pub fn block(&self, block: u32) -> [u32; 4] {
        philox([block, self.position, self.choice, 0], self.seed)
    }

    /// Noise of many tokens; those of one block share its words.
    pub fn reader(&self) -> Reader {
        Reader {
            stream: *self,
            block: 0,
            words: self.block(0),
        }
    }

    /// Noise of one token.
    pub fn noise(&self, token: u32) -> f32 {
        gumbel(self.block(token / 4)[(token % 4) as usize])
    }
}

/// Reads noise token by token.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    stream: Stream,
    block: u32,
    words: [u32; 4],
}

impl Reader {
    /// Noise of one token.
    #[inline(always)]
    pub fn of(&mut self, token: u32) -> f32 {
        if token / 4 != self.block {
            self.block = token / 4;
            self.words = self.stream.block(self.block);
        }
        gumbel(self.words[(token % 4) as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_answers() {
        assert_eq!(
            philox([0; 4], 0),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], u64::MAX),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }
}
