"""A stored tower against the slot history: what still binds, what is too old, and what cannot be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.litesvm import LiteSVM
from solders.litesvm import SlotHistory as SoldersHistory

from tower.errors import TowerInconsistent, TowerTooOld, WireError
from tower.lockout import TowerVoteState
from tower.restore import HISTORY_SLOTS, Adjusted, SlotHistory, SlotState, adjust


def test_decode_and_its_limits():
    history = SlotHistory.of({3, 5, 7}, newest=9)
    data = history.encode()
    assert len(data) == 131_097
    assert SlotHistory.decode(data) == history
    damaged = [b"", b"\0" + data[1:], b"\2" + data[1:], data[:-1], data[:100]]
    for bad in [*damaged, b"\1" + b"\xff" * 8 + data[9:], data[:-16] + bytes(16)]:
        with pytest.raises(WireError):
            SlotHistory.decode(bad)


def test_states_of_slots():
    newest = HISTORY_SLOTS + 100
    history = SlotHistory.of({101, 102, newest}, newest)
    states = {slot: history.check(slot) for slot in (100, 101, 103, newest, newest + 1)}
    assert states == {
        100: SlotState.TOO_OLD,
        101: SlotState.FOUND,
        103: SlotState.NOT_FOUND,
        newest: SlotState.FOUND,
        newest + 1: SlotState.FUTURE,
    }


@given(st.sets(st.integers(0, 300), min_size=1, max_size=40))
def test_the_field_s_own_history_says_the_same(slots):
    theirs = SoldersHistory.default()
    for slot in sorted(slots):
        theirs.add(slot)
    ours = SlotHistory.of(slots, max(slots))
    svm = LiteSVM()
    svm.set_slot_history(theirs)
    for slot in range(max(slots) + 3):
        name = str(theirs.check(slot)).rsplit(".", 1)[-1].lower().replace("_", "")
        # the ring of a new history has slot 0 set
        if slot or 0 in slots:
            assert name == ours.check(slot).name.lower().replace("_", ""), slot


CASES = [
    # votes, tower root, replayed root, slots of the history, newest slot of the history -> result
    ([(10, 3), (11, 2), (12, 1)], 9, 9, {9}, 9, Adjusted([(10, 3), (11, 2), (12, 1)], 9, 12)),  # nothing rooted since
    ([(10, 3), (11, 2), (12, 1)], 9, 12, {9, 10, 11, 12}, 12, Adjusted([], 12, None)),  # all rooted
    ([(10, 3), (11, 2), (12, 1)], 9, 11, {9, 10, 11}, 11, Adjusted([(12, 1)], 11, 12)),  # all but the newest
    ([(10, 3), (12, 2), (13, 1)], 9, 15, {9, 10, 11, 15}, 15, Adjusted([(12, 2), (13, 1)], 10, 13)),  # a lost fork binds
    ([(10, 3), (12, 2), (20, 1)], 9, 15, {9, 10, 15}, 15, Adjusted([(12, 2), (20, 1)], 10, 20)),
    ([(20, 2), (21, 1)], 18, 15, {15}, 15, Adjusted([(20, 2), (21, 1)], 18, 21)),  # a tower of the future
    ([(10, 2), (11, 1)], None, 5, {5}, 5, Adjusted([(10, 2), (11, 1)], None, 11)),  # never rooted, all ahead
    ([(2, 2), (3, 1)], None, 5, {1, 5}, 5, Adjusted([(2, 2), (3, 1)], None, 3)),  # never rooted, all on a lost fork
    ([(2, 2), (3, 1)], None, 5, {2, 5}, 5, Adjusted([(3, 1)], 2, 3)),
    ([], None, 7, {7}, 7, Adjusted([], 7, None)),
    ([], 9, 7, {7}, 7, Adjusted([], 9, None)),
]


@pytest.mark.parametrize(("votes", "root", "replayed", "slots", "newest", "result"), CASES)
def test_what_still_binds(votes, root, replayed, slots, newest, result):
    found = adjust(votes, root, replayed, SlotHistory.of(slots, newest))
    assert found == result
    TowerVoteState(found.votes, found.root)


@pytest.mark.parametrize(
    ("votes", "root", "replayed", "slots", "newest", "text"),
    [
        ([(10, 2), (12, 1)], 9, 13, {12, 13}, 13, "not in the ledger"),  # 12 rooted, 10 below it not
        ([(10, 1)], 9, 20, {20}, 20, "no slot in common"),
        ([(10, 1)], 9, 20, {9}, 20, "not in its own history"),
    ],
)
def test_what_cannot_be(votes, root, replayed, slots, newest, text):
    with pytest.raises(TowerInconsistent, match=text):
        adjust(votes, root, replayed, SlotHistory.of(slots, newest))


def test_a_tower_older_than_the_history_is_too_old():
    newest = HISTORY_SLOTS + 500
    with pytest.raises(TowerTooOld) as refused:
        adjust([(10, 1)], 9, newest, SlotHistory.of({newest}, newest))
    assert (refused.value.last_voted_slot, refused.value.oldest_slot) == (10, 501)


@given(st.data())
def test_what_stays_is_always_a_legal_stack_above_its_root(data):
    state = TowerVoteState()
    slot = 0
    for step in data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=60)):
        slot += step
        state.process_vote(slot)
    rooted = {voted for voted, _ in state.votes[: data.draw(st.integers(0, len(state)))]} | {state.root or 0}
    newest = max(rooted) + data.draw(st.integers(0, 30))
    history = SlotHistory.of(rooted | {newest}, newest)
    try:
        found = adjust(state.votes, state.root, newest, history)
    except TowerInconsistent:
        return
    kept = TowerVoteState(found.votes, found.root)
    assert found.root is None or all(voted > found.root for voted, _ in kept.votes)
    assert found.votes == [vote for vote in state.votes if vote in found.votes]
