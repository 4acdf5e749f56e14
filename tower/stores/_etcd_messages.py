"""The few messages of etcd's v3 API that the store needs, as bytes; pure.

Requests are built for exactly the transactions of `tower.stores.etcd`; of the answers only what it reads is kept.
Reading is strict: bytes that are no well-formed protobuf, a field of the wrong wire type, or an answer that lacks a
part of it end in `WireError` with the position. Unknown fields are skipped, as protobuf wants it for newer servers.

No generated code takes part, so the store does not care which protobuf is installed.

>>> txn(success=[range_op(b"k")]).hex()  # success (2): a RequestOp with request_range (1): key (1) = "k"
'12050a030a016b'
>>> list(fields(bytes.fromhex("0896010a")))
Traceback (most recent call last):
    ...
tower.errors.WireError: at byte 4: the message ends inside a number
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tower.errors import WireError

__all__ = [
    "FencedPut",
    "KeyValue",
    "RangeAnswer",
    "TxnAnswer",
    "WatchAnswer",
    "compare_mod_revision",
    "compare_value",
    "decode_range",
    "decode_txn",
    "decode_watch",
    "fields",
    "put_op",
    "range_op",
    "range_request",
    "txn",
    "watch_create",
]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
VARINT_BYTES_MAX = 10
U64 = 1 << 64

COMPARE_MOD, COMPARE_VALUE = 2, 3  # Compare.target; Compare.result EQUAL is 0 and therefore left out


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | VARINT) + _varint(value % U64)  # a negative int64 is its two's complement


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | BYTES) + _varint(len(value)) + value


# -- requests


def compare_mod_revision(key: bytes, revision: int) -> bytes:
    """A `Compare`: the key was last changed at `revision`; 0 for a key that does not exist."""
    return _number(2, COMPARE_MOD) + _bytes(3, key) + _number(6, revision)


def compare_value(key: bytes, value: bytes) -> bytes:
    """A `Compare`: the key holds `value`."""
    return _number(2, COMPARE_VALUE) + _bytes(3, key) + _bytes(7, value)


def range_request(key: bytes, range_end: bytes = b"", limit: int = 0, *, keys_only: bool = False) -> bytes:
    """A linearizable `RangeRequest` of one key, or of all keys from `key` up to `range_end` (`b"\\0"`: to the last)."""
    request = _bytes(1, key) + (_bytes(2, range_end) if range_end else b"") + (_number(3, limit) if limit else b"")
    return request + (_number(8, 1) if keys_only else b"")


def range_op(key: bytes) -> bytes:
    """A `RequestOp` that reads one key."""
    return _bytes(1, range_request(key))


def put_op(key: bytes, value: bytes) -> bytes:
    """A `RequestOp` that writes one key, without a lease."""
    return _bytes(2, _bytes(1, key) + _bytes(2, value))


def txn(compare: Sequence[bytes] = (), success: Sequence[bytes] = (), failure: Sequence[bytes] = ()) -> bytes:
    """A `TxnRequest`."""
    groups = ((1, compare), (2, success), (3, failure))
    return b"".join(_bytes(field, message) for field, group in groups for message in group)


class FencedPut:
    """Transactions that put one key if the comparisons `fenced` hold and the key is at the revision that is expected.

    What they have in common is made once. `request` is what `txn` would make of the parts, `decode` what `decode_txn` would.
    """

    def __init__(self, *, fenced: Sequence[bytes], key: bytes, failure: Sequence[bytes]) -> None:
        self._fenced = txn(compare=fenced)
        self._compare = compare_mod_revision(key, 0)[:-1]  # without the revision, its last field
        self._key = _bytes(1, key)
        self._failure = txn(failure=failure)
        self._ranges = len(failure), 0
        self._sizes = (-1, -1)
        self._begin = self._middle = b""
        self._known: _PutAnswer | None = None

    def request(self, expected: int, record: bytes) -> bytes:
        """The `TxnRequest` that puts `record` if the key is at revision `expected`."""
        revision = _varint(expected)
        sizes = len(revision), len(record)
        if sizes != self._sizes:
            self._sizes, (self._begin, self._middle) = sizes, self._around(*sizes)
        return b"".join((self._begin, revision, self._middle, record, self._failure))

    def _around(self, revision: int, record: int) -> tuple[bytes, bytes]:
        """What stands before a revision of so many bytes, and between it and a record of so many."""
        put = self._key + _varint(2 << 3 | BYTES) + _varint(record)  # a PutRequest: key, and value (2) without its content
        operation = _varint(2 << 3 | BYTES) + _varint(len(put) + record) + put  # a RequestOp: request_put (2)
        compare = _varint(1 << 3 | BYTES) + _varint(len(self._compare) + revision) + self._compare
        return self._fenced + compare, _varint(2 << 3 | BYTES) + _varint(len(operation) + record) + operation

    def decode(self, data: bytes) -> TxnAnswer:
        """The `TxnResponse` on a `request`. One that differs from the last one in its revision alone is not read anew."""
        known = self._known
        revision = None if known is None else known.revision_in(data)
        if revision is not None:
            return TxnAnswer(revision, True, ())
        answer = decode_txn(data, self._ranges)
        if answer.succeeded:
            self._known = _PutAnswer.of(data, answer.revision)
        return answer


class _PutAnswer(NamedTuple):
    """The answer of a write that has committed: bytes, a revision of `size` bytes, bytes, the revision again, bytes.

    The same member's next answer has other revisions and nothing else. All its other bytes are compared.
    """

    before: bytes
    between: bytes
    after: bytes
    size: int

    @classmethod
    def of(cls, data: bytes, revision: int) -> _PutAnswer | None:
        """The shape of the answer `data`; `None` if it is not the usual one."""
        number, another = _varint(revision), revision - 1 if revision > 1 else revision + 1
        other, mark = _varint(another), b"\x18"  # revision (3) of a header
        if data.count(mark + number) != 2 or len(other) != len(number):
            return None
        first = data.index(mark + number) + 1
        second = data.index(mark + number, first) + 1
        shape = cls(data[:first], data[first + len(number) : second], data[second + len(number) :], len(number))
        try:  # those are the revisions, if with another number there it is this answer with another revision
            read = decode_txn(other.join((shape.before, shape.between, shape.after)), (0, 0))
        except WireError:
            return None
        return shape if read == TxnAnswer(another, True, ()) else None

    def revision_in(self, data: bytes) -> int | None:
        """The revision, if `data` is this answer with another one; else `None`."""
        before, between, after, size = self
        first = len(before)
        number = data[first : first + size]
        if data != number.join((before, between, after)):
            return None
        revision, end = _read_varint(data, first)
        return revision if end == first + size and 0 < revision < U64 >> 1 else None


def watch_create(key: bytes, start_revision: int) -> bytes:
    """A `WatchRequest` that starts to watch one key."""
    return _bytes(1, _bytes(1, key) + _number(3, start_revision))


# -- answers


class KeyValue(NamedTuple):
    key: bytes
    create_revision: int
    mod_revision: int
    value: bytes


class RangeAnswer(NamedTuple):
    revision: int  # of the whole store, at the read
    kvs: tuple[KeyValue, ...]
    more: bool


class TxnAnswer(NamedTuple):
    """`ranges` are the answers of the range operations in their order, each the key found or `None`."""

    revision: int
    succeeded: bool
    ranges: tuple[KeyValue | None, ...]


class WatchAnswer(NamedTuple):
    """`changes` are the mod revisions of puts and deletes, in order. `cancelled` is why the server ended the watch."""

    created: bool
    cancelled: str | None
    changes: tuple[int, ...]


class Field(NamedTuple):
    number: int
    value: int | bytes | None  # None: a fixed number
    offset: int

    def as_int(self) -> int:
        """The value as an int64."""
        if not isinstance(self.value, int):
            raise WireError(self.offset, f"field {self.number} is no number")
        return self.value - U64 if self.value >= U64 >> 1 else self.value

    def as_bytes(self) -> bytes:
        if not isinstance(self.value, bytes):
            raise WireError(self.offset, f"field {self.number} is no string of bytes")
        return self.value


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(VARINT_BYTES_MAX):
        if at + index >= len(data):
            raise WireError(len(data), "the message ends inside a number")
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if value >= U64:
                break
            return value, at + index + 1
    raise WireError(at, "a number of more than 64 bits")


def fields(data: bytes) -> Iterator[Field]:
    """The fields of one message, in order; `WireError` where it is not well formed."""
    at = 0
    while at < len(data):
        start = at
        tag, at = _read_varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise WireError(start, "field number 0")
        if wire_type == VARINT:
            value, at = _read_varint(data, at)
            yield Field(number, value, start)
            continue
        if wire_type == BYTES:
            size, at = _read_varint(data, at)
        elif wire_type in (FIXED64, FIXED32):
            size = 8 if wire_type == FIXED64 else 4
        else:
            raise WireError(start, f"wire type {wire_type}")
        if size > len(data) - at:
            raise WireError(at, f"the message ends early: {size} bytes wanted, {len(data) - at} left")
        # what we read has no fixed numbers: one in the place of a string is neither that nor a number
        yield Field(number, data[at : at + size] if wire_type == BYTES else None, start)
        at += size


def _key_value(data: bytes) -> KeyValue:
    key = value = b""
    created = modified = 0
    for field in fields(data):
        match field.number:
            case 1:
                key = field.as_bytes()
            case 2:
                created = field.as_int()
            case 3:
                modified = field.as_int()
            case 5:
                value = field.as_bytes()
    if modified < 1:
        raise WireError(0, "a key without a revision")
    return KeyValue(key, created, modified, value)


def _header_revision(data: bytes) -> int:
    revision = 0
    for field in fields(data):
        if field.number == 3:
            revision = field.as_int()
    if revision < 1:
        raise WireError(0, "a header without a revision")
    return revision


def _range(data: bytes) -> tuple[int, tuple[KeyValue, ...], bool]:
    revision, kvs, more = 0, [], False
    for field in fields(data):
        match field.number:
            case 1 if header := field.as_bytes():  # empty inside a transaction: the outer header counts
                revision = _header_revision(header)
            case 2:
                kvs.append(_key_value(field.as_bytes()))
            case 3:
                more = field.as_int() != 0
    return revision, tuple(kvs), more


def decode_range(data: bytes) -> RangeAnswer:
    """A `RangeResponse`."""
    revision, kvs, more = _range(data)
    if revision < 1:
        raise WireError(len(data), "an answer without a header")
    return RangeAnswer(revision, kvs, more)


def decode_txn(data: bytes, ranges: tuple[int, int]) -> TxnAnswer:
    """A `TxnResponse`; `ranges` is how many range operations the request had on failure, and on success."""
    revision, succeeded = 0, False
    found: list[KeyValue | None] = []
    for field in fields(data):
        match field.number:
            case 1:
                revision = _header_revision(field.as_bytes())
            case 2:
                succeeded = field.as_int() != 0
            case 3:
                for operation in fields(field.as_bytes()):
                    if operation.number == 1:
                        _, kvs, _ = _range(operation.as_bytes())
                        found.append(kvs[0] if kvs else None)
    if revision < 1:
        raise WireError(len(data), "an answer without a header")
    if len(found) != ranges[succeeded]:
        raise WireError(len(data), f"an answer with {len(found)} reads in place of {ranges[succeeded]}")
    return TxnAnswer(revision, succeeded, tuple(found))


def decode_watch(data: bytes) -> WatchAnswer:
    """A `WatchResponse`."""
    created, cancelled, reason, compacted = False, False, "", 0
    changes: list[int] = []
    for field in fields(data):
        match field.number:
            case 3:
                created = field.as_int() != 0
            case 4:
                cancelled = field.as_int() != 0
            case 5:
                compacted = field.as_int()
            case 6:
                reason = field.as_bytes().decode("utf-8", "replace")
            case 11:
                for part in fields(field.as_bytes()):
                    if part.number == 2:
                        changes.append(_key_value(part.as_bytes()).mod_revision)
    if cancelled or compacted:
        return WatchAnswer(created, reason or f"compacted at {compacted}", tuple(changes))
    return WatchAnswer(created, None, tuple(changes))
