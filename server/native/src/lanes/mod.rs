//! Sixteen float32 numbers at a time, on whatever the processor has. Kernels are written once over `Lanes` and compiled
//! once for each instruction set; `dispatch` picks one at run time.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use half::bf16;

use crate::features::{self, Level};
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub use portable::Portable;

/// Numbers in one value of a `Lanes` type.
pub const LANES: usize = 16;

/// Sixteen float32 numbers. Every method is inlined into a function compiled for the instruction set.
///
/// # Safety
/// All methods may only run where the processor has the type's instruction set; pointers must be valid for 16 numbers.
pub trait Lanes: Copy {
    /// Rows of attention whose sums fit the registers.
    const ROWS: usize;
    /// The same number in all lanes.
    unsafe fn splat(value: f32) -> Self;
    /// Reads 16 numbers.
    unsafe fn load(from: *const f32) -> Self;
    /// Reads 16 numbers and widens them.
    unsafe fn load_bf16(from: *const bf16) -> Self;
    /// Writes 16 numbers.
    unsafe fn store(self, to: *mut f32);
    /// Writes 16 numbers rounded to the nearest, ties to even. NaN stays NaN.
    unsafe fn store_bf16(self, to: *mut bf16);
    /// self + other
    unsafe fn add(self, other: Self) -> Self;
    /// self − other
    unsafe fn sub(self, other: Self) -> Self;
    /// self · other
    unsafe fn mul(self, other: Self) -> Self;
    /// self ÷ other
    unsafe fn div(self, other: Self) -> Self;
    /// The greater of both, lane by lane; `other` where one is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// self · factor + addend
    unsafe fn fma(self, factor: Self, addend: Self) -> Self;
    /// 2 to the power of self; 0 below −126.
    unsafe fn exp2(self) -> Self;
    /// Keeps the first `count` lanes, the others become `fill`.
    unsafe fn keep_first(self, count: usize, fill: f32) -> Self;
    /// Lane i of the result is the sum of the lanes of `rows[i]`.
    unsafe fn sum_each(rows: &[Self; LANES]) -> Self;
    /// Sum of all lanes.
    unsafe fn sum(self) -> f32;
    /// Greatest of all lanes.
    unsafe fn highest(self) -> f32;
    /// self + the even numbers of 32 times `x[0]` + the odd ones times `x[1]`.
    unsafe fn dot_pairs(self, weights: *const bf16, x: *const bf16) -> Self;
    /// Asks for the cache line at an address, into the second-level cache.
    unsafe fn prefetch(address: usize);

    /// e to the power of self.
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { self.mul(Self::splat(std::f32::consts::LOG2_E)).exp2() }
    }
}

/// Coefficients of 2^r for r in [−½, ½]: a minimax polynomial, relative error below 2e-7.
pub(crate) const EXP2: [f32; 7] = [
    1.0,
    std::f32::consts::LN_2,
    0.240_226_5,
    0.055_503_58,
    0.009_618_351,
    0.001_339_55,
    0.000_154_035_3,
];

/// A computation written once for all instruction sets.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// Runs it; implementations must be `#[inline(always)]`.
    ///
    /// # Safety
    /// The processor has the instruction set of `L`.
    unsafe fn run<L: Lanes>(self) -> Self::Output;
}

/// Runs a kernel with the best instruction set allowed.
pub fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        match features::level() {
            // SAFETY: `level` says that the processor has the instruction set.
            Level::Amx | Level::Avx512Bf16 => return unsafe { avx512::run_bf16(kernel) },
            // SAFETY: as above.
            Level::Avx512 => return unsafe { avx512::run(kernel) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { avx2::run(kernel) },
            Level::Portable => {}
        }
    }
    // SAFETY: the portable lanes need nothing.
    unsafe { kernel.run::<Portable>() }
}
