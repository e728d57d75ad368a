//! Runs of several tokens with AMX tiles: bfloat16, heads of 32, 64, 96 or 128 numbers. Everything is computed transposed,
//! keys by query rows, so that a lane is a query row: maxima and sums run over registers, never across one.

mod block;

use core::arch::x86_64::*;
use std::f32::consts::LOG2_E;
use std::ops::Range;

use half::bf16;

use crate::amx::{TILE, Tiles, clear_sums, tile_load, tile_multiply, tile_store};
use crate::lanes::{Avx512, Lanes};
use crate::runs::{LayerShape, Run};

use self::block::{Block, take, transpose};
use super::{Problem, ScoreRule};

/// Keys of a block.
const KEYS: usize = 64;
/// Numbers of a tile's row.
const STEP: usize = 32;
/// Stands for no score yet: a row whose keys of a block are all hidden must not meet −inf − (−inf).
const LOWEST: f32 = -1e30;
type Vector = Avx512<true>;

/// Whether a layer's heads fit the tiles.
pub fn fits(shape: &LayerShape, scale: f32) -> bool {
    shape.head_dim.is_multiple_of(STEP)
        && shape.head_dim <= 128
        && scale > 0.0
        && shape.vectors == 2
}

/// Floats of working memory for `rows` query rows.
pub fn memory_len(shape: &LayerShape, rows: usize) -> usize {
    let (groups, dim) = (rows.div_ceil(TILE), shape.head_dim);
    groups * (TILE * dim / 2 + TILE * dim + 5 * TILE) + KEYS * dim + KEYS * TILE + KEYS * TILE / 2
}

/// Sixteen query rows and what they have gathered.
struct Group<'a> {
    /// [dim / 32][16 pairs][16 rows][2]
    query: &'a mut [f32],
    /// [dim][16 rows]
    sums: &'a mut [f32],
    highest: &'a mut [f32],
    total: &'a mut [f32],
    /// Token after the last that each row sees, as float bits of an i32.
    visible: &'a mut [f32],
    /// First token that each row sees, likewise.
    begins: &'a mut [f32],
    /// Each row's slope, for scores in units of log2.
    slopes: &'a mut [f32],
}

/// What a group does to the scores of a block.
struct Scoring<'a> {
    /// The block's first key.
    first: usize,
    /// Whether some row does not see all of it.
    hides: bool,
    /// Brings scores to units of log2.
    factor: f32,
    /// What else is done to them; its columns are in the groups.
    rule: ScoreRule<'a>,
}

/// Some rows of one key head over all keys they see.
pub struct Chunk<'a> {
    /// The whole.
    pub problem: &'a Problem<'a, bf16>,
    /// The run.
    pub run: Run,
    /// The key head.
    pub kv_head: usize,
    /// Query rows: tokens × heads of the group.
    pub rows: Range<usize>,
}

