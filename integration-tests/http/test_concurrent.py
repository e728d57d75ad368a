"""64 requests at once give what transformers gives one by one, and they really ran together."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from asking import Ask, Serve, all_at_once, as_run, eos_ids
from figures import show
from load.served import Served
from load.step_log import Step, pipelined_share, read_steps
from margin import Reference, Run
from model_tokenizer import Prompts
from models import make_model
from scores import Parameters

REQUESTS = 64
LEAST_ROWS = 48  # of the fullest step
LEAST_MIXED_STEPS = 8
LEAST_EARLY = 0.9  # share of plans received before the previous outcome left
ATTEMPTS = 3


def mixed_asks(prompts: Prompts, rng: random.Random) -> list[Ask]:
    """Prompts of 2 to 700 tokens, outputs of 1 to 120, every fourth of them sampled, every eighth ending at EOS."""
    asks = []
    for number in range(REQUESTS):
        prompt_tokens = max(2, int(700 ** rng.random()))
        tokens = rng.choice([1, 2, 7]) if number % 10 == 9 else rng.randint(60, 120)
        parameters = (
            Parameters(do_sample=True, temperature=0.8, top_p=0.95, seed=number) if number % 4 == 3 else Parameters()
        )
        asks.append(Ask(prompts.text(prompt_tokens), tokens, parameters, stops_at_eos=number % 8 == 0))
    return asks


@dataclass(frozen=True)
class Wave:
    """What the step log says of one wave."""

    fullest: int
    mixed: int
    early: float

    @classmethod
    def of(cls, steps: list[Step]) -> Wave:
        """Reads the wave's steps."""
        mixed = sum(bool(step.chunk_rows and step.decode_rows) for step in steps)
        return cls(max(step.rows for step in steps), mixed, pipelined_share(steps))

    def ran_together(self) -> bool:
        """All that makes it one batch: many rows in a step, chunks beside decodes, plans ahead of outcomes."""
        return self.fullest >= LEAST_ROWS and self.mixed >= LEAST_MIXED_STEPS and self.early >= LEAST_EARLY


def send_wave(served: Served, model: Path, seed: int) -> tuple[list[Run], Wave]:
    """Sends 64 requests at the same moment; whole answers, and the steps that made them."""
    prompts, before = Prompts(model, seed=seed), len(read_steps(served.step_log))
    asks = mixed_asks(prompts, random.Random(seed))
    pairs = enumerate(zip(asks, all_at_once(served.base, asks), strict=True))
    runs = [as_run(ask, answer, prompts, eos_ids(model), f"request {number}") for number, (ask, answer) in pairs]
    return runs, Wave.of(read_steps(served.step_log)[before:])


def check_together(served: Served, model: Path, title: str) -> None:
    """Judges every token, and that it was a wave. A machine that stalls one of the processes gets another try."""
    runs: list[Run] = []
    for attempt in range(1, ATTEMPTS + 1):
        found, wave = send_wave(served, model, seed=attempt)
        runs += found
        show(
            f"{title}: {wave.mixed} steps mix chunks and decodes, the fullest has {wave.fullest} rows, {wave.early:.0%} of plans came early"
        )
        if wave.ran_together():
            break
    Reference(model).judge(runs).check(title)
    assert wave.ran_together(), wave


def test_64_at_once_equal_transformers_on_a_random_llama(tiny_server: Served, tiny_model: Path) -> None:
    check_together(tiny_server, tiny_model, "tiny random Llama")


def test_64_at_once_equal_transformers_on_the_bundled_model(demo_server: Served, demo_model: Path) -> None:
    check_together(demo_server, demo_model, "bundled model")


@pytest.mark.slow
def test_64_at_once_equal_transformers_with_wide_heads(serve: Serve) -> None:
    model = make_model("tiny-wide-heads", dtype="float32")
    check_together(
        serve(model, "--dtype", "float32", "--kv-memory", "256MiB", "--max-batch-prefill-tokens", "512"),
        model,
        "one KV head",
    )
