"""The native module: KV region, attention, and the few kernels where torch is slower on a CPU.

Pointers are `tensor.data_ptr()` of contiguous CPU tensors, which the caller keeps alive for the call. Every function that
computes releases the GIL. `dtype` is "float32" or "bfloat16". Array arguments are C-contiguous numpy arrays (buffer protocol).
Errors: ValueError for a shape or id that cannot be, OutOfPages when the pool is exhausted, OSError from the kernel.
"""

from typing import Any

import numpy as np

class OutOfPages(Exception): ...

class Region:
    """Slots of virtual memory over physical pages (design section 3). Slot and storage 0 are reserved and always mapped.

    On the CPU the pages lie in one sparse memfd. With `device` they are memory of that CUDA device: num_pages page sets of
    num_bands pages each are created at once, and every operation applies to each band. Band b of slot s starts at address +
    b * band_bytes + s * slot_bytes; slot 0 shows one page of scratch memory in each band."""

    def __init__(
        self,
        *,
        num_slots: int,
        num_storages: int,
        slot_tokens: int,
        stride_bytes: int,
        num_pages: int,
        max_spans: int | None = None,
        pool_of: Region | None = None,
        device: int | None = None,
        num_bands: int = 1,
        page_bytes: int | None = None,
        tail_tokens: int = 0,
        copy_below_pages: int = 0,
        ahead_pages: int = 1,
        simulated: bool = False,
    ) -> None:
        """num_pages is the size of the pool; with `pool_of` it is that region's, and both draw on it. max_spans: spans of other
        storages a slot may show at once, as many as memory maps allow where it is not given.

        stride_bytes is a token's bytes in one band (the last band may hold fewer layers: it is padded). The arguments from
        num_bands on need `device`. page_bytes: a multiple of cuda_memory(device)["granularity"], which is the default.
        tail_tokens: so many tokens behind a ribbon's end are readable and finite. copy_below_pages: shared spans of fewer
        whole pages are copied instead of mapped while pages are idle. ahead_pages: a thread maps so many pages behind each
        growth, besides those that `prefetch` asks for. simulated: host memory behind a fake driver, for
        tests on a machine without a device.

        Raises OSError naming libcuda.so.1 without a driver, or the driver's call that failed; ValueError names the argument."""
    @property
    def device(self) -> int | None: ...
    @property
    def num_bands(self) -> int:
        """1 on the CPU."""
    @property
    def band_bytes(self) -> int:
        """Bytes from one band's slot 0 to the next band's: num_slots * slot_bytes."""
    @property
    def aliasing(self) -> bool:
        """Whether a page may be shown at two addresses, as probed at the start; SHARE is refused where not."""
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """uint8 [num_bands, num_slots, slot_bytes], so that torch.as_tensor(region, device="cuda") wraps it without a copy. Only
        pages a slot shows may be touched. AttributeError on the CPU."""
    def fence(self, stream: int = 0) -> None:
        """Called after a step's kernels are launched on `stream` (torch.cuda.Stream.cuda_stream), before the next apply. Pages
        that those kernels may touch are remapped only after they ended; copies are ordered behind them on that stream."""
    def prefetch(self, slot: np.ndarray, end: np.ndarray) -> None:
        """Has a thread map what each slot lacks up to token `end` (uint32 columns), so that the GROW of the next plan finds its
        pages. A hint: never raises for lack of pages, and does nothing on the CPU."""
    def settle(self, seconds: float) -> bool:
        """Waits until that thread has nothing to do, at most so long; whether it was in time. True on the CPU."""
    def map_statistics(self) -> dict[str, int]:
        """Since the start, all 0 on the CPU. Driver calls and their time: map_calls, map_ns, unmap_calls, unmap_ns,
        set_access_calls, set_access_ns. Growths that found a page not ready: late_waits, late_ns (late_ns includes the driver
        calls made then). Waits for running kernels: fence_waits, fence_ns. Page sets by how a growth got them:
        inherited_pages (already mapped there), stolen_pages (mapped elsewhere before), fresh_pages; prefetched_pages by the
        thread; copied_pages by SHARE instead of mapping. Now: parked_pages (idle but still mapped), idle_pages (all that may
        be given away, parked ones included)."""
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
        """On the CPU fstat(memfd).st_blocks * 512: what the kernel really holds. On a device the pages behind storages; parked
        ones, which any storage may take, do not count."""
    @property
    def map_count(self) -> int:
        """Extra maps that sharing has made so far."""
    @property
    def num_slots(self) -> int: ...
    @property
    def max_spans(self) -> int: ...
    def apply(
        self,
        *,
        kind: np.ndarray,
        group: np.ndarray,
        slot: np.ndarray,
        storage: np.ndarray,
        tokens: np.ndarray,
        number: int,
        shown: np.ndarray,
        begins: np.ndarray,
    ) -> None:
        """Applies those rows of RibbonOps columns whose group is `number`, in order, each wholly or not at all. A row that
        cannot be applied voids its slot: its later rows are passed over until it is closed. The first such row raises, with
        its index, once all others are applied; OSError ends the list at once, and then only `reset` is possible.

        kind and group are uint8, slot, storage and tokens uint32. shown and begins are int64 [num_slots], written for the slots
        that the rows name: tokens shown now (0 closed, -1 void), and tokens shown after the last OPEN or SHARE."""
    def resize_pool(self, num_pages: int) -> None:
        """The pool has more or fewer pages from now on; what is owned stays owned."""
    def owned_pages(self, storage: int) -> int: ...
    def shown_tokens(self, slot: int) -> int:
        """Tokens the slot may hold now: shared spans, then its own."""
    def reset(self) -> None:
        """Closes every slot and gives every page back."""

