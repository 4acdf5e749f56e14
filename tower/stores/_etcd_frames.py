"""The frames of HTTP/2 that a client of gRPC needs, as bytes; pure.

Requests carry no state from one to the next: their headers are literals that are never indexed, and the server is told to
keep no table for its own (SETTINGS_HEADER_TABLE_SIZE 0). So a block of headers means the same wherever it arrives, and one
that was read before need not be read again.

Reading is strict where a mistake could mix up two answers, and ends in `WireError`; what is only unknown is skipped.

>>> frame(PING, ACK, 0, bytes(8)).hex()
'0000080601000000000000000000000000'
>>> settings_of(bytes.fromhex("000400010000"))
{4: 65536}
>>> read_message(message(b"request"), 0, 100)
(b'request', 12)
>>> HeaderBlocks().read(bytes.fromhex("88")).fields
{b':status': b'200'}
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from hpack import Decoder
from hpack.exceptions import HPACKError

from tower.errors import WireError

__all__ = [
    "CODES",
    "FRAME_BYTES_MAX",
    "HEAD",
    "HEAD_BYTES",
    "PREFACE",
    "HeaderBlocks",
    "frame",
    "header_block",
    "message",
    "read_message",
    "settings",
    "settings_of",
    "unpadded",
]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD: Final = struct.Struct(">IBI")  # of a frame: length and type, flags, stream
HEAD_BYTES: Final = HEAD.size
FRAME_BYTES_MAX: Final = 1 << 14  # of a payload; we never allow a larger one

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, PRIORITISED, ACK = 0x1, 0x4, 0x8, 0x20, 0x1
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 2, 3, 4, 5
NO_ERROR, REFUSED_STREAM, CANCEL = 0, 7, 8
WINDOW_DEFAULT, WINDOW_MAX = 65535, (1 << 31) - 1

HEADER_LIST_BYTES_MAX = 1 << 16
BLOCKS_KEPT_MAX = 64  # blocks of headers that are remembered: a server uses three
CODES = (  # of HTTP/2's errors
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
    "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
)  # fmt: skip


MESSAGE_HEAD: Final = struct.Struct(">BI")  # of a message of gRPC: compressed or not, length
MESSAGE_PREFIX_BYTES: Final = MESSAGE_HEAD.size


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def window_update(stream: int, more: int) -> bytes:
    """The frame that allows the server so many bytes more, of one call or (0) of all."""
    return frame(WINDOW_UPDATE, 0, stream, more.to_bytes(4))


def number_of(payload: bytes, size: int, what: str) -> int:
    """The number that a payload of `size` bytes is. `WireError` for another size."""
    if len(payload) != size:
        raise WireError(len(payload), f"{what} of {len(payload)} bytes")
    return int.from_bytes(payload)


def code_name(code: int) -> str:
    """An error's name in the protocol."""
    return CODES[code] if code < len(CODES) else f"error {code}"


def message(request: bytes) -> bytes:
    """A request as gRPC frames it: not compressed, its length, itself."""
    return MESSAGE_HEAD.pack(0, len(request)) + request


class RequestFrames:
    """The frames of a call's headers and of its whole request, for calls that have their headers in common.

    With `alike` their answers are of much the same size; `answer_bytes` is that of the smallest, with all that came with it.
    """

    def __init__(self, block: bytes, *, alike: bool = False) -> None:
        self.block = block
        self.alike = alike
        self.answer_bytes = 0  # unknown
        self._head = HEAD.pack(len(block) << 8 | HEADERS, END_HEADERS, 0)[:5]
        self._parts = struct.Struct(f">5sI{len(block)}sIBIBI")
        self._request = struct.Struct(">IBIBI")

    def answered(self, size: int) -> None:
        """An answer took `size` bytes on the socket."""
        if not self.answer_bytes or size < self.answer_bytes:
            self.answer_bytes = size

    def pack(self, stream: int, flags: int, request: bytes) -> bytes:
        """Headers and request, where both fit into one frame each; `flags` are those of the request's frame."""
        size = len(request)
        return self._parts.pack(self._head, stream, self.block, size + 5 << 8 | DATA, flags, stream, 0, size) + request

    def pack_request(self, stream: int, flags: int, request: bytes) -> bytes:
        """The request alone, on a stream that was opened before."""
        size = len(request)
        return self._request.pack(size + 5 << 8 | DATA, flags, stream, 0, size) + request


