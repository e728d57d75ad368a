"""Sets of kernels that fit together, one of which is chosen when a model is loaded."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ribbon_server.layers.activation import GatedActivation, fused_silu_mul, native_silu_mul, reference_silu_mul
from ribbon_server.layers.attention.base import AttentionLayer, AttentionShape
from ribbon_server.layers.attention.choice import AttentionChooser
from ribbon_server.layers.attention.reference import ReferenceAttention
from ribbon_server.layers.linear import LinearLayer, TorchLinear
from ribbon_server.layers.linear_choice import LinearChooser
from ribbon_server.layers.norm import FusedRmsNorm, NativeRmsNorm, NormLayer, ReferenceRmsNorm


@dataclass(frozen=True)
class Kernels:
    """How to build each part of a decoder."""

    rms_norm: Callable[[Tensor, float], NormLayer]
    silu_mul: GatedActivation
    attention: Callable[[AttentionShape], AttentionLayer]
    linear: Callable[[Tensor, Tensor | None], LinearLayer]


REFERENCE = Kernels(ReferenceRmsNorm, reference_silu_mul, ReferenceAttention, TorchLinear)


def kernels_for(device: torch.device) -> Kernels:
    """The fastest set on `device`. Make one set a model: what was raced or tested for it is kept with it."""
    return native_kernels() if device.type == "cpu" else device_kernels(device)


def device_kernels(device: torch.device) -> Kernels:
    """torch's operators, and attention by flash or Triton."""
    # Here, since Triton is not installed everywhere.
    from ribbon_server.layers.attention.device_choice import DeviceAttentionChooser

    return Kernels(FusedRmsNorm, fused_silu_mul, DeviceAttentionChooser(device), TorchLinear)


def native_kernels() -> Kernels:
    """The native module's, and the fastest linear layer of each shape. Make one set a model: its races are kept with it."""
    return Kernels(NativeRmsNorm, native_silu_mul, AttentionChooser(), LinearChooser())
