"""The OpenAI routes' promises: fields, answers, streams, errors (http-api.md §10, §13, with OpenAI's own API where design.md says so)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from contract_rules import CHAT, Rule, body, header, openai, openai_error, status, stream, without

CHATS, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ROUTES = (CHATS, COMPLETIONS)
TOP = {"id", "object", "created", "model", "system_fingerprint", "choices", "usage"}
TIMES = ("x-total-time", "x-validation-time", "x-queue-time", "x-inference-time", "x-time-per-token")


def openai_rules() -> Iterator[Rule]:
    """In the order of the contract."""
    yield from accepted()
    yield from refused()
    yield from messages()
    yield from answers()
    yield from streams()
    yield from prompts()
    yield from usage()


def section(route: str) -> int:
    """Of the contract."""
    return 10 if route == CHATS else 13


def said(choice: dict[str, Any]) -> str:
    """What a choice of either route says."""
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def choices(number: int) -> Any:
    """So many choices, in order."""
    return body(lambda answer: [choice["index"] for choice in answer["choices"]] == list(range(number)))


def accepted() -> Iterator[Rule]:
    """Values that are taken on both routes."""
    taken: dict[str, list[Any]] = {
        "model": ["tgi", "anything"],
        "temperature": [0, 0.7, 2.0],
        "top_p": [0.5, 1.0],
        "frequency_penalty": [-2, 2],
        "presence_penalty": [-2, 0, 2],
        "seed": [0, -1, 2**63],
        "stop": ["zz", ["zz", "yy"]],
        "stream": [False],
        "logit_bias": [{"5": -100}, {}],
        "n": [1, 2],
        "user": ["me"],
        "top_k": [0, -1, 5],
        "min_p": [0.0, 0.1],
        "typical_p": [0.9],
        "repetition_penalty": [1.1],
        "ignore_eos": [True],
        "min_tokens": [0, 2],
        "stop_token_ids": [[5]],
        "priority": [-1],
        "cache_salt": ["a"],
        "service_tier": ["auto"],
        "store": [False],
        "metadata": [{"a": "b"}],
        "max_tokens": [3],
        "max_completion_tokens": [6],
        "logprobs": [False],
        "tools": [[]],
        "best_of": [1],
        "echo": [False],
        "parallel_tool_calls": [True, False],
        "chat_template_kwargs": [{}],
        "safety_identifier": ["a"],
        "prompt_cache_key": ["a"],
        "guideline": [None],
        "a_field_of_others": [{"any": ["thing"]}],
        "response_format": [{"type": "text"}],
    }
    for route in ROUTES:
        for field, values in taken.items():
            for value in values:
                number = value if field == "n" else 1
                fields = {field: value} | ({"temperature": 1} if field == "n" else {})
                yield openai(route, field, f"{value!r} is taken", fields, choices(number), section=section(route))
            yield openai(route, field, "null is its default", {field: None}, choices(1), section=section(route))
        for field, value in FOLLOWED.items():
            fields = {field: value, "max_tokens": 9}
            yield openai(route, field, "is followed", fields, body(says_digits), section=section(route))


# Every form that asks for three digits, ended by a model that would not end.
FOLLOWED = {
    "response_format": {"type": "regex", "value": "[0-9]{3}"},
    "guided_json": {"enum": [123, 456]},
    "guided_regex": "[0-9]{3}",
    "guided_choice": ["123", "456"],
    "guided_grammar": "start: /[0-9]{3}/",
}


def says_digits(answer: dict[str, Any]) -> bool:
    """Whether the text is three digits."""
    choice = answer["choices"][0]
    return re.fullmatch("[0-9]{3}", choice["text"] if "text" in choice else choice["message"]["content"]) is not None


def refused() -> Iterator[Rule]:
    """Values that are not, on both routes."""
    wrong: dict[str, list[Any]] = {
        "temperature": [-1],
        "top_p": [0.0, 1.1],
        "frequency_penalty": [2.1],
        "presence_penalty": [-2.1],
        "n": [0, 3],
        "top_k": [-2],
        "min_p": [1.1],
        "repetition_penalty": [0.0],
        "max_tokens": [0, 10**9],
        "stop": [["a"] * 5],
        "logit_bias": [{"x": 1}, {"5": 101}, {"999999999": 1}],
        "stop_token_ids": [[999_999_999]],
        "priority": [10**9],
        "cache_salt": [""],
        "min_tokens": [7],
        "response_format": [{"type": "json_schema"}, {"type": "regex"}],
        "guided_json": [[1], {"properties": {"a": {"not": {}}}}],
        "guided_regex": ["a("],
        "guided_choice": [[]],
        "guided_grammar": ["start: b"],
    }
    for route in ROUTES:
        for field, values in wrong.items():
            for value in values:
                for streamed in (False, True):
                    fields = {field: value, "stream": streamed}
                    name = f"{value!r}{', streamed,' if streamed else ''} is 422 by name"
                    yield openai(route, field, name, fields, *openai_error(field), section=section(route))
        both = {"max_tokens": 3, "max_completion_tokens": 4}
        yield openai(
            route,
            "max_completion_tokens",
            "not another than max_tokens",
            both,
            *openai_error("max_completion_tokens"),
            section=section(route),
        )
        mistyped = {"temperature": "hot"}
        yield openai(
            route,
            "temperature",
            "of another type: an object with its path",
            mistyped,
            *openai_error("temperature"),
            section=section(route),
        )
        options = {"stream_options": {"include_usage": True}}
        yield openai(
            route,
            "stream_options",
            "only for streams",
            options,
            *openai_error("stream_options"),
            section=section(route),
        )
        yield Rule(
            9,
            f"POST {route}",
            "body",
            "no JSON is an object too",
            openai_error(None, 415),
            {"a": 1},
            {"content-type": "text/plain"},
        )
    yield openai(CHATS, "logprobs", "a boolean", {"logprobs": 3}, *openai_error("logprobs"))
    yield openai(
        CHATS, "top_logprobs", "6 is 422", {"logprobs": True, "top_logprobs": 6}, *openai_error("top_logprobs")
    )
    yield openai(CHATS, "top_logprobs", "needs logprobs", {"top_logprobs": 1}, *openai_error("top_logprobs"))
    yield openai(CHATS, "prompt", "belongs to the other route", {"prompt": "a"}, *openai_error("prompt"))
    yield openai(
        COMPLETIONS, "messages", "belong to the other route", {"messages": CHAT}, *openai_error("messages"), section=13
    )
    suffix = (*openai_error("suffix"), lambda reply: reply.json()["error"]["code"] == "suffix_not_supported")
    yield openai(COMPLETIONS, "suffix", "any value is refused", {"suffix": "b"}, *suffix, section=13)
    many = (*openai_error("prompt"), lambda reply: reply.json()["error"]["code"] == "batch_size_exceeded")
    yield openai(COMPLETIONS, "prompt", "more than --max-client-batch-size", {"prompt": ["a"] * 5}, *many, section=13)
    for value in ("", [], [[]], [""]):
        yield openai(COMPLETIONS, "prompt", f"{value!r} is 422", {"prompt": value}, *openai_error("prompt"), section=13)
    yield openai(
        COMPLETIONS,
        "best_of",
        "not below n",
        {"n": 2, "best_of": 1, "temperature": 1},
        *openai_error("best_of"),
        section=13,
    )
    for path in ("/v1/responses", "/v1/nothing", "/v1"):
        yield Rule(9, f"POST {path}", "path", "unknown under /v1: JSON 404", openai_error(None, 404), {})
    yield Rule(9, "GET /v1/completions", "method", "wrong under /v1: JSON 405", openai_error(None, 405))


def messages() -> Iterator[Rule]:
    """§10: what a conversation may be."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    good: dict[str, list[Any]] = {
        "text parts": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
        "name": [{"role": "user", "name": "me", "content": "a"}],
        "null content with tool_calls": [
            *CHAT,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "2"},
        ],
        "a refusal": [{"role": "assistant", "content": None, "refusal": "No."}, *CHAT],
        "a part that refuses": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, *CHAT],
        "a function_call": [{"role": "assistant", "content": None, "function_call": call["function"]}, *CHAT],
        "a last message of the assistant": [*CHAT, {"role": "assistant", "content": "The"}],
    }
    for says, conversation in good.items():
        yield openai(CHATS, "messages", f"{says}: taken", {"messages": conversation}, choices(1))
    bad: dict[str, tuple[Any, str]] = {
        "none": ([], "messages"),
        "no role": ([{"content": "a"}], "messages[0].role"),
        "no content": ([{"role": "user"}], "messages[0].content"),
        "null content": ([{"role": "user", "content": None}], "messages[0].content"),
        "content of another type": ([{"role": "user", "content": 3}], "messages[0].content"),
        "an image, which no model here reads": (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a.example/b.png"}}]}],
            "messages[0].content[0].type",
        ),
        "an unknown part": ([{"role": "user", "content": [{"type": "smell"}]}], "messages[0].content[0].type"),
    }
    for says, (conversation, param) in bad.items():
        yield openai(CHATS, "messages", f"{says}: 422 with the place", {"messages": conversation}, *openai_error(param))
    yield Rule(10, f"POST {CHATS}", "messages", "missing: 422", openai_error("messages"), {"model": "tgi"})


