"""A validator of the older kind on the same keys: the same rules of voting, the older way of storing.

It is the real voter and runner on a store that does what solana-validator 1.9 to 2.x did:

- no look: the claim puts the instance without a comparison, and a second transaction reads the tower if the instance is still
  its own;
- the instance is the clock of the machine in milliseconds, compared by value;
- a write compares the instance alone, and overwrites whatever tower is there;
- each request is sent once, and the first error is the end of the process.

As in the specification's model `legacy`, two of them never have the same clock; what becomes of that is in the mutants, as is
one that votes on without the tower that it could not read. Where the real one does not store the last vote when it sends it
again, this one does, as the model's: the promise in it is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from tests.simulator.store import Call, SimulatedStore
from tests.simulator.world import Died, S
from tower.store import ABSENT, Claimed, Committed, Fence, Kind, Owner, Sighting
from tower.stores.memory import MemoryBackend

__all__ = ["LegacyStore"]

UNKNOWN = Owner("", "")  # it leaves no owner record; the backend wants one
STRUCK_LEGACY = 0.02  # of its requests meet its death


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a transaction of its kind came to: whether the comparison held, and what was there."""

    held: bool
    sighting: Sighting


def _put_instance(backend: MemoryBackend, identity: str, instance: bytes) -> _Answer:
    backend.claim(identity, backend.look(identity).instance_revision, instance, UNKNOWN)
    return _Answer(True, backend.look(identity))


def _read(backend: MemoryBackend, identity: str, instance: bytes) -> _Answer:
    now = backend.look(identity)
    return _Answer(now.instance == instance, now)


def _put_tower(backend: MemoryBackend, identity: str, instance: bytes, record: bytes) -> _Answer:
    now = backend.look(identity)
    if now.instance == instance:
        backend.put(Fence(identity, now.instance_revision, instance), now.record_revision, record)
    return _Answer(now.instance == instance, backend.look(identity))


class _Pending:
    """A write under way; it has no deadline of its own, and ends the process if it goes wrong."""

    def __init__(self, client: LegacyStore, call: Call, fence: Fence, record: bytes) -> None:
        self._client, self._call, self._fence, self._record = client, call, fence, record

    def outcome(self, timeout: float) -> Committed:
        answer = self._client.heard(self._call, "a write was not answered", "a write was refused")
        self._client.answered()
        return Committed(self._fence, answer.sighting.record_revision, self._record)


class LegacyStore(SimulatedStore):
    """Implements `tower.store.Store` for one process. `instance` is the process's id."""

    instance = b""

    def _once(self, what: str, operation: Callable[[], _Answer]) -> Call:
        def arrives() -> _Answer:
            answer = operation()
            if not self.process.alive and what != "read":
                self.world.counts[f"late: legacy {what} of a dead process {'won' if answer.held else 'was refused'}"] += 1
            return answer

        # it has no timeout: what ends its waiting is that the connection breaks
        patience = self.world.rng.choice((1 * S, 4 * S, 10 * S))
        call = Call(self, arrives, self.world.now + patience, once=True)
        self.strike_before(call, f"while a legacy {what} was under way", STRUCK_LEGACY)
        return call

    def heard(self, call: Call, unheard: str, refused: str) -> _Answer:
        answer = call.wait()
        if answer is None:
            self.die(unheard)
        if not answer.held:
            self.die(refused)
        return answer

    def die(self, cause: str) -> NoReturn:
        """Its only way to handle an error."""
        self.world.counts[f"legacy ended: {cause}"] += 1
        self.process.alive = False
        raise Died

    def look(self, identity: str, timeout: float) -> Sighting:
        return Sighting(identity, ABSENT, None, ABSENT, None)

    def claim(self, sighting: Sighting, owner: Owner, timeout: float) -> Claimed:
        identity = sighting.identity
        put = self._once("claim", lambda: _put_instance(self.backend, identity, self.instance))
        self.heard(put, "a claim was not answered", "a claim was refused")
        read = self._once("read", lambda: _read(self.backend, identity, self.instance))
        return self.loaded(read, identity)

    def loaded(self, read: Call, identity: str) -> Claimed:
        found = self.heard(read, "the tower was not read", "another had claimed before the tower was read").sighting
        return Claimed(Fence(identity, found.instance_revision, self.instance), found.record_revision, found.record)

    def begin_store(
        self, fence: Fence, expected_revision: int, record: bytes, timeout: float, kind: Kind = Kind.TOWER
    ) -> _Pending:
        call = self._once("write", lambda: _put_tower(self.backend, fence.identity, self.instance, record))
        return _Pending(self, call, fence, record)
