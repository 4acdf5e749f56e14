"""The argument without bounds: an inductive invariant of the fence, checked by an SMT solver.

    python -m spec.induction                          initiation, consecution of every action, safety
    python -m spec.induction --without CompareTower   the same with one guard removed: must fail, exit status 1

TLC visits every state of small models. Here the lives, writes, reservations and towers are as many as you like: sorts
without a size, and every step of `spec.steps` is asked of *any* state that satisfies the invariant. What is checked:

============  ======================================================================================================
initiation    the first state satisfies the invariant
consecution   every action, from a state that satisfies it, leads to one that does; and the stored tower moves only
              forward in that step (S4)
safety        the invariant implies S1, S2, S3, S6 and S7
not stuck     every action can happen in some state that satisfies it: the proof is not of a protocol without steps
============  ======================================================================================================

The heart is one line, `extends`: a write that expects the tower as it is stored extends it. The second comparison makes that
line say something of every write that commits; the first one, with a fence that only one life ever had, makes `late`
impossible.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import z3  # type: ignore[import-untyped]

from spec.steps import (
    ACTIONS,
    GUARDS,
    LIVES,
    RESERVATIONS,
    TOWERS,
    WRITES,
    Formula,
    Guards,
    L,
    R,
    State,
    W,
    any_state,
    by,
    by_r,
    first,
    legacy,
    looked,
    over,
    over_r,
    prefix,
    puts,
    slot,
    towers_are_ordered,
    under,
    under_r,
)

__all__ = ["INVARIANT", "SAFETY", "check_all", "main", "prove", "stuck"]

QUERY_MS_MAX = 30_000  # a question that takes longer is not answered, and no proof
NEVER_OLDER = {"Reserve", "ReserveArrives", "Produce"}  # what an older validator does not do; nor does it repeat a write


# ---------------------------------------------------------------------------------------------------------- invariant


def all_of(variables: Sequence[Any], condition: Formula, conclusion: Formula) -> Formula:
    return z3.ForAll(list(variables), z3.Implies(condition, conclusion))


def _fence(s: State) -> dict[str, Formula]:
    x, y = LIVES[:2]
    w, r = WRITES[0], RESERVATIONS[0]
    return {
        "revisions grow": z3.And(s.revision >= s.instance, s.revision >= s.tower_revision, s.revision >= s.block_revision,
                                 s.instance >= 0, s.tower_revision >= 0, s.block_revision >= 0),
        "claims are in the past": all_of([x], z3.And(s.claim_sent(x), z3.Not(legacy(x))), looked(x) <= s.instance),
        "a claim is put once": all_of([x], s.claimed_at(x) != 0, z3.And(
            s.claim_sent(x), z3.Or(legacy(x), looked(x) < s.claimed_at(x)), s.claimed_at(x) > 0, s.claimed_at(x) <= s.instance
        )),
        "the owner claimed last": z3.Implies(s.instance > 0, s.claimed_at(s.owner) == s.instance),
        "one claim a revision": all_of([x, y], z3.And(s.claimed_at(x) > 0, s.claimed_at(x) == s.claimed_at(y)), x == y),
        "a voter's fence is its claim": all_of([x], s.voting(x), z3.And(s.claimed_at(x) > 0, s.fence(x) == s.claimed_at(x))),
        "a write's fence is its life's": all_of([w], s.sent(w), z3.And(s.claimed_at(by(w)) > 0, under(w) == s.claimed_at(by(w)))),
        "a reservation's too": all_of([r], s.reserve_sent(r), z3.And(s.claimed_at(by_r(r)) > 0,
                                                                      under_r(r) == s.claimed_at(by_r(r)))),
        "nothing late": z3.Not(s.late),
    }  # fmt: skip


def _tower(s: State) -> dict[str, Formula]:
    x, w, v, t = LIVES[0], WRITES[0], WRITES[1], TOWERS[0]
    return {
        "extends": all_of(
            [w], z3.And(s.sent(w), z3.Not(legacy(by(w))), over(w) == s.tower_revision), prefix(s.stored, puts(w))
        ),
        "a write expects the past": all_of([w], s.sent(w), over(w) <= s.revision),
        "a claim brings the past": all_of([x], s.claimed_at(x) > 0, s.brought_revision(x) <= s.revision),
        "a claim brings what was stored": all_of(
            [x], z3.And(s.claimed_at(x) > 0, s.brought_revision(x) == s.tower_revision), s.brought_tower(x) == s.stored
        ),
        "a voter knows the past": all_of([x], s.voting(x), s.known(x) <= s.revision),
        "a voter knows what was stored": all_of(
            [x], z3.And(s.voting(x), s.known(x) == s.tower_revision), s.tower(x) == s.stored
        ),
        "an answer is of the past": all_of([w], s.committed(w), s.answer(w) <= s.revision),
        "an answer says what was stored": all_of(
            [w], z3.And(s.committed(w), s.answer(w) == s.tower_revision), s.stored == puts(w)
        ),
        "what committed is durable": all_of([w], s.committed(w), s.durable(puts(w))),
        "what is stored is durable": s.durable(s.stored),
        "durable is on the chain": all_of([t], s.durable(t), prefix(t, s.stored)),
        "released is durable": all_of([t], s.released(t), s.durable(t)),
        "who waits has sent": all_of([w], s.waiting(w), z3.And(s.sent(w), s.voting(by(w)))),
        "one write under way": all_of([w, v], z3.And(s.waiting(w), s.waiting(v), by(w) == by(v)), w == v),
        "who ended does not vote": all_of([x], s.ended(x), z3.Not(s.voting(x))),
    }


def _older(s: State) -> dict[str, Formula]:
    """What keeps an older validator on the chain without the second comparison: one write under way, each sent once."""
    x, w, v = LIVES[0], WRITES[0], WRITES[1]
    old = legacy(by(w))
    pending = z3.And(s.sent(w), z3.Not(s.arrived(w)), old)
    return {
        "an older owner's write extends": all_of([w], z3.And(pending, s.owner == by(w)), prefix(s.stored, puts(w))),
        "an older owner knows what is stored": all_of(
            [x], z3.And(legacy(x), s.voting(x), s.owner == x), z3.Or(s.stored == s.tower(x), s.unheard(x))
        ),
        "or is about to hear": all_of(
            [w], z3.And(s.waiting(w), old, s.owner == by(w), s.arrived(w)), z3.And(s.committed(w), s.stored == puts(w))
        ),
        "what it will hear has arrived": all_of([w], z3.And(s.waiting(w), old, s.unheard(by(w))), s.arrived(w)),
        "it hears while it waits": all_of([x], s.unheard(x), z3.And(s.busy(x), s.voting(x), legacy(x))),
        "what has not arrived is waited for": all_of([w], z3.And(pending, s.voting(by(w))), s.waiting(w)),
        "one has not arrived": all_of(
            [w, v], z3.And(pending, s.sent(v), z3.Not(s.arrived(v)), by(v) == by(w)), w == v
        ),
        "who waits is busy": all_of([w], s.waiting(w), s.busy(by(w))),
        "an older one's commit has arrived": all_of([w], z3.And(s.committed(w), old), s.arrived(w)),
        "what arrived was sent": all_of([w], z3.Or(s.arrived(w), s.committed(w)), s.sent(w)),
        "who has sent votes or has ended": all_of([w], s.sent(w), z3.Or(s.voting(by(w)), s.ended(by(w)))),
        "an older one reserves nothing": all_of([RESERVATIONS[0]], s.reserve_sent(RESERVATIONS[0]),
                                                 z3.Not(legacy(by_r(RESERVATIONS[0])))),
    }  # fmt: skip


def _blocks(s: State) -> dict[str, Formula]:
    x, r, q = LIVES[0], RESERVATIONS[0], RESERVATIONS[1]
    return {
        "a reservation goes up": all_of([r], z3.And(s.reserve_sent(r), over_r(r) == s.block_revision), slot(r) > s.mark),
        "it expects the past": all_of([r], s.reserve_sent(r), over_r(r) <= s.revision),
        "a claim brings the mark": all_of(
            [x],
            s.claimed_at(x) > 0,
            z3.And(
                s.brought_block_revision(x) <= s.revision,
                s.brought_mark(x) <= s.mark,
                z3.Implies(s.brought_block_revision(x) == s.block_revision, s.brought_mark(x) == s.mark),
            ),
        ),
        "a voter knows the mark": all_of(
            [x],
            s.voting(x),
            z3.And(
                s.known_block(x) <= s.revision,
                s.known_mark(x) >= s.brought_mark(x),
                z3.Implies(s.known_block(x) == s.block_revision, s.known_mark(x) == s.mark),
            ),
        ),
        "an answer says the mark": all_of(
            [r],
            s.reserved(r),
            z3.And(
                s.reserve_sent(r),
                slot(r) <= s.mark,
                s.reserve_answer(r) <= s.revision,
                z3.Implies(s.reserve_answer(r) == s.block_revision, slot(r) == s.mark),
            ),
        ),
        "above what its claim brought": all_of([r], s.reserve_sent(r), slot(r) > s.brought_mark(by_r(r))),
        "the mark is the owner's or older": z3.Implies(
            s.instance > 0, z3.Or(s.mark_by == s.owner, s.mark == s.brought_mark(s.owner))
        ),
        "the mark has one life": all_of([r], z3.And(s.reserved(r), slot(r) == s.mark), by_r(r) == s.mark_by),
        "a slot has one life": all_of([r, q], z3.And(s.reserved(r), s.reserved(q), slot(r) == slot(q)), by_r(r) == by_r(q)),
        "who reserves has asked": all_of([r], s.reserving(r), z3.And(s.reserve_sent(r), s.voting(by_r(r)))),
        "a block has a reservation": all_of([r], s.produced(r), s.reserved(r)),
        "slots are above nothing": s.mark >= 0,
    }


def INVARIANT(s: State) -> dict[str, Formula]:  # noqa: N802 - a name of the argument, beside SAFETY
    """The inductive invariant, line by line."""
    return _fence(s) | _tower(s) | _older(s) | _blocks(s)


def SAFETY(s: State) -> dict[str, Formula]:  # noqa: N802
    """The promises, said of one state."""
    a, b = TOWERS[:2]
    w, v = WRITES[:2]
    r, q = RESERVATIONS[:2]
    return {
        "S1 NoConflictingRelease": all_of([a, b], z3.And(s.released(a), s.released(b)), z3.Or(prefix(a, b), prefix(b, a))),
        "S2 DurableBeforeRelease": all_of([a], s.released(a), s.durable(a)),
        "S3 FencedWrites": z3.Not(s.late),
        "S6 NoDecisionWhileUnresolved": all_of([w, v], z3.And(s.waiting(w), s.waiting(v), by(w) == by(v)), w == v),
        "S7 OneBlockPerSlot": all_of([r, q], z3.And(s.produced(r), s.produced(q), slot(r) == slot(q)), by_r(r) == by_r(q)),
    }


# -------------------------------------------------------------------------------------------------------------- proof


def _answer(*formulas: Formula) -> str:
    solver = z3.Solver()
    solver.set("timeout", QUERY_MS_MAX)
    solver.add(towers_are_ordered(), *formulas)
    return str(solver.check())


def _refutations(known: Formula, claims: dict[str, Formula]) -> list[str]:
    """The lines that do not follow from what is known: a state says so, or the solver found no answer in time."""
    found = []
    for name, formula in claims.items():
        answer = _answer(known, z3.Not(formula))
        if answer != "unsat":
            found.append(name if answer == "sat" else f"{name} (no answer)")
    return found


def prove(guards: Guards) -> dict[str, list[str]]:
    """The checks by name, and for each the lines that fail; none anywhere means proved."""
    s = any_state()
    invariant = z3.And(*INVARIANT(s).values())
    failures = {"initiation": _refutations(first(s), INVARIANT(s))}
    for name, action in ACTIONS.items():
        steps = list(action(s, guards))
        lost: list[str] = []
        for condition, after in steps:
            claims = INVARIANT(after) | {"S4 MonotoneTower": prefix(s.stored, after.stored)}
            lost += _refutations(z3.And(invariant, condition), claims)
        failures[f"consecution of {name}"] = list(dict.fromkeys(lost))
    failures["safety"] = _refutations(invariant, SAFETY(s))
    return failures


def stuck(guards: Guards) -> list[str]:
    """The actions that cannot happen in any state of the invariant, for this product's lives or for older validators."""
    s = any_state()
    invariant = z3.And(*INVARIANT(s).values())
    found = []
    for name, action in ACTIONS.items():
        for old in (False, True):
            kind = z3.And(legacy(L) == old, legacy(by(W)) == old, legacy(by_r(R)) == old)
            conditions = [condition for condition, _ in action(s, guards)]
            if old:
                conditions = conditions[:1] if name not in NEVER_OLDER else []
            if any(_answer(invariant, kind, condition) != "sat" for condition in conditions):
                found.append(f"{name} (older)" if old else name)
    return found


