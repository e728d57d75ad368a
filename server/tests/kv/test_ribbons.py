"""The byte layout, the limits derived from it, and the slots' view of the region."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ribbon_server import _native
from ribbon_server.config import KvMemory
from ribbon_server.engine.limits import SPARE_SLOTS, WarmupWish, ribbon_limits
from ribbon_server.errors import InvalidRequest, KvMemoryLost, OutOfPages
from ribbon_server.kv.layout import DEFAULT_MAX_BYTES, PAGE_BYTES, LayerShape, default_kv_bytes, kv_layout
from ribbon_server.kv.ribbons import VOID, OpKind, RibbonLimits, RibbonOps, Ribbons

GIB = 2**30


@given(
    st.lists(st.builds(LayerShape, st.integers(1, 16), st.integers(1, 256)), min_size=1, max_size=40),
    st.sampled_from([2, 4]),
)
def test_layers_lie_one_behind_the_other_inside_an_aligned_stride(layers, itemsize) -> None:
    layout = kv_layout(layers, itemsize)
    ends = [offset + layer.elements * itemsize for offset, layer in zip(layout.layer_offsets, layers, strict=True)]
    assert list(layout.layer_offsets) == [0, *ends[:-1]]
    assert layout.stride_bytes % 64 == 0
    assert 0 <= layout.stride_bytes - ends[-1] < 64
    assert layout.slot_pages(100) * PAGE_BYTES >= 100 * layout.stride_bytes > (layout.slot_pages(100) - 1) * PAGE_BYTES


def test_the_bundled_shape_needs_3072_bytes_a_token() -> None:
    assert kv_layout([LayerShape(2, 64)] * 6, 2).stride_bytes == 3072


@pytest.mark.parametrize(
    ("needed", "machine", "taken"),
    [(GIB, 64 * GIB, GIB), (9 * GIB, 64 * GIB, DEFAULT_MAX_BYTES), (9 * GIB, GIB, int(0.4 * GIB))],
)
def test_the_default_memory_is_the_least_of_three(needed: int, machine: int, taken: int) -> None:
    assert default_kv_bytes(needed, machine) == taken


LAYOUT = kv_layout([LayerShape(2, 64)] * 6, 2)


def limits(
    memory: KvMemory | None = None,
    *,
    budget: int = 0,
    total: int = 0,
    concurrent: int = 128,
    machine: int = 64 * GIB,
    layouts=(),
) -> RibbonLimits:
    return ribbon_limits(WarmupWish(budget, total, concurrent), layouts or [LAYOUT], memory, machine, 4096)


def test_limits_left_open_come_from_the_model_and_its_need() -> None:
    given = limits()
    assert given.slot_tokens == 4096
    assert given.num_slots == 1 + 128 + SPARE_SLOTS
    assert given.num_storages == 4 * given.num_slots + 256
    assert given.num_pages == 128 * LAYOUT.slot_pages(4096)


def test_scarce_memory_shortens_the_longest_sequence_unless_it_was_asked_for() -> None:
    memory = KvMemory(num_bytes=3072 * 1000)
    assert limits(memory).slot_tokens == 1000
    with pytest.raises(
        InvalidRequest, match=r"holds 1000 tokens.*needs 2000; raise `--kv-memory` or lower `--max-total-tokens`"
    ):
        limits(memory, total=2000)


def test_a_fraction_is_one_of_the_memory_there_is() -> None:
    assert limits(KvMemory(fraction=0.25), machine=GIB).num_pages == GIB // 4 // PAGE_BYTES


@pytest.mark.parametrize(
    ("wish", "name"),
    [
        ({"total": 5000}, "max_total_tokens"),
        ({"total": 1}, "max_total_tokens"),
        ({"concurrent": 0}, "max_concurrent_requests"),
        ({"budget": 2**31}, "max_batch_prefill_tokens"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused_by_name(wish: dict[str, int], name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"`{name}` is"):
        limits(**wish)


WINDOWED = replace(LAYOUT, window=100)


def test_a_window_needs_no_more_pages_than_it_keeps() -> None:
    """100 seen, 256 of margin and two steps' tokens; the first of them may lie inside a page."""
    assert WINDOWED.sequence_pages(500, 2 * 64) == LAYOUT.slot_pages(100 + 256 + 128) + 1
    assert WINDOWED.sequence_pages(480, 2 * 64) == LAYOUT.slot_pages(480)
    assert WINDOWED.sequence_pages(10**6, 2 * 64) == WINDOWED.sequence_pages(500, 2 * 64)
    assert LAYOUT.sequence_pages(500, 2 * 64) == LAYOUT.slot_pages(500)


