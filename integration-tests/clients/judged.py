"""What several clients' tests demand of what was seen. Knows the server's answers; no client."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
from asked import PERSON, Truth

CITY = {"city": "Paris"}


def is_usage(counts: list[int], truth: Truth) -> bool:
    """The tokens of the story's question and answer."""
    return counts == [truth.prompt_tokens, truth.completion_tokens]


def is_whole_stream(pieces: list[str], text: str) -> bool:
    """Several pieces that add up to the whole."""
    return len(pieces) > 3 and "".join(pieces) == text


def is_person(text: str) -> bool:
    """JSON by the schema that was asked for."""
    return jsonschema.Draft202012Validator(PERSON).is_valid(json.loads(text))


def is_refused(refusal: dict[str, Any], kind: str, status: int | None, *words: str) -> bool:
    """Raised as this class of the client's (or one below it), with the server's status and words."""
    assert kind in refusal["types"], refusal
    assert refusal["status"] == status, refusal
    assert all(word in refusal["message"] for word in words), refusal
    return True


def is_native_stream(pieces: list[str], truth: Truth) -> bool:
    """A piece a token, the end token's too, as this API streams them; without those that are special, the text."""
    tokens = truth.generated["details"]["tokens"]
    said = "".join(token["text"] for token in tokens if not token["special"])
    return said == truth.text and pieces == [token["text"] for token in tokens]


def native_is_told(seen: dict[str, Any], truth: Truth) -> bool:
    """The details of a native answer."""
    details = truth.generated["details"]
    assert seen["text"] == truth.text
    assert seen["ids"] == [token["id"] for token in details["tokens"]]
    assert seen["prefill"] == [token["id"] for token in details["prefill"]] != []
    assert seen["top"] == [2] * len(seen["ids"])
    assert seen["finish_reason"] == details["finish_reason"]
    return True
