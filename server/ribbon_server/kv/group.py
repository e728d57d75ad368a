"""One group's region: slots, storages and their pages, and what each slot shows of it. Knows bytes, not layers' meaning."""

import ctypes
from dataclasses import dataclass

import numpy as np
import torch

from ribbon_server import _native
from ribbon_server.device import CPU
from ribbon_server.errors import InvalidRequest, KvMemoryLost, OutOfPages
from ribbon_server.kv.layout import KvLayout
from ribbon_server.kv.operations import OpKind, RibbonOps


@dataclass(frozen=True)
class RibbonLimits:
    """The size of every group's region, and of the pool they share. Slot 0 and storage 0 are reserved."""

    num_slots: int
    num_storages: int
    slot_tokens: int
    num_pages: int
    max_spans: int | None = None  # of other storages a slot may show at once; what memory maps allow by default


class RibbonGroup:
    """The layers that keep their tokens alike, in one region."""

    def __init__(
        self, layout: KvLayout, limits: RibbonLimits, device: torch.device = CPU, first: "RibbonGroup | None" = None
    ) -> None:
        """Reserves the region on `device`; pages come with GROW, out of the pool of the `first` group where there is one.

        Raises:
            InvalidRequest: The machine cannot hold a region of that size.
        """
        self.device = device
        self.layout = layout
        self.limits = limits
        self.number = 0
        self.region = _region(layout, limits, device, first)
        self.shown = np.zeros(limits.num_slots, np.int64)  # tokens a slot may hold now; VOID where it lost an operation
        self.begins = np.zeros(limits.num_slots, np.int64)  # tokens a slot showed before it first grew

    def apply(self, ops: RibbonOps) -> None:
        """Applies those operations that name the group; see Ribbons.apply."""
        try:
            self.region.apply(
                kind=ops.kind,
                group=ops.group,
                slot=ops.slot,
                storage=ops.storage,
                tokens=ops.tokens,
                number=self.number,
                shown=self.shown,
                begins=self.begins,
            )
        except _native.OutOfPages as error:
            raise OutOfPages(f"ribbon {error}") from error
        except ValueError as error:
            raise InvalidRequest(f"ribbon {error}") from error
        except OSError as error:
            raise KvMemoryLost(f"ribbon {error.strerror or error}") from error

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

    def prefetch(self, ops: RibbonOps) -> None:
        """Has the device's mapping thread prepare the pages that a plan grows into, while the step before it runs. Callable
        from any thread; what cannot be meant is left to `apply` to refuse."""
        if self.device.type == "cpu":
            return
        fits = (ops.slot < self.limits.num_slots) & (ops.tokens <= self.limits.slot_tokens)
        grows = (ops.kind == OpKind.GROW) & (ops.group == self.number) & fits
        if grows.any():
            self.region.prefetch(ops.slot[grows], ops.tokens[grows])

    def fence(self) -> None:
        """After a step's kernels are launched: pages that they may touch change hands only behind them."""
        if self.device.type != "cpu":
            self.region.fence(torch.cuda.current_stream(self.device).cuda_stream)

    def reset(self) -> None:
        """Closes every slot and storage; every page goes back."""
        self.region.reset()
        self.shown[:] = 0
        self.begins[:] = 0


def _region(layout: KvLayout, limits: RibbonLimits, device: torch.device, first: RibbonGroup | None) -> _native.Region:
    try:
        if device.type == "cpu":
            return _cpu_region(layout, limits, first)
        return _device_region(layout, limits, device, first)
    except OSError as error:
        if device.type != "cpu":
            raise
        raise InvalidRequest(
            f"the addresses of {limits.num_slots} slots of {limits.slot_tokens} tokens cannot be reserved ({error}); lower "
            "`--max-concurrent-requests` or `--max-total-tokens`"
        ) from error


def _cpu_region(layout: KvLayout, limits: RibbonLimits, first: RibbonGroup | None) -> _native.Region:
    return _native.Region(
        num_slots=limits.num_slots,
        num_storages=limits.num_storages,
        slot_tokens=limits.slot_tokens,
        stride_bytes=layout.stride_bytes,
        num_pages=limits.num_pages,
        max_spans=limits.max_spans,
        pool_of=None if first is None else first.region,
    )


def _device_region(
    layout: KvLayout, limits: RibbonLimits, device: torch.device, first: RibbonGroup | None
) -> _native.Region:
    """Slots on CUDA lie whole tokens apart, as flash attention wants them; that costs addresses alone."""
    if first is not None:
        raise InvalidRequest("a model with several KV groups does not run on a device yet; use `--device cpu`")
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
