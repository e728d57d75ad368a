//! Computes one piece of a batch in vector lanes, and adds up the pieces of long decodes.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use crate::element::Element;
use crate::lanes::{Kernel, Lanes};
use crate::runs::{LayerShape, Run};
use crate::tensor::Pieces;

use super::rows::{Ahead, BLOCK, Keys, Room, Rows, room_len};
use super::rule::ScoreRule;
use super::units::{Merge, Unit};
use super::{HeadView, Problem};

/// One piece of work, as a kernel.
pub struct Piece<'a, T> {
    /// The whole.
    pub problem: &'a Problem<'a, T>,
    /// The piece.
    pub unit: Unit,
    /// Where pieces of long decodes go.
    pub partials: &'a Partials,
    /// Working memory of `memory_len` floats. It comes from outside, because a closure is compiled on its own, without the
    /// instruction set of the kernel around it.
    pub memory: &'a mut [f32],
}

/// Floats of working memory that a piece needs.
pub fn memory_len(shape: &LayerShape, unit: &Unit) -> usize {
    match unit {
        Unit::Decode { .. } => Memory::len(shape.num_heads, shape.head_dim),
        Unit::Chunk { .. } => Memory::len(CHUNK_STEP, shape.head_dim),
    }
}

/// Rows of a chunk that are computed together in lanes.
const CHUNK_STEP: usize = 16;

impl<T: Element> Kernel for Piece<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(mut self) {
        match self.unit {
            Unit::Decode {
                run,
                first,
                last,
                partial,
            } => {
                // SAFETY: the caller's promise.
                unsafe { self.decode::<L>(run, (first, last), partial) }
            }
            Unit::Chunk {
                run,
                kv_head,
                first_row,
                last_row,
            } => {
                let run = self.problem.batch.runs[run];
                for first in (first_row..last_row).step_by(CHUNK_STEP) {
                    // SAFETY: the caller's promise.
                    unsafe {
                        self.chunk::<L>(&run, kv_head, first..(first + CHUNK_STEP).min(last_row));
                    };
                }
            }
        }
    }
}

/// Memory of `count` rows: query, sums, highest, total, and a room for one block.
struct Memory<'a> {
    query: &'a mut [f32],
    sums: &'a mut [f32],
    highest: &'a mut [f32],
    total: &'a mut [f32],
    room: Room<'a>,
}

impl<'a> Memory<'a> {
    fn len(count: usize, dim: usize) -> usize {
        2 * count * dim + 2 * count.next_multiple_of(16) + room_len(count, dim)
    }

    fn new(memory: &'a mut [f32], count: usize, dim: usize) -> Self {
        let (query, rest) = memory.split_at_mut(count * dim);
        let (sums, rest) = rest.split_at_mut(count * dim);
        let (highest, rest) = rest.split_at_mut(count.next_multiple_of(16));
        let (total, rest) = rest.split_at_mut(count.next_multiple_of(16));
        Self {
            query,
            sums,
            highest,
            total,
            room: Room::new(rest, dim),
        }
    }
}

