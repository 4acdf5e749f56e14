"""The files of the file store, and the atomic steps on them. Blocking: `tower.stores.file` calls it in its I/O thread.

Two processes on one folder fence each other as over etcd, because every operation runs under an exclusive `flock`. The
folder must be on a disk of this machine: over a network file system neither the lock nor the flush can be relied on.

=========================  =======================================================================================
`tower-1_9-<id>.bin`       the record and nothing else: the file that an operator copies. `tower-<id>.bin`, the
                           name of older validators, is read where this one is missing, and never written
`blocks-<id>.bin`          the same for the newest reservation of block slots
`fence-<id>.json`          revision and bytes of the instance, and who claimed; replaced whole by every claim
`history-<id>.jsonl`       one line for each claim. A claim counts once its fence is in place: a line above the
                           fence's revision, or one with a later line of equal revision, is a claim cut short
`note-<id>-<name>`         what machines tell each other (`tower.stores._notes`); decides nothing
`lock-<id>`,               nothing but locks; never remove them while a voter runs. A record is written under the
`lock-blocks-<id>`,        lock of its kind, so that a tower never waits for a reservation; a claim takes both, and
claims.lock                with them the one of the folder
=========================  =======================================================================================

**A write** (S2): under the lock compare the fence, compare the record, write `.bin.new`, flush it, rename it over
`.bin`, flush the folder. Only then `Committed`. A repetition that finds its own bytes flushes them again first, for the
copy before it may have been cut short between rename and flush. A record of the other kind goes the same way.

**Revisions.** A fence's is a counter, over all identities of the folder. A record's is taken from its content, so that
a file copied in by hand is a new revision: a record that comes back, byte for byte, is the same revision again. None does:
towers only move forward, and so do reservations.

>>> content_revision(b"tower") == content_revision(b"tower") != content_revision(b"tower 2")
True
>>> content_revision(None)
0
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tower.errors import InvalidInput, StoreError, StoreUnavailable
from tower.store import (
    ABSENT,
    INSTANCE_BYTES,
    Claimed,
    Committed,
    Fence,
    Kind,
    Outcome,
    Owner,
    Refusal,
    Refused,
    Sighting,
    Unknown,
)
from tower.stores._common import Deadline, is_address, owner_of, owner_to

__all__ = ["FenceFile", "Folder", "checked_folder", "content_revision", "strerror"]

RECORD_OR_FENCE = re.compile(r"(?:fence-|tower-1_9-|tower-)([0-9A-Za-z]+)\.(?:json|bin)")
LOCK_POLL = 0.001  # seconds between two tries to get a lock that somebody holds
RECORD_NAMES = {Kind.TOWER: "tower-1_9", Kind.BLOCKS: "blocks"}
LOCK_NAMES = {Kind.TOWER: "lock", Kind.BLOCKS: "lock-blocks"}


def content_revision(record: bytes | None) -> int:
    """The revision of a record: 63 bits of its SHA-256, `ABSENT` for none. For equality only."""
    if record is None:
        return ABSENT
    return int.from_bytes(hashlib.sha256(record).digest()[:8], "big") >> 1 or 1


class FenceFile(NamedTuple):
    revision: int = ABSENT
    instance: bytes | None = None
    owner: Owner | None = None


def strerror(problem: OSError) -> str:
    name = f"{problem.filename}: " if problem.filename else ""
    return f"{name}{problem.strerror or problem}"


def _write_all(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _flush(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as problem:  # fsync knows no name
        raise OSError(problem.errno, problem.strerror, str(path)) from problem
    finally:
        os.close(handle)


def _replace(path: Path, data: bytes) -> None:
    """Make `data` the content of `path`, whole or not at all, and durable when this returns."""
    new = path.with_name(path.name + ".new")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        _write_all(handle, data)
        os.fsync(handle)
    except OSError as problem:
        raise OSError(problem.errno, problem.strerror, str(new)) from problem
    finally:
        os.close(handle)
    os.rename(new, path)
    _flush(path.parent)


def _read(path: Path) -> bytes | None:
    """The content of `path`, `None` where there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def checked_folder(directory: str | Path) -> Path:
    folder = Path(directory).absolute()
    if not folder.exists():
        try:
            folder.mkdir()
        except FileNotFoundError:
            raise InvalidInput(f"{folder}: cannot be created, its parent folder does not exist; see --tower") from None
        except OSError as problem:
            raise InvalidInput(f"{folder}: cannot be created: {problem.strerror}; see --tower") from None
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: not a folder; --tower takes the folder of the tower files")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise InvalidInput(f"{folder}: not writable by this user; give --tower a folder that is")
    return folder


