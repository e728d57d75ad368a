"""The Hub's inference client: TGI's own API at the root, and chats."""

from __future__ import annotations

from typing import Any

from huggingface_hub import InferenceClient
from report import asked, feature, refusal, tell

client = InferenceClient(model=asked.base, timeout=60)
chats = InferenceClient(base_url=asked.base, timeout=60)
STORY = [{"role": "user", "content": asked.story}]
WEATHER = [{"role": "user", "content": asked.weather}]


def text_of(**fields: Any) -> Any:
    """A text of as many tokens as the others ask for."""
    return client.text_generation(asked.prompt, **{"max_new_tokens": asked.max_tokens, **fields})


@feature
def text_generation() -> str:
    return text_of(return_full_text=False)


@feature
def details() -> dict[str, Any]:
    answer = text_of(details=True, return_full_text=False, decoder_input_details=True, top_n_tokens=2)
    return {
        "text": answer.generated_text,
        "ids": [token.id for token in answer.details.tokens],
        "prefill": [token.id for token in answer.details.prefill],
        "top": [len(tokens) for tokens in answer.details.top_tokens],
        "finish_reason": answer.details.finish_reason,
    }


@feature
def stream() -> list[str]:
    return list(text_of(stream=True))


@feature
def stream_with_details() -> dict[str, Any]:
    events = list(text_of(stream=True, details=True, top_n_tokens=2))
    last = events[-1]
    return {
        "text": last.generated_text,
        "ids": [event.token.id for event in events],
        "counted": last.details.generated_tokens,
        "top": [len(event.top_tokens) for event in events],
    }


@feature
def all_parameters() -> str:
    return text_of(**asked.sampling)


@feature
def best_of() -> list[int]:
    answer = text_of(best_of=2, do_sample=True, details=True, max_new_tokens=6)
    return [len(answer.details.tokens), *(len(run.tokens) for run in answer.details.best_of_sequences)]


@feature
def grammar() -> str:
    return text_of(grammar={"type": "json", "value": asked.schema}, max_new_tokens=200, return_full_text=False)


@feature
def chat_completion() -> dict[str, Any]:
    answer = chats.chat_completion(STORY, max_tokens=asked.max_tokens, temperature=0)
    return {
        "text": answer.choices[0].message.content,
        "usage": [answer.usage.prompt_tokens, answer.usage.completion_tokens],
    }


@feature
def chat_stream() -> list[str]:
    chunks = chats.chat_completion(STORY, max_tokens=asked.max_tokens, temperature=0, stream=True)
    return [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]


@feature
def chat_logprobs() -> dict[str, Any]:
    answer = chats.chat_completion(STORY, max_tokens=4, temperature=0, logprobs=True, top_logprobs=2)
    tokens = answer.choices[0].logprobs.content
    return {"logprobs": [token.logprob for token in tokens], "top": [len(token.top_logprobs) for token in tokens]}


@feature
def tool_call() -> list[str]:
    answer = chats.chat_completion(WEATHER, tools=[asked.tool], max_tokens=asked.max_tokens, temperature=0)
    (call,) = answer.choices[0].message.tool_calls
    return [call.function.name, call.function.arguments]


@feature
def response_format() -> str:
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": asked.schema}}
    return (
        chats.chat_completion(STORY, max_tokens=200, temperature=0, response_format=wanted).choices[0].message.content
    )


@feature
def too_long() -> dict[str, Any]:
    return refusal(lambda: client.text_generation(asked.too_long, max_new_tokens=4))


@feature
def too_long_chat() -> dict[str, Any]:
    return refusal(lambda: chats.chat_completion([{"role": "user", "content": asked.too_long}], max_tokens=4))


tell("huggingface_hub")
