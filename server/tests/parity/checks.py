"""The columns of the parity table. Each check raises where it fails and says what it measured where it passes."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from rank_threads import on_ranks
from resets import Reset, resets
from safetensors.torch import load_file
from stage import Room, Stage, family_in, loaded
from torch import Tensor

from ribbon_server.distributed.base import World
from ribbon_server.distributed.sharding import Rank
from ribbon_server.distributed.single import SINGLE
from ribbon_server.errors import ModelNotSupported
from ribbon_server.models.names import NameTable, Source, table_for, weight_rows
from ribbon_server.models.share import share_of
from ribbon_server.models.spec import Experts, ModelSpec
from ribbon_server.models.stages import check_stages

TOLERANCE = 5e-5  # of the reference's spread over all logits, float32
MARGIN = 1e-3  # where the reference's two best tokens are nearer, either may win
BROKEN = 20 * TOLERANCE  # what a reset field must move
BFLOAT16 = 0.08  # mean error of bfloat16, of the spread
BFLOAT16_EXPERTS = (
    0.5  # a router near a tie picks other experts; logits that have nothing to do with each other differ by 1.1
)
CHUNK, DECODED = 7, 12
OTHER = 35  # tokens of a sequence beside the one that counts
SHARDS = (2, 4)  # every model can be dealt out to two, some to four
NUM_STAGES = 2


@dataclass(frozen=True)
class Expected:
    """A saved model, a sequence and the reference's logits of each of its tokens."""

    folder: Path
    tokens: Tensor
    logits: Tensor  # zeros where an encoder reads
    read: int  # tokens that an encoder reads

    @staticmethod
    def read(folder: Path) -> "Expected":
        """What the reference side left in `folder`."""
        tensors = load_file(folder / "expected.safetensors")
        return Expected(folder, tensors["tokens"], tensors["logits"], int(tensors["read"]))

    @property
    def spread(self) -> float:
        """Standard deviation over all logits."""
        return float(self.logits[self.read :].std())

    def error(self, logits: Tensor, *, first: int = 0) -> float:
        """The largest difference, of the spread; infinite where a logit is no number."""
        difference = (logits - self.logits[first : first + len(logits)]).abs().max()
        return float(difference.nan_to_num(nan=float("inf"))) / self.spread

    def stage(self, dtype: torch.dtype = torch.float32, world: World = SINGLE) -> Stage:
        """The model in our hands, with slots that the sequence fills."""
        return loaded(self.folder, dtype, self.room, world)

    @property
    def room(self) -> Room:
        """Slots that the sequence fills."""
        return Room(len(self.tokens), self.read)


def close(error: float) -> str:
    """Within the tolerance."""
    assert error < TOLERANCE, f"off by {error:.2e} of the spread; {TOLERANCE} is allowed"
    return f"{error:.0e}"


def whole(expected: Expected) -> str:
    """One prefill of everything: logits, and the best token wherever the reference is sure of it."""
    assert expected.spread > 0.2, f"logits with a spread of {expected.spread:.2f} say nothing"
    logits = expected.stage().feed({1: expected.tokens})
    best = expected.logits.topk(2).values
    sure = best[:, 0] - best[:, 1] > MARGIN
    assert torch.equal(logits.argmax(-1)[sure], expected.logits.argmax(-1)[sure]), "the best token is another"
    return close(expected.error(logits))


def chunks(expected: Expected) -> str:
    """A few tokens at a time, then one by one."""
    stage, body = expected.stage(), len(expected.tokens) - DECODED
    uncut = expected.tokens[: expected.read + 1] if expected.read else expected.tokens[:0]
    pieces = (*expected.tokens[len(uncut) : body].split(CHUNK), *expected.tokens[body:].split(1))
    pieces = (uncut, *pieces) if len(uncut) else pieces
    return close(expected.error(torch.cat([stage.feed({1: piece}) for piece in pieces])))


def batch(expected: Expected) -> str:
    """Three sequences of other lengths in the same steps."""
    stage, tokens = expected.stage(), expected.tokens
    others = {2: tokens[40:75].flip(0), 3: tokens[:50]}
    cut = max(20, expected.read + 1)  # of the third, whose prompt may be one that is not cut
    first = stage.feed({2: others[2], 1: tokens[:60], 3: others[3][:cut]})[35:95]
    second = stage.feed({3: others[3][cut:], 1: tokens[60:]})
    alone = expected.stage().feed({2: others[2]})
    rest = 50 - cut
    error = max(
        expected.error(first), expected.error(second[rest:], first=60), expected.error(second[:rest], first=cut)
    )
    again = stage.feed({2: others[2][:1]})  # one more token of the second: its past is still its own
    beside = expected.stage()
    beside.feed({1: others[2]})
    error = max(error, float((again - beside.feed({1: others[2][:1]})).abs().max()) / expected.spread)
    assert alone.isfinite().all()
    return close(error)


