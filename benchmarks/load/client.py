"""One streamed request and everything it answered, token by token with arrival times. Knows the HTTP API; not load, not models."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
import urllib.parse
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

Json = dict[str, Any]
NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_read=180)


@dataclass
class Answer:
    """What one request got. Times are seconds of `time.perf_counter`."""

    started: float = 0.0
    status: int = 0
    token_ids: list[int] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    text: str | None = None
    finish_reason: str | None = None
    input_length: int | None = None
    num_generated: int | None = None
    seed: int | None = None
    error: Json | None = None

    @property
    def ended(self) -> bool:
        """A last event came, of whatever kind."""
        return self.finish_reason is not None or self.error is not None

    @property
    def first_token_seconds(self) -> float:
        """Time to first token."""
        return self.times[0] - self.started

    @property
    def seconds_per_token(self) -> float:
        """Mean time between tokens after the first."""
        return (self.times[-1] - self.times[0]) / max(1, len(self.times) - 1)

    @property
    def gaps(self) -> list[float]:
        """Seconds between neighbouring tokens."""
        return [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]


OnToken = Callable[[Answer], None]


def session(connections: int = 0) -> aiohttp.ClientSession:
    """A client session with as many connections as needed (0: no limit)."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections), timeout=NO_TIMEOUT, read_bufsize=1 << 20
    )


async def generate_stream(
    client: aiohttp.ClientSession,
    base: str,
    body: Json,
    on_token: OnToken | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """POST /generate_stream. Errors of the server end up in `error`, broken connections raise."""
    return await _streamed(client, (f"{base}/generate_stream", headers), body, _native_event, on_token)


async def completions_stream(
    client: aiohttp.ClientSession, base: str, body: Json, on_token: OnToken | None = None
) -> Answer:
    """POST /v1/completions with one prompt, streamed. There are no token ids in it: `times` has one entry a text chunk."""
    body = body | {"stream": True, "stream_options": {"include_usage": True}}
    return await _streamed(client, (f"{base}/v1/completions", None), body, _completion_event, on_token)


@dataclass(frozen=True)
class Reply:
    """A whole HTTP answer. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON. Raises ValueError."""
        return json.loads(self.body)


def exchange(
    base: str, method: str, path: str, body: Json | bytes | None = None, headers: dict[str, str] | None = None
) -> Reply:
    """One request without a stream. A dict is sent as JSON, bytes as they are with the headers given."""
    address = urllib.parse.urlsplit(base)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)
    payload = json.dumps(body).encode() if isinstance(body, dict) else body
    sent = {"content-type": "application/json"} if headers is None and payload is not None else headers or {}
    try:
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # a server may answer before it has read a body it refuses
            connection.request(method, path, payload, sent)
        response = connection.getresponse()
        return Reply(response.status, _joined(response.getheaders()), response.read())
    finally:
        connection.close()


def _joined(headers: list[tuple[str, str]]) -> dict[str, str]:
    """Values of one name behind each other, as HTTP allows them to be read."""
    joined: dict[str, str] = {}
    for name, value in headers:
        before = joined.get(name.lower())
        joined[name.lower()] = value if before is None else f"{before}, {value}"
    return joined


async def post(client: aiohttp.ClientSession, url: str, body: Json) -> tuple[int, Json]:
    """Status and JSON body of one request without a stream."""
    async with client.post(url, json=body) as response:
        text = await response.text()
        return response.status, json.loads(text) if response.status == 200 else _error_body(text)


async def _streamed(
    client: aiohttp.ClientSession,
    place: tuple[str, dict[str, str] | None],
    body: Json,
    read_event: Callable[[Answer, Json], bool],
    on_token: OnToken | None,
) -> Answer:
    answer = Answer(started=time.perf_counter())
    url, headers = place
    async with client.post(url, json=body, headers=headers) as response:
        answer.status = response.status
        if response.status != 200:
            answer.error = _error_body(await response.text())
            return answer
        async for event in events(response):
            if read_event(answer, event) and on_token is not None:
                on_token(answer)
    return answer


def _error_body(text: str) -> Json:
    try:
        body = json.loads(text)
    except ValueError:
        return {"error": text}
    return body if isinstance(body, dict) else {"error": text}


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[Json]:
    """The JSON objects of a server-sent stream; comments and OpenAI's `[DONE]` are passed over."""
    async for line in response.content:
        if line.startswith(b"data:") and (payload := line[5:].strip()) != b"[DONE]":
            yield json.loads(payload)


def _native_event(answer: Answer, event: Json) -> bool:
    if "error" in event:
        answer.error = event
        return False
    answer.times.append(time.perf_counter())
    answer.token_ids.append(event["token"]["id"])
    answer.indices.append(event["index"])
    answer.pieces.append(event["token"]["text"])
    if event["generated_text"] is not None:
        details = event.get("details") or {}
        answer.text = event["generated_text"]
        answer.finish_reason = details.get("finish_reason", "unknown")
        answer.input_length, answer.seed = details.get("input_length"), details.get("seed")
        answer.num_generated = details.get("generated_tokens")
    return True


def _completion_event(answer: Answer, event: Json) -> bool:
    if "error" in event:
        answer.error = event
        return False
    if usage := event.get("usage"):
        answer.input_length, answer.num_generated = usage["prompt_tokens"], usage["completion_tokens"]
    for choice in event["choices"]:
        answer.times.append(time.perf_counter())
        answer.pieces.append(choice["text"])
        answer.finish_reason = choice["finish_reason"] or answer.finish_reason
    return bool(event["choices"])