impl Chunk<'_> {
    /// Computes the rows; `memory` holds `memory_len` floats, aligned to 64 bytes.
    ///
    /// # Safety
    /// The processor has AMX and AVX-512 with bfloat16; the keys are mapped and nobody writes them.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
    pub unsafe fn run(&self, memory: &mut [f32]) {
        let dim = self.problem.shape.head_dim;
        // SAFETY: this function's instruction set.
        let (mut groups, memory) = unsafe { self.groups(memory) };
        let mut block = Block::of(memory, dim);
        let view = self.problem.head(&self.run, self.kv_head);
        let (begin, last) = (self.begin(self.rows.start), self.visible(self.rows.end - 1));
        // SAFETY: tiles exist (the caller's promise).
        let _tiles = unsafe { Tiles::configure(TILE) };
        for first in (begin..last).step_by(KEYS) {
            // SAFETY: keys before `last` are mapped (the caller's promise); the rest is this function's instruction set.
            unsafe {
                block.pack(view, first, (last - first).min(KEYS), dim);
                self.gather(first, &mut groups, &mut block);
            }
        }
        for (index, group) in groups.iter().enumerate() {
            // SAFETY: this function's instruction set.
            unsafe { self.finish(group, self.rows.start + index * TILE) };
        }
    }

    /// The rows in groups that have gathered nothing yet, and the memory that is left.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
    unsafe fn groups<'a>(&self, mut memory: &'a mut [f32]) -> (Vec<Group<'a>>, &'a mut [f32]) {
        let dim = self.problem.shape.head_dim;
        let mut groups = Vec::with_capacity(self.rows.len().div_ceil(TILE));
        for first in self.rows.clone().step_by(TILE) {
            let mut part = |len| take(&mut memory, len);
            let mut group = Group {
                query: part(TILE * dim / 2),
                sums: part(TILE * dim),
                highest: part(TILE),
                total: part(TILE),
                visible: part(TILE),
                begins: part(TILE),
                slopes: part(TILE),
            };
            // SAFETY: this function's instruction set.
            unsafe { self.start(&mut group, first) };
            groups.push(group);
        }
        (groups, memory)
    }

    /// Lets every group that sees some of the block of keys at `first` gather it.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
    unsafe fn gather(&self, first: usize, groups: &mut [Group<'_>], block: &mut Block<'_>) {
        for (index, group) in groups.iter_mut().enumerate() {
            let row = self.rows.start + index * TILE;
            let last_row = (row + TILE).min(self.rows.end) - 1;
            if first >= self.visible(last_row) || first + KEYS <= self.begin(row) {
                continue;
            }
            let scoring = Scoring {
                first,
                hides: first + KEYS > self.visible(row) || first < self.begin(last_row),
                factor: self.problem.scale * LOG2_E,
                rule: self.problem.rule,
            };
            // SAFETY: the caller's promise.
            unsafe { group.gather(block, &scoring, self.problem.shape.head_dim) };
        }
    }

    fn visible(&self, row: usize) -> usize {
        self.run.num_tokens - self.run.num_queries + row / self.problem.shape.group() + 1
    }

    fn begin(&self, row: usize) -> usize {
        self.problem.first_seen(self.visible(row) - 1)
    }

    /// Where row `index` of the group at `first` lies; rows past the end repeat the last.
    fn start_of(&self, first: usize, index: usize) -> usize {
        self.problem.row_start(
            &self.run,
            self.kv_head,
            (first + index).min(self.rows.end - 1),
        )
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
    unsafe fn start(&self, group: &mut Group<'_>, first: usize) {
        let dim = self.problem.shape.head_dim;
        group.sums.fill(0.0);
        let heads = self.problem.shape.group();
        for index in 0..TILE {
            let row = (first + index).min(self.rows.end - 1);
            let head = self.kv_head * heads + row % heads;
            let (highest, total) = self.problem.rule.start(head);
            (group.highest[index], group.total[index]) = (highest.max(LOWEST), total);
            group.slopes[index] = self.problem.rule.slope(head);
            group.visible[index] = f32::from_bits(self.visible(row) as u32);
            group.begins[index] = f32::from_bits(self.begin(row) as u32);
        }
        for step in 0..dim / STEP {
            let mut rows = [_mm512_setzero_si512(); TILE];
            for (index, row) in rows.iter_mut().enumerate() {
                let at = self.start_of(first, index) + step * STEP;
                // SAFETY: the row holds `dim` numbers from its start.
                *row = unsafe {
                    _mm512_loadu_si512(self.problem.query[at..at + STEP].as_ptr().cast())
                };
            }
            for (pair, row) in transpose(rows).into_iter().enumerate() {
                let to = &mut group.query[(step * TILE + pair) * TILE..][..TILE];
                // SAFETY: sixteen floats.
                unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), row) };
            }
        }
    }

    /// Divides by the weights, turns rows the right way and writes them out.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
    unsafe fn finish(&self, group: &Group<'_>, first: usize) {
        let dim = self.problem.shape.head_dim;
        // SAFETY: all slices hold what their shapes say; each row is written by one piece only.
        unsafe {
            let factor = _mm512_div_ps(_mm512_set1_ps(1.0), _mm512_loadu_ps(group.total.as_ptr()));
            for unit in (0..dim).step_by(TILE) {
                let mut columns = [_mm512_setzero_si512(); TILE];
                for (index, column) in columns.iter_mut().enumerate() {
                    let sums =
                        _mm512_loadu_ps(group.sums[(unit + index) * TILE..][..TILE].as_ptr());
                    *column = _mm512_castps_si512(_mm512_mul_ps(sums, factor));
                }
                let rows = transpose(columns);
                for index in 0..TILE.min(self.rows.end - first) {
                    let output = self
                        .problem
                        .output
                        .piece(self.start_of(first, index) + unit, TILE);
                    let rounded: __m256i =
                        core::mem::transmute(_mm512_cvtneps_pbh(_mm512_castsi512_ps(rows[index])));
                    _mm256_storeu_si256(output.as_mut_ptr().cast(), rounded);
                }
            }
        }
    }
}