impl<T: Element> Piece<'_, T> {
    /// All heads of one token, block of keys by block of keys, so that memory is read in its order.
    #[inline(always)]
    unsafe fn decode<L: Lanes>(
        &mut self,
        run: usize,
        keys: (usize, usize),
        partial: Option<usize>,
    ) {
        let LayerShape {
            num_heads,
            num_kv_heads,
            head_dim: dim,
            ..
        } = self.problem.shape;
        let (group, run) = (self.problem.shape.group(), self.problem.batch.runs[run]);
        let visible = vec![keys.0..run.num_tokens; group];
        let is_first = keys.0 == self.problem.first_seen(run.num_tokens - 1);
        let rule = ScoreRule {
            // One piece of several has the sink.
            sinks: self.problem.rule.sinks.filter(|_| is_first),
            ..self.problem.rule
        };
        let mut memory = Memory::new(self.memory, num_heads, dim);
        self.problem
            .load_query(self.problem.row_start(&run, 0, 0), memory.query);
        for first in (keys.0..keys.1).step_by(BLOCK) {
            let count = (keys.1 - first).min(BLOCK);
            memory.room.ahead =
                self.problem
                    .ahead(&run, first + count, (keys.1 - first - count).min(BLOCK));
            for head in 0..num_kv_heads {
                let block = Keys {
                    view: self.problem.head(&run, head),
                    first,
                    count,
                };
                let heads = head * group..(head + 1) * group;
                let seen = (&visible[..], rule.heads(heads.clone()));
                let (mut rows, room) = memory.rows(heads, seen, dim);
                if first == keys.0 {
                    rows.clear();
                }
                // SAFETY: the batch was checked against the region, so the keys are mapped; the rest is the caller's promise.
                unsafe { rows.gather::<L, T>(block, room) };
            }
        }
        match partial {
            Some(place) => self
                .partials
                .put(place, memory.highest, memory.total, memory.sums),
            None => self
                .problem
                .finish(&run, (0, 0..num_heads), memory.total, memory.sums),
        }
    }

    /// Some rows of one key head over all keys they see.
    #[inline(always)]
    unsafe fn chunk<L: Lanes>(&mut self, run: &Run, kv_head: usize, range: Range<usize>) {
        let (dim, group, count) = (
            self.problem.shape.head_dim,
            self.problem.shape.group(),
            range.len(),
        );
        let fed_before = run.num_tokens - run.num_queries;
        let visible: Vec<Range<usize>> = range
            .clone()
            .map(|row| {
                let position = fed_before + row / group;
                self.problem.first_seen(position)..position + 1
            })
            .collect();
        let (begin, last) = match (visible.first(), visible.last()) {
            (Some(first), Some(last)) => (first.start, last.end),
            _ => (0, 0),
        };
        let view: HeadView = self.problem.head(run, kv_head);
        let mut memory = Memory::new(self.memory, count, dim);
        for (index, row) in range.clone().enumerate() {
            self.problem.load_query(
                self.problem.row_start(run, kv_head, row),
                &mut memory.query[index * dim..][..dim],
            );
        }
        let heads = range.clone().map(|row| kv_head * group + row % group);
        let gathered = self.problem.rule.gathered(heads);
        let seen = (&visible[..], gathered.rule());
        let (mut rows, room) = memory.rows(0..count, seen, dim);
        rows.clear();
        for first in (begin..last).step_by(BLOCK) {
            // SAFETY: the batch was checked against the region, so the keys are mapped; the rest is the caller's promise.
            unsafe {
                rows.gather::<L, T>(
                    Keys {
                        view,
                        first,
                        count: (last - first).min(BLOCK),
                    },
                    room,
                );
            };
        }
        self.problem
            .finish(run, (kv_head, range), memory.total, memory.sums);
    }
}

impl<T: Element> Problem<'_, T> {
    /// The layer's bytes of some tokens.
    #[inline(always)]
    fn ahead(&self, run: &Run, first: usize, tokens: usize) -> Ahead {
        let stride = self.batch.stride_bytes;
        let address = run.address + self.shape.kv_offset + first * stride;
        let bytes =
            self.shape.vectors * self.shape.num_kv_heads * self.shape.head_dim * size_of::<T>();
        Ahead {
            address,
            stride,
            bytes,
            tokens,
            byte: 0,
            // One line of bfloat16, two of float32: by the time a block is computed the whole next one was asked for.
            pace: 32 * size_of::<T>(),
        }
    }

    /// Widened, times scale and log2(e).
    #[inline(always)]
    fn load_query(&self, start: usize, query: &mut [f32]) {
        let factor = self.scale * LOG2_E;
        let stored = &self.query[start..start + query.len()];
        query
            .iter_mut()
            .zip(stored)
            .for_each(|(wide, stored)| *wide = stored.widen() * factor);
    }

    /// Divides by the weights and writes rows of a key head out. All heads of a one-token run are rows of key head 0.
    #[inline(always)]
    fn finish(&self, run: &Run, rows: (usize, Range<usize>), total: &[f32], sums: &[f32]) {
        let dim = self.shape.head_dim;
        let (kv_head, range) = rows;
        for (index, row) in range.enumerate() {
            let start = match run.num_queries {
                1 => (run.first_query * self.shape.num_heads + row) * dim,
                _ => self.row_start(run, kv_head, row),
            };
            // SAFETY: each row is written by one piece only.
            let output = unsafe { self.output.piece(start, dim) };
            divide(&sums[index * dim..][..dim], total[index], output);
        }
    }
}

