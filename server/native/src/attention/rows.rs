//! Online softmax of a few query rows over one head's keys, in vector lanes. Knows rows, keys and values; not runs.
//! Scores are kept in units of log2, so that weights are powers of two. Milakov and Gimelshein, https://arxiv.org/abs/1805.02867

use std::ops::Range;

use crate::element::Element;
use crate::lanes::{LANES, Lanes};

use super::HeadView;
use super::rule::ScoreRule;

/// Keys that are weighed together.
pub const BLOCK: usize = 64;

/// Query rows of one key head and what they have gathered so far.
pub struct Rows<'a> {
    /// [rows, dim], times scale · log2(e)
    pub query: &'a [f32],
    /// Keys a row sees: from the first of its window to its own.
    pub visible: &'a [Range<usize>],
    /// What is done to their scores, by row.
    pub rule: ScoreRule<'a>,
    /// Highest score so far.
    pub highest: &'a mut [f32],
    /// Sum of weights so far.
    pub total: &'a mut [f32],
    /// [rows, dim], weighted values so far
    pub sums: &'a mut [f32],
    /// Numbers of a head, a multiple of 16.
    pub dim: usize,
}

/// Room for one block: widened keys or values, and the weights.
pub struct Room<'a> {
    /// What to ask for while a block is read.
    pub ahead: Ahead,
    wide: &'a mut [f32],
    weights: &'a mut [f32],
}

/// Floats a room needs.
pub fn room_len(rows: usize, dim: usize) -> usize {
    BLOCK * dim + rows * BLOCK
}

impl<'a> Room<'a> {
    /// Divides `room_len` floats.
    pub fn new(memory: &'a mut [f32], dim: usize) -> Self {
        let (wide, weights) = memory.split_at_mut(BLOCK * dim);
        Self {
            ahead: Ahead::NOTHING,
            wide,
            weights,
        }
    }
}

/// A block of keys: [first, first + count), count ≤ `BLOCK`.
#[derive(Clone, Copy)]
pub struct Keys {
    /// The head.
    pub view: HeadView,
    /// First key.
    pub first: usize,
    /// Number of keys.
    pub count: usize,
}

/// Asks for memory that comes next, token by token: a token's bytes of a layer lie together, so this order suits the memory
/// (measured: 1.4 to 2.6 times faster than none). It asks all the while a block is computed: in bursts it would wait for
/// the few requests that a core may have under way.
#[derive(Clone, Copy)]
pub struct Ahead {
    /// Address of the layer's bytes of the token in turn.
    pub address: usize,
    /// Bytes from one token to the next.
    pub stride: usize,
    /// Bytes of the layer in a token.
    pub bytes: usize,
    /// Tokens left to ask for.
    pub tokens: usize,
    /// Byte in turn.
    pub byte: usize,
    /// Bytes asked for at a time, whole cache lines.
    pub pace: usize,
}

impl Ahead {
    /// Asks for nothing.
    pub const NOTHING: Self = Self {
        address: 0,
        stride: 0,
        bytes: 0,
        tokens: 0,
        byte: 0,
        pace: 64,
    };

    /// Asks for what comes next, `times` times.
    #[inline(always)]
    unsafe fn step<L: Lanes>(&mut self, times: usize) {
        for _ in (0..times * self.pace).step_by(64) {
            if self.tokens == 0 {
                return;
            }
            // SAFETY: the caller's promise; a prefetch cannot fault.
            unsafe { L::prefetch(self.address + self.byte) };
            self.byte += 64;
            if self.byte >= self.bytes {
                (self.byte, self.address, self.tokens) =
                    (0, self.address + self.stride, self.tokens - 1);
            }
        }
    }
}

/// Where float32 rows lie: row i at `start + i * stride` floats.
#[derive(Clone, Copy)]
struct Wide {
    start: *const f32,
    stride: usize,
}

