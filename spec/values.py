"""The values of the executable model: constants, states, and what is said of them without a step. See `spec.model`."""

# ruff: noqa: N802, N815 - the names are those of FencedTower.tla, by which the two are held to each other

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

__all__ = [
    "Absent",
    "Awaited",
    "Blocks",
    "Brought",
    "ClaimRequest",
    "Constants",
    "FenceHolds",
    "Init",
    "Instance",
    "IsPrefix",
    "Last",
    "Message",
    "Node",
    "Nodes",
    "Nothing",
    "Once",
    "OneChain",
    "Outcome",
    "Produced",
    "Reply",
    "ReserveRequest",
    "Revision",
    "State",
    "States",
    "Step",
    "Store",
    "StoreRequest",
    "StoredTower",
    "TooLate",
    "Tower",
    "TowerRevision",
    "Voting",
    "WellFormed",
    "changed",
    "written",
]

Tower = tuple[int, ...]  # the votes that it was made of, oldest first
Revision = int | Tower  # of a tower: a number, or with DigestRevision the content itself


@dataclass(frozen=True, slots=True)
class Constants:
    """CONSTANTS. The guards are as the protocol has them; a model that must fail takes one away."""

    Lives: Set[int] = frozenset()
    Instances: Set[int] = frozenset()
    Legacy: Set[int] = frozenset()
    Slots: Set[int] = frozenset()
    BlockSlots: Set[int] = frozenset()
    InstanceCheck: str = "revision"
    RandomInstance: bool = True
    CompareTower: bool = True
    AtomicClaim: bool = True
    CommitBeforeRelease: bool = True
    HoldUnknown: bool = True
    SettleBeforeDeciding: bool = True
    FencedBlocks: bool = True
    CompareBlocks: bool = True
    KeepTower: bool = True
    DigestRevision: bool = False


# ------------------------------------------------------------------------------------------------------------ states


class Message(NamedTuple):
    """A request. What a type does not have is left at nothing."""

    type: str  # "claim", "store" or "reserve"
    node: int
    claim: int
    value: int
    seen: int = 0
    fence: int = 0
    expected: Revision = 0
    votes: Tower = ()
    slot: int = 0


class Outcome(NamedTuple):
    """What the store says. What an outcome does not have is left at nothing."""

    outcome: str  # "claimed", "committed" or "refused"
    fence: int = 0
    tower: Tower = ()
    revision: Revision = 0
    mark: int = 0
    markRevision: int = 0


class Reply(NamedTuple):
    """An answer, and the request that it answers."""

    to: Message
    what: Outcome


class Instance(NamedTuple):
    """The instance key."""

    revision: int = 0
    value: int = 0
    claim: int = 0


class StoredTower(NamedTuple):
    """The tower key."""

    revision: int = 0
    votes: Tower = ()


class Blocks(NamedTuple):
    """The key of the reservations."""

    revision: int = 0
    mark: int = 0


class Store(NamedTuple):
    """The keys of the identity, and the store's own revision."""

    revision: int = 0
    instance: Instance = Instance()
    tower: StoredTower = StoredTower()
    blocks: Blocks = Blocks()


class Node(NamedTuple):
    """What one machine knows and waits for."""

    state: str
    claim: int
    seen: int
    fence: int
    value: int
    tower: Tower
    revision: Revision
    pending: Tower
    mark: int
    markRevision: int
    reserving: int


class Produced(NamedTuple):
    """A block."""

    slot: int
    by: int


class State(NamedTuple):
    """VARIABLES. `node` is indexed by machine."""

    store: Store
    node: tuple[Node, ...]
    sent: frozenset[Message]
    answers: frozenset[Reply]
    claims: int
    clock: int
    released: frozenset[Tower]
    produced: frozenset[Produced]
    durable: frozenset[Tower]
    late: frozenset[str]


Step = State | None

States = frozenset({"standby", "looking", "claiming", "loading", "ready", "persisting", "unresolved"})
Voting = frozenset({"ready", "persisting", "unresolved"})


def Nodes(c: Constants) -> Set[int]:
    return c.Instances | c.Legacy


def Last(tower: Tower) -> int:
    return tower[-1] if tower else 0


def IsPrefix(a: Tower, b: Tower) -> bool:
    return b[: len(a)] == a


def OneChain(a: Tower, b: Tower) -> bool:
    return IsPrefix(a, b) or IsPrefix(b, a)


def WellFormed(tower: Tower) -> bool:
    return all(older < newer for older, newer in pairwise(tower))


def Absent(c: Constants) -> Revision:
    return () if c.DigestRevision else 0


def Nothing(c: Constants) -> Node:
    return Node("standby", 0, 0, 0, 0, (), Absent(c), (), 0, 0, 0)


def Init(c: Constants) -> State:
    none: frozenset[Any] = frozenset()
    node = tuple(Nothing(c) for _ in Nodes(c))
    return State(Store(), node, none, none, 0, 0, none, none, frozenset({()}), none)


def changed(s: State, n: int, **fields: Any) -> State:
    """`s` with other fields of one machine: the TLA+'s `[node EXCEPT ![n].field = ...]`."""
    return s._replace(node=(*s.node[:n], s.node[n]._replace(**fields), *s.node[n + 1 :]))


def written(s: State, **keys: Any) -> State:
    """`s` with other keys in the store, at its next revision."""
    return s._replace(store=s.store._replace(revision=s.store.revision + 1, **keys))


# ---------------------------------------------------------------------------------------------------------- requests


def ClaimRequest(s: State, n: int) -> Message:
    me = s.node[n]
    return Message("claim", n, me.claim, me.value, seen=me.seen)


def StoreRequest(s: State, n: int) -> Message:
    me = s.node[n]
    return Message("store", n, me.claim, me.value, fence=me.fence, expected=me.revision, votes=me.pending)


def ReserveRequest(s: State, n: int) -> Message:
    me = s.node[n]
    return Message("reserve", n, me.claim, me.value, fence=me.fence, expected=me.markRevision, slot=me.reserving)


def Awaited(s: State, m: Message) -> bool:
    """Somebody still waits for the answer to this request."""
    me = s.node[m.node]
    if me.claim != m.claim:
        return False
    if m.type == "claim":
        return me.state == "claiming"
    if m.type == "store":
        return me.state in {"persisting", "unresolved"} and StoreRequest(s, m.node) == m
    return me.reserving != 0 and ReserveRequest(s, m.node) == m


def Once(c: Constants, m: Message) -> bool:
    """Requests of an older validator, and a claim that is not one transaction, are sent once."""
    return m.node in c.Legacy or (m.type == "claim" and not c.AtomicClaim)


def TowerRevision(c: Constants, s: State) -> Revision:
    return s.store.tower.votes if c.DigestRevision else s.store.tower.revision


def FenceHolds(c: Constants, s: State, m: Message) -> bool:
    """The instance key is still ours, by what the writer of this request compares."""
    check = "value" if m.node in c.Legacy else c.InstanceCheck
    instance = s.store.instance
    return {"revision": instance.revision == m.fence, "value": instance.value == m.value, "none": True}[check]


def TooLate(s: State, m: Message) -> Set[str]:
    """The writer is not the one who claimed last."""
    return frozenset() if s.store.instance.claim == m.claim else {m.type}


def Brought(c: Constants, s: State, instance: Instance) -> Outcome:
    """What the answer to a claim brings along."""
    blocks = s.store.blocks
    return Outcome("claimed", instance.revision, s.store.tower.votes, TowerRevision(c, s), blocks.mark, blocks.revision)
