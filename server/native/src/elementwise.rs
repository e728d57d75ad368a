//! RMS norm and the gated activation: row by row, sums in float32.

use crate::element::Element;
use crate::tensor::Pieces;
use crate::threads;

/// Elements below which a second thread costs more than it brings.
const ELEMENTS_PER_PIECE: usize = 16 * 1024;

fn for_row_blocks(rows: usize, dim: usize, work: impl Fn(usize) + Send + Sync) {
    let block = (ELEMENTS_PER_PIECE / dim.max(1)).max(1);
    threads::for_each(rows.div_ceil(block), |piece| {
        (piece * block..((piece + 1) * block).min(rows)).for_each(&work)
    });
}

/// A norm over rows.
pub struct RmsNorm<'a, T> {
    /// [rows, dim]
    pub x: &'a [T],
    /// [rows, dim]; `x` is added to it first, in place, and the norm is of the sum
    pub residual: Option<Pieces<T>>,
    /// [dim]
    pub weight: &'a [T],
    /// [rows, dim]
    pub output: Pieces<T>,
    /// Added to the mean square.
    pub eps: f32,
}

impl<T: Element> RmsNorm<'_, T> {
    /// Computes all rows.
    pub fn run(&self) {
        let dim = self.weight.len();
        for_row_blocks(self.x.len() / dim, dim, |row| {
            let x = &self.x[row * dim..][..dim];
            // SAFETY: each row is written by one call only.
            let output = unsafe { self.output.piece(row * dim, dim) };
            match &self.residual {
                None => normalize(x, self.weight, output, self.eps),
                Some(residual) => {
                    // SAFETY: as for the output.
                    let sum = unsafe { residual.piece(row * dim, dim) };
                    sum.iter_mut()
                        .zip(x)
                        .for_each(|(sum, x)| *sum = T::narrow(sum.widen() + x.widen()));
                    normalize(sum, self.weight, output, self.eps);
                }
            }
        });
    }
}

fn normalize<T: Element>(x: &[T], weight: &[T], output: &mut [T], eps: f32) {
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
    for ((out, x), w) in output.iter_mut().zip(x).zip(weight) {
        *out = T::narrow(x.widen() * scale * w.widen());
    }
}

/// Sixteen partial sums, so that the loop vectorizes.
fn sum_of_squares<T: Element>(x: &[T]) -> f32 {
    let mut sums = [0.0f32; 16];
    let chunks = x.chunks_exact(16);
    let rest: f32 = chunks
        .remainder()
        .iter()
        .map(|v| v.widen() * v.widen())
        .sum();
    for chunk in chunks {
        sums.iter_mut()
            .zip(chunk)
            .for_each(|(sum, v)| *sum += v.widen() * v.widen());
    }
    sums.iter().sum::<f32>() + rest
}

/// gate_up [rows, 2 * dim] to output [rows, dim] = silu(gate) * up.
pub fn silu_mul<T: Element>(gate_up: &[T], output: Pieces<T>, rows: usize, dim: usize) {
    for_row_blocks(rows, dim, |row| {
        let (gate, up) = gate_up[row * 2 * dim..][..2 * dim].split_at(dim);
        // SAFETY: each row is written by one call only.
        let output = unsafe { output.piece(row * dim, dim) };
        for ((out, gate), up) in output.iter_mut().zip(gate).zip(up) {
            let gate = gate.widen();
            *out = T::narrow(gate / (1.0 + (-gate).exp()) * up.widen());
        }
    });
}
