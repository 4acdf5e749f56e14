"""The admin RPC: `<ledger>/admin.rpc`, how the command line drives a running validator.

The wire format is that of the validators in use, so their command line can drive this process and ours can drive
theirs: JSON-RPC 2.0 over a Unix socket, positional params, requests delimited by balanced brackets, each answer one
line. The socket has mode 0600 and the peer must be the same user or root. What the methods do is not decided here: see
`tower.validator.control`.

An answer comes when the handler is done, however long that takes: `setIdentity` answers once the identity is adopted.
Requests on other connections go on meanwhile. A handler's unexpected exception is answered as an internal error and
handed to the event loop's exception handler, which the process sets.

One client cannot keep the others waiting: connections are counted, a request that is begun must end, and a client that asks for
nothing or does not take its answers is let go. One request is answered before the next is read, so little waits to be taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tower.errors import InvalidInput
from tower.validator.admin_calls import AdminCalls
from tower.validator.admin_client import DEFAULT_CALL_S, SET_IDENTITY_CALL_S, AdminClient
from tower.validator.admin_wire import (
    INVALID_REQUEST,
    MAX_REQUEST_BYTES,
    AdminError,
    AdminTimeout,
    AdminUnavailable,
    RequestSplitter,
    admin_socket,
    error_object,
    short_name,
)
from tower.validator.control import Handler, ValidatorControl, control_handlers

__all__ = [
    "DEFAULT_CALL_S",
    "SET_IDENTITY_CALL_S",
    "AdminClient",
    "AdminError",
    "AdminServer",
    "AdminTimeout",
    "AdminUnavailable",
    "ValidatorControl",
    "admin_socket",
    "control_handlers",
]

log = logging.getLogger(__name__)

SOCKET_MODE = 0o600
BACKLOG = 128  # where it is full, a connect that does not block fails at once
MAX_CONNECTIONS = 64
READ_BYTES = 1 << 14
IDLE_S = 300.0  # that a connection may ask for nothing
HALF_REQUEST_S = 10.0  # that a request may take to arrive, once begun
SEND_S = 30.0  # that a client may take to take an answer


class AdminServer:
    """Serves `handlers` (method name to coroutine function, positional params) at a Unix socket.

    `start` replaces a socket that a dead process left; `close` removes ours. The caller holds the ledger's lock.
    """

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self.path = Path(path)
        self._calls = AdminCalls(handlers)
        self._server: asyncio.Server | None = None
        self._inode: int | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> AdminServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen. Raises `InvalidInput` if the socket cannot be made."""
        fresh = self.path.with_name(self.path.name + ".new")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            fresh.unlink(missing_ok=True)
            with short_name(fresh) as name:
                listener.bind(name)
            # mode before listening, listening before the name: nobody finds a socket that is open to all or deaf
            os.chmod(fresh, SOCKET_MODE)
            listener.listen(BACKLOG)
            os.replace(fresh, self.path)
            self._inode = self.path.stat().st_ino
        except OSError as problem:
            listener.close()
            raise InvalidInput(f"--ledger: cannot listen at {self.path}: {problem.strerror or problem}") from None
        self._server = await asyncio.start_unix_server(self._accept, sock=listener, backlog=BACKLOG)

    async def close(self) -> None:
        """Stop listening, give up what is still being answered, remove the socket. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for task, writer in self._connections.items():
            writer.transport.abort()  # what a client has not taken yet must not hold up the end
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        work = self._serve if len(self._connections) < MAX_CONNECTIONS else self._refuse
        task = asyncio.get_running_loop().create_task(work(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)

    async def _refuse(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Too many at once: say so and hang up."""
        text = f"Invalid request: {MAX_CONNECTIONS} connections are open already"
        try:
            with contextlib.suppress(ConnectionError):
                await _send(writer, error_object(None, INVALID_REQUEST, text))
        finally:
            await _close(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not _peer_is_allowed(writer.get_extra_info("socket")):
                raise AdminError(INVALID_REQUEST, "Only root and the user that runs the validator may ask")
            await self._answer_all(reader, writer)
        except AdminError as problem:
            with contextlib.suppress(ConnectionError):
                await _send(writer, error_object(None, problem.code, str(problem)))
        except ConnectionError:
            log.debug("admin client left before its answer")
        finally:
            await _close(writer)

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        splitter, half_until = RequestSplitter(MAX_REQUEST_BYTES), None
        while data := await _read(reader, half_until):
            for request in splitter.feed(data):
                half_until = None
                answer = await self._calls.answer(request)
                if answer is not None:
                    await _send(writer, answer)
            if not splitter.pending:
                half_until = None
            elif half_until is None:
                half_until = asyncio.get_running_loop().time() + HALF_REQUEST_S


async def _read(reader: asyncio.StreamReader, half_until: float | None) -> bytes:
    """The next bytes, empty at the end. Raises `AdminError` if a request that is begun has not ended by `half_until`."""
    idle_until = asyncio.get_running_loop().time() + IDLE_S
    try:
        async with asyncio.timeout_at(idle_until if half_until is None else half_until):
            return await reader.read(READ_BYTES)
    except TimeoutError:
        if half_until is None:
            return b""
        raise AdminError(INVALID_REQUEST, f"Invalid request: not complete within {HALF_REQUEST_S:g} s") from None


async def _send(writer: asyncio.StreamWriter, answer: Any) -> None:
    writer.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
    try:
        async with asyncio.timeout(SEND_S):
            await writer.drain()
    except TimeoutError:
        writer.transport.abort()
        raise ConnectionAbortedError("the client does not take its answers") from None


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        try:
            async with asyncio.timeout(SEND_S):
                await writer.wait_closed()
        except TimeoutError:
            writer.transport.abort()


def _peer_is_allowed(peer: socket.socket) -> bool:
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:  # not Linux: the socket's mode alone must do
        return True
    credentials = struct.Struct("3i")
    _, uid, _ = credentials.unpack(peer.getsockopt(socket.SOL_SOCKET, option, credentials.size))
    return uid in (0, os.geteuid())
