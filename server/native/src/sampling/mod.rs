//! Picks next tokens: temperature, filters, noise, argmax and logprobs. Knows scores and per-row parameters; not text, not
//! slots. The order of things is the contract (design: correctness rule 1).

mod filters;
pub mod philox;

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

    /// Picks a row's next token. At most `max_top` top tokens are reported.
    ///
    /// # Errors
    /// Says what is wrong with the row.
    pub fn pick(&self, logits: &[f32], max_top: usize) -> Result<Picked, RowFault> {
        self.check()?;
        let highest = check_row(logits)?;
        let divisor = if self.greedy { 1.0 } else { self.temperature };
        let highest = highest / divisor;
        let mut kept: Vec<Token> = Vec::with_capacity(logits.len());
        for (id, logit) in logits.iter().enumerate() {
            let score = logit / divisor;
            if score > f32::NEG_INFINITY {
                kept.push(Token {
                    id: id as u32,
                    score,
                    weight: (score - highest).exp(),
                });
            }
        }
        if !self.greedy {
            filters::top_k(&mut kept, self.top_k as usize);
            filters::top_p(&mut kept, self.top_p);
            filters::min_p(&mut kept, self.min_p, highest);
            filters::typical(&mut kept, self.typical_p, highest);
        }
        let total: f64 = kept.iter().map(|token| f64::from(token.weight)).sum();
        let log_total = total.ln() as f32;
        let winner = self.winner(&kept, highest);
        let logprob = |token: &Token| (token.score - highest) - log_total;
        let top = top_tokens(&mut kept.clone(), self.num_top, max_top);
        let top = top.iter().map(|token| (token.id, logprob(token))).collect();
        Ok(Picked {
            token: winner.id,
            logprob: logprob(&winner),
            top,
        })
    }

    fn winner(&self, kept: &[Token], highest: f32) -> Token {
        let mut best = Token {
            id: u32::MAX,
            score: f32::NEG_INFINITY,
            weight: 0.0,
        };
        let mut best_value = f32::NEG_INFINITY;
        for token in kept
            .iter()
            .filter(|token| token.score >= highest - OUT_OF_REACH)
        {
            let value = if self.greedy {
                token.score
            } else {
                token.score + self.stream.noise(token.id)
            };
            if value > best_value || (value == best_value && token.id < best.id) {
                (best, best_value) = (*token, value);
            }
        }
        best
    }
}

/// The row's highest logit.
fn check_row(logits: &[f32]) -> Result<f32, RowFault> {
    if logits.iter().any(|logit| logit.is_nan()) {
        return Err(RowFault::Nan);
    }
    match logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) {
        f32::NEG_INFINITY => Err(RowFault::Empty),
        f32::INFINITY => Err(RowFault::Infinite),
        highest => Ok(highest),
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
