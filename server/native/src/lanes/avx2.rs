//! Lanes as two AVX2 registers.

use core::arch::x86_64::*;

use half::bf16;

use crate::element::Element;

use super::{EXP2, Kernel, LANES, Lanes};

/// Two 256-bit registers: lanes 0–7 and 8–15.
#[derive(Clone, Copy)]
pub struct Avx2(__m256, __m256);

/// Compiles a kernel for AVX2.
///
/// # Safety
/// The processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Avx2>() }
}

#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)]
unsafe fn exp2(x: __m256) -> __m256 {
    unsafe {
        let bounded = _mm256_min_ps(
            _mm256_max_ps(x, _mm256_set1_ps(-126.0)),
            _mm256_set1_ps(128.0),
        );
        let whole = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(bounded);
        let rest = _mm256_sub_ps(bounded, whole);
        let mut power = _mm256_set1_ps(EXP2[6]);
        for coefficient in EXP2[..6].iter().rev() {
            power = _mm256_fmadd_ps(power, rest, _mm256_set1_ps(*coefficient));
        }
        let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
        let scaled = _mm256_mul_ps(
            power,
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)),
        );
        let keep = _mm256_cmp_ps::<_CMP_NLT_UQ>(x, _mm256_set1_ps(-126.0));
        let kept = _mm256_and_ps(scaled, keep);
        let is_nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x);
        _mm256_blendv_ps(kept, x, is_nan)
    }
}

#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)]
unsafe fn round_bf16(value: __m256) -> __m256i {
    unsafe {
        let bits = _mm256_castps_si256(value);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(value, value));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
        _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, is_nan))
    }
}

/// Lane i of the result is the sum of the lanes of `rows[i]`.
#[inline(always)]
#[allow(clippy::undocumented_unsafe_blocks)]
unsafe fn sum_eight(rows: [__m256; 8]) -> __m256 {
    unsafe {
        let four = |a, b, c, d| _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
        let low = four(rows[0], rows[1], rows[2], rows[3]);
        let high = four(rows[4], rows[5], rows[6], rows[7]);
        _mm256_add_ps(
            _mm256_permute2f128_ps::<0x20>(low, high),
            _mm256_permute2f128_ps::<0x31>(low, high),
        )
    }
}

// SAFETY of every block below: the instruction set and the pointers are the caller's promise (trait `Lanes`).
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Avx2 {
    const ROWS: usize = 1;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        let value = unsafe { _mm256_set1_ps(value) };
        Self(value, value)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        unsafe {
            let widen = |half: __m128i| {
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)))
            };
            Self(
                widen(_mm_loadu_si128(from.cast())),
                widen(_mm_loadu_si128(from.add(8).cast())),
            )
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        unsafe {
            let packed = _mm256_packus_epi32(round_bf16(self.0), round_bf16(self.1));
            _mm256_storeu_si256(to.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe {
            Self(
                _mm256_add_ps(self.0, other.0),
                _mm256_add_ps(self.1, other.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe {
            Self(
                _mm256_sub_ps(self.0, other.0),
                _mm256_sub_ps(self.1, other.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe {
            Self(
                _mm256_mul_ps(self.0, other.0),
                _mm256_mul_ps(self.1, other.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        unsafe {
            Self(
                _mm256_div_ps(self.0, other.0),
                _mm256_div_ps(self.1, other.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe {
            Self(
                _mm256_max_ps(self.0, other.0),
                _mm256_max_ps(self.1, other.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        unsafe {
            Self(
                _mm256_fmadd_ps(self.0, factor.0, addend.0),
                _mm256_fmadd_ps(self.1, factor.1, addend.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        unsafe { Self(exp2(self.0), exp2(self.1)) }
    }
    #[inline(always)]
    unsafe fn keep_first(self, count: usize, fill: f32) -> Self {
        unsafe {
            let below = |first: i32| {
                let index = _mm256_add_epi32(
                    _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                    _mm256_set1_epi32(first),
                );
                _mm256_castsi256_ps(_mm256_cmpgt_epi32(
                    _mm256_set1_epi32(count.min(LANES) as i32),
                    index,
                ))
            };
            let fill = _mm256_set1_ps(fill);
            Self(
                _mm256_blendv_ps(fill, self.0, below(0)),
                _mm256_blendv_ps(fill, self.1, below(8)),
            )
        }
    }
    #[inline(always)]
    unsafe fn sum_each(rows: &[Self; LANES]) -> Self {
        unsafe {
            let folded = |first: usize| {
                let fold = |i: usize| _mm256_add_ps(rows[first + i].0, rows[first + i].1);
                sum_eight([
                    fold(0),
                    fold(1),
                    fold(2),
                    fold(3),
                    fold(4),
                    fold(5),
                    fold(6),
                    fold(7),
                ])
            };
            Self(folded(0), folded(8))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let mut lanes = [0.0; LANES];
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes.iter().sum()
    }
    #[inline(always)]
    unsafe fn highest(self) -> f32 {
        let mut lanes = [0.0; LANES];
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes
            .into_iter()
            .fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
    }
    #[inline(always)]
    unsafe fn dot_pairs(self, weights: *const bf16, x: *const bf16) -> Self {
        unsafe {
            let (even, odd) = (
                _mm256_set1_ps((*x).widen()),
                _mm256_set1_ps((*x.add(1)).widen()),
            );
            let dot = |sum: __m256, pairs: __m256i| {
                let high = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-65536)));
                let low = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs));
                _mm256_fmadd_ps(high, odd, _mm256_fmadd_ps(low, even, sum))
            };
            let second = weights.add(16).cast();
            Self(
                dot(self.0, _mm256_loadu_si256(weights.cast())),
                dot(self.1, _mm256_loadu_si256(second)),
            )
        }
    }
    #[inline(always)]
    unsafe fn prefetch(address: usize) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address as *const i8) }
    }
}
