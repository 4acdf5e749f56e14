"""`_fast` and `_reference` agree on everything that hypothesis can think of, errors and their offsets included."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from tests.support.profiles import examples, timeout
from tests.support.towers import I64, KEYS, stacks, towers
from tower import _fast, _reference
from tower.errors import TowerError
from tower.keys import Keypair
from tower.lockout import malformed

PAIR = Keypair.from_seed(b"t" * 32)
TWINS = (_fast, _reference)
pytestmark = timeout


def fields(twin, data):
    found = twin.read_saved_tower(data)
    stack = outcome(twin.TowerVoteState.of_saved, found)
    return found.identity, found.root, found.last_voted_slot, found.generation, found.signature, found.body_at, repr(stack)


def outcome(call, *arguments):
    try:
        return call(*arguments)
    except TowerError as problem:
        return type(problem), str(problem)


@given(st.lists(st.integers(0, 200) | st.integers(0, 2**64 - 1), max_size=120))
@examples(100, 20_000)
def test_any_votes_leave_the_same_stack(slots):
    fast, reference = (twin.TowerVoteState() for twin in TWINS)
    for slot in slots:
        assert fast.process_vote(slot) == reference.process_vote(slot)
        assert (fast.votes, fast.root) == (reference.votes, reference.root)
        assert malformed(fast.votes, fast.root) is None
        assert fast.is_well_formed()


@st.composite
def raw_stacks(draw):
    """Stacks that a tower may be made from, whether or not votes could leave them: slots rise and counts fall."""
    counts = sorted(draw(st.sets(st.integers(1, 31), max_size=31)), reverse=True)
    slot, votes = draw(st.integers(0, 20) | st.integers(2**64 - 2**33, 2**64 - 1)), []
    for count in counts:
        if slot >= 1 << 64:
            break
        votes.append((slot, count))
        slot += draw(st.integers(1, 4) | st.integers(-1, 1).map(lambda off, reach=1 << count: max(1, reach + off)))
    below = st.integers(0, votes[0][0] + 1 if votes else 3).filter(lambda root: root < 1 << 64)
    return votes, draw(st.none() | st.just(0) | below)


@given(raw_stacks())
@examples(300, 20_000)
def test_the_twins_and_the_named_rules_find_the_same_stacks_well_formed(stack):
    votes, root = stack
    well = malformed(votes, root) is None
    assert [twin.TowerVoteState(votes, root).is_well_formed() for twin in TWINS] == [well, well]


@given(st.lists(st.integers(0, 200) | st.integers(0, 2**64 - 1), max_size=120), st.booleans())
@examples(100, 20_000)
def test_votes_at_once_are_the_votes_one_by_one(slots, as_buffer):
    states = [twin.TowerVoteState() for twin in TWINS]
    rooted = [state.process_votes(array("Q", slots) if as_buffer else slots) for state in states]
    single = _fast.TowerVoteState()
    assert rooted == [sum(single.process_vote(slot) is not None for slot in slots)] * 2
    assert [(state.votes, state.root) for state in states] == [(single.votes, single.root)] * 2


@given(st.lists(st.integers(1, 9), min_size=1, max_size=200), st.data())
@examples(100, 20_000)
def test_locked_out_agrees_on_any_fork(steps, data):
    fast, reference = (twin.TowerVoteState() for twin in TWINS)
    slot = 0
    for step in steps:
        slot += step
        fast.process_vote(slot)
        reference.process_vote(slot)
    ancestors = {voted for voted, _ in fast.votes if data.draw(st.booleans())} | {fast.root}
    candidate = max(0, slot + data.draw(st.integers(-3, 70)))
    assert fast.is_locked_out(candidate, ancestors) == reference.is_locked_out(candidate, ancestors)
    assert fast.is_recent(candidate) == reference.is_recent(candidate)


@given(towers())
@examples(60, 20_000)
def test_any_tower_encodes_to_the_same_bytes_and_back(tower):
    saved = [twin.encode_saved_tower(tower, PAIR.secret, tower.generation) for twin in TWINS]
    assert saved[0] == saved[1]
    for twin in TWINS:
        read, signature, body_at = twin.decode_saved_tower(saved[0])
        assert read == tower
        assert twin.verify(PAIR.pubkey, saved[0][body_at:], signature)
        found = twin.read_saved_tower(saved[0])
        assert (found.data, found.signature, found.body_at, found.generation) == (
            saved[0], signature, body_at, tower.generation
        )  # fmt: skip
        assert (found.identity, found.root, found.last_voted_slot) == (tower.identity, tower.root, tower.last_voted_slot)
        assert twin.TowerVoteState.of_saved(found) == twin.TowerVoteState(tower.votes, tower.root)


@given(towers(), st.data())
@examples(60, 20_000)
def test_damaged_towers_end_the_same_way(tower, data):
    saved = bytearray(_fast.encode_saved_tower(tower, PAIR.secret, tower.generation))
    for _ in range(data.draw(st.integers(1, 4))):
        saved[data.draw(st.integers(0, len(saved) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(saved[: data.draw(st.integers(0, len(saved)))]) if data.draw(st.booleans()) else bytes(saved)
    assert repr(outcome(_fast.decode_saved_tower, cut)) == repr(outcome(_reference.decode_saved_tower, cut))
    assert outcome(fields, _fast, cut) == outcome(fields, _reference, cut)


@given(st.binary(max_size=300), st.booleans())
@examples(100, 20_000)
def test_hostile_compact_votes_end_the_same_way(data, with_block_id):
    results = [outcome(twin.decode_compact_vote, data, 0, with_block_id) for twin in TWINS]
    assert results[0] == results[1]


@given(stacks(), KEYS, st.none() | I64, KEYS, st.booleans(), st.booleans())
@examples(100, 20_000)
def test_votes_are_the_same_on_the_wire(stack, bank_hash, timestamp, block_id, two_signers, switch):
    votes, root = stack
    voter = Keypair.from_seed(b"v" * 32) if two_signers else PAIR
    proof = bytes(32) if switch else None
    transactions, records, bodies = [], [], []
    for twin in TWINS:
        state = twin.TowerVoteState(votes, root)
        message = twin.encode_vote_message(
            PAIR.pubkey, voter.pubkey, bytes(32), bytes(32), state, bank_hash, timestamp, block_id, proof
        )
        transactions.append(twin.sign_transaction(message, [PAIR.secret, voter.secret][: 1 + two_signers]))
        records.append(
            twin.encode_vote_record(
                PAIR.pubkey, PAIR.secret, state, bank_hash, timestamp, block_id, (1, timestamp or 0), 8, 2 / 3
            )
        )
        bodies.append(twin.encode_vote_body(PAIR.pubkey, state, bank_hash, timestamp, block_id, (1, timestamp or 0), 8, 2 / 3))
    assert transactions[0] == transactions[1]
    assert records[0] == records[1]
    assert bodies == [records[0][76:]] * 2
