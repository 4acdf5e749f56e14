"""The asking side of the admin RPC: one call, one connection, one answer.

`AdminClient.call` blocks on a plain socket and needs no event loop: a command's start is a part of every failover, and importing
asyncio alone takes longer than the call. `acall` is the same for callers that have a loop.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tower.validator.admin_wire import (
    MAX_ANSWER_BYTES,
    AdminError,
    AdminTimeout,
    AdminUnavailable,
    admin_socket,
    short_name,
)

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

__all__ = ["DEFAULT_CALL_S", "SET_IDENTITY_CALL_S", "AdminClient"]

DEFAULT_CALL_S = 30.0
SET_IDENTITY_CALL_S = 600.0  # catching up and claiming take as long as they take; this only bounds a hung process
READ_BYTES = 1 << 16


class AdminClient:
    """Calls to the validator of a ledger folder, one connection each. Raises `AdminError` or `AdminUnavailable`."""

    def __init__(self, ledger: str | Path, *, timeout: float = DEFAULT_CALL_S) -> None:
        self.path = admin_socket(ledger)
        self.timeout = timeout

    def call(self, method: str, *params: Any, timeout: float | None = None) -> Any:
        """The result of one method, waited for at most `timeout` seconds (default: the client's)."""
        bound = self.timeout if timeout is None else timeout
        try:
            line = self._exchange(_request(method, params), time.monotonic() + bound)
        except OSError as problem:
            raise _explained(problem, self.path, method, bound) from None
        return _result(line, self.path, method)

    async def acall(self, method: str, *params: Any, timeout: float | None = None) -> Any:
        """As `call`, for callers with an event loop."""
        import asyncio

        bound = self.timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(bound):
                line = await self._aexchange(_request(method, params))
        except OSError as problem:
            raise _explained(problem, self.path, method, bound) from None
        return _result(line, self.path, method)

    def _exchange(self, request: bytes, deadline: float) -> bytes:
        """The answer's line; what came of it where the connection ended before. Raises `TimeoutError` at the deadline."""
        answer = bytearray()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            _allow(link, deadline)
            with short_name(self.path) as name:
                link.connect(name)
            try:
                with contextlib.suppress(BrokenPipeError):  # a server that refuses has answered already
                    link.sendall(request)
                while not answer.endswith(b"\n"):
                    _allow(link, deadline)
                    data = link.recv(READ_BYTES)
                    answer += data
                    if len(answer) > MAX_ANSWER_BYTES:
                        raise AdminUnavailable(f"{self.path}: an answer longer than {MAX_ANSWER_BYTES} bytes")
                    if not data:
                        break
            except ConnectionError:
                return b""
        return bytes(answer)

    async def _aexchange(self, request: bytes) -> bytes:
        import asyncio

        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.setblocking(False)
            with short_name(self.path) as name:
                await asyncio.get_running_loop().sock_connect(link, name)
            reader, writer = await asyncio.open_unix_connection(sock=link, limit=MAX_ANSWER_BYTES)
        except BaseException:
            link.close()
            raise
        return await self._ask(reader, writer, request)

    async def _ask(self, reader: StreamReader, writer: StreamWriter, request: bytes) -> bytes:
        try:
            with contextlib.suppress(BrokenPipeError):
                writer.write(request)
                await writer.drain()
            return await reader.readline()
        except ConnectionError:
            return b""
        except ValueError:
            raise AdminUnavailable(f"{self.path}: an answer longer than {MAX_ANSWER_BYTES} bytes") from None
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def _allow(link: socket.socket, deadline: float) -> None:
    """Let the next call on `link` wait until `deadline`. Raises `TimeoutError` if that has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    link.settimeout(left)


def _request(method: str, params: tuple[Any, ...]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}).encode() + b"\n"


def _explained(problem: OSError, path: Path, method: str, bound: float) -> AdminUnavailable:
    """What to tell of a connection that could not be made or used."""
    if isinstance(problem, TimeoutError):
        return AdminTimeout(f"{path}: no answer to {method} within {bound:g} s")
    if isinstance(problem, (FileNotFoundError, NotADirectoryError)):
        return AdminUnavailable(f"{path} does not exist; is the validator running? --ledger names its folder")
    if isinstance(problem, ConnectionRefusedError):
        return AdminUnavailable(f"{path}: connection refused; the validator that made it has ended")
    if isinstance(problem, PermissionError):
        return AdminUnavailable(f"{path}: permission denied; run this as the validator's user")
    if isinstance(problem, ConnectionError):
        return AdminUnavailable(f"{path}: the validator ended before it answered {method}")
    return AdminUnavailable(f"{path}: {problem.strerror or problem}")


def _result(line: bytes, path: Path, method: str) -> Any:
    """The result in an answer's line. Raises `AdminError` for an error in it."""
    if not line.endswith(b"\n"):
        raise AdminUnavailable(f"{path}: the validator ended before it answered {method}")
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise AdminUnavailable(f"{path}: the answer is not JSON-RPC")
    error = answer.get("error")
    if isinstance(error, dict):
        code = error.get("code")
        raise AdminError(code if isinstance(code, int) else 0, " ".join(str(error.get("message")).split()))
    return answer.get("result")
