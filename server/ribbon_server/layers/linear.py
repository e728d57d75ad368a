"""y = x @ weight.T + bias. Plain torch, oneDNN with a packed weight, and the native kernel."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ribbon_server import _native

PACKING_ROWS = 16  # the row count oneDNN packs for; one packing served 1 to 512 rows equally, benchmarks/LOG.md


class LinearLayer(Protocol):
    """A linear map of contiguous rows."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """x [rows, in] to [rows, out]."""
        ...


class TorchLinear:
    """Plain torch."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """weight [out, in], bias [out]."""
        self.weight = weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """See LinearLayer."""
        return F.linear(x, self.weight, self.bias)


class PackedOneDnnLinear:
    """oneDNN on a weight that is stored in its own blocked layout, so that no call has to reorder it."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """weight [out, in], bias [out]; the plain weight may be freed after."""
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, PACKING_ROWS)
        self.bias = bias
        self._call = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        """See LinearLayer."""
        result: Tensor = self._call(x, self.weight, self.bias, "none", [], "")
        return result


class NativeLinear:
    """The native kernel, and oneDNN's for more rows than it takes. bfloat16."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Packs copies of `weight` [out, in] and `bias` [out]; a second copy only where the kernel has a limit."""
        self.out_features, in_features = weight.shape
        bias_address = 0 if bias is None else bias.data_ptr()
        self.packed = _native.PackedLinear(weight.data_ptr(), self.out_features, in_features, bias_address)
        self.max_rows = self.packed.max_rows
        self.many_rows: LinearLayer = self if self.max_rows is None else PackedOneDnnLinear(weight, bias)

    def __call__(self, x: Tensor) -> Tensor:
        """See LinearLayer."""
        rows = x.shape[0]
        if self.max_rows is not None and rows > self.max_rows:
            return self.many_rows(x)
        output = torch.empty((rows, self.out_features), dtype=x.dtype)
        self.packed.forward(x.data_ptr(), output.data_ptr(), rows)
        return output


def packs_with_onednn(dtype: torch.dtype) -> bool:
    """Whether this build of torch can pack weights of `dtype`."""
    return (
        dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
