"""What the driver takes to create, map, alias and unmap pages of 2, 16 and 64 MiB."""

from __future__ import annotations

from typing import Any

from settings import CannotRun, Settings

from ribbon_server import _native

MIB = 2**20
SIZES = {2: 256, 16: 64, 64: 16}  # MiB of a page: pages in a run


def run(settings: Settings) -> dict[str, Any]:
    """Nanoseconds a call for each size, and what that makes for each MiB.

    Raises:
        CannotRun: The native module has no CUDA region, or no driver answers.
    """
    index, simulated = settings.device.index or 0, not settings.on_cuda
    try:
        memory = _native.cuda_memory(index, simulated=simulated)
    except (AttributeError, OSError) as error:
        raise CannotRun(f"the native module's CUDA region: {error}") from error
    sizes = {size: 4 if settings.tiny else count for size, count in SIZES.items()}
    costs = {
        f"{size} MiB": _native.bench_map(index, page_bytes=size * MIB, num_pages=count, simulated=simulated)
        for size, count in sizes.items()
        if (size * MIB) % memory["granularity"] == 0
    }
    per_mib = {
        name: us_per_mib(cost, int(name.split()[0]), sizes[int(name.split()[0])]) for name, cost in costs.items()
    }
    return {"summary": {"granularity": memory["granularity"], **per_mib}, "memory": memory, "ns_a_call": costs}


def us_per_mib(cost: dict[str, float], size: int, num_pages: int) -> dict[str, float]:
    """Of giving a ribbon a new page, of showing it another's, and of taking it back; access is set once a run."""

    def together(*calls: str) -> float:
        return round(sum(cost[call] for call in calls) / 1e3 / size, 4)

    run_share = {name: cost[name] / num_pages for name in ("set_access_run", "alias_set_access_run")}
    return {
        "map_us_per_mib": round(together("map") + run_share["set_access_run"] / 1e3 / size, 4),
        "alias_us_per_mib": round(together("alias_map") + run_share["alias_set_access_run"] / 1e3 / size, 4),
        "unmap_us_per_mib": together("unmap"),
        "copy_us_per_mib": together("copy_page"),
    }
