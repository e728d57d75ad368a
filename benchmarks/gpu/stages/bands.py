"""What it costs attention that several layers of a token lie together: decodes over bands of all, 8, 4 and 1 layer(s) against plain
contiguous keys and values, in one buffer that every layout views in its own way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from region_views import RegionSize, layer_views, open_region
from settings import CannotRun, Settings
from timing import median_us
from torch import Tensor

from ribbon_server.layers.attention.base import AttentionShape
from ribbon_server.layers.attention.flash import flash_runs
from ribbon_server.layers.attention.ragged import RaggedBatch

SHAPE = AttentionShape(32, 8, 128, 128**-0.5, 0, 0)  # Llama-3.1-8B
LAYERS = 32
BANDS = (32, 8, 4, 1)
BATCHES = (1, 8, 32, 64, 128, 256)
CONTEXTS = (128, 1024, 4096, 32768)
REGION_CASES = (
    (8, 4096),
    (32, 4096),
    (128, 1024),
)  # batch and context that are also tried on pages of the native region
REGION_BANDS = (32, 4)
CHUNK = (4, 4096, 512)  # batch, context and run of the one case with a prefill chunk
MEMORY_SHARE = 0.6
SLOWER_AT_MOST = 1.05  # the stop rule of the design's section 3


@dataclass(frozen=True)
class Case:
    """One batch of equal rows."""

    batch: int
    context: int
    run: int
    layers: int
    shape: AttentionShape

    @property
    def token_elements(self) -> int:
        """Of one layer of one token."""
        return 2 * self.shape.num_kv_heads * self.shape.head_dim

    @property
    def elements(self) -> int:
        """Of all layers of all rows."""
        return self.batch * self.context * self.layers * self.token_elements


def run(settings: Settings) -> dict[str, Any]:
    """Microseconds a layer of every case and layout, and each layout's time as a multiple of the plain one's.

    Raises:
        CannotRun: Not even the smallest case fits.
    """
    room = _room(settings)
    cases = [case for case in all_cases(settings) if case.elements <= room]
    if not cases:
        raise CannotRun(f"{room} free elements are too few for any case")
    buffer = _filled(max(case.elements for case in cases), settings.device)
    rows = [measured(settings, case, buffer) for case in cases]
    left_out = len(all_cases(settings)) - len(cases)
    return {"summary": {**verdict(rows), "cases": len(rows), "left_out_for_memory": left_out}, "rows": rows}


def all_cases(settings: Settings) -> list[Case]:
    """Decodes of every batch and context, and one prefill chunk."""
    if settings.tiny:
        shape = AttentionShape(4, 2, 16, 0.25, 0, 0)
        return [Case(2, 40, 1, 8, shape), Case(2, 40, 8, 8, shape)]
    decodes = [Case(batch, context, 1, LAYERS, SHAPE) for context in CONTEXTS for batch in BATCHES]
    batch, context, chunk = CHUNK
    return [*decodes, Case(batch, context, chunk, LAYERS, SHAPE)]


def measured(settings: Settings, case: Case, buffer: Tensor) -> dict[str, Any]:
    """One case in every layout."""
    query = torch.randn(
        (case.batch * case.run, case.shape.num_heads, case.shape.head_dim), device=settings.device, dtype=torch.bfloat16
    )
    batch = _batch(case, settings.device)
    layouts = {"plain": plain_views(case, buffer)}
    layouts |= {f"band of {size}": band_views(case, buffer, size) for size in BANDS if size <= case.layers}
    times = {name: _a_layer_us(settings, case, query, batch, views) for name, views in layouts.items()}
    left_out = {}
    try:
        times |= region_times(settings, case, query, batch)
    except CannotRun as error:
        left_out = {"region_left_out": str(error)}
    read = case.elements // case.layers * buffer.itemsize
    return {
        "batch": case.batch,
        "context": case.context,
        "run": case.run,
        "us_a_layer": {name: round(time, 2) for name, time in times.items()},
        "gigabytes_a_second": {name: round(read / time / 1e3, 1) for name, time in times.items()},
        "times_plain": {name: round(time / times["plain"], 4) for name, time in times.items()},
        **left_out,
    }


def region_times(settings: Settings, case: Case, query: Tensor, batch: RaggedBatch) -> dict[str, float]:
    """The same over a region's own pages, for a few cases.

    Raises:
        CannotRun: There is no region, or not the memory for it.
    """
    if case.run > 1 or not (settings.tiny or (case.batch, case.context) in REGION_CASES):
        return {}
    sizes = (8, 4) if settings.tiny else REGION_BANDS
    return {f"region, band of {size}": _in_region(settings, case, query, batch, size) for size in sizes}


def _in_region(settings: Settings, case: Case, query: Tensor, batch: RaggedBatch, layers_per_band: int) -> float:
    heads, dim = case.shape.num_kv_heads, case.shape.head_dim
    size = RegionSize(case.batch, case.context, case.layers, layers_per_band, heads, dim)
    region = open_region(settings, size)  # gone with this call, before the next one needs the memory
    return _a_layer_us(settings, case, query, batch, layer_views(settings, region, size))


def band_views(case: Case, buffer: Tensor, size: int) -> list[Tensor]:
    """Each layer's kv [slots, slot_tokens, 2, kv_heads, head_dim] where `size` layers of a token lie together."""
    stride = size * case.token_elements
    views = []
    for layer in range(case.layers):
        start = layer // size * case.batch * case.context * stride + layer % size * case.token_elements
        views.append(_view(case, buffer, (start, case.context * stride, stride, case.token_elements // 2)))
    return views


def plain_views(case: Case, buffer: Tensor) -> list[Tensor]:
    """The same where each layer's keys, and then its values, are one contiguous tensor."""
    half = case.token_elements // 2
    of_keys = case.batch * case.context * half
    return [
        _view(case, buffer, (2 * layer * of_keys, case.context * half, half, of_keys)) for layer in range(case.layers)
    ]


def _view(case: Case, buffer: Tensor, place: tuple[int, int, int, int]) -> Tensor:
    """place: first element, and elements from slot to slot, token to token, keys to values."""
    start, slot, token, values = place
    shape = case.shape
    size = (case.batch, case.context, 2, shape.num_kv_heads, shape.head_dim)
    return buffer.as_strided(size, (slot, token, values, shape.head_dim, 1), start)


def _a_layer_us(settings: Settings, case: Case, query: Tensor, batch: RaggedBatch, views: list[Tensor]) -> float:
    """All layers one after the other, as in a step, so that no layer finds its keys in the cache."""
    (group,) = batch.groups
    operator = settings.flash

    def step() -> None:
        for kv in views:
            flash_runs(operator, case.shape, group, query, kv)

    return median_us(step, settings.device, laps=3 if settings.tiny else 9) / case.layers


def verdict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean slowdown of each band size over all cases (geometric), the worst one, and what the stop rule says of the best."""
    names = list(dict.fromkeys(name for row in rows for name in row["times_plain"] if name != "plain"))
    ratios = {name: [row["times_plain"][name] for row in rows if name in row["times_plain"]] for name in names}
    means = {name: round(math.exp(float(np.mean(np.log(values)))), 4) for name, values in ratios.items()}
    best = min((name for name in names if name.startswith("band")), key=lambda name: means[name])
    return {
        "times_plain": means,
        "worst": {name: max(values) for name, values in ratios.items()},
        "best": best,
        "within_stop_rule": means[best] <= SLOWER_AT_MOST,
    }


def _batch(case: Case, device: torch.device) -> RaggedBatch:
    slots = np.arange(case.batch, dtype=np.uint32)
    starts = np.arange(case.batch + 1, dtype=np.uint32) * case.run
    return RaggedBatch(slots, starts.astype(np.uint32), np.full(case.batch, case.context, np.uint32), device)


def _room(settings: Settings) -> int:
    """Elements of bfloat16 that the buffer may have."""
    if not settings.on_cuda:
        return 2**24
    free, _ = torch.cuda.mem_get_info(settings.device)
    return int(MEMORY_SHARE * free) // 2


def _filled(elements: int, device: torch.device) -> Tensor:
    """Random numbers, made in pieces."""
    buffer = torch.empty(elements, dtype=torch.bfloat16, device=device)
    for piece in buffer.split(2**28):
        piece.normal_()
    return buffer
