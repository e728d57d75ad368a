"""TGI's own client package."""

from __future__ import annotations

from typing import Any

from report import asked, feature, refusal, tell
from text_generation import AsyncClient, Client

client = Client(asked.base, timeout=60)


@feature
def generate() -> dict[str, Any]:
    answer = client.generate(asked.prompt, max_new_tokens=asked.max_tokens, decoder_input_details=True, top_n_tokens=2)
    return {
        "text": answer.generated_text,
        "ids": [token.id for token in answer.details.tokens],
        "prefill": [token.id for token in answer.details.prefill],
        "top": [len(tokens) for tokens in answer.details.top_tokens],
        "finish_reason": answer.details.finish_reason,
    }


@feature
def generate_stream() -> dict[str, Any]:
    events = list(client.generate_stream(asked.prompt, max_new_tokens=asked.max_tokens))
    last = events[-1]
    return {
        "text": last.generated_text,
        "ids": [event.token.id for event in events],
        "counted": last.details.generated_tokens,
    }


@feature
async def asynchronous_stream() -> list[int]:
    asynchronous = AsyncClient(asked.base, timeout=60)
    return [
        event.token.id async for event in asynchronous.generate_stream(asked.prompt, max_new_tokens=asked.max_tokens)
    ]


@feature
def all_parameters() -> str:
    sampling = {**asked.sampling, "stop_sequences": asked.sampling["stop"]}
    del sampling["stop"]
    return client.generate(asked.prompt, max_new_tokens=asked.max_tokens, **sampling).generated_text


@feature
def chat() -> dict[str, Any]:
    messages = [{"role": "user", "content": asked.story}]
    answer = client.chat(messages=messages, max_tokens=asked.max_tokens, temperature=0)
    return {
        "text": answer.choices[0].message.content,
        "usage": [answer.usage["prompt_tokens"], answer.usage["completion_tokens"]],
    }


@feature
def too_long() -> dict[str, Any]:
    return refusal(lambda: client.generate(asked.too_long, max_new_tokens=4))


tell("text-generation")
