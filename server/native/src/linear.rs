//! A linear layer for few rows of bfloat16 that reads its weights once.

use half::bf16;

use crate::element::Element;
use crate::tensor::Pieces;
use crate::threads;

/// Rows one call accepts.
pub const MAX_ROWS: usize = 8;
/// Output features one thread takes at a time.
const FEATURES_PER_PIECE: usize = 64;

/// A private copy of a weight.
pub struct PackedLinear {
    weight: Vec<bf16>,
    out_features: usize,
    in_features: usize,
}

impl PackedLinear {
    /// Copies `weight` [out, in].
    pub fn new(weight: &[bf16], out_features: usize, in_features: usize) -> Self {
        Self {
            weight: weight.to_vec(),
            out_features,
            in_features,
        }
    }

    /// [out, in]
    pub fn shape(&self) -> (usize, usize) {
        (self.out_features, self.in_features)
    }

    /// x [rows, in] to output [rows, out].
    pub fn forward(&self, x: &[bf16], output: Pieces<bf16>) {
        let rows = x.len() / self.in_features;
        threads::for_each(self.out_features.div_ceil(FEATURES_PER_PIECE), |piece| {
            let begin = piece * FEATURES_PER_PIECE;
            for feature in begin..(begin + FEATURES_PER_PIECE).min(self.out_features) {
                let weight = &self.weight[feature * self.in_features..][..self.in_features];
                for row in 0..rows {
                    let x = &x[row * self.in_features..][..self.in_features];
                    // SAFETY: each (row, feature) is written by one call only.
                    let out = unsafe { output.piece(row * self.out_features + feature, 1) };
                    out[0] = bf16::narrow(dot(x, weight));
                }
            }
        });
    }
}

fn dot(a: &[bf16], b: &[bf16]) -> f32 {
    let mut sums = [0.0f32; 16];
    for (a, b) in a.chunks(16).zip(b.chunks(16)) {
        sums.iter_mut()
            .zip(a.iter().zip(b))
            .for_each(|(sum, (a, b))| *sum += a.widen() * b.widen());
    }
    sums.iter().sum()
}
