//! The two number formats the kernels compute on. Knows bits; not tensors.

use half::bf16;

use crate::lanes::Lanes;

/// A stored number that is widened to float32 for computing.
pub trait Element: Copy + Default + Send + Sync + 'static {
    /// Its name at run time.
    const DTYPE: DType;
    /// The exact float32 value.
    fn widen(self) -> f32;
    /// The nearest stored value, ties to even.
    fn narrow(value: f32) -> Self;
    /// Sixteen stored numbers, widened.
    ///
    /// # Safety
    /// As for the methods of `Lanes`.
    unsafe fn load<L: Lanes>(from: *const Self) -> L;
    /// Stores sixteen numbers, rounded.
    ///
    /// # Safety
    /// As for the methods of `Lanes`.
    unsafe fn store<L: Lanes>(value: L, to: *mut Self);
}

impl Element for f32 {
    const DTYPE: DType = DType::Float32;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load(from) }
    }
    #[inline(always)]
    unsafe fn store<L: Lanes>(value: L, to: *mut Self) {
        // SAFETY: the caller's promise.
        unsafe { value.store(to) }
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::Bfloat16;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    /// Branch-free, so that loops over it vectorize.
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
        let quiet_nan = (bits >> 16) as u16 | 0x40;
        bf16::from_bits(if value.is_nan() { quiet_nan } else { rounded })
    }
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn store<L: Lanes>(value: L, to: *mut Self) {
        // SAFETY: the caller's promise.
        unsafe { value.store_bf16(to) }
    }
}

/// Names an `Element` at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// IEEE single precision.
    Float32,
    /// The upper half of a float32.
    Bfloat16,
}

impl DType {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Self::Float32 => 4,
            Self::Bfloat16 => 2,
        }
    }
}
