"""How much of the KV memory is wasted while hundreds of requests of very different lengths run on the bundled model.

    python benchmarks/memory.py [--live 256] [--requests 1000] [--kv-memory 1536MiB]

Beside it what other allocators would waste on the same sequences. Prints tables; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
from load import report
from load.claims import Claim
from load.client import Answer, OnToken
from load.generator import Item, figures, run_items
from load.kv import KvFile, KvSample, read_kv, stride_bytes
from load.lengths import CAP, Lengths, lognormal_trace
from load.paging import wastes
from load.served import DEMO_MODEL, Served, available_binary
from load.usage import Meter, wait_released
from model_tokenizer import Prompts

STEADY_SHARE = 0.9  # of the live requests wanted, for a look to count as steady

Record = dict[str, Any]


@dataclass
class Look:
    """One moment: what the server said, and the tokens in KV memory of each request that has had its first token."""

    kv: KvSample
    tokens: np.ndarray


class Live:
    """Requests that have had their first token, as the client knows them."""

    def __init__(self) -> None:
        self._running: dict[int, tuple[int, Answer]] = {}

    def tokens(self) -> np.ndarray:
        """Tokens of each sequence in KV memory: all it knows but the newest."""
        return np.array([prompt + len(answer.token_ids) - 1 for prompt, answer in self._running.values()], np.int64)

    def watcher(self, prompt_tokens: int) -> OnToken:
        """A callback for the tokens of one request, which is forgotten after its last one."""

        def note(answer: Answer) -> None:
            self._running[id(answer)] = (prompt_tokens, answer)
            if answer.ended:
                del self._running[id(answer)]

        return note


def main() -> None:
    """Measures once and reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--live", type=int, default=256, help="requests at a time")
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--kv-memory", default="1536MiB")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-save", action="store_true", help="leave results/ and LOG.md alone")
    arguments = parser.parse_args()
    flags = ["--max-concurrent-requests", str(arguments.live), "--kv-memory", arguments.kv_memory]
    trace = lognormal_trace(arguments.requests, seed=arguments.seed)
    record: Record = {"name": "memory", "machine": report.machine(), "arguments": vars(arguments)}
    with Served(None, *flags, binary=available_binary()) as served:
        record |= asyncio.run(measure(served, trace, arguments.live))
    claims = [Claim("largest KV waste", record["waste_max"])]
    report.finish(record, tables(record), save_it=not arguments.no_save, claims=claims)


async def measure(served: Served, trace: list[Lengths], live: int) -> Record:
    """Runs the trace; waste by the server's account and by computation, and the account against the kernel."""
    prompts, watch, looks = Prompts(DEMO_MODEL), Live(), []
    items = [Item(prompts.text(one.prompt), one.prompt, one.output) for one in trace]
    meter = Meter(served, lambda: looks.append(Look(meter.cost.kv_samples[-1], watch.tokens())))
    async with meter:
        answers, wall = await run_items(served.base, items, live, lambda item: watch.watcher(item.prompt_tokens))
    wait_released(served)
    at_rest = read_kv(served.get("/metrics"), KvFile(served.shard().pid).resident_bytes())
    return figures(answers, wall) | judged(looks, live) | {"at_rest": vars(at_rest)}


def judged(looks: list[Look], live: int) -> Record:
    """Waste over the whole run and while nearly all of `live` requests had tokens."""
    steady = [look for look in looks if len(look.tokens) >= STEADY_SHARE * live]
    if not steady:
        raise RuntimeError(f"never {STEADY_SHARE:.0%} of {live} requests had tokens at once: use more requests")
    measured = [look.kv.waste for look in steady]
    stride = stride_bytes(DEMO_MODEL)
    computed = [wastes(look.tokens, CAP, stride, look.kv.page_bytes) for look in steady]
    means = {name: float(np.mean([one[name] for one in computed])) for name in computed[0]}
    return {
        "looks": len(looks),
        "steady_looks": len(steady),
        "mean_tokens_of_a_live_request": float(np.mean(np.concatenate([look.tokens for look in steady]))),
        "waste_mean": float(np.mean(measured)),
        "waste_max": max(measured),
        "waste_max_of_the_whole_run": max(look.kv.waste for look in looks),
        "computed_waste_mean": means,
        "disagreement_with_kernel_median": float(np.median([look.kv.disagreement for look in steady])),
    }


def tables(record: Record) -> str:
    """Waste by allocator, then the figures."""
    rows = [["Ribbon, measured", record["waste_mean"] * 100, record["waste_max"] * 100]]
    rows += [[name, value * 100, None] for name, value in record["computed_waste_mean"].items()]
    rows.sort(key=lambda row: row[1])
    rest = [[key, value] for key, value in record.items() if not isinstance(value, dict)]
    return "\n\n".join(
        [report.table(["allocator", "waste, mean %", "max %"], rows), report.table(["figure", "value"], rest)]
    )


if __name__ == "__main__":
    main()
