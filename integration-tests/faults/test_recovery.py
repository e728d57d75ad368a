"""The shard is killed or stopped under 32 streams: every stream carries on, without a gap or a repeat, to an equal answer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from asking import Ask, Serve, all_at_once, as_run, eos_ids, half_seeded
from figures import show
from load.client import Answer
from load.served import Served
from margin import Reference
from model_tokenizer import Prompts

STREAMS = 32
TOKENS = 400
SETTLED_TOKENS = 5
STEP_SECONDS = 2.0
HEALTH_SLACK_SECONDS = 1.0
RECOVERY_SECONDS = 60.0
SECOND_STAGE = 0  # ranks are counted from the last stage on
FLAGS = ("--dtype", "float32", "--kv-memory", "256MiB", "--step-timeout", str(STEP_SECONDS))


def stream_asks(prompts: Prompts) -> list[Ask]:
    """Half greedy, half seeded, all long enough to be running when the fault comes."""
    return half_seeded(prompts, 5, STREAMS, TOKENS)


@dataclass
class Fault:
    """Sends a signal to the shard once every stream has a few tokens; fails the test if a stream had ended by then."""

    served: Served
    signal: signal.Signals
    rank: int = 0
    streams: int = STREAMS
    fired: float | None = None
    wall: float = 0.0
    counts: dict[int, int] = field(default_factory=dict)
    ended_before: int = 0

    def __post_init__(self) -> None:
        """Looks the shard up before the streams run."""
        self._pid = self.served.shard(self.rank).pid

    def __call__(self, answer: Answer) -> None:
        """Called after every token of every stream."""
        self.counts[id(answer)] = len(answer.token_ids)
        if self.fired is None:
            self.ended_before += answer.finish_reason is not None
            if len(self.counts) == self.streams and min(self.counts.values()) >= SETTLED_TOKENS:
                self.fired, self.wall = time.monotonic(), time.time()
                os.kill(self._pid, self.signal)

    def check(self) -> None:
        """The fault came in the middle of every stream."""
        assert self.fired is not None, "the fault never came"
        assert self.ended_before == 0, f"{self.ended_before} streams ended before the fault"


class HealthWatch:
    """Polls /health from a thread of its own; keeps every change of its status, and when each poll that was told 200 set out."""

    def __init__(self, served: Served) -> None:
        self.changes: list[tuple[float, int]] = []
        self._content: list[float] = []  # wall clock, as in the logs
        self._served, self._stop = served, threading.Event()
        self._thread = threading.Thread(target=self._poll)

    def __enter__(self) -> HealthWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._stop.wait(0.02):
            sent, status = time.time(), self._served.status("/health")
            if status == 200:
                self._content.append(sent)
            if not self.changes or self.changes[-1][1] != status:
                self.changes.append((time.monotonic(), status))

    def loss(self, fired: float) -> Loss:
        """What a fault at a moment did. Raises AssertionError when /health never turned, or never back."""
        unhealthy = self._wait_for(503, fired)
        return Loss(unhealthy - fired, self._wait_for(200, unhealthy) - fired)

    def content_between(self, begin: float, end: float) -> list[float]:
        """When polls set out, within a part of the wall clock's time, that were told that all is well."""
        return [sent for sent in self._content if begin < sent < end]

    def _wait_for(self, status: int, after: float) -> float:
        """When the status was first seen after a moment, which may still come."""
        deadline = time.monotonic() + RECOVERY_SECONDS
        while time.monotonic() < deadline:
            for moment, found in list(self.changes):
                if found == status and moment >= after:
                    return moment
            time.sleep(0.02)
        raise AssertionError(f"/health was never {status} after the fault: {self.changes}")


@dataclass(frozen=True)
class Loss:
    """Seconds from the fault to the first 503 of /health that was seen, and to the first 200 after it."""

    unhealthy: float
    healthy: float


@dataclass(frozen=True)
class Turn:
    """When health turned by the router's own clock: seconds after the fault, and after the deadline of a step that hung."""

    after_fault: float
    overdue: float | None


def router_turn(served: Served, fault: Fault) -> Turn:
    """The router's first words about the loss, which it says once health has turned. Raises AssertionError without them."""
    entries = log_entries(served)
    lost = next((entry for entry in entries if entry.get("message") == "the shard is lost"), None)
    assert lost is not None, "the router's log does not say that the shard was lost"
    hangs = [entry["overdue_ms"] / 1e3 for entry in entries if "overdue_ms" in entry]
    moment = datetime.fromisoformat(lost["timestamp"]).timestamp()
    return Turn(moment - fault.wall, hangs[0] if hangs else None)


