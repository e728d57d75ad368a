"""What waiting costs: how fast a full server says no, and how long a short request waits behind a flood of long ones.

    python benchmarks/queueing.py [--shape 120m] [--flood 24] [--probes 20]

Prints a table; the last line is one JSON object. One chunk is the median step that carries a chunk during the flood.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
from load import report
from load.claims import Claim
from load.client import Answer, generate_stream, session
from load.served import DEMO_MODEL, Served, available_binary
from load.step_log import Step, read_steps
from model_tokenizer import Prompts
from models import SHAPES, make_model

FULL_HOUSE = 4
REFUSALS = 300
LONG_STREAM_TOKENS = 3_500
LONG_TOKENS, LONG_OUTPUT = 3_000, 8
PROBE_TOKENS, PROBE_OUTPUT = 100, 4
PAUSE_SECONDS = 0.5
IDLE_TIMES = 2.0

Record = dict[str, Any]


@dataclass(frozen=True)
class Sender:
    """Who asks, and with which prompts. `tenant` is the API key that the server sees; None sends none."""

    served: Served
    prompts: Prompts
    tenant: str | None = None

    async def ask(self, client: aiohttp.ClientSession, tokens: int, output: int) -> Answer:
        """One stream of exact length. Raises RuntimeError when it fails."""
        body = {"inputs": self.prompts.text(tokens), "parameters": {"max_new_tokens": output, "ignore_eos": True}}
        headers = {"Authorization": f"Bearer {self.tenant}"} if self.tenant else None
        answer = await generate_stream(client, self.served.base, body, headers=headers)
        if answer.error is not None or len(answer.token_ids) != output:
            raise RuntimeError(f"a stream ended with {len(answer.token_ids)} of {output} tokens: {answer.error}")
        return answer


def main() -> None:
    """Measures both and reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="120m")
    parser.add_argument("--flood", type=int, default=24, help="clients that keep sending long prompts")
    parser.add_argument("--probes", type=int, default=20)
    parser.add_argument("--no-save", action="store_true", help="leave results/ and LOG.md alone")
    arguments = parser.parse_args()
    record: Record = {"name": "queue", "machine": report.machine(), "arguments": vars(arguments)}
    with Served(None, "--max-concurrent-requests", str(FULL_HOUSE), binary=available_binary()) as served:
        record["refusal"] = asyncio.run(refusals(served))
    model = make_model(arguments.shape)
    with Served(model, binary=available_binary()) as served:
        record["flood"] = flooded(served, model, arguments.flood, arguments.probes)
    claims = [Claim("429 in a full house, p50 ms", record["refusal"]["p50_ms"])]
    claims += [
        Claim(f"{name}: TTFT p50 ÷ (2 idle + a chunk)", case["ttft_p50_ms"] / case["bound_ms"])
        for name, case in record["flood"].items()
        if name != "idle"
    ]
    report.finish(record, tables(record), save_it=not arguments.no_save, claims=claims)


async def refusals(served: Served) -> Record:
    """Times answers of 429 while the house is full, one after the other on a connection that stays."""
    sender = Sender(served, Prompts(DEMO_MODEL))
    times: list[float] = []
    async with session() as client, held(client, sender, FULL_HOUSE):
        while len(times) < REFUSALS:
            begin = time.perf_counter()
            body = {"inputs": "no room", "parameters": {"max_new_tokens": 1}}
            async with client.post(f"{served.base}/generate", json=body) as response:
                await response.read()
            if response.status != 429:
                raise RuntimeError(f"a full house answered {response.status}")
            times.append((time.perf_counter() - begin) * 1e3)
    times.sort()
    return {
        "answers": len(times),
        "p50_ms": median(times),
        "p99_ms": times[int(0.99 * len(times))],
        "max_ms": times[-1],
    }


@contextlib.asynccontextmanager
async def held(client: aiohttp.ClientSession, sender: Sender, streams: int) -> AsyncIterator[None]:
    """Keeps so many places taken inside the block, by streams that are dropped at its end."""
    started = asyncio.Semaphore(0)

    async def hold() -> None:
        body = {
            "inputs": sender.prompts.text(8),
            "parameters": {"max_new_tokens": LONG_STREAM_TOKENS, "ignore_eos": True},
        }
        seen: list[int] = []

        def first(answer: Answer) -> None:  # noqa: ARG001
            if not seen:
                seen.append(1)
                started.release()

        while True:
            await generate_stream(client, sender.served.base, body, first)

    tasks = [asyncio.create_task(hold()) for _ in range(streams)]
    for _ in tasks:
        await asyncio.wait_for(started.acquire(), 120)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def flooded(served: Served, model: Path, clients: int, probes: int) -> Record:
    """Time to first token of short requests: alone, behind a flood of their own tenant, and of another one."""
    prompts = Prompts(model, seed=1)
    probe = Sender(served, prompts, "short")
    found: Record = {"idle": asyncio.run(idle(probe, probes))}
    for name, tenant in (("same tenant", "short"), ("other tenant", "long")):
        before = len(read_steps(served.step_log))
        flood = Sender(served, Prompts(model, seed=2), tenant)
        case = asyncio.run(behind(flood, clients, probe, probes))
        chunk = chunk_ms(read_steps(served.step_log)[before:])
        bound = IDLE_TIMES * found["idle"]["ttft_p50_ms"] + chunk
        found[name] = case | {"chunk_step_ms": chunk, "bound_ms": bound}
    return found


async def idle(probe: Sender, probes: int) -> Record:
    """Probes one after the other on a server that does nothing else."""
    async with session() as client:
        await probe.ask(client, PROBE_TOKENS, PROBE_OUTPUT)  # warm
        return first_tokens([await probe.ask(client, PROBE_TOKENS, PROBE_OUTPUT) for _ in range(probes)])


async def behind(flood: Sender, clients: int, probe: Sender, probes: int) -> Record:
    """Probes with a pause between them, once every client of the flood has sent and the first has been answered."""
    answered = asyncio.Event()

    async def keep_asking() -> None:
        while True:
            await flood.ask(client, LONG_TOKENS, LONG_OUTPUT)
            answered.set()

    async with session() as client, asyncio.TaskGroup() as group:
        flooding = [group.create_task(keep_asking()) for _ in range(clients)]
        await asyncio.wait_for(answered.wait(), 120)
        answers = []
        for _ in range(probes):
            await asyncio.sleep(PAUSE_SECONDS)
            answers.append(await probe.ask(client, PROBE_TOKENS, PROBE_OUTPUT))
        for task in flooding:
            task.cancel()
    return first_tokens(answers)


def first_tokens(answers: list[Answer]) -> Record:
    """Median and largest time to first token."""
    found = sorted(answer.first_token_seconds * 1e3 for answer in answers)
    return {"probes": len(found), "ttft_p50_ms": median(found), "ttft_max_ms": found[-1]}


def chunk_ms(steps: list[Step]) -> float:
    """Median time of a step that carries a chunk."""
    return median(step.seconds for step in steps if step.chunk_rows) * 1e3


def tables(record: Record) -> str:
    """The refusals, then a row a case of the flood."""
    refusal = record["refusal"]
    headings = ["a 100-token request", "probes", "TTFT p50 ms", "max ms", "a chunk ms", "2 idle + a chunk, ms"]
    rows = [[name, *case.values()] + [None] * (5 - len(case)) for name, case in record["flood"].items()]
    return "\n\n".join(
        [
            report.table(["429 in a full house", *list(refusal)[1:]], [list(refusal.values())]),
            report.table(headings, rows),
        ]
    )


if __name__ == "__main__":
    main()
