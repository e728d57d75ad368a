"""The same work on one shard and on several: what dealing a model out costs or gains where all of them share one machine.

    python benchmarks/shards.py [--shards 1 2] [--shape 120m] [--concurrency 1 8 32]

Without `--shape` it serves the bundled model. Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from load import report
from load.generator import Workload, figures, make_prompts, run
from load.served import DEMO_MODEL, Served, available_binary
from model_tokenizer import Prompts
from models import SHAPES, make_model

WARM_UP = Workload(prompt_tokens=64, output_tokens=16, concurrency=2, requests=4)
SHOWN = ("output_tokens_per_second", "ttft_p50_ms", "tpot_p50_ms", "tpot_p99_ms")


def main() -> None:
    """Measures every number of shards, one server after the other."""
    arguments = parse()
    model = make_model(arguments.shape) if arguments.shape else DEMO_MODEL
    loads = [
        Workload(arguments.prompt_tokens, arguments.output_tokens, clients, arguments.waves * clients)
        for clients in arguments.concurrency
    ]
    record: report.Record = {"name": f"shards-{arguments.shape or 'bundled'}", "machine": report.machine()}
    record["cells"] = [cell for shards in arguments.shards for cell in measured(model, shards, loads)]
    rows = [[cell["shards"], cell["clients"], *(cell[name] for name in SHOWN)] for cell in record["cells"]]
    text = report.table(["shards", "clients", *SHOWN], rows)
    report.finish(record, text, save_it=not arguments.no_save)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shape", choices=SHAPES, help="a model with random weights in place of the bundled one")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--waves", type=int, default=3, help="requests of a cell for each of its clients")
    parser.add_argument("--no-save", action="store_true", help="leave results/ and LOG.md alone")
    return parser.parse_args()


def measured(model: Path, shards: int, loads: list[Workload]) -> list[report.Record]:
    """Figures of every load on one server."""
    cells = []
    with Served(model, "--num-shard", str(shards), binary=available_binary()) as served:
        asyncio.run(run(served.base, WARM_UP, make_prompts(Prompts(model), WARM_UP)))
        for load in loads:
            print(f"{shards} shards: {load.requests} requests, {load.concurrency} at a time ...", file=sys.stderr)
            texts = make_prompts(Prompts(model, seed=load.concurrency), load)
            answers, wall = asyncio.run(run(served.base, load, texts))
            cells.append({"shards": shards, "clients": load.concurrency} | figures(answers, wall))
    return cells


if __name__ == "__main__":
    main()
