"""Attention by the native CPU kernel: one call stores a step's keys and values, one attends."""

from torch import Tensor

from ribbon_server.layers.attention.base import PLAIN, AttentionShape, ForwardContext
from ribbon_server.layers.dtypes import dtype_name

HEAD_DIM_STEP = 16  # the kernel's vectors
LARGEST_HEAD_DIM = 256


def is_built_for(shape: AttentionShape) -> bool:
    """Whether the native kernel takes heads of this size and scores of this rule."""
    fits = shape.head_dim % HEAD_DIM_STEP == 0 and shape.head_dim <= LARGEST_HEAD_DIM and shape.vectors > 1
    return fits and shape.chunk is None and shape.rule is PLAIN


class NativeAttention:
    """Hands pointers to the prepared runs."""

    def __init__(self, shape: AttentionShape) -> None:
        """Takes the layer's geometry."""
        self.shape = shape

    def __call__(self, qkv: Tensor, context: ForwardContext, query: Tensor, output: Tensor) -> None:
        """See AttentionLayer."""
        shape = self.shape
        dtype = dtype_name(qkv.dtype)
        cos, sin = context.rotations[shape.rotary]
        runs = context.runs[shape.group]
        runs.rope_store(
            qkv=qkv.data_ptr(),
            query_out=query.data_ptr(),
            cos=cos.data_ptr(),
            sin=sin.data_ptr(),
            kv_offset=shape.kv_offset,
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            dtype=dtype,
        )
        runs.attention(
            query=query.data_ptr(),
            output=output.data_ptr(),
            kv_offset=shape.kv_offset,
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            scale=shape.scale,
            dtype=dtype,
        )
