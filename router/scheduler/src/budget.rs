//! How many prompt tokens a step may carry so that running streams hardly notice. Knows step times; not sequences.
//!
//! Model: a step takes d + m·c, d the time of a decode-only step of that many rows, m the marginal time of a prompt token, c
//! the prompt tokens. Both are medians of recent steps, so c = (4 − 1)·d ÷ m keeps the step at four times d. Why and what
//! else was considered: docs/decisions/0001-chunk-bound.md.

use std::{collections::VecDeque, time::Duration};

/// A step with a chunk aims at so many times a decode-only step.
const TARGET_RATIO: f64 = 4.0;
/// Least prompt tokens of a step that carries a chunk: long prompts always get on.
pub const MIN_CHUNK_TOKENS: u32 = 16;
/// Decode-only steps remembered.
const DECODE_SAMPLES: usize = 31;
/// Steps with a chunk and decodes remembered: few, so that a longer context shows soon.
const CHUNK_SAMPLES: usize = 5;
/// After so many steps with a chunk, one goes without, to see what a decode-only step takes now.
const PROBE_EVERY: u32 = 16;

/// Running estimates and the bound that follows.
#[derive(Debug)]
pub struct ChunkBound {
    /// Rows and seconds.
    decode_only: VecDeque<(u32, f64)>,
    /// Seconds for a prompt token.
    marginal: VecDeque<f64>,
    prior_marginal: f64,
    chunks_since_decode_only: u32,
    probing: bool,
}

impl ChunkBound {
    /// `prompt_token` is what each token of a large step took while warming up.
    pub fn new(prompt_token: Duration) -> Self {
        Self {
            decode_only: VecDeque::new(),
            marginal: VecDeque::new(),
            prior_marginal: prompt_token.as_secs_f64().max(1e-9),
            chunks_since_decode_only: 0,
            probing: false,
        }
    }

    /// Most prompt tokens for the next step, which carries `decode_rows` decodes and has prompts waiting. 0 is a probe: it
    /// comes when nothing is known, and at most once in 16 steps.
    pub fn allow(&mut self, decode_rows: u32) -> u32 {
        if decode_rows == 0 {
            return u32::MAX;
        }
        let decode_only = self.decode_only_seconds(decode_rows);
        let outdated = decode_only.is_none() || self.chunks_since_decode_only >= PROBE_EVERY;
        if outdated && !self.probing {
            self.probing = true;
            return 0;
        }
        self.chunks_since_decode_only += 1;
        let Some(decode_only) = decode_only else {
            return MIN_CHUNK_TOKENS;
        };
        let tokens = (TARGET_RATIO - 1.0) * decode_only / self.marginal_seconds();
        (tokens.min(f64::from(u32::MAX)) as u32).max(MIN_CHUNK_TOKENS)
    }

    /// How long a step of so many decodes and prompt tokens takes, as far as is known; zero where nothing is.
    pub fn expected(&self, decode_rows: u32, prefill_tokens: u32) -> Duration {
        let decode_only = self.decode_only_seconds(decode_rows).unwrap_or_default();
        let chunk = self.marginal_seconds() * f64::from(prefill_tokens);
        Duration::try_from_secs_f64(decode_only + chunk).unwrap_or_default()
    }

    fn marginal_seconds(&self) -> f64 {
        median(self.marginal.iter().copied()).unwrap_or(self.prior_marginal)
    }

    /// A step's outcome is in.
    pub fn observe(&mut self, decode_rows: u32, prefill_tokens: u32, took: Duration) {
        let took = took.as_secs_f64();
        match (decode_rows, prefill_tokens) {
            (0, _) => {}
            (_, 0) => {
                remember(&mut self.decode_only, DECODE_SAMPLES, (decode_rows, took));
                self.chunks_since_decode_only = 0;
                self.probing = false;
            }
            _ => {
                if let Some(decode_only) = self.decode_only_seconds(decode_rows) {
                    let marginal =
                        (took - decode_only).max(took * 0.01) / f64::from(prefill_tokens);
                    remember(&mut self.marginal, CHUNK_SAMPLES, marginal.max(1e-9));
                }
            }
        }
    }

    /// A step never came back: what was waited for will not come.
    pub fn forget_probe(&mut self) {
        self.probing = false;
    }

    /// Median time of recent decode-only steps of about as many rows, else of all recent ones.
    fn decode_only_seconds(&self, rows: u32) -> Option<f64> {
        let similar = |measured: u32| measured <= rows * 2 && rows <= measured * 2;
        let close = self
            .decode_only
            .iter()
            .filter(|(measured, _)| similar(*measured));
        median(close.map(|(_, took)| *took))
            .or_else(|| median(self.decode_only.iter().map(|(_, took)| *took)))
    }
}

fn remember<T>(samples: &mut VecDeque<T>, most: usize, sample: T) {
    if samples.len() == most {
        samples.pop_front();
    }
    samples.push_back(sample);
}

