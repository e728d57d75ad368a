"""A small load balancer for tests: asks replicas whether they are ready, sends requests to those that are, never tries twice."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from types import TracebackType

import aiohttp
from aiohttp import web

ASK_EVERY = 0.2  # seconds


class Proxy:
    """Forwards to `replicas`; `base` is its own URL once entered, `served` counts answers by replica."""

    def __init__(self, replicas: list[str]) -> None:
        self.replicas = replicas
        self.ready: list[str] = []
        self.served: Counter[str] = Counter()
        self._turns = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Proxy:
        self._client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300))
        application = web.Application()
        application.router.add_post("/{path:.*}", self._forward)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.base = f"http://{host}:{port}"
        self._tasks.add(asyncio.create_task(self._watch()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert self._runner is not None
        await self._runner.cleanup()
        await self._client.close()

    async def _watch(self) -> None:
        while True:
            answers = await asyncio.gather(*map(self._is_ready, self.replicas))
            self.ready = [replica for replica, ready in zip(self.replicas, answers, strict=True) if ready]
            await asyncio.sleep(ASK_EVERY)

    async def _is_ready(self, replica: str) -> bool:
        try:
            async with self._client.get(f"{replica}/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        if not self.ready:
            return web.Response(status=502, text="no replica is ready")
        replica = self.ready[next(self._turns) % len(self.ready)]
        try:
            async with self._client.post(replica + request.path, json=await request.json()) as answer:
                response = web.StreamResponse(status=answer.status)
                response.content_type = answer.content_type
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
        except aiohttp.ClientError as error:
            return web.Response(status=502, text=f"{replica}: {error!r}")
        self.served[replica] += 1
        return response