def answers() -> Iterator[Rule]:
    """Whole answers."""
    for route, kind, prefix in ((CHATS, "chat.completion", "chatcmpl-"), (COMPLETIONS, "text_completion", "cmpl-")):
        at = section(route)
        yield openai(route, "answer", "has these keys", {}, body(lambda answer: set(answer) >= TOP), section=at)
        yield openai(
            route, "object", f"is {kind}", {}, body(lambda answer, kind=kind: answer["object"] == kind), section=at
        )
        yield openai(
            route,
            "id",
            "is real (TGI: empty)",
            {},
            body(lambda answer, prefix=prefix: answer["id"].startswith(prefix)),
            section=at,
        )
        yield openai(
            route, "model", "is echoed", {"model": "mine"}, body(lambda answer: answer["model"] == "mine"), section=at
        )
        yield openai(
            route,
            "model",
            "tgi is the served one",
            {"model": "tgi"},
            body(lambda answer: answer["model"] not in ("tgi", "")),
            section=at,
        )
        length = body(lambda answer: answer["choices"][0]["finish_reason"] == "length")
        yield openai(route, "finish_reason", "length", {"ignore_eos": True, "max_tokens": 2}, length, section=at)
        stops = body(
            lambda answer: answer["choices"][0]["finish_reason"] == "stop" and "e" not in said(answer["choices"][0])
        )
        yield openai(
            route,
            "stop",
            "the text ends before it",
            {"stop": "e", "max_tokens": 200, "ignore_eos": True},
            stops,
            section=at,
        )
        for name in (*TIMES, "x-prompt-tokens", "x-generated-tokens", "x-compute-characters"):
            yield openai(route, name, "an integer", {}, header(name, str.isdigit), section=8)
    yield openai(
        CHATS,
        "x-compute-time",
        "decimal seconds",
        {},
        header("x-compute-time", lambda value: float(value) > 0),
        section=8,
    )
    yield openai(COMPLETIONS, "x-compute-time", "is not sent", {}, status(200), without("x-compute-time"), section=8)
    message = body(lambda answer: answer["choices"][0]["message"]["role"] == "assistant")
    yield openai(CHATS, "message", "is the assistant's", {}, message)
    logprobs = body(
        lambda answer: all(
            {"token", "logprob", "bytes", "top_logprobs"} <= set(one) and len(one["top_logprobs"]) == 2
            for one in answer["choices"][0]["logprobs"]["content"]
        )
    )
    yield openai(
        CHATS,
        "logprobs",
        "with bytes and as many top_logprobs as asked for",
        {"logprobs": True, "top_logprobs": 2},
        logprobs,
    )
    yield openai(
        CHATS, "logprobs", "null unless asked for", {}, body(lambda answer: answer["choices"][0]["logprobs"] is None)
    )


