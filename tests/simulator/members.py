"""The store's servers: three members of one etcd, one of which leads. What they keep is a `MemoryBackend`.

A request goes to one member, which hands it to the leader. There it is *in flight* until most members have it; then it is
carried out, and answered. What the promises rest on is trusted, as etcd gives it: requests are carried out one at a time,
whole, each seeing all before it, and what was answered is kept. What a change of the leader does to a client is played:

- the leader dies, is cut off from the others while clients still reach it, or hands its office on;
- for an election time nothing is carried out; members say that they know no leader;
- each write in flight is either carried out by the next leader, with its answer lost, or lost itself. Nobody is told which;
- a leader that was cut off and does not know it takes requests and can neither carry them out nor answer: not even a read,
  because most members would have to confirm that it leads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.simulator.world import MS, S, World

__all__ = ["MEMBERS", "Members", "Request"]

MEMBERS = 3
STRUCK = 0.006  # of the requests meet the end of a leader while they are in flight


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """`carry_out` does it and hands its answer back; `refuse` tells the client to ask another member."""

    carry_out: Callable[[], object]
    answer: Callable[[object], None]
    refuse: Callable[[], None]
    reads: bool  # it changes nothing


class Members:
    """See the module's text."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.leader: int | None = 0
        self._deposed: int | None = None  # a leader that was cut off from the others
        self._away_until = [0] * MEMBERS  # dead, or cut off
        self._in_flight: list[Request] = []
        self._kept: list[Request] = []  # in flight when the leader changed: the next one carries them out

    def take(self, member: int, request: Request) -> None:
        """A request arrived at a member."""
        world, counts = self.world, self.world.counts
        if member == self._deposed and self._away_until[member] > world.now:
            counts["deposed leader: a read hangs" if request.reads else "deposed leader: a write hangs"] += 1
        elif self._away_until[member] > world.now:
            counts["member away"] += 1
            if world.chance(0.5):  # else even the machine is gone: silence
                request.refuse()
        elif self.leader is None:
            counts["election: no leader known"] += 1
            request.refuse()
        else:
            self._in_flight.append(request)
            slow = world.chance(0.05)  # a disk that takes its time
            least, most = (20 * MS, 500 * MS) if slow else (MS // 10, MS)
            world.after(world.rng.randint(least, most), lambda: self._commit(request))
            if world.chance(STRUCK):
                world.after(world.rng.randint(0, MS // 2), self.change)

    def _commit(self, request: Request) -> None:
        if request in self._in_flight:
            self._in_flight.remove(request)
            request.answer(request.carry_out())

    def change(self) -> None:
        """The leader is no longer, in one way or another."""
        world, counts = self.world, self.world.counts
        old = self.leader
        if old is None:
            return
        how = world.rng.choice(("died", "was cut off", "handed on"))
        counts[f"leader change: it {how}"] += 1
        in_flight, self._in_flight = self._in_flight, []
        for request in in_flight:
            if request.reads:
                counts["leader change: read lost"] += 1
            elif world.chance(0.5):
                self._kept.append(request)
            else:
                self._lose(request)
        self.leader = None
        if how == "handed on":
            world.after(world.rng.randint(0, 50 * MS), self._elect)
            return
        self._away_until[old] = world.now + world.rng.choice((1 * S, 5 * S, 15 * S))
        self._deposed = old if how == "was cut off" else None
        world.after(world.rng.choice((150 * MS, 700 * MS, 1500 * MS, 4 * S)), self._elect)

    def _lose(self, request: Request) -> None:
        self.world.counts["leader change: lost before commit"] += 1

    def _elect(self) -> None:
        """The members that reach each other agree on one; what it finds in its log is carried out first."""
        world = self.world
        present = [member for member in range(MEMBERS) if self._away_until[member] <= world.now]
        if len(present) <= MEMBERS // 2:
            world.counts["election: put off, too few members"] += 1
            world.after(200 * MS, self._elect)
            return
        self.leader = world.rng.choice(present)
        kept, self._kept = self._kept, []
        for request in kept:
            world.counts["leader change: committed and answer lost"] += 1
            request.carry_out()