def read_message(data: bytes | bytearray, at: int, size_max: int) -> tuple[bytes, int] | None:
    """The message of gRPC at `at` and where it ends; `None` while there is less of it. `WireError` if it is none."""
    if len(data) < at + 5:
        return None
    size = int.from_bytes(data[at + 1 : at + 5])
    if data[at]:
        raise WireError(at, "a compressed message, which was not asked for")
    if size > size_max:
        raise WireError(at + 1, f"a message of {size} bytes, {size_max} are taken")
    end = at + 5 + size
    return None if len(data) < end else (bytes(data[at + 5 : end]), end)


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    """A frame of settings."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in values))


def settings_of(payload: bytes) -> dict[int, int]:
    """The settings in a frame's payload. `WireError` for values that the protocol forbids."""
    if len(payload) % 6:
        raise WireError(len(payload), "settings end early")
    found = dict(struct.iter_unpack(">HI", payload))
    if found.get(INITIAL_WINDOW_SIZE, 0) > WINDOW_MAX:
        raise WireError(0, "a window of more than 31 bits")
    if not FRAME_BYTES_MAX <= found.get(MAX_FRAME_SIZE, FRAME_BYTES_MAX) < 1 << 24:
        raise WireError(0, "a frame size that is not allowed")
    return found


def unpadded(kind: int, flags: int, payload: bytes) -> bytes:
    """The payload of DATA or HEADERS without padding and priority."""
    begin = end = 0
    if flags & PADDED:
        if not payload:
            raise WireError(0, "padding without its length")
        begin, end = 1, payload[0]
    if kind == HEADERS and flags & PRIORITISED:
        begin += 5
    if begin + end > len(payload):
        raise WireError(0, "more padding than payload")
    return payload[begin : len(payload) - end]


def _literal(name: bytes, value: bytes) -> bytes:
    if max(len(name), len(value)) > 126:  # longer ones need a longer length
        raise WireError(0, "a header of more than 126 bytes")
    return b"\x10" + bytes([len(name)]) + name + bytes([len(value)]) + value


def header_block(authority: bytes, path: bytes, metadata: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The headers of a call. Everything but `:method POST` and `:scheme https` is a literal that is never indexed."""
    pairs = [(b":authority", authority), (b":path", path), (b"content-type", b"application/grpc"), (b"te", b"trailers")]
    return b"\x83\x87" + b"".join(_literal(*pair) for pair in (*pairs, *metadata))


class Headers:
    """A block of headers as it was read: `fields` by name, of several with one name the last."""

    __slots__ = ("fields", "good", "ok")

    def __init__(self, fields: dict[bytes, bytes]) -> None:
        self.fields = fields
        self.good = fields.get(b":status") == b"200" and fields.get(b"content-type", b"").startswith(b"application/grpc")
        self.ok = fields.get(b"grpc-status") == b"0"  # how a call ends well


class HeaderBlocks:
    """Reads blocks of headers of one connection; those that were read before from memory."""

    def __init__(self) -> None:
        self._decoder = Decoder(max_header_list_size=HEADER_LIST_BYTES_MAX)
        # nothing may be kept from block to block; a server that refers to what it kept is refused by the decoder
        self._decoder.max_allowed_table_size = 0
        self._decoder.header_table_size = 0
        self.known: dict[bytes, Headers] = {}

    def read(self, block: bytes) -> Headers:
        """The headers in `block`. `WireError` if it cannot be read."""
        found = self.known.get(block)
        if found is not None:
            return found
        try:
            found = Headers(dict(self._decoder.decode(block, raw=True)))
        except (HPACKError, ValueError, IndexError) as problem:
            raise WireError(0, f"headers that cannot be read: {str(problem).partition(':')[0]}") from None
        if len(self.known) >= BLOCKS_KEPT_MAX:
            self.known.clear()
        self.known[block] = found
        return found
