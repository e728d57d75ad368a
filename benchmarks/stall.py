"""A long prompt against running streams: how long do their tokens pause, with default settings?

    python benchmarks/stall.py [--shape 120m] [--streams 16] [--long-tokens 3000]

Prints a table; the last line is one JSON object. The step log says what a step cost; the clients say what they saw.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import aiohttp
from load import report
from load.claims import Claim
from load.client import Answer, generate_stream, session
from load.served import Served, available_binary
from load.step_log import Step, read_steps
from model_tokenizer import Prompts
from models import SHAPES, make_model

PROMPT_TOKENS = 64
OUTPUT_TOKENS = 512
SETTLED_TOKENS = 24  # of every stream, before the long prompt comes
LONG_OUTPUT_TOKENS = 8


@dataclass
class Seen:
    """What the clients saw: the streams' answers, and when the long prompt was sent and gave its first token."""

    streams: list[Answer]
    sent: float
    first_token: float

    def gaps(self) -> list[float]:
        """Seconds between neighbouring tokens of the streams, for pairs that touch the time of the long prompt."""
        found = []
        for answer in self.streams:
            pairs = zip(answer.times, answer.times[1:], strict=False)
            found += [later - earlier for earlier, later in pairs if later >= self.sent and earlier <= self.first_token]
        return found


def main() -> None:
    """Runs it once and judges it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="120m")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--long-tokens", type=int, default=3_000)
    parser.add_argument("--no-save", action="store_true", help="leave results/ and LOG.md alone")
    arguments = parser.parse_args()
    model = make_model(arguments.shape)
    with Served(model, binary=available_binary()) as served:
        steps_before = len(read_steps(served.step_log))
        seen = asyncio.run(watch(served.base, Prompts(model), arguments.streams, arguments.long_tokens))
        steps = read_steps(served.step_log)[steps_before:]
    record = {"name": f"stall-{arguments.shape}", "machine": report.machine()} | judged(seen, steps, arguments.streams)
    text = report.table(
        ["figure", "value"], [[key, value] for key, value in record.items() if not isinstance(value, dict)]
    )
    claims = [
        Claim("largest gap ÷ median chunk step", record["gap_per_chunk_step"]),
        Claim("median chunk step ÷ median decode step", record["chunk_per_decode_step"]),
    ]
    report.finish(record, text, save_it=not arguments.no_save, claims=claims)


async def watch(base: str, prompts: Prompts, streams: int, long_tokens: int) -> Seen:
    """Starts the streams, then the long prompt once all of them run, and reads everything to its end."""
    settled = asyncio.Event()
    running: set[int] = set()

    def count(answer: Answer) -> None:
        if len(answer.times) == SETTLED_TOKENS:
            running.add(id(answer))
        if len(running) == streams:
            settled.set()

    async with session() as client, asyncio.TaskGroup() as group:
        short = [
            group.create_task(ask(client, base, prompts.text(PROMPT_TOKENS), OUTPUT_TOKENS, count))
            for _ in range(streams)
        ]
        await asyncio.wait_for(settled.wait(), 120)
        sent = time.perf_counter()
        long = await ask(client, base, prompts.text(long_tokens), LONG_OUTPUT_TOKENS)
        if any(task.done() for task in short):
            raise RuntimeError(
                "a stream ended before the long prompt's first token: nothing was measured; use more output tokens"
            )
    return Seen([task.result() for task in short], sent, long.times[0])


async def ask(client: aiohttp.ClientSession, base: str, text: str, tokens: int, on_token: Any = None) -> Answer:
    """One stream of exact length. Raises when it fails."""
    body = {"inputs": text, "parameters": {"max_new_tokens": tokens, "ignore_eos": True, "details": True}}
    answer = await generate_stream(client, base, body, on_token)
    if answer.error is not None or len(answer.token_ids) != tokens:
        raise RuntimeError(f"a stream ended with {len(answer.token_ids)} of {tokens} tokens: {answer.error}")
    return answer


def judged(seen: Seen, steps: list[Step], streams: int) -> dict[str, Any]:
    """Figures in milliseconds. Only steps that carry all streams count."""
    first_full = next(number for number, step in enumerate(steps) if step.decode_rows >= streams)
    full = [step for step in steps[first_full:] if step.decode_rows >= streams]
    chunk = median(step.seconds for step in full if step.chunk_rows) * 1e3
    decode = median(step.seconds for step in full if not step.chunk_rows) * 1e3
    gap = max(seen.gaps()) * 1e3
    return {
        "streams": streams,
        "largest_gap_ms": gap,
        "median_gap_ms": median(seen.gaps()) * 1e3,
        "chunk_step_median_ms": chunk,
        "decode_step_median_ms": decode,
        "chunk_steps": sum(bool(step.chunk_rows) for step in full),
        "long_prompt_ttft_ms": (seen.first_token - seen.sent) * 1e3,
        "gap_per_chunk_step": gap / chunk,
        "chunk_per_decode_step": chunk / decode,
    }


if __name__ == "__main__":
    main()
