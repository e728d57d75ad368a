"""LlamaIndex's class for servers that speak OpenAI's API."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from report import asked, feature, refusal, tell

PLACE = {
    "api_base": f"{asked.base}/v1",
    "api_key": "none",
    "model": asked.model,
    "temperature": 0,
    "max_tokens": asked.max_tokens,
    "max_retries": 0,
}
chats = OpenAILike(**PLACE, is_chat_model=True, is_function_calling_model=True)
texts = OpenAILike(**PLACE, is_chat_model=False)
STORY = [ChatMessage(role="user", content=asked.story)]


@feature
def chat() -> dict[str, Any]:
    answer = chats.chat(STORY)
    usage = answer.raw.usage
    return {"text": answer.message.content, "usage": [usage.prompt_tokens, usage.completion_tokens]}


@feature
def chat_stream() -> list[str]:
    return [chunk.delta for chunk in chats.stream_chat(STORY) if chunk.delta]


@feature
async def asynchronous_chat() -> str | None:
    return (await chats.achat(STORY)).message.content


@feature
def text() -> str:
    return texts.complete(asked.prompt).text


@feature
def text_stream() -> list[str]:
    return [chunk.delta for chunk in texts.stream_complete(asked.prompt) if chunk.delta]


@feature
def tool_call() -> list[Any]:
    def get_weather(city: str) -> str:
        return f"rain in {city}"

    tool = FunctionTool.from_defaults(get_weather, name=asked.tool_name, description=asked.tool_description)
    answer = chats.chat_with_tools([tool], user_msg=asked.weather)
    (call,) = chats.get_tool_calls_from_response(answer)
    return [call.tool_name, call.tool_kwargs]


@feature
def too_long() -> dict[str, Any]:
    return refusal(lambda: chats.complete(asked.too_long))


tell("llama-index-llms-openai-like")
