"""Do ranks with a device each hear each other over NCCL, and do they give a model's tokens as one device does?

One device is enough for every call of one rank; two ranks, as two shards and as two stages of a pipeline, want two.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from distributed.ranks import collectives
from engines import engine_from
from settings import Settings
from tiny import Driver, save_tiny

from ribbon_server.config import DType, keep_to_loopback
from ribbon_server.distributed.backend import Meeting
from ribbon_server.distributed.base import World
from ribbon_server.distributed.sharding import Rank

PROMPT = np.random.default_rng(5).integers(3, 160, 40).tolist()
TOKENS = 24
TIMEOUT = timedelta(seconds=120)
RANKS = 2
PROGRAM = "import sys, settings; from stages import ranks; ranks.one_of_two(sys.argv[1:])"
EQUAL_TOKENS = 0.85  # a score within rounding of another may turn the sequence off its way
ALONE = {"sum float32": [[1.0] * 3] * 2, "joined": [[10, 11], [12, 13]], "tokens": [[1, 7]], "least": 5}


def run(settings: Settings) -> dict[str, Any]:
    """Every call of one rank, then two ranks in both ways where there are devices for them."""
    with tempfile.TemporaryDirectory() as folder:
        found = collectives(world_of(Rank(0, 1), 1, Path(folder), settings.device), settings.device)
    figures: dict[str, Any] = {"one_rank": all(found[name].tolist() == value for name, value in ALONE.items())}
    if torch.cuda.device_count() >= RANKS:
        figures |= {
            "equal_tokens": {name: two_ranks(settings, stages) for name, stages in (("shards", 1), ("stages", 2))}
        }
    else:
        figures["left_out"] = f"two ranks: torch sees {torch.cuda.device_count()} devices"
    passed = figures["one_rank"] and min(figures.get("equal_tokens", {}).values(), default=1.0) >= EQUAL_TOKENS
    return {"summary": {"passed": passed, "ranks": RANKS if "equal_tokens" in figures else 1}, **figures}


def world_of(rank: Rank, num_stages: int, folder: Path, device: torch.device) -> World:
    """The group that a shard on the device would have."""
    meeting = Meeting(folder / f"meeting-{num_stages}", TIMEOUT, num_stages)
    if device.type == "cpu":
        from ribbon_server.distributed.gloo import GlooGroup

        return GlooGroup(rank, meeting)
    from ribbon_server.distributed.nccl import NcclGroup

    keep_to_loopback()
    torch.cuda.set_device(device)
    return NcclGroup(rank, meeting, device)


def two_ranks(settings: Settings, num_stages: int) -> float:
    """Share of the tokens that two processes give as one device does. Raises RuntimeError where one of them ends badly."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tiny(folder)
        expected = Driver(engine_from(folder, DType.FLOAT32, settings)).generate(1, PROMPT, TOKENS)
        kind = settings.device.type
        devices = [kind if kind == "cpu" else f"{kind}:{index}" for index in range(RANKS)]
        words = [[name, str(index), str(num_stages), device] for index, device in enumerate(devices)]
        run_all(words)
        found = [json.loads((folder / f"{index}.json").read_text()) for index in range(RANKS)]
    if found[0] != found[1]:
        raise RuntimeError(f"the ranks have different tokens: {found}")
    return sum(ours == theirs for ours, theirs in zip(found[0], expected, strict=True)) / TOKENS


def run_all(words: list[list[str]]) -> None:
    """Every rank as a process, until all have ended. Raises RuntimeError where one ends badly, TimeoutExpired where one hangs."""
    commands = [[sys.executable, "-c", PROGRAM, *each] for each in words]
    place = Path(__file__).parents[1]
    ranks = [subprocess.Popen(each, cwd=place, stderr=subprocess.PIPE, text=True) for each in commands]
    try:
        ended = [(rank.communicate(timeout=TIMEOUT.total_seconds())[1], rank.returncode) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    if any(code for _, code in ended):
        raise RuntimeError(f"ranks ended with {ended}")


def one_of_two(words: list[str]) -> None:
    """The whole life of a rank, of FOLDER RANK STAGES DEVICE: leaves its tokens in the folder."""
    folder, rank, device = Path(words[0]), Rank(int(words[1]), RANKS), torch.device(words[3])
    world = world_of(rank, int(words[2]), folder, device)
    engine = engine_from(folder, DType.FLOAT32, Settings(device), world=world)
    (folder / f"{rank.index}.json").write_text(json.dumps(Driver(engine).generate(1, PROMPT, TOKENS)))
    world.least(0)  # nobody leaves while another waits for it
