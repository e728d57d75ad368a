"""Builds the attention of one layer: projections, rotary tables, slopes, norms of queries and keys. Knows a spec and its weights, no
file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ribbon_server.distributed.base import Group
from ribbon_server.distributed.sharding import ALONE, Rank, Units, even_cut, stage_layers
from ribbon_server.kv.device import layout_on
from ribbon_server.kv.layout import KvLayout, LayerShape, alike
from ribbon_server.layers.attention.base import PLAIN, AttentionLayer, AttentionShape, ScoreRule
from ribbon_server.layers.attention.tempered import TemperedAttention
from ribbon_server.layers.latent import LatentOutput, LatentQueries
from ribbon_server.layers.linear import LinearLayer
from ribbon_server.layers.mlp import Change, Changed, HeadNorm, clip
from ribbon_server.layers.rotary import (
    Angles,
    FrequencyBands,
    RotaryTable,
    YarnBands,
    banded,
    divided,
    frequencies,
    grown_base,
    yarn,
)
from ribbon_server.models.spec import (
    Alibi,
    Attention,
    DynamicRope,
    Grouped,
    Latent,
    LinearRope,
    Llama3Rope,
    LongRope,
    Norm,
    NormKind,
    NormScope,
    Rope,
    YarnRope,
)
from ribbon_server.models.weights import Weights


@dataclass(frozen=True)
class LayerPlace:
    """Where a layer's keys and values lie."""

    layout: KvLayout
    group: int
    index: int  # among the group's layers


def layer_shape(attention: Attention) -> LayerShape:
    """What the layer keeps of a token."""
    return LayerShape(attention.num_kv_heads, attention.head_dim, _vectors(attention))


def group_layouts(attentions: Sequence[Attention], like: Tensor, stage: Rank = ALONE) -> list[KvLayout]:
    """Layers of one reach are a group, whose bytes are of the type and on the device of `like`. A stage keeps its own layers'
    alone; it has all groups of the model, and a token takes as many pages in each as in every other stage."""
    layouts = []
    for reach in dict.fromkeys(attention.reach for attention in attentions):
        stages = []
        for index in range(stage.world_size):
            own = stage_layers(len(attentions), replace(stage, index=index))
            shapes = [layer_shape(attentions[layer]) for layer in own if attentions[layer].reach == reach]
            stages.append(replace(layout_on(like.device, shapes, like.dtype.itemsize), window=reach))
        layouts.append(alike(stages[stage.index], stages))
    return layouts


def group_places(attentions: Sequence[Attention], layouts: Sequence[KvLayout]) -> Iterator[LayerPlace]:
    """One for each layer of the stage that has `layouts`."""
    reaches = [layout.window for layout in layouts]
    seen = [0] * len(reaches)
    for attention in attentions:
        group = reaches.index(attention.reach)
        yield LayerPlace(layouts[group], group, seen[group])
        seen[group] += 1


def _vectors(attention: Attention) -> int:
    """A latent is key and value in one."""
    return 1 if isinstance(attention, Latent) else 2


def attention_layer(attention: Attention, place: LayerPlace, rotary: int, weights: Weights) -> AttentionLayer:
    """The kernel for a layer, whose rotary table is number `rotary`."""
    own = attention if isinstance(attention, Grouped) else None
    shape = AttentionShape(
        num_heads=attention.num_heads,
        num_kv_heads=attention.num_kv_heads,
        head_dim=attention.head_dim,
        scale=attention.scale,
        kv_offset=place.layout.layer_offsets[place.index],
        rotary=rotary,
        window=None if own is None else own.window,
        group=place.group,
        band=place.layout.layer_bands[place.index],
        rule=PLAIN if own is None else score_rule(own, weights),
        chunk=None if own is None else own.chunk,
        vectors=_vectors(attention),
    )
    kernel = weights.kernels.attention(shape)
    if own is None or own.temperature is None:
        return kernel
    return TemperedAttention(kernel, shape, own.temperature.weight, own.temperature.every)


