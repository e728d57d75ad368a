//! Lanes as an array: no instruction set assumed.

use half::bf16;

use super::{EXP2, LANES, Lanes};
use crate::element::Element;

/// Sixteen numbers in memory; the compiler uses what vectors it may.
#[derive(Clone, Copy)]
pub struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, operation: impl Fn(f32, f32) -> f32) -> Self {
        let mut result = self.0;
        result
            .iter_mut()
            .zip(other.0)
            .for_each(|(a, b)| *a = operation(*a, b));
        Self(result)
    }
}

fn exp2(x: f32) -> f32 {
    if x < -126.0 {
        return 0.0;
    }
    let whole = x.round_ties_even();
    let rest = x - whole;
    let power = EXP2
        .iter()
        .rev()
        .fold(0.0, |sum, coefficient| sum * rest + coefficient);
    // x is at most 128 for every caller's finite result; above it the factor overflows to infinity as it should.
    power * f32::from_bits((((whole.min(128.0) as i32) + 127) as u32) << 23)
}

impl Lanes for Portable {
    const ROWS: usize = 1;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: the caller's promise.
        let stored = unsafe { from.cast::<[bf16; LANES]>().read_unaligned() };
        Self(stored.map(Element::widen))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: the caller's promise.
        unsafe {
            to.cast::<[bf16; LANES]>()
                .write_unaligned(self.0.map(Element::narrow));
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        self.zip(factor, |a, b| a * b).zip(addend, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        Self(self.0.map(exp2))
    }
    #[inline(always)]
    unsafe fn keep_first(self, count: usize, fill: f32) -> Self {
        let mut result = self.0;
        result.iter_mut().skip(count).for_each(|lane| *lane = fill);
        Self(result)
    }
    #[inline(always)]
    unsafe fn sum_each(rows: &[Self; LANES]) -> Self {
        Self(rows.map(|row| row.0.iter().sum()))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self.0.iter().sum()
    }
    #[inline(always)]
    unsafe fn highest(self) -> f32 {
        self.0
            .into_iter()
            .fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
    }
    #[inline(always)]
    unsafe fn dot_pairs(self, weights: *const bf16, x: *const bf16) -> Self {
        // SAFETY: the caller's promise.
        let (pairs, x) = unsafe {
            (
                weights.cast::<[[bf16; 2]; LANES]>().read_unaligned(),
                x.cast::<[bf16; 2]>().read_unaligned(),
            )
        };
        let mut sums = self.0;
        sums.iter_mut().zip(pairs).for_each(|(sum, pair)| {
            *sum += pair[0].widen() * x[0].widen() + pair[1].widen() * x[1].widen();
        });
        Self(sums)
    }
    #[inline(always)]
    unsafe fn prefetch(_address: usize) {}
}
