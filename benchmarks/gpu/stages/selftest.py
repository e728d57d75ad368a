"""Does torch's flash operator do over ribbons what we use it for, also far beyond 2^31 elements, and do our Triton kernels run?"""

from __future__ import annotations

import time
from typing import Any

import torch
from settings import Settings

from ribbon_server.layers.attention.base import PLAIN, AttentionShape
from ribbon_server.layers.attention.selftest import check_flash, largest_error, made_up, made_up_batch
from ribbon_server.layers.attention.triton import triton_attention

SHAPES = {
    "llama-8b": AttentionShape(32, 8, 128, 128**-0.5, 0, 0),
    "own-heads-64": AttentionShape(16, 16, 64, 0.125, 0, 0),
    "window": AttentionShape(32, 8, 128, 128**-0.5, 0, 0, window=100),
    "head-256": AttentionShape(8, 4, 256, 0.0625, 0, 0),
}
TINY_SHAPES = {
    "tiny": AttentionShape(4, 2, 16, 0.25, 0, 0),
    "tiny window": AttentionShape(2, 1, 16, 0.25, 0, 0, window=100),
}
FAR_SLOT_TOKENS = 400_000  # with the layers between, 2.4e9 elements from slot to slot
TRITON_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


def run(settings: Settings) -> dict[str, Any]:
    """Every shape in both 16-bit types, one of them far apart, then Triton."""
    shapes = TINY_SHAPES if settings.tiny else SHAPES
    flash = {
        f"{name} {kind}": _checked(settings, shape, dtype)
        for name, shape in shapes.items()
        for kind, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16))
    }
    flash["far slots"] = _far(settings)
    triton = {
        f"{name} {kind}": _triton(settings, shape, dtype)
        for name, shape in shapes.items()
        for kind, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }
    summary = {
        "flash_passed": all(case["passed"] for case in flash.values()),
        "triton_passed": all(case["passed"] for case in triton.values()),
    }
    return {"summary": summary, "flash": flash, "triton": triton}


def _checked(settings: Settings, shape: AttentionShape, dtype: torch.dtype) -> dict[str, Any]:
    try:
        result = check_flash(settings.flash, shape, dtype, settings.device)
    except (RuntimeError, NotImplementedError) as error:
        return {"passed": False, "reason": str(error)[:300]}
    return {"passed": result.passed, "largest_error": result.largest_error}


def _far(settings: Settings) -> dict[str, Any]:
    """Slots whose elements an int32 cannot count; only where there is memory for it."""
    shape, tokens = (TINY_SHAPES["tiny"], 1000) if settings.tiny else (SHAPES["llama-8b"], FAR_SLOT_TOKENS)
    try:
        result = check_flash(settings.flash, shape, torch.bfloat16, settings.device, tokens)
    except torch.OutOfMemoryError as error:
        return {"passed": True, "left_out": str(error)[:100]}
    return {"passed": result.passed, "largest_error": result.largest_error, "slot_tokens": tokens}


def _triton(settings: Settings, shape: AttentionShape, dtype: torch.dtype) -> dict[str, Any]:
    started = time.perf_counter()
    query, kv = made_up(shape, dtype, settings.device)
    output = torch.full_like(query.flatten(1), float("nan"))
    triton_attention(shape, PLAIN, made_up_batch(settings.device), kv, query.flatten(1), output)
    error = largest_error(output.view_as(query), shape, query, kv)
    passed = error <= TRITON_TOLERANCE[dtype]
    return {"passed": passed, "largest_error": error, "first_call_seconds": time.perf_counter() - started}
