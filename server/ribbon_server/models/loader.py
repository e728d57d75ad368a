"""Fills a spec's weights from a checkpoint. Checks every name, shape and type before the first weight is touched."""

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from ribbon_server.device import CPU
from ribbon_server.distributed.sharding import ALONE, WHOLE, Cut, Place, Rank, Units, even_cut, vocab_cut
from ribbon_server.errors import WeightsMismatch
from ribbon_server.models.checkpoint import Checkpoint
from ribbon_server.models.load_progress import LoadProgress
from ribbon_server.models.names import (
    NameTable,
    Role,
    Source,
    WeightRow,
    ignored_names,
    kept_dtype,
    table_for,
    weight_rows,
)
from ribbon_server.models.spec import ModelSpec
from ribbon_server.models.stages import held_rows

SHOWN = 3  # names in a message
CONVERTED = ("F64", "F32", "BF16", "F16")  # element types that are numbers by themselves, with no scale elsewhere
CUT_DIM = {Role.COLUMN: 0, Role.ROW: 1, Role.VOCAB: 0, Role.EXPERT: 0}


def load_weights(
    spec: ModelSpec,
    table: NameTable,
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: torch.device = CPU,
    place: Place = WHOLE,
) -> dict[str, Tensor]:
    """Every weight of the model that a rank at `place` holds, by our name, contiguous, of `dtype` (but those that names.py keeps
    exact), on `device`.

    Takes the memory of these weights and no more: a row is copied, and converted, straight from the mapped files. All of the
    checkpoint is checked, whoever holds it.

    Raises:
        ModelNotSupported: A weight cannot be cut for so many ranks.
        WeightsMismatch: A tensor is missing, left over, quantized, or of another shape than the configuration says.
    """
    table = table_for(spec, table, checkpoint.names())
    rows = list(weight_rows(spec, table))
    check_names(rows, spec, table, checkpoint)
    check_headers(rows, checkpoint)
    plans = [RowPlan(row, place.tensor) for row in held_rows(rows, spec, place.stage)]
    progress = LoadProgress(len(plans), sum(plan.num_elements for plan in plans) * dtype.itemsize)
    weights = {}
    for plan in plans:
        weights[plan.row.name] = plan.read(checkpoint, kept_dtype(plan.row.name, dtype), device)
        progress.advance(plan.num_elements * dtype.itemsize)
    progress.finish()
    return weights


def check_names(rows: Sequence[WeightRow], spec: ModelSpec, table: NameTable, checkpoint: Checkpoint) -> None:
    """Refuses a checkpoint with a tensor missing or left over."""
    wanted = {source.name for row in rows for source in row.sources}
    found = checkpoint.names()
    is_ignored = ignored_names(spec, table)
    refuse_names("lacks", wanted - found)
    refuse_names("has, and the model does not use,", {name for name in found - wanted if not is_ignored(name)})


def check_headers(rows: Sequence[WeightRow], checkpoint: Checkpoint) -> None:
    """Refuses a checkpoint with a tensor of another shape or of a type that is no plain number; reads headers alone."""
    for source in chain.from_iterable(row.sources for row in rows):
        shape, kind = checkpoint.shape(source.name), checkpoint.dtype_name(source.name)
        if shape != source.shape:
            raise WeightsMismatch(
                f"{source.name} has shape {list(shape)} in the checkpoint, config.json makes it {list(source.shape)}; "
                "weights and configuration are not of the same model"
            )
        if kind not in CONVERTED:
            raise WeightsMismatch(f"{source.name} has type {kind}; quantized weights are not supported yet")


class RowPlan:
    """One weight of ours as a rank holds it: where its parts lie in the checkpoint and in the joined tensor."""

    def __init__(self, row: WeightRow, rank: Rank) -> None:
        """Cuts every source by the row's role.

        Raises:
            ModelNotSupported: A source cannot be cut for so many ranks.
        """
        self.row = row
        self._dim = CUT_DIM.get(row.role)
        self._sources = _own_sources(row, rank)
        # Where whole sources were dealt out, they are not cut again.
        within = ALONE if len(self._sources) < len(row.sources) else rank
        self._cuts = [_cut(source, row.role, within) for source in self._sources]
        self._parts = [self._part_shape(source, cut) for source, cut in zip(self._sources, self._cuts, strict=True)]
        self.shape = (sum(part[0] for part in self._parts), *self._parts[0][1:])
        self.num_elements = torch.Size(self.shape).numel()

    def read(self, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A new tensor of `shape`: the parts joined along dimension 0."""
        weight = torch.empty(self.shape, dtype=dtype, device=device)
        parts = weight.split([part[0] for part in self._parts])
        for source, cut, part in zip(self._sources, self._cuts, parts, strict=True):
            self._fill(part, checkpoint, source, cut)
        return weight

    def _fill(self, part: Tensor, checkpoint: Checkpoint, source: Source, cut: Cut | None) -> None:
        stored = checkpoint.read(source.name)
        if self._dim is None or cut is None:
            part.copy_(source.arrange(stored))
            return
        filled = cut.end - cut.begin
        part.narrow(self._dim, 0, filled).copy_(source.arrange(stored, cut, self._dim))
        part.narrow(self._dim, filled, cut.padding).zero_()

    def _part_shape(self, source: Source, cut: Cut | None) -> tuple[int, ...]:
        if self._dim is None or cut is None:
            return source.size
        return (*source.size[: self._dim], cut.size, *source.size[self._dim + 1 :])


def _own_sources(row: WeightRow, rank: Rank) -> tuple[Source, ...]:
    """Those of the rank's own experts, where each has tensors of its own; else all of them."""
    if row.role is not Role.EXPERT or len(row.sources) == 1:
        return row.sources
    own = even_cut(len(row.sources), Units(row.experts), rank)
    return row.sources[own.begin : own.end]


def _cut(source: Source, role: Role, rank: Rank) -> Cut | None:
    """What the rank holds of a source; None: all of it."""
    if role is Role.REPLICATED:
        return None
    size = source.size[CUT_DIM[role]]
    return vocab_cut(size, rank) if role is Role.VOCAB else even_cut(size, source.units or Units(size), rank)


def refuse_names(verb: str, names: set[str]) -> None:
    """Says what is wrong with the checkpoint's tensors, where any are named.

    Raises:
        WeightsMismatch: Some are.
    """
    if not names:
        return
    shown = ", ".join(sorted(names)[:SHOWN])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    raise WeightsMismatch(f"the checkpoint {verb} {shown}{more}; weights and configuration are not of the same model")
