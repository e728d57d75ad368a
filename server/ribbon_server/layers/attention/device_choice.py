"""Picks the attention kernel of a device: FlashAttention 2 where it is built for a layer and passes its self-test, else Triton."""

import logging
from dataclasses import replace

import torch
from torch import Tensor

from ribbon_server.errors import ModelNotSupported
from ribbon_server.layers.attention import flash, triton
from ribbon_server.layers.attention.base import PLAIN, AttentionLayer, AttentionShape, ForwardContext
from ribbon_server.layers.attention.flash import FlashAttention, FlashOperator, aten_operator
from ribbon_server.layers.attention.selftest import check_flash, check_rope_store
from ribbon_server.layers.attention.store import RopeStore, torch_rope_store
from ribbon_server.layers.attention.triton import TritonAttention, triton_rope_store
from ribbon_server.telemetry import log


class DeviceAttentionChooser:
    """Builds attention layers; each geometry is tested once."""

    def __init__(self, device: torch.device, operator: FlashOperator | None = None) -> None:
        """Nothing has been tested. `operator` replaces torch's own, for tests."""
        self._device = device
        self._operator = operator or aten_operator()
        self._passed: dict[tuple[AttentionShape, torch.dtype], bool] = {}
        self._stores: dict[tuple[AttentionShape, torch.dtype], RopeStore] = {}

    def __call__(self, shape: AttentionShape) -> "DeviceAttention":
        """The layer for `shape`.

        Raises:
            ModelNotSupported: No kernel has heads of this size, or what the layer does.
        """
        if shape.chunk is not None or shape.vectors == 1:
            what = "latent attention" if shape.vectors == 1 else "attention in chunks of positions"
            raise ModelNotSupported(f"{what} has no kernel for a device yet; use `--device cpu`")
        if not triton.takes(shape):
            raise ModelNotSupported(
                f"head_dim is {shape.head_dim}; attention on a device takes up to {triton.LARGEST_HEAD_DIM}"
            )
        return DeviceAttention(shape, self)

    def choose(self, shape: AttentionShape, dtype: torch.dtype) -> AttentionLayer:
        """The kernel for activations of `dtype`."""
        if flash.takes(shape, dtype) and self._flash_passes(shape, dtype):
            return FlashAttention(shape, self._rope_store(shape, dtype), self._operator)
        return TritonAttention(shape)

    def _rope_store(self, shape: AttentionShape, dtype: torch.dtype) -> RopeStore:
        """One launch where Triton works and is right, else plain torch: flash needs no Triton."""
        key = (_geometry(shape), dtype)
        if key not in self._stores:
            self._stores[key] = triton_rope_store if self._triton_stores(shape, dtype) else torch_rope_store
        return self._stores[key]

    def _triton_stores(self, shape: AttentionShape, dtype: torch.dtype) -> bool:
        try:
            result = check_rope_store(triton_rope_store, shape, dtype, self._device)
        except Exception as error:  # noqa: BLE001 - Triton's compiler and the C compiler it calls raise what they like
            log(logging.WARNING, f"Triton does not work here ({error!r}); keys and values are stored by torch")
            return False
        if not result.passed:
            log(logging.WARNING, f"Triton's store is off by {result.largest_error:.3g}; torch stores keys and values")
        return result.passed

    def _flash_passes(self, shape: AttentionShape, dtype: torch.dtype) -> bool:
        key = (_geometry(shape), dtype)
        if key not in self._passed:
            self._passed[key] = self._test(shape, dtype)
        return self._passed[key]

    def _test(self, shape: AttentionShape, dtype: torch.dtype) -> bool:
        try:
            result = check_flash(self._operator, shape, dtype, self._device)
        except (RuntimeError, NotImplementedError) as error:
            log(
                logging.WARNING,
                f"flash attention refuses ribbons ({error}); attention runs in Triton",
                head_dim=shape.head_dim,
            )
            return False
        if not result.passed:
            log(
                logging.WARNING,
                f"flash attention over ribbons is off by {result.largest_error:.3g}; attention runs in Triton",
                head_dim=shape.head_dim,
            )
        return result.passed


def _geometry(shape: AttentionShape) -> AttentionShape:
    """The shape without its place and rule."""
    return replace(shape, kv_offset=0, band=0, group=0, rotary=0, rule=PLAIN)


class DeviceAttention:
    """One layer, whose kernel is chosen when the type of its activations is seen."""

    def __init__(self, shape: AttentionShape, chooser: DeviceAttentionChooser) -> None:
        """Nothing is chosen yet."""
        self.shape = shape
        self._chooser = chooser
        self.kernel: AttentionLayer | None = None

    def __call__(self, qkv: Tensor, context: ForwardContext, query: Tensor, output: Tensor) -> None:
        """See AttentionLayer."""
        if self.kernel is None:
            self.kernel = self._chooser.choose(self.shape, qkv.dtype)
        self.kernel(qkv, context, query, output)
