"""A server that speaks HTTP/2 over mutual TLS by a script, to do what a real etcd never does on demand."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tower.stores import _etcd_frames as h2

OPENS = b"\x88\x00\x0ccontent-type\x10application/grpc"  # :status 200, and what follows
ENDS = b"\x00\x0bgrpc-status\x010"
T = 10.0


class Peer:
    """One connection as the server sees it; the script's argument."""

    def __init__(self, tls: ssl.SSLSocket, number: int) -> None:
        self.tls, self.number = tls, number
        self._data = b""
        self.frames: list[tuple[int, int, int, bytes]] = []  # kind, flags, stream, payload: all that came

    def send(self, *frames: bytes) -> None:
        self.tls.sendall(b"".join(frames))

    def greet(self, *settings: tuple[int, int]) -> None:
        """The client's preface is read, and settings are sent."""
        while len(self._data) < len(h2.PREFACE):
            self._read()
        assert self._data.startswith(h2.PREFACE)
        self._data = self._data[len(h2.PREFACE) :]
        self.send(h2.settings(settings))

    def _read(self) -> None:
        data = self.tls.recv(65536)
        if not data:
            raise ConnectionError("the client has closed")
        self._data += data

    def next_frame(self) -> tuple[int, int, int, bytes]:
        while len(self._data) < 9 or len(self._data) < 9 + int.from_bytes(self._data[:3]):
            self._read()
        size = int.from_bytes(self._data[:3])
        found = self._data[3], self._data[4], int.from_bytes(self._data[5:9]), self._data[9 : 9 + size]
        self._data = self._data[9 + size :]
        self.frames.append(found)
        return found

    def request(self) -> tuple[int, bytes]:
        """The next whole request: its stream and message."""
        body = b""
        while True:
            kind, flags, stream, payload = self.next_frame()
            if kind == h2.DATA:
                body += payload
                if flags & h2.END_STREAM:
                    return stream, body[5:]

    def until(self, kind: int, flags: int = 0) -> tuple[int, int, int, bytes]:
        """The next frame of `kind` with `flags`."""
        while True:
            found = self.next_frame()
            if found[0] == kind and found[1] & flags == flags:
                return found

    def answer(self, stream: int, message: bytes) -> None:
        self.send(*answer_frames(stream, message))

    def wait_for_end(self) -> None:
        """Read until the client closes."""
        try:
            while True:
                self.next_frame()
        except (ConnectionError, OSError):
            return


def answer_frames(stream: int, message: bytes) -> list[bytes]:
    return [
        h2.frame(h2.HEADERS, h2.END_HEADERS, stream, OPENS),
        h2.frame(h2.DATA, 0, stream, h2.message(message)),
        h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, ENDS),
    ]


class ScriptedServer:
    """Runs `script(peer)` for each connection, one after another. What goes wrong in a script is raised by `close`."""

    def __init__(self, certs: Path, script: Callable[[Peer], None], *, alpn: str = "h2") -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certs / "etcd.pem", certs / "etcd-key.pem")
        self._context.load_verify_locations(certs / "etcd-ca.pem")
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.set_alpn_protocols([alpn])
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(T)
        self.endpoint: tuple[str, int] = self._listener.getsockname()[:2]
        self.peers: list[Peer] = []
        self._stopped = False
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            plain.settimeout(T)
            try:
                with self._context.wrap_socket(plain, server_side=True) as tls:
                    peer = Peer(tls, len(self.peers))
                    self.peers.append(peer)
                    self._script(peer)
            except (ConnectionError, ssl.SSLError):
                continue
            except BaseException as problem:
                self._problem = problem
                return

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(self, *_: Any) -> None:
        self._stopped = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self.peers:
            try:
                peer.tls.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._thread.join(T)
        if self._problem is not None:
            raise self._problem
