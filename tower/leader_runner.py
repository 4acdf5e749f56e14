"""The leader's runner: carries out what a leader decides, and says whether a slot may be led now.

**Off the vote's way.** It writes on a `Store` object of its own, from a thread of its own. In etcd and in a folder a
reservation and a tower have nothing in common but the fence: not a connection, not a key, not a lock.

**What `may_produce(slot)` promises** when it is true:

1. The store has confirmed a reservation of this life that contains `slot`. No other life was given that slot, and none ever
   will be: the mark is above it for good. This is all that S7 needs, and it stays true when the fence is lost later.
2. Nobody has told this runner that the fence is lost or the duty over.
3. A write of this life (a vote's tower or a reservation) that *began* at most `duty_timeout` seconds ago, by the monotonic
   clock of this machine, was confirmed. So at that moment the fence was ours.

**Why safety never depends on the clock.** Whoever was frozen between the question and its block, or has a clock that stands
still, produces at worst in a slot that was reserved for it alone. The third point is for the cluster: an owner that is cut off
from its store, and may have been succeeded, stops building blocks that nobody wants after `duty_timeout` seconds and not at the
end of its window. The duty comes back with the next confirmation; only what `Leader` calls STOPPED is final.

**Threads.** `dispatch`, `settle` and `drive` belong to one thread and may wait for the store there. `tell`, `confirmed`,
`on_duty` and `may_produce` may be called from any, never wait for the store, and work while a write is under way: `tell` takes
the duty away at once, also in the middle of a `settle`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tower.errors import InvariantViolation, StoreError
from tower.events import DeadlinePassed, FenceLost, Look, Looked, LookFailed, Resign, Settle, StoreAnswered
from tower.leader import Declined, Leader, LeaderEffect, LeaderEvent, LeaderState, PutReservation, Reserved, Stop
from tower.store import Committed, Kind, Pending, Store, Unknown

__all__ = ["LeaderRunner"]

REPEAT_PAUSE_S, REPEAT_PAUSE_MAX_S = 0.01, 0.2  # before a write whose outcome is unknown is repeated


@dataclass(slots=True)
class _InFlight:
    put: PutReservation
    pending: Pending
    began: float  # when the newest copy was sent
    deadline: float
    pause: float = REPEAT_PAUSE_S


class LeaderRunner:
    """Runs one leader on a store object that nothing else uses; whoever opened the store closes it.

    A reservation may take `store_timeout` seconds over all repetitions; then the leader stops. `duty_timeout` is how old the
    newest confirmation may be. `on_reserved`, `on_declined` and `on_stop` tell the surroundings, in the runner's thread.
    """

    def __init__(
        self,
        leader: Leader,
        store: Store,
        *,
        store_timeout: float = 5.0,
        duty_timeout: float = 2.0,
        on_reserved: Callable[[Reserved], None] = lambda reserved: None,
        on_declined: Callable[[Declined], None] = lambda declined: None,
        on_stop: Callable[[Stop], None] = lambda stop: None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.leader = leader
        self.stopped: Stop | None = None
        self._store = store
        self._store_timeout = store_timeout
        self._duty_timeout = duty_timeout
        self._on_reserved = on_reserved
        self._on_declined = on_declined
        self._on_stop = on_stop
        self._clock = clock
        self._pause = pause
        self._in_flight: _InFlight | None = None
        self._lock = threading.Lock()  # held for a moment, never while something waits
        self._told: FenceLost | Resign | None = None
        self._confirmed_at: float | None = None

    # ---- from any thread

    def may_produce(self, slot: int) -> bool:
        """Whether a block for `slot` may be produced here now; see the module's text. Ask again for each slot."""
        return self.on_duty() and self.leader.holds(slot)

    def on_duty(self) -> bool:
        """Whether a write of this life was confirmed recently, and nothing has ended the duty."""
        with self._lock:
            told, confirmed_at = self._told, self._confirmed_at
        if told is not None or confirmed_at is None or self.leader.state is LeaderState.STOPPED:
            return False
        return self._clock() - confirmed_at <= self._duty_timeout

    def confirmed(self, began: float) -> None:
        """The store has confirmed a write of this life that began at `began` on the clock. An older one changes nothing.

        The beginning counts, not the answer: a process that was frozen meanwhile reads an old answer late.
        """
        began = min(began, self._clock())
        with self._lock:
            if self._confirmed_at is None or began > self._confirmed_at:
                self._confirmed_at = began

    def tell(self, event: FenceLost | Resign) -> None:
        """The duty is over, from now on. The leader itself hears it in its own thread, with the next `dispatch` or `settle`."""
        fence = self.leader.fence
        if isinstance(event, FenceLost) and (fence is None or event.seen <= fence.revision):
            return  # before the adoption the look will see it; after it, this is an echo of a claim before ours
        with self._lock:
            self._told = self._told or event

    # ---- from the runner's own thread

    @property
    def in_flight(self) -> bool:
        """Whether a reservation is under way whose outcome must be waited for with `settle`."""
        return self._in_flight is not None

    def dispatch(self, event: LeaderEvent) -> None:
        """Take an event in and carry out what follows, except waiting for a reservation: that is `settle`."""
        self._hear()
        self._feed(event)

    def settle(self) -> None:
        """Wait for the reservation in flight, at most until its deadline, and go on from what the store says."""
        flight = self._in_flight
        if flight is None:
            return
        outcome = flight.pending.outcome(self._left(flight))
        if isinstance(outcome, Unknown) and self._left(flight):
            # A store that says "unknown" at once (a full disk, say) is not asked again at once.
            self._pause(min(flight.pause, self._left(flight)))
            flight.pause = min(2 * flight.pause, REPEAT_PAUSE_MAX_S)
        self._hear()
        if isinstance(outcome, Committed):
            self.confirmed(flight.began)
        if isinstance(outcome, Unknown) and self._clock() >= flight.deadline:
            text = f"the store did not confirm the reservation within {self._store_timeout:g} s: {outcome.cause}"
            self._feed(DeadlinePassed(text))
        else:
            self._feed(StoreAnswered(outcome))

    def drive(self, event: LeaderEvent) -> None:
        """`dispatch`, then `settle` until nothing is in flight. Bounded: every round ends at the reservation's deadline."""
        self.dispatch(event)
        while self.in_flight:
            self.settle()

    def _hear(self) -> None:
        """Pass on what other threads told. `_told` stays until the leader has stopped, so that no moment is between."""
        told = self._told
        if told is not None and self.leader.state is not LeaderState.STOPPED:
            self._feed(told)

    def _feed(self, event: LeaderEvent) -> None:
        effects: deque[LeaderEffect] = deque(self.leader.handle(event))
        while effects:
            answer = self._carry_out(effects.popleft())
            if answer is not None:
                effects.extend(self.leader.handle(answer))
        if self.leader.state is LeaderState.STOPPED:
            self._in_flight = None

    def _carry_out(self, effect: LeaderEffect) -> LeaderEvent | None:
        match effect:
            case Look():
                return self._look()
            case PutReservation():
                began = self._clock()
                deadline = began + self._store_timeout
                self._in_flight = _InFlight(effect, self._begin(effect, self._store_timeout), began, deadline)
            case Settle():
                self._repeat()
            case Reserved():
                self._in_flight = None
                self._on_reserved(effect)
            case Declined():
                self._on_declined(effect)
            case Stop():
                self.stopped = effect
                self._on_stop(effect)
        return None

    def _look(self) -> LeaderEvent:
        fence = self.leader.fence
        if fence is None:
            raise InvariantViolation("a look without a fence")
        try:
            return Looked(self._store.look(fence.identity, self._store_timeout))
        except StoreError as problem:
            return LookFailed(str(problem))

    def _begin(self, put: PutReservation, timeout: float) -> Pending:
        return self._store.begin_store(put.fence, put.expected_revision, put.record, timeout, Kind.BLOCKS)

    def _repeat(self) -> None:
        flight = self._in_flight
        if flight is None:
            raise InvariantViolation("nothing is in flight that could be repeated")
        flight.began = self._clock()
        flight.pending = self._begin(flight.put, self._left(flight))

    def _left(self, flight: _InFlight) -> float:
        return max(0.0, flight.deadline - self._clock())