def max_maps() -> int:
    """Memory maps that all regions of the process may have together: 80 % of vm.max_map_count."""

def cuda_memory(device: int, *, simulated: bool = False) -> dict[str, int]:
    """granularity (bytes of the smallest page), recommended_granularity, free_bytes, total_bytes. OSError without a driver."""

def bench_map(device: int, *, page_bytes: int, num_pages: int, simulated: bool = False) -> dict[str, float]:
    """What the driver's calls cost, in ns a call, over num_pages pages mapped as one run: create, map, set_access (one page),
    set_access_run (the whole run in one call), alias_map, alias_set_access_run, unmap, alias_unmap, release; and zero_page,
    copy_page (device to device, waited for)."""

class Runs:
    """The ragged batch of one step, prepared once and used by every layer."""

    def __init__(
        self, region: Region, slots: np.ndarray, starts: np.ndarray, lengths: np.ndarray, window: int | None = None
    ) -> None:
        """window: tokens a query sees, its own included; all up to its own where it is None. slots uint32 [rows]; starts uint32 [rows + 1]: first query token of each row in the flat batch; lengths uint32
        [rows]: KV tokens of each row after this step's tokens are stored."""

    def rope_store(
        self,
        *,
        qkv: int,
        query_out: int,
        cos: int,
        sin: int,
        turned: int,
        kv_offset: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        vectors: int,
        dtype: str,
    ) -> None:
        """Rotates query and key of the fused projection `qkv` [tokens, (heads + vectors * kv_heads) * head_dim] (rotate-half form;
        cos and sin are float32 [tokens, turned / 2] for this step's positions; what lies behind the first `turned` numbers of a head stays), writes query to query_out
        [tokens, heads, head_dim], and key and value to each token's place in the region: layer bytes at kv_offset, then
        [vectors, kv_heads, head_dim]. vectors: 2, a key and a value, or 1 that is both."""

    def attention(
        self,
        *,
        query: int,
        output: int,
        kv_offset: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        vectors: int,
        scale: float,
        softcap: float | None,
        slopes: int,
        sinks: int,
        chunk: int | None,
        dtype: str,
    ) -> None:
        """Causal grouped-query attention of this step's tokens over the slots; output [tokens, heads, head_dim].

        softcap: scores become softcap * tanh(scores / softcap). slopes, sinks: addresses of float32 [heads], 0 for none: what
        a key's distance adds to a score, and one more score in each softmax, without a value. chunk: a query sees only the
        positions of its own chunk of so many."""

