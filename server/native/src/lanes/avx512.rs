//! Lanes as one AVX-512 register, with or without bfloat16 dot products.

use core::arch::x86_64::*;

use half::bf16;

use super::{EXP2, Kernel, LANES, Lanes};

/// One 512-bit register; `DOTS` where the processor multiplies pairs of bfloat16.
#[derive(Clone, Copy)]
pub struct Avx512<const DOTS: bool>(__m512);

/// Compiles a kernel for AVX-512.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL and DQ, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
pub unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Avx512<false>>() }
}

/// Compiles a kernel for AVX-512 with bfloat16.
///
/// # Safety
/// The processor has what `run` needs and AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
pub unsafe fn run_bf16<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Avx512<true>>() }
}

impl Avx512<true> {
    /// Whole numbers of 32 bits as floats.
    ///
    /// # Safety
    /// The processor has AVX-512 F.
    #[inline(always)]
    pub unsafe fn from_counts(counts: __m512i) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { _mm512_cvtepi32_ps(counts) })
    }

    /// Writes pairs (even lane i, odd lane i) as bfloat16: 64 bytes.
    ///
    /// # Safety
    /// The processor has AVX-512 BF16 and BW; 64 bytes may be written.
    #[inline(always)]
    pub unsafe fn store_pairs(even: Self, odd: Self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let (even, odd): (__m256i, __m256i) = (
                core::mem::transmute(_mm512_cvtneps_pbh(even.0)),
                core::mem::transmute(_mm512_cvtneps_pbh(odd.0)),
            );
            let high = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(odd));
            _mm512_storeu_si512(
                to.cast(),
                _mm512_or_si512(_mm512_cvtepu16_epi32(even), high),
            );
        }
    }
}

// SAFETY of every block below: the instruction set and the pointers are the caller's promise (trait `Lanes`).
#[allow(clippy::undocumented_unsafe_blocks)]
impl<const DOTS: bool> Lanes for Avx512<DOTS> {
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        let wide = unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())) };
        Self(unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        if DOTS {
            let rounded: __m256i = unsafe { core::mem::transmute(_mm512_cvtneps_pbh(self.0)) };
            return unsafe { _mm256_storeu_si256(to.cast(), rounded) };
        }
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
            let chosen = _mm512_mask_mov_epi32(rounded, is_nan, quiet);
            _mm256_storeu_si256(
                to.cast(),
                _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(chosen)),
            );
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(unsafe { _mm512_div_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
    }
    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        unsafe {
            let x = _mm512_max_ps(self.0, _mm512_set1_ps(-150.0));
            let whole =
                _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
            let rest = _mm512_sub_ps(x, whole);
            let mut power = _mm512_set1_ps(EXP2[6]);
            for coefficient in EXP2[..6].iter().rev() {
                power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(*coefficient));
            }
            let keep = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(self.0, _mm512_set1_ps(-126.0));
            Self(_mm512_maskz_scalef_ps(keep, power, whole))
        }
    }
    #[inline(always)]
    unsafe fn keep_first(self, count: usize, fill: f32) -> Self {
        let mask = ((1u32 << count.min(LANES)) - 1) as u16;
        Self(unsafe { _mm512_mask_mov_ps(_mm512_set1_ps(fill), mask, self.0) })
    }
    #[inline(always)]
    unsafe fn sum_each(rows: &[Self; LANES]) -> Self {
        unsafe {
            // Each level halves the number of registers and the number of partial sums of a row.
            let pair = |a: __m512, b: __m512| {
                _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b))
            };
            let quad = |a: __m512, b: __m512| {
                let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
                let (low, high) = (_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
                _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high))
            };
            let four = |i: usize| {
                quad(
                    pair(rows[i].0, rows[i + 1].0),
                    pair(rows[i + 2].0, rows[i + 3].0),
                )
            };
            let halves = |a: __m512, b: __m512| {
                _mm512_add_ps(
                    _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b),
                    _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b),
                )
            };
            Self(halves(halves(four(0), four(4)), halves(four(8), four(12))))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    unsafe fn highest(self) -> f32 {
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
    #[inline(always)]
    unsafe fn dot_pairs(self, weights: *const bf16, x: *const bf16) -> Self {
        unsafe {
            let pairs = _mm512_loadu_si512(weights.cast());
            let x = _mm512_set1_epi32(x.cast::<i32>().read_unaligned());
            if DOTS {
                return Self(_mm512_dpbf16_ps(
                    self.0,
                    core::mem::transmute(pairs),
                    core::mem::transmute(x),
                ));
            }
            let high = |pair: __m512i| {
                _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32(-65536)))
            };
            let low = |pair: __m512i| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pair));
            Self(_mm512_fmadd_ps(
                high(pairs),
                high(x),
                _mm512_fmadd_ps(low(pairs), low(x), self.0),
            ))
        }
    }
    #[inline(always)]
    unsafe fn prefetch(address: usize) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address as *const i8) }
    }
}
