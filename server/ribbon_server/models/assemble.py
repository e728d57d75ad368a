"""Builds a decoder from a spec, its weights and a set of kernels. Knows all three, and no file."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from ribbon_server.distributed.base import World
from ribbon_server.distributed.sharding import stage_layers
from ribbon_server.distributed.single import SINGLE
from ribbon_server.kv.layout import KvLayout
from ribbon_server.layers.registry import Kernels
from ribbon_server.models.assemble_attention import (
    RotaryRecipe,
    attention_layer,
    group_layouts,
    group_places,
    projections,
)
from ribbon_server.models.assemble_encoder_decoder import assemble_encoder_decoder
from ribbon_server.models.assemble_parts import (
    changed,
    embedding_layer,
    feed_forward_layer,
    head_layer,
    norm_layer,
    output_changes,
    spec_widths,
)
from ribbon_server.models.blocks import (
    Block,
    BlockParts,
    NormAfterSumBlock,
    ParallelBlock,
    SequentialBlock,
    SharedNormBlock,
)
from ribbon_server.models.decoder import CausalModel, Decoder, Entrance, Exit, Head, Parts
from ribbon_server.models.spec import LayerSpec, ModelSpec, Residual, Rope
from ribbon_server.models.stages import FromStage, ToStage
from ribbon_server.models.weights import Weights


def assemble(spec: ModelSpec, weights: dict[str, Tensor], kernels: Kernels, world: World = SINGLE) -> CausalModel:
    """Builds what a rank of `world` holds; `spec` is its share of all layers (models/share.py), which are the model where it is
    alone, and `weights` are those of its stage.

    Takes the weights out of `weights` one by one, so that packing never holds the model twice.
    """
    if (encoder := spec.encoder) is not None:
        return assemble_encoder_decoder(spec, encoder, weights, kernels, world.tensor)
    num_parameters = sum(weight.numel() for weight in weights.values())
    outer = Weights(weights, kernels, world.tensor)
    own = stage_layers(len(spec.layers), world.stage)
    like = weights[f"layers.{own.start}.output"].new_empty(0)  # every layer has one
    kv_layouts = group_layouts([layer.attention for layer in spec.layers], like, world.stage)
    entrance, exit_ = _ends(spec, outer, world, like)
    staged = replace(spec, layers=spec.layers[own.start : own.stop])
    parts = Parts(
        entrance=entrance,
        blocks=list(_blocks(staged, outer, own, kv_layouts)),
        exit=exit_,
        rotary=[RotaryRecipe(rope, head_dim) for rope, head_dim in spec_ropes(staged)],
        widths=spec_widths(staged),
        like=like,
        kv_layouts=kv_layouts,
        num_parameters=num_parameters,
    )
    return Decoder(parts)


def _ends(spec: ModelSpec, weights: Weights, world: World, like: Tensor) -> tuple[Entrance, Exit]:
    """What stands before the blocks of a stage, and behind them."""
    stage = world.stage
    table: Tensor | None
    entrance: Entrance
    if stage.is_first:
        table = weights.take("embedding")
        entrance = embedding_layer(spec, weights, table)
    else:
        table = weights.optional("embedding")
        entrance = FromStage(world, spec.hidden, like)
    if not stage.is_last:
        return entrance, ToStage(world)
    head = head_layer(spec, weights, table)
    return entrance, Head(norm_layer(spec.final_norm, "final_norm", weights), head)


def spec_ropes(spec: ModelSpec) -> list[tuple[Rope | None, int]]:
    """The rotary tables that the layers need, with the size of what they turn."""
    return list(dict.fromkeys((layer.attention.rope, layer.attention.turned_dim) for layer in spec.layers))


def _blocks(spec: ModelSpec, weights: Weights, indices: range, kv_layouts: Sequence[KvLayout]) -> Iterator[Block]:
    """Of the layers that `spec` has, which are those of the model with `indices`."""
    ropes = spec_ropes(spec)
    places = group_places([layer.attention for layer in spec.layers], kv_layouts)
    for index, layer, place in zip(indices, spec.layers, places, strict=True):
        own = weights.of_layer(index)
        attention = layer.attention
        qkv, output = projections(attention, own)
        parts = BlockParts(
            attention_norm=norm_layer(layer.attention_norm, "attention_norm", own),
            qkv=qkv,
            attention=attention_layer(attention, place, ropes.index((attention.rope, attention.turned_dim)), own),
            output=changed(output, output_changes(layer, layer.attention_output_norm, "attention", own)),
            feed_forward_norm=norm_layer(layer.feed_forward_norm, "feed_forward_norm", own),
            feed_forward=feed_forward_layer(layer, own),
        )
        yield block_type(layer)(**vars(parts))


def block_type(layer: LayerSpec) -> type[Block]:
    """How the parts meet the stream."""
    if layer.residual is Residual.NORM_AFTER_SUM:
        return NormAfterSumBlock
    if layer.residual is Residual.SEQUENTIAL:
        return SequentialBlock
    return SharedNormBlock if layer.feed_forward_norm is None else ParallelBlock