def test_a_windowed_model_takes_longer_sequences_into_the_same_memory() -> None:
    memory = KvMemory(num_bytes=3072 * 1000)
    assert limits(memory, budget=64, layouts=[WINDOWED]).slot_tokens == 4096
    assert limits(memory, budget=64, layouts=[LAYOUT]).slot_tokens == 1000
    both = limits(memory, budget=64, layouts=[WINDOWED, LAYOUT])
    kept = WINDOWED.sequence_pages(4096, 128)
    assert kept + LAYOUT.slot_pages(both.slot_tokens) <= 750 < kept + LAYOUT.slot_pages(both.slot_tokens + 1)


def test_slots_never_need_more_memory_maps_than_there_are() -> None:
    most = _native.max_maps()
    for layouts in ([LAYOUT], [WINDOWED, LAYOUT]):
        given = limits(concurrent=500, layouts=layouts)
        assert given.num_slots * (1 + given.max_spans) * len(layouts) <= most
    with pytest.raises(InvalidRequest, match=r"`max_concurrent_requests` is \d+; vm\.max_map_count"):
        limits(concurrent=min(65_536, most // 4))


@pytest.fixture
def ribbons() -> Ribbons:
    return Ribbons([LAYOUT], RibbonLimits(num_slots=4, num_storages=8, slot_tokens=100, num_pages=100))


operations = RibbonOps.of


def test_what_a_slot_shows_follows_its_operations(ribbons: Ribbons) -> None:
    ribbons.apply(
        operations((OpKind.OPEN, 1, 1, 0), (OpKind.GROW, 1, 0, 10), (OpKind.OPEN, 2, 2, 0), (OpKind.GROW, 2, 0, 7))
    )
    assert ribbons.shown.tolist() == [0, 10, 7, 0]
    ribbons.apply(
        operations((OpKind.CLOSE, 1, 0, 1), (OpKind.OPEN, 3, 1, 6), (OpKind.OPEN, 1, 3, 0), (OpKind.GROW, 1, 0, 50))
    )
    assert ribbons.shown.tolist() == [0, 50, 7, 6]
    ribbons.apply(operations((OpKind.GROW, 2, 0, 20), (OpKind.CLOSE, 2, 0, 0)))
    assert ribbons.shown.tolist() == [0, 50, 0, 6]
    for slot in (1, 3):
        assert ribbons.groups[0].region.shown_tokens(slot) == ribbons.shown[slot]


def test_a_refused_operation_voids_its_slot_and_no_other(ribbons: Ribbons) -> None:
    with pytest.raises(InvalidRequest, match=r"ribbon operation 2 \(grow\): slot 3 is not open"):
        ribbons.apply(
            operations(
                (OpKind.OPEN, 1, 1, 0),
                (OpKind.GROW, 1, 0, 10),
                (OpKind.GROW, 3, 0, 10),
                (OpKind.GROW, 1, 0, 40),
                (OpKind.OPEN, 3, 3, 0),
            )
        )
    assert ribbons.shown.tolist() == [0, 40, 0, VOID]
    ribbons.apply(operations((OpKind.GROW, 3, 0, 10), (OpKind.GROW, 1, 0, 41)))  # passed over where it is void
    assert ribbons.shown.tolist() == [0, 41, 0, VOID]
    ribbons.apply(operations((OpKind.CLOSE, 3, 0, 0), (OpKind.OPEN, 3, 3, 0), (OpKind.GROW, 3, 0, 5)))
    assert ribbons.shown.tolist() == [0, 41, 0, 5]


def test_what_a_plan_gives_up_is_given_up_although_the_plan_fails(ribbons: Ribbons) -> None:
    ribbons.apply(operations(*((OpKind.OPEN, slot, slot, 0) for slot in (1, 2)), (OpKind.GROW, 1, 0, 60)))
    ribbons.resize_pool(0)
    with pytest.raises(OutOfPages, match=r"operation 0 \(grow\)"):
        ribbons.apply(
            operations(
                (OpKind.GROW, 2, 0, 50), (OpKind.CLOSE, 1, 0, 1), (OpKind.TRUNCATE, 0, 1, 4), (OpKind.OPEN, 3, 1, 4)
            )
        )
    assert ribbons.shown.tolist() == [0, 0, VOID, 4]
    assert ribbons.pages_used == 3
    ribbons.resize_pool(100)
    ribbons.apply(operations((OpKind.CLOSE, 2, 0, 0), (OpKind.CLOSE, 3, 0, 0)))
    assert (ribbons.pages_used, ribbons.resident_bytes) == (0, 0)


def test_a_slot_behind_a_chain_begins_where_its_own_tokens_end(ribbons: Ribbons) -> None:
    ribbons.apply(
        operations(
            (OpKind.OPEN, 1, 1, 0),
            (OpKind.GROW, 1, 0, 21),
            (OpKind.OPEN, 2, 2, 0),
            (OpKind.SHARE, 2, 1, 21),
            (OpKind.GROW, 2, 0, 40),
        )
    )
    assert ribbons.begins[2] == 21
    ribbons.apply(
        operations((OpKind.CLOSE, 2, 0, 1), (OpKind.OPEN, 3, 2, 30), (OpKind.SHARE, 3, 1, 21), (OpKind.GROW, 3, 0, 50))
    )
    assert (ribbons.begins[2], ribbons.begins[3], ribbons.shown[3]) == (0, 30, 50)


def test_a_failed_memory_call_is_no_failed_step(ribbons: Ribbons) -> None:
    class Refusing:
        def apply(self, **_: object) -> None:
            raise OSError(12, "populating pages: Cannot allocate memory")

    ribbons.groups[0].region = Refusing()
    with pytest.raises(KvMemoryLost, match="Cannot allocate memory"):
        ribbons.apply(operations((OpKind.OPEN, 1, 1, 0)))


def test_an_unknown_group_fails_without_touching_the_others(ribbons: Ribbons) -> None:
    plan = operations((OpKind.OPEN, 1, 1, 0), (OpKind.OPEN, 2, 2, 0))
    plan.group[1] = 7
    with pytest.raises(InvalidRequest, match="ribbon operation 1: group is 7"):
        ribbons.apply(plan)
    ribbons.apply(operations((OpKind.GROW, 1, 0, 5)))
    assert ribbons.shown.tolist() == [0, 5, 0, 0]


def test_an_exhausted_pool_says_so() -> None:
    ribbons = Ribbons([LAYOUT], RibbonLimits(num_slots=4, num_storages=8, slot_tokens=100, num_pages=60))
    with pytest.raises(OutOfPages):
        ribbons.apply(operations((OpKind.OPEN, 1, 1, 0), (OpKind.GROW, 1, 0, 100)))
    assert ribbons.shown[1] == VOID
    assert ribbons.pages_used == 0


def test_a_slot_void_in_one_group_leaves_the_plans_of_others_alone() -> None:
    ribbons = Ribbons([LAYOUT, LAYOUT], RibbonLimits(num_slots=4, num_storages=8, slot_tokens=100, num_pages=60))
    both = operations(
        *((OpKind.OPEN, slot, slot, 0) for slot in (1, 1, 2, 2)), (OpKind.GROW, 2, 0, 50), (OpKind.GROW, 2, 0, 50)
    )
    both.group[1::2] = 1
    with pytest.raises(OutOfPages):  # 38 pages fit one group, not both
        ribbons.apply(both)
    assert ribbons.shown.tolist() == [0, 0, VOID, 0]
    for end in (5, 9):
        growth = operations((OpKind.GROW, 1, 0, end), (OpKind.GROW, 1, 0, end))
        growth.group[1] = 1
        ribbons.apply(growth)
        assert ribbons.shown.tolist() == [0, end, VOID, 0]
    closing = operations((OpKind.CLOSE, 2, 0, 0), (OpKind.CLOSE, 2, 0, 0))
    closing.group[1] = 1
    ribbons.apply(closing)
    assert ribbons.shown.tolist() == [0, 9, 0, 0]


def test_what_one_group_gives_up_another_gets_in_the_same_plan() -> None:
    ribbons = Ribbons([LAYOUT, LAYOUT], RibbonLimits(num_slots=4, num_storages=8, slot_tokens=100, num_pages=60))
    filling = operations(*((OpKind.OPEN, 1, 1, 0), (OpKind.GROW, 1, 0, 40)) * 2)
    filling.group[2:] = 1
    ribbons.apply(filling)
    assert ribbons.pages_used == 60
    trim, grow = (OpKind.TRIM_FRONT, 1, 0, 20), (OpKind.GROW, 2, 0, 20)
    moving = operations(trim, (OpKind.OPEN, 2, 2, 0), (OpKind.OPEN, 2, 2, 0), grow)
    moving.group[:2] = 1
    ribbons.apply(moving)
    assert [group.region.pages_used for group in ribbons.groups] == [30 + 15, 15]


def test_the_view_is_the_region_itself(ribbons: Ribbons) -> None:
    ribbons.apply(operations((OpKind.OPEN, 2, 2, 0), (OpKind.GROW, 2, 0, 100)))
    view = ribbons.groups[0].view(torch.bfloat16)
    assert view.shape == (4, 100, LAYOUT.stride_bytes // 2)
    assert (
        view[2, 3].data_ptr()
        == ribbons.groups[0].region.address + 2 * ribbons.groups[0].region.slot_bytes + 3 * LAYOUT.stride_bytes
    )
    view[2, 99] = 1.5
    assert ribbons.resident_bytes > 0
    assert float(view[2, 99].float().sum()) == 1.5 * LAYOUT.stride_bytes / 2
