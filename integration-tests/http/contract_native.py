"""The native routes' promises: parameters, their order of checks, answers, streams, headers (http-api.md §2 to §9)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise

from contract_rules import (
    PROMPT,
    Rule,
    body,
    header,
    native,
    native_error,
    plain_error,
    status,
)
from load.client import Json

GENERATE, STREAM, ROOT = "/generate", "/generate_stream", "/"
SHORT: Json = {"max_new_tokens": 2}
COUNTED = ("x-total-time", "x-validation-time", "x-queue-time", "x-inference-time", "x-time-per-token")


def native_rules() -> Iterator[Rule]:
    """In the order of the contract."""
    yield from bodies()
    yield from accepted()
    yield from refused()
    yield from order()
    yield from answers()


def bodies() -> Iterator[Rule]:
    """§2."""
    for route in (GENERATE, STREAM, ROOT, "/tokenize", "/invocations", "/vertex", "/chat_tokenize"):
        yield Rule(
            2,
            f"POST {route}",
            "content-type",
            "absent is 415",
            plain_error(415),
            {"inputs": "a"},
            {"content-type": "text/plain"},
        )
        yield Rule(
            2,
            f"POST {route}",
            "body",
            "of the wrong shape is plain 422",
            plain_error(422),
            {"inputs": 3, "instances": 3, "messages": 3},
        )
    for route in (GENERATE, STREAM, ROOT, "/tokenize", "/invocations", "/vertex", "/chat_tokenize"):
        yield Rule(2, f"POST {route}", "body", "cut short is plain 400", plain_error(400), b'{"inputs": "a"')
    yield Rule(2, "GET /nowhere", "path", "unknown is 404 and empty", (status(404), lambda reply: reply.body == b""))
    yield Rule(
        2,
        "GET /generate",
        "method",
        "wrong is 405 with Allow",
        (status(405), header("allow", lambda value: value == "POST")),
    )
    yield Rule(
        2,
        "GET /health",
        "cors",
        "any origin may read",
        (header("access-control-allow-origin", lambda value: value == "*"),),
    )
    vary = "origin, access-control-request-method, access-control-request-headers"
    yield Rule(2, "GET /info", "vary", "names the three headers", (header("vary", lambda value: vary in value),))
    asks = {
        "origin": "http://a.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }
    for name in ("content-type", "authorization"):
        allowed = header("access-control-allow-headers", lambda value, name=name: name in value.split(","))
        yield Rule(2, "OPTIONS /generate", "preflight", f"allows {name}", (status(200), allowed), None, asks)
    methods = header("access-control-allow-methods", lambda value: {"GET", "POST"} <= set(value.split(",")))
    yield Rule(2, "OPTIONS /generate", "preflight", "allows GET and POST", (status(200), methods), None, asks)
    unknown = native_error("validation", "`temprature`", "`temperature`")
    yield native(
        GENERATE, "temprature", "unknown: 422 with the nearest name (TGI: ignored)", {"temprature": 1}, *unknown
    )
    taken = body(text)
    yield Rule(
        2, "POST /generate", "options", "is taken", (taken,), {"inputs": PROMPT, "options": {}, "parameters": SHORT}
    )
    nothing = {"inputs": PROMPT, "parameters": None}
    yield Rule(2, "POST /generate", "parameters", "null is as absent (TGI: 422)", (taken,), nothing)
    others: dict[str, Json] = {"parameters": {}, "stream": {"parameters": SHORT}}
    for field, more in others.items():
        yield Rule(
            2,
            "POST /",
            field,
            "null is taken (TGI: 422)",
            (body(lambda answer: answer[0]["generated_text"]),),
            {"inputs": PROMPT, field: None} | more,
        )


def text(answer: dict[str, object]) -> bool:
    """A whole answer without details."""
    return set(answer) == {"generated_text"} and isinstance(answer["generated_text"], str)


def accepted() -> Iterator[Rule]:
    """§3: values that are taken."""
    fine = body(text)
    taken = {
        "best_of": [1, 2],
        "temperature": [0.5, 1.0],
        "repetition_penalty": [0.5, 1.3],
        "frequency_penalty": [-2.0, 2.0],
        "top_k": [1, 50],
        "top_p": [0.5, 1.0],
        "typical_p": [0.5, 1.0],
        "do_sample": [True, False],
        "max_new_tokens": [1, 3],
        "return_full_text": [True, False],
        "stop": [["a", "b", "c", "d"], "a"],
        "truncate": [1],
        "watermark": [True, False],
        "details": [False],
        "decoder_input_details": [False],
        "seed": [0, 2**64 - 1],
        "top_n_tokens": [0, 5],
        "grammar": [None],
        "adapter_id": [None],
        "min_p": [0.1],
        "ignore_eos": [True],
        "min_tokens": [1],
        "stop_token_ids": [[5]],
        "priority": [-1],
        "cache_salt": ["a"],
    }
    for field, values in taken.items():
        for value in values:
            parameters = {field: value} | ({"do_sample": True} if field == "best_of" else {})
            yield native(GENERATE, field, f"{value!r} is taken", parameters, fine)
        yield native(GENERATE, field, "null is its default", {field: None}, fine)
    yield native(GENERATE, "parameters", "absent: it samples, and the seed is random", None, status(200), body(text))
    greedy = body(lambda answer: answer["details"]["seed"] is None)
    yield native(GENERATE, "do_sample", "parameters present: greedy, no seed", {"details": True}, greedy)
    sampled = body(lambda answer: isinstance(answer["details"]["seed"], int))
    for field, value in (("temperature", 0.5), ("top_k", 3), ("top_p", 0.9), ("typical_p", 0.9), ("do_sample", True)):
        yield native(GENERATE, field, "asks for sampling, so there is a seed", {field: value, "details": True}, sampled)
    kept = body(lambda answer: answer["details"]["seed"] == 7)
    yield native(GENERATE, "seed", "comes back", {"do_sample": True, "seed": 7, "details": True}, kept)
    prefill = body(
        lambda answer: (
            len(answer["details"]["prefill"]) > 2
            and answer["details"]["prefill"][0]["logprob"] is None
            and all(set(token) == {"id", "text", "logprob"} for token in answer["details"]["prefill"])
            and all(token["logprob"] <= 0 for token in answer["details"]["prefill"][1:])
        )
    )
    scored = {"decoder_input_details": True}
    yield native(GENERATE, "decoder_input_details", "shows the details, with the prompt scored", scored, prefill)
    full = body(lambda answer: answer["generated_text"].startswith(PROMPT))
    yield native(GENERATE, "return_full_text", "the prompt comes first", {"return_full_text": True}, full)
    yield native(
        ROOT,
        "return_full_text",
        "on / by default",
        {},
        body(lambda answer: answer[0]["generated_text"].startswith(PROMPT)),
    )
    apart = body(lambda answer: not answer[0]["generated_text"].startswith(PROMPT))
    yield native(ROOT, "return_full_text", "false: the answer alone", {"return_full_text": False}, apart)
    digits = body(lambda answer: re.fullmatch("[0-9]{3}", answer["generated_text"]) is not None)
    regex = {"type": "regex", "value": "[0-9]{3}"}
    yield native(GENERATE, "grammar", "a regex is followed", {"grammar": regex, "max_new_tokens": 9}, digits)
    whole = {"properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
    an_object = body(lambda answer: set(json.loads(answer["generated_text"])) == {"a"})
    untyped = {"grammar": {"type": "json", "value": whole}, "max_new_tokens": 200}
    yield native(GENERATE, "grammar", "properties without a type are an object's", untyped, an_object)
    cut = header("x-prompt-tokens", lambda value: value == "2")
    yield native(GENERATE, "truncate", "keeps the last tokens", {"truncate": 2}, status(200), cut)


def refused() -> Iterator[Rule]:
    """§3: values that are not."""
    wrong: dict[str, list[object]] = {
        "best_of": [3],
        "temperature": [0.0, -1.0],
        "repetition_penalty": [0.0, -1.0],
        "frequency_penalty": [-2.1, 2.1],
        "top_k": [0, -1],
        "top_p": [0.0, 1.1],
        "typical_p": [0.0, 1.1],
        "max_new_tokens": [0, 10**9],
        "stop": [["a", "b", "c", "d", "e"], [""]],
        "truncate": [0, 10**9],
        "top_n_tokens": [6],
        "adapter_id": ["nobody"],
        "grammar": [{"type": "json"}, {"type": "regex", "value": "a("}, {"type": "json", "value": {"not": {}}}],
    }
    for field, values in wrong.items():
        for value in values:
            for route in (GENERATE, STREAM):
                yield native(
                    route,
                    field,
                    f"{value!r} is 422 by name",
                    {field: value, "do_sample": True},
                    *native_error("validation", field),
                )
    mistyped = {
        "temperature": "hot",
        "top_k": 1.5,
        "max_new_tokens": -1,
        "stop": 3,
        "seed": -1,
        "details": "yes",
        "do_sample": 1,
        "best_of": "2",
        "truncate": [1],
    }
    for field, value in mistyped.items():
        yield native(
            GENERATE,
            field,
            f"{value!r} is plain 422 with the path",
            {field: value},
            *plain_error(422),
            lambda reply, field=field: f"parameters.{field}" in reply.body.decode(),
        )
    yield native(
        STREAM,
        "best_of",
        "a stream has exactly 1",
        {"best_of": 2, "do_sample": True},
        *native_error("validation", "best_of"),
    )
    yield native(
        STREAM,
        "decoder_input_details",
        "not in a stream",
        {"decoder_input_details": True},
        *native_error("validation", "decoder_input_details"),
    )
    yield native(GENERATE, "best_of", "needs sampling", {"best_of": 2}, *native_error("validation", "best_of"))
    yield native(
        GENERATE,
        "seed",
        "not with best_of",
        {"best_of": 2, "do_sample": True, "seed": 1},
        *native_error("validation", "seed"),
    )
    for route, value in ((GENERATE, True), (STREAM, False)):
        against = {"inputs": "a", "stream": value}
        named = native_error("validation", "`stream`")
        yield Rule(3, f"POST {route}", "stream", "against the route is 422 (TGI: ignored)", named, against)
    for route in (GENERATE, STREAM, ROOT):
        yield Rule(3, f"POST {route}", "inputs", "empty is 422", native_error("validation", "inputs"), {"inputs": ""})
        yield Rule(3, f"POST {route}", "inputs", "missing is plain 422", plain_error(422), {"parameters": {}})


ORDER = [
    ("best_of", 3),
    ("temperature", 0.0),
    ("repetition_penalty", 0.0),
    ("frequency_penalty", 3.0),
    ("top_p", 0.0),
    ("typical_p", 0.0),
    ("top_k", 0),
    ("max_new_tokens", 0),
    ("stop", ["a"] * 5),
    ("top_n_tokens", 6),
]


def order() -> Iterator[Rule]:
    """§4: of two wrong values, the one that TGI checks first is named."""
    for (first, value), (second, other) in pairwise(ORDER):
        both = {first: value, second: other, "do_sample": True}
        named = (
            *native_error("validation", f"`{first}`"),
            lambda reply, second=second: f"`{second}`" not in reply.json()["error"],
        )
        yield native(GENERATE, first, f"is checked before {second}", both, *named, section=4)
    late = {"inputs": "", "parameters": {"top_n_tokens": 6}}
    yield Rule(
        4,
        "POST /generate",
        "top_n_tokens",
        "is checked before the prompt",
        native_error("validation", "top_n_tokens"),
        late,
    )
    early = {"inputs": "", "parameters": {"truncate": 0}}
    yield Rule(4, "POST /generate", "inputs", "is checked before truncate", native_error("validation", "inputs"), early)
    seeded = {"best_of": 2, "do_sample": True, "seed": 1}
    for other, wrong, first in (("stop", ["a"] * 5, "`stop`"), ("top_n_tokens", 6, "`seed`")):
        says = f"and best_of are checked {'after' if first == '`stop`' else 'before'} {other}"
        yield native(GENERATE, "seed", says, seeded | {other: wrong}, *native_error("validation", first), section=4)
    long = {"inputs": PROMPT, "parameters": {"max_new_tokens": 100_000}}
    yield Rule(
        4,
        "POST /generate",
        "max_new_tokens",
        "prompt and generation must fit",
        native_error("validation", "100000"),
        long,
    )
    longer = {"inputs": "word " * 40_000, "parameters": {"max_new_tokens": 1}}
    yield Rule(4, "POST /generate", "inputs", "too long a prompt is 422", native_error("validation"), longer)


DETAILS = {"finish_reason", "generated_tokens", "seed", "prefill", "tokens"}


def answers() -> Iterator[Rule]:
    """§6."""
    asked = {"details": True, "max_new_tokens": 3, "ignore_eos": True}
    yield native(GENERATE, "details", "absent: no such key", {}, body(text), section=6)
    yield native(
        GENERATE, "details", "has these keys", asked, body(lambda answer: set(answer["details"]) == DETAILS), section=6
    )
    counted = body(lambda answer: answer["details"]["generated_tokens"] == len(answer["details"]["tokens"]) == 3)
    yield native(GENERATE, "details.tokens", "as many as were generated", asked, counted, section=6)
    keys = body(
        lambda answer: all(set(token) == {"id", "text", "logprob", "special"} for token in answer["details"]["tokens"])
    )
    yield native(GENERATE, "details.tokens", "each with four keys", asked, keys, section=6)
    yield native(
        GENERATE,
        "details.prefill",
        "empty unless asked for",
        asked,
        body(lambda answer: answer["details"]["prefill"] == []),
        section=6,
    )
    length = body(lambda answer: answer["details"]["finish_reason"] == "length")
    yield native(GENERATE, "details.finish_reason", "length", asked, length, section=6)
    stopped = body(
        lambda answer: answer["details"]["finish_reason"] == "stop_sequence" and answer["generated_text"].endswith("e")
    )
    yield native(
        GENERATE,
        "stop",
        "stays in the text, which ends with it",
        asked | {"stop": ["e"], "max_new_tokens": 200},
        stopped,
        section=6,
    )
    tops = body(
        lambda answer: (
            all(len(top) >= 2 for top in answer["details"]["top_tokens"]) and len(answer["details"]["top_tokens"]) == 3
        )
    )
    yield native(
        GENERATE, "details.top_tokens", "at least n for each token", asked | {"top_n_tokens": 2}, tops, section=6
    )
    no_tops = body(lambda answer: "top_tokens" not in answer["details"])
    yield native(GENERATE, "details.top_tokens", "no key where n is 0", asked | {"top_n_tokens": 0}, no_tops, section=6)
    others = body(lambda answer: set(answer["details"]["best_of_sequences"][0]) >= DETAILS | {"generated_text"})
    yield native(
        GENERATE,
        "details.best_of_sequences",
        "the losing runs",
        asked | {"best_of": 2, "do_sample": True},
        others,
        section=6,
    )
    single = body(lambda answer: "best_of_sequences" not in answer["details"])
    yield native(GENERATE, "details.best_of_sequences", "no key for one run", asked, single, section=6)
    yield native(
        ROOT, "answer", "an array of one", {}, body(lambda answer: len(answer) == 1 and text(answer[0])), section=6
    )
    for tokens in (1, 7):
        exact = body(lambda answer, tokens=tokens: answer["details"]["generated_tokens"] == tokens)
        yield native(
            GENERATE, "max_new_tokens", f"is exact: {tokens}", asked | {"max_new_tokens": tokens}, exact, section=5
        )
