//! A linear layer of bfloat16 that reads its weights in the order in which they lie: any number of rows with AMX, few without.

#[cfg(target_arch = "x86_64")]
mod many;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::ops::Range;

use half::bf16;

use crate::features::{self, Level};
use crate::lanes::{Kernel, LANES, Lanes, dispatch};
use crate::tensor::Pieces;
use crate::threads;

/// Rows without tiles.
const MAX_ROWS_LANES: usize = 8;
/// Rows that one tile holds.
const TILE_ROWS: usize = 16;
/// Bytes of inputs that stay in the second-level cache beside the weights of two panels.
const CACHED_INPUTS: usize = 1 << 20;
/// Fewest rows of a piece of many.
const BLOCK_ROWS: usize = 64;
/// Output features of a panel; a panel is one thread's smallest piece.
pub const PANEL: usize = 64;
/// Input features of a step: sixteen pairs.
pub const STEP: usize = 32;
/// Numbers of one step of sixteen output features: `[pair][feature][2]`, a tile of 1 KiB.
pub const BLOCK: usize = STEP * LANES;

/// A private copy of a weight, `[panel][step][PANEL / 16][16 pairs][16 features][2]`, filled up with zeros.
pub struct PackedLinear {
    packed: Vec<Line>,
    /// [out], filled up to whole panels; zeros where there is none
    bias: Vec<f32>,
    out_features: usize,
    in_features: usize,
}

/// A cache line of weights, for alignment.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([bf16; STEP]);

impl PackedLinear {
    /// Copies `weight` [out, in] and `bias` [out].
    pub fn new(
        weight: &[bf16],
        bias: Option<&[bf16]>,
        out_features: usize,
        in_features: usize,
    ) -> Self {
        let steps = in_features.div_ceil(STEP);
        let panels = out_features.div_ceil(PANEL);
        let mut packed = vec![Line([bf16::ZERO; STEP]); panels * steps * PANEL];
        let pieces = Pieces::new(&mut packed);
        threads::for_each(panels, |panel| {
            // SAFETY: each panel is written by one call only.
            let lines = unsafe { pieces.piece(panel * steps * PANEL, steps * PANEL) };
            for feature in panel * PANEL..((panel + 1) * PANEL).min(out_features) {
                pack_feature(
                    lines,
                    feature % PANEL,
                    &weight[feature * in_features..][..in_features],
                );
            }
        });
        let mut filled = vec![0.0; panels * PANEL];
        let given = bias.into_iter().flatten();
        filled
            .iter_mut()
            .zip(given)
            .for_each(|(to, from)| *to = from.to_f32());
        Self {
            packed,
            bias: filled,
            out_features,
            in_features,
        }
    }

    /// [out, in]
    pub fn shape(&self) -> (usize, usize) {
        (self.out_features, self.in_features)
    }

    /// Most rows that one call accepts with the instructions in use; any number with tiles.
    pub fn max_rows(&self) -> Option<usize> {
        (features::level() != Level::Amx).then_some(MAX_ROWS_LANES)
    }

    /// x [rows, in] to output [rows, out].
    pub fn forward(&self, x: &[bf16], output: Pieces<bf16>) {
        let padded = self.in_features.next_multiple_of(STEP);
        let filled: Vec<bf16>;
        let mut rows = x;
        if padded != self.in_features {
            filled = fill_up(x, self.in_features, padded);
            rows = &filled;
        }
        let call = Call {
            linear: self,
            x: rows,
            rows: rows.len() / padded,
            output,
        };
        call.run();
    }

    fn steps(&self) -> usize {
        self.in_features.div_ceil(STEP)
    }

    /// First weight of a panel.
    fn panel(&self, panel: usize) -> *const bf16 {
        self.packed[panel * self.steps() * PANEL..].as_ptr().cast()
    }
}

fn pack_feature(lines: &mut [Line], feature: usize, weight: &[bf16]) {
    for (index, pair) in weight.chunks(2).enumerate() {
        let (step, row) = (index / LANES, index % LANES);
        let line = &mut lines[(step * (PANEL / LANES) + feature / LANES) * LANES + row].0;
        line[feature % LANES * 2..][..pair.len()].copy_from_slice(pair);
    }
}

fn fill_up(x: &[bf16], width: usize, padded: usize) -> Vec<bf16> {
    let mut filled = vec![bf16::ZERO; x.len() / width * padded];
    filled
        .chunks_exact_mut(padded)
        .zip(x.chunks_exact(width))
        .for_each(|(to, from)| to[..width].copy_from_slice(from));
    filled
}

/// Part `index` of `count` about equal parts.
fn cut(len: usize, index: usize, count: usize) -> Range<usize> {
    index * len / count..(index + 1) * len / count
}

/// Asks for cache lines, into the second-level cache.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn ask_for(begin: *const i8, lines: usize) {
    use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    for line in 0..lines {
        // SAFETY: a prefetch cannot fault; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(begin.wrapping_add(64 * line)) };
    }
}

