"""So many clients, each taking its next piece of work when the last one is done. Knows neither requests nor servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

import aiohttp

from load.client import session

Work = TypeVar("Work")
Serve = Callable[[aiohttp.ClientSession, Work], Awaitable[None]]


async def closed_loop(clients: int, work: Iterable[Work], serve: Serve[Work]) -> float:
    """Serves all work with `clients` of them at a time; wall seconds of it all. The first exception of `serve` ends it."""
    waiting = iter(work)
    async with session() as client:

        async def worker() -> None:
            for piece in waiting:
                await serve(client, piece)

        begin = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(worker())
        return time.perf_counter() - begin


def for_seconds(seconds: float, work: Iterable[Work]) -> Iterator[Work]:
    """The work until so many seconds after the first piece was taken; what was taken by then is still finished."""
    begin = time.monotonic()
    for piece in work:
        if time.monotonic() - begin > seconds:
            return
        yield piece
