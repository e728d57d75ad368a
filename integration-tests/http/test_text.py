"""Text comes out of the stream piece by piece and adds up to what the tokenizer makes of all tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from asking import Ask, all_at_once
from load.client import exchange
from load.served import Served
from model_tokenizer import Prompts
from scores import Parameters
from tokenizers import Tokenizer

TEXTS = ["plain words", "größe 日本 😀 é", "\n\ttabs  and   spaces", "e\u0301 combining", "👩‍👩‍👧 family"]


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_of_a_text_cover_it(tiny_server: Served, tiny_model: Path, text: str) -> None:
    tokens = exchange(tiny_server.base, "POST", "/tokenize", {"inputs": text}).json()
    raw = text.encode()
    assert [token["id"] for token in tokens] == Prompts(tiny_model).ids(text)
    covered = 0
    for token in tokens:
        start, stop = token["start"], token["stop"]
        if start == stop:  # added by the tokenizer
            continue
        assert start <= covered <= stop
        assert len(raw[start:covered].decode()) <= 1, "tokens share no more than a character between them"
        covered = stop
    assert covered == len(raw)


def test_random_bytes_stream_to_what_the_tokenizer_makes_of_them(tiny_server: Served, tiny_model: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    hot = [
        Ask("start", 200, Parameters(do_sample=True, temperature=3.0, seed=seed), stops_at_eos=seed >= 8)
        for seed in range(16)
    ]
    for ask, answer in zip(hot, all_at_once(tiny_server.base, hot), strict=True):
        whole = tokenizer.decode(answer.token_ids, skip_special_tokens=True)
        assert ask.stops_at_eos or "\ufffd" in whole, "the model made no broken characters: the test shows nothing"
        assert answer.text == whole
        specials = {1, 2, 0}
        streamed = "".join(
            piece for piece, token in zip(answer.pieces, answer.token_ids, strict=True) if token not in specials
        )
        assert streamed == whole


def test_a_stop_string_across_tokens_ends_the_text_with_it(tiny_server: Served) -> None:
    body = {"inputs": "start", "parameters": {"max_new_tokens": 40, "details": True, "ignore_eos": True}}
    whole = exchange(tiny_server.base, "POST", "/generate", body).json()["generated_text"]
    stop = whole[15:20]
    body["parameters"]["stop"] = [stop]
    answer = exchange(tiny_server.base, "POST", "/generate", body).json()
    assert answer["generated_text"] == whole[: whole.index(stop) + len(stop)]
    assert answer["details"]["finish_reason"] == "stop_sequence"
