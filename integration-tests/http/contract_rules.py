"""What http-api.md promises, rule by rule: a request, and what its answer must look like. Knows no server and how none is started."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from load.client import Json, Reply, exchange

Check = Callable[[Reply], bool]
SIDE_BY_SIDE = 8
JSON_TYPE = {"content-type": "application/json"}


@dataclass(frozen=True)
class Rule:
    """One promise. `field`: the parameter, header or part of the answer that it is about."""

    section: int
    route: str
    field: str
    says: str
    checks: tuple[Check, ...]
    body: Json | bytes | None = None
    headers: dict[str, str] | None = None

    @property
    def name(self) -> str:
        """As the table shows it."""
        return f"§{self.section} {self.route} {self.field}: {self.says}"

    def reply(self, base: str) -> Reply:
        """Asks."""
        method, path = self.route.split()
        payload = json.dumps(self.body).encode() if isinstance(self.body, dict) else self.body
        headers = (JSON_TYPE if payload is not None else {}) | (self.headers or {})
        return exchange(base, method, path, payload, headers)

    def complaint(self, reply: Reply) -> str | None:
        """What is wrong with the answer; None where the promise is kept."""
        for number, check in enumerate(self.checks):
            try:
                is_kept = check(reply)
            except (KeyError, IndexError, TypeError, ValueError, AttributeError, AssertionError) as error:
                return f"check {number}: {error!r} in {reply.status} {reply.headers} {reply.body[:600]!r}"
            if not is_kept:
                return f"check {number} fails: {reply.status} {reply.headers} {reply.body[:600]!r}"
        return None


def status(code: int) -> Check:
    """This status."""
    return lambda reply: reply.status == code


def header(name: str, holds: Callable[[str], bool]) -> Check:
    """A header with such a value."""
    return lambda reply: name in reply.headers and holds(reply.headers[name])


def without(*names: str) -> Check:
    """None of these headers, in an answer that is no empty object."""
    return lambda reply: not any(name in reply.headers for name in names) and reply.body != b"{}"


def body(holds: Callable[[Any], bool]) -> Check:
    """A JSON body like this."""
    return lambda reply: reply.status == 200 and bool(holds(reply.json()))


def events(reply: Reply) -> list[Any]:
    """The events of a stream, `[DONE]` as text."""
    blocks = reply.body.decode().split("\n\n")
    assert blocks[-1] == "", "a stream ends with an empty line"
    data = [block.removeprefix("data: ") for block in blocks[:-1] if block.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in data]


def stream(holds: Callable[[list[Any]], bool]) -> Check:
    """Events like these, and nothing else in the stream."""
    return lambda reply: (
        reply.headers["content-type"] == "text/event-stream" and len(events(reply)) > 0 and bool(holds(events(reply)))
    )


def native_error(error_type: str, *words: str, code: int = 422) -> tuple[Check, ...]:
    """TGI's object."""
    return (
        status(code),
        lambda reply: reply.json()["error_type"] == error_type,
        lambda reply: all(word in reply.json()["error"] for word in words),
    )


def plain_error(code: int) -> tuple[Check, ...]:
    """Plain text."""
    return status(code), header("content-type", lambda kind: kind.startswith("text/plain"))


def openai_error(param: str | None, code: int = 422) -> tuple[Check, ...]:
    """OpenAI's object."""
    return (
        status(code),
        lambda reply: reply.json()["error"]["param"] == param,
        lambda reply: set(reply.json()["error"]) == {"message", "type", "param", "code"},
    )


def is_number(text: str) -> bool:
    """An integer of milliseconds or tokens."""
    return text.isdigit()


PROMPT = "Repeat: red apple"
CHAT = [{"role": "user", "content": PROMPT}]


def native(route: str, field: str, says: str, parameters: Json | None, *checks: Check, section: int = 3) -> Rule:
    """A native request: greedy and short, unless the parameters say otherwise."""
    wanted = {"max_new_tokens": 6} | (parameters or {})
    asked: Json = {"inputs": PROMPT} | ({} if parameters is None else {"parameters": wanted})
    return Rule(section, f"POST {route}", field, says, checks, asked)


def openai(route: str, field: str, says: str, fields: Json, *checks: Check, section: int = 10) -> Rule:
    """An OpenAI request, greedy and short."""
    start: Json = {"messages": CHAT} if route.endswith("chat/completions") else {"prompt": PROMPT}
    return Rule(section, f"POST {route}", field, says, checks, start | {"max_tokens": 6, "temperature": 0} | fields)


def replies(base: str, asked: list[Rule]) -> dict[str, Reply]:
    """The answers to all of them, by name; asked side by side, so that it takes little time."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        answers = pool.map(lambda rule: rule.reply(base), asked)
        return {rule.name: reply for rule, reply in zip(asked, answers, strict=True)}


def rules() -> Iterator[Rule]:
    """All of them."""
    from contract_native import native_rules
    from contract_native_streams import native_stream_rules
    from contract_openai import openai_rules
    from contract_openai_generation import openai_generation_rules
    from contract_others import other_rules

    yield from native_rules()
    yield from native_stream_rules()
    yield from openai_rules()
    yield from openai_generation_rules()
    yield from other_rules()
