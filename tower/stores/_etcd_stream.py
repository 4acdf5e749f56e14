"""One call on an HTTP/2 stream, as gRPC has it: headers, messages, and a status at the end. Pure.

>>> call = Http2Call(RequestFrames(b""), b"request")
>>> call.on_headers(Headers({b":status": b"200", b"content-type": b"application/grpc"}), last=False)
>>> call.on_data(b"\\0\\0\\0\\0\\2ok"); call.settled
False
>>> call.on_headers(Headers({b"grpc-status": b"0"}), last=True); call.settled, call.take()
(True, b'ok')
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from tower.errors import WireError
from tower.stores._etcd_call import GRPC_CODES, MESSAGE_BYTES_MAX, CallFailed, explain_status
from tower.stores._etcd_frames import Headers, RequestFrames, read_message

if TYPE_CHECKING:
    from tower.stores._etcd_connection import Connection
    from tower.stores._etcd_http2 import Http2Link

__all__ = ["Http2Call"]

PREFIX_BYTES = 5  # before a message
DETAILS_MAX = 300  # characters of what a server says
HTTP_CODES = {
    b"401": "UNAUTHENTICATED", b"403": "PERMISSION_DENIED", b"404": "UNIMPLEMENTED",
    b"429": "UNAVAILABLE", b"502": "UNAVAILABLE", b"503": "UNAVAILABLE", b"504": "UNAVAILABLE",
}  # fmt: skip


class Http2Call:
    """A call of one request. `settled`: `take` has something to say, be it a message, the end, or why there is none.

    With `stream` any number of messages may follow on the request, and the request's side of the stream stays open.
    """

    __slots__ = (
        "connection", "data", "ended", "failure", "frames", "headers", "heard", "id", "link", "mark", "request", "result",
        "settled", "stream", "taken", "unsent", "window",
    )  # fmt: skip

    def __init__(self, frames: RequestFrames, request: bytes, *, link: Http2Link | None = None, stream: bool = False) -> None:
        self.frames, self.request, self.link, self.stream = frames, request, link, stream
        self.connection: Connection | None = None
        self.id = 0  # of the stream; 0 before it was sent
        self.unsent = b""  # what the peer's window had no room for yet
        self.heard = 0  # how much text had come when it was sent
        self.mark = -1  # how much had come when it was sent; -1 where another call was under way
        self.window = self.taken = 0  # how much we may send; how much has come since we allowed more
        self.headers: Headers | None = None
        self.data = b""
        self.result: bytes | None = None
        self.failure: CallFailed | None = None
        self.settled = self.ended = False

    # -- for whoever waits

    def answer(self, timeout: float) -> bytes | None:
        """The next message; `None` if there is none within `timeout` seconds. Raises `CallFailed`."""
        return self.take() if self.link is None else self.link.wait(self, timeout)

    def cancel(self) -> None:
        """Nobody waits any more."""
        if self.link is not None:
            self.link.cancel(self)

    def fileno(self) -> int:
        """The socket at which the answer arrives; -1 where there is none."""
        return -1 if self.connection is None else self.connection.fileno()

    def take(self) -> bytes | None:
        """What has come: of a stream the next message, of a single call its answer. Raises `CallFailed`."""
        found = self.result
        if found is None and self.failure is not None:
            raise CallFailed(self.failure.text, self.failure.hopeless)
        if self.stream:
            self.result = None
            try:
                self._next_message()
            except WireError as problem:
                self.fail(CallFailed(f"answer not understood: {problem}"))
        return found

    # -- for the connection

    def fail(self, problem: CallFailed) -> None:
        """No more can come."""
        self.failure, self.settled, self.ended = problem, True, True
        self.unsent = b""

    def on_headers(self, headers: Headers, *, last: bool) -> None:
        """The first headers, or the last. `WireError` for headers in between, or an answer that is no message."""
        if last:
            first = self.headers or headers
            self.ended = self.settled = True
            if not (first.good and headers.ok):
                self.failure = CallFailed(*_explain(first, headers))
            elif not self.stream:
                found = read_message(self.data, 0, MESSAGE_BYTES_MAX)
                if found is None or found[1] != len(self.data):
                    raise WireError(len(self.data), "the answer is not one whole message")
                self.result = found[0]
        elif self.headers is not None:
            raise WireError(0, "headers in the middle of an answer")
        elif not headers.fields.get(b":status", b"").startswith(b"1"):  # 1xx: more will come
            self.headers = headers

    def on_data(self, payload: bytes) -> None:
        """A part of a message. `WireError` for one before the headers, or for more than is taken."""
        if self.headers is None:
            raise WireError(0, "data before headers")
        self.data = self.data + payload if self.data else payload
        if len(self.data) > MESSAGE_BYTES_MAX + PREFIX_BYTES:
            raise WireError(0, f"an answer of more than {MESSAGE_BYTES_MAX} bytes")
        if self.stream and self.result is None:
            self._next_message()

    def _next_message(self) -> None:
        found = read_message(self.data, 0, MESSAGE_BYTES_MAX)
        if found is not None:
            self.result, end = found
            self.data = self.data[end:]
        self.settled = self.result is not None or self.ended


def _explain(first: Headers, last: Headers) -> tuple[str, bool]:
    """Why a call did not end well, by its first and last headers."""
    status = first.fields.get(b":status", b"")
    if status != b"200":
        said = f"HTTP status {status.decode('ascii', 'replace')[:9]}"
        return explain_status(HTTP_CODES.get(status, "UNKNOWN"), said)
    if not first.good:
        return explain_status("UNIMPLEMENTED", "its answer is no gRPC")
    code, message = last.fields.get(b"grpc-status", b""), last.fields.get(b"grpc-message", b"")
    number = int(code) if code.isdigit() and len(code) < 3 else -1
    name = GRPC_CODES[number] if 0 < number < len(GRPC_CODES) else "UNKNOWN"
    details = unquote_to_bytes(message).decode("utf-8", "replace")[:DETAILS_MAX]
    return explain_status(name, "".join(character if character.isprintable() else " " for character in details))
