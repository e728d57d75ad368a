"""The shard on the device against transformers on the same device: logits in chunks and batches, tokens, shared prefixes, and waits."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engines import engine_from
from settings import Settings
from tiny import Driver, TinyModel, save_tiny

from ribbon_server.config import DType
from ribbon_server.engine.engine import Engine
from ribbon_server.kv.ribbons import OpKind
from ribbon_server.layers.registry import native_kernels

PROMPT = np.random.default_rng(5).integers(3, 160, 300).tolist()
# Wide tokens, so that a 2 MiB page holds few of them and a shared prefix has whole pages.
WIDE = {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 1024}
FLOAT32_TOLERANCE = 2e-3  # of logits with a spread of several units; the device sums in another order
BFLOAT16_TOLERANCE = 0.05  # mean error as a share of that spread
KEEP = 1  # of CLOSE: the storage stays
EQUAL_TOKENS = 0.85  # a score within rounding of another may turn one sequence off its way
BEHIND = 7  # tokens of the donor that the other sequence computes itself


def run(settings: Settings) -> dict[str, Any]:
    """Every figure, and whether all are within their bounds."""
    torch.backends.cuda.matmul.allow_tf32 = False
    with tempfile.TemporaryDirectory() as narrow, tempfile.TemporaryDirectory() as wide:
        tiny, broad = save_tiny(Path(narrow), max_position_embeddings=1024), save_tiny(Path(wide), **WIDE)
        prompt = PROMPT[:21] if settings.tiny else PROMPT
        float32, bfloat16 = (engine_from(tiny.folder, dtype, settings) for dtype in (DType.FLOAT32, DType.BFLOAT16))
        figures = {
            "float32_error": {
                chunk: _error(float32, tiny, prompt, chunk) for chunk in ((7,) if settings.tiny else (1, 7, 64))
            },
            "float32_batch_error": _batch_error(float32, tiny, prompt),
            "bfloat16_share": _share(bfloat16, tiny, prompt),
            "shared_prefix_error": _shared_error(engine_from(broad.folder, DType.FLOAT32, settings), broad, prompt),
            "tokens_as_on_the_cpu": _equal_tokens(float32, tiny, prompt, settings),
            "waits_in_a_decode_step": _waits(float32, prompt) if settings.on_cuda else None,
            "attention": sorted({type(block.attention.kernel).__name__ for block in bfloat16.decoder.parts.blocks}),
        }
    return {"summary": {"passed": _passed(figures), "attention": figures["attention"]}, **figures}


def _passed(figures: dict[str, Any]) -> bool:
    errors = [*figures["float32_error"].values(), figures["float32_batch_error"], figures["shared_prefix_error"]]
    return (
        max(errors) < FLOAT32_TOLERANCE
        and figures["bfloat16_share"] < BFLOAT16_TOLERANCE
        and figures["tokens_as_on_the_cpu"] >= EQUAL_TOKENS
        and figures["waits_in_a_decode_step"] in (None, 1)
    )


def feed(engine: Engine, tokens: list[int], chunk: int, slot: int = 1) -> torch.Tensor:
    """Logits after every chunk of one sequence, on the CPU: [chunks, vocab]."""
    driver, logits = Driver(engine), []
    driver.seat(slot, tokens, room=16)
    state = engine.sequences.state
    for begin in range(0, len(tokens), chunk):
        end = min(begin + chunk, len(tokens))
        # The history ends with this chunk, so that its last token asks for logits; what was sampled before is forgotten.
        state.history[slot, :end], state.known[slot] = tokens[:end], end
        logits.append(last_logits(driver, {slot: end - begin})[0])
    driver.close(slot)
    return torch.stack(logits)


def last_logits(driver: Driver, work: dict[int, int]) -> torch.Tensor:
    """Runs one step and keeps its logits."""
    engine, kept = driver.engine, []
    pick = engine.pick

    def keep(logits, rows):
        kept.append(logits.float().cpu().clone())
        return pick(logits, rows)

    engine.pick = keep
    outcome = driver.step(work)
    engine.pick = pick
    if outcome.failure or outcome.errors:
        raise RuntimeError(outcome.failure or outcome.errors[0][1])
    return kept[0]


def _expected(model: TinyModel, tokens: list[int]) -> torch.Tensor:
    """Of transformers in float32 on the CPU, every position."""
    return model.logits(tokens)


def _ends(tokens: list[int], chunk: int) -> list[int]:
    return [min(end, len(tokens)) - 1 for end in range(chunk, len(tokens) + chunk, chunk)]


def _error(engine: Engine, model: TinyModel, prompt: list[int], chunk: int) -> float:
    return _largest(feed(engine, prompt, chunk) - _expected(model, prompt)[_ends(prompt, chunk)])


def _batch_error(engine: Engine, model: TinyModel, prompt: list[int]) -> float:
    """Decodes and chunks mixed in one step."""
    driver = Driver(engine)
    prompts = {slot: prompt[slot : slot + 5 + 2 * slot] for slot in range(1, 7)}
    last = {slot: 1 if slot % 2 else 3 for slot in prompts}
    for slot, tokens in prompts.items():
        driver.seat(slot, tokens, room=8)
    driver.step({slot: len(tokens) - last[slot] for slot, tokens in prompts.items()})
    logits = last_logits(driver, last)
    driver.close(*prompts)
    return _largest(logits - torch.stack([_expected(model, tokens)[-1] for tokens in prompts.values()]))


def _share(engine: Engine, model: TinyModel, prompt: list[int]) -> float:
    expected = _expected(model, prompt)[_ends(prompt, 64)]
    return float((feed(engine, prompt, 64) - expected).abs().mean() / expected.std())


def _shared_error(engine: Engine, model: TinyModel, prompt: list[int]) -> float:
    """A sequence behind another's prefix: whole pages mapped, the rest copied; the donor is closed first."""
    driver = Driver(engine)
    tokens, shown = prompt, len(prompt) - BEHIND
    driver.seat(1, tokens, room=16)
    for begin in range(0, len(tokens), 64):
        driver.step({1: min(64, len(tokens) - begin)})
    opening = driver.open(2, tokens, room=16)
    opening["ops"] = [(OpKind.OPEN, 2, 2, 0), (OpKind.SHARE, 2, 1, shown), (OpKind.GROW, 2, 0, len(tokens) + 16)]
    driver.step({}, **opening)
    driver.step({}, ops=[(OpKind.CLOSE, 1, 0, KEEP)])
    logits = last_logits(driver, {2: len(tokens) - shown})
    driver.step({}, ops=[(OpKind.CLOSE, 2, 0, 0), (OpKind.DROP, 0, 1, 0)])
    return _largest(logits[0] - _expected(model, tokens)[-1])


