"""The Hub's inference client, which speaks TGI's own API, against the server."""

from __future__ import annotations

import pytest
from huggingface_hub import InferenceClient
from load.served import Served

PROMPT = "Once upon a time"


@pytest.fixture
def client(demo_server: Served) -> InferenceClient:
    """A client of a bare base URL."""
    return InferenceClient(base_url=demo_server.base, timeout=60)


@pytest.fixture
def text_client(demo_server: Served) -> InferenceClient:
    """The same, as text_generation wants it."""
    return InferenceClient(model=demo_server.base, timeout=60)


def test_text_generation(text_client: InferenceClient) -> None:
    text = text_client.text_generation(PROMPT, max_new_tokens=8, return_full_text=False)
    assert isinstance(text, str)
    assert text
    assert text_client.text_generation(PROMPT, max_new_tokens=8, return_full_text=True) == PROMPT + text
    # TGI's root route gives the full text back where nobody said otherwise and the model is no known pipeline.
    assert text_client.text_generation(PROMPT, max_new_tokens=8) == PROMPT + text


def test_text_generation_with_details(text_client: InferenceClient) -> None:
    answer = text_client.text_generation(PROMPT, max_new_tokens=8, details=True)
    assert answer.details.generated_tokens == len(answer.details.tokens) <= 8
    assert answer.details.finish_reason in ("length", "eos_token")
    assert all(token.logprob <= 0 for token in answer.details.tokens)
    assert answer.details.seed is None


def test_streamed_text_generation_adds_up_to_the_whole(text_client: InferenceClient) -> None:
    whole = text_client.text_generation(PROMPT, max_new_tokens=8, return_full_text=False)
    assert "".join(text_client.text_generation(PROMPT, max_new_tokens=8, stream=True)) == whole


def test_streamed_text_generation_with_details(text_client: InferenceClient) -> None:
    events = list(text_client.text_generation(PROMPT, max_new_tokens=8, stream=True, details=True))
    assert [event.index for event in events] == list(range(1, len(events) + 1))
    assert all(event.generated_text is None for event in events[:-1])
    assert events[-1].generated_text
    assert events[-1].details.generated_tokens == len(events)
    assert events[-1].details.input_length > 0


def test_sampling_parameters_arrive(text_client: InferenceClient) -> None:
    asked = {
        "max_new_tokens": 12,
        "do_sample": True,
        "temperature": 1.3,
        "top_k": 40,
        "top_p": 0.95,
        "repetition_penalty": 1.1,
        "details": True,
    }
    first = text_client.text_generation(PROMPT, **asked, seed=3)
    again = text_client.text_generation(PROMPT, **asked, seed=3)
    other = text_client.text_generation(PROMPT, **asked, seed=4)
    assert first.details.seed == 3
    assert first.generated_text == again.generated_text != other.generated_text


def test_stop_strings_end_a_native_text(text_client: InferenceClient) -> None:
    whole = text_client.text_generation(PROMPT, max_new_tokens=12, return_full_text=False)
    stop = whole[len(whole) // 2 :][:2]
    answer = text_client.text_generation(PROMPT, max_new_tokens=12, stop=[stop], details=True, return_full_text=False)
    assert answer.generated_text == whole[: whole.index(stop) + len(stop)]
    assert answer.details.finish_reason == "stop_sequence"


def test_chat_completion(client: InferenceClient) -> None:
    messages = [{"role": "user", "content": "Repeat: red apple"}]
    whole = client.chat_completion(messages, max_tokens=24, temperature=0)
    chunks = list(client.chat_completion(messages, max_tokens=24, temperature=0, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert whole.choices[0].message.content
    assert text == whole.choices[0].message.content
