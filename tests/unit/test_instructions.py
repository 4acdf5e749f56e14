"""Every voting instruction: byte for byte what `solders` builds around it, back again, and the attacker's list."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair as SoldersKeypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import Transaction

from tests.support.profiles import examples, timeout
from tests.support.towers import I64, KEYS, stacks
from tower import _fast
from tower.errors import InvalidInput, WireError
from tower.instructions import (
    CLOCK_SYSVAR_ID,
    INSTRUCTION_TAGS,
    SLOT_HASHES_SYSVAR_ID,
    TRANSACTION_BYTES_MAX,
    encode_instruction_message,
    encode_vote_instruction,
)
from tower.keys import Keypair
from tower.types import LastVote, Lockout, VoteKind
from tower.wire import VOTE_PROGRAM_ID, decode_vote_instruction

pytestmark = timeout
IDENTITY = Keypair.from_seed(b"i" * 32)
VOTERS = [Keypair.from_seed(bytes([byte]) * 32) for byte in (1, 2, 3)]
VOTE_ACCOUNT = Keypair.from_seed(b"a" * 32).pubkey
BLOCKHASH, BANK_HASH, BLOCK_ID, PROOF = b"\x0b" * 32, b"\x11" * 32, b"\x22" * 32, bytes(32)
STAMP = 1_700_000_000
LOCKOUTS = (Lockout(101, 3), Lockout(104, 2), Lockout(300, 1))
SLOTS = (101, 104, 300)
VOTES = {
    VoteKind.VOTE: LastVote(VoteKind.VOTE, SLOTS, (), None, BANK_HASH, STAMP),
    VoteKind.VOTE_STATE_UPDATE: LastVote(VoteKind.VOTE_STATE_UPDATE, SLOTS, LOCKOUTS, 100, BANK_HASH, STAMP),
    VoteKind.COMPACT_VOTE_STATE_UPDATE: LastVote(
        VoteKind.COMPACT_VOTE_STATE_UPDATE, SLOTS, LOCKOUTS, 100, BANK_HASH, STAMP
    ),
    VoteKind.TOWER_SYNC: LastVote(VoteKind.TOWER_SYNC, SLOTS, LOCKOUTS, 100, BANK_HASH, STAMP, BLOCK_ID),
}
KINDS = pytest.mark.parametrize("kind", list(VoteKind), ids=lambda kind: kind.value)
SWITCH = pytest.mark.parametrize("proof", [None, PROOF], ids=["same-fork", "switch"])


def u64(value):
    return value.to_bytes(8, "little")


STAMPED = BANK_HASH + b"\1" + u64(STAMP)
COMPACT = u64(100) + bytes.fromhex("03 0103 0302 c40101")
# written by hand from the layouts: what stands between the tag and the switch proof
PAYLOADS = {
    VoteKind.VOTE: u64(3) + u64(101) + u64(104) + u64(300) + STAMPED,
    VoteKind.VOTE_STATE_UPDATE: (
        u64(3) + u64(101) + b"\3\0\0\0" + u64(104) + b"\2\0\0\0" + u64(300) + b"\1\0\0\0" + b"\1" + u64(100) + STAMPED
    ),
    VoteKind.COMPACT_VOTE_STATE_UPDATE: COMPACT + STAMPED,
    VoteKind.TOWER_SYNC: COMPACT + STAMPED + BLOCK_ID,
}
TAGS = {
    VoteKind.VOTE: (2, 6),
    VoteKind.VOTE_STATE_UPDATE: (8, 9),
    VoteKind.COMPACT_VOTE_STATE_UPDATE: (12, 13),
    VoteKind.TOWER_SYNC: (14, 15),
}


@KINDS
@SWITCH
def test_the_bytes_of_each_form(kind, proof):
    data = encode_vote_instruction(VOTES[kind], proof)
    assert data == TAGS[kind][proof is not None].to_bytes(4, "little") + PAYLOADS[kind] + (proof or b"")
    assert decode_vote_instruction(data) == VOTES[kind]
    assert decode_vote_instruction(data + b"trailing bytes are allowed") == VOTES[kind]


@KINDS
@SWITCH
@pytest.mark.parametrize("voter", [IDENTITY, *VOTERS], ids=["one-signer", "two-1", "two-2", "two-3"])
def test_the_message_is_what_solders_builds_and_verifies(kind, proof, voter):
    data = encode_vote_instruction(VOTES[kind], proof)
    message = encode_instruction_message(IDENTITY.pubkey, voter.pubkey, VOTE_ACCOUNT, BLOCKHASH, data)
    sysvars = [SLOT_HASHES_SYSVAR_ID, CLOCK_SYSVAR_ID] if kind is VoteKind.VOTE else []
    metas = [
        AccountMeta(Pubkey(VOTE_ACCOUNT), False, True),
        *(AccountMeta(Pubkey(sysvar), False, False) for sysvar in sysvars),
        AccountMeta(Pubkey(voter.pubkey), True, False),
    ]
    instruction = Instruction(Pubkey(VOTE_PROGRAM_ID), data, metas)
    theirs = Message.new_with_blockhash([instruction], Pubkey(IDENTITY.pubkey), Hash(BLOCKHASH))
    assert message == bytes(theirs)
    secrets = list({pair.pubkey: pair.secret for pair in (IDENTITY, voter)}.values())
    transaction = _fast.sign_transaction(message, secrets)
    parsed = Transaction.from_bytes(transaction)
    parsed.verify()
    signers = [SoldersKeypair.from_bytes(secret) for secret in secrets]
    assert transaction == bytes(Transaction(signers, theirs, Hash(BLOCKHASH)))


def test_the_sysvars_are_the_ones_the_cluster_knows():
    assert str(Pubkey(CLOCK_SYSVAR_ID)) == "SysvarC1ock11111111111111111111111111111111"
    assert str(Pubkey(SLOT_HASHES_SYSVAR_ID)) == "SysvarS1otHashes111111111111111111111111111"


@examples(100, 5_000)
@given(stacks(), KEYS, st.none() | I64, KEYS, st.booleans(), st.none() | KEYS)
def test_the_hot_path_gives_the_same_bytes(stack, bank_hash, timestamp, block_id, two_signers, proof):
    votes, root = stack
    voter = VOTERS[0].pubkey if two_signers else IDENTITY.pubkey
    state = _fast.TowerVoteState(votes, root)
    hot = _fast.encode_vote_message(
        IDENTITY.pubkey, voter, VOTE_ACCOUNT, BLOCKHASH, state, bank_hash, timestamp, block_id, proof
    )
    lockouts = tuple(Lockout(*vote) for vote in votes)
    slots = tuple(lockout.slot for lockout in lockouts)
    vote = LastVote(VoteKind.TOWER_SYNC, slots, lockouts, root, bank_hash, timestamp, block_id)
    data = encode_vote_instruction(vote, proof)
    assert encode_instruction_message(IDENTITY.pubkey, voter, VOTE_ACCOUNT, BLOCKHASH, data) == hot


@examples(100, 5_000)
@given(stacks(), st.sampled_from(list(VoteKind)), KEYS, st.none() | I64, KEYS, st.none() | KEYS)
def test_any_vote_comes_back(stack, kind, bank_hash, timestamp, block_id, proof):
    lockouts = tuple(Lockout(*vote) for vote in stack[0])
    slots = tuple(lockout.slot for lockout in lockouts)
    if kind is VoteKind.VOTE:
        vote = LastVote(kind, slots, (), None, bank_hash, timestamp)
    else:
        vote = LastVote(kind, slots, lockouts, stack[1], bank_hash, timestamp)
    if kind is VoteKind.TOWER_SYNC:
        vote = replace(vote, block_id=block_id)
    assert decode_vote_instruction(encode_vote_instruction(vote, proof)) == vote


# ---------------------------------------------------------------------------------------------- bytes from an attacker


@KINDS
@SWITCH
def test_every_truncation_is_refused_at_its_place(kind, proof):
    data = encode_vote_instruction(VOTES[kind], proof)
    for length in range(len(data)):
        with pytest.raises(WireError) as refused:
            decode_vote_instruction(data[:length])
        assert refused.value.offset <= length


def at_tag(kind, payload):
    return TAGS[kind][0].to_bytes(4, "little") + payload


PLAIN, UPDATE, SYNC = VoteKind.VOTE, VoteKind.VOTE_STATE_UPDATE, VoteKind.TOWER_SYNC
REST = BANK_HASH + b"\0"
HOSTILE = {
    # counts: one too high, and so high that a careless reader allocates or overflows
    "vote count one too high": (at_tag(PLAIN, u64(2) + u64(7) + REST), None),
    "vote count of 2**64-1": (at_tag(PLAIN, u64(2**64 - 1) + u64(7) + REST), 4),
    "vote count that wraps at 8 bytes": (at_tag(PLAIN, u64(2**61 + 1) + u64(7) + REST), 4),
    "update count one too high": (at_tag(UPDATE, u64(2) + u64(9) + b"\1\0\0\0\0" + REST), None),
    "update count that wraps at 12 bytes": (at_tag(UPDATE, u64(2**64 // 12 + 1) + bytes(12) + REST), 4),
    "compact count one too high": (at_tag(SYNC, u64(8) + b"\2\1\1" + REST + BLOCK_ID), None),
    "compact count of 65535": (at_tag(SYNC, u64(8) + b"\xff\xff\x03\1\1" + REST + BLOCK_ID), 12),
    "compact count above 16 bits": (at_tag(SYNC, u64(8) + b"\x80\x80\x04" + bytes(99)), 12),
    "compact count of four bytes": (at_tag(SYNC, u64(8) + b"\x80\x80\x80\x01" + bytes(99)), 12),
    "compact count longer than needed": (at_tag(SYNC, u64(8) + b"\x81\x00\1\1" + REST + BLOCK_ID), 12),
    "compact zero longer than needed": (at_tag(SYNC, u64(8) + b"\x80\x00" + REST + BLOCK_ID), 12),
    # option bytes
    "vote timestamp option 2": (at_tag(PLAIN, u64(0) + BANK_HASH + b"\2" + u64(1)), 44),
    "update root option 255": (at_tag(UPDATE, u64(0) + b"\xff" + u64(1) + REST), 12),
    "update timestamp option 2": (at_tag(UPDATE, u64(0) + b"\0" + BANK_HASH + b"\2" + u64(1)), 45),
    "compact timestamp option 2": (at_tag(SYNC, u64(8) + b"\0" + BANK_HASH + b"\2" + u64(1) + BLOCK_ID), 45),
    # varints
    "offset longer than needed": (at_tag(SYNC, u64(8) + b"\1\x81\x00\1" + REST + BLOCK_ID), 13),
    "offset of eleven bytes": (at_tag(SYNC, u64(8) + b"\1" + b"\xff" * 10 + b"\1\1" + REST + BLOCK_ID), 13),
    "offset of 65 bits": (at_tag(SYNC, u64(8) + b"\1" + b"\xff" * 9 + b"\x02\1" + REST + BLOCK_ID), 13),
    "offset past 64 bits": (at_tag(SYNC, u64(8) + b"\1" + b"\xff" * 9 + b"\1\1" + REST + BLOCK_ID), 13),
    "second offset past 64 bits": (at_tag(SYNC, u64(2**64 - 2) + b"\2\1\2\1\1" + REST + BLOCK_ID), 15),
    # tags
    "no bytes": (b"", 0),
    "tag of another instruction": (b"\3\0\0\0" + PAYLOADS[SYNC], 0),
    "tag with a high byte set": (b"\x0e\0\0\1" + PAYLOADS[SYNC], 0),
}


@pytest.mark.parametrize(("data", "offset"), HOSTILE.values(), ids=HOSTILE.keys())
def test_the_attacker_list(data, offset):
    with pytest.raises(WireError) as refused:
        decode_vote_instruction(data)
    assert offset is None or refused.value.offset == offset


@pytest.mark.parametrize("tag", range(20))
def test_the_tags_that_are_votes(tag):
    kinds = {tags[index]: kind for kind, tags in TAGS.items() for index in (0, 1)}
    assert INSTRUCTION_TAGS == TAGS
    data = tag.to_bytes(4, "little") + (PAYLOADS[kinds[tag]] + PROOF if tag in kinds else bytes(200))
    if tag in kinds:
        assert decode_vote_instruction(data) == VOTES[kinds[tag]]
        encode_instruction_message(IDENTITY.pubkey, IDENTITY.pubkey, VOTE_ACCOUNT, BLOCKHASH, data)
    else:
        with pytest.raises(WireError, match="no vote"):
            decode_vote_instruction(data)
        with pytest.raises(InvalidInput, match="no voting instruction"):
            encode_instruction_message(IDENTITY.pubkey, IDENTITY.pubkey, VOTE_ACCOUNT, BLOCKHASH, data)


def test_the_edges_of_the_compact_form():
    """The largest slot, offset and root that fit, and what the form calls no root."""
    top = LastVote(SYNC, (2**64 - 1,), (Lockout(2**64 - 1, 255),), None, BANK_HASH, None, BLOCK_ID)
    assert decode_vote_instruction(encode_vote_instruction(top)) == top
    rooted = replace(top, root=2**64 - 2)
    assert decode_vote_instruction(encode_vote_instruction(rooted)) == rooted
    with pytest.raises(InvalidInput, match="no root as"):
        encode_vote_instruction(replace(top, root=2**64 - 1))
    plain = LastVote(UPDATE, top.slots, (Lockout(2**64 - 1, 2**32 - 1),), 2**64 - 1, BANK_HASH)
    assert decode_vote_instruction(encode_vote_instruction(plain)) == plain


@pytest.mark.parametrize(
    ("vote", "problem"),
    [
        (replace(VOTES[PLAIN], root=100), "no lockouts and no root"),
        (replace(VOTES[PLAIN], lockouts=LOCKOUTS), "no lockouts and no root"),
        (replace(VOTES[PLAIN], block_id=BLOCK_ID), "carries no block id"),
        (replace(VOTES[UPDATE], block_id=BLOCK_ID), "carries no block id"),
        (replace(VOTES[SYNC], slots=SLOTS[:2]), "not those of its lockouts"),
        (replace(VOTES[SYNC], hash=b"short"), "bank hash has 32 bytes"),
        (replace(VOTES[SYNC], block_id=b"short"), "block id has 32 bytes"),
        (replace(VOTES[PLAIN], slots=(2**64,)), "a slot is"),
        (replace(VOTES[PLAIN], slots=(-1,)), "a slot is"),
        (replace(VOTES[PLAIN], timestamp=2**63), "does not fit"),
        (replace(VOTES[SYNC], root=102), "slots must rise"),
        (replace(VOTES[SYNC], root=-1), "out of range"),
        (replace(VOTES[SYNC], slots=(9,), lockouts=(Lockout(9, 256),), root=None), "0 to 255"),
        (replace(VOTES[UPDATE], slots=(9,), lockouts=(Lockout(9, 2**32),)), "0 to 4294967295"),
        (replace(VOTES[PLAIN], slots=(1,) * 150), "a packet holds"),
    ],
)
def test_what_does_not_fit_its_form_is_refused(vote, problem):
    with pytest.raises(InvalidInput, match=problem):
        encode_vote_instruction(vote)


def test_messages_refuse_bad_keys_and_more_than_a_packet():
    data = encode_vote_instruction(VOTES[SYNC])
    good = [IDENTITY.pubkey, VOTERS[0].pubkey, VOTE_ACCOUNT, BLOCKHASH]
    for place in range(4):
        with pytest.raises(InvalidInput, match="32 bytes"):
            encode_instruction_message(*good[:place], b"short", *good[place + 1 :], data)
    for place in (0, 1):
        with pytest.raises(InvalidInput, match="cannot be the identity or"):
            encode_instruction_message(IDENTITY.pubkey, VOTERS[0].pubkey, good[place], BLOCKHASH, data)
    with pytest.raises(InvalidInput, match="switch proof has 32 bytes"):
        encode_vote_instruction(VOTES[SYNC], b"short")
    shortest = _fast.sign_transaction(encode_instruction_message(*good, data), [IDENTITY.secret] * 2)
    room = TRANSACTION_BYTES_MAX - len(shortest) - 1  # beyond 127 bytes the data's length takes one more
    longest = encode_instruction_message(*good, data + bytes(room))
    assert len(_fast.sign_transaction(longest, [IDENTITY.secret] * 2)) == TRANSACTION_BYTES_MAX
    with pytest.raises(InvalidInput, match="a packet holds 1232"):
        encode_instruction_message(*good, data + bytes(room + 1))
