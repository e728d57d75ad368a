//! Causal grouped-query attention of a ragged batch over the region. Knows runs and one layer's shape; not models.

mod pieces;
mod rows;
mod rule;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod units;

use crate::element::{DType, Element};
use crate::features::{self, Level};
use crate::lanes::dispatch;
use crate::runs::{Batch, LayerShape, Run};
use crate::scratch::with_scratch;
use crate::tensor::Pieces;
use crate::threads;

use pieces::{Partials, Piece, memory_len};
pub use rule::ScoreRule;
use units::{Unit, Units};

/// What one call computes, whatever the instruction set.
pub struct Problem<'a, T> {
    /// The runs.
    pub batch: &'a Batch,
    /// The layer.
    pub shape: LayerShape,
    /// [tokens, heads, head_dim]
    pub query: &'a [T],
    /// [tokens, heads, head_dim]
    pub output: Pieces<T>,
    /// Multiplies every score.
    pub scale: f32,
    /// What else the layer does to scores.
    pub rule: ScoreRule<'a>,
    /// Positions lie in chunks of so many, and a query sees no other than its own; none: one for all.
    pub chunk: Option<usize>,
}

/// Keys of one key head of one run: row t begins at `key + t * stride`, its values `value_offset` bytes later.
#[derive(Clone, Copy)]
pub struct HeadView {
    /// Address of token 0's key.
    pub key: usize,
    /// Bytes from a key to its value.
    pub value_offset: usize,
    /// Bytes from one token to the next.
    pub stride: usize,
}

impl<T: Element> Problem<'_, T> {
    /// Where a run's keys of one head lie.
    fn head(&self, run: &Run, kv_head: usize) -> HeadView {
        let head_bytes = self.shape.head_dim * size_of::<T>();
        HeadView {
            key: run.address + self.shape.kv_offset + kv_head * head_bytes,
            value_offset: (self.shape.vectors - 1) * self.shape.num_kv_heads * head_bytes,
            stride: self.batch.stride_bytes,
        }
    }

    /// First token that the query at `position` sees.
    fn first_seen(&self, position: usize) -> usize {
        let chunk = self.chunk.map_or(0, |chunk| position / chunk * chunk);
        self.batch.first_seen(position).max(chunk)
    }

    /// Where a query row of a key head begins in query and output; rows count tokens × the heads of the group.
    fn row_start(&self, run: &Run, kv_head: usize, row: usize) -> usize {
        let group = self.shape.group();
        let head = kv_head * group + row % group;
        ((run.first_query + row / group) * self.shape.num_heads + head) * self.shape.head_dim
    }
}

/// Computes the whole batch.
pub fn attention<T: Element>(problem: &Problem<'_, T>) {
    let Units {
        pieces: units,
        merges,
        num_partials,
    } = Units::new(problem);
    let mut memory = vec![0.0; num_partials * Partials::len(&problem.shape)];
    let partials = Partials::new(&mut memory, &problem.shape);
    threads::for_each(units.len(), |index| {
        compute(problem, units[index], &partials);
    });
    for merge in merges {
        partials.merge(problem, merge);
    }
}

fn compute<T: Element>(problem: &Problem<'_, T>, unit: Unit, partials: &Partials) {
    #[cfg(target_arch = "x86_64")]
    if let (
        Unit::Chunk {
            run,
            kv_head,
            first_row,
            last_row,
        },
        Some(problem),
    ) = (unit, tiled(problem))
    {
        let rows = first_row..last_row;
        let len = tiles::memory_len(&problem.shape, rows.len());
        let chunk = tiles::Chunk {
            problem,
            run: problem.batch.runs[run],
            kv_head,
            rows,
        };
        // SAFETY: `tiled` saw the instruction set; the batch was checked against the region, so the keys are mapped.
        return with_scratch(len, |memory| unsafe { chunk.run(memory) });
    }
    with_scratch(memory_len(&problem.shape, &unit), |memory| {
        dispatch(Piece {
            problem,
            unit,
            partials,
            memory,
        });
    });
}

/// The problem as one of bfloat16, if its chunks can be computed with tiles.
#[cfg(target_arch = "x86_64")]
fn tiled<'a, 'b, T: Element>(problem: &'a Problem<'b, T>) -> Option<&'a Problem<'b, half::bf16>> {
    let fits = T::DTYPE == DType::Bfloat16
        && features::level() == Level::Amx
        && tiles::fits(&problem.shape, problem.scale);
    // SAFETY: T is bf16, so both types are the same.
    fits.then(|| unsafe { &*std::ptr::from_ref(problem).cast() })
}
