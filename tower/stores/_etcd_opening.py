"""How a connection to etcd is opened, in steps that never wait: whoever drives them waits for what they ask for.

An address is tried for `OPEN_S` seconds. Nothing but the handshake is sent before the server has proved who it is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Generator, Sequence
from typing import Any

from tower.stores._etcd_call import GONE, NO_ANSWER, NO_HANDLES, NO_NAME, REFUSED, CallFailed
from tower.stores._etcd_channel import Channel
from tower.stores._etcd_tls import NO_HTTP2, SELF_SIGNED, Credentials, explain_tls

__all__ = ["OPEN_S", "Opening", "explain_os", "opening"]

OPEN_S = 2.0  # that one address may take, handshake included
HANDSHAKE_BYTES = 1 << 16
KERNEL_KEEPALIVE = (("TCP_KEEPIDLE", 6), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 2))  # seconds, seconds, times

# yields (file descriptor, events of poll, until when), is sent whether that came to pass
Opening = Generator[tuple[int, int, float], bool, Channel]
Address = tuple[Any, ...]  # as of getaddrinfo


def opening(host: str, port: int, credentials: Credentials, domain_name: str) -> Opening:
    """Open a connection to the first address of `host` that lets us. Raises `CallFailed`."""
    problem = CallFailed(NO_NAME)
    for *kind, _, address in (yield from _addresses(host, port)):
        try:
            return (yield from _reach(kind, address, credentials, domain_name))
        except CallFailed as failure:
            problem = failure
    raise problem


def _addresses(host: str, port: int) -> Generator[tuple[int, int, float], bool, Sequence[Address]]:
    """What `host` stands for. A name is looked up in a thread: the resolver knows no deadline."""
    with contextlib.suppress(socket.gaierror):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    found: list[Address] = []
    hear, tell = socket.socketpair()

    def look_up() -> None:
        with tell, contextlib.suppress(OSError, UnicodeError):
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))

    try:
        threading.Thread(target=look_up, name="tower-resolve", daemon=True).start()
    except RuntimeError as problem:  # the system gives us no more threads
        hear.close()
        tell.close()
        raise CallFailed(f"its host name cannot be looked up: {problem}") from None
    with hear:
        in_time = yield hear.fileno(), select.POLLIN, time.monotonic() + OPEN_S
    if not in_time:
        raise CallFailed("its host name was not resolved in time; check --etcd-endpoint")
    if not found:
        raise CallFailed(NO_NAME)
    return found


class _SelfSigned(Exception):
    """The server's certificate seems to have issued itself."""


def _reach(kind: list[Any], address: Any, credentials: Credentials, domain_name: str) -> Opening:
    try:
        return (yield from _handshake(kind, address, credentials.context(), domain_name))
    except _SelfSigned:
        shown = yield from _handshake(kind, address, credentials.unchecked(), domain_name)
        leaf = shown.tls.getpeercert(binary_form=True) or b""
        shown.close()
    context = credentials.vouched(leaf)
    try:
        return (yield from _handshake(kind, address, context, domain_name))
    except _SelfSigned:
        raise CallFailed("it shows another certificate each time; check --etcd-endpoint") from None


def _handshake(kind: list[Any], address: Any, context: ssl.SSLContext, domain_name: str) -> Opening:
    until = time.monotonic() + OPEN_S
    plain = socket.socket(*kind[:3])
    try:
        plain.setblocking(False)
        _set_options(plain)
        if (error := plain.connect_ex(address)) == errno.EINPROGRESS:
            if not (yield plain.fileno(), select.POLLOUT, until):
                raise CallFailed(NO_ANSWER)
            error = plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise CallFailed(*explain_os(OSError(error, os.strerror(error))))
    except BaseException:
        plain.close()
        raise
    channel = Channel(plain, context, domain_name)
    try:
        while not channel.handshake():
            if not (yield plain.fileno(), select.POLLIN, until):
                raise CallFailed(NO_ANSWER)
            sealed = plain.recv(HANDSHAKE_BYTES, socket.MSG_DONTWAIT)
            if not sealed:
                raise CallFailed(GONE)
            channel.take(sealed)
        if channel.tls.selected_alpn_protocol() != "h2":
            raise CallFailed(NO_HTTP2, True)
    except ssl.SSLCertVerificationError as problem:
        channel.close()
        if problem.verify_code == SELF_SIGNED:
            raise _SelfSigned from None
        raise CallFailed(*explain_tls(problem, domain_name)) from None
    except OSError as problem:  # TLS's own errors among them
        channel.close()
        raise CallFailed(*explain_os(problem, domain_name)) from None
    except BaseException:
        channel.close()
        raise
    return channel


def _set_options(plain: socket.socket) -> None:
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KERNEL_KEEPALIVE:
        option = getattr(socket, name, None)  # not every system can be told
        if option is not None:
            plain.setsockopt(socket.IPPROTO_TCP, option, value)


def explain_os(problem: OSError, domain_name: str = "") -> tuple[str, bool]:
    """What an error of the socket, or of TLS on it, means; and whether trying again cannot help."""
    if isinstance(problem, ssl.SSLError) and not isinstance(problem, ssl.SSLEOFError):
        return explain_tls(problem, domain_name)
    if problem.errno == errno.ECONNREFUSED:
        return REFUSED, False
    if problem.errno in (errno.EMFILE, errno.ENFILE):
        return NO_HANDLES, False
    if isinstance(problem, ssl.SSLEOFError) or problem.errno in (errno.ECONNRESET, errno.EPIPE):
        return GONE, False
    return f"connection failed: {problem.strerror or problem}; check --etcd-endpoint", False
