"""The lockout stack: golden sequences, edges of u64, and the invariants of S5. The twin is held to the same ones."""

from __future__ import annotations

from array import array

import pytest

from tower import _fast, _reference
from tower.errors import InvalidInput, InvariantViolation
from tower.lockout import TowerVoteState, adopt, malformed, require_well_formed
from tower.types import LastVote, Lockout, Tower, VoteKind

U64_MAX = 2**64 - 1


@pytest.fixture(params=[_fast, _reference], ids=["fast", "reference"])
def twin(request: pytest.FixtureRequest):
    return request.param


def voted(twin, *slots):
    state = twin.TowerVoteState()
    for slot in slots:
        state.process_vote(slot)
    return state


GOLDEN = [
    ((1, 2, 3, 4), [(1, 4), (2, 3), (3, 2), (4, 1)], None),
    ((1, 2, 3, 4, 9), [(1, 4), (2, 3), (9, 1)], None),
    ((1, 2, 3, 4, 9, 10), [(1, 4), (2, 3), (9, 2), (10, 1)], None),
    ((1, 2, 3, 4, 9, 10, 11), [(1, 5), (2, 4), (9, 3), (10, 2), (11, 1)], None),
    (tuple(range(1, 33)), [(slot, 33 - slot) for slot in range(2, 33)], 1),
    ((5, 5, 4), [(5, 1)], None),  # not newer than the top: nothing happens
    ((1, 4), [(4, 1)], None),  # 1 binds until 3
    ((1, 3), [(1, 2), (3, 1)], None),  # inclusive
    ((0,), [(0, 1)], None),
]


@pytest.mark.parametrize(("slots", "votes", "root"), GOLDEN)
def test_golden_sequences(twin, slots, votes, root):
    state = voted(twin, *slots)
    assert (state.votes, state.root, len(state)) == (votes, root, len(votes))


def test_process_vote_returns_the_slot_that_became_root(twin):
    state = twin.TowerVoteState()
    assert [state.process_vote(slot) for slot in range(1, 34)] == [None] * 31 + [1, 2]
    assert state.root == 2


EVERY_FORM = {
    "list": list,
    "generator": iter,
    "array of Q": lambda slots: array("Q", slots),
    "array of L": lambda slots: array("L", slots),
    "memoryview": lambda slots: memoryview(array("Q", slots)),
    "read-only": lambda slots: memoryview(array("Q", slots)).toreadonly(),
    "every second": lambda slots: memoryview(array("Q", [slot for slot in slots for _ in "ab"]))[::2],
    "backwards": lambda slots: memoryview(array("Q", reversed(list(slots))))[::-1],
    "unaligned": lambda slots: memoryview(b"x" + array("Q", slots).tobytes())[1:].cast("Q"),
    "signed": lambda slots: array("q", slots),  # not u64: taken as an iterable of ints
    "bytes": bytes,  # as well
}


@pytest.mark.parametrize("form", EVERY_FORM.values(), ids=EVERY_FORM)
def test_process_votes_takes_slots_in_every_form(twin, form):
    state = twin.TowerVoteState()
    assert state.process_votes(form(range(1, 34))) == 2
    assert (state, state.root) == (voted(twin, *range(1, 34)), 2)
    assert state.process_votes(form([])) == 0


def test_process_votes_takes_numpy_s_u64(twin):
    numpy = pytest.importorskip("numpy")
    state = twin.TowerVoteState()
    assert state.process_votes(numpy.arange(1, 34, dtype=numpy.uint64)) == 2
    with pytest.raises(InvalidInput, match="slot must be an int"):
        state.process_votes(numpy.arange(40, 44, dtype=numpy.uint64).reshape(2, 2))
    assert state == voted(twin, *range(1, 34))


@pytest.mark.parametrize("slots", [[40, -1], [40, 41, 2**64], [40, 1.0], [40, "41"], [40, True], array("d", [40.0])])
def test_where_one_is_no_slot_nothing_is_applied(twin, slots):
    state = voted(twin, *range(1, 34))
    with pytest.raises(InvalidInput, match="slot must be an int"):
        state.process_votes(slots)
    assert (state, state.root) == (voted(twin, *range(1, 34)), 2)


def test_an_iterable_that_fails_leaves_the_stack(twin):
    def failing():
        yield 40
        raise RuntimeError("no more slots")

    state = voted(twin, 1)
    with pytest.raises(RuntimeError, match="no more slots"):
        state.process_votes(failing())
    with pytest.raises(TypeError):
        state.process_votes(40)
    assert state.votes == [(1, 1)]


def test_expiry_stops_at_the_first_vote_still_locked(twin):
    state = twin.TowerVoteState([(2, 3), (9, 2)])  # 2 binds until 10, 9 until 13
    state.process_vote(13)
    assert state.votes == [(2, 3), (9, 2), (13, 1)]
    state = twin.TowerVoteState([(2, 3), (9, 2)])
    state.process_vote(14)
    assert state.votes == [(14, 1)]


def test_lockouts_near_the_end_of_u64_saturate(twin):
    state = twin.TowerVoteState([(U64_MAX - 1, 1)])
    state.process_vote(U64_MAX)
    assert state.votes == [(U64_MAX - 1, 2), (U64_MAX, 1)]


