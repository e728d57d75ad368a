"""LangChain's classes for OpenAI's API."""

from __future__ import annotations

from typing import Any

from langchain_openai import ChatOpenAI, OpenAI
from report import asked, feature, refusal, tell

PLACE = {"base_url": f"{asked.base}/v1", "api_key": "none", "model": asked.model, "temperature": 0, "max_retries": 0}
chats = ChatOpenAI(**PLACE, max_tokens=asked.max_tokens)
texts = OpenAI(**PLACE, max_tokens=asked.max_tokens)


@feature
def chat() -> dict[str, Any]:
    answer = chats.invoke(asked.story)
    return {
        "text": answer.content,
        "usage": [answer.usage_metadata["input_tokens"], answer.usage_metadata["output_tokens"]],
    }


@feature
def chat_stream() -> dict[str, Any]:
    chunks = list(chats.stream(asked.story, stream_usage=True))
    usage = next(chunk.usage_metadata for chunk in chunks if chunk.usage_metadata)
    return {
        "pieces": [chunk.content for chunk in chunks if chunk.content],
        "usage": [usage["input_tokens"], usage["output_tokens"]],
    }


@feature
async def asynchronous_chat() -> str:
    return (await chats.ainvoke(asked.story)).content


@feature
def tool_call() -> list[Any]:
    (call,) = chats.bind_tools([asked.tool]).invoke(asked.weather).tool_calls
    return [call["name"], call["args"]]


@feature
def structured_output() -> Any:
    schema = {"title": "person", **asked.schema}
    return ChatOpenAI(**PLACE, max_tokens=200).with_structured_output(schema, method="json_schema").invoke(asked.story)


@feature
def logprobs() -> list[float]:
    answer = chats.bind(logprobs=True, top_logprobs=2).invoke(asked.story)
    return [token["logprob"] for token in answer.response_metadata["logprobs"]["content"]]


@feature
def text() -> str:
    return texts.invoke(asked.prompt)


@feature
def text_stream() -> list[str]:
    return list(texts.stream(asked.prompt))


@feature
def several_texts() -> list[str]:
    return [runs[0].text for runs in texts.generate([asked.prompt, asked.prompt]).generations]


@feature
def too_long() -> dict[str, Any]:
    return refusal(lambda: chats.invoke(asked.too_long))


tell("langchain-openai")
