"""A region on a device as Python sees it: over simulated memory here, and what is said where there is no driver."""

import ctypes
from typing import Any

import numpy as np
import pytest
import torch
from native.ribbon_ops import CLOSE, GROW, OPEN, SHARE, apply

from ribbon_server import _native

PAGE = 1 << 16  # the simulated device's granularity
TOKENS_A_PAGE = 16


def region(**changes: Any) -> _native.Region:
    """Three slots of four pages in two bands."""
    sizes: dict[str, Any] = {
        "num_slots": 3,
        "num_storages": 4,
        "slot_tokens": 4 * TOKENS_A_PAGE,
        "stride_bytes": PAGE // TOKENS_A_PAGE,
        "num_pages": 8,
        "device": 0,
        "num_bands": 2,
        "simulated": True,
    }
    return _native.Region(**(sizes | changes))


def token(region: _native.Region, band: int, slot: int, number: int) -> np.ndarray:
    """The bytes of one token, in place."""
    size = PAGE // TOKENS_A_PAGE
    address = region.address + band * region.band_bytes + slot * region.slot_bytes + number * size
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def columns(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.uint32)


def test_every_band_shows_what_was_shared() -> None:
    shared = region()
    assert (shared.device, shared.num_bands, shared.page_bytes) == (0, 2, PAGE)
    assert shared.band_bytes == 3 * shared.slot_bytes == 12 * PAGE
    apply(shared, (OPEN, 1, 1, 0), (GROW, 1, 0, 40))
    for band in range(2):
        for number in range(40):
            token(shared, band, 1, number)[:] = 100 * band + number
    shared.fence()
    shown = apply(shared, (OPEN, 2, 2, 0), (SHARE, 2, 1, 37), (GROW, 2, 0, 41))
    assert shown[2] == 41
    for band in range(2):
        for number in range(37):
            assert (token(shared, band, 2, number) == 100 * band + number).all()
    assert shared.resident_bytes == shared.pages_used * PAGE == 4 * PAGE


def test_growth_finds_what_was_prefetched() -> None:
    ahead = region(ahead_pages=0)
    apply(ahead, (OPEN, 1, 1, 0), (GROW, 1, 0, 3))
    ahead.prefetch(columns(1, 2), columns(64, 16))
    assert ahead.settle(60.0)
    before = ahead.map_statistics()
    assert before["prefetched_pages"] == 4
    apply(ahead, (GROW, 1, 0, 64), (OPEN, 2, 2, 0), (GROW, 2, 0, 16))
    after = ahead.map_statistics()
    assert after["late_waits"] == before["late_waits"] == 1
    assert (after["inherited_pages"], after["map_calls"]) == (4, before["map_calls"])
    assert (after["idle_pages"], after["parked_pages"]) == (3, 0)
    with pytest.raises(ValueError, match="slot 3"):
        ahead.prefetch(columns(3), columns(1))
    with pytest.raises(ValueError, match="token 65"):
        ahead.prefetch(columns(1), columns(65))


def test_the_page_behind_a_growth_is_mapped_ahead() -> None:
    growing = region()
    apply(growing, (OPEN, 1, 1, 0), (GROW, 1, 0, 3))
    assert growing.settle(60.0)
    apply(growing, (GROW, 1, 0, 17))
    statistics = growing.map_statistics()
    assert (statistics["late_waits"], statistics["inherited_pages"]) == (1, 1)


def test_freed_pages_are_parked() -> None:
    parked = region(ahead_pages=0)
    apply(parked, (OPEN, 1, 1, 0), (GROW, 1, 0, 64), (CLOSE, 1, 0, 0))
    assert (parked.pages_used, parked.resident_bytes) == (0, 0)
    assert parked.map_statistics()["parked_pages"] == 4


def test_short_prefixes_may_be_copied() -> None:
    copying = region(copy_below_pages=3)
    apply(copying, (OPEN, 1, 1, 0), (GROW, 1, 0, 40), (OPEN, 2, 2, 0), (SHARE, 2, 1, 32), (GROW, 2, 0, 33))
    assert copying.map_statistics()["copied_pages"] == 2
    assert copying.aliasing


def test_a_pool_never_outgrows_what_was_created() -> None:
    sized = region()
    sized.resize_pool(2)
    with pytest.raises(_native.OutOfPages):
        apply(sized, (OPEN, 1, 1, 0), (GROW, 1, 0, 64))
    with pytest.raises(ValueError, match="num_pages is 9; 8 pages"):
        sized.resize_pool(9)


def test_simulated_memory_is_no_cuda_array() -> None:
    assert not hasattr(region(), "__cuda_array_interface__")


def test_kernels_of_the_cpu_refuse_a_device() -> None:
    apply(banded := region(), (OPEN, 1, 1, 0), (GROW, 1, 0, 4))
    with pytest.raises(ValueError, match="cannot reach a region on a device"):
        _native.Runs(banded, columns(1), columns(0, 1), columns(4))
    apply(plain := region(num_bands=1), (OPEN, 1, 1, 0), (GROW, 1, 0, 4))
    _native.Runs(plain, columns(1), columns(0, 1), columns(4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": None}, "needs `device`"),
        ({"page_bytes": PAGE + 1}, "page_bytes is 65537"),
        ({"page_bytes": 0}, "page_bytes must be"),
        ({"num_bands": 0}, "num_bands"),
        ({"num_pages": 0}, "num_pages"),
        ({"pool_of": region()}, "pool_of"),
    ],
)
def test_sizes_that_cannot_be_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        region(**changes)


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'bands'"):
        region(bands=3)


def test_a_budget_above_the_device_is_refused() -> None:
    with pytest.raises(OSError, match=r"page \d+ of .*--kv-memory"):
        region(num_pages=1 << 14)


def test_page_tables_are_measured() -> None:
    sizes = _native.cuda_memory(0, simulated=True)
    assert sizes["granularity"] == PAGE
    assert 0 < sizes["free_bytes"] <= sizes["total_bytes"]
    costs = _native.bench_map(0, page_bytes=2 * PAGE, num_pages=4, simulated=True)
    assert {"create", "map", "set_access_run", "alias_map", "unmap", "copy_page"} <= costs.keys()
    with pytest.raises(ValueError, match="page_bytes is 3"):
        _native.bench_map(0, page_bytes=3, num_pages=4, simulated=True)


def test_the_cpu_has_the_same_face() -> None:
    sizes = {"num_slots": 2, "num_storages": 2, "slot_tokens": 8, "stride_bytes": 64, "num_pages": 4}
    on_cpu = _native.Region(**sizes)
    assert (on_cpu.device, on_cpu.num_bands, on_cpu.aliasing) == (None, 1, True)
    on_cpu.fence()
    on_cpu.prefetch(columns(1), columns(8))
    assert set(on_cpu.map_statistics()) == set(region().map_statistics())
    assert not any(on_cpu.map_statistics().values())
    assert not hasattr(on_cpu, "__cuda_array_interface__")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a driver")
@pytest.mark.parametrize(
    "ask",
    [
        lambda: region(simulated=False),
        lambda: _native.cuda_memory(0),
        lambda: _native.bench_map(0, page_bytes=1 << 21, num_pages=1),
    ],
)
def test_a_machine_without_the_driver_says_so(ask: Any) -> None:
    with pytest.raises(OSError, match=r"libcuda\.so\.1"):
        ask()
