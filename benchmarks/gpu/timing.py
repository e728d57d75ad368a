"""Times work on a device by its own events, on the CPU by the clock. Median and spread, warm."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

WARM_LAPS = 3


def median_us(work: Callable[[], object], device: torch.device, laps: int = 15) -> float:
    """Median microseconds of one call of `work`, after a few unmeasured ones."""
    for _ in range(WARM_LAPS):
        work()
    return statistics.median(_on_cuda(work, device, laps) if device.type == "cuda" else _on_cpu(work, laps))


def _on_cuda(work: Callable[[], object], device: torch.device, laps: int) -> list[float]:
    with torch.cuda.device(device):
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(laps)]
        for start, stop in events:
            start.record()
            work()
            stop.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(stop) * 1e3 for start, stop in events]


def _on_cpu(work: Callable[[], object], laps: int) -> list[float]:
    times = []
    for _ in range(laps):
        started = time.perf_counter_ns()
        work()
        times.append((time.perf_counter_ns() - started) / 1e3)
    return times


def copy_bytes_per_second(device: torch.device, num_bytes: int) -> float:
    """What the memory moves, bytes read and written, in one large copy."""
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / (median_us(lambda: target.copy_(source), device, laps=7) / 1e6)


def wall_us(work: Callable[[], object]) -> float:
    """Microseconds of one call on the host's clock."""
    started = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - started) / 1e3
