"""Each check at its edge: the numbers that it compares, what it says, and what it must not mind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.chain import IDENTITY, VOTE_ACCOUNT, digest
from tower.checks import (
    SwitchDecision,
    check_can_sign,
    check_lockout,
    check_propagation,
    check_recent,
    check_switch,
    check_thresholds,
    stake_voted_for,
)
from tower.forkchoice import ForkChoice
from tower.lockout import TowerVoteState
from tower.types import FrozenBank, Lockout, VoteAccountState

STAKES = {b"a": 38, b"b": 30, b"c": 32}


def bank(slot, parent, votes=None, leader=None, stakes=STAKES):
    """`votes`: account -> [(slot, confirmation count)]."""
    states = {who: VoteAccountState(b"n", lockouts=tuple(Lockout(*vote) for vote in cast)) for who, cast in (votes or {}).items()}
    states = {who: states.get(who, VoteAccountState(b"n")) for who in stakes}
    return FrozenBank(slot, parent, digest(str(slot)), votes=states, stakes=stakes, leader=leader)


def tree(*edges, **last):
    """A tree from (slot, parent) pairs; `last` are keyword arguments of the last bank."""
    forks = ForkChoice(bank(0, None))
    for number, (slot, parent) in enumerate(edges, start=1):
        forks.add(bank(slot, parent, **(last if number == len(edges) else {})))
    return forks


def test_recent_and_lockout_name_the_slot_that_binds():
    state = TowerVoteState([(1, 2), (2, 1)])
    forks = tree((1, 0), (2, 1), (3, 1), (4, 1), (6, 1))
    assert not check_recent(state, 2).passed
    assert check_recent(TowerVoteState(root=4), 5).passed
    blocked = check_lockout(state, 4, forks)
    assert (blocked.passed, blocked.required) == (False, 4)
    assert "the vote for 2 on another fork binds until 4" in blocked.reason
    assert check_lockout(state, 6, forks).passed


def test_a_vote_that_would_grow_its_lockout_is_judged_before_it_grows():
    # 1 is off the fork of 4 but expired by then: the new vote pops it, and does not double it
    state = TowerVoteState([(1, 1)])
    assert check_lockout(state, 4, tree((1, 0), (2, 0), (4, 2))).passed
    assert not check_lockout(state, 3, tree((1, 0), (2, 0), (3, 2))).passed


def test_stake_counts_the_vote_that_would_be_left_under_the_bank_s_own():
    forks = tree((1, 0), (2, 1), (3, 2), (9, 3), votes={b"a": [(1, 2), (2, 1)], b"b": [(1, 1)], b"c": [(3, 3), (4, 2)]})
    newest = forks.bank(9)
    # a: 2 expired at 4 and 1 at 5; b: expired at 3; c: 4 is not in this tree, but 4's lockout ends at 8, so 3 is left
    assert stake_voted_for(newest, 1, forks) == (32, 100)
    assert stake_voted_for(newest, 9, forks) == (0, 100)


def depth_eight(voted: dict[bytes, list[tuple[int, int]]], stakes):
    """A tower that voted 1 to 8 and a candidate 9 whose bank knows `voted`."""
    state = TowerVoteState()
    for slot in range(1, 9):
        state.process_vote(slot)
    forks = ForkChoice(bank(0, None))
    for slot in range(1, 9):
        forks.add(bank(slot, slot - 1))
    forks.add(bank(9, 8, voted, stakes=stakes))
    return state, forks.bank(9), forks


@pytest.mark.parametrize(
    ("share", "blocks"), [(66, True), (67, False)], ids=["two thirds are not more than two thirds", "above"]
)
def test_the_threshold_at_the_tower_s_depth_blocks(share, blocks):
    stakes = {b"a": share, b"b": 100 - share}
    state, candidate, forks = depth_eight({b"a": [(8, 2)]}, stakes)
    results = {check.name: check for check in check_thresholds(state, candidate, forks, 8, 2 / 3)}
    assert results["threshold at depth 8"].refuses is blocks
    assert [check.blocking for check in results.values()] == [False, False, True]


def test_exactly_two_thirds_is_not_enough():
    state, candidate, forks = depth_eight({b"a": [(8, 2)]}, {b"a": 2, b"b": 1})
    assert check_thresholds(state, candidate, forks, 8, 2 / 3)[-1].refuses
    assert not check_thresholds(state, candidate, forks, 8, 0.6)[-1].refuses


def test_shallow_thresholds_warn_unless_the_tower_is_as_shallow():
    state, candidate, forks = depth_eight({b"a": [(3, 9)], b"b": [(3, 9)]}, {b"a": 70, b"b": 30})
    at_eight = check_thresholds(state, candidate, forks, 8, 2 / 3)
    assert [(check.passed, check.blocking) for check in at_eight] == [(False, False), (False, False), (True, True)]
    at_four = check_thresholds(state, candidate, forks, 4, 2 / 3)
    assert [(check.name, check.refuses) for check in at_four] == [("threshold at depth 5", True), ("threshold at depth 4", True)]


def test_a_vote_that_would_not_deepen_the_lockout_passes_the_threshold():
    # 1 to 8, then a gap in which all but the oldest expire: the deep entry stays as it is
    state = TowerVoteState([(slot, 31 - slot) for slot in range(1, 11)])
    before = state.votes
    forks = ForkChoice(bank(0, None))
    for slot in range(1, 11):
        forks.add(bank(slot, slot - 1))
    forks.add(bank(11, 10))
    after = state.copy()
    after.process_vote(11)
    deep = after.nth_recent(8)
    assert deep in before
    assert check_thresholds(state, forks.bank(11), forks, 8, 2 / 3)[-1].passed


def fork_with_votes(votes, candidate_votes=None):
    """Our last vote is 2 on one fork; 3 and 4 are another, 4 the candidate; 5 is a third fork."""
    forks = ForkChoice(bank(0, None))
    forks.add(bank(2, 0))
    forks.add(bank(3, 0))
    forks.add(bank(4, 3, votes))
    return forks


def test_38_percent_is_not_enough_to_switch_and_a_little_more_is():
    at_limit = fork_with_votes({b"a": [(3, 1)]})
    decision, check = check_switch(2, at_limit.bank(4), at_limit)
    assert (decision, check.observed, check.required) == (SwitchDecision.FAILED, 0.38, 0.38)
    above = fork_with_votes({b"a": [(3, 1)], b"b": [(3, 1)]})
    decision, check = check_switch(2, above.bank(4), above)
    assert (decision, check.passed, check.observed) == (SwitchDecision.SWITCH_PROOF, True, 0.68)


def test_a_lockout_that_ended_before_our_last_vote_does_not_count():
    forks = ForkChoice(bank(0, None))
    for slot, parent in ((1, 0), (9, 0)):
        forks.add(bank(slot, parent))
    forks.add(bank(10, 1, {b"a": [(1, 1)], b"b": [(1, 3)]}))  # until 3, and until 9
    assert check_switch(9, forks.bank(10), forks)[1].observed == 0.30


def test_a_fork_that_left_ours_after_the_candidate_s_did_proves_nothing():
    # 0-1-2-3 (last vote), 1-4 (candidate), 2-5: votes for 5 hold 2, which the candidate's fork does not
    forks = ForkChoice(bank(0, None))
    for slot, parent in ((1, 0), (2, 1), (3, 2), (4, 1)):
        forks.add(bank(slot, parent))
    everyone = {who: [(5, 4)] for who in STAKES}
    forks.add(bank(5, 2))
    forks.add(bank(6, 5, everyone))
    assert check_switch(3, forks.bank(4), forks)[0] is SwitchDecision.FAILED
    assert check_switch(3, forks.bank(6), forks)[0] is SwitchDecision.SWITCH_PROOF
    forks.add(bank(7, 0))  # one that left before the candidate's does count
    forks.add(bank(8, 7, {who: [(7, 4)] for who in STAKES}))
    assert check_switch(3, forks.bank(4), forks)[0] is SwitchDecision.SWITCH_PROOF


def test_gossip_votes_count_once_and_only_for_known_banks_on_other_forks():
    forks = fork_with_votes({b"a": [(3, 1)]})
    forks.note_gossip_vote(b"a", 4, digest("4"))
    assert check_switch(2, forks.bank(4), forks)[1].observed == 0.38
    forks.note_gossip_vote(b"b", 4, digest("another bank"))
    forks.note_gossip_vote(b"b", 99, digest("99"))
    assert check_switch(2, forks.bank(4), forks)[1].observed == 0.38
    forks.note_gossip_vote(b"b", 4, digest("4"))
    assert check_switch(2, forks.bank(4), forks)[0] is SwitchDecision.SWITCH_PROOF
    forks.note_gossip_vote(b"c", 2, digest("2"))  # on our own fork
    assert check_switch(2, forks.bank(4), forks)[1].observed == 0.68


def test_no_switch_is_needed_on_the_own_fork_and_none_possible_back_on_it():
    forks = tree((1, 0), (2, 1))
    assert check_switch(1, forks.bank(2), forks)[0] is SwitchDecision.SAME_FORK
    assert check_switch(None, forks.bank(2), forks)[0] is SwitchDecision.SAME_FORK
    assert check_switch(2, forks.bank(1), forks)[0] is SwitchDecision.FAILED


def test_no_proof_allows_a_vote_for_an_ancestor_of_the_last_one():
    forks = tree((1, 0), (2, 1), (3, 0), (4, 3), votes={who: [(3, 9)] for who in STAKES})
    assert check_switch(2, forks.bank(4), forks)[0] is SwitchDecision.SWITCH_PROOF
    decision, check = check_switch(2, forks.bank(1), forks)
    assert (decision, "is an ancestor of the last vote 2" in check.reason) == (SwitchDecision.FAILED, True)


def test_a_stray_last_vote_suspends_voting_until_it_is_passed():
    forks = fork_with_votes({b"a": [(3, 9)], b"b": [(3, 9)]})
    decision, check = check_switch(100, forks.bank(4), forks, stray=True)
    assert (decision, "suspended" in check.reason) == (SwitchDecision.FAILED, True)
    forks.add(bank(101, 4, {b"a": [(3, 9)], b"b": [(3, 9)]}))
    assert check_switch(100, forks.bank(101), forks, stray=True)[0] is SwitchDecision.SWITCH_PROOF


def test_our_own_block_must_have_been_seen_by_more_than_a_third():
    me = IDENTITY.pubkey
    forks = ForkChoice(bank(0, None))
    forks.add(bank(1, 0, leader=me))
    assert check_propagation(forks.bank(1), me, forks).passed  # our own block itself
    forks.add(bank(2, 1, {b"b": [(1, 1)]}))
    check = check_propagation(forks.bank(2), me, forks)
    assert (check.refuses, check.observed, check.required) == (True, 0.30, 1 / 3)
    forks.note_gossip_vote(b"c", 2, digest("2"))
    assert check_propagation(forks.bank(2), me, forks).passed
    assert check_propagation(forks.bank(2), b"somebody else", forks).passed


def test_can_sign_names_what_is_missing():
    state = VoteAccountState(IDENTITY.pubkey, ((0, b"old"), (5, b"new")))
    known = FrozenBank(1, 0, digest("1"), epoch=5, votes={VOTE_ACCOUNT: state})
    voter, check = check_can_sign(known, VOTE_ACCOUNT, IDENTITY.pubkey, frozenset({b"new"}))
    assert (voter, check.passed) == (b"new", True)
    early = FrozenBank(1, 0, digest("1"), epoch=4, votes={VOTE_ACCOUNT: state})
    assert check_can_sign(early, VOTE_ACCOUNT, IDENTITY.pubkey, frozenset({b"new"}))[0] is None


def test_a_vote_on_a_duplicate_leaves_it_for_free_but_never_back_below_it():
    forks = ForkChoice(bank(0, None))
    for slot, parent in ((1, 0), (2, 1), (3, 1)):
        forks.add(bank(slot, parent))
    mine = digest("2")
    assert check_switch(2, forks.bank(3), forks, last_voted_hash=mine)[0] is SwitchDecision.FAILED
    forks.mark_invalid(2, mine)
    # no other version of 2 is known yet: still ours, so still no free switch
    assert check_switch(2, forks.bank(3), forks, last_voted_hash=mine)[0] is SwitchDecision.FAILED
    assert check_switch(2, forks.bank(1), forks, last_voted_hash=mine)[0] is SwitchDecision.FAILED_DUPLICATE_ROLLBACK
    other = replace(bank(2, 1), bank_hash=digest("the other 2"))
    forks.add(other)
    assert check_switch(2, forks.bank(3), forks, last_voted_hash=mine)[0] is SwitchDecision.SWITCH_PROOF
