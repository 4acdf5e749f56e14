"""Virtual time: a heap of events, each belonging to a machine's process or to nobody.

A process that waits (for an answer of the store) lets the world go on around it; a frozen one gets its events when it is
thawed; a dead one unwinds with `Died` the moment it would go on.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable

__all__ = ["MS", "Died", "Process", "S", "World"]

MS = 1_000  # virtual time is counted in microseconds
S = 1_000 * MS


class Died(BaseException):
    """The process that would go on has been killed. Not an `Exception`: nothing may handle it but the simulator."""


class Process:
    """What the world knows of a running process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen_until = 0
        self.waiting = 0  # calls that are blocked inside it
        self.later: list[Callable[[], None]] = []  # events that came while it could not take them


class World:
    """Time, randomness and events of one run."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0
        self.counts: Counter[str] = Counter()
        self._heap: list[tuple[int, int, Process | None, Callable[[], None]]] = []
        self._order = itertools.count()

    def after(self, delay: int, event: Callable[[], None], owner: Process | None = None) -> None:
        """Let `event` happen `delay` microseconds from now, inside `owner` if it has one."""
        heapq.heappush(self._heap, (self.now + delay, next(self._order), owner, event))

    def run(self, done: Callable[[], bool]) -> None:
        """Go on until `done`."""
        while not done():
            self._step()

    def _step(self) -> None:
        at, _, owner, event = heapq.heappop(self._heap)
        self.now = max(self.now, at)
        if owner is None:
            event()
        elif not owner.alive:
            return
        elif owner.frozen_until > self.now:
            self.after(owner.frozen_until - self.now, event, owner)
        elif owner.waiting:
            owner.later.append(event)
        else:
            try:
                event()
            except Died:
                self.counts["died in the middle of a call"] += 1

    def wait(self, owner: Process, until: int, done: Callable[[], bool]) -> None:
        """Block `owner` until `done` or the time `until`, while everybody else goes on."""
        owner.waiting += 1
        try:
            # something at that time, so that the heap never runs dry before it
            self.after(max(0, until - self.now), lambda: None)
            while owner.alive and (owner.frozen_until > self.now or not (done() or self.now >= until)):
                if owner.frozen_until > self.now:
                    self.after(owner.frozen_until - self.now, lambda: None)
                self._step()
        finally:
            owner.waiting -= 1
        if not owner.alive:
            raise Died
        if not owner.waiting:
            later, owner.later = owner.later, []
            for event in later:
                self.after(0, event, owner)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share
