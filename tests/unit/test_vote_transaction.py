"""The vote transaction, byte for byte against `solders`, and the real vote program as the one who decides what it means."""

from __future__ import annotations

import pytest
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair as SoldersKeypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import Transaction

from tower import _fast, _reference
from tower.errors import InvalidInput, SigningError, WireError
from tower.keys import Keypair
from tower.types import VoteKind
from tower.wire import VOTE_PROGRAM_ID, decode_vote_instruction

IDENTITY = Keypair.from_seed(b"i" * 32)
VOTER = Keypair.from_seed(b"v" * 32)
VOTE_ACCOUNT = Keypair.from_seed(b"a" * 32).pubkey
BLOCKHASH, BANK_HASH, BLOCK_ID = b"\x0b" * 32, b"\x11" * 32, b"\x22" * 32
TWINS = pytest.mark.parametrize("twin", [_fast, _reference], ids=["fast", "reference"])


def stack(twin, count=31):
    state = twin.TowerVoteState(root=100)
    for slot in range(101, 101 + count):
        state.process_vote(slot)
    return state


def message(twin, voter=IDENTITY, state=None, timestamp=1_700_000_000, switch_proof=None):
    return twin.encode_vote_message(
        IDENTITY.pubkey,
        voter.pubkey,
        VOTE_ACCOUNT,
        BLOCKHASH,
        state or stack(twin),
        BANK_HASH,
        timestamp,
        BLOCK_ID,
        switch_proof,
    )


def built_by_solders(instruction_data, voter):
    accounts = [AccountMeta(Pubkey(VOTE_ACCOUNT), False, True), AccountMeta(Pubkey(voter.pubkey), True, False)]
    instruction = Instruction(Pubkey(VOTE_PROGRAM_ID), instruction_data, accounts)
    built = Message.new_with_blockhash([instruction], Pubkey(IDENTITY.pubkey), Hash(BLOCKHASH))
    signers = {pair.pubkey: SoldersKeypair.from_bytes(pair.secret) for pair in (IDENTITY, voter)}
    return Transaction(list(signers.values()), built, Hash(BLOCKHASH))


def test_golden_instruction_payloads():
    votes = [(101, 3), (104, 2), (300, 1)]
    tail = b"\x11" * 32 + bytes.fromhex("0100f1536500000000")
    head = bytes.fromhex("6400000000000000 03 0103 0302 c40101".replace(" ", ""))
    for twin in (_fast, _reference):
        assert twin.encode_compact_vote(votes, 100, BANK_HASH, 1_700_000_000, None) == head + tail
        assert twin.encode_compact_vote(votes, 100, BANK_HASH, 1_700_000_000, BLOCK_ID) == head + tail + BLOCK_ID
        no_root = twin.encode_compact_vote([(5, 2), (6, 1)], None, BANK_HASH, None, None)
        assert no_root == b"\xff" * 8 + bytes.fromhex("0205020101") + BANK_HASH + b"\0"


@TWINS
@pytest.mark.parametrize("voter", [IDENTITY, VOTER], ids=["one-signer", "two-signers"])
@pytest.mark.parametrize("switch_proof", [None, bytes(32)], ids=["same-fork", "switch"])
def test_the_transaction_is_what_solders_builds_and_verifies(twin, voter, switch_proof):
    ours = message(twin, voter, switch_proof=switch_proof)
    secrets = [IDENTITY.secret] if voter is IDENTITY else [IDENTITY.secret, VOTER.secret]
    transaction = twin.sign_transaction(ours, secrets)
    parsed = Transaction.from_bytes(transaction)
    parsed.verify()
    data = bytes(parsed.message.instructions[0].data)
    assert data[:4] == (14 if switch_proof is None else 15).to_bytes(4, "little")
    theirs = built_by_solders(data, voter)
    assert transaction == bytes(theirs)
    if switch_proof is None:
        assert (len(data), len(transaction)) == (148, 352 if voter is IDENTITY else 448)


@TWINS
def test_the_instruction_decodes_to_the_vote(twin):
    parsed = Transaction.from_bytes(twin.sign_transaction(message(twin), [IDENTITY.secret]))
    vote = decode_vote_instruction(bytes(parsed.message.instructions[0].data))
    assert vote.kind is VoteKind.TOWER_SYNC
    assert (list(vote.lockouts), vote.root) == (stack(twin).votes, 100)
    assert (vote.hash, vote.timestamp, vote.block_id) == (BANK_HASH, 1_700_000_000, BLOCK_ID)


