//! Working memory of a kernel, kept by each thread between calls. Knows sizes; not contents.

use std::cell::RefCell;

thread_local! {
    static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// A cache line, so that the memory is aligned for every instruction set.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Runs `work` with `len` floats of memory aligned to 64 bytes. The contents are old numbers; `work` must not call this again.
pub fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    SCRATCH.with_borrow_mut(|lines| {
        let needed = len.div_ceil(16);
        if lines.len() < needed {
            lines.resize(needed, Line([0.0; 16]));
        }
        // SAFETY: a line is sixteen floats without padding, so `needed` of them are at least `len` floats.
        work(unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), len) })
    })
}