fn median(samples: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = samples.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shard whose steps take `base` + `row` per decode + `token` per prompt token, in microseconds.
    struct Cost {
        base: f64,
        row: f64,
        token: f64,
    }

    impl Cost {
        fn of(&self, rows: u32, tokens: u32) -> Duration {
            let micros = self.base + self.row * f64::from(rows) + self.token * f64::from(tokens);
            Duration::from_nanos((micros * 1e3) as u64)
        }
    }

    /// Runs `steps` steps with a prompt always waiting; the times of the steps with a chunk, and of those without.
    fn run(bound: &mut ChunkBound, cost: &Cost, rows: u32, steps: u32) -> (Vec<f64>, Vec<f64>) {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..steps {
            let tokens = bound.allow(rows).min(4096);
            let took = cost.of(rows, tokens);
            bound.observe(rows, tokens, took);
            if tokens == 0 { &mut without } else { &mut with }.push(took.as_secs_f64());
        }
        (with, without)
    }

    fn middle(values: &[f64]) -> f64 {
        median(values.iter().copied()).unwrap()
    }

    fn largest(values: &[f64]) -> f64 {
        values.iter().copied().fold(0.0, f64::max)
    }

    #[test]
    fn a_chunk_step_takes_about_four_decode_steps_whatever_the_prior_says() {
        let cost = Cost {
            base: 15_000.0,
            row: 500.0,
            token: 900.0,
        };
        for prior_ms in [1, 1000, 100_000] {
            let mut bound = ChunkBound::new(Duration::from_millis(prior_ms) / 4096);
            run(&mut bound, &cost, 16, 16);
            let (with, without) = run(&mut bound, &cost, 16, 64);
            let ratio = middle(&with) / middle(&without);
            assert!((3.5..=4.1).contains(&ratio), "prior {prior_ms} ms: {ratio}");
            assert!(largest(&with) <= 2.0 * middle(&with));
            assert!(largest(&with) <= 5.0 * middle(&without));
        }
    }

    #[test]
    fn with_a_fair_prior_even_the_first_chunk_keeps_the_bound() {
        let cost = Cost {
            base: 15_000.0,
            row: 500.0,
            token: 900.0,
        };
        let mut bound = ChunkBound::new(cost.of(0, 256) / 256);
        let (with, without) = run(&mut bound, &cost, 16, 64);
        assert!(largest(&with) <= 2.0 * middle(&with));
        assert!(largest(&with) <= 5.0 * middle(&without));
    }

    #[test]
    fn a_longer_context_shrinks_the_chunk() {
        let mut bound = ChunkBound::new(Duration::from_millis(200) / 256);
        run(
            &mut bound,
            &Cost {
                base: 20_000.0,
                row: 0.0,
                token: 500.0,
            },
            4,
            40,
        );
        let before = bound.allow(4);
        run(
            &mut bound,
            &Cost {
                base: 20_000.0,
                row: 0.0,
                token: 1_000.0,
            },
            4,
            40,
        );
        let after = bound.allow(4).max(bound.allow(4));
        assert!(
            (55..=65).contains(&after) && (115..=125).contains(&before),
            "{before} {after}"
        );
    }

    #[test]
    fn an_expensive_model_still_gets_sixteen_tokens_a_step() {
        let mut bound = ChunkBound::new(Duration::from_secs(10) / 64);
        let cost = Cost {
            base: 1_000.0,
            row: 0.0,
            token: 50_000.0,
        };
        run(&mut bound, &cost, 1, 10);
        assert_eq!(bound.allow(1), MIN_CHUNK_TOKENS);
    }

    #[test]
    fn nothing_bounds_a_step_without_decodes() {
        let mut bound = ChunkBound::new(Duration::from_secs(1) / 64);
        assert_eq!(bound.allow(0), u32::MAX);
    }

    #[test]
    fn a_probe_is_made_when_nothing_is_known_and_then_rarely() {
        let mut bound = ChunkBound::new(Duration::from_millis(100) / 64);
        assert_eq!(bound.allow(8), 0);
        assert_eq!(bound.allow(8), MIN_CHUNK_TOKENS, "only one at a time");
        bound.observe(8, 0, Duration::from_millis(10));
        let probes = (0..170).filter(|_| {
            let tokens = bound.allow(8);
            bound.observe(8, tokens, Duration::from_millis(10 + u64::from(tokens)));
            tokens == 0
        });
        assert_eq!(probes.count(), 10);
    }

    #[test]
    fn one_slow_step_does_not_move_the_bound() {
        let mut bound = ChunkBound::new(Duration::from_millis(100) / 256);
        let cost = Cost {
            base: 10_000.0,
            row: 0.0,
            token: 500.0,
        };
        run(&mut bound, &cost, 4, 60);
        bound.observe(4, 0, Duration::from_secs(3));
        bound.observe(4, 60, Duration::from_secs(3));
        assert!((55..=65).contains(&bound.allow(4)));
    }
}
