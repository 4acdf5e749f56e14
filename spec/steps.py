"""The protocol as one step after another, for the solver: a state, and what each action does to it.

Actions and guards have the names of FencedTower.tla. It is the same protocol without the machine on which a life runs: nothing
outlives a life but what it sent. What a request says never changes, so it is a function of the request; a state holds what
changes. A life is of this product or `legacy`, of the older kind; that the bytes of an older one are still in the instance key
is written as `owner == life`, for no two lives have equal bytes. It proves nothing: that is `spec.induction`.

Towers are any set with the order "is a prefix of": whoever has two prefixes of one tower can compare them. Only `Persist`
knows that a new tower extends the one that it was decided on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import z3  # type: ignore[import-untyped]

__all__ = [
    "ACTIONS",
    "EMPTY",
    "GUARDS",
    "LIVES",
    "RESERVATIONS",
    "TOWERS",
    "WRITES",
    "Formula",
    "Guards",
    "L",
    "R",
    "State",
    "W",
    "any_state",
    "by",
    "by_r",
    "first",
    "legacy",
    "looked",
    "over",
    "over_r",
    "prefix",
    "puts",
    "slot",
    "towers_are_ordered",
    "under",
    "under_r",
]

GUARDS = (
    "InstanceCheck",
    "CompareTower",
    "AtomicClaim",
    "CommitBeforeRelease",
    "HoldUnknown",
    "SettleBeforeDeciding",
    "FencedBlocks",
    "CompareBlocks",
    "KeepTower",
)

Formula = Any  # z3 has no types of its own to offer
Of = Callable[[Any], Formula]

Life, Write, Reservation, Tower = (z3.DeclareSort(name) for name in ("Life", "Write", "Reservation", "Tower"))
LIVES, WRITES, RESERVATIONS, TOWERS = (
    [z3.Const(f"{name}{number}", sort) for number in range(3)]
    for name, sort in (("l", Life), ("w", Write), ("r", Reservation), ("t", Tower))
)

prefix = z3.Function("prefix", Tower, Tower, z3.BoolSort())
EMPTY = z3.Const("empty", Tower)

# What a request says, for ever: who sent it, under which fence, over which revision, and what it puts.
legacy = z3.Function("legacy", Life, z3.BoolSort())
looked = z3.Function("looked", Life, z3.IntSort())  # the instance's revision that a life's claim compares
by = z3.Function("by", Write, Life)
under = z3.Function("under", Write, z3.IntSort())
over = z3.Function("over", Write, z3.IntSort())
puts = z3.Function("puts", Write, Tower)
by_r = z3.Function("by_r", Reservation, Life)
under_r = z3.Function("under_r", Reservation, z3.IntSort())
over_r = z3.Function("over_r", Reservation, z3.IntSort())
slot = z3.Function("slot", Reservation, z3.IntSort())


def towers_are_ordered() -> Formula:
    """What is assumed of towers: "is a prefix of" is an order, and the prefixes of one tower are a chain."""
    a, b, c = TOWERS
    return z3.And(
        z3.ForAll([a], prefix(a, a)),
        z3.ForAll([a], prefix(EMPTY, a)),
        z3.ForAll([a, b], z3.Implies(z3.And(prefix(a, b), prefix(b, a)), a == b)),
        z3.ForAll([a, b, c], z3.Implies(z3.And(prefix(a, b), prefix(b, c)), prefix(a, c))),
        z3.ForAll([a, b, c], z3.Implies(z3.And(prefix(a, c), prefix(b, c)), z3.Or(prefix(a, b), prefix(b, a)))),
    )


@dataclass(frozen=True)
class State:
    """One moment. A field that depends on a life, a write, … is a function of it, so that a step replaces single points."""

    revision: Formula  # of the store: grows with every change
    instance: Formula  # the revision of the instance key
    owner: Formula  # the life that claimed last
    tower_revision: Formula
    stored: Formula
    block_revision: Formula
    mark: Formula  # the newest reserved slot
    mark_by: Formula  # the life that reserved it
    late: Formula  # a write committed after somebody else had claimed
    claim_sent: Of
    claimed_at: Of  # the revision at which a life's claim was put, 0 before
    brought_tower: Of  # what the answer to the claim says of the tower, its revision, the mark, its revision
    brought_revision: Of
    brought_mark: Of
    brought_block_revision: Of
    voting: Of
    ended: Of
    fence: Of
    tower: Of  # the newest tower that a life knows to be durable, and its revision
    known: Of
    known_mark: Of
    known_block: Of
    sent: Of
    arrived: Of
    waiting: Of  # the write whose answer a life waits for; `busy` if there is one
    busy: Of
    unheard: Of  # an older validator's write committed, and it does not know yet
    committed: Of  # the store answered so, at `answer`; the answer may not have arrived
    answer: Of
    reserve_sent: Of
    reserving: Of
    reserved: Of
    reserve_answer: Of
    produced: Of
    released: Of
    durable: Of


def any_state() -> State:
    """A state about which nothing is known."""
    integer, boolean = z3.IntSort(), z3.BoolSort()
    sorts: dict[str, tuple[Any, ...]] = {"mark": (integer,)}
    sorts |= dict.fromkeys(("revision", "instance", "tower_revision", "block_revision"), (integer,))
    sorts |= {"owner": (Life,), "mark_by": (Life,), "stored": (Tower,), "late": (boolean,)}
    sorts |= dict.fromkeys(("claim_sent", "voting", "ended", "busy", "unheard"), (Life, boolean))
    sorts |= dict.fromkeys(("brought_tower", "tower"), (Life, Tower))
    sorts |= dict.fromkeys(("claimed_at", "brought_revision", "brought_mark", "brought_block_revision"), (Life, integer))
    sorts |= dict.fromkeys(("fence", "known", "known_mark", "known_block"), (Life, integer))
    sorts |= dict.fromkeys(("sent", "arrived", "waiting", "committed"), (Write, boolean)) | {"answer": (Write, integer)}
    sorts |= dict.fromkeys(("reserve_sent", "reserving", "reserved", "produced"), (Reservation, boolean))
    sorts |= {"reserve_answer": (Reservation, integer), "released": (Tower, boolean), "durable": (Tower, boolean)}
    symbols: dict[str, Any] = {
        name: z3.Const(name, *sort) if len(sort) == 1 else z3.Function(name, *sort) for name, sort in sorts.items()
    }
    return State(**symbols)


def put(function: Of, point: Formula, value: Formula) -> Of:
    """`function`, but `value` at `point`."""
    return lambda other: z3.If(other == point, value, function(other))


def first(s: State) -> Formula:
    """Nothing was claimed, sent, stored or released."""
    x, w, r, t = LIVES[0], WRITES[0], RESERVATIONS[0], TOWERS[0]
    return z3.And(
        s.revision == 0, s.instance == 0, s.tower_revision == 0, s.stored == EMPTY,
        s.block_revision == 0, s.mark == 0, z3.Not(s.late),
        z3.ForAll([x], z3.And(z3.Not(s.claim_sent(x)), s.claimed_at(x) == 0, z3.Not(z3.Or(s.voting(x), s.ended(x))))),
        z3.ForAll([x], z3.Not(z3.Or(s.busy(x), s.unheard(x)))),
        z3.ForAll([w], z3.Not(z3.Or(s.sent(w), s.arrived(w), s.waiting(w), s.committed(w)))),
        z3.ForAll([r], z3.Not(z3.Or(s.reserve_sent(r), s.reserving(r), s.reserved(r), s.produced(r)))),
        z3.ForAll([t], z3.And(z3.Not(s.released(t)), s.durable(t) == (t == EMPTY))),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ actions
# Each yields (condition, next state); what is not named stays as it is. `g` holds the guards that are in force.

Guards = Collection[str]
Steps = Iterator[tuple[Formula, State]]
L, W, R = z3.Const("L", Life), z3.Const("W", Write), z3.Const("R", Reservation)  # whose step it is


def claim(s: State, g: Guards) -> Steps:
    """After a look, which saw the instance at some revision: a life sends its one claim."""
    look = z3.And(z3.Not(s.claim_sent(L)), z3.Not(s.ended(L)), z3.Or(legacy(L), looked(L) == s.instance))
    yield look, replace(s, claim_sent=put(s.claim_sent, L, z3.BoolVal(True)))


def claim_arrives(s: State, g: Guards) -> Steps:
    """Now or long after its sender ended: compare, put and read. An older validator's is put whatever is there, once."""
    now = s.revision + 1
    yield (
        z3.And(s.claim_sent(L), z3.If(legacy(L), s.claimed_at(L) == 0, s.instance == looked(L))),
        replace(
            s,
            revision=now,
            instance=now,
            owner=L,
            claimed_at=put(s.claimed_at, L, now),
            brought_tower=put(s.brought_tower, L, s.stored),
            brought_revision=put(s.brought_revision, L, s.tower_revision),
            brought_mark=put(s.brought_mark, L, s.mark),
            brought_block_revision=put(s.brought_block_revision, L, s.block_revision),
        ),
    )


