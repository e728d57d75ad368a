"""The native routes' promises beyond whole answers: streams, and the headers of both (http-api.md §7, §8)."""

from __future__ import annotations

from collections.abc import Iterator

from contract_native import COUNTED, GENERATE, ROOT, STREAM
from contract_rules import PROMPT, Check, Rule, header, is_number, native, native_error, status, stream, without
from load.client import Json


def native_stream_rules() -> Iterator[Rule]:
    """In the order of the contract."""
    yield from streams()
    yield from headers()


def streams() -> Iterator[Rule]:
    """§7."""
    asked = {"details": True, "max_new_tokens": 4, "ignore_eos": True}
    for route, more in ((STREAM, {}), (ROOT, {"stream": True})):

        def rule(field: str, says: str, *checks: Check, route: str = route, more: Json = more) -> Rule:
            return Rule(7, f"POST {route}", field, says, checks, {"inputs": PROMPT, "parameters": asked} | more)

        yield rule(
            "framing",
            "data lines and blank lines only",
            lambda reply: all(line == "" or line.startswith("data: {") for line in reply.body.decode().split("\n")),
            stream(bool),
        )
        yield rule("index", "counts from 1", stream(lambda seen: [event["index"] for event in seen] == [1, 2, 3, 4]))
        yield rule(
            "token",
            "has four keys",
            stream(lambda seen: all(set(event["token"]) == {"id", "text", "logprob", "special"} for event in seen)),
        )
        yield rule(
            "generated_text",
            "null until the last",
            stream(lambda seen: [event["generated_text"] is None for event in seen] == [True, True, True, False]),
        )
        yield rule(
            "details",
            "on the last only",
            stream(
                lambda seen: (
                    all(event["details"] is None for event in seen[:-1])
                    and set(seen[-1]["details"]) == {"finish_reason", "generated_tokens", "seed", "input_length"}
                )
            ),
        )
        yield rule(
            "top_tokens",
            "no key where there are none",
            stream(lambda seen: all("top_tokens" not in event for event in seen)),
        )
        yield rule("[DONE]", "is not sent", stream(lambda seen: "[DONE]" not in seen))
        yield rule("headers", "no caching", header("cache-control", lambda value: value == "no-cache"))
        yield rule(
            "headers",
            "proxies do not buffer",
            header("x-accel-buffering", lambda value: value == "no"),
            without(*COUNTED),
        )
    plain = stream(lambda seen: seen[-1]["details"] is None and seen[-1]["generated_text"] is not None)
    yield native(STREAM, "details", "null also on the last, unless asked for", {}, plain, section=7)
    yield Rule(
        7,
        f"POST {STREAM}",
        "errors",
        "before the first token: the real status (TGI: 200)",
        native_error("validation"),
        {"inputs": "", "parameters": {}},
    )
    tops = stream(lambda seen: all(len(event["top_tokens"]) >= 2 for event in seen))
    yield native(STREAM, "top_n_tokens", "with every token", {"top_n_tokens": 2}, tops, section=7)


def headers() -> Iterator[Rule]:
    """§8."""
    for route in (GENERATE, ROOT):
        for name in (*COUNTED, "x-prompt-tokens", "x-generated-tokens", "x-compute-characters"):
            yield native(route, name, "an integer", {}, header(name, is_number), section=8)
        yield native(route, "x-compute-type", "is there", {}, header("x-compute-type", bool), section=8)
        seconds = header("x-compute-time", lambda value: 0 < float(value) < 600)
        yield native(route, "x-compute-time", "decimal seconds", {}, seconds, section=8)
    characters = header("x-compute-characters", lambda value: value == str(len(PROMPT) + 1))
    yield Rule(
        8,
        "POST /generate",
        "x-compute-characters",
        "characters, not bytes",
        (characters,),
        {"inputs": PROMPT + "é", "parameters": {"max_new_tokens": 1}},
    )
    for route in ("/tokenize", "/chat_tokenize", "/vertex"):
        asked = {"inputs": PROMPT} if route == "/tokenize" else {"messages": [{"role": "user", "content": "a"}]}
        asked = {"instances": [{"inputs": "a", "parameters": {"max_new_tokens": 1}}]} if route == "/vertex" else asked
        yield Rule(8, f"POST {route}", "x-headers", "none", (status(200), without("x-compute-type", *COUNTED)), asked)
    yield native(
        GENERATE,
        "x-headers",
        "none on an error",
        {"temperature": 0.0},
        status(422),
        without("x-compute-type", *COUNTED),
        section=8,
    )
