"""A bound on the connections of an HTTP listener: who opens many and asks nothing must not use up the process's descriptors.

Where the bound is met, the oldest connection makes way for the new one if it has been open for `LIFE_S`; else the new one is
hung up on. So a flood keeps others out for a few seconds at most, and never reaches the sockets that votes need.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from aiohttp import web

__all__ = ["LIFE_S", "listen_bounded"]

LIFE_S = 5.0
BACKLOG = 128


class _HungUpOn(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.abort()


def _factory(server: web.Server, connections_max: int, *, evict: bool) -> Callable[[], asyncio.Protocol]:
    began: dict[web.RequestHandler, float] = {}
    met: set[web.RequestHandler] = set()  # those that the server has known: asyncio takes many connections before it tells of one
    clock = asyncio.get_running_loop().time

    def connection() -> asyncio.Protocol:
        now = clock()
        live = set(server.connections)
        met.update(live)
        for handler, since in tuple(began.items()):
            if handler not in live and (handler in met or now - since > LIFE_S):
                del began[handler]
        met.intersection_update(began)
        if len(began) >= connections_max:
            oldest = next(iter(began))
            if not evict or now - began[oldest] < LIFE_S:
                return _HungUpOn()
            oldest.force_close()
            del began[oldest]
        handler = server()
        began[handler] = now
        return handler

    return connection


async def listen_bounded(
    runner: web.AppRunner, where: socket.socket | tuple[str, int], connections_max: int, *, evict: bool = True
) -> asyncio.Server:
    """Serve `runner`'s application at `where`, a bound socket or host and port, to at most `connections_max` at a time.

    `evict` lets an old connection make way; not for one that is meant to stay open, as a subscription. The caller closes the
    server before the runner. Raises `OSError` where it cannot listen.
    """
    server = runner.server
    if server is None:
        raise RuntimeError("the runner is not set up")
    factory = _factory(server, connections_max, evict=evict)
    loop = asyncio.get_running_loop()
    if isinstance(where, socket.socket):
        return await loop.create_server(factory, sock=where, backlog=BACKLOG)
    return await loop.create_server(factory, *where, backlog=BACKLOG, reuse_address=True)
