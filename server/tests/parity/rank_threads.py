"""Ranks of one model as threads of this process, over the group that processes use too: the same calls without the time of a start."""

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch

from ribbon_server.distributed.backend import Meeting
from ribbon_server.distributed.base import World
from ribbon_server.distributed.gloo import GlooGroup
from ribbon_server.distributed.sharding import Rank

TIMEOUT = timedelta(seconds=120)  # a rank that failed leaves the others waiting

Result = TypeVar("Result")


def on_ranks(world_size: int, work: Callable[[World], Result], num_stages: int = 1) -> list[Result]:
    """What every rank made of it, by rank, in stages of equally many. Raises what the first of those that failed raised."""
    worlds: list[World] = []  # none goes before all are done: what it sent may be under way
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(world_size) as threads:

        @torch.inference_mode()
        def run(index: int) -> Result:
            meeting = Meeting(Path(folder) / "meeting", TIMEOUT, num_stages)
            world = GlooGroup(Rank(index, world_size), meeting)
            worlds.append(world)
            return work(world)

        return [done.result() for done in [threads.submit(run, index) for index in range(world_size)]]
