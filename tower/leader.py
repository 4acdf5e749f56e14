"""The leader: block slots are reserved under the voter's fence before they are led (S7). A state machine without I/O.

One `Leader` is one life under one fence, beside the voter of that life: the voter's `Adopted` begins it, and it never leaves
STOPPED. It has no clock, no store and no key; `tower.leader_runner` carries its effects out on a store object of its own, so a
vote never waits for a reservation.

**The mark** is the newest slot that was ever reserved for the identity, kept in the record of kind BLOCKS. Only slots above
it are asked for, and a reservation is a write like any other: it commits only if the fence is still ours *and* the record is
still the one that we saw. So the mark only rises, and of two instances that want a slot at most one is answered "committed".
The mark is read *after* the adoption, by a look that must show our own fence: from then on nobody but us can move it.

======================  ==============================================================================================
state                   what is true in it
======================  ==============================================================================================
STANDBY                 nothing is adopted yet
LOADING                 the fence is held by the voter, and the mark is being read
READY                   the mark is known, nothing is in flight
PERSISTING              one reservation is on the way to the store; nothing else is asked for meanwhile
UNRESOLVED              the store did not say whether it took the reservation: the same write is repeated, nothing else
STOPPED                 the end: no slot is held any more
======================  ==============================================================================================

`TABLE` lists every pair of state and event that may happen; any other pair stops the leader. A `Reserved` is only ever returned
from `_committed`.

What a life reserved and did not lead is lost: its successor begins above it. So reserve a leader window at a time. One
`Leader` at a time in a life; the record names the life, so what another one reserved is never taken for ours.

>>> from tower.store import Committed, Sighting
>>> fence = Fence("me", 7, b"instance")
>>> leader = Leader()
>>> leader.handle(Adopted(fence, None, None))
[Look()]
>>> leader.handle(Looked(Sighting("me", 7, b"instance", 0, None)))
[]
>>> (put,) = leader.handle(Reserve(8, 11))
>>> (reserved,) = leader.handle(StoreAnswered(Committed(fence, 9, put.record)))
>>> (reserved.first, reserved.last, leader.holds(8), leader.holds(12))
(8, 11, True, False)
>>> leader.handle(Reserve(4, 7))
[Declined(first=4, last=7, reason='slots up to 11 were reserved before')]
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tower._bytes import U64_MAX, Reader, Writer
from tower.errors import InvalidInput, InvariantViolation, TowerError, WireError
from tower.events import (
    Adopted,
    DeadlinePassed,
    FenceLost,
    Look,
    Looked,
    LookFailed,
    Resign,
    Settle,
    StoreAnswered,
)
from tower.store import ABSENT, INSTANCE_BYTES, Committed, Fence, Refusal, Refused, Unknown

__all__ = [
    "RESERVATIONS_HELD_MAX",
    "RESERVATION_SLOTS_MAX",
    "TABLE",
    "Declined",
    "Leader",
    "LeaderEffect",
    "LeaderEvent",
    "LeaderState",
    "PutReservation",
    "Reservation",
    "Reserve",
    "Reserved",
    "Stop",
    "StopReason",
    "decode_reservation",
    "encode_reservation",
]

LAYOUT = 1  # of the record; a later one is refused, never misread
RESERVATION_SLOTS_MAX = 1024  # of one reservation: some minutes. A mark that is far ahead by mistake would end leading
RESERVATIONS_HELD_MAX = 16  # windows that are remembered; older ones are long past


class LeaderState(enum.Enum):
    """See the table in the module's text."""

    STANDBY = enum.auto()
    LOADING = enum.auto()
    READY = enum.auto()
    PERSISTING = enum.auto()
    UNRESOLVED = enum.auto()
    STOPPED = enum.auto()


# -------------------------------------------------------------------------------------------------------- the record


@dataclass(frozen=True, slots=True)
class Reservation:
    """The slots `first` to `last`, both included, and the instance (8 bytes) of the claim under which they were reserved."""

    first: int
    last: int
    instance: bytes


def encode_reservation(reservation: Reservation) -> bytes:
    """The record of kind BLOCKS; its layout stands in docs/formats.md."""
    writer = Writer().u32(LAYOUT).u64(reservation.first).u64(reservation.last)
    return writer.raw(reservation.instance).bytes()