class Grammars:
    """Which tokens the grammars of constrained sequences allow next (design sections 2e and 5), by slot.

    A grammar's keyword arguments are kind ("json_schema", "regex" or "lark"), source, digest (32 bytes: equal ones are
    compiled once), start_after (a token id, or None: it holds behind the first generated token with this id) and opened_by (with
    it, start_after counts only where this is the first generated token). Compiling and filling masks happen in threads of
    their own. A grammar or tokenizer that cannot be used shows as its rows' `fault`.
    ValueError for a slot or shape that cannot be."""

    def __init__(self, *, tokenizer_json: str, vocab_size: int, end_tokens: list[int], num_slots: int) -> None:
        """end_tokens: the tokens that end a text, whatever the sequence's own stop tokens are."""
    def expect(self, *, kind: str, source: str, digest: bytes, start_after: int | None, opened_by: int | None) -> None:
        """Starts to compile a grammar that a sequence will soon bring."""
    def open(
        self,
        slot: int,
        stops: np.ndarray,
        *,
        kind: str,
        source: str,
        digest: bytes,
        start_after: int | None,
        opened_by: int | None,
    ) -> None:
        """The sequence that takes the slot follows the grammar; stops uint32 are the tokens that end it."""
    def close(self, slots: np.ndarray) -> None:
        """Slots uint32 have no grammar any more."""
    def begin(self, slots: np.ndarray, prompt: np.ndarray, known: np.ndarray, history: np.ndarray) -> None:
        """Starts on the masks of slots uint32 [rows]: each has known int64 [rows] tokens in history int32 [num_slots, width], the
        first prompt int64 [rows] of them the prompt. What a grammar has not seen yet it takes first. Slots without a grammar
        are passed over. Waits for masks that were begun before."""
    def finish(self) -> None:
        """Waits until the masks are there."""
    def apply(self, slots: np.ndarray, logits: np.ndarray) -> None:
        """Tokens that are not allowed get -inf: logits float32 [rows, vocab] of slots uint32 [rows], all with a grammar."""
    def masks(self, slots: np.ndarray, output: np.ndarray) -> None:
        """Copies masks: output uint32 [rows, mask_words], the lowest token in the lowest bit."""
    def only_stops(self, slots: np.ndarray, output: np.ndarray) -> None:
        """Whether only tokens that end the sequence are allowed: output uint8 [rows]; 0 for a slot without a grammar."""
    def fault(self, slot: int) -> str | None:
        """Why the slot's mask allows nothing."""
    def fill_ns(self, slot: int) -> int:
        """How long the slot's last mask took, its tokens and the wait for its grammar included."""
    @property
    def mask_words(self) -> int: ...

class PackedLinear:
    """y = x @ weight.T + bias of bfloat16 with a packed copy of the weight; a call of few rows reads it once at memory speed."""

    def __init__(self, weight: int, out_features: int, in_features: int, bias: int = 0) -> None:
        """Copies `weight` [out, in] and, where it is not 0, `bias` [out], both bfloat16; the originals may be freed."""
    def forward(self, x: int, output: int, rows: int) -> None:
        """x [rows, in], output [rows, out], bfloat16; rows <= max_rows."""
    @property
    def max_rows(self) -> int | None:
        """None with AMX: any number; 8 without."""

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

def mark_green(last_token: np.ndarray, size: np.ndarray, green: np.ndarray) -> None:
    """Green lists of the watermark (arXiv 2301.10226) behind each row's last token: last_token and size uint32 [rows]; green
    uint8 [rows, vocab] becomes 1 where a token is among the row's first `size` of the permutation, else 0."""

def set_num_threads(num_threads: int) -> None: ...
def num_threads() -> int: ...
def cpu_features() -> list[str]:
    """Of avx2, avx512f, avx512bf16, amx_bf16: those the kernels use."""

def set_cpu_features(limit: str) -> None:
    """Tests only: "portable", "avx2", "avx512", "avx512bf16" or "best"."""
