"""A call that must come comes: through OpenAI's client, from the bundled model and from random ones, thinking or not."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
from asking import Serve
from load.served import Served
from model_tokenizer import write_tokenizer
from models import Shape, config, write_weights
from schema_corpus import obj
from torch import float32

DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
CITY = {"enum": ["Paris", "Rome"]}
PARAMETERS: dict[str, Any] = {
    "get_weather": obj(city={"$ref": "#/$defs/city"}, days=DIGIT) | {"$defs": {"city": CITY}},
    "set timer": obj(["minutes"], minutes=DIGIT, name={"type": "string", "maxLength": 6}),
    "paint": {"oneOf": [obj(kind={"const": "dot"}, x=DIGIT), obj(kind={"const": "line"}, ends={"const": [1, 2]})]},
    "now": None,
}
NOTHING = {"type": "object", "additionalProperties": False}
TOOLS = [
    {"type": "function", "function": {"name": name} | ({"parameters": schema} if schema else {})}
    for name, schema in PARAMETERS.items()
]
QUESTION = {"role": "user", "content": "What is the weather in Paris?"}
TINY = Shape(2, 64, 4, 2, 16, 160, 300, 4_096)
THOUGHT_ENDS = "</think>"


def client(served: Served) -> openai.OpenAI:
    """One that does not retry: a failure is a failure."""
    return openai.OpenAI(base_url=f"{served.base}/v1", api_key="none", max_retries=0, timeout=120)


def ask(served: Served, **fields: Any) -> Any:
    """The first choice of an answer; sampled unless `fields` say otherwise."""
    asked = {"model": "tgi", "messages": [QUESTION], "tools": TOOLS, "temperature": 1, "max_tokens": 400}
    return client(served).chat.completions.create(**{**asked, **fields}).choices[0]


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def checked(choice: Any, names: set[str]) -> list[str]:
    """The names of a finished answer's calls, all allowed and with valid arguments; none of one that was cut."""
    if choice.finish_reason == "length":
        return []
    assert choice.finish_reason == "tool_calls", choice
    assert choice.message.content is None, choice
    for call in choice.message.tool_calls:
        assert call.function.name in names
        jsonschema.validate(json.loads(call.function.arguments), PARAMETERS[call.function.name] or NOTHING)
    return [call.function.name for call in choice.message.tool_calls]


def test_the_bundled_model_calls_what_it_has_to(demo_server: Served) -> None:
    assert checked(ask(demo_server, temperature=0, tool_choice=named("get_weather")), {"get_weather"})
    for parallel in (True, False):
        fields = {"tool_choice": "required", "parallel_tool_calls": parallel, "temperature": 0}
        called = checked(ask(demo_server, **fields), set(PARAMETERS))
        assert called if parallel else len(called) == 1
    for name in PARAMETERS:
        assert checked(ask(demo_server, temperature=0, tool_choice=named(name)), {name}) == [name]


def test_a_streamed_call_is_the_whole_one(demo_server: Served) -> None:
    fields = {"tool_choice": "required", "parallel_tool_calls": False, "seed": 5}
    (whole,) = ask(demo_server, **fields).message.tool_calls
    asked = {"model": "tgi", "messages": [QUESTION], "tools": TOOLS, "temperature": 1, "max_tokens": 400}
    chunks = list(client(demo_server).chat.completions.create(**asked, **fields, stream=True))
    pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or []]
    assert pieces[0].function.name == whole.function.name
    assert "".join(piece.function.arguments for piece in pieces) == whole.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_call_that_is_cut_says_so(demo_server: Served) -> None:
    assert ask(demo_server, tool_choice=named("paint"), max_tokens=8).finish_reason == "length"


def test_a_random_model_makes_valid_calls_of_allowed_functions(tiny_server: Served) -> None:
    choices = [("required", set(PARAMETERS)), *((named(name), {name}) for name in PARAMETERS)]
    asks = [(choice, names, seed) for choice, names in choices for seed in range(4)]

    def one(asked: tuple[Any, set[str], int]) -> list[str]:
        choice, names, seed = asked
        return checked(ask(tiny_server, tool_choice=choice, seed=seed, parallel_tool_calls=seed % 2 == 0), names)

    with ThreadPoolExecutor(8) as pool:
        called = list(pool.map(one, asks))
    finished = [names for names in called if names]
    assert len(finished) > len(asks) // 2, called


def test_a_grammar_and_tools_exclude_each_other(demo_server: Served) -> None:
    for fields in ({"response_format": {"type": "json_object"}}, {"extra_body": {"guided_regex": "a"}}):
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            ask(demo_server, **fields)
        assert refused.value.code == "tool_error"


def thinking_model(folder: Path) -> Path:
    """A random model whose prompts end inside of a thought, which one token of 300 ends."""
    write_tokenizer(folder, TINY.vocabulary, TINY.positions)
    tokenizer = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(tokenizer.replace('"<pad>"', json.dumps(THOUGHT_ENDS)))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{{ messages[-1].content }}<think>{# </think> #}"
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    write_weights(folder, TINY, float32, seed=0)
    (folder / "config.json").write_text(json.dumps(config(TINY, "float32")))
    return folder


@pytest.mark.slow
def test_a_model_that_thinks_calls_behind_its_thought(serve: Serve, tmp_path: Path) -> None:
    served = serve(thinking_model(tmp_path), "--dtype", "float32", "--kv-memory", "64MiB")

    def one(seed: int) -> Any:
        return ask(served, tool_choice="required", temperature=2, seed=seed, max_tokens=800)

    with ThreadPoolExecutor(8) as pool:
        choices = list(pool.map(one, range(8)))
    called = [checked(choice, set(PARAMETERS)) for choice in choices]
    assert any(called), choices
    assert any(choice.message.reasoning_content for choice, names in zip(choices, called, strict=True) if names)
