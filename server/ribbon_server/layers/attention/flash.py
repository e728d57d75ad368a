"""Attention by torch's FlashAttention 2 over ribbons: 16-bit types, one call for decodes and one for longer runs.

The slots' first token indices stand where packed sequences have their cumulative lengths, and the lengths say how much of each
slot is used. The operator allows this without documenting it, so `selftest.py` checks it at the start of every shard.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ribbon_server.layers.attention.base import PLAIN, AttentionShape, ForwardContext
from ribbon_server.layers.attention.places import LayerTokens, flat_tokens
from ribbon_server.layers.attention.ragged import RunGroup
from ribbon_server.layers.attention.store import RopeStore

LARGEST_HEAD_DIM = 256
HEAD_DIM_STEP = 8
DTYPES = (torch.float16, torch.bfloat16)

FlashOperator = Callable[..., Any]  # the signature of aten::_flash_attention_forward


def aten_operator() -> FlashOperator:
    """The operator of this build of torch (2.11 or later)."""
    operator: FlashOperator = torch.ops.aten._flash_attention_forward.default
    return operator


def takes(shape: AttentionShape, dtype: torch.dtype) -> bool:
    """Whether FlashAttention 2 is built for these heads and scores."""
    fits = shape.head_dim <= LARGEST_HEAD_DIM and shape.head_dim % HEAD_DIM_STEP == 0
    return dtype in DTYPES and fits and shape.rule is PLAIN


class FlashAttention:
    """Stores a step's keys and values, then attends group by group."""

    def __init__(self, shape: AttentionShape, rope_store: RopeStore, operator: FlashOperator) -> None:
        """Takes the layer's geometry, the first half of the layer, and the operator."""
        self.shape = shape
        self._rope_store = rope_store
        self._operator = operator
        self._tokens = LayerTokens(shape)

    def __call__(self, qkv: Tensor, context: ForwardContext, query: Tensor, output: Tensor) -> None:
        """See AttentionLayer."""
        kv = self._tokens.view(context.ribbons, qkv.dtype)
        self._rope_store(qkv, kv, context, self.shape, query)
        heads = (-1, self.shape.num_heads, self.shape.head_dim)
        for group in context.ragged.groups:
            attended = flash_runs(self._operator, self.shape, group, group.of(query).view(heads), kv)
            group.write(output, attended.flatten(1))


def flash_runs(operator: FlashOperator, shape: AttentionShape, group: RunGroup, query: Tensor, kv: Tensor) -> Tensor:
    """Attention of one group's query [tokens, heads, head_dim] over a layer's kv [slots, slot_tokens, 2, kv_heads, head_dim]."""
    keys, values, per_slot = flat_tokens(kv)
    decodes = group.longest_run == 1
    result: Tensor = operator(
        query,
        keys,
        values,
        group.starts,
        group.first_tokens(per_slot),
        group.longest_run,
        group.longest_length,
        0.0,  # dropout
        not decodes,  # causal, aligned to the last key; a lone query is the last one
        False,  # no debug mask
        scale=shape.scale,
        window_size_left=None if shape.window is None else shape.window - 1,
        window_size_right=0 if decodes and shape.window is not None else None,
        seqused_k=group.lengths,
    )[0]
    return result
