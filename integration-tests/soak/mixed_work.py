"""Requests of every kind that can end in every way: shared and own prompts, next turns, forks, deadlines, clients that leave.

Knows texts and answers; not servers' memory. The same seed gives the same requests, though not the same timing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from load.client import Answer, Json, generate_stream, post
from model_tokenizer import Prompts

KINDS = {"whole": 50, "cancelled": 20, "deadline": 10, "forked": 10, "best of": 10}
FRONTS = 12
LONGEST_FRONT, LONGEST_OWN = 900, 250
USUAL_OUTPUT, MOST_OUTPUT, LONG_SHARE = 48, 600, 0.1  # long ones outgrow what admission looks ahead
REMEMBERED_TURNS = 64
NEXT_TURN_SHARE, FRONT_SHARE = 0.25, 0.6
TIMEOUT_STATUS = 504


@dataclass(frozen=True)
class Wish:
    """One request to be made, and how it is meant to end."""

    kind: str
    text: str
    output_tokens: int
    seed: int

    def native(self, **more: Any) -> Json:
        """A native body; every other one is sampled."""
        sampled = {"do_sample": True, "seed": self.seed} if self.seed % 2 else {}
        parameters = {"max_new_tokens": self.output_tokens, "ignore_eos": True, "details": True} | sampled | more
        return {"inputs": self.text, "parameters": parameters}


@dataclass
class Mixed:
    """Makes wishes, sends them, and counts how they ended. An answer that is not as it should be raises AssertionError."""

    base: str
    prompts: Prompts
    seed: int
    ends: Counter[str] = field(default_factory=Counter)
    turns: list[str] = field(default_factory=list)

    def wishes(self, number: int) -> Iterator[Wish]:
        """So many requests, each made when it is asked for."""
        rng = random.Random(self.seed)
        fronts = [self.prompts.text(rng.randint(60, LONGEST_FRONT)) for _ in range(FRONTS)]
        for _ in range(number):
            kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
            if rng.random() < 1 / 100:  # what is shared changes over time, so that the cache has to let go
                fronts[rng.randrange(FRONTS)] = self.prompts.text(rng.randint(60, LONGEST_FRONT))
            most = MOST_OUTPUT if rng.random() < LONG_SHARE else USUAL_OUTPUT
            yield Wish(kind, self._text(rng, fronts), rng.randint(1, most), rng.randrange(2**32))

    def _text(self, rng: random.Random, fronts: list[str]) -> str:
        drawn, own = rng.random(), rng.randint(2, LONGEST_OWN)
        if drawn < NEXT_TURN_SHARE and self.turns:
            return rng.choice(self.turns) + self.prompts.text(own)
        front = rng.choice(fronts) if drawn < NEXT_TURN_SHARE + FRONT_SHARE else ""
        return front + self.prompts.text(own)

    async def serve(self, client: aiohttp.ClientSession, wish: Wish) -> None:
        """Sends one request and sees it end as its kind allows."""
        end = await {
            "whole": self._whole,
            "cancelled": self._cancelled,
            "deadline": self._deadline,
            "forked": self._forked,
            "best of": self._best_of,
        }[wish.kind](client, wish)
        self.ends[end] += 1

    async def _whole(self, client: aiohttp.ClientSession, wish: Wish) -> str:
        answer = await generate_stream(client, self.base, wish.native())
        check_whole(answer, wish)
        if len(wish.text) < 4 * LONGEST_FRONT:
            self.turns = [*self.turns[-REMEMBERED_TURNS:], wish.text + (answer.text or "")]
        return "whole"

    async def _cancelled(self, client: aiohttp.ClientSession, wish: Wish) -> str:
        rng = random.Random(wish.seed)
        last_token, seconds = rng.randint(1, USUAL_OUTPUT), rng.choice([0.01, 0.1, 1.0, 30.0]) * rng.random()

        def leave(answer: Answer) -> None:
            if len(answer.token_ids) >= last_token:
                raise asyncio.CancelledError

        request = asyncio.ensure_future(generate_stream(client, self.base, wish.native(), leave))
        with contextlib.suppress(asyncio.CancelledError, TimeoutError):
            answer = await asyncio.wait_for(request, seconds)
            check_whole(answer, wish)
            return "whole, though it might have been cancelled"
        return "cancelled"

    async def _deadline(self, client: aiohttp.ClientSession, wish: Wish) -> str:
        seconds = random.Random(wish.seed).choice([0.02, 0.2, 1.0])
        headers = {"X-Request-Timeout": f"{seconds:g}"}
        answer = await generate_stream(client, self.base, wish.native(), headers=headers)
        if answer.error is None:
            check_whole(answer, wish)
            return "whole within its deadline"
        assert answer.error.get("error_type") == "timeout", (answer.status, answer.error)
        assert answer.status in (200, TIMEOUT_STATUS), answer.status
        assert answer.status == TIMEOUT_STATUS or answer.token_ids, (
            "an error before the first token has its real status"
        )
        return f"expired {'in its stream' if answer.token_ids else 'before its first token'}"

    async def _forked(self, client: aiohttp.ClientSession, wish: Wish) -> str:
        choices = 2 + wish.seed % 3
        body = {"model": "tgi", "prompt": wish.text, "max_tokens": wish.output_tokens, "ignore_eos": True}
        body |= {"n": choices, "seed": wish.seed, "temperature": 0.9}
        status, answer = await post(client, f"{self.base}/v1/completions", body)
        assert status == 200, (status, answer)
        assert sorted(choice["index"] for choice in answer["choices"]) == list(range(choices)), answer
        assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}, answer
        assert answer["usage"]["completion_tokens"] == choices * wish.output_tokens, answer["usage"]
        return "forked"

    async def _best_of(self, client: aiohttp.ClientSession, wish: Wish) -> str:
        body = wish.native(do_sample=True, best_of=2)
        body["parameters"].pop("seed", None)  # each run draws its own
        status, answer = await post(client, f"{self.base}/generate", body)
        assert status == 200, (status, answer)
        details = answer["details"]
        runs = [details, *details["best_of_sequences"]]
        assert [run["generated_tokens"] for run in runs] == [wish.output_tokens] * 2, details
        return "best of two"


def check_whole(answer: Answer, wish: Wish) -> None:
    """Every token asked for came, in order."""
    assert answer.error is None, (answer.status, answer.error)
    assert answer.indices == list(range(1, wish.output_tokens + 1)), (answer.indices, wish.output_tokens)
    assert answer.finish_reason == "length", answer.finish_reason
