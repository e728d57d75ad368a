"""Clients whose worst cases are twice the KV memory: every request is answered whole and right, and the memory is free afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from asking import Serve
from figures import show
from load.kv import stride_bytes
from load.metrics_text import metric, total
from load.served import Served
from load.usage import wait_released
from margin import Reference
from model_tokenizer import Prompts
from overload import (
    CHECKED_REQUESTS,
    CLIENTS,
    COUNTED,
    FLOAT32_BYTES,
    OVERCOMMIT,
    WORST_TOKENS,
    endless_asks,
    memory_flags,
    press,
)

LONG_SECONDS, SHORT_SECONDS, SHORT_CHECKED = 60.0, 5.0, 32


def check_overload(served: Served, model: Path, seconds: float, checked: int) -> None:
    """Presses the server for so many seconds and judges some of its answers."""
    text = served.get("/metrics")
    pool = metric(text, "ribbon_kv_pages", 'state="free"') * metric(text, "ribbon_kv_page_bytes")
    worst = CLIENTS * WORST_TOKENS * stride_bytes(model, FLOAT32_BYTES)
    assert worst == pytest.approx(OVERCOMMIT * pool, rel=0.01)
    prompts = Prompts(model, seed=11)
    pressed = asyncio.run(press(served.base, CLIENTS, seconds, endless_asks(prompts, seed=11), prompts))
    wait_released(served)
    text = served.get("/metrics")
    counts = ", ".join(f"{name} {total(text, name):.0f}" for name in COUNTED)
    show(
        f"overload, {pool / 1e6:.0f} MB of KV: {len(pressed.runs)} requests in {pressed.wall_seconds:.0f} s, "
        f"{pressed.tokens_per_second(seconds):.0f} tokens/s; {counts}"
    )
    assert len(pressed.runs) >= CLIENTS
    assert all(len(run.prompt) + len(run.generated) == WORST_TOKENS for run in pressed.runs)
    Reference(model).judge(pressed.sample(checked, seed=12)).check("under overload")
    assert served.status("/health") == 200


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_minute_of_twice_the_memory(serve: Serve, demo_model: Path) -> None:
    check_overload(serve(None, *memory_flags()), demo_model, LONG_SECONDS, CHECKED_REQUESTS)


@pytest.mark.timeout(300)
def test_some_seconds_of_twice_the_memory(serve: Serve, demo_model: Path) -> None:
    check_overload(serve(None, *memory_flags()), demo_model, SHORT_SECONDS, SHORT_CHECKED)
