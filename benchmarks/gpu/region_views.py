"""A region of the native module, all of it mapped and filled, and its layers as tensors: pages as a shard has them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import torch
from settings import CannotRun, Settings
from torch import Tensor

from ribbon_server import _native
from ribbon_server.kv.operations import OpKind, RibbonOps


@dataclass(frozen=True)
class RegionSize:
    """Rows of `tokens` tokens each, `layers` layers in bands of `layers_per_band`, bfloat16."""

    rows: int
    tokens: int
    layers: int
    layers_per_band: int
    num_kv_heads: int
    head_dim: int

    @property
    def layer_elements(self) -> int:
        """Of one token."""
        return 2 * self.num_kv_heads * self.head_dim

    @property
    def stride_bytes(self) -> int:
        """Of a token in one band."""
        return 2 * self.layer_elements * self.layers_per_band


def open_region(settings: Settings, size: RegionSize, copy_below_pages: int = 0, spare: int = 0) -> _native.Region:
    """Slots 1 to `rows` for whole ribbons, and `spare` times as many pages again; nothing is mapped.

    Raises:
        CannotRun: The native module has no CUDA region, or no driver answers.
    """
    index, simulated = settings.device.index or 0, not settings.on_cuda
    try:
        page_bytes = _native.cuda_memory(index, simulated=simulated)["granularity"]
        pages = -(-size.tokens * size.stride_bytes // page_bytes)
        return _native.Region(
            num_slots=size.rows + 1,
            num_storages=2 * (size.rows + 1),
            slot_tokens=pages * page_bytes // size.stride_bytes,
            stride_bytes=size.stride_bytes,
            num_pages=(1 + spare) * (size.rows * pages + 1),
            device=index,
            num_bands=size.layers // size.layers_per_band,
            page_bytes=page_bytes,
            copy_below_pages=copy_below_pages,
            simulated=simulated,
        )
    except (AttributeError, TypeError, OSError) as error:
        raise CannotRun(f"the native module's CUDA region: {error}") from error


def layer_views(settings: Settings, region: _native.Region, size: RegionSize) -> list[Tensor]:
    """Maps every row whole, fills it with random numbers, and shows each layer: kv [rows, tokens, 2, kv_heads, head_dim]."""
    opening = [(OpKind.OPEN, row, row, 0) for row in range(1, size.rows + 1)]
    apply(region, *opening, *((OpKind.GROW, row, 0, size.tokens) for row in range(1, size.rows + 1)))
    views = []
    for layer in range(size.layers):
        band, place = divmod(layer, size.layers_per_band)
        slots = _band(settings, region, band).view(torch.bfloat16).view(size.rows + 1, -1)
        rows = slots[1:].as_strided(
            (size.rows, size.tokens, size.layers_per_band, 2, size.num_kv_heads, size.head_dim),
            (slots.shape[1], size.stride_bytes // 2, size.layer_elements, size.layer_elements // 2, size.head_dim, 1),
        )
        views.append(rows[:, :, place].normal_())
    return views


def apply(region: _native.Region, *operations: tuple[int, int, int, int]) -> None:
    """Applies (kind, slot, storage, tokens) rows.

    Raises:
        ValueError: The region refuses one.
    """
    shown = np.zeros(region.num_slots, np.int64)
    region.apply(**vars(RibbonOps.of(*operations)), number=0, shown=shown, begins=np.zeros_like(shown))


def _band(settings: Settings, region: _native.Region, band: int) -> Tensor:
    """All bytes of a band; only mapped ones may be touched."""
    if settings.on_cuda:
        whole: Tensor = torch.as_tensor(region, device=settings.device)
        return whole[band].flatten()
    start = region.address + band * region.band_bytes
    return torch.frombuffer((ctypes.c_byte * region.band_bytes).from_address(start), dtype=torch.uint8)
