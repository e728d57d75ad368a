"""Beam search through the whole path finds what transformers' `generate(num_beams=…)` finds, whatever else goes on."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from asking import post
from beams import ROUNDING, BeamReference, Found, Search
from figures import show
from load.client import exchange
from load.metrics_text import total
from load.served import Served
from load.usage import wait_released
from tokenizers import Tokenizer

PROMPTS = ("one two three", "the quick brown fox", "a b c d e f g", "it was a dark night and")
SEARCHES = (
    Search(4, 4),
    Search(3, 2, length_penalty=0.0, early_stopping=True),
    Search(4, 1, length_penalty=2.0, early_stopping="never"),
    Search(2, 2, length_penalty=-0.5),
)
SCORE_TOLERANCE = 1e-3
DEADLINE_SECONDS = 60.0


@pytest.fixture(scope="module")
def reference(tiny_model: Path) -> BeamReference:
    return BeamReference(tiny_model)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_model / "tokenizer.json"))


def body(prompt: list[int], asked: Search) -> dict[str, Any]:
    """The completions request of a search."""
    return {
        "prompt": prompt,
        "use_beam_search": True,
        "best_of": asked.num_beams,
        "n": asked.num_return_sequences,
        "length_penalty": asked.length_penalty,
        "early_stopping": asked.early_stopping,
        "max_tokens": asked.max_new_tokens,
        "stop_token_ids": list(asked.stop_token_ids),
        "logprobs": 0,
    }


def differs(answer: dict[str, Any], asked: Search, found: Found, tokenizer: Tokenizer) -> str | None:
    """What of an answer is not as the reference found it."""
    choices = answer["choices"]
    assert [choice["index"] for choice in choices] == list(range(asked.num_return_sequences))
    counted = sum(len(choice["logprobs"]["tokens"]) for choice in choices)
    assert answer["usage"]["completion_tokens"] == counted
    expected = zip(choices, found.sequences, found.scores, found.stopped, strict=True)
    for choice, sequence, score, stopped in expected:
        words = [tokenizer.decode([token], skip_special_tokens=False) for token in sequence]
        logprobs = choice["logprobs"]["token_logprobs"]
        ours = sum(logprobs) / len(logprobs) ** asked.length_penalty
        if choice["logprobs"]["tokens"] != words:
            return f"{choice['logprobs']['tokens']} (score {ours:.5f}), the reference has {words} ({score:.5f})"
        if abs(ours - score) > SCORE_TOLERANCE * max(1.0, abs(score)):
            return f"score {ours:.5f} of {words}, the reference has {score:.5f}"
        assert choice["finish_reason"] == ("stop" if stopped else "length"), choice
    return None


def judge(served: Served, cases: list[tuple[list[int], Search]], model: BeamReference, tokenizer: Tokenizer) -> None:
    """Sends all searches at once. One in ten may differ, and only where rounding explains it."""
    expected = [model.search(prompt, asked) for prompt, asked in cases]
    with ThreadPoolExecutor(len(cases)) as clients:
        answers = list(clients.map(lambda case: post(served, "/v1/completions", body(*case)), cases))
    margin = 0
    for (prompt, asked), found, answer in zip(cases, expected, answers, strict=True):
        assert answer["usage"]["prompt_tokens"] == len(prompt)
        if complaint := differs(answer, asked, found, tokenizer):
            assert found.least_gap < ROUNDING, (
                f"{asked}: {complaint}; no two candidates nearer than {found.least_gap:g}"
            )
            margin += 1
    show(f"beam search: {len(cases)} searches, {margin} margin cases (limit {len(cases) / 10:g})")
    assert margin <= max(1, len(cases) // 10)


def stopping(asked: Search, prompt: list[int], model: BeamReference) -> Search:
    """The same search, with stop tokens that beams will meet on their way."""
    first = model.search(prompt, asked).sequences[0]
    return Search(**{**vars(asked), "stop_token_ids": (first[4], first[9])})


def test_searches_equal_transformers_on_a_random_llama(
    beam_server: Served, reference: BeamReference, tokenizer: Tokenizer
) -> None:
    prompts = [tokenizer.encode(text).ids for text in PROMPTS]
    plain = list(zip(prompts, SEARCHES, strict=True))
    ended = [(prompt, stopping(asked, prompt, reference)) for prompt, asked in plain]
    crossed = list(zip(prompts, SEARCHES[1:] + SEARCHES[:1], strict=True))
    judge(beam_server, plain + ended + crossed, reference, tokenizer)
    wait_released(beam_server)


def test_searches_equal_transformers_on_the_bundled_model(demo_server: Served, demo_model: Path) -> None:
    tokenizer = Tokenizer.from_file(str(demo_model / "tokenizer.json"))
    eos = json.loads((demo_model / "config.json").read_text())["eos_token_id"]
    asked = Search(2, 2, max_new_tokens=24, stop_token_ids=(eos,))
    prompts = [tokenizer.encode(text).ids for text in PROMPTS]
    judge(demo_server, [(prompt, asked) for prompt in prompts], BeamReference(demo_model), tokenizer)


def test_beams_run_beside_ordinary_streams(beam_server: Served, reference: BeamReference, tokenizer: Tokenizer) -> None:
    ordinary = {"prompt": "one two three four", "max_tokens": 200, "ignore_eos": True, "temperature": 0}
    prompts = [tokenizer.encode(text).ids for text in PROMPTS]
    with ThreadPoolExecutor(16) as clients:
        streams = [clients.submit(post, beam_server, "/v1/completions", ordinary) for _ in range(16)]
        judge(beam_server, [(prompt, SEARCHES[0]) for prompt in prompts], reference, tokenizer)
        answers = [stream.result() for stream in streams]
    assert {answer["usage"]["completion_tokens"] for answer in answers} == {200}
    wait_released(beam_server)


def test_a_stream_shows_the_found_texts_at_the_end(beam_server: Served, tokenizer: Tokenizer) -> None:
    asked = body(tokenizer.encode(PROMPTS[1]).ids, SEARCHES[0])
    whole = post(beam_server, "/v1/completions", asked)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    reply = exchange(beam_server.base, "POST", "/v1/completions", {**asked, **options})
    assert reply.status == 200, reply.body
    lines = [line.removeprefix("data: ") for line in reply.body.decode().splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    events = [json.loads(line) for line in lines]
    texts = [""] * SEARCHES[0].num_return_sequences
    for choice in (choice for event in events for choice in event["choices"]):
        texts[choice["index"]] += choice["text"]
    assert texts == [choice["text"] for choice in whole["choices"]]
    assert events[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_grammars_and_biases_hold_for_every_beam(
    beam_server: Served, reference: BeamReference, tokenizer: Tokenizer
) -> None:
    search = Search(4, 3)
    prompt = tokenizer.encode(PROMPTS[2]).ids
    asked = body(prompt, search)
    chosen = post(beam_server, "/v1/completions", {**asked, "guided_choice": ["x", "y", "z"]})["choices"]
    assert sorted(choice["text"] for choice in chosen) == ["x", "y", "z"]
    assert {choice["finish_reason"] for choice in chosen} == {"stop"}
    few = exchange(beam_server.base, "POST", "/v1/completions", {**asked, "guided_choice": ["x", "y"]})
    assert (few.status, few.json()["error"]["param"]) == (422, "n")
    best = reference.search(prompt, search).sequences[0][0]
    biased = post(beam_server, "/v1/completions", {**asked, "logit_bias": {str(best): -100}})
    firsts = {choice["logprobs"]["tokens"][0] for choice in biased["choices"]}
    assert tokenizer.decode([best]) not in firsts


def test_clients_that_leave_take_their_beams_with_them(beam_server: Served, tokenizer: Tokenizer) -> None:
    rounds = 1000
    long = body(tokenizer.encode(PROMPTS[3]).ids, Search(8, 2, max_new_tokens=rounds))
    for _ in range(3):
        connection = http.client.HTTPConnection("127.0.0.1", int(beam_server.base.rsplit(":", 1)[1]))
        before = steps(beam_server)
        connection.request("POST", "/v1/completions", json.dumps(long), {"content-type": "application/json"})
        wait_for(beam_server, before + 5)
        connection.close()
        assert steps_at_rest(beam_server) < before + rounds, "the search went on to its end"


def test_a_deadline_ends_a_search(beam_server: Served, tokenizer: Tokenizer) -> None:
    long = body(tokenizer.encode(PROMPTS[3]).ids, Search(8, 1, max_new_tokens=1000))
    before = steps(beam_server)
    headers = {"content-type": "application/json", "x-request-timeout": "0.2"}
    reply = exchange(beam_server.base, "POST", "/v1/completions", json.dumps(long).encode(), headers)
    assert reply.status == 504, reply.body
    assert steps_at_rest(beam_server) < before + 1000


def steps(served: Served) -> float:
    """Steps so far."""
    return total(served.get("/metrics"), "ribbon_step_seconds_count")


def wait_for(served: Served, count: float) -> None:
    """Waits until so many decode steps were made."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while steps(served) < count:
        assert time.monotonic() < deadline, f"{steps(served)} steps, {count} were to come"
        time.sleep(0.005)


