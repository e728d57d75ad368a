"""Builds a decoder from a spec, its weights and a set of kernels. Knows all three, and no file."""

from collections.abc import Iterator

from torch import Tensor

from ribbon_server.distributed.base import Group
from ribbon_server.distributed.single import SINGLE
from ribbon_server.layers.registry import Kernels
from ribbon_server.models.assemble_attention import (
    LayerPlace,
    RotaryRecipe,
    attention_layer,
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
from ribbon_server.models.decoder import CausalModel, Decoder, Parts
from ribbon_server.models.spec import LayerSpec, ModelSpec, Residual, Rope
from ribbon_server.models.weights import Weights


def assemble(spec: ModelSpec, weights: dict[str, Tensor], kernels: Kernels, group: Group = SINGLE) -> CausalModel:
    """Builds what a rank of `group` holds; `spec` is its share of the model (models/share.py), which is the model where it is alone.

    Takes the weights out of `weights` one by one, so that packing never holds the model twice.
    """
    if spec.encoder is not None:
        return assemble_encoder_decoder(spec, weights, kernels, group)
    num_parameters = sum(weight.numel() for weight in weights.values())
    outer = Weights(weights, kernels, group)
    embedding = embedding_layer(spec, outer)
    places = list(group_places([layer.attention for layer in spec.layers], embedding.weight))
    head = head_layer(spec, outer, embedding.weight)
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


def spec_ropes(spec: ModelSpec) -> list[tuple[Rope | None, int]]:
    """The rotary tables that the layers need, with the size of what they turn."""
    return list(dict.fromkeys((layer.attention.rope, layer.attention.turned_dim) for layer in spec.layers))


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
