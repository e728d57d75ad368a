"""How long a sequence may be and how much KV memory there is. Arithmetic alone: what is given, what is derived, what is refused."""

from dataclasses import dataclass

from ribbon_server.config import KvMemory
from ribbon_server.errors import InvalidRequest
from ribbon_server.kv.layout import KvLayout, default_kv_bytes
from ribbon_server.kv.ribbons import RibbonLimits

SPARE_SLOTS = 4  # a closing slot's successor may start before the close is answered
STORAGES_PER_SLOT = 4  # those that are kept for their prefixes outnumber the writers; a number costs no memory
SPARE_STORAGES = 256
MAX_CONCURRENT = 65_536
UINT32_TOKENS = 2**31


@dataclass(frozen=True)
class WarmupWish:
    """What the router asks for; 0 leaves the choice to the shard."""

    max_batch_prefill_tokens: int
    max_total_tokens: int
    max_concurrent_requests: int


def ribbon_limits(
    wish: WarmupWish, layout: KvLayout, memory: KvMemory | None, machine_bytes: int, max_positions: int
) -> RibbonLimits:
    """The region's size.

    Raises:
        InvalidRequest: A wish above what the model or the memory allows, by name.
    """
    _check(wish, max_positions)
    longest = wish.max_total_tokens or max_positions
    num_slots = 1 + wish.max_concurrent_requests + SPARE_SLOTS
    needed = wish.max_concurrent_requests * layout.slot_pages(longest) * layout.page_set_bytes
    num_pages = _kv_bytes(memory, needed, machine_bytes) // layout.page_set_bytes
    affordable = (num_pages * layout.page_bytes) // layout.stride_bytes
    if wish.max_total_tokens == 0:
        longest = min(longest, affordable)
    if longest > affordable or longest < 2:
        raise InvalidRequest(
            f"KV memory of {num_pages * layout.page_set_bytes} bytes holds {affordable} tokens, one sequence of `max_total_tokens` needs "
            f"{max(2, longest)}; raise `--kv-memory` or lower `--max-total-tokens`"
        )
    return RibbonLimits(num_slots, STORAGES_PER_SLOT * num_slots + SPARE_STORAGES, longest, num_pages)


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
