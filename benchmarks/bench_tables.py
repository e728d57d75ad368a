"""The tables and claims of a bench record. Knows the record's keys; measures nothing."""

from __future__ import annotations

from typing import Any

from load.claims import Claim
from load.report import table

Record = dict[str, Any]

RATES = {
    "tokens/s": "output_tokens_per_second",
    "requests/s": "requests_per_second",
    "TTFT p50 ms": "ttft_p50_ms",
    "p99": "ttft_p99_ms",
    "per token p50 ms": "tpot_p50_ms",
    "p99 ": "tpot_p99_ms",
}
# Of the machine on which other servers were measured: its torch multiplied 345 GFLOP/s. Machines with AMX have several times that, so
# the table also shows each server's share of the limit of the machine at hand.
PEERS_GEMM_TOKENS_PER_SECOND = 344.0
SERVERS = ("ribbon", "transformers_generate", "transformers_continuous")


def tables(record: Record) -> list[str]:
    """All tables that the record has figures for."""
    cells = record["cells"]
    found = [rates(cells), costs(cells), ratios(cells), shares(cells)]
    if "startup_seconds" in record:
        found.append(f"Ribbon was healthy {record['startup_seconds']:.1f} s after its start.")
    return [text for text in found if text] + ([machine_line(record["limits"])] if "limits" in record else [])


def rates(cells: Record) -> str:
    """What clients saw of each server."""
    rows = [
        [clients, server, *(cell[server].get(key) for key in RATES.values())]
        for clients, cell in cells.items()
        for server in SERVERS
        if server in cell
    ]
    return table(["clients", "server", *RATES], rows)


def costs(cells: Record) -> str:
    """What Ribbon's processes used; empty when it did not run."""
    rows = [[clients, *cost_row(cell["ribbon"])] for clients, cell in cells.items() if "ribbon" in cell]
    headings = [
        "clients",
        "router CPU s",
        "shard CPU s",
        "router MB",
        "shard MB",
        "sum MB",
        "KV waste max",
        "idle us",
        "idle % of a step",
    ]
    return table(headings, rows) if rows else ""


def cost_row(found: Record) -> list[object]:
    """One row of the costs."""
    router, shard, launcher = (found[f"{who}_pss_bytes"] / 1e6 for who in ("router", "shard", "launcher"))
    total = router + shard + launcher
    idle = found["idle"]
    gaps = [idle["median_microseconds"], idle["share_of_step"] * 100] if idle else [None, None]
    return [found["router_cpu_seconds"], found["shard_cpu_seconds"], router, shard, total, found["kv_waste_max"], *gaps]


def ratios(cells: Record) -> str:
    """Ribbon over each way of transformers; empty when only one side ran."""
    rows = [[clients, name, value] for clients, cell in cells.items() for name, value in cell["ratios"].items()]
    return table(["clients", "ratio", "value"], rows) if rows else ""


def shares(cells: Record) -> str:
    """Each server as a share of what the machine allows; empty when that was not measured."""
    rows = [
        [clients, name, share["tokens_per_second"], *(share.get(server) for server in SERVERS)]
        for clients, cell in cells.items()
        for name, share in cell["shares"].items()
    ]
    return table(["clients", "limit", "tokens/s", "Ribbon's share", "generate's", "continuous'"], rows) if rows else ""


def claims(cells: Record) -> list[Claim]:
    """Of the cells and servers that were measured."""
    found = [*ratio_claims(cells)]
    full = cells.get("32", {})
    if "ribbon" in full:
        share = full["ribbon"]["output_tokens_per_second"] / PEERS_GEMM_TOKENS_PER_SECOND
        found.append(Claim("32 clients: share of the 344 tokens/s that were the peers' GEMM limit", share))
        idle = full["ribbon"]["idle"]
        found.append(Claim("32 clients: idle share of a step", idle["share_of_step"] if idle else float("nan")))
    own = [cell["ribbon"] for cell in cells.values() if "ribbon" in cell]
    if own:
        wastes = [cell["kv_waste_max"] for cell in own if cell["kv_waste_max"] is not None]
        found.append(Claim("largest KV waste of the bench", max(wastes, default=float("nan"))))
        found.append(Claim("memory of all processes, GB", max(memory_gigabytes(cell) for cell in own)))
    return found


def ratio_claims(cells: Record) -> list[Claim]:
    """Against transformers, where both of its ways ran."""
    ways = ("ribbon_to_transformers_generate", "ribbon_to_transformers_continuous")
    one, eight = ([cells.get(clients, {}).get("ratios", {}).get(way) for way in ways] for clients in ("1", "8"))
    found = []
    if None not in one:
        found.append(Claim("1 client: times the better way of transformers", min(one)))
    if None not in eight:
        found.append(Claim("8 clients: times batched generate of transformers", eight[0]))
        found.append(Claim("8 clients: times continuous batching of transformers", eight[1]))
    return found


def memory_gigabytes(found: Record) -> float:
    """Of router, shard and launcher."""
    return float(sum(found[f"{who}_pss_bytes"] for who in ("router", "shard", "launcher"))) / 1e9


def machine_line(limits: Record) -> str:
    """The machine in one sentence."""
    touched = limits["weight_bytes_per_token"] / 1e6
    return (
        f"This machine: bf16 GEMM {limits['gemm_gflops']:.0f} GFLOP/s, reads {limits['read_gigabytes_per_second']:.1f} GB/s "
        f"({limits['read_again_gigabytes_per_second']:.1f} GB/s rereading {touched:.0f} MB)."
    )
