"""Which tensors of a checkpoint make which weights of ours. Knows names and shapes, no files and no values."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from ribbon_server.distributed.sharding import Units
from ribbon_server.models.spec import LayerSpec, ModelSpec


class Role(Enum):
    """How a weight is cut across shards: its outputs, its inputs, its tokens, or not at all."""

    COLUMN = "column"
    ROW = "row"
    VOCAB = "vocab"
    REPLICATED = "replicated"


@dataclass(frozen=True)
class Source:
    """One tensor of the checkpoint and the shape it must have."""

    name: str
    shape: tuple[int, ...]
    units: Units | None = None  # what a cut may not split; None: single rows or columns


@dataclass(frozen=True)
class WeightRow:
    """One weight of ours: its sources, joined along dimension 0."""

    name: str
    sources: tuple[Source, ...]
    role: Role

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the joined weight."""
        return (sum(source.shape[0] for source in self.sources), *self.sources[0].shape[1:])


@dataclass(frozen=True)
class NameRow:
    """A row of a family's table: our name within a layer, the checkpoint's names (`{layer}` inside), the shard role."""

    ours: str
    theirs: tuple[str, ...]
    role: Role


@dataclass(frozen=True)
class NameTable:
    """A family's checkpoint names."""

    layer: tuple[NameRow, ...]
    embedding: str
    final_norm: str
    head: str
    ignored: tuple[str, ...] = ()  # suffixes of tensors that carry nothing to load


def layer_shapes(layer: LayerSpec, hidden: int) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Shapes of a block's weights, by our name, one for each part that is joined."""
    attention, mlp = layer.attention, layer.feed_forward
    width = attention.num_heads * attention.head_dim
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {
        "attention_norm": ((hidden,),),
        "qkv": tuple((dim, hidden) for dim in attention.qkv_dims),
        "output": ((hidden, width),),
        "feed_forward_norm": ((hidden,),),
        "gate_up": ((mlp.intermediate, hidden),) * 2,
        "down": ((hidden, mlp.intermediate),),
    }
    if attention.qkv_bias:
        shapes["qkv_bias"] = tuple((dim,) for dim in attention.qkv_dims)
    if attention.output_bias:
        shapes["output_bias"] = ((hidden,),)
    if mlp.bias:
        shapes |= {"gate_up_bias": ((mlp.intermediate,),) * 2, "down_bias": ((hidden,),)}
    return shapes


def layer_units(layer: LayerSpec) -> dict[str, tuple[Units, ...]]:
    """What stays whole when a block's weights are cut, by our name, one for each part that is joined."""
    heads, kv_heads = Units(layer.attention.num_heads), Units(layer.attention.num_kv_heads, shared=True)
    qkv = (heads, kv_heads, kv_heads)
    return {"qkv": qkv, "qkv_bias": qkv, "output": (heads,)}


def weight_rows(spec: ModelSpec, table: NameTable) -> Iterator[WeightRow]:
    """Every weight of the model, in the order of the forward pass."""
    vocab = (spec.vocab_size, spec.hidden)
    yield WeightRow("embedding", (Source(table.embedding, vocab),), Role.VOCAB)
    for index, layer in enumerate(spec.layers):
        yield from _layer_rows(index, layer, layer_shapes(layer, spec.hidden), table.layer)
    yield WeightRow("final_norm", (Source(table.final_norm, (spec.hidden,)),), Role.REPLICATED)
    if not spec.tied_embeddings:
        yield WeightRow("head", (Source(table.head, vocab),), Role.VOCAB)


def _layer_rows(
    index: int, layer: LayerSpec, shapes: dict[str, tuple[tuple[int, ...], ...]], rows: Sequence[NameRow]
) -> Iterator[WeightRow]:
    units = layer_units(layer)
    for row in rows:
        if row.ours not in shapes:
            continue
        names = (name.format(layer=index) for name in row.theirs)
        parts = units.get(row.ours, (None,) * len(row.theirs))
        sources = tuple(Source(*part) for part in zip(names, shapes[row.ours], parts, strict=True))
        yield WeightRow(f"layers.{index}.{row.ours}", sources, row.role)


def ignored_names(spec: ModelSpec, table: NameTable) -> Callable[[str], bool]:
    """Tells which left-over tensors are no mistake: buffers, and the copy of a tied head."""
    suffixes = (*table.ignored, table.head) if spec.tied_embeddings else table.ignored
    return lambda name: bool(suffixes) and name.endswith(suffixes)
