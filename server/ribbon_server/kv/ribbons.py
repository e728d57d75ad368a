"""Slots, storages and their pages: the native region, and what each slot shows of it. Knows bytes, not layers' meaning."""

import ctypes
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch

from ribbon_server import _native
from ribbon_server.errors import InvalidRequest, OutOfPages
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


OP_NAMES = {kind.value: kind.name for kind in OpKind}
SUPPORTED = np.array([OpKind.OPEN, OpKind.SHARE, OpKind.GROW, OpKind.CLOSE, OpKind.TRUNCATE, OpKind.DROP], np.uint8)


CPU = torch.device("cpu")


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
        self.shown = np.zeros(limits.num_slots, np.int64)

    def check(self, ops: RibbonOps) -> None:
        """Refuses what this shard does not have, before anything is changed.

        Raises:
            InvalidRequest: An unknown kind or group, or a slot outside the region.
        """
        self._refuse(
            ~np.isin(ops.kind, SUPPORTED),
            "kind",
            ops.kind,
            "this shard has OPEN, SHARE, GROW, CLOSE, TRUNCATE and DROP",
        )
        self._refuse(ops.group != 0, "group", ops.group, "this shard has group 0 alone")
        self._refuse(
            ops.slot >= self.limits.num_slots, "slot", ops.slot, f"this shard has {self.limits.num_slots} slots"
        )

    @staticmethod
    def _refuse(bad: np.ndarray, column: str, values: np.ndarray, limit: str) -> None:
        if not bad.any():
            return
        index = int(bad.argmax())
        value = int(values[index])
        name = f"{OP_NAMES[value]} ({value})" if column == "kind" and value in OP_NAMES else value
        raise InvalidRequest(f"ribbon operation {index}: {column} is {name}; {limit}")

    def apply(self, ops: RibbonOps) -> None:
        """Applies checked operations in order; those before a failing one stay applied.

        Raises:
            OutOfPages: The pool cannot give what an operation wants.
            InvalidRequest: An operation contradicts the state of its slot or storage.
        """
        try:
            self.region.apply(ops.kind, ops.slot, ops.storage, ops.tokens)
        except _native.OutOfPages as error:
            self._read_back(ops.slot)
            raise OutOfPages(str(error)) from error
        except (ValueError, OSError) as error:
            self._read_back(ops.slot)
            raise InvalidRequest(str(error)) from error
        named = (ops.kind <= OpKind.GROW) | (
            ops.kind == OpKind.CLOSE
        )  # these say the slot's new end; the last one counts
        self.shown[ops.slot[named]] = np.where(ops.kind[named] == OpKind.CLOSE, 0, ops.tokens[named])
        if (ops.kind >= OpKind.TRUNCATE).any():  # these name a storage; whoever shows it, the region knows
            self._read_back(np.flatnonzero(self.shown))

    def _read_back(self, slots: np.ndarray) -> None:
        """Asks the region for the truth; off the steady path, so one call a slot is fine."""
        for slot in slots.tolist():
            try:
                self.shown[slot] = self.region.shown_tokens(slot)
            except ValueError:  # the slot is closed
                self.shown[slot] = 0

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
