//! RMS norm and the gated activation: row by row, sums in float32.

use crate::element::Element;
use crate::lanes::{Kernel, LANES, Lanes, dispatch};
use crate::tensor::Pieces;
use crate::threads;

/// Elements below which a second thread costs more than it brings.
const ELEMENTS_PER_PIECE: usize = 16 * 1024;

fn for_row_blocks(rows: usize, dim: usize, work: impl Fn(usize) + Send + Sync) {
    let block = (ELEMENTS_PER_PIECE / dim.max(1)).max(1);
    threads::for_each(rows.div_ceil(block), |piece| {
        (piece * block..((piece + 1) * block).min(rows)).for_each(&work);
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
            // SAFETY: each row is written by one call only.
            let piece = |rows: &Pieces<T>| unsafe { rows.piece(row * dim, dim) };
            let (x, output) = (&self.x[row * dim..][..dim], piece(&self.output));
            let (weight, eps) = (self.weight, self.eps);
            let x = match &self.residual {
                None => x,
                Some(residual) => {
                    let sum = piece(residual);
                    dispatch(AddTo { sum, x });
                    sum
                }
            };
            dispatch(Normalize {
                x,
                weight,
                output,
                eps,
            });
        });
    }
}

/// sum += x
struct AddTo<'a, T> {
    sum: &'a mut [T],
    x: &'a [T],
}

impl<T: Element> Kernel for AddTo<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let whole = self.x.len() / LANES * LANES;
        for at in (0..whole).step_by(LANES) {
            // SAFETY: `whole` numbers are read and written; the rest is the caller's promise.
            unsafe {
                let sum = self.sum.as_mut_ptr().add(at);
                let x: L = T::load(self.x.as_ptr().add(at));
                T::store(x.add(T::load(sum)), sum);
            }
        }
        for (sum, x) in self.sum[whole..].iter_mut().zip(&self.x[whole..]) {
            *sum = T::narrow(sum.widen() + x.widen());
        }
    }
}

struct Normalize<'a, T> {
    x: &'a [T],
    weight: &'a [T],
    output: &'a mut [T],
    eps: f32,
}

impl<T: Element> Kernel for Normalize<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let whole = self.x.len() / LANES * LANES;
        let rest = &self.x[whole..];
        // SAFETY: `whole` numbers are read and written; the rest is the caller's promise.
        unsafe {
            let mut squares = L::splat(0.0);
            for at in (0..whole).step_by(LANES) {
                let x: L = T::load(self.x.as_ptr().add(at));
                squares = x.fma(x, squares);
            }
            let total = squares.sum() + rest.iter().map(|x| x.widen() * x.widen()).sum::<f32>();
            let scale = 1.0 / (total / self.x.len() as f32 + self.eps).sqrt();
            for at in (0..whole).step_by(LANES) {
                let x: L = T::load(self.x.as_ptr().add(at));
                let weight: L = T::load(self.weight.as_ptr().add(at));
                T::store(
                    x.mul(L::splat(scale)).mul(weight),
                    self.output.as_mut_ptr().add(at),
                );
            }
            for at in whole..self.x.len() {
                self.output[at] = T::narrow(self.x[at].widen() * scale * self.weight[at].widen());
            }
        }
    }
}

/// gate_up [rows, 2 * dim] to output [rows, dim] = silu(gate) * up.
pub fn silu_mul<T: Element>(gate_up: &[T], output: Pieces<T>, rows: usize, dim: usize) {
    for_row_blocks(rows, dim, |row| {
        let (gate, up) = gate_up[row * 2 * dim..][..2 * dim].split_at(dim);
        // SAFETY: each row is written by one call only.
        let output = unsafe { output.piece(row * dim, dim) };
        dispatch(SiluMul { gate, up, output });
    });
}

struct SiluMul<'a, T> {
    gate: &'a [T],
    up: &'a [T],
    output: &'a mut [T],
}

impl<T: Element> Kernel for SiluMul<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let whole = self.gate.len() / LANES * LANES;
        for at in (0..whole).step_by(LANES) {
            // SAFETY: `whole` numbers are read and written; the rest is the caller's promise.
            unsafe {
                let gate: L = T::load(self.gate.as_ptr().add(at));
                let up: L = T::load(self.up.as_ptr().add(at));
                let one = L::splat(1.0);
                // Where exp overflows to infinity the quotient is 0, as it should.
                let shrink = one.add(L::splat(0.0).sub(gate).exp());
                T::store(gate.div(shrink).mul(up), self.output.as_mut_ptr().add(at));
            }
        }
        for at in whole..self.gate.len() {
            let gate = self.gate[at].widen();
            self.output[at] = T::narrow(gate / (1.0 + (-gate).exp()) * self.up[at].widen());
        }
    }
}
