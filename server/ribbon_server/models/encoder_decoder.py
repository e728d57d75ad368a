"""The forward pass of an encoder and a decoder over one ragged batch: prompts that are new are read, then everyone says a token.
Knows layers, not families or sequences.

Positions are the sequence's own: the encoder reads tokens [0, n) of a slot, and the decoder's begin at n with the start token, which
is the prompt's last one. So one ribbon holds both, and the account of its pages is that of any sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ribbon_server.device import upload
from ribbon_server.kv.layout import KvLayout
from ribbon_server.layers.attention.answering import AnswerContext, Memory, OwnAttention, PromptAttention
from ribbon_server.layers.attention.base import ForwardContext
from ribbon_server.layers.attention.distance_bias import DistanceBias
from ribbon_server.layers.embedding import LogitsHead, TokenEmbedding
from ribbon_server.layers.linear import LinearLayer
from ribbon_server.layers.mlp import FeedForwardLayer
from ribbon_server.layers.norm import NormLayer
from ribbon_server.models.blocks import Block, Scratch
from ribbon_server.models.decoder import Widths, Workspace


@dataclass(frozen=True)
class CrossParts:
    """How a decoder's layer looks at the prompt."""

    norm: NormLayer
    query: LinearLayer
    attention: PromptAttention
    output: LinearLayer


@dataclass(frozen=True)
class AnswerBlock:
    """x += attention(norm(x)), then x += cross(norm(x)), then x += feed_forward(norm(x))."""

    attention_norm: NormLayer
    qkv: LinearLayer
    attention: OwnAttention
    output: LinearLayer
    cross: CrossParts | None
    feed_forward_norm: NormLayer
    feed_forward: FeedForwardLayer

    def __call__(self, stream: Tensor, delta: Tensor | None, context: AnswerContext, scratch: Scratch) -> Tensor:
        """stream [tokens, hidden] changes in place; returns the block's last delta, not added yet."""
        self.attention_norm(stream, delta, scratch.normed)
        self.attention(self.qkv(scratch.normed), context, scratch.attended)
        said = self.output(scratch.attended)
        if (cross := self.cross) is not None:
            cross.norm(stream, said, scratch.normed)
            cross.attention(cross.query(scratch.normed), context, scratch.attended)
            said = cross.output(scratch.attended)
        self.feed_forward_norm(stream, said, scratch.normed)
        return self.feed_forward(scratch.normed, scratch.activated)


AnyBlock = TypeVar("AnyBlock")


@dataclass(frozen=True)
class Stack(Generic[AnyBlock]):
    """The blocks of either side with what surrounds them."""

    blocks: Sequence[AnyBlock]
    final_norm: NormLayer
    bias: DistanceBias | None


@dataclass(frozen=True)
class EncoderDecoderParts:
    """What the model is made of."""

    embedding: TokenEmbedding
    reader: Stack[Block]
    speaker: Stack[AnswerBlock]
    head: LogitsHead
    widths: Widths
    kv_layout: KvLayout
    has_native_prompts: bool  # the native kernel attends to prompts
    num_parameters: int


class Turn:
    """Which flat tokens of a step the encoder reads, and which are the decoder's."""

    def __init__(self, context: ForwardContext) -> None:
        """A row that has no token in its slot yet brings its whole prompt."""
        if context.prompts is None:
            raise AssertionError("an encoder has to know where prompts end")
        starts = context.starts.astype(np.int64)
        counts, lengths = np.diff(starts), context.lengths.astype(np.int64)
        self.encoded = context.prompts - 1  # int64 [rows]: the prompt's last token is the decoder's first
        read = np.where(lengths == counts, self.encoded, 0)
        self.rows = np.flatnonzero(read)  # those that bring a prompt
        self.read_counts = read[self.rows]
        self.starts = np.concatenate(([0], np.cumsum(counts - read))).astype(np.uint32)  # of the decoder's tokens
        is_read = np.arange(int(starts[-1])) - np.repeat(starts[:-1], counts) < np.repeat(read, counts)
        self.read, self.said = np.flatnonzero(is_read), np.flatnonzero(~is_read)  # int64: flat tokens

    @property
    def brings_prompts(self) -> bool:
        """Whether the encoder has something to do."""
        return bool(self.rows.size)