def claimed(s: State, g: Guards) -> Steps:
    """The answer to the claim is heard; without AtomicClaim, what it came to is read now.

    An older validator reads now too, after it has asked whether its bytes are still there (`Load`).
    """
    atomic = z3.Not(legacy(L)) if "AtomicClaim" in g else z3.BoolVal(False)
    mine = z3.Or(z3.Not(legacy(L)), s.owner == L)
    yield (
        z3.And(s.claimed_at(L) > 0, z3.Not(s.voting(L)), z3.Not(s.ended(L)), mine),
        replace(
            s,
            voting=put(s.voting, L, z3.BoolVal(True)),
            fence=put(s.fence, L, z3.If(z3.Or(atomic, legacy(L)), s.claimed_at(L), s.instance)),
            tower=put(s.tower, L, z3.If(atomic, s.brought_tower(L), s.stored)),
            known=put(s.known, L, z3.If(atomic, s.brought_revision(L), s.tower_revision)),
            known_mark=put(s.known_mark, L, z3.If(atomic, s.brought_mark(L), s.mark)),
            known_block=put(s.known_block, L, z3.If(atomic, s.brought_block_revision(L), s.block_revision)),
        ),
    )


def persist(s: State, g: Guards) -> Steps:
    """A vote is decided on top of the tower that is known to be durable, and sent. Also `Refresh`: the same tower again."""
    free = z3.Not(s.busy(L))
    says = z3.And(by(W) == L, under(W) == s.fence(L), over(W) == s.known(L), prefix(s.tower(L), puts(W)))
    if "SettleBeforeDeciding" not in g:
        free = z3.Not(legacy(L))
    yes = z3.BoolVal(True)
    after = replace(s, sent=put(s.sent, W, yes), waiting=put(s.waiting, W, yes), busy=put(s.busy, L, yes))
    if "CommitBeforeRelease" not in g:
        after = replace(after, released=put(s.released, puts(W), z3.BoolVal(True)))
    yield z3.And(s.voting(L), free, z3.Not(s.sent(W)), says), after


