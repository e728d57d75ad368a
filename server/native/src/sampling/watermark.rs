//! Green lists of the soft watermark: Kirchenbauer et al., "A watermark for large language models", ICML 2023,
//! https://arxiv.org/abs/2301.10226, algorithm 2. The last token seeds a permutation of the vocabulary, whose beginning is
//! green. Seed and permutation are those of the authors' program on a CPU (MT19937, then torch's shuffle), so that published
//! detectors find the mark, whatever device made the text. Knows token ids; not scores.

use std::cell::RefCell;

/// The authors' hash key: a prime that spreads token ids over the seeds.
const HASH_KEY: u64 = 15_485_863;

thread_local! {
    static PERMUTATION: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// Sets the tokens that are green behind `last_token` to 1 and all others to 0; `green` has an entry a token of the
/// vocabulary, of which the first `size` of the permutation are green.
pub fn mark_green(last_token: u32, size: usize, green: &mut [u8]) {
    green.fill(0);
    let vocab = green.len() as u32;
    let mut random = Mt19937::new((u64::from(last_token) * HASH_KEY) as u32);
    PERMUTATION.with_borrow_mut(|tokens| {
        tokens.clear();
        tokens.extend(0..vocab);
        for place in 0..size.min(green.len()) {
            let left = vocab - place as u32;
            // Torch draws nothing for the last place.
            let ahead = if left > 1 { random.next() % left } else { 0 };
            tokens.swap(place, place + ahead as usize);
            green[tokens[place] as usize] = 1;
        }
    });
}

const WORDS: usize = 624;
const MIDDLE: usize = 397;

/// The Mersenne Twister: Matsumoto and Nishimura, ACM TOMACS 8(1), 1998.
struct Mt19937 {
    state: [u32; WORDS],
    next: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Self {
        let mut state = [seed; WORDS];
        for index in 1..WORDS {
            let before = state[index - 1];
            state[index] = 1_812_433_253_u32
                .wrapping_mul(before ^ (before >> 30))
                .wrapping_add(index as u32);
        }
        Self { state, next: WORDS }
    }

    fn next(&mut self) -> u32 {
        if self.next == WORDS {
            self.turn();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn turn(&mut self) {
        for index in 0..WORDS {
            let upper = self.state[index] & 0x8000_0000;
            let word = upper | (self.state[(index + 1) % WORDS] & 0x7fff_ffff);
            let twist = if word & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[index] = self.state[(index + MIDDLE) % WORDS] ^ (word >> 1) ^ twist;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_one() {
        let mut random = Mt19937::new(5489);
        assert_eq!(random.next(), 3_499_211_612);
        // The C++ standard fixes the ten thousandth number.
        let mut last = 0;
        for _ in 1..10_000 {
            last = random.next();
        }
        assert_eq!(last, 4_123_659_995);
    }

    #[test]
    fn so_many_tokens_are_green_and_always_the_same() {
        for (vocab, size) in [(1, 1), (7, 0), (500, 250), (500, 500), (500, 900)] {
            let mut green = vec![9; vocab];
            mark_green(3, size, &mut green);
            assert!(green.iter().all(|mark| *mark <= 1));
            let count: usize = green.iter().map(|mark| usize::from(*mark)).sum();
            assert_eq!(count, size.min(vocab));
            let mut again = vec![0; vocab];
            mark_green(3, size, &mut again);
            assert_eq!(green, again);
        }
    }
}
