"""The weights that a spec asks for, by our name, with their shapes. Knows no checkpoint.

Of a layer: attention_norm, qkv, q_norm, k_norm, sinks, query_down, query_norm, query_up, kv_down, kv_norm, kv_up, output, attention_output_norm, feed_forward_norm, gate_up, down, router,
router_correction, experts_gate_up, experts_down, shared_gate_up, shared_down, shared_gate, feed_forward_output_norm; behind an encoder: cross_norm, cross_query, cross_kv, cross_output; outside: embedding, positions, embedding_norm, embedding_up,
distances, final_norm, embedding_down, head. A bias is the name with `_bias` behind it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ribbon_server.distributed.sharding import Units
from ribbon_server.layers.rotary import head_order
from ribbon_server.models.spec import (
    Attention,
    Dense,
    FeedForward,
    Grouped,
    Latent,
    LayerSpec,
    ModelSpec,
    Norm,
    NormScope,
    RelativeBias,
    Rope,
)

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Piece:
    """A matrix or vector that one weight of ours is joined from."""

    rows: int
    columns: int | None = None
    order: Tensor | None = None  # the checkpoint's rows in our order, int64 [rows]; None: as they are
    units: Units | None = None  # what a cut may not split; None: single rows or columns
    experts: int = 0  # the rows are those of so many experts, one after the other

    @property
    def shape(self) -> Shape:
        """[rows] or [rows, columns]."""
        return (self.rows,) if self.columns is None else (self.rows, self.columns)


Pieces = dict[str, tuple[Piece, ...]]


def layer_pieces(layer: LayerSpec, hidden: int) -> Pieces:
    """Of one block, in the order of the forward pass."""
    return {
        **norm_pieces("attention_norm", layer.attention_norm, hidden),
        **attention_pieces(layer.attention, hidden),
        **norm_pieces("attention_output_norm", layer.attention_output_norm, hidden),
        **norm_pieces("cross_norm", layer.cross_norm, hidden),
        **cross_pieces(layer.cross, hidden),
        **norm_pieces("feed_forward_norm", layer.feed_forward_norm, hidden),
        **feed_forward_pieces(layer.feed_forward, hidden),
        **norm_pieces("feed_forward_output_norm", layer.feed_forward_output_norm, hidden),
    }


def cross_pieces(attention: Grouped | None, hidden: int) -> Pieces:
    """Keys and values come from what an encoder made of the prompt."""
    if attention is None:
        return {}
    heads = Units(attention.num_heads)
    query, key, value = (Piece(dim, hidden, units=heads) for dim in attention.qkv_dims)
    output = (Piece(hidden, attention.num_heads * attention.head_dim, units=heads),)
    return {
        **linear_pieces("cross_query", (query,), bias=attention.qkv_bias),
        **linear_pieces("cross_kv", (key, value), bias=attention.qkv_bias),
        **linear_pieces("cross_output", output, bias=attention.output_bias),
    }


def encoder_pieces(spec: ModelSpec) -> Pieces:
    """Of what stands around the encoder's blocks."""
    encoder = spec.encoder
    if encoder is None:
        return {}
    distances = distance_pieces(encoder.relative_bias, encoder.layers)
    return {**distances, **norm_pieces("final_norm", encoder.final_norm, spec.hidden)}


def distance_pieces(bias: RelativeBias | None, layers: Sequence[LayerSpec]) -> Pieces:
    """The table of a stack's scores by bucket and head."""
    return {} if bias is None else {"distances": (Piece(bias.buckets, layers[0].attention.num_heads),)}


def outer_pieces(spec: ModelSpec) -> tuple[Pieces, Pieces]:
    """Of what stands before the blocks, and behind them."""
    width = spec.embedding.width or spec.hidden
    before: Pieces = {"embedding": (Piece(spec.vocab_size, width),)}
    if spec.embedding.positions is not None:
        before["positions"] = (Piece(spec.max_positions + spec.embedding.positions.offset, spec.hidden),)
    before |= norm_pieces("embedding_norm", spec.embedding.norm, width)
    before |= distance_pieces(spec.relative_bias, spec.layers)
    after = norm_pieces("final_norm", spec.final_norm, spec.hidden)
    if spec.embedding.width is not None:
        before["embedding_up"] = (Piece(spec.hidden, width),)
        after["embedding_down"] = (Piece(width, spec.hidden),)
    if not spec.tied_embeddings:
        after["head"] = (Piece(spec.vocab_size, width),)
    if spec.head.bias:
        after["head_bias"] = (Piece(spec.vocab_size),)
    return before, after


def norm_pieces(name: str, norm: Norm | None, dim: int) -> Pieces:
    """A weight and a bias, where the norm has them."""
    if norm is None or not norm.weighted:
        return {}
    return {name: (Piece(dim),), **({f"{name}_bias": (Piece(dim),)} if norm.bias else {})}


def linear_pieces(name: str, parts: tuple[Piece, ...], *, bias: bool) -> Pieces:
    """A weight and, where there is one, a bias with the same rows."""
    biases = tuple(replace(part, columns=None) for part in parts)
    return {name: parts, **({f"{name}_bias": biases} if bias else {})}


def attention_pieces(attention: Attention, hidden: int) -> Pieces:
    """Of either kind."""
    return latent_pieces(attention, hidden) if isinstance(attention, Latent) else grouped_pieces(attention, hidden)


