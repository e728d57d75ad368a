"""What is said about tokens, through the whole path, against transformers: prompts scored across chunks, top tokens, watermarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asking import post
from load.client import exchange
from load.served import Served
from margin import Reference
from model_tokenizer import Prompts

TOLERANCE = 1e-3
HASH_KEY = 15_485_863
TEXT = "one two three four"


@pytest.fixture(scope="module")
def reference(tiny_model: Path) -> Reference:
    return Reference(tiny_model)


@pytest.fixture(scope="module")
def prompts(tiny_model: Path) -> Prompts:
    return Prompts(tiny_model)


def native(served: Served, text: str, **parameters: Any) -> dict[str, Any]:
    """The details of a native answer."""
    wanted = {"max_new_tokens": 4, "ignore_eos": True, "details": True, **parameters}
    return post(served, "/generate", {"inputs": text, "parameters": wanted})["details"]


def prompt_scores(reference: Reference, ids: list[int]) -> np.ndarray:
    """Log-softmax [len(ids) - 1, vocab] behind each token but the last."""
    logits = torch.from_numpy(reference.logits(ids[:1], ids[1:]))
    return logits.double().log_softmax(-1).numpy()


def own(scores: np.ndarray, ids: list[int]) -> np.ndarray:
    """Of each token but the first."""
    return scores[np.arange(len(ids) - 1), ids[1:]]


def test_a_prompt_of_several_chunks_is_scored_whole_and_again_where_it_is_cached(
    tiny_server: Served, reference: Reference, prompts: Prompts
) -> None:
    text = " ".join(f"{TEXT} {number}" for number in range(120))
    ids = list(prompts.ids(text))
    assert len(ids) > 2 * 512, "a chunk has 512 tokens at most"
    expected = own(prompt_scores(reference, ids), ids)
    for _ in range(2):
        prefill = native(tiny_server, text, decoder_input_details=True)["prefill"]
        assert [token["id"] for token in prefill] == ids
        assert prefill[0]["logprob"] is None
        np.testing.assert_allclose([token["logprob"] for token in prefill[1:]], expected, atol=TOLERANCE)


def test_top_tokens_of_a_greedy_answer_are_those_of_the_reference(
    tiny_server: Served, reference: Reference, prompts: Prompts
) -> None:
    details = native(tiny_server, TEXT, top_n_tokens=3)
    generated = [token["id"] for token in details["tokens"]]
    logits = torch.from_numpy(reference.logits(list(prompts.ids(TEXT)), generated))
    scores = logits.double().log_softmax(-1).numpy()
    assert len(details["top_tokens"]) == len(generated)
    for row, (token, top) in enumerate(zip(details["tokens"], details["top_tokens"], strict=True)):
        assert top[0]["id"] == token["id"]
        assert token["logprob"] == pytest.approx(scores[row, token["id"]], abs=TOLERANCE)
        highest = np.sort(scores[row])[::-1][:3]
        np.testing.assert_allclose([other["logprob"] for other in top[:3]], highest, atol=TOLERANCE)


def test_a_watermarked_greedy_answer_takes_the_highest_with_the_green_bonus(
    tiny_server: Served, reference: Reference, prompts: Prompts
) -> None:
    tokens = native(tiny_server, TEXT, watermark=True, max_new_tokens=24)["tokens"]
    generated = [token["id"] for token in tokens]
    history = [*prompts.ids(TEXT), *generated]
    scores = torch.from_numpy(reference.logits(list(prompts.ids(TEXT)), generated))
    changed = 0
    for row, token in enumerate(generated):
        last = history[len(history) - len(generated) + row - 1]
        vocab = scores.shape[1]
        order = torch.randperm(vocab, generator=torch.Generator().manual_seed(HASH_KEY * last))
        marked = scores[row].clone()
        marked[order[: vocab // 2]] += 2.0
        assert marked[token] >= marked.max() - TOLERANCE
        assert tokens[row]["logprob"] == pytest.approx(float(marked.log_softmax(-1)[token]), abs=TOLERANCE)
        changed += int(marked.argmax() != scores[row].argmax())
    assert changed > 0, "the mark changed nothing here, so this shows nothing"


def echoed(served: Served, **fields: Any) -> dict[str, Any]:
    body = {"prompt": TEXT, "echo": True, "logprobs": 2, "max_tokens": 3, "temperature": 0, "ignore_eos": True}
    return post(served, "/v1/completions", {**body, **fields})


def test_an_echo_with_logprobs_scores_the_prompt_as_evaluation_harnesses_read_it(
    tiny_server: Served, reference: Reference, prompts: Prompts
) -> None:
    ids = list(prompts.ids(TEXT))
    scores = prompt_scores(reference, ids)
    answer = echoed(tiny_server, n=2)
    assert answer["choices"][0]["logprobs"] == answer["choices"][1]["logprobs"]
    choice = answer["choices"][0]
    lists = choice["logprobs"]
    assert choice["text"].startswith(TEXT)
    assert {len(values) for values in lists.values()} == {len(ids) + 3}
    assert (lists["token_logprobs"][0], lists["top_logprobs"][0]) == (None, None)
    np.testing.assert_allclose(lists["token_logprobs"][1 : len(ids)], own(scores, ids), atol=TOLERANCE)
    for row, top in enumerate(lists["top_logprobs"][1 : len(ids)]):
        assert 2 <= len(top) <= 3
        assert max(top.values()) == pytest.approx(scores[row].max(), abs=TOLERANCE)
    assert lists["text_offset"][len(ids)] == len(TEXT)


def test_a_streamed_echo_says_the_same(tiny_server: Served) -> None:
    whole = echoed(tiny_server)["choices"][0]
    body = {"prompt": TEXT, "echo": True, "logprobs": 2, "max_tokens": 3, "temperature": 0, "ignore_eos": True}
    reply = exchange(tiny_server.base, "POST", "/v1/completions", {**body, "stream": True})
    lines = [line.removeprefix("data: ") for line in reply.body.decode().splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    pieces = [choice for line in lines for choice in json.loads(line)["choices"]]
    assert "".join(piece["text"] for piece in pieces) == whole["text"]
    for name, values in whole["logprobs"].items():
        assert [value for piece in pieces for value in piece["logprobs"][name]] == values, name


def test_the_bytes_of_chat_logprobs_are_the_text(demo_server: Served) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 6, "temperature": 0}
    answer = post(demo_server, "/v1/chat/completions", {**body, "logprobs": True, "top_logprobs": 2})
    choice = answer["choices"][0]
    content = choice["logprobs"]["content"]
    assert len(content) == answer["usage"]["completion_tokens"]
    shown = content if choice["finish_reason"] == "length" else content[:-1]
    spoken = bytes(byte for token in shown for byte in token["bytes"])
    assert spoken.decode(errors="ignore").startswith(choice["message"]["content"].rstrip("\ufffd"))
    for token in content:
        assert len(token["top_logprobs"]) == 2
        assert token["top_logprobs"][0]["logprob"] == pytest.approx(token["logprob"], abs=1e-5)
