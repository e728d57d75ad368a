"""Streams that are counted and not read: cheap enough to drive a router on the same cores. Knows HTTP's framing; no JSON, no processes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass

OK = b"HTTP/1.1 200"
EVENT = b"data:"
END = b"\r\n0\r\n\r\n"  # the last chunk of a body


class BrokenStreamError(RuntimeError):
    """An answer is no stream of 200, or its connection ended in it."""


@dataclass
class Counted:
    """What one stream got, in seconds from its request."""

    started: float
    first_event_seconds: float = 0.0
    events: int = 0


def stream_request(address: tuple[str, int], inputs: str, output_tokens: int) -> bytes:
    """The bytes of a greedy native stream of exact length."""
    parameters = {"max_new_tokens": output_tokens, "ignore_eos": True}
    body = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    head = (
        f"POST /generate_stream HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection(asyncio.Protocol):
    """A connection that stays; one stream at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer = Counted(0.0)
        self._seen = b""
        self._done: asyncio.Future[Counted] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps where to write."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    async def ask(self, request: bytes) -> Counted:
        """Sends it and counts its events. Raises BrokenStreamError."""
        assert self._transport is not None, "not connected"
        self._done = asyncio.get_running_loop().create_future()
        self._seen = b""
        self._answer = Counted(time.perf_counter())
        self._transport.write(request)
        return await self._done

    def data_received(self, data: bytes) -> None:
        """Counts events, also those that lie across two reads."""
        if self._done is None or self._done.done():
            return
        if not self._seen and not data.startswith(OK):
            self._done.set_exception(BrokenStreamError(data[:300].decode(errors="replace")))
            return
        events = (self._seen[1 - len(EVENT) :] + data).count(EVENT) if self._seen else data.count(EVENT)
        if events and not self._answer.events:
            self._answer.first_event_seconds = time.perf_counter() - self._answer.started
        self._answer.events += events
        self._seen = (self._seen + data)[-len(END) :]
        if self._seen == END:
            self._done.set_result(self._answer)

    def close(self) -> None:
        """Ends the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Whoever waits hears of it."""
        if self._done is not None and not self._done.done():
            self._done.set_exception(BrokenStreamError(f"the connection ended: {error}"))


async def run(address: tuple[str, int], requests: Iterable[bytes], clients: int) -> tuple[list[Counted], float]:
    """All requests, `clients` of them at a time, each client on a connection of its own; the answers, and wall seconds of it all."""
    waiting = iter(requests)
    answers: list[Counted] = []
    loop = asyncio.get_running_loop()
    connections = [(await loop.create_connection(Connection, *address))[1] for _ in range(clients)]

    async def worker(connection: Connection) -> None:
        for request in waiting:
            answers.append(await connection.ask(request))

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(worker(connection))
    wall = time.perf_counter() - begin
    for connection in connections:
        connection.close()
    return answers, wall