def streams() -> Iterator[Rule]:
    """Streamed answers."""
    for route, kind in ((CHATS, "chat.completion.chunk"), (COMPLETIONS, "text_completion")):

        def rule(field: str, says: str, fields: dict[str, Any], holds: Any, route: str = route) -> Rule:
            return openai(route, field, says, {"stream": True} | fields, stream(holds), section=section(route))

        yield rule("[DONE]", "comes last, once", {}, lambda seen: seen[-1] == "[DONE]" and seen.count("[DONE]") == 1)
        yield rule(
            "object",
            f"is {kind} in every chunk",
            {},
            lambda seen, kind=kind: all(event["object"] == kind for event in seen[:-1]),
        )
        yield rule("id", "one for all chunks", {}, lambda seen: len({event["id"] for event in seen[:-1]}) == 1)
        yield rule(
            "finish_reason",
            "on the last chunk, null before",
            {},
            lambda seen: (
                [event["choices"][0]["finish_reason"] is None for event in seen[:-1]]
                == [True] * (len(seen) - 2) + [False]
            ),
        )
        usage = {"stream_options": {"include_usage": True}, "ignore_eos": True}
        yield rule(
            "include_usage",
            "a chunk without choices at the end",
            usage,
            lambda seen: seen[-2]["choices"] == [] and seen[-2]["usage"]["completion_tokens"] == 6,
        )
        every = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}, "ignore_eos": True}
        yield rule(
            "continuous_usage_stats",
            "in every chunk",
            every,
            lambda seen: (
                all(event["usage"]["prompt_tokens"] > 0 for event in seen[:-1])
                and seen[-2]["usage"]["completion_tokens"] == 6
            ),
        )
        two = {"n": 2, "temperature": 1}
        yield rule(
            "n",
            "chunks of every choice",
            two,
            lambda seen: {choice["index"] for event in seen[:-1] for choice in event["choices"]} == {0, 1},
        )

    def roles(seen: list[Any]) -> bool:
        named = ["role" in event["choices"][0]["delta"] for event in seen[:-1]]
        return named == [True] + [False] * (len(named) - 1)

    yield openai(CHATS, "delta.role", "in the first chunk only", {"stream": True}, stream(roles))
    with_each = lambda seen: all(event["choices"][0]["logprobs"]["content"] for event in seen[:-1])  # noqa: E731
    yield openai(CHATS, "logprobs", "in every chunk", {"stream": True, "logprobs": True}, stream(with_each))


