//! A block of keys and values as the tiles take them, and its memory. Knows numbers and addresses; no scores, no query.

use core::arch::x86_64::*;

use half::bf16;

use super::{KEYS, STEP};
use crate::amx::TILE;
use crate::attention::HeadView;

/// A block of keys and values, packed for the tiles, and the working memory of one group.
pub(super) struct Block<'a> {
    /// [64 keys][dim] bfloat16
    pub(super) keys: &'a mut [f32],
    /// [2][dim][32 keys] bfloat16
    pub(super) values: &'a mut [f32],
    /// [64 keys][16 rows]
    pub(super) scores: &'a mut [f32],
    /// [2][16 pairs][16 rows][2] bfloat16
    pub(super) weights: &'a mut [f32],
}

/// Cuts `len` floats off.
pub(super) fn take<'a>(memory: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (taken, rest) = std::mem::take(memory).split_at_mut(len);
    *memory = rest;
    taken
}

impl<'a> Block<'a> {
    /// Divides what the groups left of the memory.
    pub(super) fn of(mut memory: &'a mut [f32], dim: usize) -> Self {
        let mut part = |len| take(&mut memory, len);
        Self {
            keys: part(KEYS * dim / 2),
            values: part(KEYS * dim / 2),
            scores: part(KEYS * TILE),
            weights: part(KEYS * TILE / 2),
        }
    }

    /// Copies keys as they are and values transposed; what is missing to 64 is zero.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
    #[inline]
    pub(super) unsafe fn pack(&mut self, view: HeadView, first: usize, count: usize, dim: usize) {
        let keys: *mut bf16 = self.keys.as_mut_ptr().cast();
        for key in 0..KEYS {
            // SAFETY: keys below `count` are mapped (the caller's promise); `keys` holds 64 times `dim` numbers.
            unsafe {
                let to = keys.add(key * dim);
                match key < count {
                    true => core::ptr::copy_nonoverlapping(
                        (view.key + (first + key) * view.stride) as *const bf16,
                        to,
                        dim,
                    ),
                    false => core::ptr::write_bytes(to, 0, dim),
                }
            }
        }
        for half in 0..2 {
            for unit in (0..dim).step_by(TILE) {
                let mut pairs = [_mm512_setzero_si512(); TILE];
                for (pair, row) in pairs.iter_mut().enumerate() {
                    let key = half * STEP + pair * 2;
                    let value = |key: usize| {
                        let at = view.key
                            + (first + key) * view.stride
                            + view.value_offset
                            + unit * size_of::<bf16>();
                        if key >= count {
                            return _mm256_setzero_si256();
                        }
                        // SAFETY: the key is below `count`, so mapped.
                        unsafe { _mm256_loadu_si256(at as *const __m256i) }
                    };
                    let (even, odd) = (
                        _mm512_cvtepu16_epi32(value(key)),
                        _mm512_cvtepu16_epi32(value(key + 1)),
                    );
                    *row = _mm512_or_si512(even, _mm512_slli_epi32::<16>(odd));
                }
                for (index, row) in transpose(pairs).into_iter().enumerate() {
                    let to = &mut self.values[(half * dim + unit + index) * TILE..][..TILE];
                    // SAFETY: sixteen floats.
                    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), row) };
                }
            }
        }
    }
}

/// Rows become columns: dword j of row i goes to dword i of row j.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn transpose(rows: [__m512i; TILE]) -> [__m512i; TILE] {
    let mut pairs = rows;
    for i in (0..TILE).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    let mut quads = pairs;
    for i in (0..TILE).step_by(4) {
        for j in 0..2 {
            quads[i + 2 * j] = _mm512_unpacklo_epi64(pairs[i + j], pairs[i + j + 2]);
            quads[i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[i + j], pairs[i + j + 2]);
        }
    }
    // quads[4a + c] now holds, in 128-bit lane l, column 4l + c of rows 4a to 4a + 3.
    let mut columns = quads;
    for c in 0..4 {
        let low = _mm512_shuffle_i32x4::<0b01_00_01_00>(quads[c], quads[4 + c]);
        let high = _mm512_shuffle_i32x4::<0b11_10_11_10>(quads[c], quads[4 + c]);
        let more_low = _mm512_shuffle_i32x4::<0b01_00_01_00>(quads[8 + c], quads[12 + c]);
        let more_high = _mm512_shuffle_i32x4::<0b11_10_11_10>(quads[8 + c], quads[12 + c]);
        columns[c] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low, more_low);
        columns[4 + c] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low, more_low);
        columns[8 + c] = _mm512_shuffle_i32x4::<0b10_00_10_00>(high, more_high);
        columns[12 + c] = _mm512_shuffle_i32x4::<0b11_01_11_01>(high, more_high);
    }
    columns
}
