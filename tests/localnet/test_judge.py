"""The judge: each kind of conflict, what is legal, and that the order of arrival changes nothing."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from tests.localnet.support import hash_of
from tower._reference import TowerVoteState
from tower.localnet.judge import Ballot, Judge, conflict_between

ACCOUNT = hash_of("account")


def ballot(lockouts: list[tuple[int, int]], root: int | None = None, hash: object = None, source: str = "a") -> Ballot:
    bank_hash = hash_of(hash if hash is not None else lockouts[-1][0])
    return Ballot.of(lockouts, root, bank_hash, hash_of((lockouts, root, bank_hash, source)), source)


def judge_with(banks: dict[int, int]) -> Judge:
    judge = Judge()
    for slot, parent in banks.items():
        judge.add_bank(slot, parent)
    return judge


FORKED = {1: 0, 2: 1, 3: 2, 4: 2, 5: 4, 6: 5, 7: 6, 8: 7, 9: 8}  # 3 beside 4


def kinds(judge: Judge, *ballots: Ballot) -> list[str]:
    for one in ballots:
        judge.see(ACCOUNT, one)
    return [conflict.kind for conflict in judge.conflicts]


def test_same_slot_with_another_hash_lockouts_or_root() -> None:
    first = ballot([(1, 3), (2, 2), (4, 1)], hash="x")
    for other in (
        ballot([(1, 3), (2, 2), (4, 1)], hash="y"),
        ballot([(1, 2), (4, 1)], hash="x"),
        ballot([(1, 4), (2, 2), (4, 1)], hash="x"),
        ballot([(1, 3), (2, 2), (4, 1)], root=0, hash="x"),
    ):
        assert kinds(judge_with(FORKED), first, other) == ["same slot"]


def test_a_refresh_is_no_conflict() -> None:
    first = ballot([(1, 2), (2, 1)])
    again = Ballot.of([(1, 2), (2, 1)], None, first.hash, hash_of("another signature"), "b")
    assert kinds(judge_with(FORKED), first, again) == []


def test_a_vote_missing_while_still_locked() -> None:
    # (3, 1) binds until 5 inclusive: 4 and 5 on the other fork conflict, 6 does not.
    locked = ballot([(2, 2), (3, 1)])
    assert kinds(judge_with(FORKED), locked, ballot([(2, 2), (5, 1)])) == ["lockout"]
    assert kinds(judge_with(FORKED), locked, ballot([(2, 2), (6, 1)])) == []
    # With one more confirmation (3, 2) binds until 7.
    deeper = ballot([(1, 4), (2, 3), (3, 2)])
    assert kinds(judge_with(FORKED), deeper, ballot([(1, 4), (2, 3), (6, 1)])) == ["lockout"]
    assert kinds(judge_with(FORKED), deeper, ballot([(1, 4), (2, 3), (8, 1)])) == []


def test_the_first_slot_after_the_missing_vote_decides() -> None:
    # 4 was voted while 3 was locked; that 9 lies beyond the lockout does not heal it.
    assert kinds(judge_with(FORKED), ballot([(2, 2), (3, 1)]), ballot([(2, 4), (4, 2), (9, 1)])) == ["lockout"]


def test_a_locked_vote_on_another_fork_below_the_root() -> None:
    # The newer tower's root hides that 3 is missing; the tree does not.
    hidden = ballot([(5, 2), (6, 1)], root=4)
    assert kinds(judge_with(FORKED), ballot([(2, 3), (3, 2)]), hidden) == ["fork"]
    # The same with 3 on the chain is how every rooted vote goes.
    chain = {slot: slot - 1 for slot in range(1, 10)}
    assert kinds(judge_with(chain), ballot([(2, 3), (3, 2)]), hidden) == []


def test_a_vote_in_both_towers_that_is_on_neither_fork() -> None:
    assert kinds(judge_with(FORKED), ballot([(2, 3), (3, 2)]), ballot([(2, 4), (3, 3), (4, 1)])) == ["fork"]


def test_nothing_is_said_about_slots_that_are_unknown() -> None:
    assert kinds(Judge(), ballot([(2, 3), (3, 2)]), ballot([(5, 2), (6, 1)], root=4)) == []


def test_late_and_repeated_arrivals() -> None:
    old, new = ballot([(2, 2), (3, 1)], source="primary"), ballot([(2, 2), (5, 1)], source="secondary")
    judge = judge_with(FORKED)
    assert kinds(judge, new, new, old, old, new) == ["lockout"]
    found = judge.conflicts[0]
    assert (found.older.source, found.newer.source, found.slot) == ("primary", "secondary", 3)


def test_the_deepest_lockout_that_was_ever_claimed_binds() -> None:
    banks = {**FORKED, 10: 3, 13: 9}
    ballots = ballot([(3, 1)]), ballot([(3, 5), (10, 1)]), ballot([(13, 1)])
    judge = judge_with(banks)
    assert kinds(judge, *ballots) == ["lockout"]
    assert (judge.conflicts[0].slot, judge.conflicts[0].older) == (3, ballots[1])


def test_accounts_do_not_mix() -> None:
    judge = judge_with(FORKED)
    judge.see(hash_of("one"), ballot([(2, 2), (3, 1)]))
    judge.see(hash_of("two"), ballot([(2, 2), (5, 1)]))
    assert judge.conflicts_total == 0


def test_memory_is_bounded_and_what_is_too_old_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge(horizon=64)
    tower = TowerVoteState()
    for slot in range(1, 1001):
        judge.add_bank(slot, slot - 1)
        tower.process_vote(slot)
        judge.see(ACCOUNT, ballot(tower.votes, tower.root))
    known = judge._account(ACCOUNT)
    assert known.kept <= 66
    assert len(known.ballots) <= 66
    assert len(known.claims) <= 66
    assert len(judge.ancestry._parents) <= 66
    judge.see(ACCOUNT, ballot([(3, 1)], hash="other"))
    assert judge.counts["too_old"] == 1
    assert judge.conflicts_total == 0
    # A slot far in the future pushes nothing out, and the number of different votes for it is limited.
    monkeypatch.setattr("tower.localnet.judge.BALLOTS_MAX", 200)
    for number in range(210):
        judge.see(ACCOUNT, ballot([(2**60, 1)], hash=number))
    assert known.kept <= 200
    assert judge.counts["over_limit"] > 0


# ---- against a naive reading of the rules


def random_tree(rng: random.Random, slots: int) -> dict[int, int]:
    parents: dict[int, int] = {}
    known = [0]
    for slot in range(1, slots):
        if rng.random() < 0.15:
            continue  # a skipped slot
        parents[slot] = known[-1] if rng.random() < 0.7 else rng.choice(known[-8:])
        known.append(slot)
    return parents


def ancestors(parents: dict[int, int], slot: int) -> set[int]:
    found = {0}
    while slot:
        found.add(slot)
        slot = parents[slot]
    return found


def legal_votes(rng: random.Random, parents: dict[int, int], tower: TowerVoteState, after: int) -> list[Ballot]:
    """Votes on banks that a voter may vote for, one after the other, over whatever forks the tree offers."""
    ballots = []
    for slot in sorted(parents):
        if slot <= after or rng.random() < 0.3:
            continue
        tried = tower.copy()
        tried.process_vote(slot)
        chain = ancestors(parents, slot)
        if all(voted in chain for voted, _ in tried.votes) and (tried.root is None or tried.root in chain):
            tower = tried
            ballots.append(ballot(tower.votes, tower.root))
    return ballots


def naive_conflict(one: Ballot, other: Ballot, parents: dict[int, int]) -> bool:
    if one.last_slot == other.last_slot:
        return (one.slots, one.counts, one.root, one.hash) != (other.slots, other.counts, other.root, other.hash)
    a, b = (one, other) if one.last_slot < other.last_slot else (other, one)
    for slot, count in zip(a.slots, a.counts, strict=True):
        later = [voted for voted in b.slots if voted > slot]
        if later and slot + 2**count >= min(later):
            missing = slot not in b.slots and slot > (-1 if b.root is None else b.root)
            if missing or slot not in ancestors(parents, b.last_slot):
                return True
    return False


def test_legal_towers_never_conflict_in_any_order(rng: random.Random) -> None:
    forked = 0
    for _ in range(30):
        parents = random_tree(rng, 220)
        ballots = legal_votes(rng, parents, TowerVoteState(), 0)
        last = ancestors(parents, ballots[-1].last_slot)
        forked += any(one.last_slot not in last for one in ballots)
        arrivals = ballots + rng.choices(ballots, k=20)
        if rng.random() < 0.5:
            rng.shuffle(arrivals)
        judge = judge_with(parents)
        assert kinds(judge, *arrivals) == []
        assert judge.counts["votes"] == len(arrivals)
    assert forked > 5, "the trees offered too few forks to mean anything"


def test_two_voters_with_one_past_are_judged_as_the_rules_say(rng: random.Random) -> None:
    guilty = 0
    for number in range(60):
        parents = random_tree(rng, 90)
        common = legal_votes(rng, parents, TowerVoteState(), 0)
        # who parts early conflicts nearly always, who parts before the last vote seldom: both kinds are wanted
        cut = rng.randrange(1, len(common)) if number % 3 else len(common) - 1
        past = common[cut - 1]
        tower = TowerVoteState(list(zip(past.slots, past.counts, strict=True)), past.root)
        second = legal_votes(rng, parents, tower, past.last_slot)
        ballots = common + second
        expected = any(naive_conflict(a, b, parents) for a, b in combinations(ballots, 2))
        guilty += expected
        for _ in range(3):
            judge = judge_with(parents)
            for one in ballots:
                judge.see(ACCOUNT, one)
            assert (judge.conflicts_total > 0) == expected
            for found in judge.conflicts:
                assert naive_conflict(found.older, found.newer, parents)
                assert found.older.last_slot <= found.newer.last_slot
            rng.shuffle(ballots)
        for a, b in combinations(ballots[:25], 2):
            assert (conflict_between(a, b, judge.ancestry) is not None) == naive_conflict(a, b, parents)
    assert 5 < guilty < 55, f"{guilty} of 60 pairs of voters conflict: the sample says too little"