impl Rows<'_> {
    /// Forgets everything gathered.
    pub fn clear(&mut self) {
        for row in 0..self.visible.len() {
            (self.highest[row], self.total[row]) = self.rule.start(row);
        }
        self.sums.fill(0.0);
    }

    /// Gathers one block.
    ///
    /// # Safety
    /// The keys are mapped and nobody writes them; the processor has the instruction set of `L`.
    #[inline(always)]
    pub unsafe fn gather<L: Lanes, T: Element>(&mut self, keys: Keys, room: &mut Room<'_>) {
        // SAFETY: the caller's promise for all of them.
        unsafe {
            let wide = widen::<L, T>(keys, 0, self.dim, room);
            for row in 0..self.visible.len() {
                let begin = self.visible[row].start.saturating_sub(keys.first);
                let end = self.visible[row].end.saturating_sub(keys.first);
                self.weigh::<L>(
                    row,
                    (wide, keys.first),
                    begin..end.min(keys.count),
                    &mut room.weights[row * BLOCK..][..BLOCK],
                    &mut room.ahead,
                );
            }
            let values = match keys.view.value_offset {
                0 => wide, // key and value are one
                offset => widen::<L, T>(keys, offset, self.dim, room),
            };
            let mut row = 0;
            while row < self.visible.len() {
                row += self.add_values::<L>(row, values, keys.count, room.weights, &mut room.ahead);
            }
        }
    }

    /// Scores of one row, turned into weights; what was gathered shrinks when the highest score rises.
    #[inline(always)]
    unsafe fn weigh<L: Lanes>(
        &mut self,
        row: usize,
        keys: (Wide, usize),
        seen: Range<usize>,
        weights: &mut [f32],
        ahead: &mut Ahead,
    ) {
        if seen.is_empty() {
            weights.fill(0.0);
            return;
        }
        let count = seen.end;
        // SAFETY: the caller's promise for all of them.
        unsafe {
            let top = self.score::<L>(row, keys, seen, weights, ahead);
            let highest = self.highest[row].max(top);
            let total = powers::<L>(weights, count, highest);
            self.shrink::<L>(row, highest);
            self.total[row] += total;
        }
    }

    /// Writes one row's scores of the keys up to the last that it sees; says the highest.
    #[inline(always)]
    unsafe fn score<L: Lanes>(
        &self,
        row: usize,
        (keys, first_key): (Wide, usize),
        seen: Range<usize>,
        weights: &mut [f32],
        ahead: &mut Ahead,
    ) -> f32 {
        let query = &self.query[row * self.dim..][..self.dim];
        let own = self.visible[row].end - 1;
        // SAFETY: 16 floats at each multiple of 16 below BLOCK lie in `weights`; the rest is the caller's promise.
        unsafe {
            let mut top = L::splat(f32::NEG_INFINITY);
            for first in (0..seen.end).step_by(LANES) {
                let mut scores: L = scores(query, keys, first, ahead);
                if self.rule.bends() {
                    let distance = (first_key + first) as f32 - own as f32;
                    scores = self.rule.bend_keys(scores, row, distance);
                }
                scores = scores.keep_first(seen.end - first, f32::NEG_INFINITY);
                scores.store(weights.as_mut_ptr().add(first));
                if first < seen.start {
                    weights[first..seen.start.min(first + LANES)].fill(f32::NEG_INFINITY);
                    scores = L::load(weights.as_ptr().add(first));
                }
                top = top.max(scores);
            }
            top.highest()
        }
    }

    #[inline(always)]
    unsafe fn shrink<L: Lanes>(&mut self, row: usize, highest: f32) {
        if highest <= self.highest[row] {
            return;
        }
        let factor = (self.highest[row] - highest).exp2();
        self.highest[row] = highest;
        self.total[row] *= factor;
        let sums = self.sums[row * self.dim..][..self.dim].as_mut_ptr();
        for unit in (0..self.dim).step_by(LANES) {
            // SAFETY: `dim` is a multiple of 16; the rest is the caller's promise.
            unsafe {
                L::load(sums.add(unit))
                    .mul(L::splat(factor))
                    .store(sums.add(unit));
            };
        }
    }

    /// Adds weighted values to as many rows as the registers hold; returns how many.
    #[inline(always)]
    unsafe fn add_values<L: Lanes>(
        &mut self,
        row: usize,
        values: Wide,
        count: usize,
        weights: &[f32],
        ahead: &mut Ahead,
    ) -> usize {
        let rows = (self.visible.len() - row).min(L::ROWS);
        let weights = &weights[row * BLOCK..];
        let mut unit = 0;
        while unit < self.dim {
            let left = (self.dim - unit) / LANES;
            let sums = self.sums[row * self.dim + unit..].as_mut_ptr();
            let values = Wide {
                start: values.start.wrapping_add(unit),
                stride: values.stride,
            };
            let panel = Panel {
                sums,
                dim: self.dim,
                values,
                count,
                weights,
            };
            // SAFETY: the caller's promise; `rows` rows and `left` units exist.
            unit += LANES * unsafe { panel.run_rows::<L>(rows, left, ahead) };
        }
        rows
    }
}

/// A few rows by a few units of sixteen numbers of the weighted sums, held in registers over a block.
struct Panel<'a> {
    sums: *mut f32,
    dim: usize,
    values: Wide,
    count: usize,
    weights: &'a [f32],
}

