"""Every registered family: what two ranks hold joins to the whole, by the role of each weight."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from ribbon_server.device import CPU
from ribbon_server.distributed.sharding import ALONE, Place, Rank
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.loader import load_weights
from ribbon_server.models.names import Role, WeightRow, weight_rows
from ribbon_server.models.registry import families

ARCHITECTURES = sorted(name for name, family in families().items() if family.alias_of is None)
DIM = {Role.COLUMN: 0, Role.ROW: 1, Role.VOCAB: 0, Role.EXPERT: 0}


class MemoryCheckpoint:
    """Random tensors of the names and shapes that a model wants."""

    tokenizer_files: Mapping[str, Path] = {}

    def __init__(self, config: HfConfig, rows: list[WeightRow]) -> None:
        self.config = config
        shapes = {source.name: source.shape for row in rows for source in row.sources}
        self._tensors = {name: torch.randn(shape) for name, shape in shapes.items()}

    def names(self) -> frozenset[str]:
        return frozenset(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype_name(self, name: str) -> str:  # noqa: ARG002
        return "F32"

    def read(self, name: str) -> Tensor:
        return self._tensors[name]


def tiny_config(architecture: str) -> HfConfig:
    fields = families()[architecture].tiny.fields
    build = getattr(transformers, architecture, None)
    full = fields if build is None else build.config_class(**fields).to_dict()
    return HfConfig({**full, "architectures": [architecture]})


def joined(row: WeightRow, parts: list[Tensor]) -> Tensor:
    """The whole weight, of what each rank holds of it."""
    if row.role is not Role.COLUMN:
        return torch.cat(parts, DIM[row.role])
    sizes = [source.size[0] for source in row.sources]
    kept = [source.units is not None and source.units.shared and source.units.count == 1 for source in row.sources]
    own = [size if whole else size // len(parts) for size, whole in zip(sizes, kept, strict=True)]
    pieces = zip(*(part.split(own) for part in parts), strict=True)
    return torch.cat([each[0] if whole else torch.cat(each) for each, whole in zip(pieces, kept, strict=True)])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_two_ranks_hold_the_whole(architecture: str) -> None:
    config, family = tiny_config(architecture), families()[architecture]
    spec = family.build(config)
    rows = list(weight_rows(spec, family.names))
    checkpoint = MemoryCheckpoint(config, rows)
    whole, *halves = (
        load_weights(spec, family.names, checkpoint, torch.float32, CPU, Place(ALONE, rank))
        for rank in (ALONE, Rank(0, 2), Rank(1, 2))
    )
    cut = 0
    for row in rows:
        parts = [half[row.name] for half in halves]
        if row.role is Role.REPLICATED:
            assert all(torch.equal(part, whole[row.name]) for part in parts), row.name
            continue
        cut += 1
        assert torch.equal(joined(row, parts)[: len(whole[row.name])], whole[row.name]), row.name
        assert parts[0].shape == parts[1].shape, row.name
    assert cut >= 4 * len(spec.layers), "attention and feed-forward of every layer are dealt out"
