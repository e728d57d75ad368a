"""A model whose encoder reads whole prompts, through the whole path: its own tokens, whoever else is served beside them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import Ask, Serve, all_at_once, as_run, eos_ids
from load.client import Answer, exchange
from load.served import Served
from load.step_log import read_steps
from load.usage import wait_released
from reading_model import ReadingReference, WordPrompts, from_start, make_reading_model
from scores import Parameters

BUDGET, REQUESTS, ATTEMPTS = 128, 32, 3
FLAGS = ("--dtype", "float32", "--kv-memory", "64MiB", "--max-batch-prefill-tokens", str(BUDGET))
SAMPLED = {"do_sample": True, "temperature": 0.8, "top_p": 0.95}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reading_model(tmp_path_factory.mktemp("reading"))


@pytest.fixture(scope="module")
def served(binary: Path, model: Path) -> Iterator[Served]:
    with Served(model, *FLAGS, binary=binary) as served:
        yield served


def mixed_asks(prompts: WordPrompts, least: int, most: int) -> list[Ask]:
    """Prompts of 2 tokens to more than two steps take, every fourth answer sampled, every fifth until the end token."""
    asks = []
    for number in range(REQUESTS):
        parameters = Parameters(**SAMPLED, seed=number) if number % 4 == 3 else Parameters()
        tokens = least + (number * 37) % (most - least)
        prompt = prompts.text(2 + (number * 53) % 330)
        asks.append(Ask(prompt, tokens, parameters, stops_at_eos=number % 5 == 0))
    return asks


def judge(model: Path, prompts: WordPrompts, asks: list[Ask], answers: list[Answer]) -> None:
    """Every token by the margin rule, and the text that they make."""
    runs = []
    for number, (ask, answer) in enumerate(zip(asks, answers, strict=True)):
        runs.append(from_start(as_run(ask, answer, prompts, eos_ids(model), f"request {number}")))
        assert answer.text == prompts.decode(answer.token_ids)
    ReadingReference(model).judge(runs).check("encoder-decoder")


def test_mixed_requests_at_once_equal_transformers(served: Served, model: Path) -> None:
    fullest = 0
    for attempt in range(1, ATTEMPTS + 1):  # a machine that stalls the client gets another try to send them together
        prompts, before = WordPrompts(model, seed=attempt), len(read_steps(served.step_log))
        asks = mixed_asks(prompts, 20, 60)
        judge(model, prompts, asks, all_at_once(served.base, asks))
        wait_released(served)
        fullest = max(step.rows for step in read_steps(served.step_log)[before:])
        if fullest > REQUESTS // 4:
            break
    assert fullest > REQUESTS // 4, "they ran one after the other"


def test_choices_of_one_prompt_are_sequences_of_their_own(served: Served, model: Path) -> None:
    prompts = WordPrompts(model, seed=2)
    body = {"model": "any", "prompt": prompts.text(40), "n": 2, "seed": 5, "temperature": 0.9, "max_tokens": 12}
    answer = exchange(served.base, "POST", "/v1/completions", body).json()
    assert "choices" in answer, answer
    assert len({choice["text"] for choice in answer["choices"]}) == 2
    assert answer["usage"]["prompt_tokens"] == 40


@pytest.mark.parametrize(
    ("path", "body", "field", "status"),
    [
        ("/generate", {"inputs": "aao", "parameters": {"decoder_input_details": True}}, "decoder_input_details", 422),
        ("/v1/completions", {"model": "any", "prompt": "aao", "echo": True, "logprobs": 1}, "echo", 422),
        ("/v1/completions", {"model": "any", "prompt": "aao", "prompt_logprobs": 1}, "prompt_logprobs", 422),
    ],
)
def test_scores_of_a_prompt_are_refused_by_name(
    served: Served, path: str, body: dict[str, Any], field: str, status: int
) -> None:
    answer = exchange(served.base, "POST", path, body)
    assert answer.status == status
    assert f"`{field}` is" in answer.body.decode()


def test_a_prompt_is_echoed_without_an_answer(served: Served) -> None:
    body = {"model": "any", "prompt": "aao", "echo": True, "max_tokens": 0}
    answer = exchange(served.base, "POST", "/v1/completions", body)
    assert answer.status == 200, answer.body
    assert answer.json()["choices"][0]["text"] == "aao"


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 2])
def test_streams_survive_the_loss_of_a_shard(serve: Serve, model: Path, shards: int) -> None:
    served = serve(model, *FLAGS, "--num-shard", str(shards))
    prompts = WordPrompts(model, seed=3)
    asks = [
        Ask(ask.text, ask.max_new_tokens, ask.parameters, stops_at_eos=False) for ask in mixed_asks(prompts, 150, 200)
    ]
    shard, counts = served.shard(shards - 1).pid, dict[int, int]()
    killed = []

    def kill_in_the_middle(answer: Answer) -> None:
        counts[id(answer)] = len(answer.token_ids)
        if not killed and len(counts) == REQUESTS and min(counts.values()) >= 5:
            killed.append(all(count < 150 for count in counts.values()))
            os.kill(shard, signal.SIGKILL)

    answers = all_at_once(served.base, asks, kill_in_the_middle)
    assert killed == [True], "the shard was not killed in the middle of every stream"
    judge(model, prompts, asks, answers)