class EncoderDecoder:
    """Token ids to logits; see Decoder for the methods."""

    def __init__(self, parts: EncoderDecoderParts) -> None:
        """Takes the parts; `prepare` must run before the first step."""
        self.parts = parts
        self.dtype = parts.embedding.weight.dtype
        self.device = parts.embedding.weight.device
        self.kv_layouts: Sequence[KvLayout] = (parts.kv_layout,)
        self.num_parameters = parts.num_parameters
        self._workspace = Workspace(parts.widths, parts.embedding.weight, 1)

    def prepare(self, max_positions: int) -> None:
        """Makes the tables for sequences of up to `max_positions` tokens."""
        for bias in (self.parts.reader.bias, self.parts.speaker.bias):
            if bias is not None:
                bias.prepare(max_positions)

    def forward(self, token_ids: Tensor, positions: Tensor, context: ForwardContext, sampled: Tensor) -> Tensor | None:
        """See Decoder."""
        states = self.states(token_ids, positions, context, sampled)
        return None if states is None else self.logits(states)

    def logits(self, states: Tensor) -> Tensor:
        """See Decoder."""
        return self.parts.head(states)

    def states(self, token_ids: Tensor, positions: Tensor, context: ForwardContext, wanted: Tensor) -> Tensor | None:
        """See Decoder; only the decoder's tokens have states."""
        turn, memory = Turn(context), None
        if turn.brings_prompts:
            memory = self._read(token_ids, positions, context, turn)
            said = upload(turn.said, self.device)
            token_ids, positions = token_ids.index_select(0, said), positions.index_select(0, said)
            wanted = torch.searchsorted(said, wanted)
        answers = AnswerContext(context, turn.starts, turn.encoded, memory)
        return self._say(token_ids, positions, answers, wanted)

    def _read(self, token_ids: Tensor, positions: Tensor, context: ForwardContext, turn: Turn) -> Memory:
        """The encoder, over all prompts of the step."""
        read, parts = upload(turn.read, self.device), self.parts
        positions = positions.index_select(0, read)
        stream = parts.embedding(token_ids.index_select(0, read), positions)
        starts = np.concatenate(([0], np.cumsum(turn.read_counts))).astype(np.uint32)
        slots = context.slots[turn.rows]
        prompts = ForwardContext(context.ribbons, slots, starts, turn.read_counts.astype(np.uint32))
        delta, scratch = None, self._scratch(len(stream))
        for block in parts.reader.blocks:
            delta = block(stream, delta, prompts, scratch)
        states = torch.empty_like(stream)
        parts.reader.final_norm(stream, delta, states)
        of = np.repeat(slots.astype(np.int64), turn.read_counts)
        return Memory(states, upload(of, self.device), positions)

    def _say(self, token_ids: Tensor, positions: Tensor, context: AnswerContext, wanted: Tensor) -> Tensor | None:
        """The decoder, over its own tokens."""
        parts = self.parts
        stream = parts.embedding(token_ids, positions)
        context.prepare(parts.speaker.bias, stream, is_native=parts.has_native_prompts)
        delta, scratch = None, self._scratch(len(stream))
        for block in parts.speaker.blocks:
            delta = block(stream, delta, context, scratch)
        if not len(wanted):
            return None
        stream = stream.index_select(0, wanted)
        normed = torch.empty_like(stream)
        parts.speaker.final_norm(stream, None if delta is None else delta.index_select(0, wanted), normed)
        return normed

    def _scratch(self, num_tokens: int) -> Scratch:
        if num_tokens > self._workspace.max_tokens:
            self._workspace = Workspace(self.parts.widths, self.parts.embedding.weight, num_tokens)
        return self._workspace.views(num_tokens)
