"""The forward pass of a causal decoder over one ragged batch. Knows layers, not families, slots or sequences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ribbon_server.kv.layout import KvLayout
from ribbon_server.layers.attention.base import ForwardContext
from ribbon_server.layers.embedding import LogitsHead
from ribbon_server.layers.norm import NormLayer
from ribbon_server.layers.rotary import RotaryTable
from ribbon_server.models.blocks import Block, Scratch


@dataclass(frozen=True)
class Widths:
    """The widest activations of the model, in elements a token."""

    hidden: int
    query: int
    intermediate: int


class Workspace:
    """Activation buffers that every layer and step uses again; views of the first tokens are contiguous."""

    def __init__(self, widths: Widths, like: Tensor, max_tokens: int) -> None:
        """Allocates for steps of up to `max_tokens`, of the type and on the device of `like`."""
        self.max_tokens = max_tokens
        self._buffers = [
            like.new_empty((max_tokens, width))
            for width in (widths.hidden, widths.query, widths.query, widths.intermediate)
        ]

    def views(self, num_tokens: int) -> Scratch:
        """For one step."""
        return Scratch(*(buffer[:num_tokens] for buffer in self._buffers))


RotaryBuilder = Callable[[int, torch.device], RotaryTable]  # for sequences of up to so many tokens, on a device
Entrance = Callable[[Tensor, Tensor], Tensor]  # token ids and positions, int64 [tokens], to the stream [tokens, hidden]


class Exit(Protocol):
    """What becomes of the residual stream behind the last block."""

    def states(self, stream: Tensor, delta: Tensor | None, wanted: Tensor, /) -> Tensor | None:
        """The final states [rows, hidden] of the flat indices `wanted`; None where there are none, or none here."""
        ...

    def logits(self, states: Tensor, /) -> Tensor:
        """Float32 [rows, vocab] of final states [rows, hidden]."""
        ...


@dataclass(frozen=True)
class Head:
    """The end of a model."""

    norm: NormLayer
    linear: LogitsHead

    def states(self, stream: Tensor, delta: Tensor | None, wanted: Tensor) -> Tensor | None:
        """See Exit. The norm is over the rows that want it alone."""
        if not len(wanted):
            return None
        if len(wanted) != len(stream):
            stream = stream.index_select(0, wanted)
            delta = None if delta is None else delta.index_select(0, wanted)
        normed = torch.empty_like(stream)
        self.norm(stream, delta, normed)
        return normed

    def logits(self, states: Tensor) -> Tensor:
        """See Exit."""
        return self.linear(states)


@dataclass(frozen=True)
class Parts:
    """What a decoder is made of."""

    entrance: Entrance
    blocks: Sequence[Block]
    exit: Exit
    rotary: Sequence[RotaryBuilder]
    widths: Widths
    like: Tensor  # of the type and on the device of all activations
    kv_layouts: Sequence[KvLayout]  # of each group
    num_parameters: int


class CausalModel(Protocol):
    """What the engine runs: `Decoder`, or a model of transformers that stands in for one."""

    dtype: torch.dtype
    device: torch.device
    kv_layouts: Sequence[KvLayout]  # of each group
    num_parameters: int

    def prepare(self, max_positions: int) -> None:
        """See Decoder."""
        ...

    def forward(
        self, token_ids: Tensor, positions: Tensor, context: ForwardContext, sampled: Tensor, /
    ) -> Tensor | None:
        """See Decoder."""
        ...

    def states(self, token_ids: Tensor, positions: Tensor, context: ForwardContext, wanted: Tensor, /) -> Tensor | None:
        """See Decoder; what `logits` takes."""
        ...

    def logits(self, states: Tensor, /) -> Tensor:
        """See Decoder."""
        ...


class Decoder:
    """Token ids to logits; as a stage of a pipeline, what comes to it to what goes on."""

    def __init__(self, parts: Parts) -> None:
        """Takes the parts; `prepare` must run before the first step."""
        self.parts = parts
        self.dtype = parts.like.dtype
        self.device = parts.like.device
        self.kv_layouts = parts.kv_layouts
        self.num_parameters = parts.num_parameters
        self._rotary: list[RotaryTable] = []
        self._workspace = Workspace(parts.widths, parts.like, 1)

    def prepare(self, max_positions: int) -> None:
        """Makes the tables for sequences of up to `max_positions` tokens."""
        self._rotary = [build(max_positions, self.device) for build in self.parts.rotary]

    def forward(self, token_ids: Tensor, positions: Tensor, context: ForwardContext, sampled: Tensor) -> Tensor | None:
        """Runs one ragged batch and stores its keys and values.

        token_ids and positions are int64 [tokens]; sampled int64 [rows] are the flat indices that want logits.
        Returns float32 [rows, vocab], None where no row wants any or a later stage makes them.
        """
        states = self.states(token_ids, positions, context, sampled)
        return None if states is None else self.logits(states)

    def states(self, token_ids: Tensor, positions: Tensor, context: ForwardContext, wanted: Tensor) -> Tensor | None:
        """As `forward`, up to the head: the final states [rows, hidden] of the flat indices `wanted`, int64 in rising order."""
        stream = self.parts.entrance(token_ids, positions)  # [tokens, hidden]
        context.rotations = [table.at(positions) for table in self._rotary]
        scratch = self._scratch(len(token_ids))
        delta: Tensor | None = None
        for block in self.parts.blocks:
            delta = block(stream, delta, context, scratch)
        return self.parts.exit.states(stream, delta, wanted)

    def logits(self, states: Tensor) -> Tensor:
        """The head: float32 [rows, vocab] of final states [rows, hidden]."""
        return self.parts.exit.logits(states)

    def _scratch(self, num_tokens: int) -> Scratch:
        if num_tokens > self._workspace.max_tokens:
            self._workspace = Workspace(self.parts.widths, self.parts.like, num_tokens)
        return self._workspace.views(num_tokens)
