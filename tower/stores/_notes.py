"""Notes: short texts that machines leave each other beside an identity's keys. They inform and never decide anything.

No fence guards them, anybody may replace them, and nothing that a promise rests on is ever read from one. In a folder a
note is the file `note-<identity>-<name>`, in etcd the key `<identity>/note/<name>`.

>>> check_note("handover", b"{}")
(b'handover', b'{}')
>>> check_note("../fence", b"")
Traceback (most recent call last):
tower.errors.InvalidInput: '../fence' is no name of a note: lower-case letters, digits and hyphens
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from pathlib import Path

from tower.errors import InvalidInput

__all__ = ["NOTES_MAX", "NOTE_BYTES_MAX", "check_note", "read_notes", "write_note"]

NAME = re.compile(r"[a-z0-9-]{1,64}")
NOTE_BYTES_MAX = 4096
NOTES_MAX = 64  # of one identity that a reader takes


def check_note(name: str, note: bytes) -> tuple[bytes, bytes]:
    """Name and content as bytes; `InvalidInput` if they could not be kept."""
    if not NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} is no name of a note: lower-case letters, digits and hyphens")
    if len(note) > NOTE_BYTES_MAX:
        raise InvalidInput(f"a note of {len(note)} bytes: at most {NOTE_BYTES_MAX}")
    return name.encode(), bytes(note)


def write_note(folder: Path, identity: str, name: str, note: bytes) -> None:
    """Replace a note whole. Not flushed: what a crash of the machine loses here, nobody misses."""
    check_note(name, note)
    target = folder / f"note-{identity}-{name}"
    fresh = folder / f"{target.name}.{os.getpid()}-{threading.get_ident()}.new"  # others may write the same note
    try:
        fresh.write_bytes(note)
        os.rename(fresh, target)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise


def read_notes(folder: Path, identity: str) -> dict[str, bytes]:
    """Every note of `identity`, by name."""
    start = f"note-{identity}-"
    found: dict[str, bytes] = {}
    for path in sorted(folder.glob(f"{start}*")):
        name = path.name.removeprefix(start)
        if NAME.fullmatch(name) and len(found) < NOTES_MAX:
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                found[name] = file.read(NOTE_BYTES_MAX)
    return found