def decode_reservation(data: bytes) -> Reservation:
    """The reservation in a record. Raises `WireError` with the offset for anything that `encode_reservation` never writes.

    >>> decode_reservation(encode_reservation(Reservation(8, 11, bytes(8))))
    Reservation(first=8, last=11, instance=b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00')
    """
    reader = Reader(bytes(data))
    layout = reader.u32()
    if layout != LAYOUT:
        raise WireError(0, f"reservation layout {layout} is unknown, expected {LAYOUT}")
    reservation = Reservation(reader.u64(), reader.u64(), reader.take(INSTANCE_BYTES))
    if reservation.first > reservation.last:
        raise WireError(4, f"a reservation from slot {reservation.first} to {reservation.last}")
    reader.end("the reservation")
    return reservation


# ------------------------------------------------------------------------------------------------- events and effects


@dataclass(frozen=True, slots=True)
class Reserve:
    """The slots `first` to `last`, both included, shall be led here. `InvalidInput` if they are no window."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last <= U64_MAX:
            raise InvalidInput(f"slots {self.first} to {self.last} are no window: first to last, within u64")
        if self.last - self.first >= RESERVATION_SLOTS_MAX:
            raise InvalidInput(f"slots {self.first} to {self.last}: at most {RESERVATION_SLOTS_MAX} are reserved at once")


@dataclass(frozen=True, slots=True)
class PutReservation:
    """Write the record of kind BLOCKS, fenced."""

    fence: Fence
    expected_revision: int
    record: bytes


@dataclass(frozen=True, slots=True)
class Reserved:
    """The slots `first` to `last` are this life's for ever: `committed` is the proof. They may be fewer than were asked for."""

    committed: Committed
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Declined:
    """The window was not asked of the store, and why."""

    first: int
    last: int
    reason: str


class StopReason(enum.Enum):
    """Why the leader duty of a life ended."""

    RESIGNED = "resigned"
    LOST_FENCE = "lost the fence"
    CONFLICT = "the stored reservation is not the one that was seen last"
    STORE_FAILED = "the store failed"
    RECORD_UNUSABLE = "the stored reservation is unusable"
    INTERNAL = "an invariant does not hold"


@dataclass(frozen=True, slots=True)
class Stop:
    reason: StopReason
    text: str


LeaderEvent = Adopted | Looked | LookFailed | Reserve | StoreAnswered | FenceLost | DeadlinePassed | Resign
LeaderEffect = Look | PutReservation | Settle | Reserved | Declined | Stop


# ------------------------------------------------------------------------------------------------------- the machine


