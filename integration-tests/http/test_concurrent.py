"""64 requests at once give what transformers gives one by one, and they really ran together."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from asking import Ask, Serve, all_at_once, as_run, eos_ids
from figures import show
from load.served import Served
from load.step_log import pipelined_share, read_steps
from margin import Reference
from model_tokenizer import Prompts
from models import make_model
from scores import Parameters

REQUESTS = 64
LEAST_ROWS = 48  # of the fullest step
LEAST_MIXED_STEPS = 8
LEAST_PIPELINED = 0.9


def mixed_asks(prompts: Prompts, rng: random.Random) -> list[Ask]:
    """Prompts of 2 to 700 tokens, outputs of 1 to 120, every fourth of them sampled, every second ignoring EOS."""
    asks = []
    for number in range(REQUESTS):
        prompt_tokens = max(2, int(700 ** rng.random()))
        tokens = rng.choice([1, 2, 7]) if number % 10 == 9 else rng.randint(60, 120)
        parameters = (
            Parameters(do_sample=True, temperature=0.8, top_p=0.95, seed=number) if number % 4 == 3 else Parameters()
        )
        asks.append(Ask(prompts.text(prompt_tokens), tokens, parameters, stops_at_eos=number % 2 == 0))
    return asks


def check_together(served: Served, model: Path, title: str) -> None:
    """Sends the wave, judges every token, and reads in the step log that it was a wave."""
    prompts, before = Prompts(model, seed=1), len(read_steps(served.step_log))
    asks = mixed_asks(prompts, random.Random(1))
    answers = all_at_once(served.base, asks)
    runs = [
        as_run(ask, answer, prompts, eos_ids(model), f"request {number}")
        for number, (ask, answer) in enumerate(zip(asks, answers, strict=True))
    ]
    steps = read_steps(served.step_log)[before:]
    mixed = sum(bool(step.chunk_rows and step.decode_rows) for step in steps)
    fullest, share = max(step.rows for step in steps), pipelined_share(steps)
    show(
        f"{title}: {len(steps)} steps, {mixed} mix chunks and decodes, the fullest has {fullest} rows, {share:.0%} of plans came early"
    )
    Reference(model).judge(runs).check(title)
    assert fullest >= LEAST_ROWS
    assert mixed >= LEAST_MIXED_STEPS
    assert share >= LEAST_PIPELINED


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
