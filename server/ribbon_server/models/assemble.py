"""Builds a decoder from a spec, its weights and a set of kernels. Knows all three, and no file."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from ribbon_server.distributed.base import Group
from ribbon_server.distributed.sharding import vocab_cut
from ribbon_server.distributed.single import SINGLE
from ribbon_server.kv.device import layout_on
from ribbon_server.layers.embedding import LogitsHead, PositionTable, TokenEmbedding
from ribbon_server.layers.linear import LinearLayer
from ribbon_server.layers.mlp import Change, Changed, FeedForwardLayer, multiply, normalize
from ribbon_server.layers.norm import LayerNorm, NoNorm, NormLayer
from ribbon_server.layers.registry import Kernels
from ribbon_server.layers.shares import JoinedLinear, OwnRows, summed
from ribbon_server.models.assemble_attention import (
    LayerPlace,
    RotaryRecipe,
    attention_layer,
    layer_shape,
    projections,
)
from ribbon_server.models.assemble_experts import feed_forward
from ribbon_server.models.blocks import (
    Block,
    BlockParts,
    NormAfterSumBlock,
    ParallelBlock,
    SequentialBlock,
    SharedNormBlock,
)
from ribbon_server.models.decoder import Decoder, Parts, Widths
from ribbon_server.models.spec import (
    Attention,
    Dense,
    FeedForward,
    LayerSpec,
    ModelSpec,
    Norm,
    NormKind,
    Residual,
    Rope,
)
from ribbon_server.models.weights import Weights


def assemble(spec: ModelSpec, weights: dict[str, Tensor], kernels: Kernels, group: Group = SINGLE) -> Decoder:
    """Builds what a rank of `group` holds; `spec` is its share of the model (models/share.py), which is the model where it is alone.

    Takes the weights out of `weights` one by one, so that packing never holds the model twice.
    """
    num_parameters = sum(weight.numel() for weight in weights.values())
    outer = Weights(weights, kernels, group)
    embedding = _embedding(spec, outer)
    places = list(group_places([layer.attention for layer in spec.layers], embedding.weight))
    head = _head(spec, outer, embedding.weight)
    parts = Parts(
        embedding=embedding,
        blocks=list(_blocks(spec, outer, places)),
        final_norm=norm_layer(spec.final_norm, "final_norm", outer),
        head=head,
        rotary=[RotaryRecipe(rope, head_dim) for rope, head_dim in spec_ropes(spec)],
        widths=spec_widths(spec),
        kv_layouts=list(dict.fromkeys(place.layout for place in places)),
        num_parameters=num_parameters,
    )
    return Decoder(parts)


def group_places(attentions: Sequence[Attention], like: Tensor) -> Iterator[LayerPlace]:
    """One for each layer: layers of one reach are a group, whose bytes are of the type and on the device of `like`."""
    reaches = list(dict.fromkeys(attention.reach for attention in attentions))
    layouts = []
    for reach in reaches:
        shapes = [layer_shape(attention) for attention in attentions if attention.reach == reach]
        layouts.append(replace(layout_on(like.device, shapes, like.dtype.itemsize), window=reach))
    seen = [0] * len(reaches)
    for attention in attentions:
        group = reaches.index(attention.reach)
        yield LayerPlace(layouts[group], group, seen[group])
        seen[group] += 1


def spec_ropes(spec: ModelSpec) -> list[tuple[Rope | None, int]]:
    """The rotary tables that the layers need, with the size of what they turn."""
    return list(dict.fromkeys((layer.attention.rope, layer.attention.turned_dim) for layer in spec.layers))


def spec_widths(spec: ModelSpec) -> Widths:
    """The widest activations of all layers."""
    return Widths(
        hidden=spec.hidden,
        query=max(layer.attention.num_heads * layer.attention.head_dim for layer in spec.layers),
        intermediate=max(_dense_width(layer.feed_forward) for layer in spec.layers),
    )


def _dense_width(part: FeedForward) -> int:
    """Experts make their own activations; what they share uses the workspace."""
    dense = part if isinstance(part, Dense) else part.shared
    return 1 if dense is None else dense.intermediate


def _embedding(spec: ModelSpec, weights: Weights) -> TokenEmbedding:
    embedding, positions = spec.embedding, spec.embedding.positions
    return TokenEmbedding(
        weight=weights.take("embedding"),
        scale=embedding.scale,
        norm=None if embedding.norm is None else norm_layer(embedding.norm, "embedding_norm", weights),
        up=None if embedding.width is None else weights.linear("embedding_up"),
        positions=None if positions is None else PositionTable(weights.take("positions"), positions.offset),
        own_rows=_own_rows(spec.vocab_size, weights.group),
    )


def _own_rows(vocab_size: int, group: Group) -> OwnRows | None:
    """None where the rank has them all."""
    if group.rank.world_size == 1:
        return None
    cut = vocab_cut(vocab_size, group.rank)
    return OwnRows(cut.begin, cut.end - cut.begin, group)


def _head(spec: ModelSpec, weights: Weights, embedding: Tensor) -> LogitsHead:
    weight = embedding if spec.tied_embeddings else weights.take("head")
    weight = F.normalize(weight) if spec.head.unit_rows else weight
    linear, group = weights.kernels.linear(weight, weights.optional("head_bias")), weights.group
    return LogitsHead(
        linear=linear if group.rank.world_size == 1 else JoinedLinear(linear, group, spec.vocab_size),
        down=None if spec.embedding.width is None else weights.linear("embedding_down"),
        scale=spec.head.scale,
        softcap=spec.head.softcap,
    )


def norm_layer(norm: Norm | None, name: str, weights: Weights) -> NormLayer:
    """The layer for a norm; none copies."""
    if norm is None:
        return NoNorm()
    if norm.kind is NormKind.LAYER:
        return LayerNorm(weights.optional(name), weights.optional(f"{name}_bias"), norm.eps)
    weight = weights.take(name)
    return weights.kernels.rms_norm(weight + norm.offset if norm.offset else weight, norm.eps)


def _blocks(spec: ModelSpec, weights: Weights, places: list[LayerPlace]) -> Iterator[Block]:
    ropes = spec_ropes(spec)
    for index, (layer, place) in enumerate(zip(spec.layers, places, strict=True)):
        own = weights.of_layer(index)
        attention = layer.attention
        qkv, output = projections(attention, own)
        parts = BlockParts(
            attention_norm=norm_layer(layer.attention_norm, "attention_norm", own),
            qkv=qkv,
            attention=attention_layer(attention, place, ropes.index((attention.rope, attention.turned_dim)), own),
            output=_changed(output, _output_changes(layer, layer.attention_output_norm, "attention", own)),
            feed_forward_norm=norm_layer(layer.feed_forward_norm, "feed_forward_norm", own),
            feed_forward=_feed_forward(layer, own),
        )
        yield block_type(layer)(**vars(parts))


def block_type(layer: LayerSpec) -> type[Block]:
    """How the parts meet the stream."""
    if layer.residual is Residual.NORM_AFTER_SUM:
        return NormAfterSumBlock
    if layer.residual is Residual.SEQUENTIAL:
        return SequentialBlock
    return SharedNormBlock if layer.feed_forward_norm is None else ParallelBlock


def _feed_forward(layer: LayerSpec, weights: Weights) -> FeedForwardLayer:
    part = feed_forward(layer.feed_forward, weights)
    changes = _output_changes(layer, layer.feed_forward_output_norm, "feed_forward", weights)
    return Changed(part, changes) if changes else part


def _output_changes(layer: LayerSpec, norm: Norm | None, part: str, weights: Weights) -> list[Change]:
    """What happens to a part's result before it joins the stream."""
    changes = [] if weights.group.rank.world_size == 1 else [summed(weights.group)]
    changes += [] if norm is None else [normalize(norm_layer(norm, f"{part}_output_norm", weights))]
    return changes + ([multiply(layer.residual_multiplier)] if layer.residual_multiplier != 1.0 else [])


def _changed(linear: LinearLayer, changes: list[Change]) -> LinearLayer:
    return Changed(linear, changes) if changes else linear
