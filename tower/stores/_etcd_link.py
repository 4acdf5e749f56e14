"""The fallback way to etcd, and the one of the tools that look at it: the channel of an etcd client library on gRPC.

Of the library it takes the client and its channel; requests go over that channel as ready bytes. The
library is `pyetcd` (etcd-sdk-python), else `etcd3`: the same API, and nothing is used here that only one of them has.
Their own watch is not used: etcd3's retries a dead endpoint without a pause and never ends its thread, pyetcd's shuts
an endpoint out for five minutes of wall clock after one failure.

Certificates and keys stay in memory: they never pass through a temporary file, nor through the library. Importing this
module imports gRPC, so the store does it only where it was told to go this way.
"""

from __future__ import annotations

import importlib
import os
import queue
from collections.abc import Iterator
from types import ModuleType
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before grpc is imported: its C core writes to stderr otherwise

import grpc  # type: ignore[import-untyped]

from tower.errors import WireError
from tower.stores._etcd_call import (
    CLOSED,
    EXPIRED,
    KEEPALIVE_S,
    KEEPALIVE_TIMEOUT_S,
    METADATA,
    NO_ANSWER,
    NO_NAME,
    NO_PAIR,
    NO_TLS,
    REFUSED,
    REFUSED_OURS,
    WRONG_AUTHORITY,
    WRONG_NAME,
    CallFailed,
    explain_status,
)
from tower.stores._etcd_tls import check_pem

__all__ = ["CALL_ERRORS", "LIBRARY", "METADATA", "Link", "explain", "read_credentials"]

CONNECT_MS = 1000  # that a connection may take before the next address or try
RECONNECT_MS_MAX = 1000
GRACE_S = 0.1  # for gRPC to say that the time is over
CALL_ERRORS = (grpc.RpcError, grpc.FutureCancelledError)


def _library() -> ModuleType:
    try:
        return importlib.import_module("pyetcd")
    except ModuleNotFoundError:
        return importlib.import_module("etcd3")


_etcd = _library()
LIBRARY = _etcd.__name__


def read_credentials(ca_cert: bytes, cert: bytes, key: bytes) -> Any:
    """gRPC's credentials of PEM bytes; `InvalidInput` names the flag of what is no PEM."""
    check_pem(ca_cert, cert, key)
    return grpc.ssl_channel_credentials(ca_cert, key, cert)


def _client(host: str, port: int, credentials: Any, options: list[tuple[str, Any]], timeout: float) -> Any:
    class Client(_etcd.Etcd3Client):  # type: ignore[misc, name-defined]
        """The library's client with credentials that are ready, where it would read them from files."""

        @staticmethod
        def get_secure_creds(*_paths: str) -> Any:  # pyetcd's name
            return credentials

        _get_secure_creds = get_secure_creds  # etcd3's name

    ready = "in memory"
    return Client(host, port, ca_cert=ready, cert_key=ready, cert_cert=ready, timeout=timeout, grpc_options=options)


