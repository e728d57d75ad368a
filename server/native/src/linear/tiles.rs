//! The packed linear layer with AMX tiles for up to sixteen rows: a panel's four tiles of sums stay in registers while its weights stream by.

use std::ops::Range;

use half::bf16;

use super::{BLOCK, Call, LANES, PANEL, STEP, ask_for};
use crate::amx::{TILE, Tiles, clear_sums, tile_load, tile_multiply, tile_store};
use crate::lanes::{Kernel, Lanes, dispatch};

/// Bytes asked for ahead of the weights in turn (two steps).
const AHEAD: usize = 8192;

/// Computes some panels.
///
/// # Safety
/// The processor has tiles.
pub unsafe fn compute(call: &Call<'_>, panels: Range<usize>) {
    // SAFETY: the caller's promise.
    let _tiles = unsafe { Tiles::configure(call.rows) };
    for panel in panels {
        let mut sums = [[0.0f32; PANEL]; TILE];
        // SAFETY: the tiles are configured for `rows` rows.
        unsafe { multiply(call, panel, &mut sums) };
        dispatch(Put {
            call,
            panel,
            sums: &sums,
        });
    }
}

/// sums [rows, PANEL] of one panel.
unsafe fn multiply(call: &Call<'_>, panel: usize, sums: &mut [[f32; PANEL]; TILE]) {
    let steps = call.linear.steps();
    let (mut x, x_stride) = (call.x.as_ptr(), steps * STEP * size_of::<bf16>());
    let mut weights = call.linear.panel(panel);
    // SAFETY: the panel holds `steps` times four tiles of weights; `rows` rows of x are read, 64 bytes a step.
    unsafe {
        clear_sums!();
        for _ in 0..steps {
            ask_for(weights.cast::<i8>().wrapping_add(AHEAD), PANEL);
            tile_load!(7, x, x_stride);
            tile_load!(4, weights, 64usize);
            tile_multiply!(0, 7, 4);
            tile_load!(5, weights.add(BLOCK), 64usize);
            tile_multiply!(1, 7, 5);
            tile_load!(6, weights.add(2 * BLOCK), 64usize);
            tile_multiply!(2, 7, 6);
            tile_load!(4, weights.add(3 * BLOCK), 64usize);
            tile_multiply!(3, 7, 4);
            x = x.add(STEP);
            weights = weights.add(4 * BLOCK);
        }
        let row_bytes = PANEL * size_of::<f32>();
        let sums = sums.as_mut_ptr().cast::<f32>();
        tile_store!(0, sums, row_bytes);
        tile_store!(1, sums.add(LANES), row_bytes);
        tile_store!(2, sums.add(2 * LANES), row_bytes);
        tile_store!(3, sums.add(3 * LANES), row_bytes);
    }
}

/// Rounds a panel's sums and writes them out.
struct Put<'a> {
    call: &'a Call<'a>,
    panel: usize,
    sums: &'a [[f32; PANEL]; TILE],
}

impl Kernel for Put<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        for row in 0..self.call.rows {
            for block in 0..PANEL / LANES {
                // SAFETY: four times sixteen sums a row; the rest is the caller's promise.
                unsafe {
                    let sums = L::load(self.sums[row].as_ptr().add(block * LANES));
                    self.call.put(row, self.panel * PANEL + block * LANES, sums);
                }
            }
        }
    }
}
