"""The tower store in this process's memory: for embedders that keep several voters in one process, and for tests.

`MemoryBackend` is the server: one revision counter for everything in it, as in etcd. A `MemoryStore` is one client of
it. Nothing survives the process, so it fences voters of one process only. It does no I/O and starts no thread; with
`random_bytes` given it is deterministic. A watch's callback runs in the thread that claims, before `claim` returns.

>>> from tower.store import Owner
>>> backend = MemoryBackend()
>>> first, second = MemoryStore(backend), MemoryStore(backend)
>>> mine = first.claim(first.look("me", 1), Owner("a", "start"), 1)
>>> first.begin_store(mine.fence, mine.record_revision, b"tower 1", 1).outcome(1).record_revision
2
>>> yours = second.claim(second.look("me", 1), Owner("b", "set-identity"), 1)
>>> yours.record, yours.fence.revision
(b'tower 1', 3)
>>> first.begin_store(mine.fence, 2, b"tower 2", 1).outcome(1)
Refused(reason=<Refusal.FENCED: 'another instance has claimed since'>, mine=1, seen=3)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from tower.errors import StoreError
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
from tower.stores._common import LostOnce, check_identity
from tower.stores._notes import check_note

__all__ = ["MemoryBackend", "MemoryStore"]


@dataclass(slots=True)
class _Record:
    revision: int = ABSENT
    content: bytes | None = None


@dataclass(slots=True)
class _Keys:
    """Everything kept for one identity."""

    instance_revision: int = ABSENT
    instance: bytes | None = None
    owner: Owner | None = None
    records: dict[Kind, _Record] = field(default_factory=lambda: {kind: _Record() for kind in Kind})
    history: list[Owner] = field(default_factory=list)
    watches: list[_MemoryWatch] = field(default_factory=list)
    notes: dict[str, bytes] = field(default_factory=dict)


class MemoryBackend:
    """The server side. Threads may share it; each of its methods is one atomic step."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._revision = 0
        self._keys: dict[str, _Keys] = {}

    def _of(self, identity: str) -> _Keys:
        return self._keys.setdefault(identity, _Keys())

    def look(self, identity: str) -> Sighting:
        with self._lock:
            keys = self._keys.get(identity, _Keys())
            tower, blocks = keys.records[Kind.TOWER], keys.records[Kind.BLOCKS]
            return Sighting(
                identity,
                keys.instance_revision,
                keys.instance,
                tower.revision,
                tower.content,
                keys.owner,
                blocks.revision,
                blocks.content,
            )

    def claim(self, identity: str, seen: int, instance: bytes, owner: Owner) -> Claimed | Refused:
        with self._lock:
            keys = self._of(identity)
            if keys.instance_revision != seen:
                return Refused(Refusal.FENCED, seen, keys.instance_revision)
            self._revision += 1
            keys.instance_revision, keys.instance, keys.owner = self._revision, instance, owner
            keys.history.append(owner)
            lost, keys.watches = keys.watches, []
            tower = keys.records[Kind.TOWER]
            claimed = Claimed(Fence(identity, self._revision, instance), tower.revision, tower.content)
        # Outside the lock: a callback may use the store.
        for watch in lost:
            watch.lost.fire(claimed.fence.revision)
        return claimed

    def put(self, fence: Fence, expected: int, record: bytes, kind: Kind = Kind.TOWER) -> Committed | Refused:
        with self._lock:
            keys = self._of(fence.identity)
            if (keys.instance_revision, keys.instance) != (fence.revision, fence.instance):
                return Refused(Refusal.FENCED, fence.revision, keys.instance_revision)
            held = keys.records[kind]
            if held.revision == expected:
                self._revision += 1
                held.revision, held.content = self._revision, record
            elif held.content != record:
                return Refused(Refusal.CONFLICT, expected, held.revision)
            return Committed(fence, held.revision, record)

    def history(self, identity: str) -> list[Owner]:
        with self._lock:
            return list(self._keys.get(identity, _Keys()).history)

    def identities(self) -> list[str]:
        with self._lock:
            return sorted(name for name, keys in self._keys.items() if keys.instance_revision)

    def put_note(self, identity: str, name: str, note: bytes) -> None:
        with self._lock:
            self._of(identity).notes[name] = note

    def notes(self, identity: str) -> dict[str, bytes]:
        with self._lock:
            return dict(self._keys.get(identity, _Keys()).notes)

    def add(self, watch: _MemoryWatch) -> None:
        with self._lock:
            keys = self._of(watch.fence.identity)
            seen = keys.instance_revision
            if seen == watch.fence.revision:
                keys.watches.append(watch)
                return
        watch.lost.fire(seen)

    def remove(self, watch: _MemoryWatch) -> None:
        with self._lock:
            keys = self._of(watch.fence.identity)
            keys.watches = [other for other in keys.watches if other is not watch]


class _MemoryWatch:
    def __init__(self, backend: MemoryBackend, fence: Fence, on_lost: Callable[[int], None]) -> None:
        self.fence = fence
        self.lost = LostOnce(on_lost)
        self._backend = backend

    def close(self) -> None:
        self.lost.close()
        self._backend.remove(self)


class _Settled:
    """A write that was over before anybody could wait for it."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def outcome(self, timeout: float) -> Outcome:
        return self._outcome


class MemoryStore:
    """One client of a `MemoryBackend`; implements `tower.store.Store`."""

    def __init__(self, backend: MemoryBackend, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._backend = backend
        self._random_bytes = random_bytes
        self._closed = False
        self._watches: list[_MemoryWatch] = []

    def _open(self) -> MemoryBackend:
        if self._closed:
            raise StoreError("the store is closed")
        return self._backend

    def look(self, identity: str, timeout: float) -> Sighting:
        return self._open().look(check_identity(identity))

    def claim(self, sighting: Sighting, owner: Owner, timeout: float) -> Claimed | Refused | Unknown:
        instance = self._random_bytes(INSTANCE_BYTES)
        return self._open().claim(sighting.identity, sighting.instance_revision, instance, owner)

    def begin_store(
        self, fence: Fence, expected_revision: int, record: bytes, timeout: float, kind: Kind = Kind.TOWER
    ) -> _Settled:
        if self._closed:
            return _Settled(Unknown("the store is closed"))
        return _Settled(self._backend.put(fence, expected_revision, bytes(record), kind))

    def expect_store(self) -> None:
        """Nothing could be prepared."""

    def watch(self, fence: Fence, on_lost: Callable[[int], None]) -> _MemoryWatch:
        watch = _MemoryWatch(self._open(), fence, on_lost)
        self._watches = [other for other in self._watches if not other.lost.done]
        self._watches.append(watch)
        self._backend.add(watch)
        return watch

    def history(self, identity: str, timeout: float) -> list[Owner]:
        return self._open().history(check_identity(identity))

    def identities(self, timeout: float) -> list[str]:
        return self._open().identities()

    def put_note(self, identity: str, name: str, note: bytes, timeout: float) -> None:
        _, note = check_note(name, note)
        self._open().put_note(check_identity(identity), name, note)

    def notes(self, identity: str, timeout: float) -> dict[str, bytes]:
        return self._open().notes(check_identity(identity))

    def close(self) -> None:
        self._closed = True
        watches, self._watches = self._watches, []
        for watch in watches:
            watch.close()
