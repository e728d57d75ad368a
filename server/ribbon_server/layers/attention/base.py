"""What attention is given in one step, and where a layer's keys and values lie. Knows slots and lengths, not why."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from torch import Tensor

from ribbon_server import _native
from ribbon_server.kv.ribbons import Ribbons
from ribbon_server.layers.attention.ragged import RaggedBatch


@dataclass(frozen=True, eq=False)
class ScoreRule:
    """What some models do to attention scores, in this order. Equal only to itself."""

    softcap: float | None = None  # scores become softcap * tanh(scores / softcap). https://arxiv.org/abs/2408.00118
    slopes: Tensor | None = (
        None  # float32 [heads], times the key's distance from the query. https://arxiv.org/abs/2108.12409
    )
    sinks: Tensor | None = (
        None  # float32 [heads]: one more score in each softmax, without a value. https://arxiv.org/abs/2508.10925
    )


PLAIN = ScoreRule()


@dataclass(frozen=True)
class AttentionShape:
    """One layer's attention: geometry, scale, place in the token's bytes, and which rotary table turns it."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    kv_offset: int
    rotary: int
    window: int | None = None  # tokens that a query sees, its own included; None: all
    group: int = 0  # of layers that keep their tokens alike
    band: int = 0  # of the region, where a device keeps a few layers in one
    rule: ScoreRule = PLAIN
    chunk: int | None = (
        None  # positions lie in chunks of so many, and a query sees no other than its own; None: one for all
    )
    vectors: int = 2  # that a token keeps of each kv head: a key and a value, or one that is both


class ForwardContext:
    """One step's ragged batch. Built once, read by every layer."""

    def __init__(
        self,
        ribbons: Ribbons,
        slots: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        prompts: np.ndarray | None = None,
    ) -> None:
        """slots uint32 [rows]; starts uint32 [rows + 1] into the flat tokens; lengths uint32 [rows] after this step; prompts int64
        [rows]: tokens of each row's prompt, which an encoder has to know."""
        self.ribbons = ribbons
        self.slots = slots
        self.starts = starts
        self.lengths = lengths
        self.prompts = prompts
        self.rotations: Sequence[tuple[Tensor, Tensor]] = ()  # (cos, sin) float32 [tokens, dim / 2] of each table

    @cached_property
    def runs(self) -> tuple[_native.Runs, ...]:
        """The batch as the native CPU kernels take it, over each group's region."""
        return tuple(
            _native.Runs(group.region, self.slots, self.starts, self.lengths, group.layout.window)
            for group in self.ribbons.groups
        )

    @cached_property
    def ragged(self) -> RaggedBatch:
        """The batch as index tensors on the region's device."""
        return RaggedBatch(self.slots, self.starts, self.lengths, self.ribbons.device)


class AttentionLayer(Protocol):
    """Stores a step's keys and values, then attends."""

    def __call__(self, qkv: Tensor, context: ForwardContext, query: Tensor, output: Tensor) -> None:
        """qkv [tokens, (heads + vectors * kv_heads) * head_dim]; query is scratch, output the result: [tokens, heads * head_dim]."""
        ...