def score_rule(attention: Grouped, weights: Weights) -> ScoreRule:
    """What the layer does to its scores."""
    sinks = weights.optional("sinks")
    if attention.softcap is None and attention.alibi is None and sinks is None:
        return PLAIN
    slopes = None if attention.alibi is None else _own_slopes(attention.alibi, attention.num_heads, weights.group)
    return ScoreRule(attention.softcap, slopes, None if sinks is None else sinks.float())


def _own_slopes(alibi: Alibi, num_heads: int, group: Group) -> Tensor:
    """Of the rank's own heads: a slope depends on how many heads all ranks have."""
    first = group.rank.index * num_heads
    return alibi_slopes(alibi, group.rank.world_size * num_heads)[first : first + num_heads]


def alibi_slopes(alibi: Alibi, num_heads: int) -> Tensor:
    """2^-(max_bias * i / n) for i = 1 … n, n a power of two; further heads take every other slope of 2n, steepest first.
    https://arxiv.org/abs/2108.12409, section 3 and its code. float32 [heads]"""
    whole = 1 << (num_heads.bit_length() - 1)
    steps = torch.arange(1, whole + 1, dtype=torch.float32) / whole
    between = (2 * torch.arange(num_heads - whole, dtype=torch.float32) + 1) / (2 * whole)
    return torch.exp2(-alibi.max_bias * torch.cat((steps, between))) * alibi.scale


def projections(attention: Attention, weights: Weights) -> tuple[LinearLayer, LinearLayer]:
    """From normed hidden states to what the kernel takes, and from what it gives back to hidden states."""
    if isinstance(attention, Latent):
        return latent_projections(attention, weights)
    linear, changes = weights.linear("qkv"), qkv_changes(attention, weights)
    return Changed(linear, changes) if changes else linear, weights.partial_linear("output")


def latent_projections(latent: Latent, weights: Weights) -> tuple[LatentQueries, LatentOutput]:
    """Queries come from a vector of their own, or straight from the hidden state."""
    query: LinearLayer = weights.linear("query_up")
    if latent.query_rank is not None:
        query = Changed(weights.linear("query_down"), [_vector_norm(latent.norm, "query_norm", weights), query])
    up = weights.take("kv_up").unflatten(0, (latent.num_heads, -1))
    key_up, value_up = up.split((latent.plain_dim, latent.value_dim), dim=1)
    norm = _vector_norm(latent.norm, "kv_norm", weights)
    queries = LatentQueries(query, weights.linear("kv_down"), norm, key_up.contiguous())
    return queries, LatentOutput(value_up.transpose(1, 2).contiguous(), weights.partial_linear("output"))


def _vector_norm(norm: Norm, name: str, weights: Weights) -> Change:
    return partial(normed, norm=norm, weight=weights.optional(name), bias=weights.optional(f"{name}_bias"))


def qkv_changes(attention: Grouped, weights: Weights) -> list[Change]:
    """What happens to queries, keys and values before they are turned and stored."""
    changes: list[Change] = [] if attention.clip is None else [clip(attention.clip)]
    return changes + list(_qk_norms(attention, weights))


def _qk_norms(attention: Grouped, weights: Weights) -> list[Change]:
    qk_norm, group = attention.qk_norm, weights.group
    if qk_norm is None:
        return []
    norms: list[Change] = []
    parts = (("q_norm", 0, attention.num_heads), ("k_norm", attention.num_heads, attention.num_kv_heads))
    for name, first, heads in parts:
        vectors = (weights.optional(name), weights.optional(f"{name}_bias"))
        weight, bias = (_own_vector(vector, attention.head_dim, qk_norm.scope, group) for vector in vectors)
        is_joint = qk_norm.scope is NormScope.ALL_HEADS
        others = group if is_joint and group.rank.world_size > 1 else None
        function = partial(normed, norm=qk_norm.norm, weight=weight, bias=bias, others=others)
        norms.append(HeadNorm(function, first * attention.head_dim, heads, attention.head_dim, is_joint))
    return norms


