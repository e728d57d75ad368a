"""Grammars made to hurt: each is refused or bounded, and nobody beside them notices."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from load.client import exchange
from load.served import Served
from load.usage import wait_released

PATIENCE_SECONDS = 60.0
GROWTH_BYTES = 600 << 20


def nested(depth: int, wrap: str) -> Any:
    """A schema within schemas."""
    schema: Any = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema} if wrap == "items" else {wrap: [schema, {"type": "null"}]}
    return schema


def chain(length: int) -> Any:
    """References that go on and on, the last one back to the first."""
    links = {f"d{number}": {"$ref": f"#/$defs/d{(number + 1) % length}"} for number in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": links}


def exponential(depth: int) -> Any:
    """Each definition is twice the one before."""
    defs: Any = {"d0": {"type": "integer"}}
    for number in range(1, depth):
        pair = {"$ref": f"#/$defs/d{number - 1}"}
        defs[f"d{number}"] = {"type": "object", "properties": {"a": pair, "b": pair}, "required": ["a", "b"]}
    return {"allOf": [{"$ref": f"#/$defs/d{depth - 1}"}, {"$ref": f"#/$defs/d{depth - 1}"}], "$defs": defs}


def overlapping(width: int, depth: int) -> Any:
    """oneOf of oneOf of …, of which nothing is known."""
    schema: Any = {"type": "string"}
    for level in range(depth):
        branches = [{"type": "object", "properties": {f"p{level}{number}": schema}} for number in range(width)]
        schema = {"oneOf": branches}
    return schema


SCHEMAS = {
    "deep arrays": nested(60, "items"),
    "deep anyOf": nested(60, "anyOf"),
    "deep oneOf": nested(60, "oneOf"),
    "a ring of references": chain(3),
    "a long ring of references": chain(5_000),
    "a reference to itself": {"$ref": "#"},
    "recursion without end": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    "twice as much each time": exponential(24),
    "wide and deep oneOf": overlapping(6, 5),
    "an enum of 10,000": {"enum": [f"value {number} {number * 7919 % 10007}" for number in range(10_000)]},
    "1,500 properties": {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(1_500)}},
    "optional ones": {
        "type": "object",
        "properties": {f"p{n}": {"type": "integer"} for n in range(300)},
        "minProperties": 2,
    },
    "a million items": {"type": "array", "items": {"type": "string"}, "minItems": 1_000_000},
    "a million letters": {"type": "string", "minLength": 1_000_000},
    "catastrophic pattern": {"type": "string", "pattern": "^(a+)+(a+)+(a+)+$", "minLength": 200},
    "patterns that meet": {
        "type": "object",
        "patternProperties": {".*a.*": {"type": "integer"}, ".*b.*": {"type": "null"}},
    },
    "many patterns": {"type": "object", "patternProperties": {f"^x{n}.*y{n}$": {"type": "null"} for n in range(40)}},
    "huge numbers": {"type": "number", "minimum": 1e308, "maximum": 1.7e308},
    "tiny steps": {"type": "number", "multipleOf": 1e-300},
    "allOf of anyOf": {"allOf": [{"anyOf": [{"enum": list(range(n, n + 12))} for n in range(12)]} for _ in range(8)]},
}
REGEXES = {
    "nested repeats": "((a{1,100}){1,100}){1,100}",
    "a million repeats": "(ab){1000000}",
    "catastrophic": "(a*)*(a*)*(a*)*b",
    "exponential memory": ".*a.{40}",
    "many alternatives": "|".join(f"{n}x{n * 31 % 997}" for n in range(20_000)),
    "unicode": r"\p{L}{300}\p{N}{300}",
    "deep groups": "(" * 2_000 + "a" + ")" * 2_000,
    "classes": "[\\u0000-\\U0010FFFF]{0,5000}",
}
LARKS = {
    "ambiguous": 'start: e\ne: e e | e "+" e | "a"',
    "left and right": 'start: a\na: a a a | "" | "x" a',
    "nothing ends": 'start: "a" start',
    "empty loops": 'start: x\nx: y | ""\ny: x | ""',
    "many rules": "start: r0\n"
    + "\n".join(f'r{n}: "{n}" r{n + 1} | r{n + 1} r{n + 1}' for n in range(3_000))
    + '\nr3000: "z"',
}


def ask(served: Served, grammar: dict[str, Any]) -> int:
    """The status of a request with this grammar; a finished text is not wanted, only an end."""
    body = {"prompt": "x", "max_tokens": 24, "temperature": 1, "seed": 1, **grammar}
    begin = time.monotonic()
    reply = exchange(served.base, "POST", "/v1/completions", body)
    assert time.monotonic() - begin < PATIENCE_SECONDS, grammar.keys()
    if reply.status not in (200, 422):
        # A grammar may turn out too complex in the middle of its text; that is this request's error, with its reason.
        assert reply.status == 500, (reply.status, reply.body)
        assert b"too complex" in reply.body, reply.body
    return reply.status


GRAMMARS = {
    **{name: {"guided_json": schema} for name, schema in SCHEMAS.items()},
    **{name: {"guided_regex": regex} for name, regex in REGEXES.items()},
    **{name: {"guided_grammar": lark} for name, lark in LARKS.items()},
}


@pytest.mark.timeout(600)
def test_no_grammar_hurts_anybody_else(demo_server: Served) -> None:
    memory = [demo_server.router().memory_info().rss, demo_server.shard().memory_info().rss]
    free = {"inputs": "Hello", "parameters": {"max_new_tokens": 40, "ignore_eos": True, "details": True}}
    with ThreadPoolExecutor(6) as pool:
        statuses = {name: pool.submit(ask, demo_server, grammar) for name, grammar in GRAMMARS.items()}
        waiting = set(statuses.values())
        beside = 0
        while any(not status.done() for status in waiting) or not beside:
            reply = exchange(demo_server.base, "POST", "/generate", free)
            assert reply.status == 200, reply.body
            assert reply.json()["details"]["generated_tokens"] == 40
            beside += 1
        found = {name: status.result() for name, status in statuses.items()}
    refused = [name for name, status in found.items() if status == 422]
    assert 0 < len(refused) < len(found), found
    wait_released(demo_server)
    assert demo_server.status("/health") == 200
    now = [demo_server.router().memory_info().rss, demo_server.shard().memory_info().rss]
    for name, before, after in zip(("router", "shard"), memory, now, strict=True):
        assert after - before < GROWTH_BYTES, f"{name} grew by {(after - before) >> 20} MiB: {json.dumps(found)}"
