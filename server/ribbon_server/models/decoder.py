"""The forward pass of a causal decoder over one ragged batch. Knows layers, not families, slots or sequences."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ribbon_server.kv.layout import KvLayout
from ribbon_server.layers.activation import GatedActivation
from ribbon_server.layers.attention.base import AttentionLayer, ForwardContext
from ribbon_server.layers.linear import LinearLayer
from ribbon_server.layers.norm import NormLayer
from ribbon_server.layers.rotary import RotaryTable


@dataclass(frozen=True)
class Widths:
    """The widest activations of the model, in elements a token."""

    hidden: int
    query: int
    intermediate: int


class Workspace:
    """Activation buffers that every layer and step uses again; views of the first tokens are contiguous."""

    def __init__(self, widths: Widths, weight: Tensor, max_tokens: int) -> None:
        """Allocates for steps of up to `max_tokens`, of the type and on the device of `weight`."""
        self.max_tokens = max_tokens
        self._buffers = [
            weight.new_empty((max_tokens, width))
            for width in (widths.hidden, widths.query, widths.query, widths.intermediate)
        ]

    def views(self, num_tokens: int) -> "Scratch":
        """For one step."""
        return Scratch(*(buffer[:num_tokens] for buffer in self._buffers))


@dataclass(frozen=True)
class Scratch:
    """One step's views."""

    normed: Tensor  # [tokens, hidden]
    query: Tensor  # [tokens, heads * head_dim]
    attended: Tensor  # [tokens, heads * head_dim]
    activated: Tensor  # [tokens, intermediate]


@dataclass(frozen=True)
class Block:
    """One pre-norm decoder block. Each part returns what the next norm adds to the stream."""

    attention_norm: NormLayer
    qkv: LinearLayer
    attention: AttentionLayer
    output: LinearLayer
    feed_forward_norm: NormLayer
    gate_up: LinearLayer
    activation: GatedActivation
    down: LinearLayer

    def __call__(self, stream: Tensor, delta: Tensor | None, context: ForwardContext, scratch: Scratch) -> Tensor:
        """stream [tokens, hidden] changes in place; returns this block's own last delta, not added yet."""
        self.attention_norm(stream, delta, scratch.normed)
        self.attention(self.qkv(scratch.normed), context, scratch.query, scratch.attended)
        self.feed_forward_norm(stream, self.output(scratch.attended), scratch.normed)
        self.activation(self.gate_up(scratch.normed), scratch.activated)
        return self.down(scratch.activated)


@dataclass(frozen=True)
class Parts:
    """What a decoder is made of."""

    embedding: Tensor  # [vocab, hidden]
    blocks: Sequence[Block]
    final_norm: NormLayer
    head: LinearLayer
    frequencies: Sequence[Tensor]  # of each rotary table, float32 [dim / 2]
    widths: Widths
    kv_layouts: Sequence[KvLayout]  # of each group
    num_parameters: int


class Decoder:
    """Token ids to logits."""

    def __init__(self, parts: Parts) -> None:
        """Takes the parts; `prepare` must run before the first step."""
        self.parts = parts
        self.dtype = parts.embedding.dtype
        self.device = parts.embedding.device
        self.kv_layouts = parts.kv_layouts
        self._rotary: list[RotaryTable] = []
        self._workspace = Workspace(parts.widths, parts.embedding, 1)

    def prepare(self, max_positions: int) -> None:
        """Makes the tables for sequences of up to `max_positions` tokens."""
        self._rotary = [RotaryTable(freqs.to(self.device), max_positions) for freqs in self.parts.frequencies]

    def forward(self, token_ids: Tensor, positions: Tensor, context: ForwardContext, sampled: Tensor) -> Tensor | None:
        """Runs one ragged batch and stores its keys and values.

        token_ids and positions are int64 [tokens]; sampled int64 [rows] are the flat indices that want logits.
        Returns float32 [rows, vocab], None where no row wants any.
        """
        stream = self.parts.embedding.index_select(0, token_ids)  # [tokens, hidden]
        context.rotations = [table.at(positions) for table in self._rotary]
        scratch = self._scratch(len(token_ids))
        delta: Tensor | None = None
        for block in self.parts.blocks:
            delta = block(stream, delta, context, scratch)
        return self._logits(stream, delta, sampled) if len(sampled) else None

    def _logits(self, stream: Tensor, delta: Tensor | None, sampled: Tensor) -> Tensor:
        """The head, over the rows that want it alone."""
        if len(sampled) != len(stream):
            stream = stream.index_select(0, sampled)
            delta = None if delta is None else delta.index_select(0, sampled)
        normed = torch.empty_like(stream)
        self.parts.final_norm(stream, delta, normed)
        return self.parts.head(normed).float()

    def _scratch(self, num_tokens: int) -> Scratch:
        if num_tokens > self._workspace.max_tokens:
            self._workspace = Workspace(self.parts.widths, self.parts.embedding, num_tokens)
        return self._workspace.views(num_tokens)