def _own_vector(vector: Tensor | None, head_dim: int, scope: NormScope, group: Group) -> Tensor | None:
    """What the rank's heads need of the elements of all heads; [heads, head_dim] where each head is normed by itself."""
    if vector is None or scope is NormScope.HEAD:
        return vector
    cut = even_cut(len(vector), Units(len(vector) // head_dim, shared=True), group.rank)
    own = vector[cut.begin : cut.end]
    return own.view(-1, head_dim) if scope is NormScope.EACH_HEAD else own


def normed(x: Tensor, *, norm: Norm, weight: Tensor | None, bias: Tensor | None, others: Group | None = None) -> Tensor:
    """The norm over the last dimension in float32; weight and bias [..., dim] may differ from head to head. `others` hold as
    many more elements of the same rows, and as many copies of each."""
    x32 = x.float()
    if others is not None:
        x32 = _rms_norm_together(x32, norm.eps, others)
    else:
        kind = F.rms_norm if norm.kind is NormKind.RMS else F.layer_norm
        x32 = kind(x32, x32.shape[-1:], eps=norm.eps)
    if weight is not None:
        x32 = x32 * (weight.float() + norm.offset)
    return (x32 if bias is None else x32 + bias.float()).to(x.dtype)


def _rms_norm_together(x32: Tensor, eps: float, group: Group) -> Tensor:
    squares = x32.square().sum(-1, keepdim=True)
    group.sum(squares)
    return x32 * torch.rsqrt(squares / (group.rank.world_size * x32.shape[-1]) + eps)


class RotaryRecipe:
    """A rotary table to be, made once the longest sequence is known; heads without rotary positions turn by nothing."""

    def __init__(self, rope: Rope | None, head_dim: int) -> None:
        """Of heads of head_dim."""
        self.rope = rope
        self.head_dim = head_dim

    def __call__(self, max_positions: int, device: torch.device) -> RotaryTable:
        """The table for sequences of up to `max_positions` tokens."""
        nothing = Angles(torch.zeros(0))
        angles = nothing if self.rope is None else rope_angles(self.rope, max_positions)
        return RotaryTable(angles, self.head_dim, max_positions, device)


def rope_angles(rope: Rope, max_positions: int) -> Angles:
    """Scaled frequencies; some scalings depend on the longest sequence that the server allows."""
    base, dim, scaling = rope.base, rope.dim, rope.scaling
    if isinstance(scaling, LinearRope):
        return Angles(frequencies(base, dim) / scaling.factor)
    if isinstance(scaling, DynamicRope):
        length = max(max_positions, scaling.original_max_positions)
        stretch = scaling.factor * length / scaling.original_max_positions - (scaling.factor - 1)
        return Angles(frequencies(grown_base(base, dim, stretch), dim))
    if isinstance(scaling, Llama3Rope):
        return Angles(banded(frequencies(base, dim), _llama3_bands(scaling)))
    if isinstance(scaling, YarnRope):
        return Angles(yarn(base, dim, _yarn_bands(scaling)), scaling.gain)
    if isinstance(scaling, LongRope):
        if max_positions > scaling.original_max_positions:
            return Angles(divided(base, dim, scaling.long), scaling.long_gain)
        return Angles(divided(base, dim, scaling.short), scaling.short_gain)
    return Angles(frequencies(base, dim))


def _llama3_bands(scaling: Llama3Rope) -> FrequencyBands:
    return FrequencyBands(
        scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_max_positions
    )


def _yarn_bands(scaling: YarnRope) -> YarnBands:
    return YarnBands(
        scaling.factor, scaling.beta_fast, scaling.beta_slow, scaling.original_max_positions, scaling.truncate
    )
