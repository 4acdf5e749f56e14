"""Vote accounts of every version: written by hand, read back, read from the real program, and damaged."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.litesvm import ACCOUNT_BYTES, IDENTITY, V1_14_11, V3, V4, VoteProgram, encode_vote_account, new_account
from tests.support.profiles import examples, timeout
from tests.support.towers import I64, KEYS, U64, stacks
from tower import _fast
from tower.errors import InvalidInput, WireError
from tower.instructions import encode_vote_instruction
from tower.types import BlockTimestamp, LastVote, Lockout, VoteAccountState, VoteKind
from tower.wire import SLOT_HASHES_MAX, decode_slot_hashes, decode_vote_account

pytestmark = timeout
VERSIONS = pytest.mark.parametrize("version", [V1_14_11, V3, V4], ids=["1_14_11", "v3", "v4"])
BLS_KEY = bytes(range(48))
STATE = VoteAccountState(
    IDENTITY.pubkey,
    ((3, b"\5" * 32), (9, b"\6" * 32)),
    (Lockout(101, 3), Lockout(104, 2)),
    100,
    ((3, 1_000, 7), (4, 1_900, 1_000)),
    BlockTimestamp(104, 1_700_000_000),
)


def u64(value):
    return value.to_bytes(8, "little")


# every field in its place, each version written out once by hand
LANDED = u64(2) + b"\1" + u64(101) + b"\3\0\0\0" + b"\1" + u64(104) + b"\2\0\0\0"
BARE = u64(2) + u64(101) + b"\3\0\0\0" + u64(104) + b"\2\0\0\0"
ROOT = b"\1" + u64(100)
AUTHORIZED = u64(2) + u64(3) + b"\5" * 32 + u64(9) + b"\6" * 32
PRIOR = b"\x99" * 1536 + u64(4) + b"\0"
EARNED = u64(2) + u64(3) + u64(1_000) + u64(7) + u64(4) + u64(1_900) + u64(1_000) + u64(104) + u64(1_700_000_000)
HEAD = IDENTITY.pubkey + b"w" * 32
V4_HEAD = HEAD + b"r" * 32 + b"b" * 32 + b"\xbc\2" + b"\x10\x27" + u64(55)
WRITTEN = {
    "1_14_11": b"\1\0\0\0" + HEAD + b"\7" + BARE + ROOT + AUTHORIZED + PRIOR + EARNED,
    "v3": b"\2\0\0\0" + HEAD + b"\7" + LANDED + ROOT + AUTHORIZED + PRIOR + EARNED,
    "v4": b"\3\0\0\0" + V4_HEAD + b"\0" + LANDED + ROOT + AUTHORIZED + EARNED,
    "v4-bls": b"\3\0\0\0" + V4_HEAD + b"\1" + BLS_KEY + LANDED + ROOT + AUTHORIZED + EARNED,
}
EACH = pytest.mark.parametrize("data", WRITTEN.values(), ids=WRITTEN.keys())


@EACH
def test_each_version_is_read(data):
    assert decode_vote_account(data) == STATE
    assert decode_vote_account(data.ljust(3762, b"\0")) == STATE


@VERSIONS
def test_an_account_that_never_voted(version):
    empty = new_account()
    assert decode_vote_account(encode_vote_account(empty, version)) == empty


STATES = st.builds(
    lambda node, voters, stack, earned, stamp: VoteAccountState(
        node, tuple(voters), tuple(Lockout(*vote) for vote in stack[0]), stack[1], tuple(earned), BlockTimestamp(*stamp)
    ),
    KEYS,
    st.lists(st.tuples(U64, KEYS), min_size=1, max_size=4),
    stacks(),
    st.lists(st.tuples(U64, U64, U64), max_size=64),
    st.tuples(U64, I64),
)


@examples(100, 5_000)
@given(STATES, st.sampled_from((V1_14_11, V3, V4)), st.integers(0, 255), st.none() | st.binary(min_size=48, max_size=48))
def test_any_state_comes_back(state, version, latency, bls_key):
    data = encode_vote_account(state, version, latency, bls_key)
    assert len(data) == ACCOUNT_BYTES[version]  # a full account fits: 31 votes, 4 voters, 64 epochs
    assert decode_vote_account(data) == state


# ---------------------------------------------------------------------------------------------- bytes from an attacker


@EACH
def test_every_truncation_is_refused_at_its_place(data):
    for length in range(len(data)):
        with pytest.raises(WireError) as refused:
            decode_vote_account(data[:length])
        assert refused.value.offset <= length


@EACH
def test_every_count_one_too_high_and_every_bad_option_is_refused(data):
    """A count takes in what follows it: on unpadded data the end, or an option byte on the way, tells."""
    for part in (LANDED, BARE, AUTHORIZED, EARNED):
        at = data.find(part)
        for count in (3, 2**32, 2**61 + 2, 2**64 - 1) if at >= 0 else ():
            with pytest.raises(WireError) as refused:
                decode_vote_account(data[:at] + u64(count) + data[at + 8 :])
            assert refused.value.offset >= at
            assert count == 3 or refused.value.offset == at
    options = [data.find(ROOT)] + ([4 + len(V4_HEAD)] if data[0] == V4 else [])
    for at in options:
        for option in (2, 0x7F, 0x80, 0xFF):
            with pytest.raises(WireError, match=f"expected 0 or 1, found {option}") as refused:
                decode_vote_account(data[:at] + bytes([option]) + data[at + 1 :])
            assert refused.value.offset == at


@pytest.mark.parametrize("version", [0, 4, 255, 2**32 - 1])
def test_other_versions_and_uninitialised_accounts_are_refused(version):
    with pytest.raises(WireError, match=f"version {version} is unknown, or the account is not initialised") as refused:
        decode_vote_account(version.to_bytes(4, "little") + bytes(3758))
    assert refused.value.offset == 0


@VERSIONS
def test_an_account_without_an_authorized_voter_is_not_initialised(version):
    with pytest.raises(WireError, match="no authorized voter"):
        decode_vote_account(encode_vote_account(replace(STATE, authorized_voters=()), version))


@examples(200, 5_000)
@given(st.sampled_from(sorted(WRITTEN)), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=4))
def test_damage_ends_in_a_state_or_a_wire_error(name, damage):
    data = bytearray(WRITTEN[name].ljust(3762, b"\0"))
    for at, byte in damage:
        data[at % len(data)] = byte
    with contextlib.suppress(WireError):
        assert isinstance(decode_vote_account(bytes(data)), VoteAccountState)


# -------------------------------------------------------------------------------------------------- the real program


@VERSIONS
def test_the_program_reads_and_writes_what_we_read_and_write(version):
    """Forty votes through the program from an account of each version: node, voter, stack, root, credits, timestamp."""
    program = VoteProgram()
    program.put(new_account(), version)
    state = _fast.TowerVoteState()
    slots = range(10, 50)
    for at, slot in enumerate(slots):
        program.on_bank([(known, u64(known) * 4) for known in reversed(slots[: at + 1])])
        vote = LastVote(VoteKind.VOTE, (slot,), hash=u64(slot) * 4, timestamp=1_000 + slot)
        assert program.send(encode_vote_instruction(vote)) is None
        state.process_vote(slot)
        read = program.read()
        assert (list(read.lockouts), read.root) == (state.votes, state.root)
        assert read.last_timestamp == (slot, 1_000 + slot)
    assert (read.node_pubkey, read.authorized_voters) == (IDENTITY.pubkey, ((0, IDENTITY.pubkey),))
    # 9 slots rooted, each with latency 1, which earns the most there is
    assert [(epoch, previous) for epoch, _, previous in read.epoch_credits] == [(0, 0)]
    assert read.epoch_credits[0][1] == 16 * 9
    assert program.data()[0] == V4
    assert decode_vote_account(encode_vote_account(read)) == read


def slot_hashes(*slots):
    return u64(len(slots)) + b"".join(u64(slot) + bytes(32) for slot in slots)


def test_slot_hashes_that_cannot_be_are_refused():
    """Each entry becomes the parent of the one before it in the tree of banks."""
    full = range(SLOT_HASHES_MAX, 0, -1)
    assert [slot for slot, _ in decode_slot_hashes(slot_hashes(*full))] == list(full)
    for slots, problem in (((5, 5), "newest first"), ((4, 5), "newest first"), ((SLOT_HASHES_MAX + 1, *full), "513 entries")):
        with pytest.raises(InvalidInput, match=problem):
            decode_slot_hashes(slot_hashes(*slots))
    with pytest.raises(WireError):
        decode_slot_hashes(slot_hashes(5, 4)[:-1])