def _equal_tokens(engine: Engine, model: TinyModel, prompt: list[int], settings: Settings) -> float:
    """Share of seeded tokens that are those of the native CPU path."""
    cpu = engine_from(model.folder, DType.FLOAT32, Settings(torch.device("cpu")), native_kernels())
    params = {"greedy": 0, "temperature": 0.8, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1}
    count, rounds = (3, 1) if settings.tiny else (32, 8)
    equal = 0
    for seed in range(rounds):
        ours, theirs = (
            Driver(each).generate(1, prompt[seed : seed + 20], count, seed=seed, **params) for each in (engine, cpu)
        )
        equal += sum(a == b for a, b in zip(ours, theirs, strict=True))
    return equal / (rounds * count)


def _waits(engine: Engine, prompt: list[int]) -> int:
    """Times that the host waited for the device in a steady decode step; the copy of the tokens is the one allowed."""
    driver = Driver(engine)
    for slot in range(1, 5):
        driver.seat(slot, prompt[slot : slot + 8], greedy=0, top_p=0.9, top_k=20, seed=3, repetition_penalty=1.1)
    driver.step(dict.fromkeys(range(1, 5), 8))
    driver.step(dict.fromkeys(range(1, 5), 1))
    plan = driver.plan(dict.fromkeys(range(1, 5), 1))
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        engine.step(plan)
    torch.cuda.set_sync_debug_mode("default")
    driver.close(*range(1, 5))
    return sum("synchroniz" in str(warning.message) for warning in said)


def _largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max().nan_to_num(nan=float("inf")))
