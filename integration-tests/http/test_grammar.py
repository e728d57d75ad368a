"""Grammars through the whole path, with the bundled model: every finished answer follows what was asked, in every form."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest
from load.client import exchange
from load.served import Served
from load.usage import wait_released

Json = dict[str, Any]
POINT: Json = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 99}, "label": {"enum": ["near", "far"]}},
    "required": ["x", "label"],
    "additionalProperties": False,
}
WEEKDAY = r"(Mon|Tues|Wednes|Thurs|Fri)day, [0-3]\d\.\d{2}"


def post(served: Served, path: str, body: Json) -> Json:
    reply = exchange(served.base, "POST", path, body)
    assert reply.status == 200, reply.body
    return reply.json()


def native(served: Served, grammar: Json, **parameters: Any) -> Json:
    wanted = {"grammar": grammar, "details": True, "max_new_tokens": 200, **parameters}
    return post(served, "/generate", {"inputs": "Where is it?", "parameters": wanted})


def chat(served: Served, **fields: Any) -> Json:
    body = {"model": "tgi", "messages": [{"role": "user", "content": "Where is it?"}], "max_tokens": 200, **fields}
    return post(served, "/v1/chat/completions", body)["choices"][0]


def completions(served: Served, **fields: Any) -> list[Json]:
    return post(served, "/v1/completions", {"model": "tgi", "prompt": "It is", "max_tokens": 200, **fields})["choices"]


def check_point(text: str) -> None:
    jsonschema.validate(json.loads(text), POINT)


@pytest.mark.parametrize(
    "grammar",
    [
        {"type": "json", "value": POINT},
        {"type": "json", "value": json.dumps(POINT)},
        {"type": "json_object", "value": POINT},
        {"type": "json_schema", "value": {"name": "point", "schema": POINT}},
    ],
)
def test_every_native_form_of_a_schema_is_followed(demo_server: Served, grammar: Json) -> None:
    answer = native(demo_server, grammar)
    check_point(answer["generated_text"])
    assert answer["details"]["finish_reason"] == "eos_token"


def test_a_native_regex_is_matched_by_the_whole_text(demo_server: Served) -> None:
    for seed in range(4):
        grammar = {"type": "regex", "value": WEEKDAY}
        text = native(demo_server, grammar, do_sample=True, temperature=1.5, seed=seed)["generated_text"]
        assert re.fullmatch(WEEKDAY, text), text


def test_every_openai_form_is_followed(demo_server: Served) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "point", "schema": POINT, "strict": True}}
    choice = chat(demo_server, response_format=schema)
    check_point(choice["message"]["content"])
    assert choice["finish_reason"] == "stop"
    check_point(chat(demo_server, guided_json=POINT)["message"]["content"])
    anything = chat(demo_server, response_format={"type": "json_object"}, max_tokens=400)
    if anything["finish_reason"] == "stop":
        assert isinstance(json.loads(anything["message"]["content"]), dict)
    weekday = chat(demo_server, guided_regex=WEEKDAY)["message"]["content"]
    assert re.fullmatch(WEEKDAY, weekday)
    assert completions(demo_server, guided_choice=["a.b", "c/d\n"])[0]["text"] in ("a.b", "c/d\n")
    nested = completions(demo_server, guided_grammar='start: "<" start ">" | "x"', max_tokens=64)[0]
    if nested["finish_reason"] == "stop":
        assert re.fullmatch("(<*)x(>*)", nested["text"])


def test_choices_streams_penalties_and_top_tokens_follow_it_too(demo_server: Served) -> None:
    fields = {"guided_json": POINT, "temperature": 1.3, "n": 2, "seed": 3}
    sampled = completions(
        demo_server, **fields, presence_penalty=2, frequency_penalty=2, repetition_penalty=1.5, min_p=0.01
    )
    for choice in sampled:
        check_point(choice["text"])
    logged = chat(demo_server, guided_json=POINT, logprobs=True, top_logprobs=5)
    check_point(logged["message"]["content"])
    for token in logged["logprobs"]["content"]:
        assert token["token"] in [top["token"] for top in token["top_logprobs"]]
    body = {"inputs": "Where?", "parameters": {"grammar": {"type": "json", "value": POINT}, "max_new_tokens": 200}}
    stream = exchange(demo_server.base, "POST", "/generate_stream", body).body.decode()
    events = [json.loads(line.removeprefix("data:")) for line in stream.splitlines() if line.startswith("data:")]
    check_point(events[-1]["generated_text"])


def test_a_cut_answer_says_so(demo_server: Served) -> None:
    cut = chat(demo_server, guided_json=POINT, max_tokens=3)
    assert cut["finish_reason"] == "length"
    assert (
        native(demo_server, {"type": "json", "value": POINT}, max_new_tokens=3)["details"]["finish_reason"] == "length"
    )


def test_the_grammar_wins_over_min_tokens_and_ignore_eos(demo_server: Served) -> None:
    for fields in ({"min_tokens": 100}, {"ignore_eos": True}):
        choice = chat(demo_server, guided_choice=["yes", "no"], **fields)
        assert choice["message"]["content"] in ("yes", "no")
        assert choice["finish_reason"] == "stop"


def test_with_ignore_eos_a_request_still_ends_at_its_own_stops(demo_server: Served) -> None:
    letters = {"type": "regex", "value": "[a-z ]+"}

    def ended(**stops: list[Any]) -> tuple[str, str, list[int]]:
        answer = native(demo_server, letters, ignore_eos=True, max_new_tokens=30, **stops)
        details = answer["details"]
        return details["finish_reason"], answer["generated_text"], [token["id"] for token in details["tokens"]]

    reason, text, ids = ended()
    assert (reason, len(ids)) == ("length", 30)
    stop = text[7:10]
    assert ended(stop=[stop])[:2] == ("stop_sequence", text[: text.index(stop) + len(stop)])
    last = ids[4]
    assert ended(stop_token_ids=[last])[::2] == ("eos_token", ids[: ids.index(last) + 1])


def test_a_long_prompt_in_chunks_is_followed_by_the_same_text(demo_server: Served) -> None:
    for text in ("word " * 20, "word " * 600):  # the second is fed in several chunks
        body = {"inputs": text, "parameters": {"grammar": {"type": "json", "value": POINT}, "max_new_tokens": 200}}
        check_point(post(demo_server, "/generate", body)["generated_text"])


def test_constrained_and_free_requests_run_beside_each_other(demo_server: Served) -> None:
    free = {"inputs": "Hello", "parameters": {"max_new_tokens": 60, "details": True}}
    with ThreadPoolExecutor(16) as pool:
        points = [pool.submit(native, demo_server, {"type": "json", "value": POINT}) for _ in range(8)]
        others = [pool.submit(post, demo_server, "/generate", free) for _ in range(4)]
        bad = [
            pool.submit(
                exchange, demo_server.base, "POST", "/generate", {"inputs": "a", "parameters": {"grammar": grammar}}
            )
            for grammar in ({"type": "regex", "value": "a("}, {"type": "json", "value": {"not": {}}})
        ]
        for point in points:
            check_point(point.result()["generated_text"])
        assert all(other.result()["details"]["generated_tokens"] > 0 for other in others)
        assert [reply.result().status for reply in bad] == [422, 422]
    wait_released(demo_server)
