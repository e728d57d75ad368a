//! What some layers do to attention scores besides scaling them. Scores are in units of log2, as in `rows` and `tiles`.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use crate::lanes::{LANES, Lanes};

/// Columns with a number a head, or a number a row once they are `of` some rows.
#[derive(Clone, Copy, Default)]
pub struct ScoreRule<'a> {
    /// Scores become softcap · tanh(score ÷ softcap). <https://arxiv.org/abs/2408.00118>
    pub softcap: Option<f32>,
    /// Times the key's distance from the query, 0 for its own. <https://arxiv.org/abs/2108.12409>
    pub slopes: Option<&'a [f32]>,
    /// One more score in the softmax, without a value. <https://arxiv.org/abs/2508.10925>
    pub sinks: Option<&'a [f32]>,
}

/// A rule whose columns were gathered.
pub struct Gathered {
    softcap: Option<f32>,
    slopes: Option<Vec<f32>>,
    sinks: Option<Vec<f32>>,
}

impl Gathered {
    /// The rule, by row.
    pub fn rule(&self) -> ScoreRule<'_> {
        ScoreRule {
            softcap: self.softcap,
            slopes: self.slopes.as_deref(),
            sinks: self.sinks.as_deref(),
        }
    }
}

/// Numbers of the lanes.
const LANE: [f32; LANES] = [
    0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.,
];
/// Beyond it tanh is 1 in float32.
const TANH_END: f32 = 10.0;

impl<'a> ScoreRule<'a> {
    /// The columns of consecutive heads.
    pub fn heads(self, range: Range<usize>) -> Self {
        let part = |column: &'a [f32]| &column[range.clone()];
        Self {
            softcap: self.softcap,
            slopes: self.slopes.map(part),
            sinks: self.sinks.map(part),
        }
    }

    /// The columns of `heads`, one after another.
    pub fn gathered(&self, heads: impl Iterator<Item = usize> + Clone) -> Gathered {
        let part = |column: &[f32]| heads.clone().map(|head| column[head]).collect();
        Gathered {
            softcap: self.softcap,
            slopes: self.slopes.map(part),
            sinks: self.sinks.map(part),
        }
    }

    /// Whether scores change before they are weighed.
    pub fn bends(&self) -> bool {
        self.softcap.is_some() || self.slopes.is_some()
    }

    /// Highest score and sum of weights of a row that has seen no key yet.
    pub fn start(&self, row: usize) -> (f32, f32) {
        match self.sinks {
            Some(sinks) => (sinks[row] * LOG2_E, 1.0),
            None => (f32::NEG_INFINITY, 0.0),
        }
    }

    /// A row's slope, for scores in units of log2.
    pub fn slope(&self, row: usize) -> f32 {
        self.slopes.map_or(0.0, |slopes| slopes[row] * LOG2_E)
    }

    /// Scores of one row with sixteen keys, the first of which lies `distance` from its own (below it, so negative).
    #[inline(always)]
    pub unsafe fn bend_keys<L: Lanes>(&self, scores: L, row: usize, distance: f32) -> L {
        // SAFETY: sixteen numbers are read; the rest is the caller's promise.
        unsafe {
            let slope = L::splat(self.slope(row));
            let distances = L::load(LANE.as_ptr()).add(L::splat(distance));
            distances.fma(slope, self.cap(scores))
        }
    }

    /// Scores of sixteen rows, whose `slope`s are given, with one key at these distances.
    #[inline(always)]
    pub unsafe fn bend_rows<L: Lanes>(&self, scores: L, slopes: L, distances: L) -> L {
        // SAFETY: the caller's promise.
        unsafe { distances.fma(slopes, self.cap(scores)) }
    }

    #[inline(always)]
    unsafe fn cap<L: Lanes>(&self, scores: L) -> L {
        // SAFETY: the caller's promise.
        unsafe {
            match self.softcap.map(|softcap| softcap * LOG2_E) {
                Some(cap) => tanh(scores.mul(L::splat(1.0 / cap))).mul(L::splat(cap)),
                None => scores,
            }
        }
    }
}

/// 1 − 2 ÷ (e^2x + 1); off by at most 2e-7.
#[inline(always)]
unsafe fn tanh<L: Lanes>(x: L) -> L {
    // SAFETY: the caller's promise.
    unsafe {
        let end = L::splat(-TANH_END);
        let negative = L::splat(0.0).sub(x).max(end);
        let clamped = L::splat(0.0).sub(negative).max(end);
        let power = clamped.add(clamped).exp();
        L::splat(1.0).sub(L::splat(2.0).div(power.add(L::splat(1.0))))
    }
}
