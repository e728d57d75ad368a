"""Norms, alone or after adding to the residual stream: root mean square, https://arxiv.org/abs/1910.07467, and layer norm."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ribbon_server import _native
from ribbon_server.layers.dtypes import dtype_name


class NormLayer(Protocol):
    """Normalises the residual stream into `output`; all tensors are contiguous [tokens, hidden] of the weight's dtype."""

    def __call__(self, stream: Tensor, delta: Tensor | None, output: Tensor) -> None:
        """Adds `delta` to `stream` in place where there is one, then output = norm(stream) * weight."""
        ...


class ReferenceRmsNorm:
    """Plain torch, sums in float32."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        """Takes `weight` [hidden]."""
        self.weight = weight
        self.eps = eps

    def __call__(self, stream: Tensor, delta: Tensor | None, output: Tensor) -> None:
        """See NormLayer."""
        if delta is not None:
            stream += delta
        x = stream.float()
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        output.copy_(self.weight * x.to(stream.dtype))


class FusedRmsNorm:
    """torch's own fused norm, for devices; sums in float32, one rounding less than the reference."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        """Takes `weight` [hidden]."""
        self.weight = weight
        self.eps = eps

    def __call__(self, stream: Tensor, delta: Tensor | None, output: Tensor) -> None:
        """See NormLayer."""
        if delta is not None:
            stream.add_(delta)
        output.copy_(F.rms_norm(stream, self.weight.shape, self.weight, self.eps))


class NativeRmsNorm:
    """One pass over the stream in the native module."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        """Takes `weight` [hidden]."""
        self.weight = weight.contiguous()
        self.eps = eps
        self.dim = weight.shape[0]
        self.dtype = dtype_name(weight.dtype)

    def __call__(self, stream: Tensor, delta: Tensor | None, output: Tensor) -> None:
        """See NormLayer."""
        stream_pointer = stream.data_ptr()
        _native.rms_norm(
            x=stream_pointer if delta is None else delta.data_ptr(),
            residual=0 if delta is None else stream_pointer,
            weight=self.weight.data_ptr(),
            output=output.data_ptr(),
            rows=stream.shape[0],
            dim=self.dim,
            eps=self.eps,
            dtype=self.dtype,
        )


class LayerNorm:
    """Plain torch, with or without a bias. https://arxiv.org/abs/1607.06450"""

    def __init__(self, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
        """Takes `weight` and `bias` [hidden], where there are any."""
        self.weight = weight
        self.bias = bias
        self.eps = eps

    def __call__(self, stream: Tensor, delta: Tensor | None, output: Tensor) -> None:
        """See NormLayer."""
        if delta is not None:
            stream.add_(delta)
        output.copy_(F.layer_norm(stream, stream.shape[-1:], self.weight, self.bias, self.eps))


class NoNorm:
    """Adds and copies, where a part sees the stream as it is."""

    def __call__(self, stream: Tensor, delta: Tensor | None, output: Tensor) -> None:
        """See NormLayer."""
        if delta is not None:
            stream.add_(delta)
        output.copy_(stream)
