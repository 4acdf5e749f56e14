"""Saved towers: golden vectors, every real file, and what an attacker or a torn write could hand us."""

from __future__ import annotations

import hashlib
import tracemalloc

import pytest
from solders.keypair import Keypair as SoldersKeypair
from solders.pubkey import Pubkey

from tests.support.towers import FIXTURES, fixture_params
from tower import InvalidSignature, TowerError, WireError, WrongTower, _fast, _reference
from tower.errors import InvalidInput
from tower.keys import Keypair
from tower.lockout import require_well_formed
from tower.types import BlockTimestamp, Generation, LastVote, Lockout, Tower, VoteKind
from tower.wire import (
    decode_saved_tower,
    decode_saved_tower_unchecked,
    encode_saved_tower,
    to_current,
)

PAIR = Keypair.from_seed(bytes([7]) * 32)
LOCKOUTS = (Lockout(101, 3), Lockout(104, 2), Lockout(300, 1))


def golden(identity: bytes, kind: VoteKind) -> Tower:
    block_id = b"\x22" * 32 if kind is VoteKind.TOWER_SYNC else None
    vote = LastVote(kind, (101, 104, 300), LOCKOUTS, 100, b"\x11" * 32, 1_700_000_000, block_id)
    return Tower(identity, LOCKOUTS, 100, vote, BlockTimestamp(300, 1_700_000_000))


SAVED = encode_saved_tower(golden(PAIR.pubkey, VoteKind.TOWER_SYNC), PAIR)


def test_golden_saved_tower():
    assert len(SAVED) == 1928
    assert hashlib.sha256(SAVED).hexdigest() == "bcae6d9dd91c8631fcf6e74580beb16f551e33dadd62e8cf32fff797d40f6dc7"


@pytest.mark.parametrize(
    ("kind", "size", "digest"),
    [
        (VoteKind.TOWER_SYNC, 1852, "f61cbd7c0af8a3fc9d194825ea31f1633447cfaaf4ad0ba481a6b8970c86c768"),
        (VoteKind.VOTE_STATE_UPDATE, 1857, "3fb04480d43758c60519e6d79da67c761fb84626c24b441a78288186ec3c8857"),
    ],
)
def test_golden_bodies(kind, size, digest):
    body = _fast.encode_tower_body(golden(b"\x01" * 32, kind), Generation.CURRENT)
    assert (len(body), hashlib.sha256(body).hexdigest()) == (size, digest)


def test_the_hot_path_writes_what_the_general_one_writes():
    for twin in (_fast, _reference):
        state = twin.TowerVoteState(LOCKOUTS, 100)
        body = twin.encode_vote_body(
            PAIR.pubkey, state, b"\x11" * 32, 1_700_000_000, b"\x22" * 32, (300, 1_700_000_000), 8, 2 / 3
        )
        assert body == SAVED[BODY:]
        record = twin.encode_vote_record(
            PAIR.pubkey, PAIR.secret, state, b"\x11" * 32, 1_700_000_000, b"\x22" * 32, (300, 1_700_000_000), 8, 2 / 3
        )
        assert record == SAVED


@pytest.mark.parametrize("entry", fixture_params(torn=False))
def test_every_real_file(entry):
    data = (FIXTURES / entry["path"]).read_bytes()
    tower = decode_saved_tower(data, entry["identity"])
    require_well_formed(tower)
    vote = tower.last_vote
    assert tower.generation.value == entry["layout"]
    assert [list(pair) for pair in tower.votes] == entry["votes"]
    assert (tower.root, tower.threshold_depth, tower.threshold_size) == (
        entry["root"],
        entry["threshold_depth"],
        entry["threshold_size"],
    )
    assert vote.kind.value == entry["last_vote_kind"].removesuffix("(bare)")
    assert (vote.hash.hex(), vote.timestamp) == (entry["last_vote_hash"], entry["last_vote_timestamp"])
    assert (vote.block_id.hex() if vote.block_id else None) == entry["block_id"]
    assert tower.last_timestamp._asdict() == entry["last_timestamp"]
    assert len(tower.extras.authorized_voters) == entry["authorized_voters"]
    assert len(tower.extras.epoch_credits) == entry["epoch_credits"]
    body_at = _fast.read_saved_tower(data).body_at
    for twin in (_fast, _reference):
        saved = twin.read_saved_tower(data)
        assert (saved.data, saved.body_at, saved.generation) == (data, body_at, tower.generation)
        assert (saved.identity, saved.root, saved.last_voted_slot) == (tower.identity, tower.root, tower.last_voted_slot)
        assert twin.TowerVoteState.of_saved(saved) == twin.TowerVoteState(tower.votes, tower.root)
        assert twin.encode_tower_body(tower, tower.generation) == data[body_at:]
    # and converted to what is written today, by a key of ours, it reads back the same
    ours = to_current(tower)
    ours = Tower(PAIR.pubkey, ours.lockouts, ours.root, ours.last_vote, ours.last_timestamp)
    again = decode_saved_tower(encode_saved_tower(ours, PAIR), PAIR.pubkey)
    assert (again, again.generation) == (ours, Generation.CURRENT)


