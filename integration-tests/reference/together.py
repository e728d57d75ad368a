"""A wave of mixed requests at the same moment: what transformers says of each token, and whether they really ran together.

Knows requests and step logs; not what kind of server answers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from asking import Ask, all_at_once, as_run, eos_ids
from figures import show
from load.served import Served
from load.step_log import Step, pipelined_share, read_steps
from margin import Reference, Run
from model_tokenizer import Prompts
from scores import Parameters

ATTEMPTS = 3


def mixed_asks(requests: int, prompts: Prompts, rng: random.Random) -> list[Ask]:
    """Prompts of 2 to 700 tokens, outputs of 1 to 120, every fourth of them sampled, every eighth ending at EOS."""
    asks = []
    for number in range(requests):
        prompt_tokens = max(2, int(700 ** rng.random()))
        tokens = rng.choice([1, 2, 7]) if number % 10 == 9 else rng.randint(60, 120)
        parameters = (
            Parameters(do_sample=True, temperature=0.8, top_p=0.95, seed=number) if number % 4 == 3 else Parameters()
        )
        asks.append(Ask(prompts.text(prompt_tokens), tokens, parameters, stops_at_eos=number % 8 == 0))
    return asks


@dataclass(frozen=True)
class Wave:
    """What the step log says of one wave, or what it has to say."""

    fullest: int  # rows of the fullest step
    mixed: int  # steps with chunks beside decodes
    early: float  # share of plans received before the previous outcome left

    @classmethod
    def of(cls, steps: list[Step]) -> Wave:
        """Reads the wave's steps."""
        mixed = sum(bool(step.chunk_rows and step.decode_rows) for step in steps)
        return cls(max(step.rows for step in steps), mixed, pipelined_share(steps))

    def reaches(self, least: Wave) -> bool:
        """All that makes it one batch: many rows in a step, chunks beside decodes, plans ahead of outcomes."""
        return self.fullest >= least.fullest and self.mixed >= least.mixed and self.early >= least.early


def send_wave(served: Served, model: Path, requests: int, seed: int) -> tuple[list[Run], Wave]:
    """Sends the requests at the same moment; whole answers, and the steps that made them."""
    prompts, before = Prompts(model, seed=seed), len(read_steps(served.step_log))
    asks = mixed_asks(requests, prompts, random.Random(seed))
    pairs = enumerate(zip(asks, all_at_once(served.base, asks), strict=True))
    runs = [as_run(ask, answer, prompts, eos_ids(model), f"request {number}") for number, (ask, answer) in pairs]
    return runs, Wave.of(read_steps(served.step_log)[before:])


def check_together(served: Served, model: Path, title: str, requests: int, least: Wave) -> None:
    """Judges every token, and that it was a wave. A machine that stalls one of the processes gets another try."""
    runs: list[Run] = []
    for attempt in range(1, ATTEMPTS + 1):
        found, wave = send_wave(served, model, requests, seed=attempt)
        runs += found
        show(
            f"{title}: {wave.mixed} steps mix chunks and decodes, the fullest has {wave.fullest} rows, {wave.early:.0%} of plans came early"
        )
        if wave.reaches(least):
            break
    Reference(model).judge(runs).check(title)
    assert wave.reaches(least), wave
