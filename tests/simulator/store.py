"""The store behind a network: the memory backend is the server; what is simulated is the way to it and back.

Every request and every answer may be lost, late or, for requests, repeated; a copy that is late by seconds still arrives and
still acts. The client does what the etcd adapter does: it repeats the same bytes until its timeout, and believes only answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from tests.simulator.world import MS, Process, S, World
from tower.errors import StoreUnavailable
from tower.store import INSTANCE_BYTES, Claimed, Committed, Fence, Outcome, Owner, Refused, Sighting, Unknown
from tower.stores.memory import MemoryBackend, _MemoryWatch

__all__ = ["Network", "SimulatedStore"]

ATTEMPT = 300 * MS
T = TypeVar("T")


class Network:
    """Between machines and store: what happens to messages."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.store_down_until = 0
        self.cut_until: dict[str, int] = {}

    def carry(self, machine: str, deliver: Callable[[], None], what: str) -> None:
        """Let one message travel: zero, one or two times."""
        world = self.world
        for _ in range(2 if world.chance(0.03) else 1):
            if self._lost(machine):
                world.counts[f"{what} lost"] += 1
                continue
            delay = world.rng.randint(MS // 5, 2 * MS)
            if world.chance(0.04):
                delay = world.rng.randint(50 * MS, 8 * S)
                world.counts[f"{what} late"] += 1
            world.after(delay, deliver)

    def _lost(self, machine: str) -> bool:
        down = self.world.now < max(self.store_down_until, self.cut_until.get(machine, 0))
        return down or self.world.chance(0.02)


class _Call:
    """One operation: the same request again and again until an answer is heard or time is over."""

    def __init__(self, store: SimulatedStore, operation: Callable[[], T], until: int) -> None:
        self._store, self._operation, self.until = store, operation, until
        self.answer: T | None = None
        self.send()

    def send(self) -> None:
        network, machine = self._store.network, self._store.machine

        def hear(answer: T) -> None:
            if self.answer is None:
                self.answer = answer

        def serve() -> None:
            answer = self._operation()
            network.carry(machine, lambda: hear(answer), "answer")

        network.carry(machine, serve, "request")

    def wait(self) -> T | None:
        world, process = self._store.network.world, self._store.process
        while self.answer is None and world.now < self.until:
            world.wait(process, min(self.until, world.now + ATTEMPT), lambda: self.answer is not None)
            if self.answer is None and world.now < self.until:
                world.counts["request repeated"] += 1
                self.send()
        return self.answer


class _Pending:
    """A write under way. Now and then it says `Unknown` early, as a store may: then the runner has to settle it."""

    def __init__(self, call: _Call) -> None:
        self._call = call

    def outcome(self, timeout: float) -> Outcome:
        world = self._call._store.network.world
        patience = timeout if world.chance(0.6) else min(timeout, 0.05)
        self._call.until = world.now + math.ceil(patience * S)
        answer = self._call.wait()
        return Unknown("no answer came in time") if answer is None else answer


class SimulatedStore:
    """A client of the store in one process; implements `tower.store.Store`."""

    def __init__(self, backend: MemoryBackend, network: Network, machine: str, process: Process) -> None:
        self.backend, self.network, self.machine, self.process = backend, network, machine, process

    def _until(self, timeout: float) -> int:
        return self.network.world.now + math.ceil(timeout * S)

    def look(self, identity: str, timeout: float) -> Sighting:
        answer = _Call(self, lambda: self.backend.look(identity), self._until(timeout)).wait()
        if answer is None:
            raise StoreUnavailable("no answer came in time")
        return answer

    def claim(self, sighting: Sighting, owner: Owner, timeout: float) -> Claimed | Refused | Unknown:
        instance = self.network.world.rng.randbytes(INSTANCE_BYTES)

        def operation() -> Claimed | Refused:
            outcome = self.backend.claim(sighting.identity, sighting.instance_revision, instance, owner)
            now = self.backend.look(sighting.identity)
            if isinstance(outcome, Refused) and now.instance == instance:  # an earlier copy has won
                return Claimed(Fence(now.identity, now.instance_revision, instance), now.record_revision, now.record)
            return outcome

        answer = _Call(self, operation, self._until(timeout)).wait()
        return Unknown("no answer came in time") if answer is None else answer

    def begin_store(self, fence: Fence, expected_revision: int, record: bytes, timeout: float) -> _Pending:
        def operation() -> Committed | Refused:
            return self.backend.put(fence, expected_revision, record)

        return _Pending(_Call(self, operation, self._until(timeout)))

    def watch(self, fence: Fence, on_lost: Callable[[int], None]) -> _MemoryWatch:
        watch = _MemoryWatch(self.backend, fence, lambda seen: self.network.carry(self.machine, lambda: on_lost(seen), "watch"))
        self.backend.add(watch)
        return watch

    def history(self, identity: str, timeout: float) -> list[Owner]:
        return self.backend.history(identity)

    def close(self) -> None: ...
