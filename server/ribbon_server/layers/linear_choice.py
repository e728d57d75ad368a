"""Picks the fastest linear layer for a weight, by its type and what this build of torch has."""

from torch import Tensor

from ribbon_server.layers.linear import LinearLayer, PackedOneDnnLinear, TorchLinear, packs_with_onednn


def fastest_linear(weight: Tensor, bias: Tensor | None = None) -> LinearLayer:
    """The layer for `weight` [out, in]."""
    if not packs_with_onednn(weight.dtype):
        return TorchLinear(weight, bias)
    return PackedOneDnnLinear(weight, bias)