/// One forward.
struct Call<'a> {
    linear: &'a PackedLinear,
    /// [rows, in filled up to whole steps]
    x: &'a [bf16],
    rows: usize,
    output: Pieces<bf16>,
}

impl Call<'_> {
    /// Deals out pieces of whole panels, a few for each thread; many rows in blocks, so that inputs are read from a cache.
    fn run(&self) {
        let (panels, wanted) = (
            self.linear.out_features.div_ceil(PANEL),
            4 * threads::num_threads(),
        );
        let width = panels.min(wanted);
        let blocks = match self.rows {
            ..=TILE_ROWS => 1,
            rows => {
                let row_bytes = self.linear.steps() * STEP * size_of::<bf16>();
                let cached = (rows * row_bytes).div_ceil(CACHED_INPUTS);
                cached
                    .max(wanted.div_ceil(width))
                    .min(rows / BLOCK_ROWS)
                    .max(1)
            }
        };
        threads::for_each(blocks * width, |piece| {
            let (block, piece) = (piece / width, piece % width);
            self.compute(cut(panels, piece, width), cut(self.rows, block, blocks));
        });
    }

    fn compute(&self, panels: Range<usize>, rows: Range<usize>) {
        #[cfg(target_arch = "x86_64")]
        if features::level() == Level::Amx {
            // SAFETY: the level says that there are tiles.
            return unsafe {
                match self.rows {
                    ..=TILE_ROWS => tiles::compute(self, panels),
                    _ => many::compute(self, panels, rows),
                }
            };
        }
        debug_assert_eq!(rows.len(), self.rows, "few rows are one block");
        dispatch(Panels { call: self, panels });
    }

    /// Adds the bias to sixteen sums of one row, rounds them and writes those that are no filling.
    #[inline(always)]
    unsafe fn put<L: Lanes>(&self, row: usize, feature: usize, sums: L) {
        let out = self.linear.out_features;
        let count = out.saturating_sub(feature).min(LANES);
        // SAFETY: `bias` is filled up to whole panels, and sixteen features lie in one; the rest is the caller's promise.
        let sums = unsafe { sums.add(L::load(self.linear.bias[feature..].as_ptr())) };
        if count == LANES {
            // SAFETY: sixteen numbers of this row; each (row, feature) is written by one thread only.
            unsafe {
                sums.store_bf16(self.output.piece(row * out + feature, LANES).as_mut_ptr());
            };
            return;
        }
        let mut rounded = [bf16::ZERO; LANES];
        // SAFETY: the array holds 16 numbers; each (row, feature) is written by one thread only; the rest is the caller's promise.
        unsafe {
            sums.store_bf16(rounded.as_mut_ptr());
            self.output
                .piece(row * out + feature.min(out), count)
                .copy_from_slice(&rounded[..count]);
        }
    }
}

/// Some panels in lanes.
struct Panels<'a> {
    call: &'a Call<'a>,
    panels: Range<usize>,
}

impl Kernel for Panels<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        for panel in self.panels.clone() {
            let mut row = 0;
            while row < self.call.rows {
                let count = (self.call.rows - row).min(4);
                // SAFETY: the caller's promise.
                unsafe {
                    match count {
                        1 => self.rows::<L, 1>(panel, row),
                        2 => self.rows::<L, 2>(panel, row),
                        3 => self.rows::<L, 3>(panel, row),
                        _ => self.rows::<L, 4>(panel, row),
                    }
                }
                row += count;
            }
        }
    }
}

impl Panels<'_> {
    /// R rows of one panel: 4 · R sums in registers.
    #[inline(always)]
    unsafe fn rows<L: Lanes, const R: usize>(&self, panel: usize, row: usize) {
        let (steps, width) = (self.call.linear.steps(), self.call.linear.steps() * STEP);
        let x = self.call.x[row * width..].as_ptr();
        let mut weights = self.call.linear.panel(panel);
        // SAFETY: a panel holds `steps` times four blocks, R rows of `width` inputs lie behind `x`; the rest is the caller's promise.
        unsafe {
            let mut sums = [[L::splat(0.0); PANEL / LANES]; R];
            for step in 0..steps {
                for pair in 0..LANES {
                    for block in 0..PANEL / LANES {
                        let line = weights.add(block * BLOCK + pair * STEP);
                        for index in 0..R {
                            let at = x.add(index * width + step * STEP + pair * 2);
                            sums[index][block] = sums[index][block].dot_pairs(line, at);
                        }
                    }
                }
                weights = weights.add(PANEL / LANES * BLOCK);
            }
            for index in 0..R {
                for block in 0..PANEL / LANES {
                    self.call.put(
                        row + index,
                        panel * PANEL + block * LANES,
                        sums[index][block],
                    );
                }
            }
        }
    }
}
