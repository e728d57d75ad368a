"""From which length on showing another ribbon's prefix beats copying it: both as the region does them, for the 8B shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from settings import CannotRun, Settings
from timing import wall_us

from ribbon_server import _native
from ribbon_server.kv.device import LAYERS_PER_BAND
from ribbon_server.kv.ribbons import OpKind

TOKEN_BYTES = 128 * 2**10  # Llama-3.1-8B in bfloat16
NUM_BANDS = 32 // LAYERS_PER_BAND
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
LAPS = 5
NEVER_MAPPED = 2**31 - 1


def run(settings: Settings) -> dict[str, Any]:
    """Microseconds of SHARE by mapping and by copying, and of giving the slot back.

    Raises:
        CannotRun: The native module has no CUDA region, no driver answers, or pages cannot be shown twice.
    """
    lengths = LENGTHS[:2] if settings.tiny else LENGTHS
    shown, copied = (_shared(settings, lengths, copy_below_pages=below) for below in (0, NEVER_MAPPED))
    rows = {
        length: {"map_us": shown[length][0], "copy_us": copied[length][0], "give_back_us": shown[length][1]}
        for length in lengths
    }
    wins = [length for length, row in rows.items() if row["map_us"] < row["copy_us"]]
    summary = {"mapping_wins_from_tokens": min(wins) if wins else None, str(lengths[-1]): rows[lengths[-1]]}
    return {"summary": summary, "token_bytes": TOKEN_BYTES, "bands": NUM_BANDS, "us_by_tokens": rows}


def _shared(settings: Settings, lengths: tuple[int, ...], copy_below_pages: int) -> dict[int, tuple[float, float]]:
    """Best microseconds of one SHARE and of its CLOSE, with the device's work waited for."""
    region = _region(settings, max(lengths), copy_below_pages)
    if not region.aliasing:
        raise CannotRun("this device does not show one page at two addresses")
    apply(region, (OpKind.OPEN, 1, 1, 0), (OpKind.GROW, 1, 0, max(lengths)))
    best = {}
    for length in lengths:
        times = []
        for _ in range(LAPS):
            apply(region, (OpKind.OPEN, 2, 2, 0))
            share = wall_us(lambda end=length: _waited(settings, region, (OpKind.SHARE, 2, 1, end)))  # type: ignore[misc]
            close = wall_us(lambda: _waited(settings, region, (OpKind.CLOSE, 2, 0, 0)))
            times.append((round(share, 1), round(close, 1)))
        best[length] = (min(share for share, _ in times), min(close for _, close in times))
    return best


def _waited(settings: Settings, region: _native.Region, operation: tuple[int, int, int, int]) -> None:
    apply(region, operation)
    if settings.on_cuda:
        torch.cuda.synchronize(settings.device)


def _region(settings: Settings, tokens: int, copy_below_pages: int) -> _native.Region:
    index = settings.device.index or 0
    stride = TOKEN_BYTES // NUM_BANDS
    try:
        page_bytes = _native.cuda_memory(index, simulated=not settings.on_cuda)["granularity"]
        return _native.Region(
            num_slots=4,
            num_storages=8,
            slot_tokens=-(-tokens * stride // page_bytes) * page_bytes // stride,
            stride_bytes=stride,
            num_pages=3 * (-(-tokens * stride // page_bytes) + 1),
            device=index,
            num_bands=NUM_BANDS,
            page_bytes=page_bytes,
            copy_below_pages=copy_below_pages,
            simulated=not settings.on_cuda,
        )
    except (AttributeError, TypeError, OSError) as error:
        raise CannotRun(f"the native module's CUDA region: {error}") from error


def apply(region: _native.Region, *operations: tuple[int, int, int, int]) -> None:
    """Applies (kind, slot, storage, tokens) rows.

    Raises:
        ValueError: The region refuses one.
    """
    rows = np.array(operations, np.uint32).reshape(-1, 4)
    shown = np.zeros(region.num_slots, np.int64)
    region.apply(
        kind=rows[:, 0].astype(np.uint8),
        group=np.zeros(len(rows), np.uint8),
        slot=rows[:, 1].copy(),
        storage=rows[:, 2].copy(),
        tokens=rows[:, 3].copy(),
        number=0,
        shown=shown,
        begins=np.zeros_like(shown),
    )
