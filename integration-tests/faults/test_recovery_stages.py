"""`kill -9` while one request generates, one is in the middle of its prompt and one has no slot: all get the answers they would have got."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from asking import Ask, Serve, as_run, eos_ids
from figures import show
from load.client import Answer, generate_stream, session
from load.metrics_text import metric
from load.served import Served
from load.step_log import read_steps
from margin import Reference
from model_tokenizer import Prompts
from scores import Parameters

# Tokens of a step, so that the long prompt takes hundreds of steps. Fewer seat a single sequence: decodes alone may never fill a
# step, so half of a budget this small is kept for prompts (docs/decisions/0001-chunk-bound.md).
BUDGET = 4
ATTEMPTS = 20  # a stalled machine may let a prompt or an answer end before the shard is stopped
LONG_PROMPT_TOKENS = 1_800
STEPS_AHEAD = 2  # plans under way that the log does not know yet
SETTLED_TOKENS = 5
STATE_SECONDS = 60.0
FLAGS = (
    *("--dtype", "float32", "--kv-memory", "256MiB", "--step-timeout", "60"),
    *("--max-batch-size", "2", "--max-batch-prefill-tokens", str(BUDGET)),
)


@dataclass(frozen=True)
class Stages:
    """What router and shard said while the shard was stopped, just before it was killed."""

    prefilled_tokens: int
    slots: float
    queued: float

    def are_apart(self) -> bool:
        """One is in the middle of its prompt, both slots are in use, and one waits."""
        return 0 < self.prefilled_tokens < LONG_PROMPT_TOKENS - STEPS_AHEAD * BUDGET and self.are_taken()

    def are_taken(self) -> bool:
        """Both slots are in use and one request waits."""
        return (self.slots, self.queued) == (2, 1)


class Scene:
    """A server of two slots, and what is known of the requests that were sent to it."""

    def __init__(self, served: Served) -> None:
        self._served, self._shard = served, served.shard()
        self._steps_before = 0

    def long_prompt_comes(self) -> None:
        """Chunks in the step log are the long prompt's from here on."""
        self._steps_before = len(read_steps(self._served.step_log))

    def prefilled_tokens(self) -> int:
        """Prompt tokens computed since then."""
        steps = read_steps(self._served.step_log)[self._steps_before :]
        return sum(step.tokens - step.decode_rows for step in steps)

    def stages(self) -> Stages:
        """Where all of them are; of a stopped shard that stays so."""
        text = self._served.get("/metrics")
        slots, queued = metric(text, "ribbon_slots", 'state="used"'), metric(text, "tgi_queue_size")
        return Stages(self.prefilled_tokens(), slots, queued)

    def send(self, sent: signal.Signals) -> None:
        """Sends a signal to the shard."""
        os.kill(self._shard.pid, sent)


async def reached(state: Callable[[], object]) -> None:
    """Waits until something is so. Raises TimeoutError."""
    deadline = time.monotonic() + STATE_SECONDS
    while not await asyncio.to_thread(state):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{state} was never so")
        await asyncio.sleep(0.005)


async def play(served: Served, asks: list[Ask]) -> tuple[list[Answer], Stages | None]:
    """Sends the three one after the other, each when the one before is where it should be, then kills the shard.

    It is stopped in the middle of the long prompt, so that it is still there when the last request has come. No stages: it was
    stopped too late, so that it went on, unharmed.
    """
    scene, generated = Scene(served), []
    async with session() as client, asyncio.TaskGroup() as group:

        def send(ask: Ask) -> asyncio.Task[Answer]:
            return group.create_task(generate_stream(client, served.base, ask.body(), generated.append))

        first = send(asks[0])
        await reached(lambda: len(generated) >= SETTLED_TOKENS)
        scene.long_prompt_comes()
        second = send(asks[1])
        await reached(scene.prefilled_tokens)
        scene.send(signal.SIGSTOP)
        third = send(asks[2])
        await reached(lambda: scene.stages().are_taken() or first.done() or second.done())
        stages = await asyncio.to_thread(scene.stages)
        is_in_time = stages.are_apart() and not first.done()
        scene.send(signal.SIGKILL if is_in_time else signal.SIGCONT)
    return [task.result() for task in (first, second, third)], stages if is_in_time else None


def killed_in_time(served: Served, prompts: Prompts) -> tuple[list[Ask], list[Answer], Stages]:
    """Plays until the shard was killed in every stage, each time with new prompts, which the cache does not know."""
    seeded = Parameters(do_sample=True, temperature=0.8, seed=5)
    for _ in range(ATTEMPTS):
        asks = [
            Ask(prompts.text(6), 1_000, seeded, stops_at_eos=False),
            Ask(prompts.text(LONG_PROMPT_TOKENS), 40, stops_at_eos=False),
            Ask(prompts.text(9), 40, seeded, stops_at_eos=False),
        ]
        answers, stages = asyncio.run(play(served, asks))
        if stages is not None:
            return asks, answers, stages
    raise AssertionError(f"the shard was stopped too late {ATTEMPTS} times")


def test_requests_in_every_stage_survive_kill_9(serve: Serve, tiny_model: Path) -> None:
    prompts = Prompts(tiny_model, seed=12)
    asks, answers, stages = killed_in_time(serve(tiny_model, *FLAGS), prompts)
    show(
        f"kill -9 with {stages.prefilled_tokens} of {LONG_PROMPT_TOKENS} prompt tokens computed and one request queued"
    )
    runs = [
        as_run(ask, answer, prompts, eos_ids(tiny_model), f"request {number}")
        for number, (ask, answer) in enumerate(zip(asks, answers, strict=True))
    ]
    Reference(tiny_model).judge(runs).check("killed in every stage")
