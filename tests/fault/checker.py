"""Whether a history is linearizable: whether each operation can have happened at one moment between its beginning and its end.

The search is that of Wing and Gong with Lowe's memory of what was tried: take any operation that began before every other one
still open ended, let the model do it, go on; where an operation has ended and was not taken, go back. A step that need not be
taken (an operation that nobody heard of again) has no end and may be left out. Identities are judged apart: no operation
touches two.

The answer is one of three: it is, with an order that shows it; it is not, with the operation at which every order fails; or
the bound on steps was reached, which says nothing and is no pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.fault.history import FOREVER, Operation
from tests.fault.model import State, Step, step, steps_of

__all__ = ["Checked", "check", "check_all"]

STEPS_MAX = 5_000_000


@dataclass(frozen=True, slots=True)
class Checked:
    """`order` is a way in which it can have happened; `why` what keeps every order from it, empty where there is one."""

    linearizable: bool | None  # None: not decided within the bound
    steps: int
    order: tuple[tuple[Operation, Step], ...] = ()
    why: str = ""


@dataclass(eq=False, slots=True)
class _Entry:
    """A beginning or an end in the list of what is still to be taken."""

    operation: Operation
    step: Step
    number: int
    ends: bool
    other: _Entry | None = None  # the end of a beginning
    before: _Entry | None = field(default=None, repr=False)
    after: _Entry | None = field(default=None, repr=False)


def _entries(operations: Sequence[Operation]) -> tuple[_Entry, int]:
    """The head of the list, by time, and how many steps must be taken."""
    found: list[tuple[int, int, _Entry]] = []
    must = optional = 0
    for operation in operations:
        for what, needed in steps_of(operation):
            if needed:
                begin = _Entry(operation, what, must, False)
                begin.other = _Entry(operation, what, must, True)
                found.append((operation.end, 1, begin.other))
                must += 1
            else:
                optional += 1
                begin = _Entry(operation, what, -optional, False)
            found.append((operation.begin, 0, begin))
    found.sort(key=lambda each: each[:2])
    head = _Entry(Operation("", 0, 0, FOREVER, "", "", {}), (), 0, False)
    last = head
    for _, _, entry in found:
        last.after, entry.before = entry, last
        last = entry
    return head, must


def _lift(entry: _Entry) -> None:
    for each in (entry, entry.other):
        if each is not None and each.before is not None:
            each.before.after = each.after
            if each.after is not None:
                each.after.before = each.before


def _unlift(entry: _Entry) -> None:
    for each in (entry.other, entry):
        if each is not None and each.before is not None:
            each.before.after = each
            if each.after is not None:
                each.after.before = each


class _Taken:
    """Which steps were taken, in a form that stays small: those that must be are mostly taken from the first on."""

    def __init__(self) -> None:
        self.must = self.optional = 0

    def flip(self, number: int) -> None:
        if number >= 0:
            self.must ^= 1 << number
        else:
            self.optional ^= 1 << -number

    def key(self, state: State) -> tuple[int, int, int, State]:
        whole = (~self.must & (self.must + 1)).bit_length() - 1
        return whole, self.must >> whole, self.optional, state


def check(operations: Sequence[Operation], start: State, steps_max: int = STEPS_MAX) -> Checked:
    """Judge the operations of one identity, on a store that began as `start`."""
    head, left = _entries(operations)
    state, taken = start, _Taken()
    tried: set[tuple[int, int, int, State]] = set()
    stack: list[tuple[_Entry, State]] = []
    deepest, why = -1, ""
    entry, steps = head.after, 0
    while left:
        steps += 1
        if steps > steps_max:
            return Checked(None, steps, why=f"not decided within {steps_max} steps; {why}")
        if entry is not None and not entry.ends:
            after = step(state, entry.step)
            if after is not None:
                taken.flip(entry.number)
                key = taken.key(after)
                if key not in tried:
                    tried.add(key)
                    stack.append((entry, state))
                    state = after
                    left -= entry.number >= 0
                    _lift(entry)
                    entry = head.after
                    continue
                taken.flip(entry.number)
            entry = entry.after
            continue
        if entry is not None and len(stack) > deepest:
            deepest, why = len(stack), f"{entry.operation} cannot have been so; the store was {state}"
        if not stack:
            return Checked(False, steps, why=why)
        entry, state = stack.pop()
        taken.flip(entry.number)
        left += entry.number >= 0
        _unlift(entry)
        entry = entry.after
    return Checked(True, steps, tuple((entry.operation, entry.step) for entry, _ in stack))


def check_all(operations: Sequence[Operation], start: State, steps_max: int = STEPS_MAX) -> dict[str, Checked]:
    """`check` of each identity by itself."""
    by_identity: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_identity[operation.identity].append(operation)
    return {identity: check(each, start, steps_max) for identity, each in by_identity.items()}
