"""`/v1/embeddings` and prompts without answers, through the whole path, against transformers."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asking import Serve, post
from load.client import exchange
from load.served import Served
from model_tokenizer import Prompts
from numpy.typing import NDArray
from openai import OpenAI
from transformers import AutoModel

ROUTE, COMPLETIONS = "/v1/embeddings", "/v1/completions"
LONG = 1300  # tokens: three chunks of at most 512
TOLERANCE = 1e-4  # of numbers in a vector of length 1
SCORE_TOLERANCE = 1e-3
Vector = NDArray[np.float32]


class States:
    """The final states of transformers."""

    def __init__(self, folder: Path) -> None:
        self._model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def pooled(self, ids: list[int], pooling: str) -> Vector:
        """Of length 1."""
        with torch.inference_mode():
            states = self._model(torch.tensor([ids])).last_hidden_state[0].double()
        vector = states.mean(dim=0) if pooling == "mean" else states[-1]
        return (vector / vector.norm()).float().numpy()


@pytest.fixture(scope="module")
def states(tiny_model: Path) -> States:
    return States(tiny_model)


@pytest.fixture(scope="module")
def prompts(tiny_model: Path) -> Prompts:
    return Prompts(tiny_model)


def vectors(answer: dict[str, Any]) -> list[Vector]:
    assert [one["index"] for one in answer["data"]] == list(range(len(answer["data"])))
    return [np.array(one["embedding"], np.float32) for one in answer["data"]]


def check(found: list[Vector], expected: list[Vector]) -> None:
    np.testing.assert_allclose(np.stack(found), np.stack(expected), atol=TOLERANCE)


def texts_of(prompts: Prompts) -> list[list[int]]:
    """Token ids of some texts, one of them several chunks long."""
    return [list(prompts.ids(prompts.text(length))) for length in (3, 40, 200, LONG)]


def test_texts_and_ids_have_the_mean_of_transformers_states_whatever_is_cached(
    tiny_server: Served, states: States, prompts: Prompts
) -> None:
    texts = [prompts.text(length) for length in (3, 40, 200)]
    ids = [list(prompts.ids(text)) for text in texts]
    expected = [states.pooled(one, "mean") for one in ids]
    for inputs in (texts, ids, texts):  # the third time, everything was computed before
        answer = post(tiny_server, ROUTE, {"input": inputs})
        check(vectors(answer), expected)
        tokens = sum(map(len, ids))
        assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_a_text_of_several_chunks_beside_others_is_pooled_whole(
    tiny_server: Served, states: States, prompts: Prompts
) -> None:
    asked = texts_of(prompts) * 2
    with ThreadPoolExecutor(len(asked)) as pool:
        found = list(pool.map(lambda ids: vectors(post(tiny_server, ROUTE, {"input": ids}))[0], asked))
    check(found, [states.pooled(ids, "mean") for ids in asked])


@pytest.mark.slow  # a server of its own
def test_the_last_state_is_pooled_where_the_operator_says_so(
    serve: Serve, tiny_model: Path, states: States, prompts: Prompts
) -> None:
    flags = ("--dtype", "float32", "--kv-memory", "256MiB", "--max-batch-prefill-tokens", "512")
    served = serve(tiny_model, *flags, "--enable-embeddings", "--pooling", "last")
    for ids in [*texts_of(prompts), *texts_of(prompts)]:
        check(vectors(post(served, ROUTE, {"input": ids})), [states.pooled(ids, "last")])


def test_the_openai_client_reads_both_forms(tiny_server: Served, states: States, prompts: Prompts) -> None:
    text = prompts.text(20)
    expected = [states.pooled(list(prompts.ids(text)), "mean")]
    client = OpenAI(base_url=f"{tiny_server.base}/v1", api_key="none", max_retries=0)
    by_default = client.embeddings.create(model="tgi", input=text)  # asks for base64 and decodes it
    as_numbers = client.embeddings.create(model="tgi", input=text, encoding_format="float")
    for answer in (by_default, as_numbers):
        check([np.array(answer.data[0].embedding, np.float32)], expected)
    raw = post(tiny_server, ROUTE, {"input": text, "encoding_format": "base64"})
    check([np.frombuffer(base64.b64decode(raw["data"][0]["embedding"]), "<f4")], expected)


def test_a_server_without_the_flag_says_how_to_get_them(demo_server: Served) -> None:
    reply = exchange(demo_server.base, "POST", ROUTE, {"input": "a"})
    assert (reply.status, "--enable-embeddings" in reply.json()["error"]["message"]) == (404, True)


@pytest.mark.parametrize("length", [1, 40, LONG])
def test_a_prompt_is_scored_without_a_token_as_it_is_with_one(
    tiny_server: Served, prompts: Prompts, length: int
) -> None:
    ids = list(prompts.ids(prompts.text(max(length, 3))))[:length]
    fields = {"prompt": ids, "echo": True, "logprobs": 1, "prompt_logprobs": 1, "temperature": 0}
    none, one = (post(tiny_server, COMPLETIONS, fields | {"max_tokens": count}) for count in (0, 1))
    assert (none["usage"]["completion_tokens"], none["usage"]["prompt_tokens"]) == (0, length)
    found, expected = (answer["choices"][0] for answer in (none, one))
    assert found["finish_reason"] == "length"
    assert expected["text"].startswith(found["text"])
    assert len(found["prompt_logprobs"]) == length == len(found["logprobs"]["tokens"])
    scores, others = (choice["logprobs"]["token_logprobs"][1:length] for choice in (found, expected))
    np.testing.assert_allclose(scores, others, atol=SCORE_TOLERANCE)
    own = [entry[str(token)]["logprob"] for entry, token in zip(found["prompt_logprobs"][1:], ids[1:], strict=True)]
    assert own == scores


def test_a_stream_without_a_token_is_one_event(tiny_server: Served) -> None:
    body = {"prompt": [5, 6, 7], "echo": True, "max_tokens": 0, "stream": True}
    reply = exchange(tiny_server.base, "POST", COMPLETIONS, body)
    blocks = [block.removeprefix("data: ") for block in reply.body.decode().split("\n\n") if block]
    assert (len(blocks), blocks[-1]) == (2, "[DONE]")
    assert json.loads(blocks[0])["choices"][0]["finish_reason"] == "length"