def steps_at_rest(served: Served) -> float:
    """Steps so far, once nothing is held and no more are made."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        before = steps(served)
        wait_released(served)
        time.sleep(0.2)
        if steps(served) == before:
            return before
    raise AssertionError("steps are still made")


def killed_meanwhile(served: Served, asked: dict[str, Any]) -> dict[str, Any]:
    """The answer to a search whose shard was killed under it."""
    for _ in range(20):
        shard, before = served.shard(), steps(served)
        with ThreadPoolExecutor(1) as client:
            answer = client.submit(post, served, "/v1/completions", asked)
            wait_for(served, before + 20)
            # On a loaded machine the search may be over by the time this is looked at.
            if not answer.done():
                os.kill(shard.pid, signal.SIGKILL)
                return answer.result()
    raise AssertionError("every search was over before the shard could be killed")


def test_a_search_outlives_the_shard(beam_server: Served, reference: BeamReference, tokenizer: Tokenizer) -> None:
    asked = Search(4, 2, max_new_tokens=200)
    prompt = tokenizer.encode(PROMPTS[0]).ids
    answer = killed_meanwhile(beam_server, body(prompt, asked))
    found = reference.search(prompt, asked)
    if complaint := differs(answer, asked, found, tokenizer):
        assert found.least_gap < ROUNDING, complaint
    assert [len(choice["logprobs"]["tokens"]) for choice in answer["choices"]] == [200, 200]
    wait_released(beam_server)
