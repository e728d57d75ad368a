"""Several sequences of one request, through the whole path: `n`, `best_of`, and runs that can be asked for again."""

from __future__ import annotations

import json
from typing import Any

from load.client import exchange
from load.served import Served
from load.usage import wait_released

SAMPLED = {"temperature": 1.2, "max_tokens": 8, "ignore_eos": True}


def complete(served: Served, **fields: Any) -> dict[str, Any]:
    """A completion of one prompt."""
    body = {"model": "tgi", "prompt": "one two three", **SAMPLED, **fields}
    reply = exchange(served.base, "POST", "/v1/completions", body)
    assert reply.status == 200, reply.body
    return reply.json()


def native(served: Served, **parameters: Any) -> dict[str, Any]:
    """A sampled native request with details."""
    wanted = {"do_sample": True, "temperature": 1.2, "max_new_tokens": 8, "ignore_eos": True, "details": True}
    body = {"inputs": "one two three", "parameters": {**wanted, **parameters}}
    reply = exchange(served.base, "POST", "/generate", body)
    assert reply.status == 200, reply.body
    return reply.json()


def texts(answer: dict[str, Any]) -> list[str]:
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(answer["choices"])))
    return [choice["text"] for choice in answer["choices"]]


def test_choices_differ_and_the_first_is_what_one_alone_says(tiny_server: Served) -> None:
    alone = texts(complete(tiny_server, seed=11))
    both = complete(tiny_server, seed=11, n=2)
    assert texts(both)[0] == alone[0]
    assert len(set(texts(both))) == 2
    assert texts(complete(tiny_server, seed=11, n=2)) == texts(both)
    assert both["usage"]["completion_tokens"] == 16


def test_streamed_choices_are_the_same_as_whole_ones(tiny_server: Served) -> None:
    body = {"model": "tgi", "prompt": "one two three", **SAMPLED, "seed": 11, "n": 2, "stream": True}
    reply = exchange(tiny_server.base, "POST", "/v1/completions", body)
    events = [line.removeprefix("data: ") for line in reply.body.decode().splitlines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    streamed = ["", ""]
    for event in events:
        for choice in json.loads(event)["choices"]:
            streamed[choice["index"]] += choice["text"]
    assert streamed == texts(complete(tiny_server, seed=11, n=2))


def test_every_run_of_best_of_can_be_asked_for_again_by_its_seed(tiny_server: Served) -> None:
    answer = native(tiny_server, best_of=2)
    runs = [answer["details"], *answer["details"]["best_of_sequences"]]
    assert len(runs) == 2
    means = [sum(token["logprob"] for token in run["tokens"]) / len(run["tokens"]) for run in runs]
    assert means == sorted(means, reverse=True)
    for run in runs:
        again = native(tiny_server, seed=run["seed"])["details"]
        assert [token["id"] for token in again["tokens"]] == [token["id"] for token in run["tokens"]]


def test_nothing_is_left_of_a_request_with_choices(tiny_server: Served) -> None:
    complete(tiny_server, n=2, stop=["e"])
    wait_released(tiny_server)
