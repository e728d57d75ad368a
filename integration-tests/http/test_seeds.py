"""A seed means the same tokens: alone, in a batch, in chunks of any size, and after a restart of the shard."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from asking import Ask, Serve, all_at_once, as_run, eos_ids, one_by_one
from figures import show
from load.client import exchange
from load.served import Served
from margin import Reference, Run
from model_tokenizer import Prompts
from scores import Parameters

SETTINGS = [
    Parameters(do_sample=True, seed=1),
    Parameters(do_sample=True, temperature=0.6, seed=2),
    Parameters(do_sample=True, temperature=1.3, top_k=20, seed=3),
    Parameters(do_sample=True, top_p=0.8, seed=2**64 - 1),
    Parameters(do_sample=True, temperature=0.9, top_k=50, top_p=0.9, repetition_penalty=1.3, seed=5),
    Parameters(do_sample=True, temperature=0.7, frequency_penalty=1.5, seed=6),
    Parameters(repetition_penalty=1.2),
]
CHUNKS = (1, 7, 64, 512)
LENGTHS = (1_200, 37, 54, 71, 88, 105, 122)  # of the prompts, in tokens; every chunk cuts the first
RECOVERY_SECONDS = 60


@pytest.fixture(scope="module")
def asks(tiny_model: Path) -> list[Ask]:
    """One request a setting, prompts of different lengths."""
    prompts = Prompts(tiny_model, seed=5)
    return [Ask(prompts.text(tokens), 48, parameters) for tokens, parameters in zip(LENGTHS, SETTINGS, strict=True)]


def runs_of(asks: list[Ask], served: Served, model: Path, name: str, *, together: bool) -> list[Run]:
    """The answers, whole and named."""
    answers = all_at_once(served.base, asks) if together else one_by_one(served.base, asks)
    prompts, eos = Prompts(model), eos_ids(model)
    return [
        as_run(ask, answer, prompts, eos, f"{name} {number}")
        for number, (ask, answer) in enumerate(zip(asks, answers, strict=True))
    ]


def check_equal(model: Path, title: str, *groups: list[Run]) -> None:
    """Groups may first differ only at a margin case, and every continuation is judged (design §4 rule 2)."""
    differing = [runs for runs in zip(*groups, strict=True) if len({tuple(run.generated) for run in runs}) > 1]
    distinct = {(tuple(run.prompt), tuple(run.generated)): run for group in groups for run in group}
    verdict = Reference(model).judge(list(distinct.values()))
    show(f"{title}: {len(differing)} of {len(groups[0])} requests differ somewhere")
    verdict.check(title)
    assert len(differing) <= len(verdict.margin_cases), "runs differ where the reference sees no margin case"


def restart_shard(served: Served) -> float:
    """Kills the shard and waits until its successor is healthy; returns the seconds."""
    old = served.shard()
    begin = time.monotonic()
    os.kill(old.pid, signal.SIGKILL)
    old.wait(10)
    served.wait_healthy(RECOVERY_SECONDS)
    return time.monotonic() - begin


def test_alone_batched_and_after_a_restart_give_the_same_tokens(
    serve: Serve, tiny_model: Path, asks: list[Ask]
) -> None:
    served = serve(tiny_model, "--dtype", "float32", "--kv-memory", "256MiB")
    alone = runs_of(asks, served, tiny_model, "alone", together=False)
    filler = [
        Ask(ask.text, ask.max_new_tokens, Parameters(do_sample=True, seed=100 + number))
        for number, ask in enumerate(asks * 4)
    ]
    batched = runs_of(asks + filler, served, tiny_model, "batched", together=True)[: len(asks)]
    show(f"shard restarted in {restart_shard(served):.1f} s")
    restarted = runs_of(asks, served, tiny_model, "after a restart", together=True)
    check_equal(tiny_model, "alone = batched = after a restart", alone, batched, restarted)


def test_every_chunk_size_gives_the_same_tokens(serve: Serve, tiny_model: Path, asks: list[Ask]) -> None:
    groups = []
    for chunk in CHUNKS:
        served = serve(
            tiny_model, "--dtype", "float32", "--kv-memory", "256MiB", "--max-batch-prefill-tokens", str(chunk)
        )
        groups.append(runs_of(asks, served, tiny_model, f"chunk {chunk}", together=chunk > len(asks)))
        served.stop()
    check_equal(tiny_model, f"chunks of {CHUNKS}", *groups)


def test_an_absent_seed_is_drawn_and_replays_the_run(tiny_server: Served, tiny_model: Path) -> None:
    text = Prompts(tiny_model, seed=8).text(30)
    body = {"inputs": text, "parameters": {"do_sample": True, "max_new_tokens": 24, "details": True}}

    first = exchange(tiny_server.base, "POST", "/generate", body).json()
    other = exchange(tiny_server.base, "POST", "/generate", body).json()
    assert first["details"]["seed"] != other["details"]["seed"]
    assert first["generated_text"] != other["generated_text"]
    parameters = Parameters(do_sample=True, seed=first["details"]["seed"], stop_token_ids=eos_ids(tiny_model))
    generated = [token["id"] for token in first["details"]["tokens"]]
    run = Run(Prompts(tiny_model).ids(text), generated, parameters, 24, first["details"]["finish_reason"], "drawn seed")
    Reference(tiny_model).judge([run]).check("a drawn seed replays its run")