@pytest.mark.parametrize("entry", fixture_params(torn=True))
def test_a_torn_real_file_is_refused_with_its_offset(entry):
    data = (FIXTURES / entry["path"]).read_bytes()
    with pytest.raises(WireError, match="the data ends early") as refused:
        decode_saved_tower(data, PAIR.pubkey)
    assert refused.value.offset == len(data)


@pytest.mark.parametrize("identity", [PAIR, PAIR.pubkey, PAIR.address, Pubkey(PAIR.pubkey)], ids=type)
def test_the_identity_may_come_in_any_form(identity):
    assert decode_saved_tower(SAVED, identity).votes == [(101, 3), (104, 2), (300, 1)]


@pytest.mark.parametrize("key", [PAIR, PAIR.secret, SoldersKeypair.from_bytes(PAIR.secret)], ids=type)
def test_the_keypair_may_come_in_any_form(key):
    assert encode_saved_tower(golden(PAIR.pubkey, VoteKind.TOWER_SYNC), key) == SAVED


def test_another_identity_is_an_invalid_signature_and_not_a_wrong_tower():
    with pytest.raises(InvalidSignature):
        decode_saved_tower(SAVED, Keypair.generate())


def test_a_tower_of_another_node_under_our_signature_is_a_wrong_tower():
    other = Keypair.generate()
    body = _fast.encode_tower_body(golden(other.pubkey, VoteKind.TOWER_SYNC), Generation.CURRENT)
    forged = b"\1\0\0\0" + _fast.sign(PAIR.secret, body) + len(body).to_bytes(8, "little") + body
    with pytest.raises(WrongTower) as refused:
        decode_saved_tower(forged, PAIR)
    assert (refused.value.expected, refused.value.found) == (PAIR.address, other.address)


def test_saving_the_tower_of_another_node_is_refused():
    with pytest.raises(WrongTower):
        encode_saved_tower(golden(bytes(32), VoteKind.TOWER_SYNC), PAIR)


def test_every_truncation_is_refused_without_harm():
    for twin in (_fast, _reference):
        for size in range(len(SAVED)):
            for read in (twin.read_saved_tower, twin.decode_saved_tower):
                with pytest.raises(WireError):
                    read(SAVED[:size])


def test_every_flipped_bit_is_refused():
    for at in range(4, len(SAVED)):
        data = bytearray(SAVED)
        data[at] ^= 1 << (at % 8)
        with pytest.raises((InvalidSignature, WireError)):
            decode_saved_tower(bytes(data), PAIR)


def mutated(at: int, new: bytes) -> bytes:
    return SAVED[:at] + new + SAVED[at + len(new) :]


BODY = 76
VOTES_AT = BODY + 32 + 8 + 8 + 65
ROOT_AT = VOTES_AT + 8 + 3 * 12
VOTERS_AT = ROOT_AT + 9
RING_END = VOTERS_AT + 8 + 1545
LAST_VOTE_AT = RING_END + 8 + 16
COUNT_AT = LAST_VOTE_AT + 4 + 8


@pytest.mark.parametrize(
    ("data", "offset", "reason"),
    [
        (b"", 0, "ends early"),
        (mutated(0, b"\2"), 0, "version tag 2"),
        (SAVED + b"\0", len(SAVED), "1 bytes follow"),
        (mutated(BODY - 8, (len(SAVED) - BODY + 1).to_bytes(8, "little")) + b"\0", len(SAVED), "1 bytes follow"),
        (mutated(VOTES_AT, b"\xff" * 8), VOTES_AT, "votes: 18446744073709551615 items"),
        (mutated(ROOT_AT, b"\2"), ROOT_AT, "root option: expected 0 or 1, found 2"),
        (mutated(VOTERS_AT, b"\xff\xff"), VOTERS_AT, "authorized voters: 65535 items"),
        (mutated(RING_END - 1, b"\3"), RING_END - 1, "prior voters: expected 0 or 1, found 3"),
        (mutated(LAST_VOTE_AT, b"\4"), LAST_VOTE_AT, "kind of the last vote: expected 0 to 3, found 4"),
        (mutated(COUNT_AT, b"\x83\x00"), COUNT_AT, "longer than it needs to be"),
        (mutated(COUNT_AT, b"\xff\xff\xff"), COUNT_AT, "longer than 3 bytes"),
        (mutated(COUNT_AT, b"\xff\xff\x7f"), COUNT_AT, "more than 65535"),
        (mutated(COUNT_AT + 1, b"\xff" * 10), COUNT_AT + 1, "more than 64 bits"),
        (mutated(COUNT_AT + 1, b"\x80\x00"), COUNT_AT + 1, "longer than it needs to be"),
    ],
)
def test_the_attackers_list(data, offset, reason):
    for twin in (_fast, _reference):
        for read in (twin.read_saved_tower, twin.decode_saved_tower):
            with pytest.raises(WireError, match=reason) as refused:
                read(data)
            assert refused.value.offset == offset


