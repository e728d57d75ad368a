"""A decode step of the Llama-3.1-8B shape with random weights against the time in which the memory can deliver what it reads."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch
from engines import LLAMA_8B, random_engine
from settings import CannotRun, Settings
from timing import copy_bytes_per_second
from tiny import Driver

from ribbon_server.engine.engine import Engine
from ribbon_server.engine.limits import WarmupWish
from ribbon_server.kv.ribbons import OpKind

BATCHES = (1, 8, 32, 128, 256)
CONTEXT = 1024
STEPS = 24
WARM_STEPS = 4
CHUNK_TOKENS = 8192
KV_BYTES = 48 * 2**30
COPY_BYTES = 4 * 2**30
MAPPING_AT_MOST = 0.02  # of the step: the stop rule of the design's section 3

TINY_SHAPE = {**LLAMA_8B, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 200}
TINY_SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}


def run(settings: Settings) -> dict[str, Any]:
    """Milliseconds a step for each batch, the roofline's, and what share of a step the page tables take.

    Raises:
        CannotRun: The device has too little memory for the weights and the KV pool.
    """
    engine = _engine(settings)
    bandwidth = copy_bytes_per_second(settings.device, 2**20 if settings.tiny else COPY_BYTES)
    context = 24 if settings.tiny else CONTEXT
    rows = [_measured(engine, batch, context, bandwidth) for batch in ((1, 4) if settings.tiny else BATCHES)]
    summary = {
        "copy_gigabytes_a_second": round(bandwidth / 1e9),
        "times_roofline": {row["batch"]: row["times_roofline"] for row in rows},
        "tokens_a_second": {row["batch"]: row["tokens_a_second"] for row in rows},
        "mapping_share": max(row["mapping_share"] for row in rows),
        "mapping_within_stop_rule": max(row["mapping_share"] for row in rows) <= MAPPING_AT_MOST,
    }
    return {"summary": summary, "context": context, "weight_bytes": _weight_bytes(engine), "rows": rows}


def _engine(settings: Settings) -> Engine:
    if settings.tiny:
        return random_engine(TINY_SHAPE, WarmupWish(64, 128, 8), 2**28, settings)
    needed = 17 * 10**9 + KV_BYTES + 2 * COPY_BYTES
    free = torch.cuda.mem_get_info(settings.device)[0] if settings.on_cuda else 0
    if free < needed:
        raise CannotRun(f"{free} bytes of device memory are free; weights and KV pool take {needed}")
    return random_engine(LLAMA_8B, WarmupWish(CHUNK_TOKENS, CONTEXT + 512, max(BATCHES)), KV_BYTES, settings)


def _measured(engine: Engine, batch: int, context: int, bandwidth: float) -> dict[str, Any]:
    """Fills `batch` slots, decodes for a while, and closes them."""
    driver = Driver(engine)
    prefill_seconds = _fill(driver, batch, context)
    work = dict.fromkeys(range(1, batch + 1), 1)
    for _ in range(WARM_STEPS):
        _checked(driver, work)
    before = engine.ribbons.groups[0].region.map_statistics()
    steps = STEPS if context > 100 else 3
    times, forwards = zip(*(_timed(driver, work) for _ in range(steps)), strict=True)
    after = engine.ribbons.groups[0].region.map_statistics()
    driver.close(*work)
    return _row(
        engine,
        batch,
        bandwidth,
        {
            "step_ms": statistics.median(times) * 1e3,
            "slowest_step_ms": max(times) * 1e3,
            "launch_ms": statistics.median(forwards),
            "prefill_tokens_a_second": round(batch * context / prefill_seconds),
            "length": context + WARM_STEPS + steps // 2,
            "mapping_share": _map_ns(before, after) / 1e9 / sum(times),
        },
    )


def _timed(driver: Driver, work: dict[int, int]) -> tuple[float, float]:
    """Seconds of one decode step, and milliseconds until its kernels were launched. The pages of the step behind it are named
    before it runs, as by a router that keeps two plans under way."""
    engine = driver.engine
    slots = np.array(list(work), np.uint32)
    ends = (engine.sequences.length[slots] + 1).astype(np.uint32)
    plan = driver.plan(work, ops=[(OpKind.GROW, slot, 0, end) for slot, end in zip(slots, ends, strict=True)])
    engine.ribbons.groups[0].region.prefetch(slots, ends + np.uint32(1))
    started = time.perf_counter()
    outcome = engine.step(plan)
    seconds = time.perf_counter() - started
    if outcome.failure or outcome.errors:
        raise RuntimeError(outcome.failure or outcome.errors[0][1])
    return seconds, outcome.timings.forward_ns / 1e6


def _row(engine: Engine, batch: int, bandwidth: float, found: dict[str, Any]) -> dict[str, Any]:
    """Adds what the memory alone would take: every weight once, and every row's keys and values."""
    layout = engine.ribbons.groups[0].layout
    token_bytes = sum(layer.elements for layer in layout.layers) * layout.itemsize
    read = _weight_bytes(engine) + batch * found.pop("length") * token_bytes
    ideal_ms = read / bandwidth * 1e3
    return {
        "batch": batch,
        **{name: round(value, 4) for name, value in found.items()},
        "roofline_ms": round(ideal_ms, 4),
        "times_roofline": round(found["step_ms"] / ideal_ms, 3),
        "tokens_a_second": round(batch / found["step_ms"] * 1e3),
    }


def _weight_bytes(engine: Engine) -> int:
    """Of the weights that a decode step reads: all but the embedding, of which it reads a row each."""
    parts = engine.decoder.parts
    return (parts.num_parameters - parts.entrance.weight.numel()) * parts.entrance.weight.itemsize


def _map_ns(before: dict[str, int], after: dict[str, int]) -> int:
    """Time in which a step stood still for page tables: growths that were late, and waits for running kernels."""
    return sum(after[name] - before[name] for name in ("late_ns", "fence_ns"))


def _fill(driver: Driver, batch: int, context: int) -> float:
    """Feeds every row its prompt, as many rows a step as the step's tokens allow; seconds."""
    generator = torch.Generator().manual_seed(batch)
    vocab = driver.engine.sequences.vocab_size
    started = time.perf_counter()
    at_once = max(1, CHUNK_TOKENS // context)
    for first in range(1, batch + 1, at_once):
        slots = range(first, min(first + at_once, batch + 1))
        for slot in slots:
            prompt = torch.randint(3, vocab, (context,), generator=generator).tolist()
            driver.seat(slot, prompt, room=WARM_STEPS + 1)
        _checked(driver, dict.fromkeys(slots, context))
    return time.perf_counter() - started


def _checked(driver: Driver, work: dict[int, int]) -> None:
    outcome = driver.step(work)
    if outcome.failure or outcome.errors:
        raise RuntimeError(outcome.failure or outcome.errors[0][1])
