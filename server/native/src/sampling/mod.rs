//! Picks next tokens: temperature, filters, noise, argmax and logprobs. Knows scores and per-row parameters; not text, not
//! slots. The order of things is the contract (design: correctness rule 1).

mod filters;
pub mod philox;
mod scan;
pub mod watermark;

use crate::scratch::with_scratch;
pub use philox::Stream;

/// One row's parameters.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// Highest score, temperature 1, no filters, no noise.
    pub greedy: bool,
    /// Divides the scores; above 0.
    pub temperature: f32,
    /// 0: off.
    pub top_k: u32,
    /// 1: off.
    pub top_p: f32,
    /// 0: off.
    pub min_p: f32,
    /// 1: off.
    pub typical_p: f32,
    /// The noise.
    pub stream: Stream,
    /// Number of top tokens to report.
    pub num_top: usize,
}

/// A token that is still in the running.
#[derive(Clone, Copy, Debug)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Logit divided by temperature.
    pub score: f32,
    /// exp(score − the row's highest): probability up to a factor.
    pub weight: f32,
}

/// Why a row gave no token. The other rows are untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum RowFault {
    /// A logit is NaN.
    #[error("a logit is NaN")]
    Nan = 1,
    /// A logit is +inf.
    #[error("a logit is +inf")]
    Infinite = 2,
    /// Every logit is −inf.
    #[error("no token is allowed: every logit is -inf")]
    Empty = 3,
    /// A parameter is out of its range.
    #[error("a sampling parameter is out of range")]
    Parameter = 4,
}

/// What a row gave.
#[derive(Clone, Debug)]
pub struct Picked {
    /// The next token.
    pub token: u32,
    /// Its log-probability among the kept tokens, without noise.
    pub logprob: f32,
    /// Highest kept tokens and their log-probabilities, ties by id.
    pub top: Vec<(u32, f32)>,
}

/// Tokens that the noise can never lift to the top: 16.64 + 2.82 < 20.
const OUT_OF_REACH: f32 = 20.0;
/// No noise is higher.
const HIGHEST_NOISE: f32 = 16.65;

impl Choice {
    fn check(&self) -> Result<(), RowFault> {
        let positive = self.temperature > 0.0 && self.temperature.is_finite();
        let mass = |p: f32| p > 0.0 && p <= 1.0;
        let fine = self.greedy
            || (positive
                && mass(self.top_p)
                && mass(self.typical_p)
                && (0.0..=1.0).contains(&self.min_p));
        if fine {
            Ok(())
        } else {
            Err(RowFault::Parameter)
        }
    }

    /// Picks a row's next token; `logits` become scores. At most `max_top` top tokens are reported.
    ///
    /// # Errors
    /// Says what is wrong with the row.
    pub fn pick(&self, logits: &mut [f32], max_top: usize) -> Result<Picked, RowFault> {
        self.check()?;
        let divisor = if self.greedy { 1.0 } else { self.temperature };
        let highest = scan::highest(logits)? / divisor;
        with_scratch(logits.len(), |weights| {
            let total = scan::weigh(logits, weights, divisor, highest);
            if self.greedy && self.num_top == 0 {
                return Ok(first_highest(logits, highest, total));
            }
            let mut kept = tokens(logits, weights);
            if !self.greedy {
                self.filter(&mut kept, highest);
            }
            Ok(self.pick_from(&mut kept, highest, max_top))
        })
    }

    fn filter(&self, kept: &mut Vec<Token>, highest: f32) {
        filters::top_k(kept, self.top_k as usize);
        filters::top_p(kept, self.top_p);
        filters::min_p(kept, self.min_p, highest);
        filters::typical(kept, self.typical_p, highest);
    }

    fn pick_from(&self, kept: &mut Vec<Token>, highest: f32, max_top: usize) -> Picked {
        let total: f64 = kept.iter().map(|token| f64::from(token.weight)).sum();
        let log_total = total.ln() as f32;
        let winner = self.winner(kept, highest);
        let logprob = |token: &Token| (token.score - highest) - log_total;
        let top = top_tokens(kept, self.num_top, max_top);
        Picked {
            token: winner.id,
            logprob: logprob(&winner),
            top: top.iter().map(|token| (token.id, logprob(token))).collect(),
        }
    }

    fn winner(&self, kept: &[Token], highest: f32) -> Token {
        let mut best = Token {
            id: u32::MAX,
            score: f32::NEG_INFINITY,
            weight: 0.0,
        };
        let mut best_value = f32::NEG_INFINITY;
        let mut noise = self.stream.reader();
        for token in kept
            .iter()
            .filter(|token| token.score >= highest - OUT_OF_REACH)
        {
            if token.score + HIGHEST_NOISE < best_value {
                continue;
            }
            let value = if self.greedy {
                token.score
            } else {
                token.score + noise.of(token.id)
            };
            if value > best_value || (value == best_value && token.id < best.id) {
                (best, best_value) = (*token, value);
            }
        }
        best
    }
}

/// Tokens that are allowed at all.
fn tokens(scores: &[f32], weights: &[f32]) -> Vec<Token> {
    let all = scores.iter().zip(weights).enumerate();
    let allowed = all.filter(|(_, (score, _))| **score > f32::NEG_INFINITY);
    allowed
        .map(|(id, (score, weight))| Token {
            id: id as u32,
            score: *score,
            weight: *weight,
        })
        .collect()
}

/// The greedy answer when nothing else is asked.
fn first_highest(scores: &[f32], highest: f32, total: f64) -> Picked {
    let token = scores
        .iter()
        .position(|score| *score == highest)
        .unwrap_or(0) as u32;
    Picked {
        token,
        logprob: -(total.ln() as f32),
        top: Vec::new(),
    }
}

/// The `count` highest, with what ties with the last of them, at most `max`.
fn top_tokens(kept: &mut Vec<Token>, count: usize, max: usize) -> Vec<Token> {
    if count == 0 || max == 0 {
        return Vec::new();
    }
    filters::top_k(kept, count);
    kept.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
    kept.truncate(max);
    std::mem::take(kept)
}
