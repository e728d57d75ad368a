//! The packed linear layer with AMX tiles for more rows than one tile has: two by two tiles of sums, 32 rows by 32 features
//! at a time, added up in the same order as for few rows.

use std::ops::Range;

use half::bf16;

use super::{BLOCK, Call, LANES, PANEL, STEP, ask_for};
use crate::amx::{TILE, Tiles, clear_sums, tile_load, tile_multiply, tile_store};
use crate::lanes::{Kernel, Lanes, dispatch};

/// Cache lines of one step of a panel.
const STEP_LINES: usize = PANEL;
/// Bytes asked for ahead of a panel that nobody asked for before (two steps).
const AHEAD: usize = 2 * STEP_LINES * 64;

/// Computes some panels for some rows, at least 17.
///
/// # Safety
/// The processor has tiles.
pub unsafe fn compute(call: &Call<'_>, panels: Range<usize>, rows: Range<usize>) {
    // SAFETY: the caller's promise.
    let _tiles = unsafe { Tiles::configure(TILE) };
    let groups = rows.len().div_ceil(2 * TILE);
    for panel in panels.clone() {
        let weights = call.linear.panel(panel);
        let mut ahead = Ahead {
            next: weights
                .wrapping_add(call.linear.steps() * PANEL * STEP)
                .cast(),
            lines: if panel + 1 < panels.end {
                STEP_LINES.div_ceil(2 * groups)
            } else {
                0
            },
            is_first: panel == panels.start,
        };
        for group in 0..groups {
            let pair = row_tiles(&rows, group);
            for half in 0..2 {
                let mut sums = [[0.0; TILE * LANES]; 4];
                // SAFETY: the tiles are configured; both row tiles lie inside the call's rows.
                unsafe {
                    let weights = weights.add(half * 2 * BLOCK);
                    multiply(call, pair, weights, &mut ahead, &mut sums);
                };
                ahead.is_first = false;
                dispatch(Put {
                    call,
                    pair,
                    feature: panel * PANEL + half * 2 * LANES,
                    sums: &sums,
                });
            }
        }
    }
}

/// First rows of a group's two tiles. The last group overlaps what is before it, so that every tile is full.
fn row_tiles(rows: &Range<usize>, group: usize) -> (usize, usize) {
    let second = (rows.start + 2 * TILE * group + TILE).min(rows.end - TILE);
    (second.saturating_sub(TILE).max(rows.start), second)
}

/// Asks for the next panel while this one is used, evenly over its groups.
struct Ahead {
    next: *const i8,
    lines: usize,
    /// Nobody asked for the weights in use: the first half panel asks for its own.
    is_first: bool,
}

impl Ahead {
    #[inline(always)]
    fn step(&mut self, weights: *const bf16) {
        ask_for(self.next, self.lines);
        self.next = self.next.wrapping_add(64 * self.lines);
        if self.is_first {
            ask_for(weights.cast::<i8>().wrapping_add(AHEAD), STEP_LINES);
        }
    }
}

/// sums [row tile × 2 + feature tile][16 rows, 16 features] of half a panel.
unsafe fn multiply(
    call: &Call<'_>,
    pair: (usize, usize),
    mut weights: *const bf16,
    ahead: &mut Ahead,
    sums: &mut [[f32; TILE * LANES]; 4],
) {
    let steps = call.linear.steps();
    let (width, stride) = (steps * STEP, steps * STEP * size_of::<bf16>());
    let mut first = call.x[pair.0 * width..].as_ptr();
    let mut second = call.x[pair.1 * width..].as_ptr();
    // SAFETY: half a panel holds `steps` times two tiles of weights, two apart; sixteen rows of x are read behind each tile's
    // first, 64 bytes a step.
    unsafe {
        clear_sums!();
        for _ in 0..steps {
            ahead.step(weights);
            tile_load!(4, weights, 64usize);
            tile_load!(6, first, stride);
            tile_multiply!(0, 6, 4);
            tile_load!(5, weights.add(BLOCK), 64usize);
            tile_multiply!(1, 6, 5);
            tile_load!(7, second, stride);
            tile_multiply!(2, 7, 4);
            tile_multiply!(3, 7, 5);
            first = first.add(STEP);
            second = second.add(STEP);
            weights = weights.add(PANEL / LANES * BLOCK);
        }
        let [a, b, c, d] = sums;
        tile_store!(0, a.as_mut_ptr(), 64usize);
        tile_store!(1, b.as_mut_ptr(), 64usize);
        tile_store!(2, c.as_mut_ptr(), 64usize);
        tile_store!(3, d.as_mut_ptr(), 64usize);
    }
}

/// Rounds a group's sums and writes them out.
struct Put<'a> {
    call: &'a Call<'a>,
    pair: (usize, usize),
    feature: usize,
    sums: &'a [[f32; TILE * LANES]; 4],
}

impl Kernel for Put<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        for (tile, sums) in self.sums.iter().enumerate() {
            let first = if tile < 2 { self.pair.0 } else { self.pair.1 };
            let feature = self.feature + tile % 2 * LANES;
            for row in 0..TILE {
                // SAFETY: sixteen sums a row; the rest is the caller's promise.
                unsafe {
                    self.call.put(
                        first + row,
                        feature,
                        L::load(sums.as_ptr().add(row * LANES)),
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_full_and_cover_every_row() {
        for rows in [5..22, 0..31, 0..32, 3..36, 0..64, 0..95, 0..97] {
            let mut seen = vec![false; rows.end];
            for group in 0..rows.len().div_ceil(2 * TILE) {
                let (first, second) = row_tiles(&rows, group);
                assert!(first >= rows.start && first < second && second + TILE <= rows.end);
                seen[first..first + TILE].fill(true);
                seen[second..second + TILE].fill(true);
            }
            assert!(rows.clone().all(|row| seen[row]), "{rows:?}");
        }
    }
}
