"""Attention of a decoder behind an encoder. Its slot's ribbon holds, for each layer, first the keys and values of what the encoder
made of the prompt, then those of the decoder's own tokens; a query sees the ones in one layer part and the others in the next."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ribbon_server import _native
from ribbon_server.layers.attention.base import AttentionShape, ForwardContext
from ribbon_server.layers.attention.cpu import NativeAttention
from ribbon_server.layers.attention.distance_bias import DistanceBias
from ribbon_server.layers.attention.padded import KeyBlock, Spans, key_blocks
from ribbon_server.layers.attention.places import LayerTokens
from ribbon_server.layers.linear import LinearLayer


@dataclass(frozen=True)
class Memory:
    """What the encoder made of the step's prompts, and where its keys and values go."""

    states: Tensor  # [prompt tokens, hidden]
    slots: Tensor  # int64 [prompt tokens]
    positions: Tensor  # int64 [prompt tokens]


class AnswerContext(ForwardContext):
    """The decoder's part of one step: runs of its own tokens, behind `encoded` tokens of the prompt in each slot."""

    def __init__(self, base: ForwardContext, starts: np.ndarray, encoded: np.ndarray, memory: Memory | None) -> None:
        """starts uint32 [rows + 1] into the decoder's flat tokens; encoded int64 [rows]; memory: of prompts in this step."""
        super().__init__(base.ribbons, base.slots, starts, base.lengths)
        self.encoded = encoded
        self.memory = memory
        self.own_blocks: list[KeyBlock] = []
        self.memory_blocks: list[KeyBlock] = []  # empty where the native kernel does it
        self.native: _native.Runs | None = None

    def prepare(self, bias: DistanceBias | None, like: Tensor, *, is_native: bool) -> None:
        """What all layers need; `like` has the type and the device of their activations, is_native: the native kernel takes them."""
        begins, ends = np.zeros_like(self.encoded), self.lengths.astype(np.int64)
        own = Spans(self.slots, self.starts, self.encoded, ends, is_causal=True)
        self.own_blocks = key_blocks(own, bias, like)
        if is_native and int(self.starts[-1]) == len(self.slots):  # the kernel's queries see one key less than the next
            (group,) = self.ribbons.groups
            self.native = _native.Runs(group.region, self.slots, self.starts, self.encoded.astype(np.uint32))
        else:
            prompts = Spans(self.slots, self.starts, begins, self.encoded, is_causal=False)
            self.memory_blocks = key_blocks(prompts, None, like)


class OwnAttention:
    """To the decoder's own tokens."""

    def __init__(self, shape: AttentionShape) -> None:
        """Takes the layer's geometry."""
        self._shape = shape
        self._tokens = LayerTokens(shape)

    def __call__(self, qkv: Tensor, context: AnswerContext, output: Tensor) -> None:
        """Stores the step's keys and values, then attends: qkv [tokens, 3 * heads * head_dim], output [tokens, heads * head_dim]."""
        shape = self._shape
        query, key, value = qkv.view(len(qkv), 3, shape.num_heads, shape.head_dim).unbind(1)
        kv = self._tokens.view(context.ribbons, qkv.dtype)
        store(kv, context.ragged.token_places, key, value)
        for block in context.own_blocks:
            block.attend(query, kv, shape.scale, output)


class PromptAttention:
    """To what the encoder made of the prompt."""

    def __init__(self, shape: AttentionShape, keys: LinearLayer) -> None:
        """Takes the layer's geometry and what makes keys and values of the encoder's states."""
        self._shape = shape
        self._tokens = LayerTokens(shape)
        self._keys = keys
        self._native = NativeAttention(shape)

    def __call__(self, query: Tensor, context: AnswerContext, output: Tensor) -> None:
        """Stores keys and values of prompts that are new, then attends: query and output [tokens, heads * head_dim]."""
        shape, memory = self._shape, context.memory
        kv = self._tokens.view(context.ribbons, query.dtype)
        if memory is not None:
            heads = self._keys(memory.states).view(len(memory.states), 2, shape.num_kv_heads, shape.head_dim)
            store(kv, (memory.slots, memory.positions), *heads.unbind(1))
        if context.native is not None:
            self._native.attend(context.native, query, output)
            return
        queries = query.unflatten(1, (shape.num_heads, shape.head_dim))
        for block in context.memory_blocks:
            block.attend(queries, kv, shape.scale, output)


def store(kv: Tensor, places: tuple[Tensor, Tensor], key: Tensor, value: Tensor) -> None:
    """Writes keys and values [tokens, heads, head_dim] to slots and positions, int64 [tokens] each, of a layer's view."""
    slots, positions = places
    kv[slots, positions, 0] = key
    kv[slots, positions, 1] = value
