"""The least Python that speaks HTTP/2 with a server over mutual TLS: what any store on a Python socket is measured against.

It sends the frames of one call and reads frames until the end of the stream. It has no deadline, opens nothing again, looks at
no header and keeps to no window but by asking for the largest one at the start. For benchmarks only.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

__all__ = ["RawHttp2"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, WINDOW_UPDATE = 0, 1, 4, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
READ_BYTES = 65536


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\x10" + bytes([len(name)]) + name + bytes([len(value)]) + value  # never indexed


class RawHttp2:
    """One connection to `endpoint`; `path` is the method that `exchange` calls. `folder` holds the certificates."""

    def __init__(self, endpoint: tuple[str, int], folder: Path, path: bytes = b"/etcdserverpb.KV/Txn") -> None:
        context = ssl.create_default_context(cafile=str(folder / "etcd-ca.pem"))
        context.load_cert_chain(folder / "validator.pem", folder / "validator-key.pem")
        context.set_alpn_protocols(["h2"])
        raw = socket.create_connection(endpoint)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(raw, server_hostname="localhost")
        host = f"{endpoint[0]}:{endpoint[1]}".encode()
        pairs = [(b":authority", host), (b":path", path), (b"content-type", b"application/grpc"), (b"te", b"trailers")]
        # :method POST and :scheme https stand in the static table
        self._headers = b"\x83\x87" + b"".join(_literal(*pair) for pair in (*pairs, (b"hasleader", b"true")))
        self._stream = -1
        self._left = b""
        settings = bytes.fromhex("0001" "00000000" "0002" "00000000")  # no dynamic table, no push
        window = ((1 << 31) - 1 - 65535).to_bytes(4)
        self.socket.sendall(PREFACE + _frame(SETTINGS, 0, 0, settings) + _frame(WINDOW_UPDATE, 0, 0, window))

    def exchange(self, request: bytes) -> bytes:
        """One call; the answer's message."""
        self._stream = stream = self._stream + 2
        message = b"\0" + len(request).to_bytes(4) + request
        headers = _frame(HEADERS, END_HEADERS, stream, self._headers)
        self.socket.sendall(headers + _frame(DATA, END_STREAM, stream, message))
        data, answer = self._left, b""
        while True:
            while len(data) >= 9 and len(data) >= 9 + (size := int.from_bytes(data[:3])):
                kind, flags, payload = data[3], data[4], data[9 : 9 + size]
                ours = int.from_bytes(data[5:9]) == stream
                data = data[9 + size :]
                if kind == DATA and ours:
                    answer += payload
                elif kind == SETTINGS and not flags & ACK:
                    self.socket.sendall(_frame(SETTINGS, ACK, 0, b""))
                if kind in (DATA, HEADERS) and ours and flags & END_STREAM:
                    self._left = data
                    return answer[5:]
            more = self.socket.recv(READ_BYTES)
            if not more:
                raise ConnectionError("the server closed the connection")
            data += more

    def close(self) -> None:
        self.socket.close()
