r"""The wire of the admin RPC: where its socket is, how a byte stream is cut into requests, its error codes.

>>> list(RequestSplitter(1000).feed(b' {"a": "}\\"{"}\n[1, [2]]{"half'))
[b'{"a": "}\\"{"}', b'[1, [2]]']
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tower.errors import TowerError
from tower.validator.redact import hide_keys

__all__ = [
    "AdminError",
    "AdminTimeout",
    "AdminUnavailable",
    "RequestSplitter",
    "admin_socket",
    "error_object",
    "short_name",
]

SOCKET_NAME = "admin.rpc"
SOCKET_PATH_MAX = 100  # a Unix socket's address holds 108 bytes on Linux, 104 elsewhere
MAX_REQUEST_BYTES = 256 << 10
MAX_ANSWER_BYTES = 4 << 20

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603


class AdminError(TowerError):
    """An error of the admin RPC: what a handler raises on one side and what a call raises on the other."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class AdminUnavailable(TowerError):
    """No validator answered at the socket."""


class AdminTimeout(AdminUnavailable):
    """The socket is there and nobody answered in time: a busy, frozen or hung process."""


def admin_socket(ledger: str | Path) -> Path:
    """Where the validator of `ledger` listens."""
    return Path(ledger) / SOCKET_NAME


class RequestSplitter:
    """Cuts a byte stream into requests at balanced brackets; brackets within strings do not count."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._part = bytearray()
        self._depth = 0
        self._in_string = False
        self._escaped = False

    @property
    def pending(self) -> bool:
        """Whether a request has begun that has not ended."""
        return bool(self._part)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The requests that end within `data`. Raises `AdminError` where no request can follow any more."""
        for byte in data:
            if self._depth == 0:
                if byte in b" \t\r\n":
                    continue
                if byte not in b"{[":
                    raise AdminError(PARSE_ERROR, "Parse error")
            self._part.append(byte)
            if len(self._part) > self._max_bytes:
                raise AdminError(INVALID_REQUEST, f"Invalid request: longer than {self._max_bytes} bytes")
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif byte == ord("\\"):
                    self._escaped = True
                elif byte == ord('"'):
                    self._in_string = False
            elif byte == ord('"'):
                self._in_string = True
            elif byte in b"{[":
                self._depth += 1
            elif byte in b"}]":
                self._depth -= 1
                if self._depth == 0:
                    request, self._part = bytes(self._part), bytearray()
                    yield request


def error_object(ident: Any, code: int, message: str) -> dict[str, Any]:
    """The response that carries an error to the request `ident`. A key that stood in the wrong place is not repeated."""
    return {"jsonrpc": "2.0", "error": {"code": code, "message": hide_keys(message)}, "id": ident}


@contextlib.contextmanager
def short_name(path: Path) -> Iterator[str]:
    """A name for the socket at `path` that fits into a socket address, however deep the ledger lies."""
    if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
