"""A planned failover as a list of numbered steps, and what follows when one of them fails. Pure: no I/O, no time.

`Run` is the state of one failover; `succeeded`, `failed` and `settled` fold what happened into it, and `next_action` says what
to do. `tower.validator.failover_run` carries it out, from either node: the *taker* claims the identity itself, the *giver* offers
it to a spare that has announced itself, and learns of the claim by losing the fence.

There is one point of no return, the claim, and it is the store's to say whether it has happened:

====================  =========================================================================================================
a step fails          what follows
====================  =========================================================================================================
before it             nothing was begun, nothing is to be undone: refused
in the writing step   what was begun is undone, then the store is asked. Not claimed, or claimed by somebody else: undone.
                      Claimed all the same: as below
after it              the failover is finished as far as it goes and what is missing is said. Nothing is given back: the old owner
                      has stopped, so a way back is another failover
====================  =========================================================================================================

>>> run = begin([Step("check", "look", 5), Step("take", "claim", 5, writes=True), Step("vote", "first vote", 5)])
>>> run = succeeded(run, "fine", 1.0)
>>> next_action(failed(run, "no answer", 5000.0))
'undo'
>>> settled(failed(run, "no answer", 5000.0), Claim.NONE, "nothing was claimed").ending
<Ending.UNDONE: 'undone'>
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tower.errors import InvariantViolation

__all__ = [
    "UNDO",
    "Claim",
    "Ending",
    "Result",
    "Run",
    "State",
    "Step",
    "begin",
    "drilled",
    "failed",
    "missed_slots",
    "next_action",
    "settled",
    "succeeded",
]

UNDO = "undo"


class State(enum.Enum):
    WAITING = "waiting"
    DONE = "done"
    DOUBTFUL = "doubtful"  # read, and what was read speaks against the failover
    WOULD = "would be done"  # in a drill
    SKIPPED = "skipped"
    FAILED = "failed"
    UNDOING = "undoing"
    UNDONE = "undone"


class Claim(enum.Enum):
    """What the store says after the writing step was undone."""

    NONE = enum.auto()  # the owner is who it was
    OURS = enum.auto()  # whom this failover meant to claim, claimed
    OTHER = enum.auto()  # somebody else did
    UNKNOWN = enum.auto()  # the store does not answer


class Ending(enum.Enum):
    DONE = "done"
    DRILL = "drill"  # it could be done now
    REFUSED = "refused"  # nothing was begun
    UNDONE = "undone"  # what was begun was taken back
    INCOMPLETE = "incomplete"  # the identity has changed hands, and something after it failed
    UNKNOWN = "unknown"  # the store does not say who the owner is


@dataclass(frozen=True, slots=True)
class Step:
    """One numbered step. `writes`: with it the store is changed, and not before. Times in seconds and milliseconds."""

    key: str
    title: str
    deadline_s: float
    writes: bool = False
    state: State = State.WAITING
    ms: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """`at` is the index of the step whose turn it is. `reason` is the first thing that went wrong."""

    steps: tuple[Step, ...]
    at: int = 0
    claimed: bool = False
    ending: Ending | None = None
    reason: str = ""
    store_failed: bool = False

    @property
    def step(self) -> Step:
        return self.steps[self.at]


@dataclass(frozen=True, slots=True)
class Result:
    """What a failover cost. Milliseconds count from the step that claims; slots are those voted for."""

    claimed_ms: float | None = None
    stored_ms: float | None = None  # the new owner's first tower in the store
    landed_ms: float | None = None  # and its first vote on the chain
    last_slot_before: int | None = None
    first_slot_after: int | None = None
    votes_missed: int | None = None

    @property
    def slots_between(self) -> int | None:
        """From the old owner's last vote to the new one's first."""
        if self.last_slot_before is None or self.first_slot_after is None:
            return None
        return self.first_slot_after - self.last_slot_before

    def document(self) -> dict[str, Any]:
        return {
            "claimedMilliseconds": self.claimed_ms,
            "firstStoredMilliseconds": self.stored_ms,
            "firstLandedMilliseconds": self.landed_ms,
            "lastSlotBefore": self.last_slot_before,
            "firstSlotAfter": self.first_slot_after,
            "slotsBetween": self.slots_between,
            "votesMissed": self.votes_missed,
        }


def missed_slots(chain: Sequence[int], landed: Sequence[int], last_before: int) -> tuple[int | None, int | None]:
    """The new owner's first landed slot, and how many slots of the chain before it got no vote after `last_before`.

    `chain` are the slots that have a block on the fork which `landed`, the votes in the account, is from. A slot without a
    block cannot be voted for and is not missed.

    >>> missed_slots([10, 11, 13, 14, 15], [9, 10, 14, 15], last_before=10)
    (14, 2)
    >>> missed_slots([10, 11], [9, 10], last_before=10)
    (None, None)
    """
    first = min((slot for slot in landed if slot > last_before), default=None)
    if first is None:
        return None, None
    return first, sum(1 for slot in chain if last_before < slot < first)


def begin(steps: Sequence[Step]) -> Run:
    return Run(tuple(steps))


def next_action(run: Run) -> str | None:
    """The key of the step to carry out now, `UNDO`, or `None` at the end."""
    if run.ending is not None:
        return None
    return UNDO if run.step.state is State.UNDOING else run.step.key


def succeeded(run: Run, note: str, ms: float | None = None, *, claimed: bool = False, doubtful: bool = False) -> Run:
    """The step whose turn it was is done."""
    _need(run, State.WAITING)
    state = State.DOUBTFUL if doubtful else State.DONE
    return _on(replace(_put(run, state, note, ms), claimed=run.claimed or claimed))


def failed(run: Run, reason: str, ms: float | None = None, *, store: bool = False, begun: bool = True) -> Run:
    """It failed, or its deadline passed. `store` if that is because the store did not answer.

    `begun` is whether a step that writes has come so far as to write, or may have.
    """
    _need(run, State.WAITING)
    writes = run.step.writes and begun
    run = _put(replace(run, reason=run.reason or reason, store_failed=run.store_failed or store), State.FAILED, reason, ms)
    if run.claimed:
        return _on(run)
    if writes:
        return _put(run, State.UNDOING, reason, ms)
    return _end(run, Ending.REFUSED)


def settled(run: Run, claim: Claim, note: str) -> Run:
    """The writing step is undone, and the store was asked."""
    _need(run, State.UNDOING)
    said = f"{run.step.note}; {note}"
    match claim:
        case Claim.UNKNOWN:
            return _end(_put(replace(run, store_failed=True), State.FAILED, said, run.step.ms), Ending.UNKNOWN)
        case Claim.NONE | Claim.OTHER:
            return _end(_put(run, State.UNDONE, said, run.step.ms), Ending.UNDONE)
        case Claim.OURS:  # in the same moment: what cannot be undone is finished, and is no failure any more
            return _on(replace(_put(run, State.DONE, said, run.step.ms), claimed=True, reason="", store_failed=False))


def drilled(run: Run) -> Run:
    """A drill has come to the first step that would not be read-only: whatever is left would be done."""
    left = tuple(replace(step, state=State.WOULD) for step in run.steps[run.at :])
    return replace(run, steps=(*run.steps[: run.at], *left), ending=Ending.DRILL)


def _need(run: Run, state: State) -> None:
    if run.ending is not None or run.step.state is not state:
        raise InvariantViolation(f"a failover that has ended, or is not {state.value}, cannot go on")


def _put(run: Run, state: State, note: str, ms: float | None) -> Run:
    step = replace(run.step, state=state, note=note, ms=ms)
    return replace(run, steps=(*run.steps[: run.at], step, *run.steps[run.at + 1 :]))


def _on(run: Run) -> Run:
    if run.at + 1 < len(run.steps):
        return replace(run, at=run.at + 1)
    return replace(run, ending=Ending.INCOMPLETE if run.reason else Ending.DONE)


def _end(run: Run, ending: Ending) -> Run:
    left = tuple(replace(step, state=State.SKIPPED) for step in run.steps[run.at + 1 :])
    return replace(run, steps=(*run.steps[: run.at + 1], *left), ending=ending)