class Folder:
    """One folder. The caller has checked the identities."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fence_path(self, identity: str) -> Path:
        return self.path / f"fence-{identity}.json"

    def record_path(self, identity: str, kind: Kind = Kind.TOWER) -> Path:
        return self.path / f"{RECORD_NAMES[kind]}-{identity}.bin"

    def history_path(self, identity: str) -> Path:
        return self.path / f"history-{identity}.jsonl"

    @contextlib.contextmanager
    def locked(self, name: str, deadline: Deadline) -> Iterator[None]:
        """Hold the lock file `name`; `StoreUnavailable` if nobody gave it up before `deadline`."""
        path = self.path / name
        while (handle := self._try_lock(path)) is None:
            if deadline.passed():
                raise StoreUnavailable(f"{path}: another process held the lock for the whole time")
            time.sleep(LOCK_POLL)
        try:
            yield
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def all_locked(self, identity: str, deadline: Deadline) -> Iterator[None]:
        """Hold the locks of every kind of record, always in the same order: nobody writes for `identity` meanwhile."""
        with contextlib.ExitStack() as stack:
            for name in LOCK_NAMES.values():
                stack.enter_context(self.locked(f"{name}-{identity}", deadline))
            yield

    def _try_lock(self, path: Path) -> int | None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A lock on a file that was removed meanwhile excludes nobody.
            if os.fstat(handle).st_ino == os.stat(path).st_ino:
                return handle
        except (BlockingIOError, FileNotFoundError):
            pass  # somebody holds it, or has removed the file just now: to be tried again
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        return None

    def read_fence(self, path: Path) -> FenceFile:
        data = _read(path)
        if data is None:
            return FenceFile()
        try:
            value = json.loads(data)
            revision, instance = value["revision"], bytes.fromhex(value["instance"])
        except (ValueError, KeyError, TypeError):
            revision, instance = None, b""
        if type(revision) is not int or revision < 1 or len(instance) != INSTANCE_BYTES:
            raise StoreError(
                f"{path}: torn or foreign fence file; stop every voter on this folder, move the file away, start again"
            )
        return FenceFile(revision, instance, owner_of(value))

    def read_record(self, identity: str, kind: Kind = Kind.TOWER) -> tuple[Path, bytes | None]:
        current, old = self.record_path(identity, kind), self.path / f"tower-{identity}.bin"
        record = _read(current)
        if record is not None or kind is not Kind.TOWER:
            return current, record
        return old, _read(old)

    def look(self, identity: str, deadline: Deadline) -> Sighting:
        with self.all_locked(identity, deadline):
            fence = self.read_fence(self.fence_path(identity))
            _, record = self.read_record(identity)
            _, blocks = self.read_record(identity, Kind.BLOCKS)
        return Sighting(
            identity,
            fence.revision,
            fence.instance,
            content_revision(record),
            record,
            fence.owner,
            content_revision(blocks),
            blocks,
        )

    def claim(self, identity: str, seen: int, instance: bytes, owner: Owner, deadline: Deadline) -> Claimed | Refused:
        if deadline.passed():
            raise StoreUnavailable(f"{self.path}: the disk was busy for the whole time")
        with self.all_locked(identity, deadline), self.locked("claims.lock", deadline):
            mine = self.fence_path(identity)
            fence = self.read_fence(mine)
            if fence.revision != seen:
                return Refused(Refusal.FENCED, seen, fence.revision)
            others = (self.read_fence(path).revision for path in self.path.glob("fence-*.json"))
            revision = 1 + max(others, default=ABSENT)
            value = {"revision": revision, **owner_to(owner, instance)}
            # The line first: a claim without its line could not be told from one that never was.
            self.append_history(self.history_path(identity), value)
            _replace(mine, json.dumps(value).encode())
            _, record = self.read_record(identity)
            return Claimed(Fence(identity, revision, instance), content_revision(record), record)

    def identities(self) -> list[str]:
        """Every identity with a fence or a record here, sorted; takes no lock, for it reads nothing but names."""
        found = set()
        for path in self.path.iterdir():
            named = RECORD_OR_FENCE.fullmatch(path.name)
            if named is not None and is_address(named.group(1)):
                found.add(named.group(1))
        return sorted(found)

    def append_history(self, path: Path, value: dict[str, Any]) -> None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # A crash may have cut the last line short; it belongs to a claim that never was.
            whole = os.lseek(handle, 0, os.SEEK_END)
            if whole and os.pread(handle, 1, whole - 1) != b"\n":
                whole = path.read_bytes().rfind(b"\n") + 1
                os.ftruncate(handle, whole)
            os.lseek(handle, whole, os.SEEK_SET)
            _write_all(handle, json.dumps(value, separators=(",", ":")).encode() + b"\n")
            os.fsync(handle)
        except OSError as problem:
            raise OSError(problem.errno, problem.strerror, str(path)) from problem
        finally:
            os.close(handle)

    def history(self, identity: str, deadline: Deadline) -> list[Owner]:
        path = self.history_path(identity)
        with self.locked(f"lock-{identity}", deadline):
            last = self.read_fence(self.fence_path(identity)).revision
            lines = (_read(path) or b"").splitlines(keepends=True)
        claims: dict[int, Owner] = {}
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                break  # cut short by a crash
            try:
                value = json.loads(line)
                revision = value["revision"]
            except (ValueError, KeyError, TypeError):
                value, revision = None, None
            owner = owner_of(value)
            if owner is None or type(revision) is not int:
                raise StoreError(f"{path}: line {number} is no entry of a claim; move the file away to start a new one")
            if revision <= last:
                claims[revision] = owner
        return list(claims.values())

    def store(self, fence: Fence, expected: int, record: bytes, deadline: Deadline, kind: Kind = Kind.TOWER) -> Outcome:
        if deadline.passed():
            return Unknown("the disk was busy with earlier writes for the whole time")
        with self.locked(f"{LOCK_NAMES[kind]}-{fence.identity}", deadline):
            held = self.read_fence(self.fence_path(fence.identity))
            # The bytes too: someone who removed the fence file has started the revisions again.
            if (held.revision, held.instance) != (fence.revision, fence.instance):
                return Refused(Refusal.FENCED, fence.revision, held.revision)
            target = self.record_path(fence.identity, kind)
            path, current = self.read_record(fence.identity, kind)
            if content_revision(current) == expected or (current == record and path != target):
                _replace(target, record)
            elif current == record:
                _flush(target)
                _flush(target.parent)
            else:
                return Refused(Refusal.CONFLICT, expected, content_revision(current))
            return Committed(fence, content_revision(record), record)
