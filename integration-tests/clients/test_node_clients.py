"""Clients that other people wrote for Node, against what plain HTTP requests get."""

from __future__ import annotations

import json

import pytest
from asked import Truth
from judged import CITY, is_person, is_refused, is_usage, is_whole_stream
from observed import Ask

pytestmark = pytest.mark.clients


def test_openai_for_node(node_client: Ask, truth: Truth) -> None:
    with node_client("openai (npm)", "with_openai.mjs") as seen:
        assert seen["chat"]["text"] == truth.chat_text
        assert is_usage(seen["chat"]["usage"], truth)
        assert is_whole_stream(seen["chat_stream"]["pieces"], truth.chat_text)
        assert is_usage(seen["chat_stream"]["usage"], truth)
        assert tuple(seen["tool_call"]) == truth.tool_call
        assert tuple(seen["streamed_tool_call"]) == truth.tool_call
        assert seen["parsed"] is True
        assert seen["completion"] == truth.completion_text
        assert is_whole_stream(seen["completion_stream"], truth.completion_text)
        assert len(seen["models"]) == 1
        assert is_refused(seen["too_long"], "UnprocessableEntityError", 422, "4095")
        assert is_refused(seen["unknown_route"], "NotFoundError", 404)


def test_huggingface_inference(node_client: Ask, truth: Truth) -> None:
    with node_client("@huggingface/inference", "with_huggingface_inference.mjs") as seen:
        assert seen["chat"]["text"] == truth.chat_text
        assert is_usage(seen["chat"]["usage"], truth)
        assert is_whole_stream(seen["chat_stream"], truth.chat_text)
        assert tuple(seen["tool_call"]) == truth.tool_call
        assert seen["text_generation"] == truth.completion_text
        assert is_refused(seen["too_long"], "InferenceClientProviderApiError", 422, "4095")


def test_ai_sdk(node_client: Ask, truth: Truth) -> None:
    with node_client("ai", "with_ai_sdk.mjs") as seen:
        assert seen["text"]["text"] == truth.chat_text
        assert seen["text"]["finish_reason"] == truth.chat["choices"][0]["finish_reason"]
        assert is_usage(seen["text"]["usage"], truth)
        assert is_whole_stream(seen["stream"]["pieces"], truth.chat_text)
        assert is_usage(seen["stream"]["usage"], truth)
        assert seen["tool_call"] == [truth.tool_call[0], CITY]
        assert seen["streamed_tool_call"] == [truth.tool_call[0], CITY]
        assert is_person(json.dumps(seen["object"]))
        # This provider writes a prompt of its own around the words.
        assert seen["completion"] == truth.completion_of(f"user:\n{truth.asked.prompt}\n\nassistant:\n")
        assert is_refused(seen["too_long"], "APICallError", 422, "4095")
