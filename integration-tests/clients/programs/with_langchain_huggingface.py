"""LangChain's classes for the Hub's inference client."""

from __future__ import annotations

from typing import Any

from langchain_huggingface import ChatHuggingFace, HuggingFaceEndpoint
from report import asked, feature, refusal, tell


def endpoint(**fields: Any) -> HuggingFaceEndpoint:
    """The server, as a model of texts."""
    return HuggingFaceEndpoint(
        endpoint_url=asked.base, task="text-generation", max_new_tokens=asked.max_tokens, **fields
    )


# What this class sends by itself would sample.
GREEDY = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None, "typical_p": None}
texts = endpoint(**GREEDY)
chats = ChatHuggingFace(llm=texts, temperature=0, max_tokens=asked.max_tokens)


@feature
def text() -> str:
    return texts.invoke(asked.prompt)


@feature
def text_stream() -> list[str]:
    return list(texts.stream(asked.prompt))


@feature
async def asynchronous_text() -> str:
    return await texts.ainvoke(asked.prompt)


@feature
def sampled_text() -> list[str]:
    sampling = {"do_sample": True, "temperature": 1.3, "top_k": 40, "top_p": 0.95, "typical_p": 0.9, "seed": 11}
    return [endpoint(**sampling).invoke(asked.prompt) for _ in range(2)]


@feature
def chat() -> dict[str, Any]:
    answer = chats.invoke(asked.story)
    usage = answer.usage_metadata
    return {"text": answer.content, "usage": [usage["input_tokens"], usage["output_tokens"]]}


@feature
def chat_stream() -> list[str]:
    return [chunk.content for chunk in chats.stream(asked.story) if chunk.content]


@feature
def tool_call() -> list[Any]:
    (call,) = chats.bind_tools([asked.tool]).invoke(asked.weather).tool_calls
    return [call["name"], call["args"]]


@feature
def too_long() -> dict[str, Any]:
    return refusal(lambda: texts.invoke(asked.too_long))


tell("langchain-huggingface")
