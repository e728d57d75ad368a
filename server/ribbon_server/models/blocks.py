"""Decoder blocks: attention, feed-forward, and three ways in which they meet the residual stream. Knows layers, no spec."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ribbon_server.layers.attention.base import AttentionLayer, ForwardContext
from ribbon_server.layers.linear import LinearLayer
from ribbon_server.layers.mlp import FeedForwardLayer
from ribbon_server.layers.norm import NormLayer


@dataclass(frozen=True)
class Scratch:
    """One step's views."""

    normed: Tensor  # [tokens, hidden]
    query: Tensor  # [tokens, heads * head_dim]
    attended: Tensor  # [tokens, heads * head_dim]
    activated: Tensor  # [tokens, intermediate]


class Block(Protocol):
    """One decoder block. What it returns, the next norm adds to the stream."""

    @property
    def attention(self) -> AttentionLayer:
        """Of this layer."""
        ...

    def __call__(
        self, stream: Tensor, delta: Tensor | None, context: ForwardContext, scratch: Scratch, /
    ) -> Tensor | None:
        """stream [tokens, hidden] changes in place; returns this block's own last delta, not added yet."""
        ...


@dataclass(frozen=True)
class BlockParts:
    """What every block is made of; `qkv`, `output` and the feed-forward part may change their results (layers/mlp.py)."""

    attention_norm: NormLayer
    qkv: LinearLayer
    attention: AttentionLayer
    output: LinearLayer
    feed_forward_norm: NormLayer
    feed_forward: FeedForwardLayer


class SequentialBlock(BlockParts):
    """x += attention(norm(x)), then x += feed_forward(norm(x))."""

    def __call__(self, stream: Tensor, delta: Tensor | None, context: ForwardContext, scratch: Scratch) -> Tensor:
        """See Block."""
        self.attention_norm(stream, delta, scratch.normed)
        self.attention(self.qkv(scratch.normed), context, scratch.query, scratch.attended)
        self.feed_forward_norm(stream, self.output(scratch.attended), scratch.normed)
        return self.feed_forward(scratch.normed, scratch.activated)


class ParallelBlock(BlockParts):
    """x += attention(norm(x)) + feed_forward(norm(x)), each with a norm of its own."""

    def __call__(self, stream: Tensor, delta: Tensor | None, context: ForwardContext, scratch: Scratch) -> Tensor:
        """See Block."""
        self.attention_norm(stream, delta, scratch.normed)
        self.attention(self.qkv(scratch.normed), context, scratch.query, scratch.attended)
        self.feed_forward_norm(stream, None, scratch.normed)
        return self.output(scratch.attended).add_(self.feed_forward(scratch.normed, scratch.activated))


class SharedNormBlock(BlockParts):
    """x += attention(norm(x)) + feed_forward(norm(x)), one norm for both."""

    def __call__(self, stream: Tensor, delta: Tensor | None, context: ForwardContext, scratch: Scratch) -> Tensor:
        """See Block."""
        self.attention_norm(stream, delta, scratch.normed)
        self.attention(self.qkv(scratch.normed), context, scratch.query, scratch.attended)
        return self.output(scratch.attended).add_(self.feed_forward(scratch.normed, scratch.activated))


class NormAfterSumBlock(BlockParts):
    """x = norm(x + attention(x)), then x = norm(x + feed_forward(x)); the stream is always complete."""

    def __call__(self, stream: Tensor, _delta: Tensor | None, context: ForwardContext, scratch: Scratch) -> None:
        """See Block."""
        self.attention(self.qkv(stream), context, scratch.query, scratch.attended)
        self.attention_norm(stream, self.output(scratch.attended), scratch.normed)
        stream.copy_(scratch.normed)
        self.feed_forward_norm(stream, self.feed_forward(stream, scratch.activated), scratch.normed)
        stream.copy_(scratch.normed)
