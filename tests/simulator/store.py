"""The way to the store and back, and this product's client of it.

Every request and every answer may be lost, late or doubled; a copy that is late by seconds still arrives and still acts, also
after its sender died. The client does what the etcd adapter does: it repeats the same bytes over all members until its timeout,
and believes only answers.

Fate watches here as well: processes die and freeze where it hurts, between a write and its answer, between the answer and
the release.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tests.simulator.members import MEMBERS, Members, Request
from tests.simulator.world import MS, Died, S, Thread, World
from tower.errors import StoreUnavailable
from tower.store import (
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
from tower.stores.memory import MemoryBackend, _MemoryWatch

__all__ = ["Call", "Network", "SimulatedStore"]

ATTEMPT = 300 * MS
HANGS = 250 * MS  # a write without an answer for so long, and the operator looks what is wrong
WHAT = {Kind.TOWER: "write", Kind.BLOCKS: "reservation"}
# How many meet the death of their sender, at each of the moments that there are.
STRUCK = {"write": 0.006, "reservation": 0.03}
STRUCK_CLAIM = 0.015
# How long a call waits for an answer, one as likely as the other.
PATIENCE_S = {"write": (0.0, *[0.05] * 6, *[9.0] * 13), "reservation": (0.0, 0.05, 0.05, 9.0, 9.0)}
# After how many unknown outcomes, and late copies, the operator acts.
TROUBLE, TROUBLE_LATE = {"write": 0.06, "reservation": 0.2}, 0.4
PAUSED = 0.01  # of the commits find their sender frozen


class Network:
    """Between machines and store: what happens to messages."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.store_down_until = 0
        self.cut_until: dict[str, int] = {}

    def carry(self, machine: str, deliver: Callable[[], None], what: str, *, may_double: bool = True) -> None:
        """Let one message travel: it arrives never, once or twice."""
        world = self.world
        doubled = may_double and world.chance(0.05)
        if doubled:
            world.counts[f"{what} doubled"] += 1
        for copy in range(2 if doubled else 1):
            if self._lost(machine):
                world.counts[f"{what} lost"] += 1
                continue
            delay = world.rng.randint(MS // 5, 2 * MS)
            if world.chance(0.04 if copy == 0 else 0.5):
                delay = world.rng.randint(50 * MS, world.rng.choice((1 * S, 8 * S)))
                world.counts[f"{what} late"] += 1
            world.after(delay, deliver)

    def _lost(self, machine: str) -> bool:
        down = self.world.now < max(self.store_down_until, self.cut_until.get(machine, 0))
        return down or self.world.chance(0.02)


class Call:
    """One operation: the same request again and again, member after member, until an answer is heard or time is over.

    `once`: it is sent to one member, and nothing is repeated or doubled.
    """

    def __init__(
        self, client: SimulatedStore, operation: Callable[[], object], until: int, *, reads: bool = False, once: bool = False
    ) -> None:
        self._client, self._operation, self.until = client, operation, until
        self._reads, self._once = reads, once
        self._answer: Any = None
        self._refused_by: int | None = None
        self._pause = 10 * MS
        self._send()

    @property
    def answered(self) -> bool:
        return self._answer is not None

    def _send(self) -> None:
        client, member = self._client, self._client.member
        network = client.network
        self._refused_by = None

        def hear(answer: object) -> None:
            if self._answer is None:
                self._answer = answer

        def refused() -> None:
            self._refused_by = member

        def back(deliver: Callable[[], None]) -> None:
            network.carry(client.machine, deliver, "answer", may_double=not self._once)

        request = Request(
            self._operation, lambda answer: back(lambda: hear(answer)), lambda: back(refused), self._reads
        )
        network.carry(client.machine, lambda: client.members.take(member, request), "request", may_double=not self._once)

    @property
    def _settled(self) -> bool:
        return self._answer is not None or self._refused_by == self._client.member

    def wait(self) -> Any:
        """The answer; `None` where none was heard in time, or, with `once`, where it was refused."""
        client = self._client
        world, thread = client.network.world, client.thread
        while self._answer is None and world.now < self.until:
            attempt = self.until if self._once else min(self.until, world.now + ATTEMPT)
            world.wait(thread, attempt, lambda: self._settled)
            if self._answer is not None or self._once or world.now >= self.until:
                break
            if self._refused_by is not None:
                world.wait(thread, min(self.until, world.now + self._pause), lambda: False)
                self._pause = min(2 * self._pause, 200 * MS)
            client.member = (client.member + 1) % MEMBERS
            world.counts["request repeated at the next member"] += 1
            self._send()
        return self._answer


class _Pending:
    """A write under way. Now and then it says `Unknown` early, as a store may: then the runner has to settle it."""

    def __init__(self, client: SimulatedStore, call: Call, what: str) -> None:
        self._client, self._call, self._what = client, call, what

    def outcome(self, timeout: float) -> Outcome:
        client, world = self._client, self._client.network.world
        patience = min(timeout, world.rng.choice(PATIENCE_S[self._what]))
        self._call.until = world.now + math.ceil(patience * S)
        answer = self._call.wait()
        if answer is None:
            world.counts[f"{self._what}: outcome unknown"] += 1
            client.on_trouble(TROUBLE[self._what])
            return Unknown("no answer came in time")
        if isinstance(answer, Committed) and self._what == WHAT[Kind.TOWER]:
            client.answered()
        return answer


class SimulatedStore:
    """A client of the store in one thread of a process; implements `tower.store.Store`."""

    def __init__(self, backend: MemoryBackend, members: Members, network: Network, machine: str, thread: Thread) -> None:
        self.backend, self.members, self.network = backend, members, network
        self.machine, self.thread, self.process = machine, thread, thread.process
        self.member = network.world.rng.randrange(MEMBERS)  # the one in use
        self.on_trouble: Callable[[float], None] = lambda share: None  # a moment at which the operator may well act

    @property
    def world(self) -> World:
        return self.network.world

    def until(self, timeout: float) -> int:
        return self.world.now + math.ceil(timeout * S)

    def strike(self, moment: str, share: float) -> None:
        """Now and then the process that runs dies at this very moment."""
        if self.world.chance(share):
            self.world.counts[f"killed {moment}"] += 1
            self.process.alive = False
            raise Died

    def strike_before(self, call: Call, moment: str, share: float) -> None:
        """Now and then it dies soon, if it has no answer by then; what it sent is on its way."""

        def kill() -> None:
            if self.process.alive and not call.answered:
                self.world.counts[f"killed {moment}"] += 1
                self.process.alive = False

        if self.world.chance(share):
            self.world.after(self.world.rng.randint(0, 2 * MS), kill)

    def strike_at_store(self, moment: str, share: float) -> None:
        """Now and then the sender dies when the store has done what it asked for, and has not answered yet."""
        if self.process.alive and self.world.chance(share):
            self.world.counts[f"killed {moment}"] += 1
            self.process.alive = False

    def answered(self) -> None:
        """The process has heard that its write was committed, and the vote has not left yet."""
        world = self.world
        self.strike("between the answer and the release", STRUCK["write"])
        if world.chance(PAUSED):
            world.counts["frozen between the answer and the release"] += 1
            world.freeze(self.process, world.rng.choice((1 * S, 5 * S, 15 * S)))
            world.wait(self.thread, world.now, lambda: True)

    def look(self, identity: str, timeout: float) -> Sighting:
        answer = Call(self, lambda: self.backend.look(identity), self.until(timeout), reads=True).wait()
        if answer is None:
            raise StoreUnavailable("no answer came in time")
        return answer

    def claim(self, sighting: Sighting, owner: Owner, timeout: float) -> Claimed | Refused | Unknown:
        instance = self.world.rng.randbytes(INSTANCE_BYTES)

        def operation() -> Claimed | Refused:
            outcome = self.backend.claim(sighting.identity, sighting.instance_revision, instance, owner)
            now = self.backend.look(sighting.identity)
            if isinstance(outcome, Refused) and now.instance == instance:  # an earlier copy has won
                return Claimed(Fence(now.identity, now.instance_revision, instance), now.record_revision, now.record)
            if not self.process.alive:
                won = "won" if isinstance(outcome, Claimed) else "lost"
                self.world.counts[f"late: claim of a dead process {won}"] += 1
            elif isinstance(outcome, Claimed):
                self.strike_at_store("between the claim and its answer", STRUCK_CLAIM)
            return outcome

        call = Call(self, operation, self.until(timeout))
        self.strike_before(call, "while its claim was under way", STRUCK_CLAIM)
        answer = call.wait()
        if answer is None:
            self.world.counts["claim: outcome unknown"] += 1
            return Unknown("no answer came in time")
        if isinstance(answer, Claimed):
            self.strike("between the claim's answer and the first vote", STRUCK_CLAIM)
        return answer

    def begin_store(
        self, fence: Fence, expected_revision: int, record: bytes, timeout: float, kind: Kind = Kind.TOWER
    ) -> _Pending:
        def operation() -> Committed | Refused:
            outcome = self.backend.put(fence, expected_revision, record, kind)
            self._note(outcome, WHAT[kind])
            if call.answered:
                self.world.counts[f"late: copy of an answered {WHAT[kind]}"] += 1
                self.on_trouble(TROUBLE_LATE)
            return outcome

        call = Call(self, operation, self.until(timeout))
        self.strike_before(call, f"between the beginning of a {WHAT[kind]} and its answer", STRUCK[WHAT[kind]])

        def hangs() -> None:
            if self.process.alive and not call.answered:
                self.on_trouble(TROUBLE[WHAT[kind]])

        self.world.after(HANGS, hangs)
        return _Pending(self, call, WHAT[kind])

    def _note(self, outcome: Committed | Refused, what: str) -> None:
        """How a write fared that is late, and a death between its commit and the answer."""
        counts = self.world.counts
        if isinstance(outcome, Refused) and outcome.reason is Refusal.FENCED:
            sender = "a live process" if self.process.alive else "a dead process"
            counts[f"late: {what} of {sender}, after its successor's claim"] += 1
        elif isinstance(outcome, Refused):
            counts[f"late: copy of an earlier {what}, after a later one"] += 1
        elif not self.process.alive:
            counts[f"late: {what} of a dead process, before any claim"] += 1
        else:
            self.strike_at_store(f"between the commit of a {what} and its answer", STRUCK[what])

    def expect_store(self) -> None:
        """Nothing could be prepared."""

    def watch(self, fence: Fence, on_lost: Callable[[int], None]) -> _MemoryWatch:
        watch = _MemoryWatch(self.backend, fence, lambda seen: self.network.carry(self.machine, lambda: on_lost(seen), "watch"))
        self.backend.add(watch)
        return watch

    def history(self, identity: str, timeout: float) -> list[Owner]:
        return self.backend.history(identity)

    def close(self) -> None: ...
