"""Which tensors of a checkpoint make which weights of ours. Knows names and shapes, no files and no values."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from ribbon_server.distributed.sharding import Cut, Units
from ribbon_server.models.pieces import Piece, Pieces, Shape, encoder_pieces, layer_pieces, outer_pieces
from ribbon_server.models.spec import LayerSpec, ModelSpec


class Role(Enum):
    """How a weight is cut across shards: its outputs, its inputs, its tokens, its experts, or not at all."""

    COLUMN = "column"
    ROW = "row"
    VOCAB = "vocab"
    EXPERT = "expert"
    REPLICATED = "replicated"


COLUMN = (
    *("cross_query", "cross_query_bias", "cross_kv", "cross_kv_bias"),
    *("qkv", "qkv_bias", "query_up", "kv_up", "sinks"),
    *("gate_up", "gate_up_bias", "shared_gate_up", "shared_gate_up_bias"),
)
EXACT = ("router_correction",)  # sums of small numbers that a 16-bit type would round away
ROW = ("output", "cross_output", "down", "shared_down", "distances")
VOCAB = ("embedding", "head", "head_bias")
ROLES = {
    **dict.fromkeys(COLUMN, Role.COLUMN),
    **dict.fromkeys(ROW, Role.ROW),
    **dict.fromkeys(VOCAB, Role.VOCAB),
}


def role_of(name: str) -> Role:
    """The role of a weight by our name: it follows from what the weight does, whoever trained it."""
    if name.startswith("experts_"):
        return Role.EXPERT
    return ROLES.get(name, Role.REPLICATED)


def kept_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """The type of a weight by our name, in a model of `dtype`."""
    return torch.float32 if name.endswith(EXACT) else dtype


@dataclass(frozen=True, eq=False)
class Source:
    """One tensor of the checkpoint, the shape it must have, and which of its rows are wanted."""

    name: str
    shape: Shape
    size: Shape  # of what `arrange` returns, before a rank cuts it
    rows: slice | Tensor | None = None  # of the stored tensor, once it lies [..., out, in]; None: all as they are
    is_transposed: bool = False
    blocks: int = 1  # the stored rows are so many matrices one below the other, each of them transposed
    units: Units | None = None  # what a cut may not split; None: single rows or columns

    def arrange(self, stored: Tensor, cut: Cut | None = None, dim: int = 0) -> Tensor:
        """The wanted rows of the stored tensor in our order, [out, in] or [out], and of them what `cut` leaves of dimension `dim`.

        A view where rows lie together, so that of a mapped tensor nothing else is read.
        """
        if self.is_transposed:
            stored = stored if self.blocks == 1 else stored.unflatten(0, (self.blocks, -1))
            stored = stored.transpose(-1, -2)
        flat = stored.reshape(-1, *self.size[1:])
        if cut is not None and dim == 1:
            flat, cut = flat[:, cut.begin : cut.end], None
        rows = self.rows
        if isinstance(rows, Tensor):
            return flat.index_select(0, rows if cut is None else rows[cut.begin : cut.end])
        flat = flat if rows is None else flat[rows]
        return flat if cut is None else flat[cut.begin : cut.end]


@dataclass(frozen=True)
class WeightRow:
    """One weight of ours: its sources, joined along dimension 0."""

    name: str
    sources: tuple[Source, ...]
    role: Role
    experts: int = 0  # whose rows these are, one expert after the other

    @property
    def shape(self) -> Shape:
        """Of the joined weight."""
        return (sum(source.size[0] for source in self.sources), *self.sources[0].size[1:])


class Fused(Enum):
    """How several matrices lie in one tensor."""

    JOINED = "joined"  # one below the other
    GROUPED = "grouped"  # for each key-value head its queries, its key, its value
    ALTERNATING = "alternating"  # row by row in turn
    STACKED = "stacked"  # [matrices, ...], one dimension more


@dataclass(frozen=True)
class Tensors:
    """Where the checkpoint keeps one of our parts: names behind the stem of a layer, with `{expert}` or `{head}` inside where
    each has its own."""

    names: tuple[str, ...]
    fused: Fused = Fused.JOINED
    is_transposed: bool = False  # stored [in, out]
    weight: str = ".weight"
    bias: str = ".bias"
    blocks: bool = False  # experts one below the other in two dimensions, not in three


Names = str | tuple[str, ...] | Tensors


@dataclass(frozen=True)
class NameTable:
    """A family's checkpoint names. Our names: models/pieces.py."""

    stem: str  # of a layer's tensors, with `{layer}` inside
    layer: Mapping[str, Names]  # `our.name:N`: where the weight has N parts
    outer: Mapping[str, Names]  # embedding, positions, final_norm, head …
    ignored: tuple[str, ...] = ()  # suffixes of tensors that carry nothing to load
    ignored_parts: tuple[str, ...] = ()  # beginnings of tensors that are of no use for text
    ignores_further_layers: bool = False  # behind the last one: they predict more tokens at a time
    older: tuple[tuple[str, str], ...] = ()  # (beginning of a name, what older checkpoints have instead)
    instead: tuple[Mapping[str, Names], ...] = ()  # names of a layer that some checkpoints have instead
    outer_instead: tuple[Mapping[str, Names], ...] = ()  # the same outside the layers
    encoder: "NameTable | None" = None  # of the stack that reads prompts, where there is one

    def but(self, **layer: Names) -> "NameTable":
        """The table with some names of a layer changed or added."""
        return replace(self, layer={**self.layer, **layer})

    def but_outer(self, **outer: Names) -> "NameTable":
        """The table with some names outside the layers changed or added."""
        return replace(self, outer={**self.outer, **outer})

    def renamed(self, before: str, after: str) -> "NameTable":
        """The table of checkpoints whose names begin with `after` instead of `before`."""

        def rename(name: str) -> str:
            return after + name.removeprefix(before) if name.startswith(before) else name

        outer = {ours: _map_names(theirs, rename) for ours, theirs in self.outer.items()}
        return replace(self, stem=rename(self.stem), outer=outer, older=(), instead=())


