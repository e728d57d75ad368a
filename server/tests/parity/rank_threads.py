"""Ranks of one model as threads of this process, over the group that processes use too: the same calls without the time of a start."""

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

from ribbon_server.distributed.base import Group
from ribbon_server.distributed.gloo import GlooGroup
from ribbon_server.distributed.sharding import Rank

TIMEOUT_SECONDS = 120.0  # a rank that failed leaves the others waiting

Result = TypeVar("Result")


def on_ranks(world_size: int, work: Callable[[Group], Result]) -> list[Result]:
    """What every rank made of it, by rank. Raises what the first of those that failed raised."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(world_size) as threads:

        @torch.inference_mode()
        def run(index: int) -> Result:
            return work(GlooGroup(Rank(index, world_size), Path(folder) / "meeting", TIMEOUT_SECONDS))

        return [done.result() for done in [threads.submit(run, index) for index in range(world_size)]]
