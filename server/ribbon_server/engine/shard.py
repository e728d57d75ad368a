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
from ribbon_server.telemetry import log


@dataclass(frozen=True)
class WarmShard:
    """An engine that is ready for plans."""

    engine: Engine
    figures: WarmupFigures


def warm_up(model: Model, wish: WarmupWish, kv_memory: KvMemory | None, faults: InjectedFaults) -> WarmShard:
    """Fixes the limits, reserves the region and runs the largest step.

    Raises:
        InvalidRequest: The wish does not fit the model or the memory.
        Internal: A warm-up step failed.
    """
    decoder, spec = model.decoder, model.spec
    memory, machine_bytes = _kv_memory(kv_memory, decoder.device)
    limits = ribbon_limits(wish, decoder.kv_layouts, memory, machine_bytes, spec.max_positions)
    decoder.prepare(limits.slot_tokens)
    ribbons = Ribbons(decoder.kv_layouts, limits, decoder.device)
    sequences = Sequences(limits.num_slots, limits.slot_tokens, spec.vocab_size)
    engine = Engine(EngineParts(decoder, ribbons, sequences, FaultHook(InjectedFaults())))
    figures = Warmup(engine, spec.max_positions).run(wish.max_batch_prefill_tokens)
    engine.reset()
    engine.inject(FaultHook(faults))
    log(
        logging.INFO,
        f"warm: slots of {limits.slot_tokens} tokens, {limits.num_pages} KV pages, {figures.budget} tokens a step",
    )
    return WarmShard(engine, figures)


def _kv_memory(wanted: KvMemory | None, device: torch.device) -> tuple[KvMemory | None, int]:
    """What the pool may take, and of how many bytes a fraction is meant. A device gives all that is left but a reserve."""
    if device.type == "cpu":
        return wanted, memory_limit_bytes()
    return wanted or KvMemory(fraction=MEMORY_SHARE), device_free_bytes(device)
