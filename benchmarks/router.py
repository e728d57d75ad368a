"""What the router itself costs: CPU per streamed token and per request, time to first token, memory; with a shard that answers at once.

    python benchmarks/router.py [--laps 32] [--no-save]

Prints tables; the last line is one JSON object. The clients count events and read nothing, on the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from statistics import quantiles
from typing import Any

from load import report
from load.bare_router import BareRouter
from load.claims import TGI_ROUTER, Claim
from load.raw_streams import Counted, run, stream_request
from load.served import DEMO_MODEL
from load.usage import cpu_seconds, pss_bytes
from model_tokenizer import Prompts

CLIENTS, PROMPTS, OUTPUT = (64, 256), (16, 512), 128
SHORT_REQUESTS, SHORT_CLIENTS = 2_000, 16
FLOOR_REQUESTS, FLOOR_OUTPUT = 300, 8
WORDS = " the red apple is on the green table and a bird sings in the garden"


Record = dict[str, Any]


class Bench:
    """A router under load, and the prompts for it."""

    def __init__(self, served: BareRouter, prompts: Prompts) -> None:
        self.served, self.prompts = served, prompts

    def phase(self, clients: int, requests: int, prompt_tokens: int, output_tokens: int) -> Record:
        """Streams of exact length, every prompt another; what they cost. Raises RuntimeError where one has another length."""
        texts = [self.prompts.text(prompt_tokens) for _ in range(requests)]
        bodies = [stream_request(self.served.address, text, output_tokens) for text in texts]
        router, shard = self.served.router, self.served.shard
        before = cpu_seconds(router), cpu_seconds(shard)
        answers, wall = asyncio.run(run(self.served.address, bodies, clients))
        check(answers, output_tokens)
        tokens = requests * output_tokens
        spent = cpu_seconds(router) - before[0]
        return {
            "clients": clients,
            "prompt_tokens": prompt_tokens,
            "output_tokens": output_tokens,
            "requests": requests,
            "tokens_per_second": tokens / wall,
            "router_cpu_ms_per_1000_tokens": spent * 1e6 / tokens,
            "router_cpu_ms_per_request": spent * 1e3 / requests,
            "shard_cpu_seconds": cpu_seconds(shard) - before[1],
            **first_events(answers),
            "router_pss_mb": pss_bytes(router.pid) / 1e6,
        }


def check(answers: Sequence[Counted], output_tokens: int) -> None:
    """Raises RuntimeError unless every stream had as many events as tokens."""
    wrong = [answer.events for answer in answers if answer.events != output_tokens]
    if wrong:
        raise RuntimeError(f"{len(wrong)} streams had other than {output_tokens} events: {wrong[:5]}")


def first_events(answers: Sequence[Counted]) -> Record:
    """Percentiles of the time to the first event."""
    cuts = quantiles([answer.first_event_seconds * 1e3 for answer in answers], n=100)
    return {"ttft_p50_ms": cuts[49], "ttft_p99_ms": cuts[98]}


def measure(laps: int) -> Record:
    """All phases, one router."""
    prompts = Prompts(DEMO_MODEL)
    most = str(max(CLIENTS))
    flags = ("--max-concurrent-requests", most, "--max-batch-size", most)
    with BareRouter(prompts.ids(WORDS)[1:], *flags) as served:
        bench = Bench(served, prompts)
        bench.phase(CLIENTS[0], 2 * CLIENTS[0], PROMPTS[0], OUTPUT)  # warm
        short = [bench.phase(SHORT_CLIENTS, SHORT_REQUESTS, prompt, 1) for prompt in PROMPTS]
        floor = bench.phase(1, FLOOR_REQUESTS, PROMPTS[0], FLOOR_OUTPUT)
        streams = [bench.phase(clients, laps * clients, prompt, OUTPUT) for clients in CLIENTS for prompt in PROMPTS]
    return {"streams": streams, "one_token": short, "floor": floor}


def judged(found: Record) -> Record:
    """The figures that are bounded, the worst of each."""
    return {
        "cpu_ms_per_1000_tokens": max(
            phase["router_cpu_ms_per_1000_tokens"] for phase in found["streams"] if phase["prompt_tokens"] == PROMPTS[0]
        ),
        "cpu_ms_per_request_512": found["one_token"][-1]["router_cpu_ms_per_request"],
        "ttft_floor_p50_ms": found["floor"]["ttft_p50_ms"],
        "memory_mb": max(phase["router_pss_mb"] for phase in found["streams"]),
    }


def tables(record: Record) -> str:
    """A row a phase, then figures beside TGI's."""
    phases = [*record["one_token"], record["floor"], *record["streams"]]
    beside = [[name, TGI_ROUTER[name], value] for name, value in record["judged"].items()]
    return "\n\n".join(
        [
            report.table(list(phases[0]), [list(phase.values()) for phase in phases]),
            report.table(["figure", "TGI", "found"], beside),
        ]
    )


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--laps", type=int, default=32, help="streams that each client has")
    parser.add_argument("--no-save", action="store_true", help="leave results/ and LOG.md alone")
    arguments = parser.parse_args()
    record: Record = {"name": "router", "machine": report.machine(), "arguments": vars(arguments)}
    record |= measure(arguments.laps)
    record["judged"] = judged(record)
    claims = [Claim(f"router: {name}", value) for name, value in record["judged"].items()]
    report.finish(record, tables(record), save_it=not arguments.no_save, claims=claims)


if __name__ == "__main__":
    main()