@TWINS
@pytest.mark.parametrize(
    ("votes", "problem"),
    [
        ([(9, 1), (8, 1)], "slots must rise: 8 follows 9"),
        ([(9, 256)], "256, not 0 to 255"),
        ([(9, -1)], "confirmation count must be an int"),
        ([[9, 2**64]], "confirmation count must be an int"),
        ([[-9, 1]], "slot must be an int"),
        ([(True, 1)], "slot must be an int"),
    ],
)
def test_a_vote_that_cannot_be_written_is_refused(twin, votes, problem):
    with pytest.raises(InvalidInput, match=problem):
        twin.encode_compact_vote(votes, None, BANK_HASH, None, None)


@TWINS
def test_lockouts_may_be_any_pairs(twin):
    pairs = [(5, 2), [6, 1]]
    assert twin.encode_compact_vote(iter(pairs), 4, BANK_HASH, -1, None)[9:13] == b"\x01\x02\x01\x01"
    with pytest.raises((TypeError, ValueError)):
        twin.encode_compact_vote([(5, 2, 1)], 4, BANK_HASH, -1, None)


@TWINS
@pytest.mark.parametrize("timestamp", [-(2**63), -2, -1, 0, 2**63 - 1])
def test_every_timestamp_comes_back(twin, timestamp):
    payload = twin.encode_compact_vote([(5, 1)], 4, BANK_HASH, timestamp, BLOCK_ID)
    assert twin.decode_compact_vote(payload, 0, True)[0].timestamp == timestamp


@pytest.mark.parametrize("timestamp", [-(2**63) - 1, 2**63, 1.0, True])
def test_what_is_no_timestamp_is_refused(timestamp):
    with pytest.raises(InvalidInput, match="timestamp must be an int of 64 bits"):
        _fast.encode_compact_vote([(5, 1)], 4, BANK_HASH, timestamp, BLOCK_ID)


def plain(*slots):
    return len(slots).to_bytes(8, "little") + b"".join(slot.to_bytes(8, "little") for slot in slots) + BANK_HASH + b"\0"


@pytest.mark.parametrize(
    ("data", "kind", "slots"),
    [
        (b"\2\0\0\0" + plain(7, 8), VoteKind.VOTE, (7, 8)),
        (b"\6\0\0\0" + plain(7) + bytes(32), VoteKind.VOTE, (7,)),
        (
            b"\x08\0\0\0" + (1).to_bytes(8, "little") + (9).to_bytes(8, "little") + b"\1\0\0\0\0" + BANK_HASH + b"\0",
            VoteKind.VOTE_STATE_UPDATE,
            (9,),
        ),
        (
            b"\x0d\0\0\0" + _fast.encode_compact_vote([(9, 1)], 8, BANK_HASH, None, None) + bytes(32),
            VoteKind.COMPACT_VOTE_STATE_UPDATE,
            (9,),
        ),
    ],
)
def test_older_voting_forms_decode(data, kind, slots):
    vote = decode_vote_instruction(data)
    assert (vote.kind, vote.slots, vote.hash) == (kind, slots, BANK_HASH)
    with pytest.raises(WireError):
        decode_vote_instruction(data[:-1])


@pytest.mark.parametrize("data", [b"", b"\3\0\0\0", b"\xff\0\0\0", b"\x0e\0\0\0"])
def test_what_is_no_vote_is_refused(data):
    with pytest.raises(WireError):
        decode_vote_instruction(data)


@TWINS
def test_wrong_lengths_are_refused_and_never_read(twin):
    for place in range(4):
        arguments = [IDENTITY.pubkey, IDENTITY.pubkey, VOTE_ACCOUNT, BLOCKHASH]
        arguments[place] = b"short"
        with pytest.raises(InvalidInput, match="32 bytes"):
            twin.encode_vote_message(*arguments, stack(twin), BANK_HASH, None, BLOCK_ID, None)
    with pytest.raises(SigningError):
        twin.sign(b"short", b"message")
    with pytest.raises(InvalidInput, match="one or two signers"):
        twin.sign_transaction(b"message", [])


@TWINS
def test_a_message_longer_than_a_packet_is_refused(twin):
    assert len(twin.sign_transaction(bytes(1232), [IDENTITY.secret])) == 1 + 64 + 1232
    with pytest.raises(InvalidInput, match="1233 bytes does not fit a packet"):
        twin.sign_transaction(bytes(1233), [IDENTITY.secret])


@TWINS
def test_sign_and_verify(twin):
    signature = twin.sign(IDENTITY.secret, b"message")
    assert twin.verify(IDENTITY.pubkey, b"message", signature)
    assert not twin.verify(IDENTITY.pubkey, b"massage", signature)
    assert not twin.verify(VOTER.pubkey, b"message", signature)
    assert not twin.verify(IDENTITY.pubkey, b"message", signature[:-1])
    assert SoldersKeypair.from_bytes(IDENTITY.secret).sign_message(b"message").to_bytes() == signature