class Link:
    """A warm connection to one endpoint. `name` is `host:port`, as the operator gave it."""

    def __init__(self, host: str, port: int, credentials: Any, domain_name: str, attempt_timeout: float) -> None:
        self.host = f"[{host}]" if ":" in host else host
        self.name = f"{self.host}:{port}"
        self.domain_name = domain_name
        options: list[tuple[str, Any]] = [
            ("grpc.ssl_target_name_override", domain_name),
            ("grpc.min_reconnect_backoff_ms", CONNECT_MS),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", RECONNECT_MS_MAX),
            ("grpc.keepalive_time_ms", int(KEEPALIVE_S * 1000)),
            ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self.client = _client(self.host, port, credentials, options, attempt_timeout)
        channel = self.client.channel
        self.txn = self.put = channel.unary_unary("/etcdserverpb.KV/Txn")
        self.range = channel.unary_unary("/etcdserverpb.KV/Range")
        self.watch = channel.stream_stream("/etcdserverpb.Watch/Watch")

    def begin(self, method: str, request: bytes, timeout: float) -> _GrpcCall:
        """Send a request without waiting."""
        try:
            future = getattr(self, method).future(request, timeout=timeout, metadata=METADATA)
        except ValueError:  # the channel was closed
            future = None
        return _GrpcCall(future, self.domain_name)

    def expect(self, method: str) -> None:
        """gRPC offers no way to open a stream of a single request before there is one."""

    def call(self, method: str, request: bytes, timeout: float) -> bytes:
        """One request and its answer, at this endpoint alone. Raises `CallFailed`."""
        answer = self.begin(method, request, timeout).answer(timeout + GRACE_S)
        if answer is None:
            raise CallFailed(NO_ANSWER)
        return answer

    def session(self) -> _GrpcSession:
        """Calls beside those of the store, over the same channel."""
        return _GrpcSession(self)

    def close(self) -> None:
        """Give up the channel, from any thread."""
        self.client.close()


class _GrpcCall:
    def __init__(self, future: Any, domain_name: str) -> None:
        self._future, self._domain_name = future, domain_name

    def answer(self, timeout: float) -> bytes | None:
        if self._future is None:
            raise CallFailed(CLOSED, True)
        try:
            answer: bytes = self._future.result(timeout)
            return answer
        except grpc.FutureTimeoutError:
            return None
        except CALL_ERRORS as problem:
            raise CallFailed(*explain(problem, self._domain_name)) from None

    def fileno(self) -> int:
        return -1  # gRPC reads its socket in threads of its own

    def cancel(self) -> None:
        if self._future is not None:
            self._future.cancel()


class _GrpcSession:
    """The calls of a watch."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._stopped = False
        self._stream: Any = None

    def call(self, method: str, request: bytes, timeout: float) -> bytes:
        return self._link.call(method, request, timeout)

    def watch(self, request: bytes) -> Iterator[bytes]:
        requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        requests.put(request)

        def outgoing() -> Iterator[bytes]:
            while (each := requests.get()) is not None:
                yield each

        try:
            self._stream = stream = self._link.watch(outgoing(), metadata=METADATA)
        except ValueError:  # the channel was closed
            raise CallFailed(CLOSED, True) from None
        try:
            if not self._stopped:
                yield from stream
        except CALL_ERRORS as problem:
            raise CallFailed(*explain(problem, self._link.domain_name)) from None
        finally:
            stream.cancel()
            requests.put(None)  # ends the thread of gRPC that reads `outgoing`

    def stop(self) -> None:
        self._stopped = True
        if self._stream is not None:
            self._stream.cancel()

    def close(self) -> None:
        self.stop()


HINTS = (  # what gRPC says, what it means, and whether trying again cannot help
    ("Hostname Verification", WRONG_NAME, True),
    ("certificate has expired", EXPIRED, True),
    ("CERTIFICATE_VERIFY_FAILED", WRONG_AUTHORITY, True),
    ("ALERT_", REFUSED_OURS, True),
    ("CERTIFICATE_REQUIRED", REFUSED_OURS, True),
    ("TSI_DATA_CORRUPTED", REFUSED_OURS, False),  # an alert after the handshake, of which gRPC does not tell which
    ("Failed to create security handshaker", NO_PAIR, True),
    ("WRONG_VERSION_NUMBER", NO_TLS, True),
    ("Connection refused", REFUSED, False),
    ("errors resolving", NO_NAME, False),
)


def explain(problem: Exception, domain_name: str) -> tuple[str, bool]:
    """What an attempt's error means, with the fix where there is one; and whether trying again cannot help."""
    if isinstance(problem, WireError):
        return f"answer not understood: {problem}", False
    if not isinstance(problem, grpc.RpcError):
        return CLOSED, True
    code, details = problem.code(), problem.details() or ""
    for mark, text, hopeless in HINTS:
        if mark in details and code is grpc.StatusCode.UNAVAILABLE:
            return text.format(domain=domain_name), hopeless
    return explain_status(code.name, details)
