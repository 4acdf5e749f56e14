"""Looks for a secret key in whatever a process left: in bytes, files and memory, in every encoding that a program would use.

A part of the seed is enough: eight bytes of it in a row are found at every offset, in hexadecimal, base64, as numbers, raw. Of
base58, where no part of a number stands for a part of its bytes, the beginning and the end of the whole are looked for.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["WINDOW", "Mapping", "forms", "found_in", "found_in_files", "found_raw", "mappings", "read_memory"]

WINDOW = 8  # bytes of the seed that give it away
SEED_BYTES = 32
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
BASE58_PART = 12
SEPARATORS = (b",", b", ", b" ", b",\n", b"\n", b";")
PART = 1 << 20


def base58(data: bytes) -> bytes:
    """Without the ones for leading zeros: a part of what a library writes."""
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = BASE58[digit] + text
    return text.encode()


def windows(seed: bytes, size: int = WINDOW) -> Iterator[bytes]:
    for start in range(len(seed) - size + 1):
        yield seed[start : start + size]


def forms(secret: bytes) -> dict[str, list[bytes]]:
    """The patterns of each encoding of `secret`, seed || public key, that give the seed away."""
    seed = secret[:SEED_BYTES]
    parts = list(windows(seed))
    found = {
        "raw": parts,
        "hex": [part.hex().encode() for part in parts],
        "HEX": [part.hex().upper().encode() for part in parts],
        "hex with separators": [
            part.hex(mark).encode() for part in parts for mark in ":- "
        ] + [part.hex(mark).upper().encode() for part in parts for mark in ":- "],
        "\\x": [b"".join(b"\\x%02x" % each for each in part) for part in parts],
        "0x": [mark.join(b"0x%02x" % each for each in part) for part in parts for mark in (b",", b", ")],
        "repr": [repr(part)[2:-1].encode() for part in parts],
        "decimal": [mark.join(b"%d" % each for each in part) for part in parts for mark in SEPARATORS],
    }  # fmt: skip
    # nine bytes that begin where a group of three begins are twelve characters, wherever the seed stands in what is encoded
    nine = list(windows(seed, 9))
    found["base64"] = [base64.b64encode(part) for part in nine]
    found["base64 for URLs"] = [base64.urlsafe_b64encode(part) for part in nine]
    ten = list(windows(seed, 10))
    found["base32"] = [base64.b32encode(part) for part in ten]
    whole = [base58(seed), base58(secret)]
    found["base58"] = [each[:BASE58_PART] for each in whole] + [whole[0][-BASE58_PART:]]
    return found


def found_in(data: bytes, secret: bytes) -> set[str]:
    """The encodings in which something of `secret` stands in `data`."""
    return {name for name, patterns in forms(secret).items() if any(pattern in data for pattern in patterns)}


def found_in_files(folder: Path, secret: bytes, *, but: frozenset[Path] = frozenset()) -> dict[str, set[str]]:
    """For each file under `folder` that gives `secret` away the encodings, except for the files `but`."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path not in but:
            data = path.read_bytes().rstrip(b"\0")  # etcd's log begins with 64 MB of zeros
            if leaks := found_in(data, secret):
                found[str(path.relative_to(folder))] = leaks
    return found


# -- memory


@dataclass(frozen=True, slots=True)
class Mapping:
    """A part of a process's memory: `flags` are those of /proc/PID/smaps, "lo" is locked, "dd" not in a core dump."""

    start: int
    end: int
    name: str
    flags: frozenset[str]


HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (r\S*) \S+ \S+ \S+\s*(.*)")


def mappings(pid: int) -> list[Mapping]:
    """The parts of the memory of `pid` that can be read."""
    found, head = [], None
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if match := HEAD.fullmatch(line):
            head = match
        elif line.startswith("VmFlags:") and head is not None:
            start, end, name = int(head[1], 16), int(head[2], 16), head[4]
            found.append(Mapping(start, end, name, frozenset(line.split()[1:])))
            head = None
        elif re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            head = None
    return found


def read_memory(pid: int, part: Mapping) -> bytes:
    """What is in `part`; empty where the kernel shows it to nobody."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        try:
            memory.seek(part.start)
            return memory.read(part.end - part.start)
        except (OSError, OverflowError, ValueError):
            return b""


def found_raw(data: bytes, secret: bytes) -> list[int]:
    """Where a raw part of the seed begins in `data`: the first, the middle and the last window are looked for."""
    seed = secret[:SEED_BYTES]
    places = []
    for start in (0, (SEED_BYTES - WINDOW) // 2, SEED_BYTES - WINDOW):
        pattern, at = seed[start : start + WINDOW], -1
        while (at := data.find(pattern, at + 1)) >= 0:
            places.append(at)
    return sorted(places)
