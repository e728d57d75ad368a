"""Ribbon and transformers on the same prompts in one run, and both as a share of what the machine can do.

    python benchmarks/bench.py [--shape 120m] [--concurrency 1 8 32] [--only limits transformers ribbon] [--prompt-tokens 512]

Prints tables; the last line is one JSON object. Writes benchmarks/results/ and appends to benchmarks/LOG.md unless --no-save.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench_tables import claims, tables
from load import report
from load.generator import Workload, figures, make_prompts, run
from load.served import Served, available_binary
from load.step_log import idle_between, read_steps
from load.usage import Meter
from machine_limits import Limits
from model_tokenizer import Prompts
from models import SHAPES, make_model

HERE = Path(__file__).resolve().parent
PARTS = ("limits", "transformers", "ribbon")
SIDE_SECONDS = 400.0
ALONE_WAVES = 3  # requests at concurrency 1, where a single one is short and noisy
FEW_WAVES = 2

Record = dict[str, Any]


def main() -> None:
    """Measures the parts asked for and reports them."""
    arguments = parse()
    model = make_model(arguments.shape)
    record: Record = {"name": f"bench-{arguments.shape}", "machine": report.machine(), "arguments": vars(arguments)}
    workloads = {clients: workload(arguments, clients) for clients in arguments.concurrency}
    texts = {clients: make_prompts(Prompts(model, seed=clients), load) for clients, load in workloads.items()}
    if "limits" in arguments.only:
        record["limits"] = measured_limits(model, arguments.threads)
    cells: dict[int, Record] = {clients: {} for clients in workloads}
    if "transformers" in arguments.only:
        for way in arguments.ways:
            for clients, found in transformers_figures(model, way, texts, workloads, arguments.threads).items():
                cells[clients][f"transformers_{way}"] = found
    if "ribbon" in arguments.only:
        ribbon_figures(model, texts, workloads, cells, record, arguments.launcher_flags)
    record["cells"] = {
        str(clients): with_ratios(cell, workloads[clients], record.get("limits")) for clients, cell in cells.items()
    }
    lengths = f"{arguments.prompt_tokens} in / {arguments.output_tokens} out, bf16."
    claimed = claims(record["cells"]) if is_claimed(arguments) else []
    report.finish(record, "\n\n".join([lengths, *tables(record)]), save_it=not arguments.no_save, claims=claimed)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="120m")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--ways", choices=("generate", "continuous"), nargs="+", default=["generate", "continuous"])
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--shared-prefix", type=int, default=0, help="tokens that all prompts of a cell begin with")
    parser.add_argument(
        "--requests", type=int, help="requests of every cell (default: one to three times the concurrency)"
    )
    parser.add_argument("--route", choices=("generate_stream", "completions"), default="generate_stream")
    parser.add_argument("--threads", type=int, default=2, help="compute threads of transformers and of the limits")
    parser.add_argument("--no-save", action="store_true", help="leave results/ and LOG.md alone")
    parser.add_argument("launcher_flags", nargs="*", help="after `--`: more flags for Ribbon's launcher")
    return parser.parse_args()


def is_claimed(arguments: argparse.Namespace) -> bool:
    """The bounds are for this work and no other."""
    work = (arguments.shape, arguments.prompt_tokens, arguments.output_tokens, arguments.shared_prefix)
    return work == ("120m", 512, 128, 0) and not arguments.launcher_flags


def workload(arguments: argparse.Namespace, clients: int) -> Workload:
    """The work of one cell."""
    waves = ALONE_WAVES if clients == 1 else FEW_WAVES if clients <= 8 else 1
    return Workload(
        prompt_tokens=arguments.prompt_tokens,
        output_tokens=arguments.output_tokens,
        concurrency=clients,
        requests=arguments.requests or clients * waves,
        shared_prefix=arguments.shared_prefix,
        route=arguments.route,
    )


def measured_limits(model: Path, threads: int) -> Record:
    """machine_limits.py in a process of its own, so that its memory is gone afterwards."""
    print("limits of this machine ...", file=sys.stderr)
    output = side_process([str(HERE / "machine_limits.py"), str(model), "--threads", str(threads)], "")
    return dict(json.loads(output))


def side_process(arguments: list[str], text: str) -> str:
    """Last line that a Python program prints when it is given `text`."""
    done = subprocess.run(
        [sys.executable, *arguments], input=text, stdout=subprocess.PIPE, text=True, check=True, timeout=SIDE_SECONDS
    )
    return done.stdout.strip().splitlines()[-1]


def transformers_figures(
    model: Path, way: str, texts: dict[int, list[str]], workloads: dict[int, Workload], threads: int
) -> dict[int, dict[str, float]]:
    """Figures of every cell for one way; a cell of several waves gives their mean."""
    prompts = Prompts(model)
    waves, owners = [], []
    for clients, cell_texts in texts.items():
        ids = [prompts.ids(text) for text in cell_texts]
        cell_waves = [ids[start : start + clients] for start in range(0, len(ids), clients)]
        waves += cell_waves
        owners += [clients] * len(cell_waves)
    output_tokens = next(iter(workloads.values())).output_tokens
    job = {"model": str(model), "way": way, "threads": threads, "output_tokens": output_tokens, "waves": waves}
    found = json.loads(side_process([str(HERE / "transformers_side.py")], json.dumps(job)))
    return {
        clients: mean([one for one, owner in zip(found, owners, strict=True) if owner == clients]) for clients in texts
    }


def mean(records: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each figure."""
    return {name: sum(record[name] for record in records) / len(records) for name in records[0]}


