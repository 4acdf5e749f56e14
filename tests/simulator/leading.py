"""The leader duty of one life: windows are reserved ahead in a thread of its own, blocks are produced in another.

The schedule gives half of the windows to the identity, so that a life often meets one that was reserved before it, and one that
it must not lead any more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tests.simulator.coverage import Visited
from tests.simulator.store import SimulatedStore
from tests.simulator.world import MS, Process, S, Thread
from tests.support.chain import digest
from tower.events import Adopted, FenceLost, Resign
from tower.leader import Leader, LeaderEffect, LeaderEvent, LeaderState, Reserve, Stop, StopReason
from tower.leader_runner import LeaderRunner
from tower.runner import Runner

if TYPE_CHECKING:
    from tests.simulator.machine import Machine

__all__ = ["LeaderDuty", "leads"]

WINDOW = 4  # slots that a leader has in a row
# What is reserved at a time: a number of slots, as many slots from now or, for a whole window, windows from this one.
WAYS = ((WINDOW, 1), (WINDOW, 2), (1, 2), (1, 8))
FROZEN = 0.05  # of the blocks find their producer frozen between the question and the block
STORE_TIMEOUTS_S = (0.5, 1.0, 2.0)
DUTY_TIMEOUTS_S = (2.0, 600.0)  # a duty that goes on for long must be as safe
UNTOLD = 0.3  # of the duties are not told that the life has ended: they have to find out themselves
EXPECTED_STOPS = {StopReason.LOST_FENCE, StopReason.STORE_FAILED, StopReason.RESIGNED}


def leads(slot: int) -> bool:
    """Whether the schedule gives `slot` to our identity."""
    return digest(f"leader of window {slot // WINDOW}")[0] % 2 == 0


class _CountingLeader(Leader):
    """The leader itself, and a note of every pair of state and event that it met."""

    visited: Visited

    def handle(self, event: LeaderEvent) -> list[LeaderEffect]:
        self.visited[self.state, type(event)] += 1
        return super().handle(event)


class LeaderDuty:
    """Begins with the adoption of a life, and ends with it or without being told."""

    def __init__(self, machine: Machine, process: Process, life: Runner, adopted: Adopted) -> None:
        self._machine, self._run, self._life = machine, machine.run, life
        self._process, self._reserving, self._producing = process, Thread(process), Thread(process)
        self.name = f"{machine.name}, fence {adopted.fence.revision}"
        self._fence = adopted.fence
        world, leader = self._run.world, _CountingLeader()
        leader.visited = self._run.result.visited
        store = SimulatedStore(self._run.backend, self._run.members, self._run.network, machine.name, self._reserving)
        store.on_trouble = lambda share: self._run.trouble(machine, share)
        self.runner = LeaderRunner(
            leader, store, store_timeout=world.rng.choice(STORE_TIMEOUTS_S), duty_timeout=world.rng.choice(DUTY_TIMEOUTS_S),
            on_reserved=lambda reserved: self._run.reserved(self.name, reserved),
            on_declined=lambda declined: self._count("declined"),
            on_stop=self._stopped, clock=lambda: world.now / S,
            pause=lambda seconds: world.wait(self._reserving, world.now + math.ceil(seconds * S), lambda: False),
        )  # fmt: skip
        self._untold, self._way = world.chance(UNTOLD), world.rng.choice(WAYS)
        self._interleaved, self._settling = world.chance(0.5), False
        self._begins = world.now + world.rng.choice((0, 0, 5 * MS, 500 * MS))  # when its thread comes to it
        self._post(adopted)

    def _count(self, what: str) -> None:
        self._run.world.counts[f"blocks: {what}"] += 1

    def _stopped(self, stop: Stop) -> None:
        self._count(f"duty ended: {stop.reason.value}")
        if stop.reason not in EXPECTED_STOPS:
            self._run.result.broken.append(f"{self.name}: leading ended: {stop.reason.value}: {stop.text}")

    # ---- its own thread

    def _post(self, event: LeaderEvent, delay: int = 0) -> None:
        world = self._run.world
        world.after(max(delay, self._begins - world.now), lambda: self._drive(event), self._reserving)

    def _drive(self, event: LeaderEvent) -> None:
        """As a thread does that has nothing else to do, or with pauses in which windows are asked for all the same."""
        if not self._interleaved:
            self.runner.drive(event)
            return
        self.runner.dispatch(event)
        self._settle_soon((0, 2 * MS, 200 * MS, 900 * MS))

    def _settle_soon(self, delays: tuple[int, ...]) -> None:
        if self.runner.in_flight and not self._settling:
            self._settling = True
            self._run.world.after(self._run.world.rng.choice(delays), self._settle, self._reserving)

    def _settle(self) -> None:
        self._settling = False
        self.runner.settle()
        self._settle_soon((0, 200 * MS, 900 * MS))

    # ---- what it is told

    def voted(self) -> None:
        """A vote of this life was committed."""
        self.runner.confirmed(self._run.world.now / S - self._life.store_s)

    def lost(self, seen: int) -> None:
        """The watch saw another claim."""
        if not self._untold:
            self.runner.tell(FenceLost(seen))
            self._post(FenceLost(seen))

    def ended(self, why: str) -> None:
        """The life that this duty belongs to has stopped voting."""
        if not self._untold:
            self.runner.tell(Resign(why))
            self._post(Resign(why))

    def slot(self, slot: int) -> None:
        """A slot begins: windows ahead are reserved, and if it is ours, its block is produced."""
        world = self._run.world
        if self.runner.leader.state is LeaderState.STOPPED:
            return
        first, last = self._ahead(slot)
        if leads(first):
            self._post(Reserve(first, last), world.rng.randint(0, 50 * MS))
        if leads(slot):
            world.after(world.rng.randint(0, 100 * MS), lambda: self._produce(slot), self._producing)

    def _ahead(self, slot: int) -> tuple[int, int]:
        """What to reserve now: a whole window, or a single slot, so that little is lost."""
        slots, ahead = self._way
        first = slot + ahead if slots == 1 else (slot // WINDOW + ahead) * WINDOW
        return first, first + slots - 1

    def _produce(self, slot: int) -> None:
        world = self._run.world
        if not self.runner.may_produce(slot):
            self._count("own slot left out")
            return
        if world.chance(FROZEN):
            self._count("frozen between the question and the block")
            world.freeze(self._process, world.rng.choice((500 * MS, 2 * S, 10 * S)))
            world.wait(self._producing, world.now, lambda: True)
        self._run.produced(self.name, self._fence, slot)
