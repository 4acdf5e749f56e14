"""Connections to etcd endpoints, one request over all of them, and what their errors mean to an operator.

Of the etcd client library it takes the client and its channel; requests go over that channel as ready bytes. The
library is `pyetcd` (etcd-sdk-python), else `etcd3`: the same API, and nothing is used here that only one of them has.
Their own watch is not used: etcd3's retries a dead endpoint without a pause and never ends its thread, pyetcd's shuts
an endpoint out for five minutes of wall clock after one failure.

Certificates and keys stay in memory: they never pass through a temporary file, nor through the library.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Generic, TypeVar

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before grpc is imported: its C core writes to stderr otherwise

import grpc  # type: ignore[import-untyped]

from tower.errors import InvalidInput, WireError
from tower.stores._common import Deadline

__all__ = ["CALL_ERRORS", "LIBRARY", "METADATA", "Exchange", "Link", "Links", "explain", "read_credentials"]

BACKOFF_FIRST, BACKOFF_MAX = 0.01, 0.2  # seconds between two rounds over all endpoints
CONNECT_MS = 1000  # that a connection may take before the next address or try
RECONNECT_MS_MAX = 1000
KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 6000, 2000  # etcd closes connections that ping more often than every 5 s
METADATA = (("hasleader", "true"),)  # a member without a leader says so at once, instead of letting us wait

CALL_ERRORS = (grpc.RpcError, grpc.FutureCancelledError)
CLOSED = "the store is closed"
NO_ANSWER = "no answer in time; check that it is running and has a leader"

T = TypeVar("T")


def _library() -> ModuleType:
    try:
        return importlib.import_module("pyetcd")
    except ModuleNotFoundError:
        return importlib.import_module("etcd3")


_etcd = _library()
LIBRARY = _etcd.__name__


def read_credentials(ca_cert: bytes, cert: bytes, key: bytes) -> Any:
    """gRPC's credentials of PEM bytes; `InvalidInput` names the flag of what is no PEM."""
    pems = {"--etcd-cacert-file": ca_cert, "--etcd-cert-file": cert, "--etcd-key-file": key}
    for flag, data in pems.items():
        if b"-----BEGIN " not in data:
            raise InvalidInput(f"{flag}: no PEM file: it has no line -----BEGIN ...-----")
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
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self.client = _client(self.host, port, credentials, options, attempt_timeout)
        channel = self.client.channel
        self.txn = channel.unary_unary("/etcdserverpb.KV/Txn")
        self.range = channel.unary_unary("/etcdserverpb.KV/Range")
        self.watch = channel.stream_stream("/etcdserverpb.Watch/Watch")


class Links:
    """All endpoints, and the one in use: the first that answers stays in use until it fails."""

    def __init__(self, links: Sequence[Link], attempt_timeout: float) -> None:
        self.all = tuple(links)
        self.attempt_timeout = attempt_timeout
        self.closed = False
        self._current = 0

    @property
    def current(self) -> Link:
        return self.all[self._current]

    def leave(self, link: Link) -> None:
        """Go on to the endpoint after `link`, which has failed."""
        if link is self.current:
            self._current = (self._current + 1) % len(self.all)

    def close(self) -> None:
        self.closed = True
        for link in self.all:
            link.client.close()


HINTS = (  # what gRPC says, what it means, and whether trying again cannot help
    ("Hostname Verification", "its certificate is not for {domain!r}; check --etcd-domain-name", True),
    ("certificate has expired", "certificate verify failed: it has expired; make new certificates", True),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "certificate verify failed: it is not by the authority in use; check --etcd-cacert-file",
        True,
    ),
    ("ALERT_", "it refused our certificate; check --etcd-cert-file and --etcd-key-file", True),
    ("CERTIFICATE_REQUIRED", "it refused our certificate; check --etcd-cert-file and --etcd-key-file", True),
    (
        "Failed to create security handshaker",
        "certificate and key do not belong together; check --etcd-cert-file and --etcd-key-file",
        True,
    ),
    ("WRONG_VERSION_NUMBER", "no TLS spoken there; check --etcd-endpoint", True),
    ("Connection refused", "connection refused; check --etcd-endpoint and that etcd is running", False),
    ("errors resolving", "host name not found; check --etcd-endpoint", False),
    ("database space exceeded", "its disk quota is used up; compact, defragment and disarm its alarm", False),
)
CODE_HINTS = {
    grpc.StatusCode.DEADLINE_EXCEEDED: (NO_ANSWER, False),
    grpc.StatusCode.UNAUTHENTICATED: ("it wants a user's login: {details}; check --etcd-cert-file", True),
    grpc.StatusCode.PERMISSION_DENIED: ("it does not permit this: {details}; check --etcd-cert-file", True),
    grpc.StatusCode.UNIMPLEMENTED: ("no etcd of version 3 there: {details}; check --etcd-endpoint", True),
}


