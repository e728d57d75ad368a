"""The parts of a model that every skeleton has: embedding, head, norms, feed-forward, what happens to a part's result. Knows a spec
and its weights, no file and no order of parts."""

from torch import Tensor
from torch.nn import functional as F

from ribbon_server.distributed.base import Group
from ribbon_server.distributed.sharding import vocab_cut
from ribbon_server.layers.embedding import LogitsHead, PositionTable, TokenEmbedding
from ribbon_server.layers.linear import LinearLayer
from ribbon_server.layers.mlp import Change, Changed, FeedForwardLayer, multiply, normalize
from ribbon_server.layers.norm import LayerNorm, NoNorm, NormLayer
from ribbon_server.layers.shares import JoinedLinear, OwnRows, summed
from ribbon_server.models.assemble_experts import feed_forward
from ribbon_server.models.decoder import Widths
from ribbon_server.models.spec import Dense, FeedForward, LayerSpec, ModelSpec, Norm, NormKind
from ribbon_server.models.weights import Weights


def spec_widths(spec: ModelSpec) -> Widths:
    """The widest activations of all layers."""
    layers = (*spec.layers, *(() if spec.encoder is None else spec.encoder.layers))
    return Widths(
        hidden=spec.hidden,
        query=max(layer.attention.num_heads * layer.attention.head_dim for layer in layers),
        intermediate=max(_dense_width(layer.feed_forward) for layer in layers),
    )


def _dense_width(part: FeedForward) -> int:
    """Experts make their own activations; what they share uses the workspace."""
    dense = part if isinstance(part, Dense) else part.shared
    return 1 if dense is None else dense.intermediate


def embedding_layer(spec: ModelSpec, weights: Weights, table: Tensor) -> TokenEmbedding:
    """What stands before the blocks."""
    embedding, positions = spec.embedding, spec.embedding.positions
    return TokenEmbedding(
        weight=table,
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


def head_layer(spec: ModelSpec, weights: Weights, table: Tensor | None) -> LogitsHead:
    """What stands behind the final norm; the embedding's `table` is its weight where the two are tied."""
    weight = table if spec.tied_embeddings and table is not None else weights.take("head")
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


def feed_forward_layer(layer: LayerSpec, weights: Weights) -> FeedForwardLayer:
    """The second part of a block, and what happens to its result."""
    part = feed_forward(layer.feed_forward, weights)
    changes = output_changes(layer, layer.feed_forward_output_norm, "feed_forward", weights)
    return Changed(part, changes) if changes else part


def output_changes(layer: LayerSpec, norm: Norm | None, part: str, weights: Weights) -> list[Change]:
    """What happens to a part's result before it joins the stream."""
    changes = [] if weights.group.rank.world_size == 1 else [summed(weights.group)]
    changes += [] if norm is None else [normalize(norm_layer(norm, f"{part}_output_norm", weights))]
    return changes + ([multiply(layer.residual_multiplier)] if layer.residual_multiplier != 1.0 else [])


def changed(linear: LinearLayer, changes: list[Change]) -> LinearLayer:
    """The layer with what happens to its result."""
    return Changed(linear, changes) if changes else linear
