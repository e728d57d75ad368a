//! Attention in plain loops, for processors without AVX2 and as the simplest statement of the others.

use crate::element::Element;
use crate::runs::Run;

use super::{HeadView, Problem};

/// All query heads of one key head for one token of a run.
pub fn one_query<T: Element>(problem: &Problem<'_, T>, run: &Run, query: usize, kv_head: usize) {
    let (dim, group) = (problem.shape.head_dim, problem.shape.group());
    let view = problem.head(run, kv_head);
    let visible = run.num_tokens - run.num_queries + query + 1;
    for head in kv_head * group..(kv_head + 1) * group {
        let at = ((run.first_query + query) * problem.shape.num_heads + head) * dim;
        let mut sums = vec![0.0; dim];
        accumulate(
            &problem.query[at..at + dim],
            view,
            visible,
            problem.scale,
            &mut sums,
        );
        // SAFETY: each (token, head) is written by one call only.
        let output = unsafe { problem.output.piece(at, dim) };
        output
            .iter_mut()
            .zip(&sums)
            .for_each(|(out, sum)| *out = T::narrow(*sum));
    }
}

fn accumulate<T: Element>(
    query: &[T],
    view: HeadView,
    visible: usize,
    scale: f32,
    sums: &mut [f32],
) {
    let (mut highest, mut total) = (f32::NEG_INFINITY, 0.0);
    for token in 0..visible {
        let key_at = view.key + token * view.stride;
        // SAFETY: the batch was checked against the region: `visible` tokens are mapped and hold this head.
        let key = unsafe { std::slice::from_raw_parts(key_at as *const T, query.len()) };
        // SAFETY: as for the key.
        let value = unsafe {
            std::slice::from_raw_parts((key_at + view.value_offset) as *const T, query.len())
        };
        let score = scale
            * query
                .iter()
                .zip(key)
                .map(|(q, k)| q.widen() * k.widen())
                .sum::<f32>();
        if score > highest {
            let shrink = (highest - score).exp();
            sums.iter_mut().for_each(|sum| *sum *= shrink);
            (total, highest) = (total * shrink, score);
        }
        let weight = (score - highest).exp();
        total += weight;
        sums.iter_mut()
            .zip(value)
            .for_each(|(sum, v)| *sum += weight * v.widen());
    }
    sums.iter_mut().for_each(|sum| *sum /= total);
}