def ribbon_figures(
    model: Path,
    texts: dict[int, list[str]],
    workloads: dict[int, Workload],
    cells: dict[int, Record],
    record: Record,
    flags: list[str],
) -> None:
    """Starts a server and fills each cell's `ribbon`."""
    with Served(model, *flags, binary=available_binary()) as served:
        asyncio.run(
            measure_cell(served, Workload(64, 16, 1, 2), make_prompts(Prompts(model), Workload(64, 16, 1, 2)))
        )  # warm
        for clients, load in workloads.items():
            print(f"ribbon: {load.requests} requests, {clients} at a time ...", file=sys.stderr)
            cells[clients]["ribbon"] = asyncio.run(measure_cell(served, load, texts[clients]))
        record["startup_seconds"] = served.startup_seconds
        record["info"] = json.loads(served.get("/info")) | {"model_id": model.name}


async def measure_cell(served: Served, load: Workload, texts: list[str]) -> Record:
    """Figures and cost of one workload."""
    steps_before = len(read_steps(served.step_log))
    async with Meter(served) as meter:
        answers, wall = await run(served.base, load, texts)
    cost = asdict(meter.cost)
    cost.pop("kv_samples")
    idle = idle_between(read_steps(served.step_log)[steps_before:], load.concurrency)
    return figures(answers, wall) | cost | {"idle": asdict(idle) if idle else None}


def with_ratios(cell: Record, load: Workload, limits: Record | None) -> Record:
    """The cell with ratios between the servers and shares of the machine's limits."""
    rate = {name: found["output_tokens_per_second"] for name, found in cell.items()}
    ratios = {
        f"ribbon_to_{name}": rate["ribbon"] / other
        for name, other in rate.items()
        if name != "ribbon" and "ribbon" in rate
    }
    shares: Record = {}
    if limits is not None:
        limit = Limits(**limits)
        lengths = (load.prompt_tokens, load.output_tokens)
        bounds = {name: getattr(limit, name)(*lengths) for name in ("gemm_limit_of_peers", "gemm_limit", "alone_limit")}
        shares = {
            name: {"tokens_per_second": bound} | {who: own / bound for who, own in rate.items()}
            for name, bound in bounds.items()
        }
    return cell | {"ratios": ratios, "shares": shares}


if __name__ == "__main__":
    main()
