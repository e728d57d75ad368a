"""The table of bad requests and what each must be answered. Knows the contract (status, error_type, body kind); not how servers are started."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from load.client import Json, Reply, exchange

JSON_TYPE = {"content-type": "application/json"}


@dataclass(frozen=True)
class Row:
    """One bad request. `error_type` None: the body is plain text. `names`: words that the message must hold."""

    name: str
    path: str
    body: Json | bytes
    status: int
    error_type: str | None = None
    names: tuple[str, ...] = ()
    headers: dict[str, str] | None = None
    method: str = "POST"
    openai: bool = False

    def send(self, base: str) -> Reply:
        """Sends it."""
        headers = self.headers if self.headers is not None else JSON_TYPE
        body = json.dumps(self.body).encode() if isinstance(self.body, dict) else self.body
        return exchange(base, self.method, self.path, body, headers)

    def complaint(self, reply: Reply) -> str | None:
        """What is wrong with the answer; None when nothing is."""
        if reply.status != self.status:
            return f"status {reply.status}, wanted {self.status}: {reply.body[:300]!r}"
        text = reply.body.decode()
        if missing := [word for word in self.names if word not in text]:
            return f"the message does not name {missing}: {text[:300]}"
        return self._wrong_body(text)

    def _wrong_body(self, text: str) -> str | None:
        if self.error_type is None:
            return None
        try:
            body = json.loads(text)
            error = body["error"]
            kind, message = (error["type"], error["message"]) if self.openai else (body["error_type"], error)
        except (ValueError, KeyError, TypeError):
            return f"no error object: {text[:300]}"
        if kind != self.error_type or not isinstance(message, str) or not message:
            return f"error type {kind!r}, wanted {self.error_type!r}, message {message!r}"
        return None


def native(name: str, parameters: Json, *names: str, inputs: object = "hello") -> Row:
    """A value that the native routes refuse by meaning: JSON 422 `validation`."""
    return Row(name, "/generate", {"inputs": inputs, "parameters": parameters}, 422, "validation", names)


def shape(name: str, body: Json | bytes, path: str = "/generate", status: int = 422) -> Row:
    """A body of the wrong shape: plain text."""
    return Row(name, path, body, status)


def shapes() -> Iterator[Row]:
    """Bodies that are no request at all."""
    for path in ("/generate", "/generate_stream", "/"):
        yield shape(f"truncated JSON to {path}", b'{"inputs": "a"', path, 400)
        yield shape(f"no inputs to {path}", {"parameters": {}}, path)
    yield shape("not JSON", b"hello", status=400)
    yield shape("empty body", b"", status=400)
    yield shape("bytes that are no UTF-8", b'{"inputs": "\xff\xfe"}', status=400)
    yield shape("a lone NaN", b'{"inputs": "a", "parameters": {"temperature": NaN}}', status=400)
    yield shape("an Infinity", b'{"inputs": "a", "parameters": {"temperature": Infinity}}', status=400)
    yield shape("a number as inputs", {"inputs": 3})
    yield shape("a list as body", b"[1, 2]")
    yield shape("text as temperature", {"inputs": "a", "parameters": {"temperature": "hot"}})
    yield shape("text as watermark", {"inputs": "a", "parameters": {"watermark": "yes"}})
    yield shape("a negative length", {"inputs": "a", "parameters": {"max_new_tokens": -1}})
    yield shape("a fraction as length", {"inputs": "a", "parameters": {"max_new_tokens": 1.5}})
    yield shape(
        "a seed beyond 64 bits", b'{"inputs": "a", "parameters": {"do_sample": true, "seed": 18446744073709551616}}'
    )
    yield shape("text as parameters", {"inputs": "a", "parameters": "none"})
    yield Row("no content type", "/generate", b'{"inputs": "a"}', 415, headers={})
    yield Row("another content type", "/generate", b'{"inputs": "a"}', 415, headers={"content-type": "text/plain"})
    yield Row("a body over the limit", "/generate", b'{"inputs": "' + b"a" * 2_100_000 + b'"}', 413)
    yield Row("a wrong method", "/generate", b"", 405, method="GET")


def meanings() -> Iterator[Row]:
    """Requests of the right shape that cannot be meant."""
    yield native("empty prompt", {}, inputs="")
    yield native("max_new_tokens 0", {"max_new_tokens": 0}, "max_new_tokens")
    yield native("more than fits", {"max_new_tokens": 100_000}, "max_new_tokens", "100000")
    yield native("prompt too long", {"max_new_tokens": 1}, inputs="word " * 40_000)
    yield native("temperature 0", {"temperature": 0.0}, "temperature")
    yield native("negative temperature", {"temperature": -1.0}, "temperature")
    yield native("temperature beyond float32", {"temperature": 1e300}, "temperature")
    yield native("top_p 0", {"top_p": 0.0}, "top_p")
    yield native("top_p above 1", {"top_p": 1.5}, "top_p")
    yield native("top_k 0", {"top_k": 0}, "top_k")
    yield native("top_k below 0", {"top_k": -3}, "top_k")
    yield native("repetition_penalty 0", {"repetition_penalty": 0.0}, "repetition_penalty")
    yield native("frequency_penalty out of range", {"frequency_penalty": 2.5}, "frequency_penalty")
    yield native("too many stop strings", {"stop": ["a", "b", "c", "d", "e"]}, "stop")
    yield native("top_n_tokens above the limit", {"top_n_tokens": 6}, "top_n_tokens")
    yield native("truncate 0", {"truncate": 0}, "truncate")
    yield native("a grammar that is no regex", {"grammar": {"type": "regex", "value": "a("}}, "grammar", "unclosed")
    unique = {"type": "array", "uniqueItems": True}
    yield native("a schema beyond masks", {"grammar": {"type": "json", "value": unique}}, "grammar", "uniqueItems")
    yield native("unknown adapter", {"adapter_id": "nobody"}, "adapter")
    stream = {"inputs": "", "parameters": {}}
    scored = {"inputs": "a", "parameters": {"decoder_input_details": True}}
    yield Row("a streamed prompt, scored", "/generate_stream", scored, 422, "validation")
    yield Row("empty prompt, streamed, has its real status", "/generate_stream", stream, 422, "validation")
    yield Row("empty prompt on the root route", "/", {"inputs": "", "stream": True}, 422, "validation")
    yield Row(
        "prompt too long to tokenize for a stream", "/generate_stream", {"inputs": "word " * 40_000}, 422, "validation"
    )


def openai(
    name: str,
    path: str,
    body: Json,
    status: int = 422,
    kind: str = "invalid_request_error",
    names: tuple[str, ...] = (),
) -> Row:
    """A request that an OpenAI route refuses with OpenAI's error object."""
    return Row(name, path, body, status, kind, names, openai=True)


