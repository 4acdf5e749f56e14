"""What a transport to etcd is: links to endpoints, calls on them, and what their errors mean to an operator.

Two exist: `_etcd_http2`, our own, and `_etcd_link`, the channel of gRPC. `_etcd_exchange` repeats a request over either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

__all__ = ["CLOSED", "GRPC_CODES", "METADATA", "NO_ANSWER", "Call", "CallFailed", "Link", "Session", "explain_status"]

KEEPALIVE_S, KEEPALIVE_TIMEOUT_S = 6.0, 2.0  # etcd closes connections that ping more often than every 5 s
MESSAGE_BYTES_MAX = 4 << 20  # of an answer; the bound of gRPC's own clients
METADATA = (("hasleader", "true"),)  # a member without a leader says so at once, instead of letting us wait

CLOSED = "the store is closed"
NO_ANSWER = "no answer in time; check that it is running and has a leader"
WRONG_NAME = "its certificate is not for {domain!r}; check --etcd-domain-name"
EXPIRED = "certificate verify failed: it has expired; make new certificates"
WRONG_AUTHORITY = "certificate verify failed: it is not by the authority in use; check --etcd-cacert-file"
REFUSED_OURS = "it refused our certificate; check --etcd-cert-file and --etcd-key-file"
GONE = "it closed the connection"
GONE_AT_ONCE = f"{GONE} right after the handshake; if it goes on, check that our certificate is not revoked (--etcd-cert-file)"
NO_PAIR = "certificate and key do not belong together; check --etcd-cert-file and --etcd-key-file"
NO_TLS = "no TLS spoken there; check --etcd-endpoint"
REFUSED = "connection refused; check --etcd-endpoint and that etcd is running"
NO_NAME = "host name not found; check --etcd-endpoint"
NO_HANDLES = "no file handle is left here; raise LimitNOFILE (ulimit -n)"
QUOTA = "its disk quota is used up; compact, defragment and disarm its alarm"

GRPC_CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
STATUS_HINTS = {  # what a status means, and whether trying again cannot help
    "DEADLINE_EXCEEDED": (NO_ANSWER, False),
    "UNAUTHENTICATED": ("it wants a user's login: {details}; check --etcd-cert-file", True),
    "PERMISSION_DENIED": ("it does not permit this: {details}; check --etcd-cert-file", True),
    "UNIMPLEMENTED": ("no etcd of version 3 there: {details}; check --etcd-endpoint", True),
}


def explain_status(code: str, details: str) -> tuple[str, bool]:
    """What a status of gRPC means, with the fix where there is one; and whether trying again cannot help.

    >>> explain_status("UNAVAILABLE", "etcdserver: no leader")
    ('UNAVAILABLE: etcdserver: no leader', False)
    """
    if code in STATUS_HINTS:
        text, hopeless = STATUS_HINTS[code]
        return text.format(details=details), hopeless
    if "database space exceeded" in details:
        return QUOTA, False
    return f"{code}: {details}", False


class CallFailed(Exception):
    """An attempt failed without an answer: `text` is for the operator, `hopeless` says that trying again cannot help."""

    def __init__(self, text: str, hopeless: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.hopeless = hopeless


class Call(Protocol):
    """One request that was sent to one endpoint."""

    def answer(self, timeout: float) -> bytes | None:
        """The answer's message, `None` while there is none after `timeout` seconds. Raises `CallFailed`."""

    def fileno(self) -> int:
        """The socket at which the answer arrives; -1 where there is none, or it is not ours to wait for."""

    def cancel(self) -> None:
        """Nobody waits for the answer any more. The request may take effect all the same."""


class Session(Protocol):
    """A way to one endpoint for a watch: in a thread of its own, but for `stop`."""

    def call(self, method: str, request: bytes, timeout: float) -> bytes:
        """One request and its answer. Raises `CallFailed`."""

    def watch(self, request: bytes) -> Iterator[bytes]:
        """The messages that follow on a watch's request, until it ends. Raises `CallFailed`."""

    def stop(self) -> None:
        """End what is under way, from any thread; the session is of no use afterwards."""

    def close(self) -> None:
        """Give up what the session holds, in its own thread."""


class Link(Protocol):
    """A warm connection to one endpoint. `name` is `host:port`, as the operator gave it."""

    name: str

    def begin(self, method: str, request: bytes, timeout: float) -> Call:
        """Send a request without waiting; its answer is expected within `timeout` seconds.

        `method` is `txn` or `range`, or `put` for those transactions whose answers are all alike.
        """

    def expect(self, method: str) -> None:
        """A request is likely to come next: prepare what can be prepared."""

    def call(self, method: str, request: bytes, timeout: float) -> bytes:
        """One request and its answer, at this endpoint alone. Raises `CallFailed`."""

    def session(self) -> Session:
        """A way to the same endpoint that shares nothing with this one's calls."""

    def close(self) -> None:
        """Give up the connection, from any thread; what waits ends with `CallFailed`."""
