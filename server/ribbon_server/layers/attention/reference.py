"""Attention in plain torch, row by row: slow, and right by inspection."""

import math

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
        heads = (shape.num_heads, shape.num_kv_heads, (shape.vectors - 1) * shape.num_kv_heads)
        q, k, v = qkv.view(len(qkv), -1, shape.head_dim).split(heads, dim=1)
        cos, sin = context.rotations[shape.rotary]
        query.copy_(rotate_half(q, cos, sin).reshape(query.shape))
        self._store(rotate_half(k, cos, sin), v, context)
        kv = self._layer_view(context, qkv.dtype)
        for row, slot in enumerate(context.slots.tolist()):
            begin, end = int(context.starts[row]), int(context.starts[row + 1])
            length = int(context.lengths[row])
            first = self._first_seen(length - (end - begin))  # what lies before may be given up, so it is not touched
            attended = self._attend(query[begin:end], kv[slot, first:length], torch.arange(first, length))
            output[begin:end] = attended.to(output.dtype)

    def _first_seen(self, position: int) -> int:
        shape = self.shape
        in_window = 0 if shape.window is None else max(0, position + 1 - shape.window)
        return in_window if shape.chunk is None else max(in_window, position // shape.chunk * shape.chunk)

    def _store(self, k: Tensor, v: Tensor, context: ForwardContext) -> None:
        """Writes [tokens, kv_heads, head_dim] keys and values to the runs' places; v has no heads where keys are both."""
        shape, kv = self.shape, self._layer_view(context, k.dtype)
        for row, slot in enumerate(context.slots.tolist()):
            begin, end = int(context.starts[row]), int(context.starts[row + 1])
            length = int(context.lengths[row])
            kv[slot, length - (end - begin) : length, 0] = k[begin:end]
            if shape.vectors > 1:
                kv[slot, length - (end - begin) : length, 1] = v[begin:end]

    def _layer_view(self, context: ForwardContext, dtype: torch.dtype) -> Tensor:
        """This layer's part of the region: [slots, slot_tokens, vectors, kv_heads, head_dim]."""
        shape = self.shape
        whole = context.ribbons.groups[shape.group].view(dtype)
        start = shape.kv_offset // dtype.itemsize
        sizes = (shape.vectors, shape.num_kv_heads, shape.head_dim)
        return whole[:, :, start : start + math.prod(sizes)].unflatten(-1, sizes)

    def _attend(self, query: Tensor, kv: Tensor, token: Tensor) -> Tensor:
        """query [run, heads * head_dim] over kv [tokens, vectors, kv_heads, head_dim] at positions `token`, the run's the last."""
        shape = self.shape
        group = shape.num_heads // shape.num_kv_heads
        q = query.view(len(query), shape.num_kv_heads, group, shape.head_dim).float()
        scores = torch.einsum("qkgd,tkd->kgqt", q, kv[:, 0].float()) * shape.scale
        own = token[-len(query) :, None]
        scores = self._ruled(scores, token - own).masked_fill_(~self._seen(own, token), float("-inf"))
        weights = self._weights(scores)
        return torch.einsum("kgqt,tkd->qkgd", weights, kv[:, -1].float()).reshape(query.shape)

    def _seen(self, own: Tensor, token: Tensor) -> Tensor:
        """Which of the keys at positions `token` each query sees, bool [queries, keys]; own [queries, 1] are the queries'."""
        shape, seen = self.shape, token <= own
        if shape.window is not None:
            seen &= token > own - shape.window
        if shape.chunk is not None:
            seen &= token // shape.chunk == own // shape.chunk
        return seen

    def _ruled(self, scores: Tensor, distance: Tensor) -> Tensor:
        """scores [kv_heads, group, queries, keys]; distance [queries, keys] of each key from the query."""
        rule = self.shape.rule
        if rule.softcap is not None:
            scores = torch.tanh(scores / rule.softcap) * rule.softcap
        if rule.slopes is not None:
            scores = scores + rule.slopes.view(*scores.shape[:2], 1, 1) * distance
        return scores

    def _weights(self, scores: Tensor) -> Tensor:
        """Softmax over the keys and, where there is one, over the head's sink."""
        sinks = self.shape.rule.sinks
        if sinks is None:
            return scores.softmax(-1)
        column = sinks.float().view(*scores.shape[:2], 1, 1).expand(*scores.shape[:3], 1)
        return torch.cat((scores, column), dim=-1).softmax(-1)[..., :-1]
