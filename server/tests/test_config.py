"""Settings and the machine: what is parsed, what is refused, what cgroup files say."""

import os
from pathlib import Path

import pytest

from ribbon_server import machine
from ribbon_server.config import (
    KvMemory,
    check_socket_path,
    parse_allocation_failures,
    parse_kv_memory,
    set_thread_environment,
)
from ribbon_server.errors import BadSetting


@pytest.mark.parametrize(
    ("text", "memory"),
    [
        ("268435456", KvMemory(num_bytes=2**28)),
        ("256MiB", KvMemory(num_bytes=2**28)),
        ("1.5GiB", KvMemory(num_bytes=3 * 2**29)),
        ("2 GB", KvMemory(num_bytes=2 * 10**9)),
        ("0.4", KvMemory(fraction=0.4)),
        ("1.0", KvMemory(fraction=1.0)),
        ("1", KvMemory(num_bytes=1)),
    ],
)
def test_kv_memory_is_bytes_or_a_fraction(text: str, memory: KvMemory) -> None:
    assert parse_kv_memory(text) == memory


@pytest.mark.parametrize("text", ["", "lots", "-1", "256mb", "1.5", "0.0", "0", "nan", "1e9", "5 TiB"])
def test_kv_memory_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(BadSetting, match="--kv-memory"):
        parse_kv_memory(text)


def test_allocation_failures_are_a_probability_and_a_seed() -> None:
    assert [parse_allocation_failures(text) for text in ("0.05,7", " 1,0", ".5,12", "0,0")] == [
        (0.05, 7),
        (1.0, 0),
        (0.5, 12),
        (0.0, 0),
    ]


@pytest.mark.parametrize("text", ["", "0.5", "2,1", "1.5,1", "0.5,x", "-1,2", "nan,1"])
def test_allocation_failures_that_cannot_be_meant_are_refused(text: str) -> None:
    with pytest.raises(BadSetting, match="--test-fail-allocations"):
        parse_allocation_failures(text)


def test_a_socket_path_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path, message in (
        (tmp_path / "no" / "s", "is no directory"),
        (tmp_path / ("s" * 120), "107 bytes"),
        (tmp_path / "file", "is taken"),
    ):
        with pytest.raises(BadSetting, match=message):
            check_socket_path(path)
    check_socket_path(tmp_path / "s")


def test_threads_follow_the_cores_and_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ribbon_server.config.available_cores", lambda: 4)
    for given, threads in (("", 4), ("2", 2), ("64", 4), ("0", 4), ("many", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert set_thread_environment() == threads
        assert os.environ["OMP_NUM_THREADS"] == str(threads)
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_shards_share_the_cores_unless_the_operator_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ribbon_server.config.available_cores", lambda: 8)
    for given, world_size, threads in (("", 2, 4), ("", 3, 2), ("", 16, 1), ("8", 2, 8)):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert set_thread_environment(world_size) == threads


CGROUPS = {
    "version 2": ("0::/box\n", {"box/cpu.max": "150000 100000", "box/memory.max": "1000000"}, 2, 1_000_000),
    "version 2 without limits": ("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, 8, None),
    "version 1": (
        "4:memory:/box\n1:cpu,cpuacct:/box\n0::/\n",
        {
            "cpu/box/cpu.cfs_quota_us": "300000",
            "cpu/box/cpu.cfs_period_us": "100000",
            "memory/box/memory.limit_in_bytes": "2000000",
        },
        3,
        2_000_000,
    ),
    "version 1 without limits": (
        "1:cpu:/\n0::/\n",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        8,
        None,
    ),
    "a tenth of a core": ("0::/\n", {"cpu.max": "10000 100000"}, 1, None),
}


@pytest.mark.parametrize("name", CGROUPS)
def test_limits_of_the_control_group_are_obeyed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, files, cores, memory = CGROUPS[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text + "\n")
    read = machine._text
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_text", lambda path: own if path == Path("/proc/self/cgroup") else read(path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert machine.available_cores() == cores
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine.memory_limit_bytes() == (memory or total)
