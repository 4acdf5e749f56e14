"""The tree: the heaviest fork by newest votes, ties, ancestors, pruning; and against a readable model on random trees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.chain import digest
from tower.errors import InvalidInput
from tower.forkchoice import ForkChoice
from tower.types import FrozenBank, Lockout, VoteAccountState


def bank(slot, parent, votes=(), stakes=None, fork="", parent_fork=None):
    stakes = stakes or {}
    states = {voter: VoteAccountState(b"n", lockouts=(Lockout(voted, 1),)) for voter, voted in votes}
    parent_hash = None if parent_fork is None else digest(f"{parent_fork}{parent}")
    return FrozenBank(slot, parent, digest(f"{fork}{slot}"), votes=states, stakes=stakes, parent_hash=parent_hash)


def test_newest_votes_weigh_once_on_their_whole_fork():
    stakes = {b"a": 5, b"b": 4}
    forks = ForkChoice(bank(0, None))
    for slot, parent in ((1, 0), (2, 0), (3, 1), (4, 2)):
        forks.add(bank(slot, parent))
    assert forks.best().slot == 3  # nothing weighs: the smaller slot
    forks.add(bank(5, 4, [(b"a", 4), (b"b", 1)], stakes))
    assert (forks.stake(1), forks.stake(2), forks.stake(0)) == (4, 5, 9)
    assert forks.best().slot == 5
    forks.add(bank(6, 3, [(b"a", 3), (b"b", 3)], stakes))  # a's vote for 3 is older than its vote for 4
    assert (forks.stake(1), forks.stake(2)) == (4, 5)
    forks.add(bank(7, 6, [(b"a", 6)], stakes))
    assert (forks.stake(1), forks.stake(2)) == (9, 0)
    assert forks.best().slot == 7
    assert forks.best_below(2).slot == 5
    assert forks.best_below(99) is None


def test_a_vote_for_a_slot_counts_from_when_the_slot_is_known():
    forks = ForkChoice(bank(0, None))
    stakes = {b"a": 5}
    forks.add(bank(2, 0, [(b"a", 1)], stakes))
    assert forks.stake(0) == 0
    forks.add(bank(1, 0, (), stakes))
    assert (forks.stake(1), forks.best().slot) == (5, 1)


def test_what_cannot_be_placed_is_refused_and_changes_nothing():
    forks = ForkChoice(bank(5, None))
    forks.add(bank(6, 5))
    for wrong in (bank(7, 4), bank(8, None), bank(5, 5, fork="x")):
        with pytest.raises(InvalidInput):
            forks.add(wrong)
    forks.add(bank(6, 5))  # the same bank again is no news
    assert len(forks) == 2


def test_ancestors_reach_below_the_root():
    forks = ForkChoice(bank(5, None), rooted=[1, 3])
    forks.add(bank(6, 5))
    forks.add(bank(7, 6))
    assert forks.ancestors(7) == {1, 3, 5, 6}
    assert forks.is_ancestor(3, 7)
    assert not forks.is_ancestor(4, 7)
    assert forks.is_ancestor(7, 7)
    assert not forks.is_ancestor(7, 99)
    forks.set_root(7)
    assert (forks.root, len(forks), forks.ancestors(7)) == (7, 1, {1, 3, 5, 6})


def test_a_new_root_drops_the_other_forks():
    forks = ForkChoice(bank(0, None))
    for slot, parent in ((1, 0), (2, 0), (3, 1)):
        forks.add(bank(slot, parent))
    forks.set_root(1)
    assert 2 not in forks
    assert [leaf.slot for leaf in forks.leaves()] == [3]
    with pytest.raises(InvalidInput):
        forks.set_root(2)


STAKES = {b"a": 5, b"b": 4}


def duplicated() -> ForkChoice:
    """0-1, and two versions of 2 on 1, each with a child: x with 5 of the stake, y with 4."""
    forks = ForkChoice(bank(0, None))
    forks.add(bank(1, 0))
    for fork in ("x", "y"):
        forks.add(bank(2, 1, fork=fork))
    forks.add(bank(3, 2, fork="x", parent_fork="x"))
    forks.add(bank(4, 2, fork="y", parent_fork="y"))
    forks.add(bank(5, 3, [(b"a", 3), (b"b", 4)], STAKES))
    return forks


def test_both_versions_of_a_slot_are_kept_and_the_heavier_is_followed():
    forks = duplicated()
    assert len(forks) == 7
    assert [leaf.slot for leaf in forks.leaves()] == [4, 5]
    assert forks.best().slot == 5
    assert forks.holds(2, digest("x2"))
    assert forks.common_ancestor(3, 4) == 1


def test_an_invalid_version_is_no_candidate_but_its_weight_counts_above():
    forks = duplicated()
    forks.mark_invalid(2, digest("x2"))
    assert (forks.best().slot, forks.stake(1)) == (4, 9)
    assert forks.holds(2, digest("y2"))
    assert forks.invalid_ancestor(5) == 2
    assert forks.invalid_ancestor(4) is None
    assert forks.best_below(3).slot == 5  # the deepest, where the fork is no candidate
    forks.add(bank(6, 5))
    assert forks.invalid_ancestor(6) == 2
    forks.mark_invalid(3, digest("x3"))
    assert forks.invalid_ancestor(6) == 3


def test_a_confirmation_clears_its_ancestors_and_what_was_invalid_only_because_of_them():
    forks = duplicated()
    forks.mark_invalid(2, digest("x2"))
    forks.mark_invalid(5, digest("5"))
    forks.mark_confirmed(3, digest("x3"))
    assert forks.invalid_ancestor(3) is None
    assert forks.invalid_ancestor(5) == 5
    assert forks.best().slot == 3
    with pytest.raises(InvalidInput, match="was duplicate-confirmed"):
        forks.mark_invalid(2, digest("x2"))
    for call in (forks.mark_invalid, forks.mark_confirmed):
        with pytest.raises(InvalidInput, match="not in the tree"):
            call(9, digest("9"))


def test_of_two_votes_for_one_slot_the_smaller_hash_counts():
    small, large = sorted(("x", "y"), key=lambda fork: digest(f"{fork}2"))
    forks = ForkChoice(bank(0, None))
    for fork in (large, small):
        forks.add(bank(2, 0, fork=fork))
    forks.add(bank(3, 2, [(b"a", 2)], STAKES, parent_fork=large))
    assert forks._node(2, digest(f"{large}2")).subtree_stake == 5
    forks.add(bank(4, 2, [(b"a", 2)], STAKES, parent_fork=small))
    assert [forks._node(2, digest(f"{fork}2")).subtree_stake for fork in (small, large)] == [5, 0]
    forks.add(bank(5, 3, [(b"a", 2)], STAKES))
    assert forks._node(2, digest(f"{small}2")).subtree_stake == 5


def test_ties_go_to_the_smaller_slot_then_the_smaller_hash():
    for order in (("x", "y"), ("y", "x")):  # whichever came first: two machines must not follow two versions
        forks = ForkChoice(bank(0, None))
        for fork in order:
            forks.add(bank(2, 0, fork=fork))
        assert forks.best().bank_hash == min(digest("x2"), digest("y2"))
    forks.add(bank(1, 0))
    assert forks.best().slot == 1


@given(st.data())
def test_the_same_answer_as_the_plain_definition(data):
    """Weights by walking from every newest vote; best by descending: on any tree, after any order of pruning."""
    voters = {bytes([n]): data.draw(st.integers(1, 9)) for n in range(4)}
    forks, parents, newest = ForkChoice(bank(0, None)), {0: None}, {}
    for slot in range(1, data.draw(st.integers(2, 24))):
        parent = data.draw(st.sampled_from(sorted(parents)))
        cast = [(v, data.draw(st.sampled_from(sorted(parents)))) for v in voters if data.draw(st.booleans())]
        parents[slot] = parent
        forks.add(bank(slot, parent, cast, voters))
        for voter, voted in cast:
            newest[voter] = max(voted, newest.get(voter, -1))
        if data.draw(st.integers(0, 9)) == 0:
            root = forks.best().slot
            forks.set_root(root)
            keep = {root}
            for kept in sorted(parents):
                if parents[kept] in keep:
                    keep.add(kept)
            parents = {kept: (parents[kept] if kept != root else None) for kept in keep}
    weight = dict.fromkeys(parents, 0)
    for voter, voted in newest.items():
        at = voted if voted in parents else None
        while at is not None:
            weight[at] += voters[voter]
            at = parents[at]
    assert {slot: forks.stake(slot) for slot in parents} == weight
    best = forks.root
    while children := [slot for slot in parents if parents[slot] == best]:
        best = max(children, key=lambda slot: (weight[slot], -slot))
    assert forks.best().slot == best