def grouped_pieces(attention: Grouped, hidden: int) -> Pieces:
    """Query and key rows come in the order in which their heads are turned."""
    heads, kv_heads = Units(attention.num_heads), Units(attention.num_kv_heads, shared=True)
    turned = [heads_order(units.count, attention.head_dim, attention.rope) for units in (heads, kv_heads)]
    parts = zip(attention.qkv_dims, (*turned, None), (heads, kv_heads, kv_heads), strict=True)
    qkv = tuple(Piece(dim, hidden, order, units) for dim, order, units in parts)
    output = (Piece(hidden, attention.num_heads * attention.head_dim, units=heads),)
    return {
        **linear_pieces("qkv", qkv, bias=attention.qkv_bias),
        **qk_norm_pieces(attention),
        **({"sinks": (Piece(attention.num_heads),)} if attention.sinks else {}),
        **linear_pieces("output", output, bias=attention.output_bias),
    }


def qk_norm_pieces(attention: Grouped) -> Pieces:
    """The weights of a norm on queries and one on keys, in the order of their elements."""
    qk_norm = attention.qk_norm
    pieces: Pieces = {}
    if qk_norm is None or not qk_norm.norm.weighted:
        return {}
    for name, heads in (("q_norm", attention.num_heads), ("k_norm", attention.num_kv_heads)):
        one = (Piece(attention.head_dim, order=heads_order(1, attention.head_dim, attention.rope)),)
        parts = {
            NormScope.HEAD: one,
            NormScope.EACH_HEAD: one * heads,
            NormScope.ALL_HEADS: (
                Piece(heads * attention.head_dim, order=heads_order(heads, attention.head_dim, attention.rope)),
            ),
        }[qk_norm.scope]
        pieces |= {name: parts, **({f"{name}_bias": parts} if qk_norm.norm.bias else {})}
    return pieces


def latent_pieces(latent: Latent, hidden: int) -> Pieces:
    """What is turned comes first in every query and in what a token keeps; checkpoints have it last."""
    heads, rank = Units(latent.num_heads), latent.rank
    query_rows = latent.num_heads * (latent.plain_dim + latent.rope.dim)
    query_order = turned_first(latent.num_heads, latent.plain_dim, latent.rope)
    query_up = Piece(query_rows, latent.query_rank or hidden, query_order, heads)
    kv_down = Piece(rank + latent.rope.dim, hidden, turned_first(1, rank, latent.rope))
    kv_up = Piece(latent.num_heads * (latent.plain_dim + latent.value_dim), rank, units=heads)
    query: Pieces = {"query_up": (query_up,)}
    if latent.query_rank is not None:
        down = (Piece(latent.query_rank, hidden),)
        norm = norm_pieces("query_norm", latent.norm, latent.query_rank)
        query = {**linear_pieces("query_down", down, bias=latent.bias), **norm, **query}
    output = (Piece(hidden, latent.num_heads * latent.value_dim, units=heads),)
    return {
        **query,
        **linear_pieces("kv_down", (kv_down,), bias=latent.bias),
        **norm_pieces("kv_norm", latent.norm, rank),
        "kv_up": (kv_up,),
        **linear_pieces("output", output, bias=latent.bias),
    }


def turned_first(heads: int, plain: int, rope: Rope) -> Tensor:
    """The rows of so many heads, of which the checkpoint has `plain` elements in front of those that turn; int64 [rows]."""
    turned = plain + head_order(rope.dim, rope.dim, interleaved=rope.interleaved)
    order = torch.cat((turned, torch.arange(plain)))
    return (torch.arange(heads)[:, None] * len(order) + order).flatten()


def heads_order(heads: int, head_dim: int, rope: Rope | None) -> Tensor | None:
    """The rows of so many heads in the order that `layers/rotary.py` turns; None where they lie so."""
    if rope is None or (rope.dim == head_dim and not rope.interleaved):
        return None
    order = head_order(head_dim, rope.dim, interleaved=rope.interleaved)
    return (torch.arange(heads)[:, None] * head_dim + order).flatten()


def feed_forward_pieces(part: FeedForward, hidden: int) -> Pieces:
    """Of a dense part, or of a router, its experts and what they share."""
    if isinstance(part, Dense):
        return dense_pieces(part, hidden)
    count, inner = part.num_experts, part.intermediate
    gate_up = (Piece(count * 2 * inner, hidden, units=Units(count), experts=count),)
    down = (Piece(count * hidden, inner, units=Units(count), experts=count),)
    shared = {} if part.shared is None else dense_pieces(part.shared, hidden, "shared_")
    return {
        **linear_pieces("router", (Piece(count, hidden),), bias=part.router.bias),
        **({"router_correction": (Piece(count),)} if part.router.correction else {}),
        **linear_pieces("experts_gate_up", gate_up, bias=part.bias),
        **linear_pieces("experts_down", down, bias=part.bias),
        **shared,
        **({"shared_gate": (Piece(1, hidden),)} if part.shared_gate else {}),
    }


def dense_pieces(dense: Dense, hidden: int, prefix: str = "") -> Pieces:
    """Gate and up joined, then down."""
    gate_up = tuple(Piece(rows, hidden) for rows in dense.up_dims)
    down = (Piece(hidden, dense.intermediate),)
    parts = {"gate_up": gate_up, "down": down}
    return {
        ours: piece
        for name, pieces in parts.items()
        for ours, piece in linear_pieces(prefix + name, pieces, bias=dense.bias).items()
    }
