"""OpenAI's Python client."""

from __future__ import annotations

from typing import Any

import openai
from pydantic import BaseModel
from report import asked, feature, refusal, tell

client = openai.OpenAI(base_url=f"{asked.base}/v1", api_key="none", max_retries=0)
STORY = [{"role": "user", "content": asked.story}]
WEATHER = [{"role": "user", "content": asked.weather}]


class Person(BaseModel):
    """What the client turns into a JSON schema, and the answer into."""

    name: str
    age: int


def chat_of(messages: list[dict[str, str]], **fields: Any) -> Any:
    """A chat without chance."""
    return client.chat.completions.create(
        model=asked.model, messages=messages, temperature=0, max_tokens=asked.max_tokens, **fields
    )


@feature
def chat() -> dict[str, Any]:
    answer = chat_of(STORY)
    return {
        "text": answer.choices[0].message.content,
        "usage": [answer.usage.prompt_tokens, answer.usage.completion_tokens],
    }


@feature
def chat_stream() -> dict[str, Any]:
    chunks = list(chat_of(STORY, stream=True, stream_options={"include_usage": True}))
    usage = chunks[-1].usage
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    return {"pieces": [piece for piece in pieces if piece], "usage": [usage.prompt_tokens, usage.completion_tokens]}


@feature
async def asynchronous_chat() -> str | None:
    async with openai.AsyncOpenAI(base_url=f"{asked.base}/v1", api_key="none", max_retries=0) as asynchronous:
        answer = await asynchronous.chat.completions.create(
            model=asked.model, messages=STORY, temperature=0, max_completion_tokens=asked.max_tokens
        )
        return answer.choices[0].message.content


@feature
def tool_call() -> list[str]:
    (call,) = chat_of(WEATHER, tools=[asked.tool]).choices[0].message.tool_calls
    return [call.function.name, call.function.arguments]


@feature
def streamed_tool_call() -> list[str]:
    with client.chat.completions.stream(
        model=asked.model, messages=WEATHER, temperature=0, max_tokens=asked.max_tokens, tools=[asked.tool]
    ) as stream:
        (call,) = stream.get_final_completion().choices[0].message.tool_calls
    return [call.function.name, call.function.arguments]


@feature
def parsed() -> str:
    answer = client.chat.completions.parse(
        model=asked.model, messages=STORY, temperature=0, max_tokens=400, response_format=Person
    )
    return type(answer.choices[0].message.parsed).__name__


@feature
def completion() -> str:
    answer = client.completions.create(
        model=asked.model, prompt=asked.prompt, temperature=0, max_tokens=asked.max_tokens
    )
    return answer.choices[0].text


@feature
def prompt_logprobs() -> dict[str, Any]:
    answer = client.completions.create(
        model=asked.model, prompt=asked.prompt, temperature=0, max_tokens=1, echo=True, logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    return {
        "text": answer.choices[0].text,
        "tokens": logprobs.tokens,
        "logprobs": logprobs.token_logprobs,
        "top": [top and len(top) for top in logprobs.top_logprobs],
        "usage": answer.usage.total_tokens,
    }


@feature
def models() -> list[str]:
    return [model.id for model in client.models.list().data]


@feature
def too_long() -> dict[str, Any]:
    return refusal(lambda: chat_of([{"role": "user", "content": asked.too_long}]))


@feature
def unknown_route() -> dict[str, Any]:
    return refusal(lambda: client.responses.create(model=asked.model, input="hi"))


tell("openai")
