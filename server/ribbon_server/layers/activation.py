"""Nonlinearities of feed-forward parts, gated or plain: silu(gate) * up and its kin. https://arxiv.org/abs/2002.05202"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ribbon_server import _native
from ribbon_server.layers.dtypes import dtype_name


class ActivationLayer(Protocol):
    """Gated: from [tokens, 2 * dim], gate first, to `output` [tokens, dim]; plain: from [tokens, dim]."""

    def __call__(self, x: Tensor, output: Tensor, /) -> None:
        """Writes `output`; both are contiguous."""
        ...


GatedActivation = ActivationLayer

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu_squared": lambda x: F.relu(x).square(),
}


class TorchActivation:
    """Plain torch, one of FUNCTIONS."""

    def __init__(self, name: str, *, gated: bool) -> None:
        """Takes the function's name."""
        self._function = FUNCTIONS[name]
        self._gated = gated

    def __call__(self, x: Tensor, output: Tensor) -> None:
        """See ActivationLayer."""
        if not self._gated:
            output.copy_(self._function(x))
            return
        gate, up = x.chunk(2, dim=-1)
        torch.mul(self._function(gate), up, out=output)


def reference_silu_mul(gate_up: Tensor, output: Tensor) -> None:
    """Plain torch."""
    gate, up = gate_up.chunk(2, dim=-1)
    output.copy_(F.silu(gate) * up)


def fused_silu_mul(gate_up: Tensor, output: Tensor) -> None:
    """Two launches on a device, the second one into `output`."""
    gate, up = gate_up.chunk(2, dim=-1)
    torch.mul(F.silu(gate), up, out=output)


def native_silu_mul(gate_up: Tensor, output: Tensor) -> None:
    """One pass in the native module."""
    _native.silu_mul(
        gate_up=gate_up.data_ptr(),
        output=output.data_ptr(),
        rows=output.shape[0],
        dim=output.shape[1],
        dtype=dtype_name(output.dtype),
    )
