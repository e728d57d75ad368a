"""Names of element types, between torch, the native module and the command line."""

import torch

from ribbon_server.config import DType

TORCH_DTYPES = {DType.FLOAT32: torch.float32, DType.BFLOAT16: torch.bfloat16, DType.FLOAT16: torch.float16}
NAMES = {torch_dtype: dtype.value for dtype, torch_dtype in TORCH_DTYPES.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """As the native module and the wire spell it."""
    return NAMES[dtype]
