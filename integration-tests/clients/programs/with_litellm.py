"""LiteLLM, by each of its providers that can be this server."""

from __future__ import annotations

from typing import Any

import litellm
from report import asked, feature, refusal, tell

litellm.telemetry = False
STORY = [{"role": "user", "content": asked.story}]
WEATHER = [{"role": "user", "content": asked.weather}]
PLACES = {
    "openai": f"{asked.base}/v1",
    "hosted_vllm": f"{asked.base}/v1",
    "huggingface": asked.base,
}


def chat_of(provider: str, messages: list[dict[str, str]], **fields: Any) -> Any:
    """A chat without chance, by a provider."""
    return litellm.completion(
        model=f"{provider}/{asked.model}",
        api_base=PLACES[provider],
        api_key="none",
        messages=messages,
        temperature=0,
        max_tokens=asked.max_tokens,
        num_retries=0,
        **fields,
    )


@feature
def chat() -> dict[str, str]:
    return {provider: chat_of(provider, STORY).choices[0].message.content for provider in PLACES}


@feature
def usage() -> dict[str, list[int]]:
    answers = {provider: chat_of(provider, STORY).usage for provider in PLACES}
    return {provider: [usage.prompt_tokens, usage.completion_tokens] for provider, usage in answers.items()}


@feature
def chat_stream() -> dict[str, str]:
    streams = {provider: chat_of(provider, STORY, stream=True) for provider in PLACES}
    return {
        provider: "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        for provider, stream in streams.items()
    }


@feature
async def asynchronous_chat() -> str:
    answer = await litellm.acompletion(
        model=f"openai/{asked.model}",
        api_base=PLACES["openai"],
        api_key="none",
        messages=STORY,
        temperature=0,
        max_tokens=asked.max_tokens,
    )
    return answer.choices[0].message.content


@feature
def tool_call() -> dict[str, list[str]]:
    answers = {provider: chat_of(provider, WEATHER, tools=[asked.tool]) for provider in PLACES}
    calls = {provider: answer.choices[0].message.tool_calls[0].function for provider, answer in answers.items()}
    return {provider: [call.name, call.arguments] for provider, call in calls.items()}


@feature
def text_completion() -> str:
    answer = litellm.text_completion(
        model=f"text-completion-openai/{asked.model}",
        api_base=PLACES["openai"],
        api_key="none",
        prompt=asked.prompt,
        temperature=0,
        max_tokens=asked.max_tokens,
    )
    return answer.choices[0].text


@feature
def too_long() -> dict[str, dict[str, Any]]:
    long = [{"role": "user", "content": asked.too_long}]
    return {provider: refusal(lambda provider=provider: chat_of(provider, long)) for provider in PLACES}


tell("litellm")