def store_arrives(s: State, g: Guards) -> Steps:
    """A write arrives, for the first or the hundredth time: both comparisons, then the put; or it had won before.

    An older validator's arrives once, and only its bytes are compared.
    """
    now = s.revision + 1
    mine = s.instance == under(W) if "InstanceCheck" in g else z3.BoolVal(True)
    unmoved = s.tower_revision == over(W) if "CompareTower" in g else z3.BoolVal(True)
    old = legacy(by(W))
    yield (
        z3.And(s.sent(W), z3.If(old, z3.And(z3.Not(s.arrived(W)), s.owner == by(W)), z3.And(mine, unmoved))),
        replace(
            s,
            revision=now,
            tower_revision=now,
            stored=puts(W),
            durable=put(s.durable, puts(W), z3.BoolVal(True)),
            late=z3.Or(s.late, s.owner != by(W)),
            arrived=put(s.arrived, W, z3.BoolVal(True)),
            unheard=put(s.unheard, by(W), z3.And(old, s.voting(by(W)))),
            committed=put(s.committed, W, z3.BoolVal(True)),
            answer=put(s.answer, W, now),
        ),
    )
    yield (
        z3.And(s.sent(W), z3.Not(old), mine, z3.Not(unmoved), s.stored == puts(W)),
        replace(s, committed=put(s.committed, W, z3.BoolVal(True)), answer=put(s.answer, W, s.tower_revision)),
    )


def committed(s: State, g: Guards) -> Steps:
    """The answer is heard: the vote is released, and the life knows a newer tower."""
    life = by(W)
    yield (
        z3.And(s.waiting(W), s.committed(W), s.voting(life)),
        replace(
            s,
            waiting=put(s.waiting, W, z3.BoolVal(False)),
            busy=put(s.busy, life, z3.BoolVal(False)),
            unheard=put(s.unheard, life, z3.BoolVal(False)),
            tower=put(s.tower, life, puts(W)),
            known=put(s.known, life, s.answer(W)),
            released=put(s.released, puts(W), z3.BoolVal(True)),
        ),
    )


