"""A grammar goes on where its text was: after the shard was lost, and after the sequence gave its memory away."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest
from asking import Serve
from load.client import Answer, generate_stream, session
from load.metrics_text import total
from load.served import Served
from load.usage import wait_released

LETTERS = {"type": "string", "pattern": "^[a-z]{12}$"}
LIST: dict[str, Any] = {"type": "array", "items": LETTERS, "minItems": 12, "maxItems": 12}
SETTLED_TOKENS = 8
RECOVERY_SECONDS = 60.0


def body(seed: int) -> dict[str, Any]:
    """A sampled list of words, hundreds of tokens long."""
    grammar = {"type": "json", "value": LIST}
    parameters = {"do_sample": True, "seed": seed, "max_new_tokens": 600, "details": True, "grammar": grammar}
    return {"inputs": "Words:", "parameters": parameters}


def streams(served: Served, number: int, on_token: Any = None) -> list[Answer]:
    """So many at once."""

    async def send() -> list[Answer]:
        async with session() as client:
            return list(await asyncio.gather(*(one(client, seed) for seed in range(number))))

    async def one(client: aiohttp.ClientSession, seed: int) -> Answer:
        return await generate_stream(client, served.base, body(seed), on_token)

    return asyncio.run(send())


def check(answers: list[Answer]) -> None:
    """Each is whole, without a gap, and valid."""
    for answer in answers:
        assert answer.error is None, answer.error
        assert answer.indices == list(range(1, len(answer.token_ids) + 1))
        assert answer.finish_reason == "eos_token"
        jsonschema.validate(json.loads(answer.text or ""), LIST)


@pytest.mark.slow
def test_a_lost_shard_forgets_no_grammar(serve: Serve, demo_model: Path) -> None:
    assert demo_model.exists()
    served: Served = serve(None, "--dtype", "float32", "--kv-memory", "256MiB")
    pid, counts, fired = served.shard().pid, {}, []

    def kill(answer: Answer) -> None:
        counts[id(answer)] = len(answer.token_ids)
        if not fired and len(counts) == 4 and min(counts.values()) >= SETTLED_TOKENS:
            os.kill(pid, signal.SIGKILL)
            fired.append(pid)

    check(streams(served, 4, kill))
    assert fired, "the fault never came"
    served.wait_healthy(RECOVERY_SECONDS)


@pytest.mark.slow
def test_a_preempted_sequence_forgets_no_grammar(serve: Serve, demo_model: Path) -> None:
    assert demo_model.exists()
    served: Served = serve(None, "--dtype", "float32", "--kv-memory", "4MiB", "--prefix-caching", "false")
    check(streams(served, 24))
    assert total(served.get("/metrics"), "ribbon_preemptions_total") > 0
    wait_released(served)