@pytest.mark.parametrize("slot", [-1, 2**64, 1.0, "1", None, True])
def test_a_slot_is_an_int_within_u64(twin, slot):
    state = voted(twin, 1)
    with pytest.raises(InvalidInput, match="slot must be an int"):
        state.process_vote(slot)
    assert state.votes == [(1, 1)]


@pytest.mark.parametrize(
    ("votes", "problem"),
    [
        ([(1, 0)], "not 1 to 31"),
        ([(1, 32)], "not 1 to 31"),
        ([(2, 2), (2, 1)], "slots must rise"),
        ([(1, 2), (2, 2)], "confirmation counts must fall"),
        ([(-1, 1)], "slot must be"),
    ],
)
def test_a_stack_that_cannot_be_is_refused(twin, votes, problem):
    with pytest.raises(InvalidInput, match=problem):
        twin.TowerVoteState(votes)


def test_a_copy_is_independent(twin):
    state = voted(twin, *range(1, 40))
    copy = state.copy()
    assert copy == state
    copy.process_vote(40)
    assert copy != state
    assert state.last_voted_slot == 39


def test_is_recent_and_is_locked_out(twin):
    state = twin.TowerVoteState([(10, 3), (12, 2)], root=5)  # 10 binds until 18, 12 until 16
    assert not state.is_recent(12)
    assert state.is_recent(13)
    chain = {5, 10, 12}
    assert not state.is_locked_out(13, chain)
    assert state.is_locked_out(16, {5, 10})  # 12 still binds at 16
    assert not state.is_locked_out(17, {5, 10})
    assert state.is_locked_out(18, {5})  # 10 still binds at 18
    assert not state.is_locked_out(19, {5})
    assert state.is_locked_out(19, set())  # not on the fork of our root
    assert state.is_locked_out(12, chain)
    empty = twin.TowerVoteState(root=5)
    assert not empty.is_recent(5)
    assert empty.is_recent(6)


def test_nth_recent(twin):
    state = voted(twin, 1, 2, 3)
    assert [state.nth_recent(depth) for depth in (-1, 0, 2, 3)] == [None, (3, 1), (1, 3), None]


@pytest.mark.parametrize(
    ("votes", "root", "problem"),
    [
        ([(10, 2), (11, 1)], 9, None),
        ([], None, None),
        ([(slot, 33 - slot) for slot in range(1, 33)], 0, "32 votes"),
        ([(10, 2), (11, 2)], 9, "must fall"),
        ([(11, 2), (10, 1)], 9, "must rise"),
        ([(9, 1)], 9, "not above the root"),
        ([(10, 32)], 9, "not 1 to 31"),
        ([(10, 2), (15, 1)], 9, "behind the lockout"),
    ],
)
def test_malformed_names_what_is_wrong(votes, root, problem):
    found = malformed(votes, root)
    assert found is None if problem is None else problem in found


@pytest.mark.parametrize(
    ("votes", "root", "well"),
    [
        ([(10, 2), (11, 1)], 9, True),
        ([], None, True),
        ([(0, 2), (4, 1)], 0, True),  # the root of a cluster that has just begun binds nothing
        ([(9, 1)], 9, False),
        ([(10, 2), (14, 1)], None, True),
        ([(10, 2), (15, 1)], None, False),
        ([(2**64 - 3, 2), (2**64 - 1, 1)], 5, True),  # no lockout ends before the last slot there can be
    ],
)
def test_a_stack_knows_whether_it_is_well_formed(twin, votes, root, well):
    assert twin.TowerVoteState(votes, root).is_well_formed() is well
    assert (malformed(votes, root) is None) is well


def test_a_tower_whose_last_vote_disagrees_is_refused():
    lockouts = (Lockout(10, 2), Lockout(11, 1))
    vote = LastVote(VoteKind.TOWER_SYNC, (10, 11), lockouts, 9, bytes(32), None, bytes(32))
    good = Tower(bytes(32), lockouts, 9, vote)
    require_well_formed(good)
    for bad in (
        Tower(bytes(32), lockouts[:1], 9, vote),
        Tower(bytes(32), (Lockout(10, 3), Lockout(11, 1)), 9, vote),
        Tower(bytes(32), lockouts, 8, vote),
        Tower(bytes(32), lockouts, 9, LastVote(VoteKind.VOTE, (12,))),
        Tower(bytes(32), lockouts, 9, vote, threshold_size=1.5),
    ):
        with pytest.raises(InvariantViolation, match="malformed tower"):
            require_well_formed(bad)


@pytest.mark.parametrize("landed_root", [None, 4])
def test_what_landed_never_takes_the_root_back(landed_root):
    ours = TowerVoteState([(9, 2), (10, 1)], 7)
    landed = [(6, 4), (9, 3), (10, 2), (11, 1)]
    assert adopt(ours, landed, landed_root) == TowerVoteState([(9, 3), (10, 2), (11, 1)], 7)
    assert adopt(ours, landed[1:], 8) == TowerVoteState([(9, 3), (10, 2), (11, 1)], 8)
    assert adopt(ours, landed[:3], 8) == ours
