"""The native module: KV region, attention, and the few kernels where torch is slower on a CPU.

Pointers are `tensor.data_ptr()` of contiguous CPU tensors, which the caller keeps alive for the call. Every function that
computes releases the GIL. `dtype` is "float32" or "bfloat16". Array arguments are C-contiguous numpy arrays (buffer protocol).
Errors: ValueError for a shape or id that cannot be, OutOfPages when the pool is exhausted, OSError from the kernel.
"""

import numpy as np

class OutOfPages(Exception): ...

class Region:
    """Slots of virtual memory over one sparse memfd (design section 3). Slot and storage 0 are reserved and always mapped."""

    def __init__(
        self, *, num_slots: int, num_storages: int, slot_tokens: int, stride_bytes: int, num_pages: int
    ) -> None: ...
    @property
    def address(self) -> int:
        """Of slot 0. Slot s starts at address + s * slot_bytes."""
    @property
    def slot_bytes(self) -> int: ...
    @property
    def page_bytes(self) -> int: ...
    @property
    def pages_available(self) -> int: ...
    @property
    def pages_used(self) -> int:
        """By our own account."""
    @property
    def resident_bytes(self) -> int:
        """fstat(memfd).st_blocks * 512: what the kernel really holds."""
    @property
    def map_count(self) -> int:
        """Extra maps that sharing has made so far."""
    def apply(self, kind: np.ndarray, slot: np.ndarray, storage: np.ndarray, tokens: np.ndarray) -> None:
        """Applies RibbonOps columns in order: uint8 kinds, uint32 rest. All or nothing for each operation; the first that
        cannot be done raises and names its index; earlier ones stay applied."""
    def owned_pages(self, storage: int) -> int: ...
    def shown_tokens(self, slot: int) -> int:
        """Tokens the slot may hold now: shared spans, then its own."""
    def reset(self) -> None:
        """Closes every slot and gives every page back."""

class Runs:
    """The ragged batch of one step, prepared once and used by every layer."""

    def __init__(self, region: Region, slots: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
        """slots uint32 [rows]; starts uint32 [rows + 1]: first query token of each row in the flat batch; lengths uint32
        [rows]: KV tokens of each row after this step's tokens are stored."""

    def rope_store(
        self,
        *,
        qkv: int,
        query_out: int,
        cos: int,
        sin: int,
        kv_offset: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: str,
    ) -> None:
        """Rotates query and key of the fused projection `qkv` [tokens, (heads + 2 * kv_heads) * head_dim] (rotate-half form;
        cos and sin are float32 [tokens, head_dim / 2] for this step's positions), writes query to query_out
        [tokens, heads, head_dim], and key and value to each token's place in the region: layer bytes at kv_offset, then
        [2, kv_heads, head_dim]."""

    def attention(
        self,
        *,
        query: int,
        output: int,
        kv_offset: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        scale: float,
        dtype: str,
    ) -> None:
        """Causal grouped-query attention of this step's tokens over the slots; output [tokens, heads, head_dim]."""

class PackedLinear:
    """y = x @ weight.T for few rows of bfloat16, reading a packed copy of the weight once at memory speed."""

    def __init__(self, weight: int, out_features: int, in_features: int) -> None:
        """Copies `weight` [out, in] bfloat16 into its own layout; the original may be freed."""
    def forward(self, x: int, output: int, rows: int) -> None:
        """x [rows, in], output [rows, out], bfloat16; rows <= max_rows: 16 with AMX, 8 without."""
    @property
    def max_rows(self) -> int: ...

def rms_norm(*, x: int, residual: int, weight: int, output: int, rows: int, dim: int, eps: float, dtype: str) -> None:
    """If residual is not 0: residual += x in place, and output = norm(residual) * weight; else output = norm(x) * weight.
    Sums in float32."""

def silu_mul(*, gate_up: int, output: int, rows: int, dim: int, dtype: str) -> None:
    """gate_up [rows, 2 * dim] -> output [rows, dim] = silu(gate) * up."""

def sample(
    *,
    logits: np.ndarray,
    greedy: np.ndarray,
    temperature: np.ndarray,
    top_k: np.ndarray,
    top_p: np.ndarray,
    min_p: np.ndarray,
    typical_p: np.ndarray,
    seed: np.ndarray,
    position: np.ndarray,
    choice: np.ndarray,
    num_top: np.ndarray,
    token_id: np.ndarray,
    logprob: np.ndarray,
    top_token_id: np.ndarray,
    top_logprob: np.ndarray,
    top_count: np.ndarray,
    status: np.ndarray | None = None,
) -> None:
    """Filters, noise, argmax and logprobs for all rows in one call (design section 4, rule 1).

    logits float32 [rows, vocab], already through the processors, not divided by temperature; changed in place.
    Per row: greedy uint8, temperature top_p min_p typical_p float32, top_k uint32 (0 off), seed uint64, position uint32 (index
    of the new token in its history), choice uint32, num_top uint32. Outputs: token_id uint32 [rows], logprob float32 [rows],
    top_token_id uint32 and top_logprob float32 [rows, max_top], top_count uint32 [rows]: ties at the n-th place extend the
    list up to max_top. status uint8 [rows], optional: 0 a token was picked, 1 a logit is NaN, 2 a logit is +inf, 3 every logit
    is -inf, 4 a parameter is out of range (token_id is 0 then). Faulty rows never hurt the others; without `status` the first
    one raises ValueError after the others are done. Ties at a filter's bound are all kept."""

def gumbel_noise(seed: int, position: int, choice: int, token_ids: np.ndarray, output: np.ndarray) -> None:
    """The noise of single tokens, for golden vectors: uint32 [n] -> float32 [n]."""

def set_num_threads(num_threads: int) -> None: ...
def num_threads() -> int: ...
def cpu_features() -> list[str]:
    """Of avx2, avx512f, avx512bf16, amx_bf16: those the kernels use."""

def set_cpu_features(limit: str) -> None:
    """Tests only: "portable", "avx2", "avx512", "avx512bf16" or "best"."""