impl Group<'_> {
    /// Gathers a block.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
    unsafe fn gather(&mut self, block: &mut Block<'_>, scoring: &Scoring<'_>, dim: usize) {
        // SAFETY: tiles are configured; all slices hold what their shapes say.
        unsafe {
            self.scores(block, dim);
            let bends = scoring.rule.bends();
            if bends {
                self.bend(block, scoring);
            }
            if scoring.hides {
                self.hide(block, scoring.first);
            }
            self.weigh(block, if bends { 1.0 } else { scoring.factor }, dim);
            for unit in (0..dim).step_by(STEP) {
                self.add_values(block, unit, dim);
            }
        }
    }

    /// scores [64 keys, 16 rows]
    unsafe fn scores(&self, block: &mut Block<'_>, dim: usize) {
        let keys: *const bf16 = block.keys.as_ptr().cast();
        let row_bytes = dim * size_of::<bf16>();
        // SAFETY: the caller's promise.
        unsafe {
            clear_sums!();
            for step in 0..dim / STEP {
                let keys = keys.add(step * STEP);
                tile_load!(6, self.query.as_ptr().add(step * TILE * TILE), 64usize);
                tile_load!(4, keys, row_bytes);
                tile_multiply!(0, 4, 6);
                tile_load!(5, keys.add(TILE * dim), row_bytes);
                tile_multiply!(1, 5, 6);
                tile_load!(4, keys.add(2 * TILE * dim), row_bytes);
                tile_multiply!(2, 4, 6);
                tile_load!(5, keys.add(3 * TILE * dim), row_bytes);
                tile_multiply!(3, 5, 6);
            }
            let scores = block.scores.as_mut_ptr();
            tile_store!(0, scores, 64usize);
            tile_store!(1, scores.add(TILE * TILE), 64usize);
            tile_store!(2, scores.add(2 * TILE * TILE), 64usize);
            tile_store!(3, scores.add(3 * TILE * TILE), 64usize);
        }
    }

    /// Scores in units of log2, bent by the rule.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
    unsafe fn bend(&self, block: &mut Block<'_>, scoring: &Scoring<'_>) {
        // SAFETY: the caller's promise.
        unsafe {
            let slopes = Vector::load(self.slopes.as_ptr());
            let factor = Vector::splat(scoring.factor);
            // `visible` ends behind a row's own token.
            let visible = _mm512_loadu_si512(self.visible.as_ptr().cast());
            let own = Vector::from_counts(visible).sub(Vector::splat(1.0));
            for key in 0..KEYS {
                let at = block.scores.as_mut_ptr().add(key * TILE);
                let distances = Vector::splat((scoring.first + key) as f32).sub(own);
                let scores = Vector::load(at).mul(factor);
                scoring.rule.bend_rows(scores, slopes, distances).store(at);
            }
        }
    }

    /// Scores of keys that a row does not see become −inf.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
    unsafe fn hide(&self, block: &mut Block<'_>, first: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let visible = _mm512_loadu_si512(self.visible.as_ptr().cast());
            let begins = _mm512_loadu_si512(self.begins.as_ptr().cast());
            for key in 0..KEYS {
                let at = block.scores.as_mut_ptr().add(key * TILE);
                let key = _mm512_set1_epi32((first + key) as i32);
                let hidden =
                    _mm512_cmple_epi32_mask(visible, key) | _mm512_cmpgt_epi32_mask(begins, key);
                _mm512_mask_storeu_ps(at, hidden, _mm512_set1_ps(f32::NEG_INFINITY));
            }
        }
    }

    /// Scores become weights in pairs of keys; what was gathered shrinks where the highest score rises.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
    unsafe fn weigh(&mut self, block: &mut Block<'_>, factor: f32, dim: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let scores = block.scores.as_ptr();
            let mut tops = [Vector::splat(f32::NEG_INFINITY); 4];
            for key in 0..KEYS {
                tops[key % 4] = tops[key % 4].max(Vector::load(scores.add(key * TILE)));
            }
            let factor = Vector::splat(factor);
            let before = Vector::load(self.highest.as_ptr());
            let highest = before.max(tops[0].max(tops[1]).max(tops[2].max(tops[3])).mul(factor));
            let shrink = before.sub(highest).exp2();
            highest.store(self.highest.as_mut_ptr());
            let mut totals = [
                Vector::load(self.total.as_ptr()).mul(shrink),
                Vector::splat(0.0),
            ];
            let negative = Vector::splat(0.0).sub(highest);
            for pair in 0..KEYS / 2 {
                let even = Vector::load(scores.add(2 * pair * TILE))
                    .fma(factor, negative)
                    .exp2();
                let odd = Vector::load(scores.add((2 * pair + 1) * TILE))
                    .fma(factor, negative)
                    .exp2();
                totals = [totals[0].add(even), totals[1].add(odd)];
                Vector::store_pairs(even, odd, block.weights.as_mut_ptr().add(pair * TILE));
            }
            totals[0].add(totals[1]).store(self.total.as_mut_ptr());
            for number in 0..dim {
                let at = self.sums.as_mut_ptr().add(number * TILE);
                Vector::load(at).mul(shrink).store(at);
            }
        }
    }

    /// sums [32 numbers from `unit`, 16 rows] += values · weights
    unsafe fn add_values(&mut self, block: &Block<'_>, unit: usize, dim: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let sums = self.sums.as_mut_ptr().add(unit * TILE);
            tile_load!(0, sums, 64usize);
            tile_load!(1, sums.add(TILE * TILE), 64usize);
            for half in 0..2 {
                let values = block.values.as_ptr().add((half * dim + unit) * TILE);
                tile_load!(6, block.weights.as_ptr().add(half * TILE * TILE), 64usize);
                tile_load!(4, values, 64usize);
                tile_multiply!(0, 4, 6);
                tile_load!(5, values.add(TILE * TILE), 64usize);
                tile_multiply!(1, 5, 6);
            }
            tile_store!(0, sums, 64usize);
            tile_store!(1, sums.add(TILE * TILE), 64usize);
        }
    }
}
