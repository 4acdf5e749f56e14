"""Virtual time: a heap of events, each belonging to a thread of a machine's process or to nobody.

A thread that waits (for an answer of the store) lets the world go on around it; a frozen process gets its events when it is
thawed; a dead one unwinds with `Died` the moment it would go on.

The code under test is written to block. So a call that waits keeps the real thread that it is in, and another one goes on
with the events; calls may begin and end in any order. Real threads take turns: exactly one of them runs, and who is next
depends on virtual time alone, so a seed repeats a run.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["MS", "Died", "Process", "S", "Thread", "World"]

MS = 1_000  # virtual time is counted in microseconds
S = 1_000 * MS


class Died(BaseException):
    """The process that would go on has been killed. Not an `Exception`: nothing may handle it but the simulator."""


class Process:
    """What the world knows of a running process: it lives, freezes and dies as a whole."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen_until = 0
        self.threads: list[Thread] = []
        self.main = Thread(self)


class Thread:
    """One of its threads: takes one event after another, and waits in calls that block."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.waiting = False  # it is inside a call that blocks
        self.inbox: deque[Callable[[], None]] = deque()  # events in the order in which they came
        process.threads.append(self)


@dataclass(frozen=True, slots=True)
class _Wait:
    owner: Thread
    until: int
    done: Callable[[], bool]
    gate: threading.Lock

    def over(self, now: int) -> bool:
        process = self.owner.process
        return not process.alive or (process.frozen_until <= now and (now >= self.until or self.done()))


def _gate() -> threading.Lock:
    """Where a thread stands until it is its turn."""
    gate = threading.Lock()
    gate.acquire()
    return gate


class World:
    """Time, randomness and events of one run."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0
        self.counts: Counter[str] = Counter()
        self._heap: list[tuple[int, int, Thread | None, Callable[[], None]]] = []
        self._order = itertools.count()
        self._waits: list[_Wait] = []  # in the order in which they began
        self._idle: list[threading.Lock] = []  # the gates of threads that nothing waits in
        self._threads: list[threading.Thread] = []
        self._mine = _gate()  # of the thread whose turn it is
        self._done: Callable[[], bool] = lambda: True
        self._over = False
        self._problem: BaseException | None = None

    def after(self, delay: int, event: Callable[[], None], owner: Thread | None = None) -> None:
        """Let `event` happen `delay` microseconds from now, inside `owner` if it has one."""
        heapq.heappush(self._heap, (self.now + delay, next(self._order), owner, event))

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def freeze(self, process: Process, duration: int) -> None:
        """`process` takes no step for `duration` microseconds, wherever it is."""
        process.frozen_until = max(process.frozen_until, self.now + duration)
        self.after(process.frozen_until - self.now, lambda: [self._drain(thread) for thread in process.threads])

    def run(self, done: Callable[[], bool]) -> None:
        """Go on until `done`, once; whoever waits then ends with `Died`. Raises what an event raised."""
        self._done = done
        try:
            self._turns()
        finally:
            self._end()
            for thread in self._threads:
                thread.join()
        if self._problem is not None:
            raise self._problem

    def wait(self, owner: Thread, until: int, done: Callable[[], bool]) -> None:
        """Block `owner` until `done` or the time `until`, while everybody else goes on."""
        if self._over:
            raise Died
        gate = self._mine
        owner.waiting = True
        self.after(max(0, until - self.now), lambda: None)  # so that there is an event at that time
        self._waits.append(_Wait(owner, until, done, gate))
        if self._idle:
            self._idle.pop().release()
        else:
            thread = threading.Thread(target=self._serve, name=f"simulator-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        gate.acquire()
        self._mine = gate
        owner.waiting = False
        if self._over or not owner.process.alive:
            raise Died

    # ---- turns

    def _turns(self) -> None:
        """Take events until the run is over; a call that may go on gets the turn, and this thread stands by."""
        gate = self._mine
        while not self._over:
            if self._done():
                self._end()
                return
            wait = next((wait for wait in self._waits if wait.over(self.now)), None)
            if wait is None:
                self._step()
            else:
                self._waits.remove(wait)
                self._idle.append(gate)
                wait.gate.release()
                gate.acquire()
                self._mine = gate

    def _serve(self) -> None:
        """The life of a thread that goes on with the events while the others wait."""
        self._mine = _gate()
        try:
            self._turns()
        except BaseException as problem:  # `run` raises it where it belongs
            self._problem = problem
            self._end()

    def _end(self) -> None:
        """The run is over: whoever waits is let go, and unwinds."""
        self._over = True
        gates = [wait.gate for wait in self._waits] + self._idle
        self._waits.clear()
        self._idle.clear()
        for gate in gates:
            gate.release()

    def _step(self) -> None:
        at, _, owner, event = heapq.heappop(self._heap)
        self.now = max(self.now, at)
        if owner is None:
            event()
        else:
            owner.inbox.append(event)
            self._drain(owner)

    def _drain(self, thread: Thread) -> None:
        """Let `thread` take its events, as long as it can."""
        process = thread.process
        while thread.inbox and process.alive and process.frozen_until <= self.now and not thread.waiting and not self._over:
            event = thread.inbox.popleft()
            try:
                event()
            except Died:
                if not self._over:
                    self.counts["died in the middle of a call"] += 1
