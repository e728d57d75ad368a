"""What this process really has of the machine: cores, memory, instruction sets. Linux only; reads /proc and cgroup files."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Cores this process may use: the affinity mask, cut by the cgroup quota (rounded up, at least 1)."""
    cores = len(os.sched_getaffinity(0))
    quota = _cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def memory_limit_bytes() -> int:
    """RAM this process may use: the machine's, or the cgroup's limit where that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    names = ("memory.max", "memory/memory.limit_in_bytes")
    limits = [
        _number(path)
        for folder in _own_cgroups("memory")
        for path in (folder / "memory.max", folder / "memory.limit_in_bytes")
    ]
    limits += [_number(CGROUP / name) for name in names]
    return min([total, *(int(limit) for limit in limits if limit is not None and limit > 0)])


def computes_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 natively (AVX512-BF16 or AMX); float32 is faster where it does not."""
    flags = _cpu_flags()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _cpu_quota() -> float | None:
    """Cores' worth of time the cgroup grants, of version 2 or 1; None without a limit."""
    for folder in [*_own_cgroups("cpu"), CGROUP, CGROUP / "cpu"]:
        words = _text(folder / "cpu.max").split()
        if len(words) == 2 and words[0] != "max":
            return int(words[0]) / int(words[1])
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota is not None and period and quota > 0:
            return quota / period
    return None


def _own_cgroups(controller: str) -> list[Path]:
    """Folders of this process's own group, version 2 first."""
    folders: list[Path] = []
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folders.insert(0, CGROUP / path.lstrip("/"))
        elif controller in controllers.split(","):
            folders.append(CGROUP / controller / path.lstrip("/"))
    return folders


def _cpu_flags() -> frozenset[str]:
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def _number(path: Path) -> float | None:
    text = _text(path).strip()
    return float(text) if text.lstrip("-").isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
