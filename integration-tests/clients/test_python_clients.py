"""Clients that other people wrote in Python, each in its own environment, against what plain HTTP requests get."""

from __future__ import annotations

import json

import pytest
from asked import Truth
from judged import CITY, is_native_stream, is_person, is_refused, is_usage, is_whole_stream, native_is_told
from observed import Ask

pytestmark = pytest.mark.clients


def test_openai(python_client: Ask, truth: Truth) -> None:
    with python_client("openai", "openai", "with_openai.py") as seen:
        assert seen["chat"]["text"] == truth.chat_text
        assert is_usage(seen["chat"]["usage"], truth)
        assert is_whole_stream(seen["chat_stream"]["pieces"], truth.chat_text)
        assert is_usage(seen["chat_stream"]["usage"], truth)
        assert seen["asynchronous_chat"] == truth.chat_text
        assert tuple(seen["tool_call"]) == truth.tool_call
        assert tuple(seen["streamed_tool_call"]) == truth.tool_call
        assert seen["parsed"] == "Person"
        assert seen["completion"] == truth.completion_text
        scored = seen["prompt_logprobs"]
        assert "".join(scored["tokens"]) == "<|begin|>" + scored["text"]
        assert len(scored["tokens"]) == len(scored["logprobs"]) == len(scored["top"]) == scored["usage"]
        assert scored["logprobs"][0] is None
        assert all(logprob <= 0 for logprob in scored["logprobs"][1:])
        assert set(scored["top"][1:]) <= {2, 3}
        assert len(seen["models"]) == 1
        assert is_refused(seen["too_long"], "UnprocessableEntityError", 422, "4095")
        assert is_refused(seen["unknown_route"], "NotFoundError", 404)


def test_huggingface_hub(python_client: Ask, truth: Truth) -> None:
    with python_client("huggingface_hub", "openai", "with_huggingface_hub.py") as seen:
        assert seen["text_generation"] == truth.text
        assert native_is_told(seen["details"], truth)
        assert is_native_stream(seen["stream"], truth)
        streamed = seen["stream_with_details"]
        assert streamed["text"] in (truth.text, truth.asked.prompt + truth.text)
        assert streamed["ids"] == [token["id"] for token in truth.generated["details"]["tokens"]]
        assert streamed["counted"] == len(streamed["ids"])
        assert streamed["top"] == [2] * len(streamed["ids"])
        assert seen["all_parameters"] == truth.sampled
        assert seen["best_of"] == [6, 6]
        assert is_person(seen["grammar"])
        assert seen["chat_completion"]["text"] == truth.chat_text
        assert is_usage(seen["chat_completion"]["usage"], truth)
        assert is_whole_stream(seen["chat_stream"], truth.chat_text)
        assert len(seen["chat_logprobs"]["logprobs"]) == 4
        assert all(logprob <= 0 for logprob in seen["chat_logprobs"]["logprobs"])
        assert seen["chat_logprobs"]["top"] == [2] * 4
        assert tuple(seen["tool_call"]) == truth.tool_call
        assert is_person(seen["response_format"])
        assert is_refused(seen["too_long"], "ValidationError", None, "4095")
        assert is_refused(seen["too_long_chat"], "HfHubHTTPError", None, "422")


def test_text_generation(python_client: Ask, truth: Truth) -> None:
    with python_client("text-generation", "text_generation", "with_text_generation.py") as seen:
        assert native_is_told(seen["generate"], truth)
        streamed = seen["generate_stream"]
        assert streamed["text"] == truth.text
        assert streamed["ids"] == [token["id"] for token in truth.generated["details"]["tokens"]]
        assert streamed["counted"] == len(streamed["ids"])
        assert seen["asynchronous_stream"] == streamed["ids"]
        assert seen["all_parameters"] == truth.sampled
        assert seen["chat"]["text"] == truth.chat_text
        assert is_usage(seen["chat"]["usage"], truth)
        assert is_refused(seen["too_long"], "ValidationError", None, "4095")


