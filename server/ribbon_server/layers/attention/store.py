"""Rotates a step's queries and keys and stores keys and values at their places, in torch. Knows tensors, not where slots come from."""

from typing import Protocol

from torch import Tensor

from ribbon_server.layers.attention.base import AttentionShape, ForwardContext
from ribbon_server.layers.rotary import rotate_half


class RopeStore(Protocol):
    """First half of an attention layer."""

    def __call__(self, qkv: Tensor, kv: Tensor, context: ForwardContext, shape: AttentionShape, query: Tensor) -> None:
        """qkv [tokens, (heads + 2 * kv_heads) * head_dim]; kv [slots, slot_tokens, 2, kv_heads, head_dim] of the layer; writes
        the rotated query [tokens, heads * head_dim] and the step's keys and values."""
        ...


def torch_rope_store(qkv: Tensor, kv: Tensor, context: ForwardContext, shape: AttentionShape, query: Tensor) -> None:
    """A handful of torch operations, whatever the rows."""
    heads = (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)
    q, k, v = qkv.view(len(qkv), -1, shape.head_dim).split(heads, dim=1)
    cos, sin = context.rotations[shape.rotary]
    slots, positions = context.ragged.token_places
    query.copy_(rotate_half(q, cos, sin).flatten(1))
    kv[slots, positions, 0] = rotate_half(k, cos, sin)
    kv[slots, positions, 1] = v
