"""What a server's processes cost: CPU seconds, memory, and its own KV metrics. Knows /proc and the metrics text; not requests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from load.kv import KvFile, KvSample, read_kv
from load.metrics_text import metric
from load.served import Served

POLL_SECONDS = 0.25

# What sequences hold; cached pages belong to nobody.
HELD = (("ribbon_kv_pages", 'state="live"'), ("ribbon_kv_pages", 'state="shared"'), ("ribbon_slots", 'state="used"'))


def pss_bytes(pid: int) -> int:
    """Memory of a process with shared pages counted by share: the sum of Pss in smaps_rollup (design §3)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/{pid}/smaps_rollup has no Pss line")


def cpu_seconds(process: psutil.Process) -> float:
    """User and system seconds since the process began."""
    times = process.cpu_times()
    return float(times.user + times.system)


def wait_released(served: Served, seconds: float = 60.0) -> float:
    """Waits until no slot and no page is in use; returns how long that took. Raises TimeoutError with what is left."""
    begin = time.monotonic()
    while True:
        text = served.get("/metrics")
        used = {f"{name}{{{labels}}}": metric(text, name, labels) for name, labels in HELD}
        if not any(used.values()):
            return time.monotonic() - begin
        if time.monotonic() - begin > seconds:
            raise TimeoutError(f"still in use after {seconds:g} s: {used}")
        time.sleep(POLL_SECONDS / 5)


@dataclass
class Cost:
    """Over one measurement. Waste is the largest of the samples, which are taken while requests run."""

    router_cpu_seconds: float = 0.0
    shard_cpu_seconds: float = 0.0
    router_pss_bytes: int = 0
    shard_pss_bytes: int = 0
    launcher_pss_bytes: int = 0
    kv_waste_max: float | None = None
    kv_samples: list[KvSample] = field(default_factory=list)


class Meter:
    """Measures a server's cost between `async with` and its end; `look` is called with every sample."""

    def __init__(self, served: Served, look: Callable[[], None] = lambda: None) -> None:
        self.cost = Cost()
        self._served, self._router, self._shard, self._look = served, served.router(), served.shard(), look

    async def __aenter__(self) -> Meter:
        self._before = cpu_seconds(self._router), cpu_seconds(self._shard)
        self._polling = asyncio.create_task(self._poll())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._polling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._polling
        cost = self.cost
        cost.router_cpu_seconds = cpu_seconds(self._router) - self._before[0]
        cost.shard_cpu_seconds = cpu_seconds(self._shard) - self._before[1]
        cost.router_pss_bytes, cost.shard_pss_bytes = pss_bytes(self._router.pid), pss_bytes(self._shard.pid)
        cost.launcher_pss_bytes = pss_bytes(self._served.launcher.pid)
        cost.kv_waste_max = max((sample.waste for sample in cost.kv_samples), default=None)

    async def _poll(self) -> None:
        file = KvFile(self._shard.pid)
        async with aiohttp.ClientSession() as client:
            while True:
                await asyncio.sleep(POLL_SECONDS)
                async with client.get(f"{self._served.base}/metrics") as response:
                    text = await response.text()
                self.cost.kv_samples.append(read_kv(text, file.resident_bytes()))
                self._look()
