"""The settings of one shard, parsed and checked. The only place that looks at the environment."""

import os
import re
import socket
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ribbon_server.errors import BadSetting
from ribbon_server.machine import available_cores

UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
LONGEST_SOCKET_PATH = 107  # bytes, sun_path of sockaddr_un
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


class DType(StrEnum):
    """Element types that weights and activations may have."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@dataclass(frozen=True)
class KvMemory:
    """How much memory the KV pool may take: bytes, or a share of what the process may use. Exactly one is given."""

    num_bytes: int | None = None
    fraction: float | None = None


@dataclass(frozen=True)
class InjectedFaults:
    """What tests make go wrong. Nothing by default."""

    crash_token: int | None = None  # a prompt with this token kills the shard
    allocation_failure_rate: float = 0.0  # share of the steps with a GROW in which no page can be had
    allocation_failure_seed: int = 0


@dataclass(frozen=True)
class ServeConfig:
    """Everything `ribbon-server serve` was told."""

    model_path: Path
    model_id: str
    revision: str
    uds_path: Path
    generation: int
    rank: int = 0
    world_size: int = 1
    num_stages: int = 1  # of a pipeline, each with as many ranks
    meeting_point: Path | None = None  # where the ranks find each other
    dtype: DType | None = None
    device: str | None = None
    kv_memory: KvMemory | None = None
    step_log: Path | None = None
    faults: InjectedFaults = InjectedFaults()
    logger_level: str = "INFO"


def parse_kv_memory(text: str) -> KvMemory:
    """`268435456`, `256MiB` (bytes) or `0.4` (a fraction of the memory limit).

    Raises:
        BadSetting: The text is neither.
    """
    match = SIZE.fullmatch(text.strip())
    if match is None or match[2] not in UNITS:
        raise BadSetting(
            f"`--kv-memory` is {text!r}; give bytes (268435456), a size (256MiB, 4GiB) or a fraction (0.4)"
        )
    if match[2] == "" and "." in match[1]:
        return _fraction(text, float(match[1]))
    num_bytes = int(float(match[1]) * UNITS[match[2]])
    if num_bytes == 0:
        raise BadSetting("`--kv-memory` is 0; a shard needs KV memory, leave the flag out for the default")
    return KvMemory(num_bytes=num_bytes)


def parse_allocation_failures(text: str) -> tuple[float, int]:
    """`0.05,7`: how often, and the seed of the choice.

    Raises:
        BadSetting: The text is not that.
    """
    match = re.fullmatch(r"(0?\.\d+|[01](?:\.0*)?),(\d+)", text.strip())
    if match is None:
        raise BadSetting(f"`--test-fail-allocations` is {text!r}; give a probability and a seed, such as 0.05,7")
    return float(match[1]), int(match[2])


def _fraction(text: str, value: float) -> KvMemory:
    if not 0.0 < value <= 1.0:
        raise BadSetting(f"`--kv-memory` is {text!r}; a fraction lies above 0 and is at most 1.0")
    return KvMemory(fraction=value)


def set_thread_environment(world_size: int = 1) -> int:
    """Fixes the OpenMP settings of the libraries loaded later and returns the number of compute threads.

    Must run before torch is imported. An OMP_NUM_THREADS that the operator set is obeyed up to the cores there are; without it
    the `world_size` ranks of a model share the cores.
    Idle OpenMP threads sleep: spinning ones take the cores from the native pool and from gRPC between two GEMMs.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "")  # noqa: TID251
    cores = available_cores()
    own_cores = max(1, cores // world_size)
    num_threads = min(cores, int(wanted)) if wanted.isdigit() and int(wanted) > 0 else own_cores
    for name, value in (("OMP_NUM_THREADS", str(num_threads)), ("OMP_WAIT_POLICY", "PASSIVE")):
        os.environ[name] = value  # noqa: TID251
    return num_threads


def keep_to_loopback() -> None:
    """Has NCCL talk over the loopback address where it talks over a network at all, so that nobody else can join."""
    os.environ["NCCL_SOCKET_IFNAME"] = "lo"  # noqa: TID251


def check_socket_path(path: Path) -> None:
    """Refuses a path where no socket can be.

    Raises:
        BadSetting: Its directory does not exist, it is too long, or it is taken.
    """
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise BadSetting(f"`--uds-path` {path} has more than {LONGEST_SOCKET_PATH} bytes; give a shorter path")
    if not path.parent.is_dir():
        raise BadSetting(f"`--uds-path` {path}: {path.parent} is no directory; make it first")
    if path.exists() and not (path.is_socket() and not _is_listening(path)):
        raise BadSetting(f"`--uds-path` {path} is taken; give another path or remove it")


def _is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