impl Panel<'_> {
    #[inline(always)]
    unsafe fn run_rows<L: Lanes>(&self, rows: usize, units: usize, ahead: &mut Ahead) -> usize {
        // SAFETY: the caller's promise.
        unsafe {
            match rows {
                1 => self.run_units::<L, 1>(units, ahead),
                2 => self.run_units::<L, 2>(units, ahead),
                3 => self.run_units::<L, 3>(units, ahead),
                _ => self.run_units::<L, 4>(units, ahead),
            }
        }
    }

    #[inline(always)]
    unsafe fn run_units<L: Lanes, const R: usize>(&self, units: usize, ahead: &mut Ahead) -> usize {
        // SAFETY: the caller's promise.
        unsafe {
            match units {
                1 => self.run::<L, R, 1>(ahead),
                2 => self.run::<L, R, 2>(ahead),
                3 => self.run::<L, R, 3>(ahead),
                _ => self.run::<L, R, 4>(ahead),
            }
        }
        units.min(4)
    }

    #[inline(always)]
    unsafe fn run<L: Lanes, const R: usize, const U: usize>(&self, ahead: &mut Ahead) {
        // SAFETY: R rows of U units exist behind `sums`, `count` rows behind `values`, R rows of BLOCK weights.
        unsafe {
            let at = |row: usize, unit: usize| self.sums.add(row * self.dim + unit * LANES);
            let mut sums = [[L::splat(0.0); U]; R];
            for row in 0..R {
                for unit in 0..U {
                    sums[row][unit] = L::load(at(row, unit));
                }
            }
            for key in 0..self.count {
                let value = self.values.start.add(key * self.values.stride);
                ahead.step::<L>(1);
                let mut values = [L::splat(0.0); U];
                for unit in 0..U {
                    values[unit] = L::load(value.add(unit * LANES));
                }
                for row in 0..R {
                    let weight = L::splat(*self.weights.get_unchecked(row * BLOCK + key));
                    for unit in 0..U {
                        sums[row][unit] = weight.fma(values[unit], sums[row][unit]);
                    }
                }
            }
            for row in 0..R {
                for unit in 0..U {
                    sums[row][unit].store(at(row, unit));
                }
            }
        }
    }
}

/// Sixteen scores of one row.
#[inline(always)]
unsafe fn scores<L: Lanes>(query: &[f32], keys: Wide, first: usize, ahead: &mut Ahead) -> L {
    // SAFETY: BLOCK rows of `query.len()` floats may be read behind `keys`; the rest is the caller's promise.
    unsafe {
        let start = keys.start.add(first * keys.stride);
        let mut sums = [L::splat(0.0); LANES];
        for unit in (0..query.len()).step_by(LANES) {
            let part = L::load(query.as_ptr().add(unit));
            ahead.step::<L>(4);
            for key in 0..LANES {
                sums[key] = part.fma(L::load(start.add(key * keys.stride + unit)), sums[key]);
            }
        }
        L::sum_each(&sums)
    }
}

/// Turns the first `count` scores of a block into weights, and the others into none; says their sum.
#[inline(always)]
unsafe fn powers<L: Lanes>(scores: &mut [f32], count: usize, highest: f32) -> f32 {
    // SAFETY: 16 floats at each multiple of 16 below BLOCK lie in `scores`; the rest is the caller's promise.
    unsafe {
        let mut total = L::splat(0.0);
        for first in (0..BLOCK).step_by(LANES) {
            let at = scores.as_mut_ptr().add(first);
            let weight = if first < count {
                L::load(at).sub(L::splat(highest)).exp2()
            } else {
                L::splat(0.0)
            };
            weight.store(at);
            total = total.add(weight);
        }
        total.sum()
    }
}

/// Copies a block's keys or values next to each other as float32, asking for what comes next on the way. Rows past the
/// block's end are old numbers.
#[inline(always)]
unsafe fn widen<L: Lanes, T: Element>(
    keys: Keys,
    offset: usize,
    dim: usize,
    room: &mut Room<'_>,
) -> Wide {
    for key in 0..keys.count {
        let address = keys.view.key + (keys.first + key) * keys.view.stride + offset;
        let to = room.wide[key * dim..][..dim].as_mut_ptr();
        // SAFETY: the key is mapped (the caller's promise) and its `dim` numbers fit `to`; a prefetch cannot fault.
        unsafe {
            room.ahead.step::<L>(1);
            for unit in (0..dim).step_by(LANES) {
                T::load::<L>((address as *const T).add(unit)).store(to.add(unit));
            }
        }
    }
    Wide {
        start: room.wide.as_ptr(),
        stride: dim,
    }
}
