"""Thousands of requests of every kind in one server: no page stays in use, and no process grows."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from statistics import median

import aiohttp
import pytest
from asking import Serve
from figures import show
from load.closed_loop import closed_loop
from load.kv import KvFile, read_kv
from load.metrics_text import total
from load.served import Served
from load.usage import pss_bytes, wait_released
from mixed_work import KINDS, Mixed, Wish
from model_tokenizer import Prompts

CLIENTS = 48
REQUESTS = int(os.environ.get("RIBBON_SOAK_REQUESTS", "10000"))
SHORT_REQUESTS = 300
# Memory for a fraction of what the clients may need, so that cached prefixes are let go and sequences wait or give way.
FLAGS = ("--dtype", "float32", "--kv-memory", "6MiB", "--max-batch-prefill-tokens", "256", "--max-best-of", "4")
GROWTH = 1.05
SAMPLE_SECONDS = 0.25
COUNTED = ("ribbon_prefix_hit_tokens_total", "ribbon_evictions_total", "ribbon_preemptions_total")


class Memory:
    """Pss of router and shard while requests are done; the samples know which quarter they fall into."""

    def __init__(self, served: Served, requests: int) -> None:
        self._pids = {"router": served.router().pid, "shard": served.shard().pid}
        self._requests = requests
        self.done = 0
        self.quarters: list[list[dict[str, int]]] = [[], [], [], []]

    async def watch(self) -> None:
        """Samples until it is cancelled."""
        while True:
            quarter = min(3, self.done * 4 // self._requests)
            self.quarters[quarter].append({name: pss_bytes(pid) for name, pid in self._pids.items()})
            await asyncio.sleep(SAMPLE_SECONDS)

    def medians(self, process: str) -> list[float]:
        """Median of each quarter in bytes."""
        return [median(sample[process] for sample in quarter) for quarter in self.quarters]


async def run_all(served: Served, model: Path, requests: int) -> tuple[Mixed, Memory]:
    """Sends everything; how requests ended, and the memory meanwhile."""
    mixed, memory = Mixed(served.base, Prompts(model, seed=21), seed=21), Memory(served, requests)

    async def serve(client: aiohttp.ClientSession, wish: Wish) -> None:
        await mixed.serve(client, wish)
        memory.done += 1

    watching = asyncio.create_task(memory.watch())
    await closed_loop(CLIENTS, mixed.wishes(requests), serve)
    watching.cancel()
    return mixed, memory


def check_soak(served: Served, model: Path, requests: int) -> Memory:
    """All requests end as they may, and afterwards nothing is held but the cache, to the page."""
    mixed, memory = asyncio.run(run_all(served, model, requests))
    released = wait_released(served)
    text = served.get("/metrics")
    at_rest = read_kv(text, KvFile(served.shard().pid).resident_bytes())
    counts = ", ".join(f"{name} {total(text, name):.0f}" for name in COUNTED)
    show(f"{requests} requests ended {dict(mixed.ends)}; released {released:.1f} s later; {counts}; {at_rest}")
    assert sum(mixed.ends.values()) == requests
    assert len(mixed.ends) >= len(KINDS)
    assert at_rest.live == at_rest.shared == 0, at_rest
    assert at_rest.accounted_bytes == at_rest.resident_bytes, at_rest
    assert served.status("/health") == 200
    return memory


@pytest.mark.timeout(300)
def test_300_mixed_requests_leave_nothing_but_the_cache(serve: Serve, tiny_model: Path) -> None:
    check_soak(serve(tiny_model, *FLAGS), tiny_model, SHORT_REQUESTS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_does_not_grow_over_10000_mixed_requests(serve: Serve, tiny_model: Path) -> None:
    memory = check_soak(serve(tiny_model, *FLAGS), tiny_model, REQUESTS)
    for process in ("router", "shard"):
        quarters = memory.medians(process)
        show(f"Pss of the {process} by quarter: {', '.join(f'{value / 1e6:.1f}' for value in quarters)} MB")
        assert quarters[3] <= GROWTH * quarters[1], f"{process}: {quarters}"