def test_langchain_openai(python_client: Ask, truth: Truth) -> None:
    with python_client("langchain-openai", "gateways", "with_langchain_openai.py") as seen:
        assert seen["chat"]["text"] == truth.chat_text
        assert is_usage(seen["chat"]["usage"], truth)
        assert is_whole_stream(seen["chat_stream"]["pieces"], truth.chat_text)
        assert is_usage(seen["chat_stream"]["usage"], truth)
        assert seen["asynchronous_chat"] == truth.chat_text
        assert seen["tool_call"] == [truth.tool_call[0], CITY]
        assert is_person(json.dumps(seen["structured_output"]))
        assert len(seen["logprobs"]) == truth.completion_tokens
        assert seen["text"] == truth.completion_text
        assert is_whole_stream(seen["text_stream"], truth.completion_text)
        assert seen["several_texts"] == [truth.completion_text] * 2
        assert is_refused(seen["too_long"], "ContextOverflowError", None, "4095")


def test_langchain_huggingface(python_client: Ask, truth: Truth) -> None:
    with python_client("langchain-huggingface", "gateways", "with_langchain_huggingface.py") as seen:
        assert seen["text"] == truth.text
        assert is_native_stream(seen["text_stream"], truth)
        assert seen["asynchronous_text"] == truth.text
        first, again = seen["sampled_text"]
        assert first == again != truth.text
        assert seen["chat"]["text"] == truth.chat_text
        assert is_usage(seen["chat"]["usage"], truth)
        assert is_whole_stream(seen["chat_stream"], truth.chat_text)
        assert seen["tool_call"] == [truth.tool_call[0], CITY]
        assert is_refused(seen["too_long"], "ValidationError", None, "4095")


def test_litellm(python_client: Ask, truth: Truth) -> None:
    with python_client("litellm", "gateways", "with_litellm.py") as seen:
        providers = ["openai", "hosted_vllm", "huggingface"]
        assert seen["chat"] == dict.fromkeys(providers, truth.chat_text)
        assert seen["usage"] == {name: [truth.prompt_tokens, truth.completion_tokens] for name in providers}
        assert seen["chat_stream"] == dict.fromkeys(providers, truth.chat_text)
        assert seen["asynchronous_chat"] == truth.chat_text
        assert seen["tool_call"] == {name: list(truth.tool_call) for name in providers}
        assert seen["text_completion"] == truth.completion_text
        refusals = seen["too_long"]
        assert list(refusals) == providers
        assert is_refused(refusals["huggingface"], "APIError", 422, "4095")
        assert all(is_refused(refusals[name], "ContextWindowExceededError", 422, "4095") for name in providers[:2])


def test_llama_index_openai_like(python_client: Ask, truth: Truth) -> None:
    with python_client("llama-index-llms-openai-like", "llama_index", "with_llama_index_openai_like.py") as seen:
        assert seen["chat"]["text"] == truth.chat_text
        assert is_usage(seen["chat"]["usage"], truth)
        assert is_whole_stream(seen["chat_stream"], truth.chat_text)
        assert seen["asynchronous_chat"] == truth.chat_text
        assert seen["text"] == truth.completion_text
        assert is_whole_stream(seen["text_stream"], truth.completion_text)
        assert seen["tool_call"] == [truth.tool_call[0], CITY]
        assert is_refused(seen["too_long"], "UnprocessableEntityError", 422, "4095")


def test_llama_index_huggingface_api(python_client: Ask, truth: Truth) -> None:
    with python_client(
        "llama-index-llms-huggingface-api", "llama_index", "with_llama_index_huggingface_api.py"
    ) as seen:
        assert seen["text"] in (truth.text, truth.asked.prompt + truth.text)
        assert is_native_stream(seen["text_stream"], truth)
        assert seen["chat"] == truth.chat_text
        assert is_whole_stream(seen["chat_stream"], truth.chat_text)
        assert is_refused(seen["too_long"], "ValidationError", None, "4095")