def unknown(s: State, g: Guards) -> Steps:
    """No answer came in time. Nothing follows from it, but without HoldUnknown."""
    after = s if "HoldUnknown" in g else replace(s, released=put(s.released, puts(W), z3.BoolVal(True)))
    yield z3.And(s.waiting(W), s.voting(by(W))), after


def reserve(s: State, g: Guards) -> Steps:
    """A slot above all that a life knows to be reserved is asked for."""
    r = RESERVATIONS[0]
    free = z3.ForAll([r], z3.Implies(s.reserving(r), by_r(r) != L))
    says = z3.And(by_r(R) == L, under_r(R) == s.fence(L), over_r(R) == s.known_block(L), slot(R) > s.known_mark(L))
    after = replace(
        s,
        reserve_sent=put(s.reserve_sent, R, z3.BoolVal(True)),
        reserving=put(s.reserving, R, z3.BoolVal(True)),
    )
    if "FencedBlocks" not in g:
        after = replace(after, produced=put(s.produced, R, z3.BoolVal(True)))
    yield z3.And(s.voting(L), z3.Not(legacy(L)), free, z3.Not(s.reserve_sent(R)), says), after


def reserve_arrives(s: State, g: Guards) -> Steps:
    """As `store_arrives`, for a reservation."""
    now = s.revision + 1
    mine = s.instance == under_r(R) if "InstanceCheck" in g else z3.BoolVal(True)
    unmoved = s.block_revision == over_r(R) if "CompareBlocks" in g else z3.BoolVal(True)
    yield (
        z3.And(s.reserve_sent(R), mine, unmoved),
        replace(
            s,
            revision=now,
            block_revision=now,
            mark=slot(R),
            mark_by=by_r(R),
            late=z3.Or(s.late, s.owner != by_r(R)),
            reserved=put(s.reserved, R, z3.BoolVal(True)),
            reserve_answer=put(s.reserve_answer, R, now),
        ),
    )
    yield (
        z3.And(s.reserve_sent(R), mine, z3.Not(unmoved), s.mark == slot(R)),
        replace(
            s,
            reserved=put(s.reserved, R, z3.BoolVal(True)),
            reserve_answer=put(s.reserve_answer, R, s.block_revision),
        ),
    )


def produce(s: State, g: Guards) -> Steps:
    """The answer is heard: the block is produced."""
    life = by_r(R)
    yield (
        z3.And(s.reserving(R), s.reserved(R), s.voting(life)),
        replace(
            s,
            reserving=put(s.reserving, R, z3.BoolVal(False)),
            known_mark=put(s.known_mark, life, slot(R)),
            known_block=put(s.known_block, life, s.reserve_answer(R)),
            produced=put(s.produced, R, z3.BoolVal(True)),
        ),
    )


def end(s: State, g: Guards) -> Steps:
    """Crash, Resign, FenceLost, DeadlinePassed, Refused: the life knows and waits for nothing any more."""
    yield (
        z3.Not(s.ended(L)),
        replace(
            s,
            ended=put(s.ended, L, z3.BoolVal(True)),
            voting=put(s.voting, L, z3.BoolVal(False)),
            busy=put(s.busy, L, z3.BoolVal(False)),
            unheard=put(s.unheard, L, z3.BoolVal(False)),
            waiting=lambda w: z3.And(s.waiting(w), by(w) != L),
            reserving=lambda r: z3.And(s.reserving(r), by_r(r) != L),
        ),
    )


def sweep(s: State, g: Guards) -> Steps:
    """Somebody removes the tower because it is old; impossible with KeepTower."""
    if "KeepTower" not in g:
        yield s.stored != EMPTY, replace(s, revision=s.revision + 1, stored=EMPTY, tower_revision=z3.IntVal(0))


ACTIONS: dict[str, Callable[[State, Guards], Steps]] = {
    "Claim": claim,
    "ClaimArrives": claim_arrives,
    "Claimed": claimed,
    "Persist": persist,
    "StoreArrives": store_arrives,
    "Committed": committed,
    "Unknown": unknown,
    "Reserve": reserve,
    "ReserveArrives": reserve_arrives,
    "Produce": produce,
    "End": end,
    "Sweep": sweep,
}
