//! Causal grouped-query attention of a ragged batch over the region. Knows runs and one layer's shape; not models.

pub mod portable;

use crate::element::Element;
use crate::runs::{Batch, LayerShape, Run};
use crate::tensor::Pieces;
use crate::threads;

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
    pub fn head(&self, run: &Run, kv_head: usize) -> HeadView {
        let head_bytes = self.shape.head_dim * size_of::<T>();
        HeadView {
            key: run.address + self.shape.kv_offset + kv_head * head_bytes,
            value_offset: self.shape.num_kv_heads * head_bytes,
            stride: self.batch.stride_bytes,
        }
    }
}

/// Computes the whole batch.
pub fn attention<T: Element>(problem: &Problem<'_, T>) {
    let heads = problem.shape.num_kv_heads;
    let tokens: Vec<(Run, usize)> = problem
        .batch
        .runs
        .iter()
        .flat_map(|run| (0..run.num_queries).map(|query| (*run, query)))
        .collect();
    threads::for_each(tokens.len() * heads, |item| {
        let (run, query) = tokens[item / heads];
        portable::one_query(problem, &run, query, item % heads);
    });
}
