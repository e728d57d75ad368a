"""What every client is asked, and what a plain HTTP request gets for the same. Knows the HTTP API; not the clients."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from load.client import Json, exchange

PROMPT = "Once upon a time"
STORY = "Tell me a story about a fox named Tom."
WEATHER = "What is the weather in Paris?"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
SAMPLING: Json = {
    "best_of": 1,
    "do_sample": True,
    "frequency_penalty": 0.2,
    "repetition_penalty": 1.1,
    "return_full_text": True,
    "seed": 11,
    "stop": ["never said"],
    "temperature": 1.3,
    "top_k": 40,
    "top_p": 0.95,
    "truncate": 3,
    "typical_p": 0.9,
    "watermark": True,
}


@dataclass(frozen=True)
class Asked:
    """The questions, as each program gets them (JSON)."""

    base: str
    model: str = "tgi"
    prompt: str = PROMPT
    story: str = STORY
    weather: str = WEATHER
    max_tokens: int = 48
    too_long: str = "apple " * 6000
    tool_name: str = "get_weather"
    tool_description: str = "Get the weather in a city"
    tool_parameters: Json = field(default_factory=lambda: PARAMETERS)
    schema: Json = field(default_factory=lambda: PERSON)
    sampling: Json = field(default_factory=lambda: SAMPLING)

    def for_a_program(self) -> Json:
        """All of them, with the tool as OpenAI's clients declare it."""
        return asdict(self) | {"tool": self.tool}

    @property
    def tool(self) -> Json:
        """A tool that the bundled model knows how to call."""
        words = {"name": self.tool_name, "description": self.tool_description, "parameters": self.tool_parameters}
        return {"type": "function", "function": words}


class Truth:
    """The server's own words, by plain HTTP, without chance where nothing else is said."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked

    @cached_property
    def chat(self) -> Json:
        """The whole answer to the story's question."""
        return self._chat(self.asked.story)

    @cached_property
    def chat_text(self) -> str:
        """What it says."""
        return str(self.chat["choices"][0]["message"]["content"])

    @cached_property
    def prompt_tokens(self) -> int:
        """Of the story's question."""
        return int(self.chat["usage"]["prompt_tokens"])

    @cached_property
    def completion_tokens(self) -> int:
        """Of the answer to it."""
        return int(self.chat["usage"]["completion_tokens"])

    @cached_property
    def tool_call(self) -> tuple[str, str]:
        """Name and arguments of the call that the question about the weather is answered with."""
        answer = self._chat(self.asked.weather, tools=[self.asked.tool])
        (call,) = answer["choices"][0]["message"]["tool_calls"]
        return call["function"]["name"], call["function"]["arguments"]

    @cached_property
    def completion_text(self) -> str:
        """What /v1/completions makes of the prompt."""
        return self.completion_of(self.asked.prompt)

    def completion_of(self, prompt: str) -> str:
        """What /v1/completions makes of any prompt."""
        body = {"prompt": prompt, "max_tokens": self.asked.max_tokens, "temperature": 0}
        return str(self._post("/v1/completions", body)["choices"][0]["text"])

    @cached_property
    def generated(self) -> Json:
        """The whole answer of /generate to the prompt, with details."""
        return self._generate({"details": True, "top_n_tokens": 2, "decoder_input_details": True})

    @cached_property
    def text(self) -> str:
        """What it says."""
        return str(self.generated["generated_text"])

    @cached_property
    def sampled(self) -> str:
        """The text that all parameters together give."""
        return str(self._generate(self.asked.sampling)["generated_text"])

    def _generate(self, parameters: Json) -> Json:
        body = {
            "inputs": self.asked.prompt,
            "parameters": {"max_new_tokens": self.asked.max_tokens, **parameters},
        }
        return self._post("/generate", body)

    def _chat(self, content: str, **fields: Any) -> Json:
        messages = [{"role": "user", "content": content}]
        body = {"model": self.asked.model, "messages": messages, "max_tokens": self.asked.max_tokens, "temperature": 0}
        return self._post("/v1/chat/completions", body | fields)

    def _post(self, path: str, body: Json) -> Json:
        reply = exchange(self.asked.base, "POST", path, body)
        assert reply.status == 200, f"{path}: {reply.status} {reply.body[:600]!r}"
        return dict(reply.json())