def log_entries(served: Served) -> list[dict[str, Any]]:
    """The JSON lines of all processes' logs."""
    entries = []
    for line in served.log_file.read_text().splitlines():
        with contextlib.suppress(ValueError):  # other words may be there too
            entries.append(json.loads(line))
    return [entry for entry in entries if isinstance(entry, dict)]


def lose_shard(served: Served, model: Path, sent: signal.Signals, rank: int = 0) -> Turn:
    """Runs the streams, sends the signal to one shard in their middle, and judges every token."""
    prompts = Prompts(model, seed=9)
    asks, fault = stream_asks(prompts), Fault(served, sent, rank)
    with HealthWatch(served) as health:
        answers = all_at_once(served.base, asks, fault)
        fault.check()
        served.wait_healthy(RECOVERY_SECONDS)
        loss = health.loss(fault.fired)
    runs = [
        as_run(ask, answer, prompts, eos_ids(model), f"stream {number}")
        for number, (ask, answer) in enumerate(zip(asks, answers, strict=True))
    ]
    Reference(model).judge(runs).check(f"after {sent.name}")
    longest, turn = max(max(answer.gaps) for answer in answers), router_turn(served, fault)
    # A step under way when the shard was lost is due at the latest then; a hang says when it was.
    due = fault.wall + (STEP_SECONDS if turn.overdue is None else turn.after_fault - turn.overdue)
    wrong = health.content_between(due + HEALTH_SLACK_SECONDS, fault.wall + loss.unhealthy)
    assert not wrong, f"/health was 200 to polls sent {[sent - due for sent in wrong]} s after the deadline"
    show(
        f"{sent.name} to rank {rank}: health turned after {turn.after_fault:.2f} s (overdue: {turn.overdue}), seen after "
        f"{loss.unhealthy:.2f} s, 200 after {loss.healthy:.2f} s, longest gap in a stream {longest:.2f} s"
    )
    return turn


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP], ids=["kill -9", "SIGSTOP"])
def test_32_streams_survive_the_loss_of_the_shard(serve: Serve, tiny_model: Path, sent: signal.Signals) -> None:
    served: Served = serve(tiny_model, *FLAGS)
    turn = lose_shard(served, tiny_model, sent)
    if sent == signal.SIGSTOP:
        assert turn.overdue is not None, "nothing hung"
        assert turn.overdue <= HEALTH_SLACK_SECONDS
    else:
        assert turn.after_fault <= STEP_SECONDS + HEALTH_SLACK_SECONDS


@pytest.mark.parametrize(
    "sent",
    [pytest.param(signal.SIGKILL, id="kill -9"), pytest.param(signal.SIGSTOP, id="SIGSTOP", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
    ("flag", "rank"),
    [("--num-shard", 1), ("--pipeline-parallel-size", SECOND_STAGE)],
    ids=["a rank", "the second stage"],
)
def test_32_streams_survive_the_loss_of_one_shard_of_two(
    serve: Serve, tiny_model: Path, flag: str, rank: int, sent: signal.Signals
) -> None:
    served: Served = serve(tiny_model, *FLAGS, flag, "2")
    before = {served.shard(rank).pid for rank in range(2)}
    lose_shard(served, tiny_model, sent, rank)
    assert before.isdisjoint(served.shard(rank).pid for rank in range(2)), "none can go on alone"


def test_a_request_that_kills_the_shard_each_time_ends_alone(serve: Serve, tiny_model: Path) -> None:
    prompts = Prompts(tiny_model, seed=9)
    asks = stream_asks(prompts)[:-1]
    used = {token for ask in asks for token in prompts.ids(ask.text)}
    deadly_text = next(text for text in iter(lambda: prompts.text(2), None) if prompts.ids(text)[-1] not in used)
    deadly = Ask(asks[0].text + deadly_text, TOKENS, stops_at_eos=False)
    served: Served = serve(tiny_model, *FLAGS, "--test-crash-token", str(prompts.ids(deadly_text)[-1]))
    begin = time.monotonic()
    *answers, failed = all_at_once(served.base, [*asks, deadly])
    show(f"31 + 1 streams around a deadly request took {time.monotonic() - begin:.1f} s")
    assert failed.finish_reason is None
    assert failed.error is not None
    assert failed.error["error_type"] == "generation", failed.error
    assert failed.status in (200, 424)
    assert failed.indices == list(range(1, len(failed.indices) + 1))
    runs = [
        as_run(ask, answer, prompts, eos_ids(tiny_model), f"stream {number}")
        for number, (ask, answer) in enumerate(zip(asks, answers, strict=True))
    ]
    Reference(tiny_model).judge(runs).check("beside a deadly request")
    served.wait_healthy(RECOVERY_SECONDS)
