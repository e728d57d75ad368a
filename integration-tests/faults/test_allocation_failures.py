"""The pool finds no page at random steps, over and over: no request fails, and every token is the one that was due."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from asking import Ask, Serve, as_run, eos_ids
from figures import show
from load.client import generate_stream
from load.closed_loop import closed_loop
from load.metrics_text import total
from load.served import Served
from load.usage import wait_released
from margin import Reference, Run
from model_tokenizer import Prompts
from scores import Parameters

CLIENTS = 16
FLAGS = ("--dtype", "float32", "--kv-memory", "8MiB", "--max-batch-prefill-tokens", "128")
FRONT_TOKENS = (40, 170, 400)
MOST_OWN, MOST_OUTPUT = 120, 60


def asks(prompts: Prompts, number: int, seed: int) -> Iterator[Ask]:
    """Requests with own and with shared fronts, half of them sampled."""
    rng = random.Random(seed)
    fronts = [prompts.text(tokens) for tokens in FRONT_TOKENS]
    for _ in range(number):
        front, drawn = rng.choice([*fronts, ""]), rng.randrange(2**32)
        parameters = Parameters(do_sample=True, temperature=0.8, seed=drawn) if drawn % 2 else Parameters()
        text = front + prompts.text(rng.randint(2, MOST_OWN))
        yield Ask(text, rng.randint(1, MOST_OUTPUT), parameters, stops_at_eos=False)


def answered(served: Served, model: Path, number: int, seed: int) -> list[Run]:
    """Whole answers to so many requests, some at a time."""
    prompts, runs, eos = Prompts(model, seed=seed), [], eos_ids(model)

    async def serve(client: aiohttp.ClientSession, ask: Ask) -> None:
        answer = await generate_stream(client, served.base, ask.body())
        runs.append(as_run(ask, answer, prompts, eos, f"request {len(runs)}"))

    asyncio.run(closed_loop(CLIENTS, asks(prompts, number, seed), serve))
    return runs


def check_failing_allocations(served: Served, model: Path, number: int, seed: int) -> None:
    """Every answer is whole and right though steps failed, and nothing is held afterwards."""
    runs = answered(served, model, number, seed)
    wait_released(served)
    text = served.get("/metrics")
    failed, worked = (total(text, f"tgi_batch_inference_{end}") for end in ("failure", "success"))
    restarts = total(text, "ribbon_shard_restarts_total")
    show(f"{number} requests: {failed:.0f} steps found no page, {worked:.0f} worked")
    assert len(runs) == number
    assert failed > 0, "no allocation failed: nothing was tested"
    assert restarts == 0, f"{restarts:.0f} restarts of the shard"
    Reference(model).judge(runs).check("with failing allocations")


def test_a_few_dozen_requests_survive_failing_allocations(serve: Serve, tiny_model: Path) -> None:
    served = serve(tiny_model, *FLAGS, "--test-fail-allocations", "0.1,7")
    check_failing_allocations(served, tiny_model, 40, seed=31)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("failures", "number"), [("0.02,1", 400), ("0.1,2", 400), ("0.4,3", 200)])
def test_1000_requests_survive_failing_allocations(serve: Serve, tiny_model: Path, failures: str, number: int) -> None:
    served = serve(tiny_model, *FLAGS, "--test-fail-allocations", failures)
    check_failing_allocations(served, tiny_model, number, seed=number)