def _map_names(theirs: Names, change: Callable[[str], str]) -> Tensors:
    tensors = as_tensors(theirs)
    return replace(tensors, names=tuple(change(name) for name in tensors.names))


def as_tensors(theirs: Names) -> Tensors:
    """The short forms written out."""
    if isinstance(theirs, Tensors):
        return theirs
    return Tensors((theirs,) if isinstance(theirs, str) else theirs)


def table_for(spec: ModelSpec, table: NameTable, found: Set[str]) -> NameTable:
    """The table, or the form of it that the checkpoint has every name of."""
    for candidate in forms(table):
        if {source.name for row in weight_rows(spec, candidate) for source in row.sources} <= found:
            return candidate
    return table


def forms(table: NameTable) -> Iterator[NameTable]:
    """The table as it is, then in every older and other form."""
    others = (table.but(**names) for names in table.instead)
    outer = (table.but_outer(**names) for names in table.outer_instead)
    for own in (table, *others, *outer):
        yield own
        yield from (own.renamed(*change) for change in table.older)


def weight_rows(spec: ModelSpec, table: NameTable) -> Iterator[WeightRow]:
    """Every weight of the model, in the order of the forward pass."""
    before, after = outer_pieces(spec)
    yield from _rows(before, table.outer, "", "", 1)
    if spec.encoder is not None and table.encoder is not None:
        yield from _layer_rows(spec.encoder.layers, spec.hidden, table.encoder, "encoder.")
        yield from _rows(encoder_pieces(spec), table.encoder.outer, "encoder.", "", 1)
    yield from _layer_rows(spec.layers, spec.hidden, table, "")
    yield from _rows(after, table.outer, "", "", 1)


def _layer_rows(layers: Iterable[LayerSpec], hidden: int, table: NameTable, ours: str) -> Iterator[WeightRow]:
    for index, layer in enumerate(layers):
        pieces, stem = layer_pieces(layer, hidden), table.stem.format(layer=index)
        yield from _rows(pieces, table.layer, f"{ours}layers.{index}.", stem, _groups(layer))


def _groups(layer: LayerSpec) -> int:
    return layer.attention.num_kv_heads


def _rows(pieces: Pieces, names: Mapping[str, Names], ours: str, stem: str, groups: int) -> Iterator[WeightRow]:
    """Only what the table names can be read: a part that it lacks is a mistake in the family's file."""
    for name, parts in pieces.items():
        is_bias = name not in names
        base = name.removesuffix("_bias") if is_bias else name
        tensors = as_tensors(names.get(f"{base}:{len(parts)}", names[base]))
        suffix = tensors.bias if is_bias else tensors.weight
        full = [stem + theirs + suffix for theirs in tensors.names]
        sources = tuple(_sources(full, tensors, parts, groups))
        yield WeightRow(ours + name, sources, role_of(name), parts[0].experts)


def _sources(names: list[str], tensors: Tensors, parts: tuple[Piece, ...], groups: int) -> Iterator[Source]:
    if parts[0].experts:
        yield from expert_sources(names, tensors, parts[0])
        return
    each = list(_expanded(names, parts))
    if len(each) == len(parts) and tensors.fused is not Fused.STACKED:
        for name, part in zip(each, parts, strict=True):
            yield _alone(name, tensors, part)
    else:
        (name,) = names
        yield from _from_one(name, tensors, parts, groups)