CHAT: Json = {"model": "tgi", "messages": [{"role": "user", "content": "hi"}]}


def openai_routes() -> Iterator[Row]:
    """Bad chat and completions requests."""
    chat, completions = "/v1/chat/completions", "/v1/completions"
    yield openai("negative chat temperature", chat, CHAT | {"temperature": -1.0}, names=("temperature",))
    yield openai("streamed chat with a bad top_p", chat, CHAT | {"top_p": 2.0, "stream": True}, names=("top_p",))
    yield openai("chat max_tokens 0", chat, CHAT | {"max_tokens": 0}, names=("max_tokens",))
    yield openai(
        "a required tool call with arguments that cannot be enforced",
        chat,
        CHAT
        | {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}],
            "tool_choice": "required",
        },
        names=("tool_choice", "`not`"),
    )
    yield openai(
        "a choice of a tool that is not there",
        chat,
        CHAT | {"tools": [], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        names=("tool_choice",),
    )
    yield openai("completion of nothing", completions, {"model": "tgi", "prompt": ""})
    yield openai(
        "completion with a suffix", completions, {"model": "tgi", "prompt": "a", "suffix": "b"}, names=("suffix",)
    )
    yield openai("too many prompts", completions, {"model": "tgi", "prompt": ["a", "b", "c", "d", "e"]})


def unknown_routes() -> Iterator[Row]:
    """Places that do not exist."""
    yield Row("unknown path", "/v1/responses", CHAT, 404)
    yield Row("unknown path by GET", "/nothing", b"", 404, method="GET")


ROWS: list[Row] = [*shapes(), *meanings(), *openai_routes(), *unknown_routes()]
