"""An admin socket and a JSON-RPC server of a test's own, in a thread, for commands that bring their own event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from tower.validator.admin import AdminServer, admin_socket
from tower.validator.control import Handler

START_S = 10.0


@contextmanager
def in_thread(main: Any) -> Iterator[Any]:
    """Run the async context manager `main` in a loop of its own; gives what it gives."""
    started = threading.Event()
    box: dict[str, Any] = {}

    async def run() -> None:
        box["loop"], box["end"] = asyncio.get_running_loop(), asyncio.Event()
        async with main as value:
            box["value"] = value
            started.set()
            await box["end"].wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        if not started.wait(START_S):
            raise RuntimeError("the test's server did not start")
        yield box["value"]
    finally:
        box["loop"].call_soon_threadsafe(box["end"].set)
        thread.join(START_S)


@contextmanager
def admin_server(ledger: Path, handlers: Mapping[str, Handler]) -> Iterator[None]:
    """An admin socket in `ledger` with these methods."""
    with in_thread(AdminServer(admin_socket(ledger), handlers)):
        yield


class RpcServer:
    """JSON-RPC with fixed results; an `Exception` as result is answered as an error. Remembers the calls."""

    def __init__(self, results: Mapping[str, Any]) -> None:
        self.results = dict(results)
        self.calls: list[tuple[str, list[Any]]] = []
        self.url = ""

    async def _answer(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.calls.append((asked["method"], asked["params"]))
        answer = {"jsonrpc": "2.0", "id": asked["id"]}
        result = self.results.get(asked["method"], Exception("Method not found"))
        if callable(result):
            result = result(asked["params"])
        if isinstance(result, Exception):
            code = result.args[1] if len(result.args) > 1 else -32601
            return web.json_response({**answer, "error": {"code": code, "message": result.args[0]}})
        return web.json_response({**answer, "result": result})

    async def __aenter__(self) -> RpcServer:
        app = web.Application()
        app.router.add_post("/", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


@contextmanager
def rpc_server(results: Mapping[str, Any]) -> Iterator[RpcServer]:
    """A JSON-RPC server on a free port of this machine."""
    with in_thread(RpcServer(results)) as server:
        yield server
