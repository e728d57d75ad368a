"""A decoder over its ribbons with nobody in between: feeds runs of tokens to slots and returns the logits of all of them."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ribbon_server.device import CPU
from ribbon_server.distributed.base import Group
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


class Stage:
    """One model with a few open slots, or a rank's share of it."""

    def __init__(self, spec: ModelSpec, weights: dict[str, Tensor], slot_tokens: int, group: Group = SINGLE) -> None:
        """Slots 1 to 3 are open and hold `slot_tokens` tokens each. `weights` are those of the rank."""
        self.decoder = assemble(share_of(spec, group.rank), weights, native_kernels(), group)
        self.decoder.prepare(slot_tokens)
        limits = RibbonLimits(SLOTS, 2 * SLOTS, slot_tokens, num_pages=2**14)
        self.ribbons = Ribbons(self.decoder.kv_layouts, limits)
        self.ribbons.apply(opening_plan(1, [slot_tokens] * (SLOTS - 1), len(self.ribbons.groups)).ops)
        self.fed = np.zeros(SLOTS, np.int64)

    def feed(self, runs: dict[int, Tensor]) -> Tensor:
        """One step: token ids for each slot. Returns the logits of all tokens, [tokens, vocab]."""
        slots = np.array(list(runs), np.uint32)
        counts = np.array([len(tokens) for tokens in runs.values()], np.int64)
        before = self.fed[slots]
        self.fed[slots] += counts
        starts = np.concatenate(([0], np.cumsum(counts))).astype(np.uint32)
        context = ForwardContext(self.ribbons, slots, starts, self.fed[slots].astype(np.uint32))
        pairs = zip(before, counts, strict=True)
        positions = torch.cat([torch.arange(first, first + count) for first, count in pairs])
        everything = torch.arange(int(counts.sum()))
        logits = self.decoder.forward(torch.cat(list(runs.values())), positions, context, everything)
        assert logits is not None
        return logits


def family_in(folder: Path) -> tuple[Family, SafetensorsCheckpoint]:
    """What the model in `folder` is."""
    checkpoint = SafetensorsCheckpoint(folder)
    return family_of(checkpoint.config.architecture), checkpoint


def loaded(folder: Path, dtype: torch.dtype, slot_tokens: int, group: Group = SINGLE) -> Stage:
    """The model in `folder`, as a shard loads it."""
    family, checkpoint = family_in(folder)
    spec = family.build(checkpoint.config)
    weights = load_weights(spec, family.names, checkpoint, dtype, CPU, group.rank)
    return Stage(spec, weights, slot_tokens, group)
