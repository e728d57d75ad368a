"""The gated nonlinearity of a feed-forward part: silu(gate) * up. https://arxiv.org/abs/2002.05202"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ribbon_server import _native
from ribbon_server.layers.dtypes import dtype_name


class GatedActivation(Protocol):
    """From [tokens, 2 * dim], gate first, to `output` [tokens, dim]."""

    def __call__(self, gate_up: Tensor, output: Tensor) -> None:
        """Writes `output`; both are contiguous."""
        ...


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
