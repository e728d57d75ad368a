"""Twice as much work as the KV memory can hold at its worst: nothing may fail, and nearly nothing may slow down.

    python benchmarks/overload.py [--seconds 300] [--base-seconds 60]

A closed loop on the bundled model in float32. Every request may grow to WORST_TOKENS, and does. `in capacity` is half the clients
on the same server, `roomy` all clients on a server with twice the memory. Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "integration-tests" / "reference"))

from asking import Ask, as_run, eos_ids  # noqa: E402
from load import report  # noqa: E402
from load.claims import Claim  # noqa: E402
from load.client import Answer, generate_stream  # noqa: E402
from load.closed_loop import closed_loop, for_seconds  # noqa: E402
from load.kv import stride_bytes  # noqa: E402
from load.metrics_text import total  # noqa: E402
from load.served import DEMO_MODEL, Served, available_binary  # noqa: E402
from load.usage import wait_released  # noqa: E402
from margin import Reference, Run  # noqa: E402
from model_tokenizer import Prompts  # noqa: E402
from scores import Parameters  # noqa: E402

CLIENTS = 64
WORST_TOKENS = 512
FLOAT32_BYTES = 4
OVERCOMMIT = 2
CHECKED_REQUESTS = 100
COUNTED = ("ribbon_preemptions_total", "ribbon_evictions_total", "ribbon_prefix_hit_tokens_total")

Record = dict[str, Any]


def memory_flags(overcommit: int = OVERCOMMIT) -> tuple[str, ...]:
    """A server whose KV memory holds the clients' worst cases divided by `overcommit`."""
    size = CLIENTS * WORST_TOKENS * stride_bytes(DEMO_MODEL, FLOAT32_BYTES) // overcommit
    return ("--dtype", "float32", "--kv-memory", str(size), "--max-total-tokens", str(WORST_TOKENS))


def endless_asks(prompts: Prompts, seed: int) -> Iterator[Ask]:
    """Requests that all reach their worst case; half of them sampled."""
    rng = random.Random(seed)
    while True:
        prompt_tokens, drawn = rng.randint(50, 300), rng.randrange(2**32)
        parameters = Parameters(do_sample=True, temperature=0.8, seed=drawn) if drawn % 2 else Parameters()
        yield Ask(prompts.text(prompt_tokens), WORST_TOKENS - prompt_tokens, parameters, stops_at_eos=False)


@dataclass
class Pressed:
    """What a closed loop of some seconds gave, whole answers all."""

    runs: list[Run] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    first_token_seconds: list[float] = field(default_factory=list)
    wall_seconds: float = 0.0

    def tokens_per_second(self, seconds: float) -> float:
        """Tokens that arrived within so many seconds of the first one, per second."""
        begin = min(self.times)
        return sum(moment < begin + seconds for moment in self.times) / seconds

    def sample(self, number: int, seed: int) -> list[Run]:
        """Random answers to judge."""
        return random.Random(seed).sample(self.runs, min(number, len(self.runs)))


async def press(base: str, clients: int, seconds: float, asks: Iterator[Ask], prompts: Prompts) -> Pressed:
    """Sends requests for so many seconds and reads each to its end. Raises AssertionError when one is not whole."""
    found, eos = Pressed(), eos_ids(DEMO_MODEL)

    async def serve(client: aiohttp.ClientSession, ask: Ask) -> None:
        answer: Answer = await generate_stream(client, base, ask.body())
        found.runs.append(as_run(ask, answer, prompts, eos, f"request {len(found.runs)}"))
        found.times += answer.times
        found.first_token_seconds.append(answer.first_token_seconds)

    found.wall_seconds = await closed_loop(clients, for_seconds(seconds, asks), serve)
    return found


def main() -> None:
    """Measures the three runs one after the other and reports them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--base-seconds", type=float, default=60.0)
    parser.add_argument("--no-save", action="store_true", help="leave results/ and LOG.md alone")
    arguments = parser.parse_args()
    record: Record = {"name": "overload", "machine": report.machine(), "arguments": vars(arguments)}
    record["runs"] = runs = {}
    with Served(None, *memory_flags(), binary=available_binary()) as served:
        # Half of it before and half after, so that a machine that gets slower or faster meanwhile counts little.
        before, _ = measured(served, CLIENTS // OVERCOMMIT, arguments.base_seconds / 2, seed=1)
        overload, pressed = measured(served, CLIENTS, arguments.seconds, seed=2)
        after, _ = measured(served, CLIENTS // OVERCOMMIT, arguments.base_seconds / 2, seed=5)
        runs |= {"in capacity": mean_of(before, after), "overload": overload}
    with Served(None, *memory_flags(overcommit=1), binary=available_binary()) as served:
        runs["roomy"], _ = measured(served, CLIENTS, arguments.base_seconds, seed=3)
    verdict = Reference(DEMO_MODEL).judge(pressed.sample(CHECKED_REQUESTS, seed=4))
    record |= {"judged_tokens": verdict.tokens, "margin_cases": len(verdict.margin_cases), "wrong": verdict.wrong[:10]}
    rate = {name: run["output_tokens_per_second"] for name, run in runs.items()}
    record["ratio"] = {name: rate["overload"] / rate[name] for name in ("in capacity", "roomy")}
    claims = [
        Claim("overload: share of the run in capacity", record["ratio"]["in capacity"]),
        Claim("wrong tokens", len(verdict.wrong)),
        Claim("margin cases beyond the allowed", max(0, len(verdict.margin_cases) - verdict.limit)),
    ]
    report.finish(record, tables(record), save_it=not arguments.no_save, claims=claims)


def measured(served: Served, clients: int, seconds: float, seed: int) -> tuple[Record, Pressed]:
    """One closed loop: its figures, and its answers."""
    print(f"{clients} clients for {seconds:g} s ...", file=sys.stderr)
    prompts = Prompts(DEMO_MODEL, seed=seed)
    before = served.get("/metrics")
    pressed = asyncio.run(press(served.base, clients, seconds, endless_asks(prompts, seed), prompts))
    released = wait_released(served)
    after = served.get("/metrics")
    first = sorted(pressed.first_token_seconds)
    return {
        "clients": clients,
        "seconds": seconds,
        "requests": len(pressed.runs),
        "output_tokens_per_second": pressed.tokens_per_second(seconds),
        "ttft_p50_ms": first[len(first) // 2] * 1e3,
        "ttft_max_ms": first[-1] * 1e3,
        "released_after_seconds": released,
        **{name: total(after, name) - total(before, name) for name in COUNTED},
    }, pressed


def mean_of(one: Record, other: Record) -> Record:
    """The mean of two runs' figures."""
    return {name: (value + other[name]) / 2 for name, value in one.items()}


def tables(record: Record) -> str:
    """A row a run, then the verdict."""
    runs = record["runs"]
    table = report.table(["run", *runs["overload"]], [[name, *run.values()] for name, run in runs.items()])
    ratios = ", ".join(f"{value:.0%} of the {name} run" for name, value in record["ratio"].items())
    judged = (
        f"{record['judged_tokens']} tokens judged, {record['margin_cases']} margin cases, {len(record['wrong'])} wrong."
    )
    return f"{table}\n\nUnder overload: {ratios}. {judged}"


if __name__ == "__main__":
    main()
