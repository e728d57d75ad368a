"""Builds an encoder and a decoder from a spec, its weights and a set of kernels. Knows all three, and no file."""

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from ribbon_server.distributed.base import Group
from ribbon_server.errors import ModelNotSupported
from ribbon_server.layers.attention.answering import OwnAttention, PromptAttention
from ribbon_server.layers.attention.base import AttentionShape
from ribbon_server.layers.attention.cpu import is_built_for
from ribbon_server.layers.attention.distance_bias import DistanceBias, Sight
from ribbon_server.layers.attention.encoder import EncoderAttention
from ribbon_server.layers.linear import LinearLayer
from ribbon_server.layers.registry import Kernels
from ribbon_server.models.assemble_attention import LayerPlace, group_layouts, group_places, layer_shape
from ribbon_server.models.assemble_parts import (
    changed,
    embedding_layer,
    feed_forward_layer,
    head_layer,
    norm_layer,
    output_changes,
    spec_widths,
)
from ribbon_server.models.blocks import Block, SequentialBlock
from ribbon_server.models.encoder_decoder import AnswerBlock, CrossParts, EncoderDecoder, EncoderDecoderParts, Stack
from ribbon_server.models.spec import Attention, Encoder, Grouped, LayerSpec, ModelSpec, RelativeBias, Residual
from ribbon_server.models.weights import Weights


def assemble_encoder_decoder(
    spec: ModelSpec, encoder: Encoder, weights: dict[str, Tensor], kernels: Kernels, group: Group
) -> EncoderDecoder:
    """Builds what a rank of `group` holds, `encoder` being the spec's; see `assemble`.

    Raises:
        ModelNotSupported: Something is not of the kind that such models have, or they are not on the CPU.
    """
    _refuse_what_is_left_out(spec, encoder)
    num_parameters = sum(weight.numel() for weight in weights.values())
    outer = Weights(weights, kernels, group)
    table = outer.take("embedding")
    embedding = embedding_layer(spec, outer, table)
    if table.device.type != "cpu":
        raise ModelNotSupported("an encoder-decoder does not run on a device yet; use `--device cpu`")
    attentions = [layer.attention for layer in spec.layers]
    places = list(group_places(attentions, group_layouts(attentions, table)))
    shapes = [_shape(layer, place) for layer, place in zip(spec.layers, places, strict=True)]
    parts = EncoderDecoderParts(
        embedding=embedding,
        reader=_reader(encoder, outer.of_encoder()),
        speaker=_speaker(spec, shapes, outer),
        head=head_layer(spec, outer, table),
        widths=spec_widths(spec),
        kv_layout=places[0].layout,
        has_native_prompts=all(map(is_built_for, shapes)),
        num_parameters=num_parameters,
    )
    return EncoderDecoder(parts)


def _refuse_what_is_left_out(spec: ModelSpec, encoder: Encoder) -> None:
    """Raises:
    ModelNotSupported: The spec says something that nothing below would read.
    """
    layers = {"encoder": encoder.layers, "decoder": spec.layers}
    for side, layer in ((side, layer) for side, several in layers.items() for layer in several):
        left_out = {
            "a residual stream other than the sequential one": layer.residual is not Residual.SEQUENTIAL,
            "a norm behind its attention": layer.attention_output_norm is not None,
            "attention to the prompt": side == "encoder" and layer.cross is not None,
            "a norm before attention to the prompt, and no such attention": layer.cross is None
            and layer.cross_norm is not None,
        }
        for what in (name for name, is_there in left_out.items() if is_there):
            raise ModelNotSupported(f"a layer of this {side} has {what}, which encoder-decoders do not have here")
    if spec.embedding.positions is not None:
        raise ModelNotSupported("an encoder-decoder has no table of positions here: both sides count in one ribbon")


def _reader(encoder: Encoder, weights: Weights) -> Stack[Block]:
    bias = _bias(encoder.relative_bias, weights, Sight.BOTH_WAYS)
    blocks = list(_reading_blocks(encoder, weights, bias))
    return Stack(blocks, norm_layer(encoder.final_norm, "final_norm", weights), bias)


