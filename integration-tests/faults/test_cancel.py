"""Clients that go away at random points leave nothing behind: no slot, no page, no memory."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from pathlib import Path

import aiohttp
import pytest
from asking import Serve
from figures import show
from load.client import exchange, generate_stream, session
from load.metrics_text import samples
from load.served import Served
from load.usage import pss_bytes, wait_released
from model_tokenizer import Prompts

CLIENTS = 96
# KV memory for a few of the clients only, and small chunks: some wait, some are in their prompt, some generate.
FLAGS = (
    "--dtype",
    "float32",
    "--kv-memory",
    "16MiB",
    "--max-batch-prefill-tokens",
    "64",
    "--max-queued-tokens",
    "1000000",
)
MEMORY_GROWTH = 1.05
SETTLE_SECONDS = 20.0  # idle threads, and the memory they keep for themselves, go after 10 s
POLLS = 200
STAGES = ("queued", "prefill", "decode")


async def cancel_one(client: aiohttp.ClientSession, base: str, text: str, rng: random.Random) -> None:
    """Opens a stream and drops the connection after a random time or a random number of tokens. Raises AssertionError when the
    server was the one to end it."""
    body = {"inputs": text, "parameters": {"max_new_tokens": 200, "ignore_eos": True}}
    last_token, seconds = rng.randint(1, 12), rng.choice([0.01, 0.1, 0.5, 2.0]) * rng.random()

    def leave(answer: object) -> None:
        if len(answer.token_ids) >= last_token:  # type: ignore[attr-defined]
            raise asyncio.CancelledError

    request = asyncio.ensure_future(generate_stream(client, base, body, leave))
    if rng.random() < 0.6:
        with contextlib.suppress(asyncio.CancelledError, TimeoutError):
            answer = await asyncio.wait_for(request, seconds)
            assert answer.error is None, answer.error
        return
    with contextlib.suppress(asyncio.CancelledError):
        answer = await request
        assert answer.error is None, answer.error


async def cancel_many(base: str, texts: list[str], seed: int) -> None:
    """All texts, so many clients at a time."""
    rng, waiting = random.Random(seed), list(texts)
    async with session() as client, asyncio.TaskGroup() as group:

        async def worker() -> None:
            while waiting:
                await cancel_one(client, base, waiting.pop(), rng)

        for _ in range(CLIENTS):
            group.create_task(worker())


def cancelled(served: Served) -> dict[str, float]:
    """Cancelled requests by stage."""
    found = {
        labels: value
        for name, labels, value in samples(served.get("/metrics"))
        if name.startswith("ribbon_requests_cancelled")
    }
    return {stage: sum(value for labels, value in found.items() if stage in labels) for stage in STAGES}


def round_of(served: Served, model: Path, requests: int, seed: int) -> None:
    """One round of cancelled requests, and the check that nothing is held afterwards."""
    prompts, rng = Prompts(model, seed=seed), random.Random(seed)
    texts = [prompts.text(rng.randint(2, 3_000)) for _ in range(requests)]
    before = sum(cancelled(served).values())
    asyncio.run(cancel_many(served.base, texts, seed))
    show(
        f"{requests} requests dropped; all released {wait_released(served):.2f} s later; by stage so far {cancelled(served)}"
    )
    # The others left before the router had read them.
    assert sum(cancelled(served).values()) - before > requests / 4


def test_200_cancelled_requests_leave_no_slot_and_no_page(serve: Serve, tiny_model: Path) -> None:
    served = serve(tiny_model, *FLAGS)
    round_of(served, tiny_model, 200, seed=1)
    counts = cancelled(served)
    assert counts["queued"], counts
    assert counts["decode"], counts
    reply = exchange(served.base, "POST", "/generate", {"inputs": "still here", "parameters": {"max_new_tokens": 4}})
    assert reply.status == 200
    assert served.status("/health") == 200


def test_a_client_that_leaves_during_its_prompt_is_counted_there(serve: Serve, tiny_model: Path) -> None:
    served = serve(tiny_model, *FLAGS)
    text = Prompts(tiny_model).text(4_000)

    async def leave(seconds: float) -> None:
        async with session() as client:
            request = generate_stream(client, served.base, {"inputs": text, "parameters": {"max_new_tokens": 8}})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(request, seconds)

    for attempt in range(40):  # its time in the prompt depends on the machine: try later and later
        asyncio.run(leave(0.01 * (attempt + 1)))
        wait_released(served)
        if cancelled(served)["prefill"]:
            return
    pytest.fail(f"never counted as prefill: {cancelled(served)}")


def settled_pss(served: Served) -> dict[str, int]:
    """Least memory of router and shard while nothing but scrapes runs: the allocator gives pages back when it is used."""
    lowest = {"router": sys.maxsize, "shard": sys.maxsize}
    processes = {"router": served.router(), "shard": served.shard()}
    for _ in range(POLLS):
        served.get("/metrics")
        time.sleep(SETTLE_SECONDS / POLLS)
        lowest = {name: min(lowest[name], pss_bytes(process.pid)) for name, process in processes.items()}
    return lowest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_does_not_grow_with_cancelled_requests(serve: Serve, tiny_model: Path) -> None:
    served = serve(tiny_model, *FLAGS)
    found = []
    for seed in (1, 2):
        round_of(served, tiny_model, 1_000, seed)
        found.append(settled_pss(served))
    show(f"Pss after the first and second thousand: {found}")
    for process in ("router", "shard"):
        assert found[1][process] <= MEMORY_GROWTH * found[0][process], f"{process}: {found}"
