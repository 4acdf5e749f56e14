"""A network between a validator and the cluster that can break."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import aiohttp
from aiohttp import web

from tests.support.cluster import World
from tests.support.live import in_thread


class Network:
    """What stands between a validator and the cluster: RPC and PubSub, each with faults that can be switched on.

    `down` refuses everything; `unhealthy` and `slots_ahead` change two answers; `cut` breaks what is open.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.down = False
        self.unhealthy = False
        self.slots_ahead = 0
        self.calls: list[str] = []
        self.connections = 0  # of PubSub, ever
        self._open: set[web.WebSocketResponse] = set()
        self.url = self.websocket = ""

    async def _rpc(self, request: web.Request) -> web.Response:
        if self.down:
            return self._refuse(request)
        asked = await request.json()
        self.calls.append(asked["method"])
        if asked["method"] == "getHealth" and self.unhealthy:
            error = {"code": -32005, "message": "Node is behind by 500 slots"}
            return web.json_response({"jsonrpc": "2.0", "id": asked["id"], "error": error})
        async with self._session.post(self._world.url, json=asked) as response:
            answer = await response.json()
        if asked["method"] == "getSlot" and "result" in answer:
            answer["result"] += self.slots_ahead
        return web.json_response(answer)

    def _refuse(self, request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def _pubsub(self, request: web.Request) -> web.StreamResponse:
        if self.down:
            return self._refuse(request)
        self.connections += 1
        ours = web.WebSocketResponse()
        await ours.prepare(request)
        self._open.add(ours)
        try:
            async with self._session.ws_connect(self._world.websocket) as theirs:
                back = asyncio.create_task(self._pump(theirs, ours))
                await self._pump(ours, theirs)
                back.cancel()
        finally:
            self._open.discard(ours)
        return ours

    async def _pump(self, source: Any, sink: Any) -> None:
        with contextlib.suppress(ConnectionError, RuntimeError):
            async for message in source:
                await sink.send_str(message.data)

    def cut(self) -> None:
        """Break every PubSub connection, without a goodbye."""
        for each in tuple(self._open):
            transport = each._req.transport if each._req is not None else None
            if transport is not None:
                self._loop.call_soon_threadsafe(transport.abort)

    async def __aenter__(self) -> Network:
        self._loop = asyncio.get_running_loop()
        self._session = aiohttp.ClientSession()
        app = web.Application()
        app.router.add_post("/", self._rpc)
        app.router.add_get("/", self._pubsub)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        port = self._runner.addresses[0][1]
        self.url, self.websocket = f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        await self._runner.cleanup()
        await self._session.close()


@contextlib.contextmanager
def network(world: World) -> Iterator[Network]:
    with in_thread(Network(world)) as made:
        yield made
