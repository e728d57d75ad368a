"""From which length on showing another ribbon's prefix beats copying it: both as the region does them, for the 8B shape."""

from __future__ import annotations

from typing import Any

import torch
from region_views import RegionSize, apply, open_region
from settings import CannotRun, Settings
from timing import wall_us

from ribbon_server import _native
from ribbon_server.kv.device import LAYERS_PER_BAND
from ribbon_server.kv.ribbons import OpKind

LAYERS, KV_HEADS, HEAD_DIM = 32, 8, 128  # Llama-3.1-8B
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
    return {"summary": summary, "layers_per_band": LAYERS_PER_BAND, "us_by_tokens": rows}


def _shared(settings: Settings, lengths: tuple[int, ...], copy_below_pages: int) -> dict[int, tuple[float, float]]:
    """Best microseconds of one SHARE and of its CLOSE, with the device's work waited for."""
    size = RegionSize(3, max(lengths), LAYERS, LAYERS_PER_BAND, KV_HEADS, HEAD_DIM)
    region = open_region(settings, size, copy_below_pages)
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
