"""TLS on a socket, with the bytes of both in our hands: so that one read of the socket takes in all that has come.

OpenSSL works on memory here. On the socket itself it would read the head and the body of each record apart, and an answer of
etcd's is three or four records.

**One wake for an answer.** A server writes an answer piece by piece: room for more, headers, message, status. Waking for each
of them costs more than reading it, and takes the processor from the server where both share one. So the kernel is told
(`expect`, SO_RCVLOWAT) how much is worth waking for: less than the smallest answer so far had, and any byte once that much was
read. Whatever is there is read after `SLICE_S` at the latest; the end of the connection always wakes.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl

__all__ = ["Channel"]

READ_BYTES = 1 << 15
RECORD_BYTES = 1 << 14  # of TLS
SLICE_S = 0.02  # how long less than what is expected may lie there unread
BACKLOG_MAX = 8 << 20  # bytes that the peer may leave with us


class Channel:
    """A connected socket and TLS over it. One thread at a time, but for `wake`; nothing waits but `read`."""

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, domain_name: str) -> None:
        self.plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=domain_name)
        self.received = 0  # bytes, as they came
        self._expected = 1
        self._backlog = bytearray()  # what the socket had no room for
        self._poller = select.poll()
        self._poller.register(plain, select.POLLIN)
        plain.setblocking(False)

    def handshake(self) -> bool:
        """A step of the handshake; false while more must come from the peer. Raises `ssl.SSLError`."""
        try:
            self.tls.do_handshake()
            return True
        except ssl.SSLWantReadError:
            return False
        finally:
            with contextlib.suppress(OSError):  # an alert of ours that nobody takes; reading says why
                self._push(self._outgoing.read())

    def take(self, sealed: bytes) -> None:
        """Bytes from the socket, during the handshake."""
        self._incoming.write(sealed)

    def write(self, data: bytes) -> None:
        """Send, or keep what there is no room for. Raises `OSError`."""
        self.tls.write(data)
        self._push(self._outgoing.read())

    def _push(self, sealed: bytes) -> None:
        if self._backlog:
            self._backlog += sealed
            sealed = bytes(self._backlog)
            if len(sealed) > BACKLOG_MAX:
                raise TimeoutError("it takes nothing in")
        try:
            sent = self.plain.send(sealed, socket.MSG_DONTWAIT) if sealed else 0
        except BlockingIOError:
            sent = 0
        if sent < len(sealed) or self._backlog:
            self._backlog = bytearray(sealed[sent:])
            self._poller.modify(self.plain, select.POLLIN | (select.POLLOUT if self._backlog else 0))

    def expect(self, size: int) -> None:
        """Wake whoever reads for so many bytes, not for less."""
        if size != self._expected:
            self._expected = size
            with contextlib.suppress(OSError):  # where it cannot be had, every piece wakes
                self.plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def waiting(self) -> bool:
        """Whether so much as is expected has come, or the end."""
        return bool(self._poller.poll(0))

    def read(self, timeout: float) -> bytes | None:
        """What has come: `None` if it is nothing within `timeout` seconds or less, b"" at the end. Raises `OSError`."""
        try:
            # `poll` waits, not `recv`: that would first take what is there, and then wait for as much as is expected once more
            if timeout > 0:
                self._poller.poll(1000 * (timeout if self._expected == 1 else min(timeout, SLICE_S)))
            if self._backlog:
                self._push(b"")
            sealed = self.plain.recv(READ_BYTES)
        except BlockingIOError:
            return None
        if not sealed:
            return b""
        self.received += len(sealed)
        return self.open(sealed)

    def open(self, sealed: bytes) -> bytes | None:
        """The text in what came from the socket; `None` while there is none, b"" at the end. Raises `ssl.SSLError`."""
        incoming, read = self._incoming, self.tls.read
        incoming.write(sealed)
        text = b""
        try:
            while incoming.pending:
                text += read(RECORD_BYTES)
        except ssl.SSLWantReadError:  # the rest of a record is yet to come, or it was none with text
            pass
        except ssl.SSLZeroReturnError:
            return text
        if self._outgoing.pending:  # TLS has something to say of its own
            self._push(self._outgoing.read())
        return text or None

    def wake(self) -> None:
        """From any thread: end the connection, and the wait of whoever reads."""
        with contextlib.suppress(OSError):
            self.plain.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.plain.close()
