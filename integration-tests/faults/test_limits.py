"""Before the model is there, when the house is full, and when it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

import psutil
from asking import Ask, Serve, all_at_once
from figures import show
from load.client import Answer, exchange, generate_stream, session
from load.served import Served
from model_tokenizer import Prompts

FLAGS = ("--dtype", "float32", "--kv-memory", "64MiB")
GONE_SECONDS = 60.0
BODY = {"inputs": "hello", "parameters": {"max_new_tokens": 2}}


def long_asks(model: Path, number: int, tokens: int) -> list[Ask]:
    """Streams that run for a while."""
    prompts = Prompts(model, seed=2)
    return [Ask(prompts.text(8), tokens, stops_at_eos=False) for _ in range(number)]


def test_a_loading_server_is_alive_but_not_ready(binary: Path, tiny_model: Path) -> None:
    served = Served(tiny_model, *FLAGS, binary=binary)
    served.start()
    try:
        while served.status("/live") != 200:
            assert served.launcher.poll() is None, served.log_tail()
            time.sleep(0.01)
        early = {path: served.status(path) for path in ("/health", "/ready")}
        reply = exchange(served.base, "POST", "/generate", BODY)
        assert early == {"/health": 503, "/ready": 503}
        assert reply.status == 503
        assert int(reply.headers["retry-after"]) >= 1
        show(f"healthy after {served.wait_healthy(60):.1f} s")
        assert exchange(served.base, "POST", "/generate", BODY).status == 200
    finally:
        assert served.stop() == 0


def test_a_full_house_answers_429_and_finishes_what_it_has(serve: Serve, tiny_model: Path) -> None:
    served = serve(tiny_model, *FLAGS, "--max-concurrent-requests", "4")
    asks = long_asks(tiny_model, 12, 2_000)
    answers = all_at_once(served.base, asks)
    refused = [answer for answer in answers if answer.status == 429]
    assert len(refused) == 8, [answer.status for answer in answers]
    assert all(answer.error["error_type"] == "overloaded" for answer in refused)
    assert sorted(len(answer.token_ids) for answer in answers if answer.status == 200) == [2_000] * 4
    assert served.status("/health") == 200


async def _stream_and_then(base: str, asks: list[Ask], act: object) -> list[Answer]:
    """Runs the streams; calls `act` once when each has three tokens."""
    counts: dict[int, int] = {}

    def watch(answer: Answer) -> None:
        counts[id(answer)] = len(answer.token_ids)
        if act_once and len(counts) == len(asks) and min(counts.values()) >= 3:
            act_once.pop()()

    act_once = [act]
    async with session() as client:
        return await asyncio.gather(*(generate_stream(client, base, ask.body(), watch) for ask in asks))


def test_sigterm_drains(serve: Serve, tiny_model: Path) -> None:
    served = serve(tiny_model, *FLAGS)
    seen: list[int] = []

    def watch() -> None:
        while not seen or seen[-1] == 200:
            seen.append(served.status("/ready"))

    watching = threading.Thread(target=watch)

    def stop() -> None:
        os.kill(served.launcher.pid, signal.SIGTERM)
        watching.start()

    answers = asyncio.run(_stream_and_then(served.base, long_asks(tiny_model, 8, 2_000), stop))
    assert [len(answer.token_ids) for answer in answers] == [2_000] * 8
    assert served.launcher.wait(GONE_SECONDS) == 0
    watching.join()
    assert seen[-1] in (503, 0), seen


def test_children_die_with_a_killed_launcher(serve: Serve, tiny_model: Path) -> None:
    served: Served = serve(tiny_model, *FLAGS)
    family = psutil.Process(served.launcher.pid).children(recursive=True)
    assert len(family) >= 2
    served.launcher.kill()
    _, alive = psutil.wait_procs(family, timeout=GONE_SECONDS)
    assert not alive, f"still running: {[process.cmdline() for process in alive]}"


def test_a_dead_router_stops_everything(serve: Serve, tiny_model: Path) -> None:
    served: Served = serve(tiny_model, *FLAGS)
    family = psutil.Process(served.launcher.pid).children(recursive=True)
    served.router().kill()
    assert served.launcher.wait(GONE_SECONDS) == 1
    _, alive = psutil.wait_procs(family, timeout=GONE_SECONDS)
    assert not alive