def test_a_saved_tower_keeps_its_bytes_and_reads_them_when_asked():
    for twin in (_fast, _reference):
        saved = twin.read_saved_tower(bytes(bytearray(SAVED)))
        assert (saved.data, saved.body_at, saved.generation) == (SAVED, BODY, Generation.CURRENT)
        assert (saved.identity, saved.signature) == (PAIR.pubkey, SAVED[4:68])
        assert (saved.root, saved.last_voted_slot) == (100, 300)
        assert saved.tower() == golden(PAIR.pubkey, VoteKind.TOWER_SYNC)
        assert twin.TowerVoteState.of_saved(saved) == twin.TowerVoteState(LOCKOUTS, 100)


def test_reading_allocates_nothing_but_its_result():
    _fast.read_saved_tower(SAVED)
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        found = _fast.read_saved_tower(SAVED)
        left, peak = tracemalloc.get_traced_memory()
        assert (peak, found.root) == (left, 100)  # the result comes first: whatever came and went beside it would show
        tracemalloc.reset_peak()
        found.tower()
        left, peak = tracemalloc.get_traced_memory()
        assert peak > left
    finally:
        tracemalloc.stop()


def test_a_tower_of_a_node_that_never_voted():
    saved = encode_saved_tower(Tower(PAIR.pubkey), PAIR)
    for twin in (_fast, _reference):
        found = twin.read_saved_tower(saved)
        assert (found.root, found.last_voted_slot, twin.TowerVoteState.of_saved(found).votes) == (None, None, [])


def test_a_sound_file_with_an_impossible_stack_is_no_stack():
    for lockouts, problem in (
        (tuple(Lockout(slot, 60 - slot) for slot in range(1, 33)), "confirmation count of slot 1 is 59, not 1 to 31"),
        ((Lockout(5, 2), Lockout(5, 1)), "slots must rise: 5 follows 5"),
        ((Lockout(5, 1), Lockout(6, 2**32 - 1)), "is 4294967295, not 1 to 31"),
    ):
        saved = encode_saved_tower(Tower(PAIR.pubkey, lockouts), PAIR)
        for twin in (_fast, _reference):
            found = twin.read_saved_tower(saved)
            assert found.tower().lockouts == lockouts
            with pytest.raises(InvalidInput, match=problem):
                twin.TowerVoteState.of_saved(found)


def test_a_saved_tower_comes_only_from_reading():
    with pytest.raises(TypeError):
        _fast.SavedTower()
    nothing = _fast.SavedTower.__new__(_fast.SavedTower)
    assert (nothing.data, nothing.identity, nothing.last_voted_slot) == (b"", b"", None)
    assert _fast.TowerVoteState.of_saved(nothing).votes == []
    with pytest.raises(WireError):
        nothing.tower()


def test_a_slot_beyond_u64_is_refused():
    payload = (2**64 - 2).to_bytes(8, "little") + b"\x01" + b"\x02" + b"\x01" + bytes(32) + b"\0"
    for twin in (_fast, _reference):
        with pytest.raises(WireError, match="larger than 64 bits"):
            twin.decode_compact_vote(payload, 0, False)


def test_unchecked_reading_tells_whether_the_owner_signed():
    assert decode_saved_tower_unchecked(SAVED)[1]
    assert not decode_saved_tower_unchecked(mutated(10, b"\0\0"))[1]


@pytest.mark.parametrize("error", [InvalidSignature, WrongTower, WireError, InvalidInput])
def test_every_error_is_a_tower_error(error):
    assert issubclass(error, TowerError)


def test_the_old_layout_holds_no_full_tower_vote():
    with pytest.raises(InvalidInput, match="holds only a Vote"):
        encode_saved_tower(golden(PAIR.pubkey, VoteKind.TOWER_SYNC), PAIR, Generation.BARE_1_7_14)
