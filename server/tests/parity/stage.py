"""A decoder over its ribbons with nobody in between: feeds runs of tokens to slots and returns the logits of all of them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ribbon_server.device import CPU
from ribbon_server.distributed.base import World
from ribbon_server.distributed.sharding import Place
from ribbon_server.distributed.single import SINGLE
from ribbon_server.engine.warmup import opening_plan
from ribbon_server.kv.ribbons import RibbonLimits, Ribbons
from ribbon_server.layers.attention.base import ForwardContext
from ribbon_server.layers.registry import native_kernels
from ribbon_server.models.assemble import assemble
from ribbon_server.models.checkpoint import SafetensorsCheckpoint
from ribbon_server.models.loader import load_weights
from ribbon_server.models.registry import Family, family_of
from ribbon_server.models.share import share_of
from ribbon_server.models.spec import ModelSpec

SLOTS = 4


@dataclass(frozen=True)
class Room:
    """Of each slot."""

    slot_tokens: int
    read: int = 0  # tokens that an encoder reads of a longer sequence; one that brings fewer is read but for its last


class Stage:
    """One model with a few open slots, or a rank's share of it."""

    def __init__(self, spec: ModelSpec, weights: dict[str, Tensor], room: Room, world: World = SINGLE) -> None:
        """Slots 1 to 3 are open. `weights` are those of the rank."""
        slot_tokens, self.room = room.slot_tokens, room
        self.decoder = assemble(share_of(spec, world.tensor.rank), weights, native_kernels(), world)
        self.decoder.prepare(slot_tokens)
        limits = RibbonLimits(SLOTS, 2 * SLOTS, slot_tokens, num_pages=2**14)
        self.ribbons = Ribbons(self.decoder.kv_layouts, limits)
        self.ribbons.apply(opening_plan(1, [slot_tokens] * (SLOTS - 1), len(self.ribbons.groups)).ops)
        self.fed = np.zeros(SLOTS, np.int64)
        self.prompts = np.zeros(SLOTS, np.int64)

    def feed(self, runs: dict[int, Tensor]) -> Tensor:
        """One step: token ids for each slot. Returns the logits of all tokens, [tokens, vocab]; zeros of those an encoder reads,
        none where a later stage of a pipeline has them."""
        slots = np.array(list(runs), np.uint32)
        counts = np.array([len(tokens) for tokens in runs.values()], np.int64)
        before = self.fed[slots]
        self.fed[slots] += counts
        starts = np.concatenate(([0], np.cumsum(counts))).astype(np.uint32)
        self.prompts[slots] = np.where(before == 0, np.minimum(counts, self.room.read + 1), self.prompts[slots])
        prompts = self.prompts[slots]
        context = ForwardContext(self.ribbons, slots, starts, self.fed[slots].astype(np.uint32), prompts)
        pairs = zip(before, counts, strict=True)
        positions = torch.cat([torch.arange(first, first + count) for first, count in pairs])
        is_read = positions < torch.from_numpy(np.repeat(prompts - 1, counts))
        wanted = torch.arange(len(positions)) if self.room.read == 0 else (~is_read).nonzero()[:, 0]
        logits = self.decoder.forward(torch.cat(list(runs.values())), positions, context, wanted)
        if logits is None:
            return torch.zeros(0)
        return logits.new_zeros((len(positions), logits.shape[1])).index_copy_(0, wanted, logits)


def family_in(folder: Path) -> tuple[Family, SafetensorsCheckpoint]:
    """What the model in `folder` is."""
    checkpoint = SafetensorsCheckpoint(folder)
    return family_of(checkpoint.config.architecture), checkpoint


def loaded(folder: Path, dtype: torch.dtype, room: Room, world: World = SINGLE) -> Stage:
    """The model in `folder`, as a shard loads it."""
    family, checkpoint = family_in(folder)
    spec = family.build(checkpoint.config)
    weights = load_weights(spec, family.names, checkpoint, dtype, CPU, Place(world.stage, world.tensor.rank))
    return Stage(spec, weights, room, world)
