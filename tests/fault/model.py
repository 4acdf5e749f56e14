"""The store as one object with atomic operations: what an operation may answer in a state, and the state after it. Pure.

The state is the instance of one identity, its two records, and the newest revision that any of them ever had. An operation
whose answer nobody heard has an effect of unknown revision; the first answer that shows the effect tells it.

>>> fresh = State()
>>> claimed = step(fresh, ("claim", 0, None, (5, "aa", 0, "")))
>>> stored = step(claimed, ("store", 5, "aa", "tower", 0, "d1", 6))
>>> stored.tower
(6, 'd1')
>>> step(stored, ("store", 5, "aa", "tower", 0, "d2", 7)) is None  # the second comparison: the record has moved
True
>>> step(stored, ("look", (5, "aa", None, 6, "d1", 0, ""))) == stored
True
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tests.fault.history import Operation, digest

__all__ = ["FRESH", "State", "Step", "order_of", "step", "steps_of"]

Record = tuple[int | None, str]  # revision, `None` while nobody has told it; digest
Step = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class State:
    """Revisions are 0 where there is nothing. `owner` is whose claim the instance is of."""

    instance_revision: int | None = 0
    instance: str | None = ""  # `None`: of a claim that nobody heard of again
    owner: str | None = None
    tower: Record = (0, "")
    blocks: Record = (0, "")
    newest: int = 0
    ordered: bool = True  # records count with the instance's numbers, as in etcd; in a folder they are digests


FRESH = State()


def _newer(state: State, revision: int) -> bool:
    return revision > state.newest


def _bind(state: State, held: Record, seen: tuple[int, str]) -> tuple[State, Record] | None:
    """`held` as somebody saw it; `None` if it cannot have looked so."""
    if held[1] != seen[1]:
        return None
    if held[0] is None:
        if seen[0] <= 0:
            return None
        return (replace(state, newest=max(state.newest, seen[0])) if state.ordered else state), (seen[0], held[1])
    return (state, held) if held[0] == seen[0] else None


def _saw_instance(state: State, revision: int, instance: str | None, owner: str | None) -> State | None:
    """`instance` is `None` for an answer that tells the revision alone."""
    if state.instance_revision is None:
        if not _newer(state, revision):
            return None
        state = replace(state, instance_revision=revision, newest=revision)
    elif state.instance_revision != revision:
        return None
    if instance is None or state.instance == instance:
        return state
    if state.instance is not None or owner != state.owner:
        return None
    return replace(state, instance=instance)


def _saw(state: State, kind: str, seen: tuple[int, str]) -> State | None:
    bound = _bind(state, getattr(state, kind), seen)
    return None if bound is None else replace(bound[0], **{kind: bound[1]})


def _look(state: State, seen: tuple[Any, ...]) -> State | None:
    revision, instance, owner, tower_revision, tower, blocks_revision, blocks = seen
    after = _saw_instance(state, revision, instance, owner)
    after = None if after is None else _saw(after, "tower", (tower_revision, tower))
    return None if after is None else _saw(after, "blocks", (blocks_revision, blocks))


def _claim(state: State, expected: int | None, owner: str | None, told: tuple[Any, ...] | None) -> State | None:
    """`expected` is `None` for a validator of the older kind, which compares nothing. So may be all that `told` holds."""
    if expected is not None and state.instance_revision != expected:
        return None
    revision, instance, record_revision, record = told or (None, None, None, "")
    after = state if record_revision is None else _saw(state, "tower", (record_revision, record))
    if after is None or (revision is not None and not _newer(after, revision)):
        return None
    return replace(after, instance_revision=revision, instance=instance, owner=owner, newest=revision or after.newest)


def _store(
    state: State, fence: int | None, instance: str, kind: str, expected: int | None, record: str, told: int | None
) -> State | None:
    """`fence` and `expected` are `None` for a validator of the older kind: it compares the value of the instance alone."""
    if state.instance != instance or (fence is not None and state.instance_revision != fence):
        return None
    held: Record = getattr(state, kind)
    if told is not None and held[1] == record:  # an earlier copy of this very write was first
        seen = _saw(state, kind, (told, record))
        if seen is not None:
            return seen
    if expected is not None and held[0] != expected:
        return None
    if told is not None and state.ordered:
        if not _newer(state, told):
            return None
        return replace(state, **{kind: (told, record)}, newest=told)
    return replace(state, **{kind: (told, record)})


def _refused(state: State, fence: int, instance: str, kind: str, expected: int, reason: str, seen: int) -> State | None:
    """What a refusal says must be so at some moment of the operation."""
    if reason == "FENCED":
        after = _saw_instance(state, seen, None, None)
        return after if after is not None and (seen, after.instance) != (fence, instance) else None
    held: Record = getattr(state, kind)
    if (state.instance_revision, state.instance) != (fence, instance) or seen == expected:
        return None
    return _saw(state, kind, (seen, held[1]))


def _claim_refused(state: State, expected: int, seen: int) -> State | None:
    return None if seen == expected else _saw_instance(state, seen, None, None)


def _legacy_refused(state: State, instance: str) -> State | None:
    return state if state.instance != instance else None


STEPS = {
    "look": _look,
    "claim": _claim,
    "claim-refused": _claim_refused,
    "store": _store,
    "refused": _refused,
    "legacy-refused": _legacy_refused,
}


def step(state: State, what: Step) -> State | None:
    """The state after one atomic step; `None` where the step cannot be taken, or cannot have answered so."""
    return STEPS[what[0]](state, *what[1:])  # type: ignore[operator]


def _told(operation: Operation, *names: str) -> tuple[Any, ...] | None:
    return tuple(operation.answer[name] for name in names) if operation.known else None


def steps_of(operation: Operation) -> list[tuple[Step, bool]]:
    """The steps that an operation may be, each with whether it must be taken between its beginning and its end.

    A refused write or claim has two: the refusal, and an earlier copy of it without an answer that may have taken effect
    before. What nobody heard of again may be taken at any later moment, or never.
    """
    asked, answer = operation.asked, operation.answer
    match operation.name:
        case "look":
            if not operation.known:
                return []
            names = ("instance_revision", "instance", "owner", "tower_revision", "tower", "blocks_revision", "blocks")
            return [(("look", _told(operation, *names)), True)]
        case "claim":
            if operation.outcome == "refused":
                maybe = ("claim", asked["seen"], asked["owner"], None)
                return [(("claim-refused", asked["seen"], answer["seen"]), True), (maybe, False)]
            told = _told(operation, "fence", "instance", "record_revision", "record")
            return [(("claim", asked["seen"], asked["owner"], told), operation.known)]
        case "store":
            write = (asked["fence"], asked["instance"], asked["kind"], asked["expected"])
            record = digest(operation.record)
            if operation.outcome == "refused":
                refusal = ("refused", *write, answer["reason"], answer["seen"])
                return [(refusal, True), (("store", *write, record, None), False)]
            told = _told(operation, "revision")
            return [(("store", *write, record, told[0] if told else None), operation.known)]
        case "legacy-claim":
            told = (operation.answer.get("fence"), asked["instance"], None, "")
            return [(("claim", None, None, told), operation.known)]
        case "legacy-store":
            record = digest(operation.record)
            if operation.outcome == "refused":
                return [(("legacy-refused", asked["instance"]), True)]
            told = _told(operation, "revision")
            return [(("store", None, asked["instance"], "tower", None, record, told[0] if told else None), operation.known)]
    raise ValueError(f"no operation of the store: {operation.name}")


def order_of(store: str) -> State:
    """The empty store of a kind: `etcd` or `file`."""
    return replace(FRESH, ordered=store == "etcd")
