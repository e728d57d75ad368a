"""Attention in plain torch, row by row: slow, and right by inspection."""

import torch
from torch import Tensor

from ribbon_server.layers.attention.base import AttentionShape, ForwardContext
from ribbon_server.layers.rotary import rotate_half


class ReferenceAttention:
    """Rotates, stores and attends with float32 scores."""

    def __init__(self, shape: AttentionShape) -> None:
        """Takes the layer's geometry."""
        self.shape = shape

    def __call__(self, qkv: Tensor, context: ForwardContext, query: Tensor, output: Tensor) -> None:
        """See AttentionLayer."""
        shape = self.shape
        heads = (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)
        q, k, v = qkv.view(len(qkv), -1, shape.head_dim).split(heads, dim=1)
        cos, sin = context.rotations[shape.rotary]
        query.copy_(rotate_half(q, cos, sin).reshape(query.shape))
        self._store(rotate_half(k, cos, sin), v, context)
        kv = self._layer_view(context, qkv.dtype)
        for row, slot in enumerate(context.slots.tolist()):
            begin, end = int(context.starts[row]), int(context.starts[row + 1])
            length = int(context.lengths[row])
            first = self._first_seen(length - (end - begin))  # what lies before may be given up, so it is not touched
            output[begin:end] = self._attend(query[begin:end], kv[slot, first:length]).to(output.dtype)

    def _first_seen(self, position: int) -> int:
        return 0 if self.shape.window is None else max(0, position + 1 - self.shape.window)

    def _store(self, k: Tensor, v: Tensor, context: ForwardContext) -> None:
        """Writes [tokens, kv_heads, head_dim] keys and values to the runs' places."""
        kv = self._layer_view(context, k.dtype)
        for row, slot in enumerate(context.slots.tolist()):
            begin, end = int(context.starts[row]), int(context.starts[row + 1])
            length = int(context.lengths[row])
            kv[slot, length - (end - begin) : length, 0] = k[begin:end]
            kv[slot, length - (end - begin) : length, 1] = v[begin:end]

    def _layer_view(self, context: ForwardContext, dtype: torch.dtype) -> Tensor:
        """This layer's part of the region: [slots, slot_tokens, 2, kv_heads, head_dim]."""
        shape = self.shape
        whole = context.ribbons.groups[shape.group].view(dtype)
        start = shape.kv_offset // dtype.itemsize
        elements = 2 * shape.num_kv_heads * shape.head_dim
        return whole[:, :, start : start + elements].unflatten(-1, (2, shape.num_kv_heads, shape.head_dim))

    def _attend(self, query: Tensor, kv: Tensor) -> Tensor:
        """query [run, heads * head_dim] over kv [tokens, 2, kv_heads, head_dim]; the run's tokens are the last ones."""
        shape = self.shape
        group = shape.num_heads // shape.num_kv_heads
        q = query.view(len(query), shape.num_kv_heads, group, shape.head_dim).float()
        scores = torch.einsum("qkgd,tkd->kgqt", q, kv[:, 0].float()) * shape.scale
        last = torch.arange(len(kv) - len(query), len(kv))  # what each query may see, its own token included
        token = torch.arange(len(kv))
        scores = self._ruled(scores, token)
        scores.masked_fill_(token > last[:, None], float("-inf"))
        if shape.window is not None:
            scores.masked_fill_(token <= last[:, None] - shape.window, float("-inf"))
        weights = self._weights(scores)
        return torch.einsum("kgqt,tkd->qkgd", weights, kv[:, 1].float()).reshape(query.shape)

    def _ruled(self, scores: Tensor, token: Tensor) -> Tensor:
        """scores [kv_heads, group, queries, keys] of consecutive keys; where the first one stands matters to no softmax."""
        rule = self.shape.rule
        if rule.softcap is not None:
            scores = torch.tanh(scores / rule.softcap) * rule.softcap
        if rule.slopes is not None:
            distance = (token - token[-1]).float()
            scores = scores + rule.slopes.view(*scores.shape[:2], 1, 1) * distance
        return scores

    def _weights(self, scores: Tensor) -> Tensor:
        """Softmax over the keys and, where there is one, over the head's sink."""
        sinks = self.shape.rule.sinks
        if sinks is None:
            return scores.softmax(-1)
        column = sinks.float().view(*scores.shape[:2], 1, 1).expand(*scores.shape[:3], 1)
        return torch.cat((scores, column), dim=-1).softmax(-1)[..., :-1]
