"""Builds a decoder from a spec, its weights and a set of kernels. Knows all three, and no file."""

from collections.abc import Iterator

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
    ropes = list(dict.fromkeys(layer.attention.rope for layer in spec.layers))
    embedding = weights.pop("embedding")
    layout = spec_layout(spec, embedding)
    head = embedding if spec.tied_embeddings else weights.pop("head")
    parts = Parts(
        embedding=embedding,
        blocks=list(_blocks(spec, weights, layout, ropes, kernels)),
        final_norm=kernels.rms_norm(weights.pop("final_norm"), spec.final_norm.eps),
        head=kernels.linear(head, None),
        frequencies=[rope_frequencies(rope) for rope in ropes],
        widths=spec_widths(spec),
        kv_layout=layout,
        num_parameters=num_parameters,
    )
    return Decoder(parts)


def spec_layout(spec: ModelSpec, like: Tensor) -> KvLayout:
    """The KV bytes of a token, of the type and on the device of `like`."""
    layers = [LayerShape(layer.attention.num_kv_heads, layer.attention.head_dim) for layer in spec.layers]
    return layout_on(like.device, layers, like.dtype.itemsize)


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


def _blocks(
    spec: ModelSpec, weights: dict[str, Tensor], layout: KvLayout, ropes: list[Rope], kernels: Kernels
) -> Iterator[Block]:
    for index, layer in enumerate(spec.layers):
        shape = _attention_shape(layer, layout, index, ropes)
        yield _block(layer, _LayerWeights(weights, index), shape, kernels)


def _attention_shape(layer: LayerSpec, layout: KvLayout, index: int, ropes: list[Rope]) -> AttentionShape:
    attention = layer.attention
    return AttentionShape(
        num_heads=attention.num_heads,
        num_kv_heads=attention.num_kv_heads,
        head_dim=attention.head_dim,
        scale=attention.scale,
        kv_offset=layout.layer_offsets[index],
        rotary=ropes.index(attention.rope),
        band=layout.layer_bands[index],
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
