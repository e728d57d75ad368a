"""One shard's life: a loaded model, then limits, a region and a warm engine. The one entrance to this room."""

import logging
from dataclasses import dataclass

import torch

from ribbon_server.config import InjectedFaults, KvMemory
from ribbon_server.engine.engine import Engine, EngineParts
from ribbon_server.engine.fault_hook import FaultHook
from ribbon_server.engine.limits import WarmupWish, ribbon_limits
from ribbon_server.engine.sequences import Sequences
from ribbon_server.engine.warmup import Warmup, WarmupFigures
from ribbon_server.kv.device import MEMORY_SHARE, device_free_bytes
from ribbon_server.kv.ribbons import Ribbons
from ribbon_server.machine import memory_limit_bytes
from ribbon_server.models.open import Model
from ribbon_server.sampling.grammars import Grammars, GrammarTokens
from ribbon_server.telemetry import log


@dataclass(frozen=True)
class WarmShard:
    """An engine that is ready for plans."""

    engine: Engine
    figures: WarmupFigures


def warm_up(model: Model, wish: WarmupWish, kv_memory: KvMemory | None, faults: InjectedFaults) -> WarmShard:
    """Fixes the limits, reserves the region and runs the largest step. Every rank of a group calls it at the same time.

    Raises:
        InvalidRequest: The wish does not fit the model or the memory.
        Internal: A warm-up step failed.
        RankLost: Another rank died or hangs.
    """
    decoder, spec = model.decoder, model.spec
    memory, rank_bytes = _kv_memory(kv_memory, decoder.device, model.world.rank.world_size)
    rank_bytes = model.world.least(rank_bytes)  # the rest is the same on every rank, so their limits are
    limits = ribbon_limits(wish, decoder.kv_layouts, memory, rank_bytes, spec.max_positions)
    decoder.prepare(limits.slot_tokens)
    ribbons = Ribbons(decoder.kv_layouts, limits, decoder.device)
    reads_whole = model.start_token_id is not None
    sequences = Sequences(limits.num_slots, limits.slot_tokens, spec.vocab_size, reads_whole=reads_whole)
    engine = Engine(EngineParts(decoder, ribbons, sequences, FaultHook(InjectedFaults()), model.world))
    figures = Warmup(engine, spec.max_positions).run(wish.max_batch_prefill_tokens)
    engine.reset()
    engine.inject(FaultHook(faults))
    if model.tokenizer_json is not None:  # now, so that reading it is not in the figures
        tokens = GrammarTokens(model.tokenizer_json, spec.vocab_size, model.eos_token_ids)
        sequences.state.grammars = Grammars(tokens, limits.num_slots)
    log(
        logging.INFO,
        f"warm: slots of {limits.slot_tokens} tokens, {limits.num_pages} KV pages, {figures.budget} tokens a step",
    )
    return WarmShard(engine, figures)


def _kv_memory(wanted: KvMemory | None, device: torch.device, world_size: int) -> tuple[KvMemory | None, int]:
    """What the pool may take, and of how many bytes a fraction is meant: ranks share a machine's memory, each has a device of its
    own. A device gives all that is left but a reserve."""
    if device.type == "cpu":
        return wanted, memory_limit_bytes() // world_size
    return wanted or KvMemory(fraction=MEMORY_SHARE), device_free_bytes(device)
