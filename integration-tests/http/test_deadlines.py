"""How long a request may take, through the whole path."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
from asking import Serve
from load.metrics_text import samples
from load.served import Served
from load.usage import wait_released

FLAGS = ("--dtype", "float32", "--kv-memory", "64MiB", "--max-batch-prefill-tokens", "64")
LONG = {"max_new_tokens": 3_000, "ignore_eos": True}


def counted(served: Served, name: str, label: str = "") -> float:
    return sum(value for other, labels, value in samples(served.get("/metrics")) if other == name and label in labels)


async def ask(base: str, route: str, seconds: str | None, **parameters: Any) -> tuple[int, str]:
    """Status and body."""
    headers = {"X-Request-Timeout": seconds} if seconds else {}
    body = {"inputs": "one two", "parameters": parameters}
    async with aiohttp.ClientSession() as client, client.post(base + route, json=body, headers=headers) as answer:
        return answer.status, await answer.text()


def test_a_running_request_ends_at_its_deadline(tiny_server: Served) -> None:
    status, text = asyncio.run(ask(tiny_server.base, "/generate", "0.5", **LONG))
    assert (status, json.loads(text)["error_type"]) == (504, "timeout")
    status, text = asyncio.run(ask(tiny_server.base, "/generate_stream", "1.5", **LONG))
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    assert (events[-1] if status == 200 else json.loads(text))["error_type"] == "timeout"
    wait_released(tiny_server)


def test_the_flag_is_for_requests_that_do_not_say(serve: Serve, tiny_model: Path) -> None:
    served = serve(tiny_model, *FLAGS, "--request-timeout", "0.5")
    status, _ = asyncio.run(ask(served.base, "/generate", None, **LONG))
    assert status == 504
    status, text = asyncio.run(ask(served.base, "/generate", "200", max_new_tokens=40, ignore_eos=True))
    assert status == 200, text
    status, text = asyncio.run(ask(served.base, "/generate", "soon", max_new_tokens=4))
    assert (status, json.loads(text)["error_type"]) == (422, "validation")


def test_a_request_that_expires_in_the_queue_never_reaches_the_shard(serve: Serve, tiny_model: Path) -> None:
    served = serve(tiny_model, *FLAGS, "--max-batch-size", "1")

    async def behind_another() -> tuple[int, str]:
        async with aiohttp.ClientSession() as client:
            body = {"inputs": "one two", "parameters": LONG}
            async with client.post(f"{served.base}/generate_stream", json=body) as first:
                assert first.status == 200
                return await ask(served.base, "/generate", "0.3", max_new_tokens=4)

    status, text = asyncio.run(behind_another())
    assert (status, json.loads(text)["error_type"]) == (504, "timeout")
    assert counted(served, "ribbon_requests_expired_total", 'stage="queued"') == 1
    assert counted(served, "ribbon_requests_shed_total", 'reason="expired"') == 1
    wait_released(served)
    assert counted(served, "tgi_batch_next_size_count") == 1, "only the first one was ever admitted"
