"""What one rank of several computes, as a spec of its own: fewer heads, narrower feed-forward parts, fewer experts. Knows numbers,
no weight.

The widths of the residual stream and of the vocabulary stay those of the model: what is dealt out there is padded or joined.
"""

from dataclasses import replace

from ribbon_server.distributed.sharding import Rank, Units, even_cut
from ribbon_server.errors import ModelNotSupported
from ribbon_server.models.spec import (
    Attention,
    Dense,
    FeedForward,
    Grouped,
    Latent,
    LayerSpec,
    ModelSpec,
    NormKind,
    NormScope,
)


def share_of(spec: ModelSpec, rank: Rank) -> ModelSpec:
    """The spec of the layers that the rank holds; the whole where it is alone.

    Raises:
        ModelNotSupported: Something cannot be dealt out to so many ranks; names it.
    """
    if rank.world_size == 1:
        return spec
    encoder = spec.encoder
    if encoder is not None:
        encoder = replace(encoder, layers=tuple(_layer(layer, rank) for layer in encoder.layers))
    return replace(spec, layers=tuple(_layer(layer, rank) for layer in spec.layers), encoder=encoder)


def _layer(layer: LayerSpec, rank: Rank) -> LayerSpec:
    attention, feed_forward = _attention(layer.attention, rank), _feed_forward(layer.feed_forward, rank)
    cross = None if layer.cross is None else _grouped(layer.cross, rank)
    return replace(layer, attention=attention, feed_forward=feed_forward, cross=cross)


def _attention(attention: Attention, rank: Rank) -> Attention:
    if isinstance(attention, Latent):
        return replace(
            attention, num_heads=_own_heads(attention, rank)
        )  # the latent serves all heads: every rank keeps it
    return _grouped(attention, rank)


def _own_heads(attention: Attention, rank: Rank) -> int:
    return _dealt("attention heads", Units(attention.num_heads), rank)


def _grouped(attention: Grouped, rank: Rank) -> Grouped:
    num_heads = _own_heads(attention, rank)
    qk_norm = attention.qk_norm
    if qk_norm is not None and qk_norm.scope is NormScope.ALL_HEADS and qk_norm.norm.kind is not NormKind.RMS:
        raise ModelNotSupported("a layer norm over all heads at once cannot be dealt out; use `--num-shard` 1")
    units = Units(attention.num_kv_heads, shared=True)
    return replace(attention, num_heads=num_heads, num_kv_heads=_dealt("key-value heads", units, rank))


def _feed_forward(part: FeedForward, rank: Rank) -> FeedForward:
    if isinstance(part, Dense):
        return _dense(part, rank)
    shared = None if part.shared is None else _dense(part.shared, rank)
    return replace(part, num_experts=_dealt("experts", Units(part.num_experts), rank), shared=shared)


def _dense(part: Dense, rank: Rank) -> Dense:
    return replace(part, intermediate=_dealt("feed-forward columns", Units(part.intermediate), rank))


def _dealt(name: str, units: Units, rank: Rank) -> int:
    """How many of the units the rank holds."""
    try:
        return even_cut(units.count, units, rank).size
    except ModelNotSupported as error:
        raise ModelNotSupported(
            f"this model has {units.count} {name}, which cannot be dealt out to {rank.world_size} shards; use another `--num-shard`"
        ) from error
