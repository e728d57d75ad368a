//! Passes over a whole row of scores, in vector lanes.

use crate::lanes::{Kernel, LANES, Lanes, dispatch};

use super::RowFault;

/// The row's highest logit.
///
/// # Errors
/// Says what is wrong with the row.
pub fn highest(logits: &[f32]) -> Result<f32, RowFault> {
    // A NaN survives a sum of differences that are all 0 or infinite, so one pass finds it.
    let (highest, poison) = dispatch(Highest(logits));
    if poison.is_nan() && logits.iter().any(|logit| logit.is_nan()) {
        return Err(RowFault::Nan);
    }
    match highest {
        f32::NEG_INFINITY => Err(RowFault::Empty),
        f32::INFINITY => Err(RowFault::Infinite),
        highest => Ok(highest),
    }
}

struct Highest<'a>(&'a [f32]);

impl Kernel for Highest<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> (f32, f32) {
        let chunks = self.0.chunks_exact(LANES);
        let mut rest = (f32::NEG_INFINITY, 0.0);
        for value in chunks.remainder() {
            rest = (rest.0.max(*value), rest.1 + value * 0.0);
        }
        // SAFETY: each chunk holds sixteen numbers; the rest is the caller's promise.
        unsafe {
            let mut top = L::splat(f32::NEG_INFINITY);
            let mut poison = L::splat(0.0);
            for chunk in chunks {
                let values = L::load(chunk.as_ptr());
                poison = values.fma(L::splat(0.0), poison);
                top = values.max(top);
            }
            (top.highest().max(rest.0), poison.sum() + rest.1)
        }
    }
}

/// Divides scores by the temperature in place and writes exp(score − highest); returns the sum of these weights.
pub fn weigh(scores: &mut [f32], weights: &mut [f32], divisor: f32, highest: f32) -> f64 {
    dispatch(Weigh {
        scores,
        weights,
        divisor,
        highest,
    })
}

struct Weigh<'a> {
    scores: &'a mut [f32],
    weights: &'a mut [f32],
    divisor: f32,
    highest: f32,
}

impl Kernel for Weigh<'_> {
    type Output = f64;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> f64 {
        let mut total = 0.0;
        for (scores, weights) in self
            .scores
            .chunks_mut(LANES)
            .zip(self.weights.chunks_mut(LANES))
        {
            // The last few are done in a full chunk of their own, so that every token is computed alike.
            let mut padded = [f32::NEG_INFINITY; LANES];
            padded[..scores.len()].copy_from_slice(scores);
            let mut weighed = [0.0; LANES];
            // SAFETY: the arrays hold sixteen numbers; the rest is the caller's promise.
            let sum = unsafe {
                let score = L::load(padded.as_ptr()).div(L::splat(self.divisor));
                let weight = score.sub(L::splat(self.highest)).exp();
                score.store(padded.as_mut_ptr());
                weight.store(weighed.as_mut_ptr());
                weight.sum()
            };
            scores.copy_from_slice(&padded[..scores.len()]);
            weights.copy_from_slice(&weighed[..weights.len()]);
            total += f64::from(sum);
        }
        total
    }
}
