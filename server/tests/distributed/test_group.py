"""Two processes as one model: their calls agree, their shares of a model compute what the whole computes, a loss is noticed."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from parity.rank_threads import on_ranks
from safetensors.torch import load_file
from tiny import TinyModel

sys.path.insert(0, str(Path(__file__).parent))

import ranks

from ribbon_server.distributed.backend import Meeting
from ribbon_server.distributed.base import World
from ribbon_server.distributed.gloo import GlooGroup
from ribbon_server.distributed.sharding import Rank
from ribbon_server.distributed.single import SingleGroup
from ribbon_server.errors import RankLost

LIMIT_SECONDS = 300
SERVER = Path(__file__).resolve().parents[2]


def start(index: int, folder: Path, model: Path) -> subprocess.Popen[str]:
    """One rank."""
    environment = {**os.environ, "PYTHONPATH": str(SERVER), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ranks.__file__, str(index), str(folder), str(model)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


Results = list[dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def both(tiny_untied: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Results, int]]:
    """What each rank computed, and rank 0's exit code after rank 1 was killed."""
    folder = tmp_path_factory.mktemp("group")
    files = [folder / f"{index}.safetensors" for index in range(2)]
    processes = [start(index, folder, tiny_untied.folder) for index in range(2)]
    try:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not all(file.exists() for file in files) and time.monotonic() < deadline:
            assert processes[0].poll() is None, processes[0].communicate()[1]
            time.sleep(0.01)
        processes[1].kill()
        _, errors = processes[0].communicate(timeout=LIMIT_SECONDS)
        assert all(file.exists() for file in files), errors
        yield [load_file(file) for file in files], processes[0].returncode
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_calls_agree_on_all_ranks(both: tuple[Results, int]) -> None:
    (first, second), _ = both
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name in ("float32", "bfloat16", "int32"):
        assert torch.equal(first[f"sum {name}"], torch.full((2, 3), 3).to(getattr(torch, name)))
    assert first["joined"].tolist() == [[10, 11, 20, 21], [12, 13, 22, 23]]
    assert first["tokens"].tolist() == [[2, 7]]
    assert first["least"] == 5


def test_ranks_listen_on_the_loopback_address_alone(both: tuple[Results, int]) -> None:
    assert all(results["is_private"] for results in both[0])


def test_shares_of_a_model_compute_what_the_whole_computes(both: tuple[Results, int], tiny_untied: TinyModel) -> None:
    (first, _), _ = both
    for name, expected in ranks.feed_forward(SingleGroup(), tiny_untied.folder).items():
        torch.testing.assert_close(first[name], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("world_size", "num_stages"), [(1, 1), (2, 1), (3, 3), (4, 2)])
def test_every_stage_is_connected_before_the_first_step(world_size: int, num_stages: int) -> None:
    """A stage sends what the one behind it waits for, once, whatever its place: nothing is left over for the first step."""

    def heard(world: World) -> list[str]:
        assert isinstance(world, GlooGroup)
        calls: list[str] = []
        send, receive = world.send, world.receive
        world.send = lambda stream: calls.append("send") or send(stream)  # type: ignore[func-returns-value,method-assign]
        world.receive = lambda stream: calls.append("receive") or receive(stream)  # type: ignore[func-returns-value,method-assign]
        world.connect_all()
        return calls

    last = num_stages - 1
    expected = [["receive"] * (stage > 0) + ["send"] * (stage < last) for stage in range(num_stages)]
    per_stage = world_size // num_stages
    assert on_ranks(world_size, heard, num_stages) == [
        expected[last - index // per_stage] for index in range(world_size)
    ]


def test_a_killed_rank_is_noticed(both: tuple[Results, int]) -> None:
    assert both[1] == 0


def test_a_rank_that_never_comes_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(RankLost, match="rank 0 of 2 lost another rank"):
        GlooGroup(Rank(0, 2), Meeting(tmp_path / "meeting", timedelta(seconds=0.2)))
