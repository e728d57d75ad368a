"""Attention by the native CPU kernel: one call stores a step's keys and values, one attends."""

import torch
from torch import Tensor

from ribbon_server import _native
from ribbon_server.layers.attention.base import AttentionShape, ForwardContext
from ribbon_server.layers.dtypes import dtype_name

HEAD_DIM_STEP = 16  # the kernel's vectors
LARGEST_HEAD_DIM = 576


def is_built_for(shape: AttentionShape) -> bool:
    """Whether the native kernel takes heads of this size."""
    return shape.head_dim % HEAD_DIM_STEP == 0 and shape.head_dim <= LARGEST_HEAD_DIM


class NativeAttention:
    """Hands pointers to the prepared runs."""

    def __init__(self, shape: AttentionShape) -> None:
        """Takes the layer's geometry."""
        self.shape = shape
        self._geometry = {
            "kv_offset": shape.kv_offset,
            "num_heads": shape.num_heads,
            "num_kv_heads": shape.num_kv_heads,
            "head_dim": shape.head_dim,
            "vectors": shape.vectors,
        }
        self._slopes = _address("slopes", shape.rule.slopes, shape.num_heads)
        self._sinks = _address("sinks", shape.rule.sinks, shape.num_heads)

    def __call__(self, qkv: Tensor, context: ForwardContext, query: Tensor, output: Tensor) -> None:
        """See AttentionLayer."""
        cos, sin = context.rotations[self.shape.rotary]
        runs = context.runs[self.shape.group]
        runs.rope_store(
            qkv=qkv.data_ptr(),
            query_out=query.data_ptr(),
            cos=cos.data_ptr(),
            sin=sin.data_ptr(),
            turned=2 * cos.shape[1],
            dtype=dtype_name(qkv.dtype),
            **self._geometry,
        )
        self.attend(runs, query, output)

    def attend(self, runs: _native.Runs, query: Tensor, output: Tensor) -> None:
        """To what is stored already: query and output [tokens, heads * head_dim] of `runs`."""
        shape = self.shape
        runs.attention(
            query=query.data_ptr(),
            output=output.data_ptr(),
            scale=shape.scale,
            softcap=shape.rule.softcap,
            slopes=self._slopes,
            sinks=self._sinks,
            chunk=shape.chunk,
            dtype=dtype_name(query.dtype),
            **self._geometry,
        )


def _address(name: str, column: Tensor | None, num_heads: int) -> int:
    """Of float32 [num_heads], which the layer's shape keeps alive; 0 for none. The kernel reads as many numbers behind it."""
    if column is None:
        return 0
    if (column.shape, column.dtype, column.device.type) != ((num_heads,), torch.float32, "cpu"):
        found = f"{list(column.shape)} of {column.dtype} on {column.device}"
        raise AssertionError(f"`{name}` is {found}; the kernel reads {num_heads} numbers of float32")
    if not column.is_contiguous():
        raise AssertionError(f"`{name}` has gaps between its numbers")
    return column.data_ptr()
