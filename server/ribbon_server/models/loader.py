"""Fills a spec's weights from a checkpoint. Checks every name and shape before the first weight is touched."""

import logging
import sys
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from ribbon_server.device import CPU
from ribbon_server.errors import WeightsMismatch
from ribbon_server.models.checkpoint import Checkpoint
from ribbon_server.models.names import NameTable, Source, WeightRow, ignored_names, weight_rows
from ribbon_server.models.spec import ModelSpec
from ribbon_server.telemetry import log

SHOWN = 3  # names in a message


def load_weights(
    spec: ModelSpec, table: NameTable, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device = CPU
) -> dict[str, Tensor]:
    """Every weight of the model by our name, contiguous, of `dtype`, on `device`.

    Raises:
        WeightsMismatch: A tensor is missing, left over, or of another shape than the configuration says.
    """
    rows = list(weight_rows(spec, table))
    check_names(rows, spec, table, checkpoint)
    check_shapes(rows, checkpoint)
    log(logging.INFO, f"reading {len(rows)} weights", weights=len(rows), dtype=str(dtype).removeprefix("torch."))
    progress = tqdm(rows, desc="load weights", unit="weight", file=sys.stderr, disable=not sys.stderr.isatty())
    return {row.name: read_row(row, checkpoint, dtype, device) for row in progress}


def check_names(rows: Sequence[WeightRow], spec: ModelSpec, table: NameTable, checkpoint: Checkpoint) -> None:
    """Refuses a checkpoint with a tensor missing or left over."""
    wanted = {source.name for row in rows for source in row.sources}
    found = checkpoint.names()
    is_ignored = ignored_names(spec, table)
    _refuse("lacks", wanted - found)
    _refuse("has, and the model does not use,", {name for name in found - wanted if not is_ignored(name)})


def check_shapes(rows: Sequence[WeightRow], checkpoint: Checkpoint) -> None:
    """Refuses a checkpoint with a tensor of another shape; reads headers alone."""
    for source in (source for row in rows for source in row.sources):
        shape = checkpoint.shape(source.name)
        if shape != source.shape:
            raise WeightsMismatch(
                f"{source.name} has shape {list(shape)} in the checkpoint, config.json makes it {list(source.shape)}; "
                "weights and configuration are not of the same model"
            )


def read_row(row: WeightRow, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device = CPU) -> Tensor:
    """Joins a row's sources in one new tensor, converting on the fly."""
    weight = torch.empty(row.shape, dtype=dtype, device=device)
    begin = 0
    for source in row.sources:
        end = begin + source.shape[0]
        weight[begin:end].copy_(_read(source, checkpoint))
        begin = end
    return weight


def _read(source: Source, checkpoint: Checkpoint) -> Tensor:
    tensor = checkpoint.read(source.name)
    if not tensor.is_floating_point():
        raise WeightsMismatch(f"{source.name} has type {tensor.dtype}; quantized weights are not supported yet")
    return tensor


def _refuse(verb: str, names: set[str]) -> None:
    if not names:
        return
    shown = ", ".join(sorted(names)[:SHOWN])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    raise WeightsMismatch(f"the checkpoint {verb} {shown}{more}; weights and configuration are not of the same model")
