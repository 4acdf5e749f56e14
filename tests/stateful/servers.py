"""The real stores: what a machine's adapter is, what is in the store, and what a validator of the older kind does to it.

Each example has an identity of its own, so examples share a server and nothing in it.
"""

from __future__ import annotations

from typing import Protocol

from tests.support.etcd import wait_until
from tower.keys import Keypair
from tower.store import ABSENT, Claimed, Committed, Fence, Owner, Refusal, Refused, Sighting, Store
from tower.stores import _etcd_messages as pb
from tower.stores.etcd import EtcdStore
from tower.stores.memory import MemoryBackend, MemoryStore

__all__ = ["TIMEOUT", "EtcdSide", "MemorySide", "ServerSide"]

TIMEOUT = 20.0  # seconds; a bound on one call, never waited for
NOBODY = Owner("", "")  # an older validator leaves no owner


class ServerSide(Protocol):
    """A store as the test sees it."""

    def adapter(self, machine: int) -> Store:
        """The real adapter of a machine."""

    def look(self) -> Sighting:
        """What is stored, past every machine."""

    def claim(self, machine: int, instance: bytes, sighting: Sighting, owner: Owner) -> Claimed | Refused:
        """A copy of a machine's claim arrives; `instance` is what it has drawn, and is in each copy."""

    def heard(self, lost: list[int]) -> int:
        """What a watch has said, of which it is known that it has something to say."""

    def legacy_claim(self, value: bytes) -> None:
        """Put the instance, whatever is there."""

    def legacy_store(self, value: bytes, record: bytes) -> Committed | Refused:
        """Put the tower if the instance holds that value, whatever tower is there."""


class MemorySide:
    """A memory backend for each example. It has one thread, so a look and what follows it are one step."""

    def __init__(self, identity: Keypair) -> None:
        self._random = b""
        self._address = identity.address
        self._backend = MemoryBackend()

    def make_adapter(self, backend: MemoryBackend) -> MemoryStore:
        return MemoryStore(backend, random_bytes=lambda count: self._random)

    def adapter(self, machine: int) -> MemoryStore:
        return self.make_adapter(self._backend)

    def look(self) -> Sighting:
        return self._backend.look(self._address)

    def claim(self, machine: int, instance: bytes, sighting: Sighting, owner: Owner) -> Claimed | Refused:
        self._random = instance
        outcome = self.adapter(machine).claim(sighting, owner, TIMEOUT)
        now = self.look()
        if isinstance(outcome, Refused) and now.instance == instance:
            # There is no network before this store, so its adapter need not know its own lost answer; here there is one.
            return Claimed(Fence(self._address, now.instance_revision, instance), now.record_revision, now.record)
        assert isinstance(outcome, (Claimed, Refused))
        return outcome

    def heard(self, lost: list[int]) -> int:
        return lost[0]  # this store's watch speaks before the claim returns

    def legacy_claim(self, value: bytes) -> None:
        self._backend.claim(self._address, self.look().instance_revision, value, NOBODY)

    def legacy_store(self, value: bytes, record: bytes) -> Committed | Refused:
        now = self.look()
        if now.instance != value:
            return Refused(Refusal.FENCED, ABSENT, now.instance_revision)
        fence = Fence(self._address, now.instance_revision, value)
        outcome = self._backend.put(fence, now.record_revision, record)
        assert isinstance(outcome, Committed)
        return outcome


class EtcdSide:
    """A real etcd. The adapters belong to the test, not to the example: they stay connected."""

    def __init__(self, identity: Keypair, adapters: list[EtcdStore]) -> None:
        self._random = b""
        self._address = identity.address
        self._instance, self._tower = (f"{identity.address}/{name}".encode() for name in ("instance", "tower"))
        *self._adapters, self._own = adapters
        for adapter in self._adapters:
            adapter._random_bytes = lambda count: self._random

    def adapter(self, machine: int) -> EtcdStore:
        return self._adapters[machine]

    def look(self) -> Sighting:
        return self._own.look(self._address, TIMEOUT)

    def claim(self, machine: int, instance: bytes, sighting: Sighting, owner: Owner) -> Claimed | Refused:
        self._random = instance
        outcome = self.adapter(machine).claim(sighting, owner, TIMEOUT)
        assert isinstance(outcome, (Claimed, Refused)), outcome
        return outcome

    def heard(self, lost: list[int]) -> int:
        wait_until(lambda: lost, "the watch sees that somebody else has claimed")
        return lost[0]

    def _txn(self, request: bytes) -> pb.TxnAnswer:
        return pb.decode_txn(self._own._links.current.call("txn", request, TIMEOUT), (0, 0))

    def legacy_claim(self, value: bytes) -> None:
        self._txn(pb.txn(success=[pb.put_op(self._instance, value)]))

    def legacy_store(self, value: bytes, record: bytes) -> Committed | Refused:
        answer = self._txn(pb.txn([pb.compare_value(self._instance, value)], [pb.put_op(self._tower, record)]))
        now = self.look()
        if not answer.succeeded:
            return Refused(Refusal.FENCED, ABSENT, now.instance_revision)
        return Committed(Fence(self._address, now.instance_revision, value), now.record_revision, record)
