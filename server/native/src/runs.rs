//! The ragged batch of one step: which slot, which tokens, where they lie. Checked against the region before every use.

use crate::element::DType;
use crate::error::{NativeError, invalid};
use crate::region::Region;

/// One run of tokens of one slot.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The slot.
    pub slot: u32,
    /// Address of the slot's token 0.
    pub address: usize,
    /// First token of the run in the flat batch.
    pub first_query: usize,
    /// Tokens of the run.
    pub num_queries: usize,
    /// KV tokens of the slot with this run's stored: the last query sees all of them.
    pub num_tokens: usize,
}

/// All runs of a step.
#[derive(Clone, Debug)]
pub struct Batch {
    /// In the plan's order.
    pub runs: Vec<Run>,
    /// Tokens of all runs.
    pub num_queries: usize,
    /// Bytes from one token to the next in the region.
    pub stride_bytes: usize,
    /// Tokens that each query sees, its own included; none: all up to its own.
    pub window: Option<usize>,
}

/// The part of a token's KV bytes that one layer reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct LayerShape {
    /// First byte within the token.
    pub kv_offset: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads.
    pub num_kv_heads: usize,
    /// Numbers of one head.
    pub head_dim: usize,
    /// What a token keeps of each key head: 2, a key and a value, or 1 that is both.
    pub vectors: usize,
    /// Format of all of them.
    pub dtype: DType,
}

/// Head sizes the kernels accept.
const MAX_HEAD_DIM: usize = 576;

impl LayerShape {
    /// Query heads that share a key head.
    pub fn group(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    /// Checks the sizes against a token's bytes.
    ///
    /// # Errors
    /// Names what does not fit.
    pub fn check(&self, stride_bytes: usize) -> Result<(), NativeError> {
        let Self {
            kv_offset,
            num_heads,
            num_kv_heads,
            head_dim,
            vectors,
            dtype,
        } = *self;
        if num_kv_heads == 0 || num_heads == 0 || num_heads % num_kv_heads != 0 {
            return invalid(format!(
                "num_heads is {num_heads}; it must be a multiple of num_kv_heads, which is {num_kv_heads}"
            ));
        }
        if head_dim == 0 || head_dim > MAX_HEAD_DIM || head_dim % 16 != 0 {
            return invalid(format!(
                "head_dim is {head_dim}; multiples of 16 up to {MAX_HEAD_DIM} are built"
            ));
        }
        if vectors != 1 && vectors != 2 {
            return invalid(format!(
                "vectors is {vectors}; a token keeps 1 or 2 of each key head"
            ));
        }
        let end = num_kv_heads
            .checked_mul(vectors * head_dim * dtype.size())
            .and_then(|bytes| bytes.checked_add(kv_offset));
        if end.is_none_or(|end| end > stride_bytes) || kv_offset % dtype.size() != 0 {
            return invalid(format!(
                "kv_offset is {kv_offset}; {vectors} x {num_kv_heads} heads do not fit there in {stride_bytes} bytes a token"
            ));
        }
        Ok(())
    }
}

impl Batch {
    /// Reads the columns: `starts` has one entry more than `slots` and `lengths`.
    ///
    /// # Errors
    /// Names the row that cannot be.
    pub fn new(
        region: &Region,
        slots: &[u32],
        starts: &[u32],
        lengths: &[u32],
        window: Option<usize>,
    ) -> Result<Self, NativeError> {
        if starts.len() != slots.len() + 1
            || lengths.len() != slots.len()
            || starts.first() != Some(&0)
        {
            return invalid(
                "starts must begin with 0 and have one entry more than slots and lengths",
            );
        }
        if window == Some(0) {
            return invalid("window is 0; a query sees at least its own token");
        }
        let mut runs = Vec::with_capacity(slots.len());
        for (row, ((slot, length), ends)) in
            slots.iter().zip(lengths).zip(starts.windows(2)).enumerate()
        {
            let (first, end) = (ends[0] as usize, ends[1] as usize);
            if end <= first || end - first > *length as usize {
                return invalid(format!(
                    "row {row}: tokens {first} to {end} of the batch cannot end at KV length {length}"
                ));
            }
            let address = region.address() + region.layout().range_start(*slot) as usize;
            runs.push(Run {
                slot: *slot,
                address,
                first_query: first,
                num_queries: end - first,
                num_tokens: *length as usize,
            });
        }
        let num_queries = starts.last().map_or(0, |end| *end as usize);
        let batch = Self {
            runs,
            num_queries,
            stride_bytes: region.layout().stride_bytes as usize,
            window,
        };
        batch.check(region)?;
        batch.check_distinct()?;
        Ok(batch)
    }

    /// First token that the query at `position` sees.
    pub fn first_seen(&self, position: usize) -> usize {
        self.window
            .map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Every slot still shows what its run's queries see and owns what it will store.
    ///
    /// # Errors
    /// Names the row that does not.
    pub fn check(&self, region: &Region) -> Result<(), NativeError> {
        for (row, run) in self.runs.iter().enumerate() {
            let shown = region.book().shown_tokens(run.slot)?;
            let slot = region.book().slot(run.slot)?;
            let shared = slot.shared_end() as usize;
            let first = self.first_seen(run.num_tokens - run.num_queries);
            if first < slot.begin as usize {
                return invalid(format!(
                    "row {row}: slot {} has given up its first {} tokens, its window reaches back to {first}",
                    run.slot, slot.begin
                ));
            }
            if run.num_tokens > shown as usize {
                return invalid(format!(
                    "row {row}: slot {} holds {shown} tokens, not {}",
                    run.slot, run.num_tokens
                ));
            }
            if run.num_tokens - run.num_queries < shared {
                return invalid(format!(
                    "row {row}: slot {} shares {shared} tokens, which it must not write",
                    run.slot
                ));
            }
        }
        Ok(())
    }

    fn check_distinct(&self) -> Result<(), NativeError> {
        let mut slots: Vec<u32> = self.runs.iter().map(|run| run.slot).collect();
        slots.sort_unstable();
        match slots.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => invalid(format!("slot {} appears twice in a step", pair[0])),
            None => Ok(()),
        }
    }
}
