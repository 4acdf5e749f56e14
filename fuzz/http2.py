"""What a server may say on our own connection to etcd: the frames of HTTP/2, from the first byte after the handshake.

Rules: nothing but `WireError` comes out; the same bytes cut into other pieces do the same; a call that is settled has an answer
or says why not; and whatever was said, what we keep of it stays small.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from typing import Any, cast
from unittest.mock import patch

from tower.errors import WireError
from tower.stores import _etcd_connection as connections
from tower.stores import _etcd_frames as h2
from tower.stores._etcd_call import CallFailed
from tower.stores._etcd_stream import Http2Call

__all__ = ["TOKENS", "http2_said", "seeds"]

OPENS = b"\x88\x00\x0ccontent-type\x10application/grpc"  # :status 200, and what follows
ENDS = b"\x00\x0bgrpc-status\x010"
REQUEST = b"request"
KEPT_MAX = 1 << 17  # bytes of input that wait for the rest of a frame or of headers
TOKENS = (
    h2.frame(h2.SETTINGS, 0, 0), h2.frame(h2.SETTINGS, h2.ACK, 0), h2.settings([(h2.INITIAL_WINDOW_SIZE, 5)]), OPENS, ENDS,
    h2.frame(h2.HEADERS, h2.END_HEADERS, 1, OPENS), h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 1, ENDS),
    h2.frame(h2.PING, 0, 0, bytes(8)), h2.frame(h2.GOAWAY, 0, 0, bytes(8)), h2.frame(h2.RST_STREAM, 0, 3, bytes(4)),
    h2.window_update(0, 9), h2.window_update(3, h2.WINDOW_MAX),
)  # fmt: skip


class _Wire:
    """In the place of the channel: it takes everything, and nothing comes of itself."""

    received = 0

    def write(self, data: bytes) -> None: ...
    def expect(self, size: int) -> None: ...
    def close(self) -> None: ...


def _opened(*_: Any) -> Generator[Any, bool, _Wire]:
    yield from ()
    return _Wire()


def _play(parts: list[bytes]) -> tuple[str, list[tuple[bool, bytes | None, str]]]:
    """What comes of it: the connection's error if there is one, and each call's end."""
    with patch.object(connections, "opening", _opened):
        connection = connections.Connection("", 0, cast(Any, None), "")
    frames = h2.RequestFrames(b"\x83\x87")
    calls = [Http2Call(frames, REQUEST), Http2Call(frames, REQUEST, stream=True)]
    for call in calls:
        connection.submit(call)
    broken = ""
    for part in parts:
        try:
            connection.feed(part)
        except WireError as problem:
            broken = problem.reason
            break
        if len(connection._in) + (len(connection._block[2]) if connection._block else 0) > KEPT_MAX:
            raise AssertionError("more is kept than a frame and its headers")
    ends = []
    for call in calls:
        try:
            ends.append((call.settled, call.take(), ""))
        except CallFailed as failure:
            if "\n" in failure.text:
                raise AssertionError("an error of several lines") from failure
            ends.append((call.settled, None, failure.text))
        if ends[-1][1:] != (None, "") and not ends[-1][0]:
            raise AssertionError("a call has an end and is not settled")
    connection.end(CallFailed("over"))
    return broken, ends


def http2_said(data: bytes) -> bool:
    """The target; `AssertionError` for a broken rule."""
    whole = _play([data])
    middle = len(data) // 2
    for parts in ([data[:middle], data[middle:]], [data[at : at + 7] for at in range(0, len(data), 7)]):
        if _play(parts) != whole:
            raise AssertionError(f"cut into {len(parts)} pieces it means something else")
    return not whole[0]


def seeds(rng: random.Random) -> list[bytes]:
    """Conversations as etcd has them, and some that it could have."""
    found = []
    for stream in (1, 3):
        message = h2.message(rng.randbytes(20))
        answer = [
            h2.frame(h2.HEADERS, h2.END_HEADERS, stream, OPENS),
            h2.frame(h2.DATA, 0, stream, message),
            h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, ENDS),
        ]
        begin = h2.settings([(h2.MAX_CONCURRENT_STREAMS, 250), (h2.INITIAL_WINDOW_SIZE, 1 << 20)])
        found.append(b"".join([begin, h2.frame(h2.SETTINGS, h2.ACK, 0), h2.window_update(0, 100), *answer]))
        padded = h2.frame(h2.DATA, h2.PADDED, stream, b"\3" + message + bytes(3))
        cut = h2.frame(h2.HEADERS, 0, stream, OPENS[:9]) + h2.frame(h2.CONTINUATION, h2.END_HEADERS, stream, OPENS[9:])
        found.append(b"".join([begin, cut, padded, h2.frame(h2.PING, 0, 0, rng.randbytes(8)), answer[2]]))
        found.append(begin + h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, b"\x8d"))
        found.append(begin + answer[0] + h2.frame(h2.RST_STREAM, 0, stream, bytes(4)) + h2.frame(h2.GOAWAY, 0, 0, bytes(8)))
    return found