def prompts() -> Iterator[Rule]:
    """§13: what a prompt may be."""
    for value, number in (("a", 1), (["a", "b", "c"], 3), ([5, 6], 1), ([[5, 6], [7]], 2)):
        yield openai(
            COMPLETIONS,
            "prompt",
            f"{value!r}: {number} choices in order",
            {"prompt": value},
            choices(number),
            section=13,
        )
    yield openai(
        COMPLETIONS, "n", "for each prompt", {"prompt": ["a", "b"], "n": 2, "temperature": 1}, choices(4), section=13
    )
    yield openai(
        COMPLETIONS, "best_of", "the n likeliest", {"n": 1, "best_of": 2, "temperature": 1}, choices(1), section=13
    )
    yield Rule(13, f"POST {COMPLETIONS}", "prompt", "missing: 422", openai_error("prompt"), {"model": "tgi"})


def usage() -> Iterator[Rule]:
    """`usage` adds up, whatever runs."""

    def adds_up(answer: dict[str, Any], generated: int) -> bool:
        used = answer["usage"]
        return used["completion_tokens"] == generated and used["total_tokens"] == used["prompt_tokens"] + generated

    exact = {"ignore_eos": True, "max_tokens": 5, "temperature": 1}
    for route in ROUTES:
        for number in (1, 2):
            counted = body(lambda answer, number=number: adds_up(answer, 5 * number))
            yield openai(
                route,
                "usage",
                f"n = {number}: every choice counts",
                exact | {"n": number},
                counted,
                section=section(route),
            )
        matches = lambda reply: reply.json()["usage"]["prompt_tokens"] == int(reply.headers["x-prompt-tokens"])  # noqa: E731
        yield openai(route, "usage", "says what the headers say", exact | {"n": 2}, matches, section=section(route))
    several = body(lambda answer: adds_up(answer, 10) and answer["usage"]["prompt_tokens"] == 4)
    yield openai(
        COMPLETIONS, "usage", "the sum over the prompts", exact | {"prompt": [[5, 6], [7, 8]]}, several, section=13
    )
