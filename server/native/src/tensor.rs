//! Slices over memory that the caller keeps alive. The one place where an address becomes a reference.

use crate::error::{NativeError, invalid};

/// A tensor's address as Python's `data_ptr()` gives it.
#[derive(Clone, Copy, Debug)]
pub struct Address(pub usize);

impl Address {
    fn checked<T>(self, name: &str) -> Result<usize, NativeError> {
        if self.0 == 0 || !self.0.is_multiple_of(align_of::<T>()) {
            return invalid(format!(
                "{name}: {:#x} is not the address of a tensor of this dtype",
                self.0
            ));
        }
        Ok(self.0)
    }

    /// Reads `len` elements.
    ///
    /// # Safety
    /// The memory holds `len` elements, outlives `'a` and is not written meanwhile.
    pub unsafe fn slice<'a, T>(self, len: usize, name: &str) -> Result<&'a [T], NativeError> {
        let address = self.checked::<T>(name)?;
        // SAFETY: non-null and aligned (checked); the rest is the caller's promise.
        Ok(unsafe { std::slice::from_raw_parts(address as *const T, len) })
    }

    /// Writes `len` elements.
    ///
    /// # Safety
    /// As `slice`, and nothing else reads or writes the memory meanwhile.
    pub unsafe fn slice_mut<'a, T>(
        self,
        len: usize,
        name: &str,
    ) -> Result<&'a mut [T], NativeError> {
        let address = self.checked::<T>(name)?;
        // SAFETY: non-null and aligned (checked); the rest is the caller's promise.
        Ok(unsafe { std::slice::from_raw_parts_mut(address as *mut T, len) })
    }
}

/// A mutable slice dealt out to threads in disjoint pieces.
#[derive(Clone, Copy)]
pub struct Pieces<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: `piece` hands out disjoint ranges only, by its caller's promise; T itself may move between threads.
unsafe impl<T: Send> Send for Pieces<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Pieces<T> {}

impl<T> Pieces<T> {
    /// Takes the slice for as long as the pieces live.
    pub fn new(slice: &mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
        }
    }

    /// The piece [begin, begin + len).
    ///
    /// # Safety
    /// No two pieces alive at once overlap, and none outlives the slice.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn piece<'a>(&self, begin: usize, len: usize) -> &'a mut [T] {
        debug_assert!(begin + len <= self.len);
        // SAFETY: inside the slice, disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(begin), len) }
    }
}