def shards(expected: Expected) -> str:
    """Several ranks compute what one does: a prompt beside another sequence, then one token at a time."""
    family, checkpoint = family_in(expected.folder)
    spec = family.build(checkpoint.config)
    sizes = [world_size for world_size in SHARDS if _can_be_dealt_out(spec, world_size)]
    assert SHARDS[0] in sizes, "the tiny configuration cannot be dealt out to two"
    measured = []
    for world_size in sizes:
        first, *others = on_ranks(world_size, partial(_dealt_out, expected))
        assert all(torch.equal(first, other) for other in others), "the ranks have different logits"
        measured.append(f"{close(expected.error(first))} on {world_size}")
    return ", ".join(measured)


def _can_be_dealt_out(spec: ModelSpec, world_size: int) -> bool:
    try:
        share_of(spec, Rank(0, world_size))
    except ModelNotSupported:
        return False
    return True


def stages(expected: Expected) -> str:
    """Two stages of a pipeline compute what one does; the second has the logits."""
    family, checkpoint = family_in(expected.folder)
    spec = family.build(checkpoint.config)
    if spec.encoder is not None:
        with pytest.raises(ModelNotSupported, match="an encoder-decoder is not cut into stages"):
            check_stages(spec, NUM_STAGES)
        return "refused"
    check_stages(spec, NUM_STAGES)
    second, first = on_ranks(NUM_STAGES, partial(_dealt_out, expected), NUM_STAGES)
    assert not first.numel(), "the first stage has no head"
    return close(expected.error(second))


def _dealt_out(expected: Expected, world: World) -> Tensor:
    stage, tokens = expected.stage(world=world), expected.tokens
    body = len(tokens) - DECODED
    together = stage.feed({2: tokens[40 : 40 + OTHER].flip(0), 1: tokens[:body]})[OTHER:]
    return torch.cat([together, *(stage.feed({1: piece}) for piece in tokens[body:].split(1))])


def bfloat16(expected: Expected) -> str:
    """Near float32 on average."""
    stage = expected.stage(torch.bfloat16)
    logits = stage.feed({1: expected.tokens})
    error = float((logits - expected.logits)[expected.read :].abs().mean()) / expected.spread
    family, checkpoint = family_in(expected.folder)
    has_experts = any(isinstance(layer.feed_forward, Experts) for layer in family.build(checkpoint.config).layers)
    allowed = BFLOAT16_EXPERTS if has_experts else BFLOAT16
    assert error < allowed, f"off by {error:.3f} of the spread on average; {allowed} is allowed"
    return f"{error:.3f}"


def names(expected: Expected) -> str:
    """Checkpoints with older names, and configurations with another name of the class, are the same model."""
    family, checkpoint = family_in(expected.folder)
    spec, tensors = family.build(checkpoint.config), load_file(expected.folder / "model.safetensors")
    table = table_for(spec, family.names, set(tensors))
    wanted = {row.name: _joined(row.sources, tensors) for row in weight_rows(spec, table)}
    for change in family.names.older:
        older = table.renamed(*change)
        renamed = _renamed(spec, table, older, tensors)
        assert table_for(spec, family.names, set(renamed)).stem == older.stem, f"{change} is not recognised"
        found = {row.name: _joined(row.sources, renamed) for row in weight_rows(spec, older)}
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    return f"{len(family.names.older)} older"


def _joined(sources: tuple[Source, ...], tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([source.arrange(tensors[source.name]) for source in sources])


def _renamed(spec: ModelSpec, table: NameTable, older: NameTable, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    rows = zip(weight_rows(spec, table), weight_rows(spec, older), strict=True)
    pairs = {new.name: old.name for ours, theirs in rows for new, old in zip(ours.sources, theirs.sources, strict=True)}
    assert any(new != old for new, old in pairs.items()), f"{older.stem} is no older name"
    return {pairs.get(name, name): tensor for name, tensor in tensors.items()}


def fields(expected: Expected) -> str:
    """Resets every field that the spec sets: each must move the logits, or make the checkpoint unreadable."""
    family, checkpoint = family_in(expected.folder)
    tensors = load_file(expected.folder / "model.safetensors")
    spec = family.build(checkpoint.config)
    moved: dict[str, list[str]] = {"moved": [], "unmoved": []}
    for reset in resets(spec):
        is_moved = _moved(expected, reset, table_for(spec, family.names, set(tensors)), tensors) > BROKEN
        moved["moved" if is_moved else "unmoved"].append(reset.field)
    return json.dumps(moved)


def _moved(expected: Expected, reset: Reset, table: NameTable, tensors: dict[str, Tensor]) -> float:
    """How far the logits move; infinite where the changed spec does not fit the checkpoint."""
    try:
        rows = list(weight_rows(reset.spec, table))
        if any(tensors[source.name].shape != source.shape for row in rows for source in row.sources):
            return float("inf")
        weights = {row.name: _joined(row.sources, tensors).clone() for row in rows}
        return expected.error(Stage(reset.spec, weights, expected.room).feed({1: expected.tokens}))
    except (KeyError, RuntimeError, ValueError):
        return float("inf")


CHECKS: dict[str, Callable[[Expected], str]] = {
    "whole": whole,
    "chunks": chunks,
    "batch": batch,
    "shards": shards,
    "stages": stages,
    "bfloat16": bfloat16,
    "names": names,
    "fields": fields,
}
