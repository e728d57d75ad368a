"""Prefixes are shared by whoever may share them, computed once, and never change a token."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from asking import Ask, Serve, all_at_once, as_run, eos_ids, one_by_one
from figures import show
from load.client import exchange, generate_stream, session
from load.metrics_text import total
from load.served import Served
from load.step_log import read_steps
from load.usage import wait_released
from margin import Reference, Run
from model_tokenizer import Prompts
from scores import Parameters

FLAGS = ("--dtype", "float32", "--max-batch-prefill-tokens", "128")
# A tenth of what all the prefixes of a wave need: nearly every look-up has to let something go.
STORM = ("--kv-memory", "2MiB", "--max-total-tokens", "1200", "--max-queued-tokens", "100000")
FRONTS, FRONT_TOKENS, OWN_TOKENS, OUTPUT_TOKENS = 6, 700, 40, 24
LEAST_CACHED = 0.95


@pytest.fixture(scope="module")
def cached_server(binary: Path, tiny_model: Path) -> Iterator[Served]:
    """One server whose cache the tests of this file fill; each uses prompts of its own."""
    with ExitStack() as stack:
        yield stack.enter_context(Served(tiny_model, *FLAGS, "--kv-memory", "64MiB", binary=binary))


def cached_tokens(served: Served, text: str, tokens: int = 4, **more: object) -> int:
    """What the usage of one completion says of its prompt."""
    body = {"model": "tgi", "prompt": text, "max_tokens": tokens, "temperature": 0.0, "ignore_eos": True, **more}
    reply = exchange(served.base, "POST", "/v1/completions", body)
    assert reply.status == 200, reply.body
    return int(reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


def sharing_asks(prompts: Prompts, rng: random.Random, number: int) -> list[Ask]:
    """Requests with common fronts in random order, some the same to the last token, half of them sampled."""
    fronts = [prompts.text(rng.randint(FRONT_TOKENS // 2, FRONT_TOKENS)) for _ in range(FRONTS)]
    asks = []
    for drawn in range(number):
        own = "" if drawn % 5 == 0 else prompts.text(rng.randint(2, OWN_TOKENS))
        parameters = Parameters(do_sample=True, temperature=0.8, seed=drawn) if drawn % 2 else Parameters()
        asks.append(Ask(rng.choice(fronts) + own, OUTPUT_TOKENS, parameters, stops_at_eos=False))
    return asks


def runs_of(served: Served, model: Path, asks: list[Ask], name: str) -> list[Run]:
    """Whole answers, two waves of the same requests: the second finds what the first left."""
    prompts, eos = Prompts(model), eos_ids(model)
    pairs = [(ask, answer) for _ in range(2) for ask, answer in zip(asks, all_at_once(served.base, asks), strict=True)]
    return [as_run(ask, answer, prompts, eos, f"{name} {number}") for number, (ask, answer) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("cache on", ("--kv-memory", "64MiB")),
        ("cache off", ("--kv-memory", "64MiB", "--prefix-caching", "false")),
        ("eviction storm", STORM),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_the_cache_changes_no_token(serve: Serve, tiny_model: Path, name: str, flags: tuple[str, ...]) -> None:
    served = serve(tiny_model, *FLAGS, *flags)
    asks = sharing_asks(Prompts(tiny_model, seed=41), random.Random(41), 40)
    runs = runs_of(served, tiny_model, asks, name)
    wait_released(served)
    text = served.get("/metrics")
    hits, evictions = (total(text, f"ribbon_{what}_total") for what in ("prefix_hit_tokens", "evictions"))
    show(f"{name}: {hits:.0f} prompt tokens from the cache, {evictions:.0f} evictions")
    assert (hits > 0) == (name != "cache off")
    assert (evictions > 0) == (name == "eviction storm")
    Reference(tiny_model).judge(runs).check(name)


def test_the_same_prompt_again_is_known_but_for_its_last_token(cached_server: Served, tiny_model: Path) -> None:
    prompts = Prompts(tiny_model, seed=42)
    text = prompts.text(300)
    assert cached_tokens(cached_server, text) <= 2  # the first token is everybody's
    assert cached_tokens(cached_server, text) == 299
    assert cached_tokens(cached_server, text + prompts.text(50)) == 300


def test_another_salt_shares_nothing(cached_server: Served, tiny_model: Path) -> None:
    text = Prompts(tiny_model, seed=43).text(300)
    assert cached_tokens(cached_server, text, cache_salt="one") == 0
    assert cached_tokens(cached_server, text, cache_salt="two") == 0
    assert cached_tokens(cached_server, text) <= 2
    assert cached_tokens(cached_server, text, cache_salt="one") == 299


def test_what_was_generated_is_known_to_the_next_turn(cached_server: Served, tiny_model: Path) -> None:
    prompts = Prompts(tiny_model, seed=44)
    ask = Ask(prompts.text(120), 40, stops_at_eos=False)
    [answer] = one_by_one(cached_server.base, [ask])
    history = [*prompts.ids(ask.text), *answer.token_ids]
    assert cached_tokens(cached_server, [*history, 5, 6, 7]) == len(history) - 1  # type: ignore[arg-type]


def test_a_dropped_request_leaves_its_prefix(cached_server: Served, tiny_model: Path) -> None:
    prompts = Prompts(tiny_model, seed=45)
    text, known = prompts.text(900), []

    def leave(answer: object) -> None:
        known[:] = answer.token_ids  # type: ignore[attr-defined]
        if len(known) == 30:
            raise asyncio.CancelledError

    async def drop() -> None:
        body = {"inputs": text, "parameters": {"max_new_tokens": 2_000, "ignore_eos": True}}
        async with session() as client:
            await generate_stream(client, cached_server.base, body, leave)

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(drop())
    wait_released(cached_server)
    history = [*prompts.ids(text), *known]
    assert cached_tokens(cached_server, [*history, 5]) >= LEAST_CACHED * len(history)  # type: ignore[arg-type]


def fed_tokens(served: Served, asks: list[Ask]) -> int:
    """Tokens that the shard computed for these requests, sent at once."""
    before = len(read_steps(served.step_log))
    answers = all_at_once(served.base, asks)
    assert all(answer.finish_reason == "length" for answer in answers)
    wait_released(served)
    return sum(step.tokens for step in read_steps(served.step_log)[before:])


def test_a_burst_computes_its_prefix_once(cached_server: Served, tiny_model: Path) -> None:
    prompts = Prompts(tiny_model, seed=46)
    front = prompts.text(1_000)
    asks = [Ask(front + prompts.text(20), 8, stops_at_eos=False) for _ in range(12)]
    fed = fed_tokens(cached_server, asks)
    show(f"a burst of 12 prompts of 1,000 common and 20 own tokens: {fed} tokens fed")
    assert fed <= 1_000 + 12 * (20 + 8 + 4)  # a step or two run past the end of each


@pytest.mark.parametrize("caching", ["true", "false"])
def test_forks_compute_their_prompt_once(serve: Serve, tiny_model: Path, caching: str) -> None:
    served = serve(tiny_model, *FLAGS, "--kv-memory", "64MiB", "--max-best-of", "4", "--prefix-caching", caching)
    text = Prompts(tiny_model, seed=47).text(1_000)
    body = {"model": "tgi", "prompt": text, "max_tokens": 16, "n": 4, "seed": 3, "ignore_eos": True}
    reply = exchange(served.base, "POST", "/v1/completions", body)
    assert reply.status == 200, reply.body
    wait_released(served)
    answer = reply.json()
    texts = {choice["text"] for choice in answer["choices"]}
    assert len(texts) > 1, "choices of one seed must differ"
    assert answer["usage"]["prompt_tokens"] == 1_000
    fed = sum(step.tokens for step in read_steps(served.step_log))
    show(f"n = 4 over 1,000 tokens, caching {caching}: {fed} tokens fed")
    assert fed <= 1_000 + 4 * (16 + 4)