def _print(failures: dict[str, list[str]]) -> None:
    for name, lost in failures.items():
        print(f"{'ok  ' if not lost else 'FAIL'} {name}{': ' + ', '.join(lost) if lost else ''}", flush=True)


def check_all() -> bool:
    """The proof, and that it fails without each single guard. Prints a line for each; whether all is as it must be."""
    begun = time.monotonic()
    failures = prove(GUARDS)
    _print(failures)
    standing = stuck(GUARDS)
    print(f"{'ok  ' if not standing else 'FAIL'} not stuck{': ' + ', '.join(standing) if standing else ''}", flush=True)
    good = not standing and not any(failures.values())
    for guard in GUARDS:
        lost = {name: lines for name, lines in prove(set(GUARDS) - {guard}).items() if lines}
        answered = [line for lines in lost.values() for line in lines if "no answer" not in line]
        good = good and bool(answered)
        told = "; ".join(f"{name}: {', '.join(lines)}" for name, lines in lost.items())
        print(f"{'ok  ' if answered else 'FAIL'} without {guard}: {told or 'still proved'}", flush=True)
    print(f"     induction: {time.monotonic() - begun:.1f} s")
    return good


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if the proof holds, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m spec.induction", description="Check the inductive invariant of the fence.")
    parser.add_argument("--without", action="append", default=[], choices=GUARDS, metavar="GUARD", help=", ".join(GUARDS))
    options = parser.parse_args(arguments)
    failures = prove(set(GUARDS) - set(options.without))
    _print(failures)
    return 1 if any(failures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
