"""Reading and writing of the field's byte formats, one checked step at a time; for everything off the hot path.

Integers are little endian and fixed width (bincode), options are one tag byte, counts are u64; the compact forms use
compact-u16 and LEB128. Every failure is a `WireError` with the offset at which it was seen.
"""

from __future__ import annotations

import struct

from tower.errors import WireError

__all__ = ["Reader", "Writer"]

U64_MAX = (1 << 64) - 1
VARINT_BYTES_MAX = 10


class Reader:
    """A position in bytes that only `take` moves, and only after it has checked the length."""

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self.data = data
        self.offset = offset

    @property
    def left(self) -> int:
        return len(self.data) - self.offset

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise WireError(self.offset, f"the data ends early: {count} bytes wanted, {self.left} left")
        self.offset += count
        return self.data[self.offset - count : self.offset]

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int(struct.unpack("<H", self.take(2))[0])

    def u32(self) -> int:
        return int(struct.unpack("<I", self.take(4))[0])

    def u64(self) -> int:
        return int(struct.unpack("<Q", self.take(8))[0])

    def i64(self) -> int:
        return int(struct.unpack("<q", self.take(8))[0])

    def f64(self) -> float:
        return float(struct.unpack("<d", self.take(8))[0])

    def flag(self, what: str) -> bool:
        tag = self.u8()
        if tag > 1:
            raise WireError(self.offset - 1, f"{what}: expected 0 or 1, found {tag}")
        return tag == 1

    def count(self, item_bytes: int, what: str) -> int:
        """A u64 count of items of at least `item_bytes` each: refused if that many cannot follow."""
        at = self.offset
        count = self.u64()
        if count > self.left // item_bytes:
            raise WireError(at, f"{what}: {count} items of {item_bytes} bytes announced, {self.left} bytes left")
        return count

    def compact_u16(self) -> int:
        at, value = self.offset, 0
        for index in range(3):
            byte = self.u8()
            value |= (byte & 0x7F) << (7 * index)
            if not byte & 0x80:
                if index and not byte:
                    raise WireError(at, "compact-u16 is longer than it needs to be")
                if value > 0xFFFF:
                    raise WireError(at, f"compact-u16 holds {value}, more than 65535")
                return value
        raise WireError(at, "compact-u16 is longer than 3 bytes")

    def varint(self) -> int:
        at, value = self.offset, 0
        for index in range(VARINT_BYTES_MAX):
            byte = self.u8()
            value |= (byte & 0x7F) << (7 * index)
            if value > U64_MAX:
                raise WireError(at, "varint holds more than 64 bits")
            if not byte & 0x80:
                if index and not byte:
                    raise WireError(at, "varint is longer than it needs to be")
                return value
        raise WireError(at, f"varint is longer than {VARINT_BYTES_MAX} bytes")

    def end(self, what: str) -> None:
        if self.left:
            raise WireError(self.offset, f"{self.left} bytes follow after the end of {what}")


class Writer:
    """Collects bytes; `struct` refuses what does not fit its width."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def raw(self, data: bytes) -> Writer:
        self.parts.append(data)
        return self

    def u8(self, value: int) -> Writer:
        return self.raw(struct.pack("<B", value))

    def u32(self, value: int) -> Writer:
        return self.raw(struct.pack("<I", value))

    def u64(self, value: int) -> Writer:
        return self.raw(struct.pack("<Q", value))

    def i64(self, value: int) -> Writer:
        return self.raw(struct.pack("<q", value))

    def f64(self, value: float) -> Writer:
        return self.raw(struct.pack("<d", value))

    def option_u64(self, value: int | None) -> Writer:
        return self.u8(0) if value is None else self.u8(1).u64(value)

    def option_i64(self, value: int | None) -> Writer:
        return self.u8(0) if value is None else self.u8(1).i64(value)

    def compact_u16(self, value: int) -> Writer:
        while value >= 0x80:
            self.u8(value & 0x7F | 0x80)
            value >>= 7
        return self.u8(value)

    varint = compact_u16  # the same groups of seven bits; they differ in how many the reader allows

    def bytes(self) -> bytes:
        return b"".join(self.parts)
