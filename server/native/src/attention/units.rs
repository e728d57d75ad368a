//! Cuts a batch into pieces of work for threads. Knows runs; not memory or instruction sets.

use std::ops::Range;

use crate::element::Element;

use super::Problem;

/// Keys of one piece of a decode: long sequences become several pieces, whatever the batch, so that their sums are the
/// same in every batch.
pub const DECODE_KEYS: usize = 512;
/// Query rows (tokens × query heads of a key head) of one piece of a longer run.
pub const CHUNK_ROWS: usize = 128;

/// One piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// All heads of a one-token run over keys [first, last). `partial` is its place if the run has several pieces.
    Decode {
        run: usize,
        first: usize,
        last: usize,
        partial: Option<usize>,
    },
    /// Some rows of one key head of a longer run over all keys they see.
    Chunk {
        run: usize,
        kv_head: usize,
        first_row: usize,
        last_row: usize,
    },
}

/// A run whose pieces have to be added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// The run.
    pub run: usize,
    /// Its first piece.
    pub first_partial: usize,
    /// Its pieces.
    pub count: usize,
}

/// Everything to do for one layer.
#[derive(Debug, Default)]
pub struct Units {
    /// The pieces, costly ones first.
    pub pieces: Vec<Unit>,
    /// What to add up afterwards.
    pub merges: Vec<Merge>,
    /// Number of pieces that are added up.
    pub num_partials: usize,
}

impl Units {
    /// Cuts a batch.
    pub fn new<T: Element>(problem: &Problem<'_, T>) -> Self {
        let (mut all, shape) = (Self::default(), &problem.shape);
        for (index, run) in problem.batch.runs.iter().enumerate() {
            match run.num_queries {
                1 => all.add_decode(
                    index,
                    problem.first_seen(run.num_tokens - 1)..run.num_tokens,
                ),
                queries => all.add_chunk(index, queries * shape.group(), shape.num_kv_heads),
            }
        }
        // Later rows of a chunk see more keys: starting with them leaves the small pieces for the end.
        all.pieces.reverse();
        all
    }

    fn add_decode(&mut self, run: usize, keys: Range<usize>) {
        let count = keys.len().div_ceil(DECODE_KEYS);
        let first_partial = self.num_partials;
        for piece in 0..count {
            let first = keys.start + piece * DECODE_KEYS;
            let partial = (count > 1).then_some(first_partial + piece);
            self.pieces.push(Unit::Decode {
                run,
                first,
                last: (first + DECODE_KEYS).min(keys.end),
                partial,
            });
        }
        if count > 1 {
            self.merges.push(Merge {
                run,
                first_partial,
                count,
            });
            self.num_partials += count;
        }
    }

    fn add_chunk(&mut self, run: usize, rows: usize, kv_heads: usize) {
        for first_row in (0..rows).step_by(CHUNK_ROWS) {
            let last_row = (first_row + CHUNK_ROWS).min(rows);
            self.pieces.extend((0..kv_heads).map(|kv_head| Unit::Chunk {
                run,
                kv_head,
                first_row,
                last_row,
            }));
        }
    }
}
