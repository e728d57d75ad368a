"""Slots, storages and their pages: the native region, and what each slot shows of it. Knows bytes, not layers' meaning."""

import ctypes
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch

from ribbon_server import _native
from ribbon_server.device import CPU
from ribbon_server.errors import InvalidRequest, KvMemoryLost, OutOfPages
from ribbon_server.kv.layout import KvLayout


class OpKind(IntEnum):
    """Kinds of ribbon operations, numbered as on the wire."""

    OPEN = 1
    SHARE = 2
    GROW = 3
    TRIM_FRONT = 4
    CLOSE = 5
    TRUNCATE = 6
    DROP = 7

VOID = -1


@dataclass(frozen=True)
class RibbonOps:
    """Operations in order, one column a field, all of the same length."""

    kind: np.ndarray  # uint8
    group: np.ndarray  # uint8
    slot: np.ndarray  # uint32
    storage: np.ndarray  # uint32
    tokens: np.ndarray  # uint32


@dataclass(frozen=True)
class RibbonLimits:
    """The size of a region. Slot 0 and storage 0 are reserved."""

    num_slots: int
    num_storages: int
    slot_tokens: int
    num_pages: int


class Ribbons:
    """One group's region and the tokens that each slot may hold now."""

    def __init__(self, layout: KvLayout, limits: RibbonLimits, device: torch.device = CPU) -> None:
        """Reserves the region on `device`; pages come with GROW."""
        self.device = device
        self.layout = layout
        self.limits = limits
        self.region = _region(layout, limits, device)
        self.shown = np.zeros(limits.num_slots, np.int64)  # tokens a slot may hold now; VOID where it lost an operation
        self.begins = np.zeros(limits.num_slots, np.int64)  # tokens a slot showed before it first grew

    def apply(self, ops: RibbonOps) -> None:
        """Applies operations in order, each wholly or not at all. One that cannot be applied voids its slot until it is
        closed; all others are applied, so what a plan gives up is given up whatever becomes of the rest.

        Raises:
            OutOfPages: The pool could not give what an operation wants.
            InvalidRequest: An operation contradicts the state of its slot or storage.
            KvMemoryLost: The machine refused a memory call; only `reset` is possible.
        """
        try:
            self.region.apply(
                kind=ops.kind,
                group=ops.group,
                slot=ops.slot,
                storage=ops.storage,
                tokens=ops.tokens,
                number=0,
                shown=self.shown,
                begins=self.begins,
            )
        except _native.OutOfPages as error:
            raise OutOfPages(f"ribbon {error}") from error
        except ValueError as error:
            raise InvalidRequest(f"ribbon {error}") from error
        except OSError as error:
            raise KvMemoryLost(f"ribbon {error.strerror or error}") from error
        if (ops.group != 0).any():
            index = int((ops.group != 0).argmax())
            raise InvalidRequest(
                f"ribbon operation {index}: group is {int(ops.group[index])}; this shard has group 0 alone"
            )

    def void_slots(self) -> np.ndarray:
        """Slots that lost an operation and wait to be closed."""
        return np.flatnonzero(self.shown == VOID)

    def view(self, dtype: torch.dtype, band: int = 0) -> torch.Tensor:
        """The region as a tensor [slots, slot_tokens, stride elements], without a copy. Only mapped tokens may be touched."""
        itemsize = dtype.itemsize
        slots, slot_bytes = self.limits.num_slots, self.region.slot_bytes
        stride = self.layout.stride_bytes // itemsize
        size, strides = (slots, self.limits.slot_tokens, stride), (slot_bytes // itemsize, stride, 1)
        return self._band(band).view(dtype).as_strided(size, strides)

    def _band(self, band: int) -> torch.Tensor:
        """All bytes of a band, uint8. Only mapped ones may be touched."""
        if self.device.type != "cpu":
            whole: torch.Tensor = torch.as_tensor(self.region, device=self.device)
            return whole[band].flatten()
        size = self.limits.num_slots * self.region.slot_bytes
        start = self.region.address + band * size
        return torch.frombuffer((ctypes.c_byte * size).from_address(start), dtype=torch.uint8)

    def fence(self) -> None:
        """After a step's kernels are launched: pages that they may touch change hands only behind them."""
        if self.device.type != "cpu":
            self.region.fence(torch.cuda.current_stream(self.device).cuda_stream)

    def reset(self) -> None:
        """Closes every slot and storage; every page goes back."""
        self.region.reset()
        self.shown[:] = 0


def _region(layout: KvLayout, limits: RibbonLimits, device: torch.device) -> _native.Region:
    """Of the device's kind. Slots on CUDA lie whole tokens apart, as flash attention wants them; that costs addresses alone."""
    if device.type == "cpu":
        return _native.Region(
            num_slots=limits.num_slots,
            num_storages=limits.num_storages,
            slot_tokens=limits.slot_tokens,
            stride_bytes=layout.stride_bytes,
            num_pages=limits.num_pages,
        )
    return _native.Region(
        num_slots=limits.num_slots,
        num_storages=limits.num_storages,
        slot_tokens=layout.whole_tokens(limits.slot_tokens),
        stride_bytes=layout.stride_bytes,
        num_pages=limits.num_pages,
        device=device.index or 0,
        num_bands=layout.num_bands,
        page_bytes=layout.page_bytes,
    )
