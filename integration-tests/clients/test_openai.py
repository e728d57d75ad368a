"""OpenAI's own Python client against the server."""

from __future__ import annotations

import asyncio

import openai
import pytest
from load.served import Served

MESSAGES = [{"role": "user", "content": "Repeat: red apple"}]


@pytest.fixture
def client(demo_server: Served) -> openai.OpenAI:
    """A client that does not retry: a failure is a failure."""
    return openai.OpenAI(base_url=f"{demo_server.base}/v1", api_key="none", max_retries=0, timeout=60)


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tgi", messages=MESSAGES, temperature=0, max_tokens=32)
    choice = answer.choices[0]
    assert answer.object == "chat.completion"
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_streamed_chat_adds_up_to_the_whole(client: openai.OpenAI) -> None:
    asked = {"model": "tgi", "messages": MESSAGES, "temperature": 0, "max_completion_tokens": 32}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert text == whole.choices[0].message.content
    assert reasons == [whole.choices[0].finish_reason]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_chat_with_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tgi", messages=MESSAGES, temperature=0, max_tokens=4, logprobs=True, top_logprobs=2
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    for token in content:
        assert token.logprob <= 0
        assert token.logprob == pytest.approx(max(top.logprob for top in token.top_logprobs), abs=1e-4)


def test_chat_stops_before_a_stop_string(client: openai.OpenAI) -> None:
    text = (
        client.chat.completions.create(model="tgi", messages=MESSAGES, temperature=0, max_tokens=32)
        .choices[0]
        .message.content
    )
    stop = text[len(text) // 2 :][:2]
    answer = client.chat.completions.create(model="tgi", messages=MESSAGES, temperature=0, max_tokens=32, stop=stop)
    assert answer.choices[0].message.content == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tgi", prompt="Once upon a time", temperature=0, max_tokens=12)
    chunks = list(
        client.completions.create(model="tgi", prompt="Once upon a time", temperature=0, max_tokens=12, stream=True)
    )
    assert answer.object == "text_completion"
    assert answer.usage.completion_tokens <= 12
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == answer.choices[0].text


def test_completions_of_several_prompts_come_in_order(client: openai.OpenAI) -> None:
    prompts = ["Once upon", "The red"]
    together = client.completions.create(model="tgi", prompt=prompts, temperature=0, max_tokens=8)
    alone = [
        client.completions.create(model="tgi", prompt=prompt, temperature=0, max_tokens=8).choices[0].text
        for prompt in prompts
    ]
    assert [choice.index for choice in together.choices] == [0, 1]
    assert [choice.text for choice in together.choices] == alone


def test_a_seed_repeats_a_sampled_answer(client: openai.OpenAI) -> None:
    answers = [
        client.chat.completions.create(model="tgi", messages=MESSAGES, temperature=1.5, max_tokens=16, seed=seed)
        .choices[0]
        .message.content
        for seed in (7, 7, -7)
    ]
    assert answers[0] == answers[1]
    assert answers[2]


def test_models(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert len(models) == 1
    assert models[0].id


def test_errors_are_the_clients_own_types(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model="tgi", messages=MESSAGES, temperature=-1)
    assert 400 <= refused.value.status_code < 500
    assert "temperature" in refused.value.message
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="tgi", input="hi")


def test_the_asynchronous_client_leaves_in_the_middle_of_a_stream(demo_server: Served) -> None:
    async def leave() -> str:
        async with openai.AsyncOpenAI(base_url=f"{demo_server.base}/v1", api_key="none", max_retries=0) as client:
            stream = await client.completions.create(
                model="tgi", prompt="Once", max_tokens=500, stream=True, extra_body={"ignore_eos": True}
            )
            async for chunk in stream:
                await stream.close()
                return str(chunk.object)
        return ""

    assert asyncio.run(leave()) == "text_completion"
