"""How long a sequence may be and how much KV memory there is. Arithmetic alone: what is given, what is derived, what is refused."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from ribbon_server import _native
from ribbon_server.config import KvMemory
from ribbon_server.errors import InvalidRequest
from ribbon_server.kv.layout import KvLayout, default_kv_bytes
from ribbon_server.kv.ribbons import RibbonLimits

SPARE_SLOTS = 4  # a closing slot's successor may start before the close is answered
STORAGES_PER_SLOT = 4  # those that are kept for their prefixes outnumber the writers; a number costs no memory
SPARE_STORAGES = 256
MAX_CONCURRENT = 65_536
LARGEST_BUDGET = 4096  # TGI's default for a device it does not know
IN_FLIGHT = 2  # steps whose tokens a window may hold before its front is given back
FEWEST_SPANS = 4  # turns of a chat that may be shared
UINT32_TOKENS = 2**31


@dataclass(frozen=True)
class WarmupWish:
    """What the router asks for; 0 leaves the choice to the shard."""

    max_batch_prefill_tokens: int
    max_total_tokens: int
    max_concurrent_requests: int


def ribbon_limits(
    wish: WarmupWish, layouts: Sequence[KvLayout], memory: KvMemory | None, machine_bytes: int, max_positions: int
) -> RibbonLimits:
    """The size of the groups' regions and of their pool.

    Raises:
        InvalidRequest: A wish above what the model or the memory allows, by name.
    """
    _check(wish, max_positions)
    longest = wish.max_total_tokens or max_positions
    num_slots = 1 + wish.max_concurrent_requests + SPARE_SLOTS
    page_set_bytes = layouts[0].page_set_bytes
    budget = wish.max_batch_prefill_tokens or LARGEST_BUDGET
    needed = wish.max_concurrent_requests * _pages(layouts, longest, budget) * page_set_bytes
    num_pages = _kv_bytes(memory, needed, machine_bytes) // page_set_bytes
    affordable = _affordable(layouts, num_pages, longest, budget)
    if wish.max_total_tokens == 0:
        longest = min(longest, affordable)
    if longest > affordable or longest < 2:
        raise InvalidRequest(
            f"KV memory of {num_pages * page_set_bytes} bytes holds {affordable} tokens, one sequence of `max_total_tokens` needs "
            f"{max(2, longest)}; raise `--kv-memory` or lower `--max-total-tokens`"
        )
    max_spans = _max_spans(wish.max_concurrent_requests, num_slots * len(layouts))
    return RibbonLimits(num_slots, STORAGES_PER_SLOT * num_slots + SPARE_STORAGES, longest, num_pages, max_spans)


def _pages(layouts: Sequence[KvLayout], tokens: int, budget: int) -> int:
    """Pages one sequence of `tokens` may own at once; a windowed group gives its front back between steps."""
    return sum(layout.sequence_pages(tokens, IN_FLIGHT * budget) for layout in layouts)


def _affordable(layouts: Sequence[KvLayout], num_pages: int, longest: int, budget: int) -> int:
    """The longest sequence up to `longest` that has room when it is alone."""
    return bisect_right(range(1, longest + 1), num_pages, key=lambda tokens: _pages(layouts, tokens, budget))


def _max_spans(concurrent: int, regions_slots: int) -> int:
    """Spans of other storages that every slot may show, so that the process never runs out of memory maps.

    Raises:
        InvalidRequest: They are too few to share prefixes with.
    """
    spans = _native.max_maps() // regions_slots - 1
    if spans < FEWEST_SPANS:
        raise InvalidRequest(
            f"`max_concurrent_requests` is {concurrent}; vm.max_map_count of this machine leaves {_native.max_maps()} memory maps, "
            f"and {FEWEST_SPANS + 1} are needed for each of {regions_slots} slots; lower the one or raise the other"
        )
    return spans


def _check(wish: WarmupWish, max_positions: int) -> None:
    if not 1 <= wish.max_concurrent_requests <= MAX_CONCURRENT:
        raise InvalidRequest(
            f"`max_concurrent_requests` is {wish.max_concurrent_requests}; it must be between 1 and {MAX_CONCURRENT}"
        )
    if wish.max_total_tokens == 1 or wish.max_total_tokens > max_positions:
        raise InvalidRequest(f"`max_total_tokens` is {wish.max_total_tokens}; this model takes 2 to {max_positions}")
    if wish.max_batch_prefill_tokens >= UINT32_TOKENS:
        raise InvalidRequest(
            f"`max_batch_prefill_tokens` is {wish.max_batch_prefill_tokens}; it must be below {UINT32_TOKENS}"
        )


def _kv_bytes(memory: KvMemory | None, needed: int, machine_bytes: int) -> int:
    """What the operator gave, else the least of the defaults."""
    if memory is None:
        return default_kv_bytes(needed, machine_bytes)
    if memory.num_bytes is not None:
        return memory.num_bytes
    return int((memory.fraction or 0.0) * machine_bytes)