def _speaker(spec: ModelSpec, shapes: list[AttentionShape], weights: Weights) -> Stack[AnswerBlock]:
    layers = enumerate(zip(spec.layers, shapes, strict=True))
    blocks = [_answer_block(layer, shape, weights.of_layer(index)) for index, (layer, shape) in layers]
    bias = _bias(spec.relative_bias, weights, Sight.BACK)
    return Stack(blocks, norm_layer(spec.final_norm, "final_norm", weights), bias)


def _bias(bias: RelativeBias | None, weights: Weights, sight: Sight) -> DistanceBias | None:
    return None if bias is None else DistanceBias(weights.take("distances"), bias.max_distance, sight)


def _plain(attention: Attention) -> Grouped:
    """What these layers can be.

    Raises:
        ModelNotSupported: It is something else.
    """
    heads, head_dim = attention.num_heads, attention.head_dim
    if isinstance(attention, Grouped):
        plain = Grouped(heads, heads, head_dim, attention.scale, None, attention.qkv_bias, attention.output_bias)
        if attention == plain:
            return attention
    raise ModelNotSupported(
        f"attention of an encoder-decoder has plain heads without positions of their own, not {attention}"
    )


def _shape(layer: LayerSpec, place: LayerPlace) -> AttentionShape:
    attention = _plain(layer.attention)
    if layer.cross is not None and layer_shape(_plain(layer.cross)) != layer_shape(attention):
        raise ModelNotSupported(
            "attention to the prompt has other heads than attention to the text; one ribbon holds both"
        )
    return AttentionShape(
        num_heads=attention.num_heads,
        num_kv_heads=attention.num_kv_heads,
        head_dim=attention.head_dim,
        scale=attention.scale,
        kv_offset=place.layout.layer_offsets[place.index],
        rotary=0,
        group=place.group,
        band=place.layout.layer_bands[place.index],
    )


def _reading_blocks(encoder: Encoder, weights: Weights, bias: DistanceBias | None) -> Iterator[Block]:
    for index, layer in enumerate(encoder.layers):
        own, attention = weights.of_layer(index), _plain(layer.attention)
        yield SequentialBlock(
            attention_norm=norm_layer(layer.attention_norm, "attention_norm", own),
            qkv=own.linear("qkv"),
            attention=EncoderAttention(attention.num_heads, attention.head_dim, attention.scale, bias),
            output=_output("output", layer, own),
            feed_forward_norm=norm_layer(layer.feed_forward_norm, "feed_forward_norm", own),
            feed_forward=feed_forward_layer(layer, own),
        )


def _answer_block(layer: LayerSpec, shape: AttentionShape, weights: Weights) -> AnswerBlock:
    return AnswerBlock(
        attention_norm=norm_layer(layer.attention_norm, "attention_norm", weights),
        qkv=weights.linear("qkv"),
        attention=OwnAttention(shape),
        output=_output("output", layer, weights),
        cross=_cross(layer, shape, weights),
        feed_forward_norm=norm_layer(layer.feed_forward_norm, "feed_forward_norm", weights),
        feed_forward=feed_forward_layer(layer, weights),
    )


def _cross(layer: LayerSpec, shape: AttentionShape, weights: Weights) -> CrossParts | None:
    if layer.cross is None:
        return None
    return CrossParts(
        norm=norm_layer(layer.cross_norm, "cross_norm", weights),
        query=weights.linear("cross_query"),
        attention=PromptAttention(replace(shape, scale=layer.cross.scale), weights.linear("cross_kv")),
        output=_output("cross_output", layer, weights),
    )


def _output(name: str, layer: LayerSpec, weights: Weights) -> LinearLayer:
    """Back to the stream; a norm behind it is none that these layers have."""
    return changed(weights.partial_linear(name), output_changes(layer, None, name, weights))
