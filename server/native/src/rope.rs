//! Rotary positions and the store of new keys and values into the region.

use crate::element::Element;
use crate::lanes::{Kernel, LANES, Lanes, dispatch};
use crate::runs::{Batch, LayerShape};
use crate::tensor::Pieces;
use crate::threads;

/// Tokens one thread takes at a time.
const TOKENS_PER_PIECE: usize = 16;

/// One layer's rope and store.
pub struct RopeStore<'a, T> {
    /// The runs.
    pub batch: &'a Batch,
    /// The layer.
    pub shape: LayerShape,
    /// [tokens, (heads + vectors * kv_heads) * head_dim]
    pub qkv: &'a [T],
    /// [tokens, heads, head_dim]
    pub query_out: Pieces<T>,
    /// Numbers at the front of a head that turn; the others are kept as they are.
    pub turned: usize,
    /// [tokens, turned / 2]
    pub cos: &'a [f32],
    /// [tokens, turned / 2]
    pub sin: &'a [f32],
}

/// Rotates queries and keys, writes queries out and keys and values to their tokens' places.
pub fn rope_store<T: Element>(problem: &RopeStore<'_, T>) {
    let places = places(problem.batch);
    threads::for_each(places.len().div_ceil(TOKENS_PER_PIECE), |piece| {
        let begin = piece * TOKENS_PER_PIECE;
        let end = (begin + TOKENS_PER_PIECE).min(places.len());
        (begin..end).for_each(|token| store_token(problem, token, places[token]));
    });
}

/// Address of each batch token's place in the region.
fn places(batch: &Batch) -> Vec<usize> {
    let of_run = |run: &crate::runs::Run| {
        let first = run.num_tokens - run.num_queries;
        let (address, stride) = (run.address, batch.stride_bytes);
        (first..run.num_tokens).map(move |token| address + token * stride)
    };
    batch.runs.iter().flat_map(of_run).collect()
}

fn store_token<T: Element>(problem: &RopeStore<'_, T>, token: usize, place: usize) {
    let LayerShape {
        num_heads,
        num_kv_heads,
        head_dim,
        kv_offset,
        vectors,
        ..
    } = problem.shape;
    let (queries, keys) = (num_heads * head_dim, num_kv_heads * head_dim);
    let (width, kept) = (queries + vectors * keys, vectors * keys);
    let row = &problem.qkv[token * width..][..width];
    let half = problem.turned / 2;
    let (cos, sin) = (
        &problem.cos[token * half..][..half],
        &problem.sin[token * half..][..half],
    );
    // SAFETY: each token's queries are written by one call only.
    let query_out = unsafe { problem.query_out.piece(token * queries, queries) };
    // SAFETY: the batch was checked: the slot owns this token and the layer's bytes lie inside its stride; no slot appears twice.
    let stored = unsafe { std::slice::from_raw_parts_mut((place + kv_offset) as *mut T, kept) };
    let rotate = |heads, output| {
        dispatch(Rotate {
            heads,
            output,
            head_dim,
            cos,
            sin,
        });
    };
    rotate(&row[..queries], query_out);
    rotate(&row[queries..queries + keys], &mut stored[..keys]);
    stored[keys..].copy_from_slice(&row[queries + keys..]);
}

/// Rotates the front of every head: its halves (a, b) become (a cos − b sin, b cos + a sin).
struct Rotate<'a, T> {
    heads: &'a [T],
    output: &'a mut [T],
    head_dim: usize,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl<T: Element> Kernel for Rotate<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let half = self.cos.len();
        let heads = self.heads.chunks_exact(self.head_dim);
        for (head, out) in heads.zip(self.output.chunks_exact_mut(self.head_dim)) {
            out[2 * half..].copy_from_slice(&head[2 * half..]);
            let whole = half / LANES * LANES;
            for at in (0..whole).step_by(LANES) {
                // SAFETY: `whole` numbers of each half are read and written; the rest is the caller's promise.
                unsafe {
                    let (cos, sin) = (
                        L::load(self.cos.as_ptr().add(at)),
                        L::load(self.sin.as_ptr().add(at)),
                    );
                    let a: L = T::load(head.as_ptr().add(at));
                    let b: L = T::load(head.as_ptr().add(half + at));
                    let out = out.as_mut_ptr().add(at);
                    T::store(a.mul(cos).sub(b.mul(sin)), out);
                    T::store(b.mul(cos).add(a.mul(sin)), out.add(half));
                }
            }
            for at in whole..half {
                let (a, b) = (head[at].widen(), head[half + at].widen());
                let (cos, sin) = (self.cos[at], self.sin[at]);
                out[at] = T::narrow(a * cos - b * sin);
                out[half + at] = T::narrow(b * cos + a * sin);
            }
        }
    }
}
