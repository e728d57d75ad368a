"""Picks the attention layer for a shape: the native kernel where it is built for it, else the reference."""

import logging
from dataclasses import dataclass, replace

from torch import Tensor

from ribbon_server.layers.attention.base import PLAIN, AttentionLayer, AttentionShape, ForwardContext
from ribbon_server.layers.attention.cpu import NativeAttention, is_built_for
from ribbon_server.layers.attention.reference import ReferenceAttention
from ribbon_server.telemetry import log


class AttentionChooser:
    """Builds attention layers; says once for each reason that the slow way is taken."""

    def __init__(self) -> None:
        """Nothing has been said."""
        self._told: set[str] = set()

    def __call__(self, shape: AttentionShape) -> AttentionLayer:
        """The layer for `shape`."""
        if shape.chunk is not None and is_built_for(replace(shape, chunk=None)):
            return FirstChunk(NativeAttention(replace(shape, chunk=None)), ReferenceAttention(shape), shape.chunk)
        if is_built_for(shape):
            return NativeAttention(shape)
        reason = _reason(shape)
        if reason not in self._told:
            self._told.add(reason)
            log(logging.WARNING, f"{reason} has no native kernel; attention runs in plain torch, slowly")
        return ReferenceAttention(shape)


def _reason(shape: AttentionShape) -> str:
    if shape.rule is not PLAIN:
        return "a rule for scores (softcap, slopes or sinks)"
    return f"head_dim {shape.head_dim}" if shape.vectors > 1 else "a latent"


@dataclass(frozen=True)
class FirstChunk:
    """Positions in chunks: as long as every sequence of a step lies in its first one, a kernel that knows none does the work."""

    one_chunk: AttentionLayer
    several: AttentionLayer
    chunk: int

    def __call__(self, qkv: Tensor, context: ForwardContext, query: Tensor, output: Tensor) -> None:
        """See AttentionLayer."""
        kernel = self.one_chunk if int(context.lengths.max()) <= self.chunk else self.several
        kernel(qkv, context, query, output)
