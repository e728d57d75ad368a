"""How a replica leaves: not ready at once, late requests served for a while, running ones finished; nobody notices a rolling restart."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
import urllib.request
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).parent))

from asking import Serve
from load.served import Served
from proxy import Proxy

FLAGS = ("--dtype", "float32", "--kv-memory", "64MiB", "--max-batch-prefill-tokens", "128")
CLIENTS = 4
SECONDS = 120.0


def generate(served: Served) -> tuple[int, str]:
    """Status and text of one short request."""
    body = json.dumps({"inputs": "one two", "parameters": {"max_new_tokens": 4}}).encode()
    request = urllib.request.Request(f"{served.base}/generate", data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.status, json.loads(answer.read())["generated_text"]


def test_a_leaving_replica_is_not_ready_but_serves_late_requests(serve: Serve, tiny_model: Path) -> None:
    served = serve(tiny_model, *FLAGS, "--drain-grace", "15")
    expected = generate(served)
    served.launcher.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + SECONDS
    while served.status("/ready") != 503 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert served.status("/ready") == 503
    assert generate(served) == expected
    assert served.status("/health") == 200
    assert served.launcher.wait(SECONDS) == 0


class Load:
    """Clients that ask, one request after the other, until told to stop; everything but a whole answer is kept in `failures`."""

    def __init__(self, base: str) -> None:
        self.base, self.failures, self.answers = base, list[str](), 0
        self._is_over = False

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=300)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await asyncio.gather(*(self._client(session, number) for number in range(CLIENTS)))

    def stop(self) -> None:
        self._is_over = True

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        route = "/generate_stream" if number % 2 else "/generate"
        while not self._is_over:
            parameters = {"max_new_tokens": 24, "ignore_eos": True, "seed": number, "do_sample": True}
            body = {"inputs": f"client {number} says", "parameters": parameters}
            async with session.post(self.base + route, json=body) as answer:
                text = await answer.text()
            if answer.status != 200 or '"generated_text":"' not in text:
                self.failures.append(f"{route} {answer.status}: {text[-300:]}")
            self.answers += 1


async def until(condition: object, what: str) -> None:
    """Waits for a condition with a deadline."""
    deadline = time.monotonic() + SECONDS
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        await asyncio.sleep(0.05)


async def restart(served: Served, proxy: Proxy) -> int:
    """Takes one replica down as an orchestrator does, and up again; its exit code."""
    served.launcher.send_signal(signal.SIGTERM)
    code = await asyncio.to_thread(served.launcher.wait, SECONDS)
    served.start()
    await until(lambda: served.base in proxy.ready, "the replica is back")
    return int(code)


async def roll(replicas: list[Served]) -> tuple[list[int], Load]:
    async with Proxy([served.base for served in replicas]) as proxy:
        load = Load(proxy.base)
        await until(lambda: len(proxy.ready) == len(replicas), "all replicas are ready")
        running = asyncio.create_task(load.run())
        codes = []
        for served in replicas:
            before = proxy.served.copy()
            await until(lambda before=before: len(proxy.served - before) == len(replicas), "every replica serves")
            codes.append(await restart(served, proxy))
        before = proxy.served.copy()
        await until(lambda: len(proxy.served - before) == len(replicas), "every replica serves again")
        load.stop()
        await running
    return codes, load


def test_a_rolling_restart_under_load_fails_no_request(serve: Serve, tiny_model: Path) -> None:
    replicas = [serve(tiny_model, *FLAGS) for _ in range(2)]
    codes, load = asyncio.run(roll(replicas))
    assert load.failures == []
    assert codes == [0, 0]
    assert load.answers > 2 * CLIENTS
