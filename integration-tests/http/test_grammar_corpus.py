"""Every finished answer validates against its schema: a corpus of more than 300, by hand and drawn, through the whole path."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest
from figures import show
from load.client import exchange
from load.served import Served
from schema_corpus import by_hand, drawn

TOKENS = 400
CLIENTS = 8
DRAWN = 260


def answer(served: Served, schema: Any, seed: int) -> tuple[str, str]:
    """The text of a sampled answer and how it ended."""
    parameters = {"do_sample": True, "seed": seed, "max_new_tokens": TOKENS, "details": True}
    body = {"inputs": "Here is the JSON:", "parameters": {**parameters, "grammar": {"type": "json", "value": schema}}}
    reply = exchange(served.base, "POST", "/generate", body)
    assert reply.status == 200, (schema, reply.body)
    found = reply.json()
    return found["generated_text"], found["details"]["finish_reason"]


def check(served: Served, schemas: list[Any], least_finished: float) -> None:
    """Asks for all of them, some at a time; at least this share must be finished, and all of those be right."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda pair: answer(served, pair[1], pair[0]), enumerate(schemas)))
    finished = 0
    for schema, (text, reason) in zip(schemas, answers, strict=True):
        if reason == "length":
            continue
        assert reason == "eos_token", (schema, reason)
        finished += 1
        try:
            jsonschema.validate(json.loads(text), schema)
        except (ValueError, jsonschema.ValidationError) as error:
            pytest.fail(f"{json.dumps(schema)} allowed {text!r}: {error}")
    show(f"grammars: {finished} of {len(schemas)} answers finished and valid")
    assert finished >= least_finished * len(schemas)


def test_a_few_schemas_of_each_kind(demo_server: Served) -> None:
    check(demo_server, by_hand()[::6] + drawn(6), 0.8)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_corpus(demo_server: Served) -> None:
    corpus = by_hand() + drawn(DRAWN)
    assert len(corpus) >= 300
    check(demo_server, corpus, 0.9)