def explain(problem: Exception, domain_name: str) -> tuple[str, bool]:
    """What an attempt's error means, with the fix where there is one; and whether trying again cannot help."""
    if isinstance(problem, WireError):
        return f"answer not understood: {problem}", False
    if not isinstance(problem, grpc.RpcError):
        return CLOSED, True
    code, details = problem.code(), problem.details() or ""
    if code in CODE_HINTS:
        text, hopeless = CODE_HINTS[code]
        return text.format(details=details), hopeless
    for mark, text, hopeless in HINTS:
        if mark in details:
            return text.format(domain=domain_name), hopeless
    return f"{code.name}: {details}", False


class Exchange(Generic[T]):
    """One request, sent again over all endpoints with the same bytes until one answers or `deadline` has passed.

    The first copy is on its way when the constructor returns. A copy without an answer may still take effect later, so
    a caller whose request changes something must be able to tell from a later answer what an earlier copy did.
    """

    def __init__(
        self,
        links: Links,
        method: str,
        request: bytes,
        decode: Callable[[bytes], T],
        deadline: Deadline,
        *,
        may_give_up: bool,
    ) -> None:
        self._links, self._method, self._request, self._decode = links, method, request, decode
        self._deadline = deadline
        self._may_give_up = may_give_up  # where no endpoint can ever answer; only if nothing can have happened
        self._causes: dict[str, str] = {}
        self._hopeless: set[str] = set()
        self._backoff = BACKOFF_FIRST
        self._begin()

    def _begin(self) -> None:
        self._link = self._links.current
        self._timeout = timeout = min(self._links.attempt_timeout, self._deadline.left())
        try:
            self._future = getattr(self._link, self._method).future(self._request, timeout=timeout, metadata=METADATA)
        except ValueError:  # the channel was closed
            self._future = None

    def result(self, wait: Deadline) -> T | None:
        """The answer; `None` if there was none before `wait` or the deadline had passed, or none can come."""
        while self._future is not None:
            try:
                return self._decode(self._future.result(min(wait.left(), self._deadline.left() + 0.1)))
            except grpc.FutureTimeoutError:
                self._causes.setdefault(self._link.name, NO_ANSWER)
                return None
            except (*CALL_ERRORS, WireError) as problem:
                text, hopeless = explain(problem, self._link.domain_name)
            if self._timeout < self._links.attempt_timeout and text == NO_ANSWER:
                self._causes.setdefault(self._link.name, text)  # cut short by the end of time: says little
            else:
                self._causes[self._link.name] = text
            (self._hopeless.add if hopeless else self._hopeless.discard)(self._link.name)
            self._links.leave(self._link)
            if self._links.closed or self._deadline.passed() or wait.passed():
                return None
            if len(self._causes) == len(self._links.all):
                if self._may_give_up and len(self._hopeless) == len(self._links.all):
                    return None
                time.sleep(min(self._backoff, wait.left(), self._deadline.left()))
                self._backoff = min(2 * self._backoff, BACKOFF_MAX)
            self._begin()
        return None

    def cause(self) -> str:
        """Why there is no answer: every endpoint that was tried, with what it said last."""
        if self._links.closed:
            return CLOSED
        return "; ".join(f"etcd {name}: {text}" for name, text in self._causes.items())
