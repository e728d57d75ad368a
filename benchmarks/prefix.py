"""What sharing prefixes is worth: hit rate against the possible one, and speed with the cache on and off, interleaved in one run.

    python benchmarks/prefix.py [--shape 120m] [--rounds 3] [--only shared chats region]

`shared`: prompts of 1,024 common and 64 own tokens. `chats`: conversations of several turns on the bundled model,
under a system message of 1,024 tokens that a round's conversations have in common. `region`: the cost of showing a prefix in another
slot, without a server. Prints tables; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from kernels.prefix import region_figures
from load import report
from load.claims import Claim
from load.client import Answer, generate_stream
from load.closed_loop import closed_loop
from load.generator import Item, check, send
from load.metrics_text import total
from load.prefixes import Possible
from load.served import DEMO_MODEL, Served, available_binary
from model_tokenizer import Prompts
from models import SHAPES, make_model
from transformers import AutoTokenizer

COMMON_TOKENS, OWN_TOKENS, OUTPUT_TOKENS = 1_024, 64, 32
CHATS, TURNS, ANSWER_TOKENS = 16, 6, 48
WAYS = {"on": ("--prefix-caching", "true"), "off": ("--prefix-caching", "false")}
PARTS = ("shared", "chats", "region")

Record = dict[str, Any]


@dataclass
class Tally:
    """One way's sum over its rounds."""

    possible: Possible = field(default_factory=Possible)
    hit_tokens: float = 0.0
    output_tokens: int = 0
    seconds: float = 0.0
    first_token_seconds: list[float] = field(default_factory=list)

    def took(self, answer: Answer) -> None:
        """Counts an answer."""
        self.output_tokens += len(answer.token_ids)
        self.first_token_seconds.append(answer.first_token_seconds)

    def figures(self) -> dict[str, float]:
        """Rates and medians."""
        first = sorted(self.first_token_seconds)
        return {
            "output_tokens_per_second": self.output_tokens / self.seconds,
            "ttft_p50_ms": first[len(first) // 2] * 1e3,
            "prompt_tokens": self.possible.prompt_tokens,
            "possible_hit_tokens": self.possible.hit_tokens,
            "hit_tokens": self.hit_tokens,
            "share_of_possible": self.hit_tokens / max(1, self.possible.hit_tokens),
        }


class Round:
    """One way's requests of one round: texts in, tally out."""

    def __init__(self, served: Served, prompts: Prompts, tally: Tally) -> None:
        self._served, self._prompts, self._tally = served, prompts, tally

    async def shared(self, texts: list[str], clients: int) -> None:
        """Prompts of equal length with a common front."""
        items = [Item(text, COMMON_TOKENS + OWN_TOKENS, OUTPUT_TOKENS) for text in texts]

        async def serve(client: aiohttp.ClientSession, item: Item) -> None:
            ids = self._submit(item.text)
            answer = await send(client, self._served.base, item)
            check(answer, item)
            self._ended(ids, answer)

        await self._measured(lambda: closed_loop(clients, items, serve))

    async def chats(self, system: str, chats: list[list[str]], render: Callable[[list[dict[str, str]]], str]) -> None:
        """Conversations side by side under one system message; each turn sends the whole conversation so far."""

        async def serve(client: aiohttp.ClientSession, questions: list[str]) -> None:
            messages = [{"role": "system", "content": system}]
            for question in questions:
                messages.append({"role": "user", "content": question})
                answer = await self._turn(client, render(messages))
                messages.append({"role": "assistant", "content": answer.text or ""})

        await self._measured(lambda: closed_loop(len(chats), chats, serve))

    async def _turn(self, client: aiohttp.ClientSession, text: str) -> Answer:
        ids = self._submit(text)
        body = {"inputs": text, "parameters": {"max_new_tokens": ANSWER_TOKENS, "details": True}}
        answer = await generate_stream(client, self._served.base, body)
        if answer.error is not None or answer.input_length != len(ids):
            raise RuntimeError(f"a turn of {len(ids)} tokens was answered {answer.status}, {answer.error}")
        self._ended(ids, answer)
        return answer

    def _submit(self, text: str) -> list[int]:
        ids = self._prompts.ids(text)
        self._tally.possible.submit(ids)
        return ids

    def _ended(self, ids: list[int], answer: Answer) -> None:
        self._tally.possible.generated(ids, answer.token_ids)
        self._tally.took(answer)

    async def _measured(self, work: Callable[[], Any]) -> None:
        before = hit_tokens(self._served)
        self._tally.seconds += await work()
        self._tally.hit_tokens += hit_tokens(self._served) - before


def hit_tokens(served: Served) -> float:
    """Prompt tokens that the cache has given so far."""
    return total(served.get("/metrics"), "ribbon_prefix_hit_tokens_total")


def main() -> None:
    """Measures the parts asked for and reports them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="120m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=48, help="of `shared`, a round and way")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--no-save", action="store_true", help="leave results/ and LOG.md alone")
    arguments = parser.parse_args()
    record: Record = {"name": "prefix", "machine": report.machine(), "arguments": vars(arguments)}
    if "shared" in arguments.only:
        record["shared"] = shared_part(arguments)
    if "chats" in arguments.only:
        record["chats"] = chats_part(arguments.rounds)
    if "region" in arguments.only:
        record["region"] = region_figures()
    report.finish(record, tables(record), save_it=not arguments.no_save, claims=claims(record))


def shared_part(arguments: argparse.Namespace) -> Record:
    """Each round has a common front of its own, so that computing it once is part of the measurement."""
    model = make_model(arguments.shape)
    prompts = Prompts(model, seed=1)

    async def one(round_: Round) -> None:
        front = prompts.text(COMMON_TOKENS)
        texts = [prompts.text(COMMON_TOKENS + OWN_TOKENS, front) for _ in range(arguments.requests)]
        await round_.shared(texts, arguments.concurrency)

    return interleaved(model, arguments.rounds, one, warm=f"{prompts.text(64)}")


def chats_part(rounds: int) -> Record:
    """New conversations in each round."""
    tokenizer, rng = AutoTokenizer.from_pretrained(DEMO_MODEL), random.Random(2)
    prompts = Prompts(DEMO_MODEL, seed=2)

    def render(messages: list[dict[str, str]]) -> str:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return str(text)

    async def one(round_: Round) -> None:
        chats = [[prompts.text(rng.randint(20, 120)) for _ in range(TURNS)] for _ in range(CHATS)]
        await round_.chats(prompts.text(COMMON_TOKENS), chats, render)

    return interleaved(DEMO_MODEL, rounds, one, warm="hello")


def interleaved(model: Path, rounds: int, one: Callable[[Round], Any], warm: str) -> Record:
    """Servers with the cache on and off side by side, in turns; their figures and the ratio of their speeds."""
    prompts, tallies = Prompts(model), {way: Tally() for way in WAYS}
    with ExitStack() as stack:
        binary = available_binary()
        servers = {way: stack.enter_context(Served(model, *flags, binary=binary)) for way, flags in WAYS.items()}
        for served in servers.values():
            asyncio.run(Round(served, prompts, Tally()).chats("", [[warm]], lambda messages: messages[-1]["content"]))
        for number in range(rounds):
            for way in list(WAYS)[:: 1 if number % 2 == 0 else -1]:
                asyncio.run(one(Round(servers[way], prompts, tallies[way])))
    found = {way: tally.figures() for way, tally in tallies.items()}
    ratio = found["on"]["output_tokens_per_second"] / found["off"]["output_tokens_per_second"]
    return {**found, "speed_ratio": ratio}


def claims(record: Record) -> list[Claim]:
    """Of the parts that were measured."""
    found = []
    for part in ("shared", "chats"):
        if part in record:
            found.append(Claim(f"{part}: share of the possible hits", record[part]["on"]["share_of_possible"]))
            found.append(Claim(f"{part}: times the speed without the cache", record[part]["speed_ratio"]))
    if "region" in record:
        found.append(Claim("showing a prefix, µs", max(row["share_us"] for row in record["region"])))
    return found


def tables(record: Record) -> str:
    """One table a part."""
    parts = []
    for part in ("shared", "chats"):
        if part in record:
            figures = {way: record[part][way] for way in WAYS}
            rows = [[part, way, *found.values()] for way, found in figures.items()]
            parts.append(report.table(["work", "cache", *figures["on"]], rows))
            parts.append(f"{part}: {record[part]['speed_ratio']:.2f} times as fast with the cache.")
    if "region" in record:
        parts.append(report.table(list(record["region"][0]), [list(row.values()) for row in record["region"]]))
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
