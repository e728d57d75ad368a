"""Builds a decoder from a spec, its weights and a set of kernels. Knows all three, and no file."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from ribbon_server.kv.device import layout_on
from ribbon_server.kv.layout import KvLayout, LayerShape
from ribbon_server.layers.attention.base import AttentionShape
from ribbon_server.layers.registry import Kernels
from ribbon_server.layers.rotary import FrequencyBands, banded, frequencies
from ribbon_server.models.decoder import Block, Decoder, Parts, Widths
from ribbon_server.models.spec import LayerSpec, LinearRope, Llama3Rope, ModelSpec, Rope


def assemble(spec: ModelSpec, weights: dict[str, Tensor], kernels: Kernels) -> Decoder:
    """Takes the weights out of `weights` one by one, so that packing never holds the model twice."""
    num_parameters = sum(weight.numel() for weight in weights.values())
    ropes = spec_ropes(spec)
    embedding = weights.pop("embedding")
    places = list(layer_places(spec, embedding))
    head = embedding if spec.tied_embeddings else weights.pop("head")
    parts = Parts(
        embedding=embedding,
        blocks=list(_blocks(spec, weights, places, kernels)),
        final_norm=kernels.rms_norm(weights.pop("final_norm"), spec.final_norm.eps),
        head=kernels.linear(head, None),
        frequencies=[rope_frequencies(rope) for rope in ropes],
        widths=spec_widths(spec),
        kv_layouts=list(dict.fromkeys(place.layout for place in places)),
        num_parameters=num_parameters,
    )
    return Decoder(parts)


@dataclass(frozen=True)
class LayerPlace:
    """Where a layer's keys and values lie."""

    layout: KvLayout
    group: int
    index: int  # among the group's layers


def layer_places(spec: ModelSpec, like: Tensor) -> Iterator[LayerPlace]:
    """One for each layer: layers of one window are a group, whose bytes are of the type and on the device of `like`."""
    windows = list(dict.fromkeys(layer.attention.window for layer in spec.layers))
    members = [[layer.attention for layer in spec.layers if layer.attention.window == window] for window in windows]
    layouts = []
    for window, attentions in zip(windows, members, strict=True):
        shapes = [LayerShape(attention.num_kv_heads, attention.head_dim) for attention in attentions]
        layouts.append(replace(layout_on(like.device, shapes, like.dtype.itemsize), window=window))
    seen = [0] * len(windows)
    for layer in spec.layers:
        group = windows.index(layer.attention.window)
        yield LayerPlace(layouts[group], group, seen[group])
        seen[group] += 1


def spec_ropes(spec: ModelSpec) -> list[Rope]:
    """The rotary tables that the layers need."""
    return list(dict.fromkeys(layer.attention.rope for layer in spec.layers))


def spec_widths(spec: ModelSpec) -> Widths:
    """The widest activations of all layers."""
    return Widths(
        hidden=spec.hidden,
        query=max(layer.attention.qkv_dims[0] for layer in spec.layers),
        intermediate=max(layer.feed_forward.intermediate for layer in spec.layers),
    )


def rope_frequencies(rope: Rope) -> Tensor:
    """Scaled frequencies, float32 [dim / 2]."""
    unscaled = frequencies(rope.base, rope.dim)
    scaling = rope.scaling
    if isinstance(scaling, LinearRope):
        return unscaled / scaling.factor
    if isinstance(scaling, Llama3Rope):
        bands = FrequencyBands(
            scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_max_positions
        )
        return banded(unscaled, bands)
    return unscaled


def _blocks(spec: ModelSpec, weights: dict[str, Tensor], places: list[LayerPlace], kernels: Kernels) -> Iterator[Block]:
    ropes = spec_ropes(spec)
    for index, (layer, place) in enumerate(zip(spec.layers, places, strict=True)):
        shape = _attention_shape(layer, place, ropes)
        yield _block(layer, _LayerWeights(weights, index), shape, kernels)


def _attention_shape(layer: LayerSpec, place: LayerPlace, ropes: list[Rope]) -> AttentionShape:
    attention = layer.attention
    return AttentionShape(
        num_heads=attention.num_heads,
        num_kv_heads=attention.num_kv_heads,
        head_dim=attention.head_dim,
        scale=attention.scale,
        kv_offset=place.layout.layer_offsets[place.index],
        rotary=ropes.index(attention.rope),
        window=attention.window,
        group=place.group,
        band=place.layout.layer_bands[place.index],
    )


class _LayerWeights:
    """One layer's weights, each taken once."""

    def __init__(self, weights: dict[str, Tensor], index: int) -> None:
        self._weights = weights
        self._prefix = f"layers.{index}."

    def take(self, name: str) -> Tensor:
        return self._weights.pop(self._prefix + name)

    def bias(self, name: str) -> Tensor | None:
        return self._weights.pop(f"{self._prefix}{name}_bias", None)


def _block(layer: LayerSpec, weights: _LayerWeights, shape: AttentionShape, kernels: Kernels) -> Block:
    return Block(
        attention_norm=kernels.rms_norm(weights.take("attention_norm"), layer.attention_norm.eps),
        qkv=kernels.linear(weights.take("qkv"), weights.bias("qkv")),
        attention=kernels.attention(shape),
        output=kernels.linear(weights.take("output"), weights.bias("output")),
        feed_forward_norm=kernels.rms_norm(weights.take("feed_forward_norm"), layer.feed_forward_norm.eps),
        gate_up=kernels.linear(weights.take("gate_up"), weights.bias("gate_up")),
        activation=kernels.silu_mul,
        down=kernels.linear(weights.take("down"), weights.bias("down")),
    )
