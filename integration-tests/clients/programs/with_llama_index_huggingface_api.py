"""LlamaIndex's class for the Hub's inference client."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.llms.huggingface_api import HuggingFaceInferenceAPI
from report import asked, feature, refusal, tell

STORY = [ChatMessage(role="user", content=asked.story)]


# The class insists on a temperature above 0; this one is 0 to the server.
COLD = 1e-5


def model(task: str) -> HuggingFaceInferenceAPI:
    """The server, for one kind of work."""
    return HuggingFaceInferenceAPI(model_name=asked.base, task=task, num_output=asked.max_tokens, temperature=COLD)


@feature
def text() -> str:
    return model("text-generation").complete(asked.prompt, max_new_tokens=asked.max_tokens).text


@feature
def text_stream() -> list[str]:
    chunks = model("text-generation").stream_complete(asked.prompt, max_new_tokens=asked.max_tokens)
    return [chunk.delta for chunk in chunks if chunk.delta]


@feature
def chat() -> str | None:
    return model("conversational").chat(STORY, max_tokens=asked.max_tokens).message.content


@feature
def chat_stream() -> list[str]:
    chunks = model("conversational").stream_chat(STORY, max_tokens=asked.max_tokens)
    return [chunk.delta for chunk in chunks if chunk.delta]


@feature
def too_long() -> dict[str, Any]:
    return refusal(lambda: model("text-generation").complete(asked.too_long))


tell("llama-index-llms-huggingface-api")
