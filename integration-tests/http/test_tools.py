"""The bundled model calls tools, through OpenAI's own client: whole, streamed, and with the result sent back."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from load.served import Served

QUESTION = {"role": "user", "content": "What is the weather in Paris?"}


def tool(name: str, description: str, **arguments: str) -> dict[str, Any]:
    """A tool as a client declares it."""
    properties = {key: {"type": kind} for key, kind in arguments.items()}
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = [
    tool("set_timer", "Set a timer", minutes="integer"),
    tool("get_weather", "Get the weather in a city", city="string"),
]


@pytest.fixture
def client(demo_server: Served) -> openai.OpenAI:
    """A client that does not retry: a failure is a failure."""
    return openai.OpenAI(base_url=f"{demo_server.base}/v1", api_key="none", max_retries=0, timeout=60)


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    """The answer to the question, without chance."""
    asked = {"model": "tgi", "messages": [QUESTION], "tools": TOOLS, "temperature": 0, "max_tokens": 64}
    return client.chat.completions.create(**{**asked, **fields})


def test_a_call_and_the_answer_to_its_result(client: openai.OpenAI) -> None:
    choice = ask(client).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    result = {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"weather": "rain", "degrees": 7})}
    messages = [QUESTION, choice.message.model_dump(), result]
    worded = ask(client, messages=messages, tools=TOOLS[1:]).choices[0]
    assert worded.finish_reason == "stop"
    assert worded.message.tool_calls is None
    assert "rain" in worded.message.content


def test_a_streamed_call_is_the_whole_one(client: openai.OpenAI) -> None:
    whole = ask(client)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    pieces = [call for delta in deltas for call in delta.tool_calls or []]
    assert [piece.index for piece in pieces] == [0] * len(pieces)
    assert [bool(piece.id) for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    (expected,) = whole.choices[0].message.tool_calls
    assert pieces[0].function.name == expected.function.name
    assert "".join(piece.function.arguments for piece in pieces) == expected.function.arguments
    assert len(pieces) > 2, "arguments come as they are generated"
    assert not any(delta.content for delta in deltas)
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert [reason for reason in reasons if reason] == ["tool_calls"]
    assert chunks[-1].usage == whole.usage


def test_no_tool_is_called_where_none_may_be(client: openai.OpenAI) -> None:
    choice = ask(client, tool_choice="none").choices[0]
    assert choice.finish_reason == "stop"
    assert choice.message.tool_calls is None
    assert choice.message.content


def test_an_empty_list_of_tools_is_none(client: openai.OpenAI) -> None:
    empty, absent = (ask(client, tools=tools).choices[0] for tools in ([], openai.NOT_GIVEN))
    assert empty.message == absent.message
    assert empty.message.tool_calls is None


def test_an_unknown_tool_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        ask(client, tool_choice={"type": "function", "function": {"name": "get_time"}})
    assert refused.value.code == "tool_error"
    assert refused.value.param == "tool_choice"
