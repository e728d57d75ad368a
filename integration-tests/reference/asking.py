"""Turns what a test asks into a request body, and what came back into a run that the margin rule can judge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from load.client import Answer, OnToken, exchange, generate_stream, session
from load.served import Served
from margin import Run
from model_tokenizer import Prompts
from scores import Parameters

Serve = Callable[..., Served]  # the fixture `serve`: a model, then launcher flags


@dataclass(frozen=True)
class Ask:
    """One streamed native request. `stops_at_eos` false sends `ignore_eos`."""

    text: str
    max_new_tokens: int
    parameters: Parameters = field(default_factory=Parameters)
    stops_at_eos: bool = True

    def body(self) -> dict[str, Any]:
        """The request's JSON: only what differs from the neutral value, so that defaults are tested too."""
        wanted: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "details": True}
        neutral = Parameters()
        for name in ("temperature", "top_k", "top_p", "repetition_penalty", "frequency_penalty"):
            if (value := getattr(self.parameters, name)) != getattr(neutral, name):
                wanted[name] = value
        if self.parameters.do_sample:
            wanted |= {"do_sample": True, "seed": self.parameters.seed}
        if not self.stops_at_eos:
            wanted["ignore_eos"] = True
        return {"inputs": self.text, "parameters": wanted}


def post(served: Served, route: str, body: dict[str, Any]) -> dict[str, Any]:
    """A whole answer. Raises AssertionError where it is not 200."""
    reply = exchange(served.base, "POST", route, body)
    assert reply.status == 200, reply.body
    return reply.json()


def half_seeded(prompts: Prompts, first_tokens: int, count: int, max_new_tokens: int) -> list[Ask]:
    """Streams of different prompts, a token longer each, that no end token ends; every other one is sampled."""
    return [
        Ask(
            prompts.text(first_tokens + number),
            max_new_tokens,
            Parameters(do_sample=True, temperature=0.8, seed=number) if number % 2 else Parameters(),
            stops_at_eos=False,
        )
        for number in range(count)
    ]


def eos_ids(model: Path) -> frozenset[int]:
    """Tokens that end a sequence of this model by themselves."""
    settings = json.loads((model / "generation_config.json").read_text())
    found = settings["eos_token_id"]
    return frozenset(found if isinstance(found, list) else [found])


def as_run(ask: Ask, answer: Answer, prompts: Prompts, eos: frozenset[int], name: str) -> Run:
    """The run to judge. Raises AssertionError when the answer is not whole."""
    assert answer.error is None, f"{name}: {answer.error}"
    assert answer.indices == list(range(1, len(answer.token_ids) + 1)), f"{name}: gap or repeat in {answer.indices}"
    assert answer.finish_reason in ("length", "eos_token"), f"{name}: ended with {answer.finish_reason}"
    prompt = prompts.ids(ask.text)
    assert (answer.input_length, answer.num_generated) == (len(prompt), len(answer.token_ids)), name
    stops = eos if ask.stops_at_eos else frozenset()
    if ask.parameters.do_sample:
        assert answer.seed == ask.parameters.seed, f"{name}: asked for seed {ask.parameters.seed}, got {answer.seed}"
    parameters = Parameters(**{**vars(ask.parameters), "stop_token_ids": stops})
    return Run(prompt, answer.token_ids, parameters, ask.max_new_tokens, answer.finish_reason, name)


def all_at_once(base: str, asks: Sequence[Ask], on_token: OnToken | None = None) -> list[Answer]:
    """Sends every request at the same moment."""

    async def send() -> list[Answer]:
        async with session() as client:
            return list(await asyncio.gather(*(generate_stream(client, base, ask.body(), on_token) for ask in asks)))

    return asyncio.run(send())


def one_by_one(base: str, asks: Sequence[Ask]) -> list[Answer]:
    """Sends the next request when the last one ended."""

    async def send() -> list[Answer]:
        async with session() as client:
            return [await generate_stream(client, base, ask.body()) for ask in asks]

    return asyncio.run(send())