class Leader:
    """The leader duty of one life. `reserved` is replaced whole, never changed, so another thread may read it."""

    def __init__(self) -> None:
        self.state = LeaderState.STANDBY
        self.fence: Fence | None = None
        self.reserved: tuple[Reservation, ...] = ()
        self._above = 0  # the first slot that may still be reserved: one above the mark
        self._revision = ABSENT  # of the stored reservation
        self._pending: Reservation | None = None

    def holds(self, slot: int) -> bool:
        """Whether `slot` is in a reservation that the store has confirmed to this life, and the life goes on."""
        return any(reservation.first <= slot <= reservation.last for reservation in self.reserved)

    def handle(self, event: LeaderEvent) -> list[LeaderEffect]:
        """Take one event in; the effects to carry out, in order.

        Never raises for what an event says: a pair of state and event that is not in `TABLE`, and any error inside, ends in
        STOPPED with a `Stop`.
        """
        handler = TABLE.get((self.state, type(event)))
        if handler is None:
            return self._stop(StopReason.INTERNAL, f"{type(event).__name__} cannot happen in {self.state.name}")
        try:
            return handler(self, event)
        except TowerError as problem:
            return self._stop(StopReason.INTERNAL, str(problem))

    def _stop(self, reason: StopReason, text: str) -> list[LeaderEffect]:
        self.state = LeaderState.STOPPED
        self.reserved, self._pending = (), None
        return [Stop(reason, text)]

    def _ignore(self, event: Any) -> list[LeaderEffect]:
        return []

    def _resign(self, event: Resign) -> list[LeaderEffect]:
        return self._stop(StopReason.RESIGNED, event.reason)

    def _fence_lost(self, event: FenceLost) -> list[LeaderEffect]:
        if self.fence is not None and event.seen <= self.fence.revision:
            return []  # an echo of a claim before ours
        return self._stop(StopReason.LOST_FENCE, f"another instance has claimed this identity (revision {event.seen})")

    # ---- the mark, read under our own fence

    def _adopted(self, event: Adopted) -> list[LeaderEffect]:
        self.fence = event.fence
        # A store that knows less of our votes than the chain knows less of our blocks too: the same wait covers both.
        self._above = event.votes_from_slot or 0
        self.state = LeaderState.LOADING
        return [Look()]

    def _looked(self, event: Looked) -> list[LeaderEffect]:
        seen, fence = event.sighting, self.fence
        if fence is None:
            raise InvariantViolation("a look without a fence")
        if Fence(seen.identity, seen.instance_revision, seen.instance or b"") != fence:
            text = f"the store shows another claim than ours (mine {fence.revision}, seen {seen.instance_revision})"
            return self._stop(StopReason.LOST_FENCE, text)
        if seen.blocks is not None:
            try:
                mark = decode_reservation(seen.blocks).last
            except WireError as problem:
                return self._stop(StopReason.RECORD_UNUSABLE, f"the stored reservation of {seen.identity}: {problem}")
            self._above = max(self._above, mark + 1)
        self._revision = seen.blocks_revision
        self.state = LeaderState.READY
        return []

    def _look_failed(self, event: LookFailed) -> list[LeaderEffect]:
        return self._stop(StopReason.STORE_FAILED, event.cause)

    # ---- one reservation

    def _reserve(self, event: Reserve) -> list[LeaderEffect]:
        """Ask for what is above the mark; the rest of the window is somebody's already, or ours."""
        if self.fence is None:
            raise InvariantViolation("a reservation without a fence")
        if any(held.first <= event.first and event.last <= held.last for held in self.reserved):
            return []
        first = max(event.first, self._above)
        if first > event.last:
            return [Declined(event.first, event.last, f"slots up to {self._above - 1} were reserved before")]
        self._pending = Reservation(first, event.last, self.fence.instance)
        self.state = LeaderState.PERSISTING
        return [PutReservation(self.fence, self._revision, encode_reservation(self._pending))]

    def _busy(self, event: Reserve) -> list[LeaderEffect]:
        return [Declined(event.first, event.last, f"the leader is {self.state.name}: ask again once it is READY")]

    def _store_answered(self, event: StoreAnswered) -> list[LeaderEffect]:
        match event.outcome:
            case Committed() as committed:
                return self._committed(committed)
            case Refused() as refused:
                lost = refused.reason is Refusal.FENCED
                text = f"the store refused the reservation: {refused.reason.value} (mine {refused.mine}, seen {refused.seen})"
                return self._stop(StopReason.LOST_FENCE if lost else StopReason.CONFLICT, text)
            case Unknown():
                self.state = LeaderState.UNRESOLVED
                return [Settle()]
            case _:
                raise InvariantViolation(f"a write cannot end as {type(event.outcome).__name__}")

    def _committed(self, committed: Committed) -> list[LeaderEffect]:
        """The reservation is durable: its slots are ours, and the mark has moved past them (S7)."""
        pending, self._pending = self._pending, None
        if pending is None or committed.fence != self.fence or committed.record != encode_reservation(pending):
            raise InvariantViolation("a commit without a reservation of ours in flight")
        self._above, self._revision = pending.last + 1, committed.record_revision
        self.reserved = (*self.reserved, pending)[-RESERVATIONS_HELD_MAX:]
        self.state = LeaderState.READY
        return [Reserved(committed, pending.first, pending.last)]

    def _deadline_passed(self, event: DeadlinePassed) -> list[LeaderEffect]:
        return self._stop(StopReason.STORE_FAILED, event.cause)


Handler = Callable[[Leader, Any], list[LeaderEffect]]

S = LeaderState
TABLE: dict[tuple[LeaderState, type], Handler] = {
    (S.STANDBY, Adopted): Leader._adopted,
    (S.LOADING, Looked): Leader._looked,
    (S.LOADING, LookFailed): Leader._look_failed,
    (S.READY, Reserve): Leader._reserve,
    (S.PERSISTING, StoreAnswered): Leader._store_answered,
    (S.PERSISTING, DeadlinePassed): Leader._deadline_passed,
    (S.UNRESOLVED, StoreAnswered): Leader._store_answered,
    (S.UNRESOLVED, DeadlinePassed): Leader._deadline_passed,
    **{(state, Reserve): Leader._busy for state in (S.LOADING, S.PERSISTING, S.UNRESOLVED)},
    **{(state, FenceLost): Leader._fence_lost for state in (S.LOADING, S.READY, S.PERSISTING, S.UNRESOLVED)},
    **{(state, Resign): Leader._resign for state in S if state is not S.STOPPED},
    # What was under way still answers, and whoever adopts, or asks for a window, may not know yet.
    **{
        (S.STOPPED, event): Leader._ignore
        for event in (Adopted, Looked, LookFailed, Reserve, StoreAnswered, FenceLost, DeadlinePassed, Resign)
    },
}
del S