#[inline(always)]
fn divide<T: Element>(sums: &[f32], total: f32, output: &mut [T]) {
    let factor = 1.0 / total;
    output
        .iter_mut()
        .zip(sums)
        .for_each(|(out, sum)| *out = T::narrow(sum * factor));
}

impl<'a> Memory<'a> {
    fn rows<'b>(
        &'b mut self,
        range: Range<usize>,
        seen: (&'b [Range<usize>], ScoreRule<'b>),
        dim: usize,
    ) -> (Rows<'b>, &'b mut Room<'a>) {
        let (visible, rule) = seen;
        let numbers = range.start * dim..range.end * dim;
        let rows = Rows {
            query: &self.query[numbers.clone()],
            visible,
            rule,
            highest: &mut self.highest[range.clone()],
            total: &mut self.total[range],
            sums: &mut self.sums[numbers],
            dim,
        };
        (rows, &mut self.room)
    }
}

/// What the pieces of long decodes have gathered: per piece highest, total and sums of all heads.
pub struct Partials {
    memory: Pieces<f32>,
    heads: usize,
    dim: usize,
}

impl Partials {
    /// Floats of one piece.
    pub fn len(shape: &LayerShape) -> usize {
        shape.num_heads * (shape.head_dim + 2)
    }

    /// Over memory for all pieces.
    pub fn new(memory: &mut [f32], shape: &LayerShape) -> Self {
        Self {
            memory: Pieces::new(memory),
            heads: shape.num_heads,
            dim: shape.head_dim,
        }
    }

    fn piece(&self, place: usize) -> (&mut [f32], &mut [f32], &mut [f32]) {
        let len = self.heads * (self.dim + 2);
        // SAFETY: each place is written by one piece of work, and read only after all of them are done.
        let memory = unsafe { self.memory.piece(place * len, len) };
        let (highest, rest) = memory.split_at_mut(self.heads);
        let (total, sums) = rest.split_at_mut(self.heads);
        (highest, total, sums)
    }

    fn put(&self, place: usize, highest: &[f32], total: &[f32], sums: &[f32]) {
        let piece = self.piece(place);
        piece.0.copy_from_slice(&highest[..self.heads]);
        piece.1.copy_from_slice(&total[..self.heads]);
        piece.2.copy_from_slice(sums);
    }

    /// Adds up a run's pieces and writes the output.
    pub fn merge<T: Element>(&self, problem: &Problem<'_, T>, merge: Merge) {
        let run = problem.batch.runs[merge.run];
        let start = run.first_query * self.heads * self.dim;
        let (highest, total, sums) = self.piece(merge.first_partial);
        for place in merge.first_partial + 1..merge.first_partial + merge.count {
            let (other_highest, other_total, other_sums) = self.piece(place);
            for head in 0..self.heads {
                let top = highest[head].max(other_highest[head]);
                let (mine, other) = (
                    (highest[head] - top).exp2(),
                    (other_highest[head] - top).exp2(),
                );
                highest[head] = top;
                total[head] = total[head] * mine + other_total[head] * other;
                let numbers = head * self.dim..(head + 1) * self.dim;
                let pair = sums[numbers.clone()].iter_mut().zip(&other_sums[numbers]);
                pair.for_each(|(sum, more)| *sum = *sum * mine + more * other);
            }
        }
        for head in 0..self.heads {
            // SAFETY: all pieces are done; nothing else writes this run's output.
            let output = unsafe { problem.output.piece(start + head * self.dim, self.dim) };
            divide(&sums[head * self.dim..][..self.dim], total[head], output);
        }
    }
}
