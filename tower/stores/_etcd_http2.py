"""Our own way to etcd: HTTP/2 over TLS on one socket for each endpoint, without a thread.

A call is written when it begins, and read by whoever waits for its answer. In between nobody looks at the socket: what came
meanwhile (a ping, the end of the connection) is taken in right before the next request, so that a connection which the server
has closed is opened again and not written to.

**A peer that is gone** without a word is noticed by the kernel's keepalive while nothing is asked, and by the attempt's
timeout otherwise. If nothing at all came since the request (not even room for more, which a server gives as soon as it has read
one), the connection is given up; else the call is cancelled, and a ping must be answered.

**Threads.** A store object belongs to one thread at a time. Should two meet (a call was abandoned by its task and still runs),
the second waits; `close` may come from anywhere.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from tower.stores._common import Deadline
from tower.stores._etcd_call import CLOSED, KEEPALIVE_S, KEEPALIVE_TIMEOUT_S, METADATA, NO_ANSWER, CallFailed
from tower.stores._etcd_connection import Connection
from tower.stores._etcd_frames import RequestFrames, header_block
from tower.stores._etcd_stream import Http2Call
from tower.stores._etcd_tls import Credentials

__all__ = ["Http2Link"]

AUTHORITY_BYTES_MAX = 126
PATHS = {
    "txn": b"/etcdserverpb.KV/Txn",
    "put": b"/etcdserverpb.KV/Txn",
    "range": b"/etcdserverpb.KV/Range",
    "watch": b"/etcdserverpb.Watch/Watch",
}


class Http2Link:
    """A warm connection to one endpoint, opened when first used and again whenever it was lost."""

    def __init__(self, host: str, port: int, credentials: Credentials, domain_name: str) -> None:
        self.host, self.port, self.domain_name = host, port, domain_name
        self.name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.credentials = credentials
        pairs = [(name.encode(), value.encode()) for name, value in METADATA]
        # etcd asks for no authority in particular, and a header has room for 126 bytes
        authority = self.name.encode("ascii", "replace")[:AUTHORITY_BYTES_MAX]
        blocks = {method: header_block(authority, path, pairs) for method, path in PATHS.items()}
        self._frames = {method: RequestFrames(block, alike=method == "put") for method, block in blocks.items()}
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._closed = False

    def begin(self, method: str, request: bytes, timeout: float) -> Http2Call:
        """Send a request without waiting; where no connection is open one is begun, and it is sent when that is open."""
        return self._submit(Http2Call(self._frames[method], request, link=self), timeout)

    def _submit(self, call: Http2Call, timeout: float) -> Http2Call:
        if not self._lock.acquire(timeout=timeout):
            call.fail(CallFailed(NO_ANSWER))  # another thread waits here for its own answer
            return call
        try:
            connection = self._connection
            if self._closed:
                call.fail(CallFailed(CLOSED, True))
                return call
            if connection is None or not connection.usable():
                if connection is not None:
                    connection.end(CallFailed("the connection was closed"))
                self._connection = connection = Connection(self.host, self.port, self.credentials, self.domain_name)
            call.connection = connection
            connection.submit(call)
        finally:
            self._lock.release()
        return call

    def expect(self, method: str) -> None:
        """Open the stream of a request that is likely to come next, where a connection is open."""
        if self._lock.acquire(blocking=False):
            try:
                if self._connection is not None:
                    self._connection.expect(self._frames[method])
            finally:
                self._lock.release()

    def wait(self, call: Http2Call, timeout: float) -> bytes | None:
        """The next message of `call`; `None` if there is none within `timeout` seconds. Raises `CallFailed`."""
        if not self._lock.acquire(timeout=timeout):
            return None
        try:
            connection = call.connection
            if connection is not None:
                connection.wait_for(call, timeout)
            return call.take()
        finally:
            self._lock.release()
            if self._closed:
                self._let_go()

    def cancel(self, call: Http2Call) -> None:
        """Forget the call; and let the server prove by the next one that it is still there."""
        with self._lock:
            if call.connection is not None:
                call.connection.cancel(call)

    def call(self, method: str, request: bytes, timeout: float) -> bytes:
        """One request and its answer, at this endpoint alone. Raises `CallFailed`."""
        deadline = Deadline(timeout)
        call = self.begin(method, request, timeout)
        answer = call.answer(deadline.left())
        if answer is None:
            call.cancel()
            raise CallFailed(NO_ANSWER)
        return answer

    def watch(self, request: bytes) -> Iterator[bytes]:
        """The messages of a watch until the server ends it, or gives no sign of life. Raises `CallFailed`."""
        call = self._submit(Http2Call(self._frames["watch"], request, link=self, stream=True), KEEPALIVE_S)
        silent = False
        while True:
            heard = self._heard()
            message = self.wait(call, KEEPALIVE_TIMEOUT_S if silent else KEEPALIVE_S)
            if message is not None:
                silent = False
                yield message
            elif call.ended:
                return
            elif self._heard() != heard:
                silent = False
            elif silent:
                call.cancel()
                raise CallFailed(NO_ANSWER)
            else:
                silent = True
                self._ping()

    def _heard(self) -> int:
        connection = self._connection
        return 0 if connection is None else connection.received

    def _ping(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.ping()

    def session(self) -> Http2Link:
        """A link of its own to the same endpoint."""
        return Http2Link(self.host, self.port, self.credentials, self.domain_name)

    def stop(self) -> None:
        """End what is under way, from any thread; see `Session`."""
        self.close()

    def close(self) -> None:
        """Give up the connection, from any thread: whoever waits on it is woken, and ends with `CallFailed`."""
        self._closed = True
        self._let_go()

    def _let_go(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                connection, self._connection = self._connection, None
                if connection is not None:
                    connection.end(CallFailed(CLOSED, True))
            finally:
                self._lock.release()
            return
        connection = self._connection
        if connection is not None:
            connection.wake()