def _expanded(names: list[str], parts: tuple[Piece, ...]) -> Iterable[str]:
    """One name for each part, where each head has tensors of its own."""
    if not any("{head}" in name for name in names):
        return names
    return (name.format(head=head) for head in range(len(parts)) for name in names)


def _alone(name: str, tensors: Tensors, part: Piece) -> Source:
    is_transposed = tensors.is_transposed and part.columns is not None
    shape = part.shape[::-1] if is_transposed else part.shape
    return Source(name, shape, part.shape, part.order, is_transposed, units=part.units)


def _from_one(name: str, tensors: Tensors, parts: tuple[Piece, ...], groups: int) -> Iterator[Source]:
    """Each part's rows of a tensor that holds them all."""
    total = sum(part.rows for part in parts)
    is_transposed = tensors.is_transposed and parts[0].columns is not None
    shape: Shape = (total, *parts[0].shape[1:])
    if tensors.fused is Fused.STACKED:
        shape = (len(parts), *parts[0].shape)
    elif is_transposed:
        shape = shape[::-1]
    turns = {Fused.GROUPED: groups, Fused.ALTERNATING: parts[0].rows}.get(tensors.fused, 1)
    begin = 0
    for part in parts:
        rows = _part_rows(part, begin, total, turns)
        yield Source(name, shape, part.shape, rows, is_transposed, units=part.units)
        begin += part.rows


def expert_sources(names: list[str], tensors: Tensors, part: Piece) -> Iterator[Source]:
    """The rows of all experts: from tensors of their own, from one tensor for all, or from one for each matrix of theirs."""
    count, columns = part.experts, part.shape[1:]
    rows = part.rows // count // len(names)
    size = (rows, *columns)
    is_transposed = tensors.is_transposed and part.columns is not None
    if "{expert}" in names[0]:
        shape = size[::-1] if is_transposed else size
        for expert in range(count):
            for name in names:
                yield Source(name.format(expert=expert), shape, size, None, is_transposed)
    elif len(names) == 1:
        yield _from_all_experts(names[0], tensors, part, is_transposed=is_transposed)
    else:
        for expert in range(count):
            for name in names:
                yield Source(name, (count * rows, *columns), size, slice(expert * rows, (expert + 1) * rows))


def _from_all_experts(name: str, tensors: Tensors, part: Piece, *, is_transposed: bool) -> Source:
    """[experts, out, in] or [experts, in, out], or the experts one below the other in two dimensions."""
    count, rows = part.experts, part.rows // part.experts
    inner = (rows, *part.shape[1:])
    inner = inner[::-1] if is_transposed else inner
    shape = (count * inner[0], *inner[1:]) if tensors.blocks else (count, *inner)
    order = None
    if tensors.fused is Fused.ALTERNATING:
        turns = torch.cat((torch.arange(0, rows, 2), torch.arange(1, rows, 2)))
        order = (torch.arange(count)[:, None] * rows + turns).flatten()
    blocks = count if tensors.blocks else 1
    return Source(name, shape, part.shape, order, is_transposed, blocks, part.units)


def _part_rows(part: Piece, begin: int, total: int, turns: int) -> slice | Tensor:
    """Rows of a part that lies in `turns` equal shares; `begin` is its first row if it lay in one."""
    if turns == 1 and part.order is None:
        return slice(begin, begin + part.rows)
    first = torch.arange(turns) * (total // turns) + begin // turns
    rows = (first[:, None] + torch.arange(part.rows // turns)).flatten()
    return rows if part.order is None else rows[part.order]


def ignored_names(spec: ModelSpec, table: NameTable) -> Callable[[str], bool]:
    """Tells which left-over tensors are no mistake: buffers, the copy of a tied head, layers that are of no use."""
    suffixes = table.ignored
    if spec.tied_embeddings and "head" in table.outer:
        suffixes = (*suffixes, *(name + ".weight" for name in as_tensors(table.outer["head"]).names))
    stem = table.stem.partition("{layer}")[0] if table.ignores_further_layers else ""
    count, parts = len(spec.layers), table.ignored_parts
    return lambda name: name.endswith(suffixes) or name.startswith(parts) or _is_further(name, stem, count)


def _is_further(name: str, stem: str, count: int) -> bool:
    """Whether a tensor is of a layer behind the last one."""
    number = name.removeprefix(stem).partition(".")[0]
    return bool(stem) and name.startswith(stem) and number.isdecimal() and int(number) >= count
