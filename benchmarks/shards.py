"""The same work on one shard and on several: what dealing a model out costs or gains where all of them share one machine.

    python benchmarks/shards.py [--shards 1 2] [--stages 2] [--shape 120m] [--concurrency 1 8 32]

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
    """Measures every number of shards, then of stages with one shard each, one server after the other."""
    arguments = parse()
    model = make_model(arguments.shape) if arguments.shape else DEMO_MODEL
    loads = [
        Workload(arguments.prompt_tokens, arguments.output_tokens, clients, arguments.waves * clients)
        for clients in arguments.concurrency
    ]
    record: report.Record = {"name": f"shards-{arguments.shape or 'bundled'}", "machine": report.machine()}
    sizes = [(shards, 1) for shards in arguments.shards] + [(1, stages) for stages in arguments.stages]
    record["cells"] = [cell for size in sizes for cell in measured(model, size, loads)]
    names = ("shards", "stages", "clients", *SHOWN)
    text = report.table(list(names), [[cell[name] for name in names] for cell in record["cells"]])
    report.finish(record, text, save_it=not arguments.no_save)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--stages", type=int, nargs="*", default=[2], help="of a pipeline, one shard each")
    parser.add_argument("--shape", choices=SHAPES, help="a model with random weights in place of the bundled one")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--waves", type=int, default=3, help="requests of a cell for each of its clients")
    parser.add_argument("--no-save", action="store_true", help="leave results/ and LOG.md alone")
    return parser.parse_args()


def measured(model: Path, size: tuple[int, int], loads: list[Workload]) -> list[report.Record]:
    """Figures of every load on one server of so many shards in so many stages."""
    cells = []
    flags = ("--num-shard", str(size[0]), "--pipeline-parallel-size", str(size[1]))
    with Served(model, *flags, binary=available_binary()) as served:
        asyncio.run(run(served.base, WARM_UP, make_prompts(Prompts(model), WARM_UP)))
        for load in loads:
            print(
                f"{size[0]} shards, {size[1]} stages: {load.requests} requests, {load.concurrency} at a time ...",
                file=sys.stderr,
            )
            texts = make_prompts(Prompts(model, seed=load.concurrency), load)
            answers, wall = asyncio.run(run(served.base, load, texts))
            cells.append({"shards": size[0], "stages": size[1], "clients": load.concurrency} | figures(answers, wall))
    return cells


if __name__ == "__main__":
    main()
