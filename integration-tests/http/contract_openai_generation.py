"""The OpenAI routes' promises about what ends a text, log probabilities and tools (http-api.md §10, §12, §13)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from contract_openai import CHATS, COMPLETIONS, ROUTES, choices, section
from contract_rules import PROMPT, Rule, body, openai, openai_error, status, stream


def openai_generation_rules() -> Iterator[Rule]:
    """In the order of the contract."""
    yield from ends()
    yield from scores()
    yield from readings()
    yield from searches()
    yield from tools()


EOS = 2  # of the bundled model
ALWAYS_EOS, ALWAYS_5 = {"logit_bias": {f"{EOS}": 100}}, {"logit_bias": {"5": 100}}


def ends() -> Iterator[Rule]:
    """What ends a text; `logit_bias` makes the end certain."""

    def ended(reason: str, tokens: int) -> Any:
        return body(
            lambda answer: (
                answer["choices"][0]["finish_reason"] == reason and answer["usage"]["completion_tokens"] == tokens
            )
        )

    rows: list[tuple[str, str, dict[str, Any], Any]] = [
        ("finish_reason", "stop for the end token", ALWAYS_EOS, ended("stop", 1)),
        ("finish_reason", "stop also on the last allowed token", ALWAYS_EOS | {"max_tokens": 1}, ended("stop", 1)),
        ("min_tokens", "holds the end back", ALWAYS_EOS | {"min_tokens": 2}, ended("stop", 3)),
        ("ignore_eos", "the end token does not end", ALWAYS_EOS | {"ignore_eos": True}, ended("length", 6)),
        ("stop_token_ids", "end it too", ALWAYS_5 | {"stop_token_ids": [5]}, ended("stop", 1)),
        ("logit_bias", "is applied", ALWAYS_5, ended("length", 6)),
        (
            "max_completion_tokens",
            "is exact",
            ALWAYS_5 | {"max_tokens": None, "max_completion_tokens": 4},
            ended("length", 4),
        ),
    ]
    for route in ROUTES:
        for field, says, fields, holds in rows:
            yield openai(route, field, says, fields, holds, section=section(route))


def scores() -> Iterator[Rule]:
    """Log probabilities and echoes of completions."""
    exact = {"ignore_eos": True}
    lists = body(
        lambda answer: (
            set(found := answer["choices"][0]["logprobs"])
            == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
            and {len(values) for values in found.values()} == {6}
        )
    )
    for number in (0, 5):
        says = f"{number}: lists, one entry a token"
        yield openai(COMPLETIONS, "logprobs", says, exact | {"logprobs": number}, lists, section=13)
    absent = body(lambda answer: answer["choices"][0]["logprobs"] is None)
    yield openai(COMPLETIONS, "logprobs", "null unless asked for", {}, absent, section=13)
    for value in (6, True, "two"):
        refused = openai_error("logprobs")
        yield openai(COMPLETIONS, "logprobs", f"{value!r} is 422", {"logprobs": value}, *refused, section=13)
    begins = body(lambda answer: answer["choices"][0]["text"].startswith(PROMPT))
    yield openai(COMPLETIONS, "echo", "the prompt comes first", {"echo": True}, begins, section=13)
    prompt = body(
        lambda answer: (
            (found := answer["choices"][0]["logprobs"])["token_logprobs"][0] is None
            and len(found["tokens"]) == answer["usage"]["total_tokens"]
        )
    )
    both = exact | {"echo": True, "logprobs": 1}
    yield openai(COMPLETIONS, "echo", "with logprobs, the prompt is scored", both, prompt, section=13)
    yield openai(CHATS, "echo", "belongs to the other route", {"echo": True}, *openai_error("echo"))
    yield openai(CHATS, "best_of", "belongs to the other route", {"best_of": 2}, *openai_error("best_of"))
    last = stream(lambda seen: seen[-2]["usage"]["completion_tokens"] == 6)
    yield openai(COMPLETIONS, "usage", "with a stream's last chunk", exact | {"stream": True}, last, section=13)
    none = stream(lambda seen: all(event.get("usage") is None for event in seen[:-1]))
    yield openai(CHATS, "usage", "none in a stream unless asked for", {"stream": True}, none)


def readings() -> Iterator[Rule]:
    """The prompt's scores, also without a token behind it."""
    read = body(
        lambda answer: (
            (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == (PROMPT, "length")
            and answer["usage"]["completion_tokens"] == 0
        )
    )
    nothing = {"echo": True, "max_tokens": 0}
    yield openai(COMPLETIONS, "max_tokens", "0 with echo: the prompt alone", nothing, read, section=13)
    for route in ROUTES:
        in_place = body(lambda answer, route=route: scored(answer if route == CHATS else answer["choices"][0], answer))
        for fields in ({}, {"max_tokens": 0}):
            says = f"one entry a token of the prompt, {fields or 'before an answer'}"
            asked = {"prompt_logprobs": 1} | fields
            yield openai(route, "prompt_logprobs", says, asked, in_place, section=section(route))
        for value in (6, -1, "two"):
            asked = {"prompt_logprobs": value}
            yield openai(
                route,
                "prompt_logprobs",
                f"{value!r} is 422",
                asked,
                *openai_error("prompt_logprobs"),
                section=section(route),
            )
        asked = {"prompt_logprobs": 1, "stream": True}
        yield openai(
            route, "prompt_logprobs", "not in streams", asked, *openai_error("prompt_logprobs"), section=section(route)
        )


def scored(place: dict[str, Any], answer: dict[str, Any]) -> bool:
    """Whether every token of the prompt but the first has its logprob there."""
    first, *others = place["prompt_logprobs"]
    return (
        first is None
        and len(others) + 1 == answer["usage"]["prompt_tokens"]
        and all(
            candidate["logprob"] <= 0 and candidate["decoded_token"] for entry in others for candidate in entry.values()
        )
    )


def searches() -> Iterator[Rule]:
    """Beam search; that it finds what transformers finds is in test_beams.py."""
    beams = {"use_beam_search": True, "n": 2, "ignore_eos": True}
    both = body(
        lambda answer: (
            [choice["finish_reason"] for choice in answer["choices"]] == ["length"] * 2
            and answer["usage"]["completion_tokens"] == 12
        )
    )
    one = {"use_beam_search": True, "best_of": 2}
    taken: dict[str, list[Any]] = {
        "length_penalty": [-1, 0, 1.5, None],
        "early_stopping": [False, True, "never", None],
        "temperature": [0, 1, None],
        "seed": [7],
    }
    refused: dict[str, list[Any]] = {
        "length_penalty": [11, "long"],
        "early_stopping": [1, "soon"],
        "temperature": [0.7],
        "top_p": [0.9],
        "top_k": [5],
        "min_p": [0.1],
        "typical_p": [0.9],
        "best_of": [3],
    }
    for route in ROUTES:
        place = section(route)
        yield openai(route, "use_beam_search", "the n best of the beams", beams, both, section=place)
        yield openai(route, "use_beam_search", "null and false ask for nothing", {"use_beam_search": None}, choices(1))
        ended = stream(lambda seen: seen[-1] == "[DONE]" and seen[-2]["choices"][0]["finish_reason"] is not None)
        yield openai(route, "use_beam_search", "streamed, at the end", one | {"stream": True}, ended, section=place)
        for field, values in taken.items():
            for value in values:
                yield openai(route, field, f"{value!r} beside beams", one | {field: value}, choices(1), section=place)
        for field, values in refused.items():
            for value in values:
                says = f"{value!r} beside beams is 422 by name"
                yield openai(route, field, says, one | {field: value}, *openai_error(field), section=place)
        for field, value in (("length_penalty", 2), ("early_stopping", True)):
            yield openai(route, field, "needs beams", {field: value}, *openai_error(field), section=place)
        mistyped = {"use_beam_search": "yes"}
        yield openai(route, "use_beam_search", "a boolean", mistyped, *openai_error("use_beam_search"), section=place)


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def tools() -> Iterator[Rule]:
    """§12: what may be asked for; what models do with it is in test_tools.py."""
    taken: dict[str, list[dict[str, Any]]] = {
        "tools": [{"tools": [TOOL]}, {"tools": [{"type": "function", "function": {"name": "f"}}]}],
        "tool_choice": [{"tools": [TOOL], "tool_choice": choice} for choice in ("auto", "none", "required", None)],
        "tool_prompt": [{"tools": [TOOL], "tool_prompt": "Use them."}],
        "add_generation_prompt": [{"add_generation_prompt": True}],
    }
    for field, bodies in taken.items():
        for fields in bodies:
            yield openai(CHATS, field, f"{fields!r} is taken", fields, choices(1), section=12)
    unknown: list[Any] = ["other", {"type": "function", "function": {"name": "other"}}]
    for choice in unknown:
        code = (*openai_error("tool_choice"), lambda reply: reply.json()["error"]["code"] == "tool_error")
        fields = {"tools": [TOOL], "tool_choice": choice}
        yield openai(CHATS, "tool_choice", f"{choice!r}, which is none of them, is 422", fields, *code, section=12)
    wrong: dict[str, list[Any]] = {
        "tools": ["weather", [3], [{"type": "function"}]],
        "parallel_tool_calls": ["no"],
        "continue_final_message": [True],
        "documents": ["a"],
        "chat_template_kwargs": [3, {"messages": []}],
    }
    for field, values in wrong.items():
        for value in values:
            at = lambda reply, field=field: str(reply.json()["error"]["param"]).startswith(field)  # noqa: E731
            yield openai(CHATS, field, f"{value!r} is 422 by name", {field: value}, status(422), at, section=12)
    for field, value in (("tools", [TOOL]), ("tool_prompt", "a"), ("documents", [{"text": "a"}])):
        says = "belongs to the other route"
        yield openai(COMPLETIONS, field, says, {field: value}, *openai_error(field), section=13)
