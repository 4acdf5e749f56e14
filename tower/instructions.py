"""Every form in which a vote reaches the vote program: the instruction's data, and the message that carries it.

=====  ==================================  =============================  ===================================
tags   instruction, with switch proof      carries                        accounts, besides account and voter
=====  ==================================  =============================  ===================================
2, 6   Vote, VoteSwitch                    new slots only                 SlotHashes and Clock sysvars
8, 9   UpdateVoteState, ...Switch          the whole tower, plain         none
12, 13 CompactUpdateVoteState, ...Switch   the whole tower, compact       none
14, 15 TowerSync, TowerSyncSwitch          the same, and the block id     none
=====  ==================================  =============================  ===================================

A Switch form is the plain one followed by the 32 bytes of the switch proof (zeros, as the clients on the cluster send
it). Clusters with `deprecate_legacy_vote_ixs` take the last row alone; the others serve to read, replay and test.

It decides bytes only: not whether a vote is legal (`tower.checks`), nor what the program will say to it
(`tower.proposal`). It will encode towers that the program refuses. Reading is `tower.wire.decode_vote_instruction`, and
the voter's hot path for TowerSync is `tower._fast.encode_vote_message`, which gives the same bytes as here.

>>> from tower.types import Lockout
>>> votes = (Lockout(101, 3), Lockout(104, 2), Lockout(300, 1))
>>> vote = LastVote(VoteKind.COMPACT_VOTE_STATE_UPDATE, (101, 104, 300), votes, 100, bytes([17]) * 32, 1_700_000_000)
>>> data = encode_vote_instruction(vote)
>>> data[:19].hex(" "), data[-9:].hex(" ")
('0c 00 00 00 64 00 00 00 00 00 00 00 03 01 03 03 02 c4 01', '01 00 f1 53 65 00 00 00 00')
>>> message = encode_instruction_message(bytes([1]) * 32, bytes([1]) * 32, bytes([2]) * 32, bytes(32), data)
>>> message[:4].hex(" ")  # one signer, no other signer, one readonly key; three keys
'01 00 01 03'

Source: VoteInstruction and serde_compact_vote_state_update of the vote interface, CompiledKeys of the legacy message.
"""

from __future__ import annotations

from tower import _fast
from tower._bytes import U64_MAX, Writer
from tower.errors import InvalidInput
from tower.types import ZERO_HASH, LastVote, VoteKind
from tower.wire import VOTE_PROGRAM_ID

__all__ = [
    "CLOCK_SYSVAR_ID",
    "INSTRUCTION_TAGS",
    "SLOT_HASHES_SYSVAR_ID",
    "TRANSACTION_BYTES_MAX",
    "encode_instruction_message",
    "encode_vote_instruction",
]

CLOCK_SYSVAR_ID = bytes.fromhex("06a7d51718c774c928566398691d5eb68b5eb8a39b4b6d5c73555b2100000000")
SLOT_HASHES_SYSVAR_ID = bytes.fromhex("06a7d517192f0aafc6f265e3fb77cc7ada82c529d0be3b136e2d005520000000")
TRANSACTION_BYTES_MAX = 1232  # one packet; the program reads no more of an instruction either
SIGNATURE_BYTES = 64
KEY_BYTES = 32
INDEX_BYTES_MAX = 1  # counts of keys, accounts and signatures are below 128 and take one byte each

INSTRUCTION_TAGS = {  # kind: the plain form's tag, the Switch form's
    VoteKind.VOTE: (2, 6),
    VoteKind.VOTE_STATE_UPDATE: (8, 9),
    VoteKind.COMPACT_VOTE_STATE_UPDATE: (12, 13),
    VoteKind.TOWER_SYNC: (14, 15),
}
_TAGS = frozenset(tag for pair in INSTRUCTION_TAGS.values() for tag in pair)
_TAGS_WITH_SYSVARS = frozenset(INSTRUCTION_TAGS[VoteKind.VOTE])


def encode_vote_instruction(vote: LastVote, switch_proof: bytes | None = None) -> bytes:
    """The data of the instruction that `vote.kind` names; with `switch_proof` (32 bytes) of its Switch form.

    A TowerSync without a block id is sent with zeros. Raises `InvalidInput` where the vote does not fit the form: a
    field that the form cannot carry, slots that differ from the lockouts', a value out of range, slots that do not rise
    from the root on in a compact form, or more than a packet.
    """
    _require_consistent(vote)
    tag = INSTRUCTION_TAGS[vote.kind][0 if switch_proof is None else 1]
    out = Writer().u32(tag)
    if vote.kind is VoteKind.VOTE:
        out.u64(len(vote.slots))
        for slot in vote.slots:
            out.u64(slot)
        out.raw(vote.hash).option_i64(vote.timestamp)
    elif vote.kind is VoteKind.VOTE_STATE_UPDATE:
        out.u64(len(vote.lockouts))
        for slot, confirmation_count in vote.lockouts:
            out.u64(slot).u32(confirmation_count)
        out.option_u64(vote.root).raw(vote.hash).option_i64(vote.timestamp)
    else:
        block_id = (vote.block_id or ZERO_HASH) if vote.kind is VoteKind.TOWER_SYNC else None
        out.raw(_fast.encode_compact_vote(vote.lockouts, vote.root, vote.hash, vote.timestamp, block_id))
    if switch_proof is not None:
        out.raw(_key(switch_proof, "switch proof"))
    data = out.bytes()
    if len(data) > TRANSACTION_BYTES_MAX:
        raise InvalidInput(f"the instruction has {len(data)} bytes, a packet holds {TRANSACTION_BYTES_MAX}")
    return data


def encode_instruction_message(
    identity: bytes, voter: bytes, vote_account: bytes, blockhash: bytes, instruction_data: bytes
) -> bytes:
    """The legacy message around the data of one voting instruction: what its signers sign.

    `identity` pays and signs first; where `voter` is another key it signs second. The data's tag decides the accounts.
    Raises `InvalidInput` for data that is no voting instruction, keys of a wrong length or used twice, and a transaction
    that would not fit a packet.
    """
    tag = int.from_bytes(instruction_data[:4], "little")
    if len(instruction_data) < 4 or tag not in _TAGS:
        raise InvalidInput("the data is no voting instruction: its tag must be 2, 6, 8, 9 or 12 to 15")
    signers = [_key(identity, "identity")]
    if _key(voter, "authorized voter") != identity:
        signers.append(voter)
    if _key(vote_account, "vote account") in signers:
        raise InvalidInput("the vote account cannot be the identity or the authorized voter")
    # Readonly keys stand in ascending order: Clock, SlotHashes, vote program.
    sysvars = [CLOCK_SYSVAR_ID, SLOT_HASHES_SYSVAR_ID] if tag in _TAGS_WITH_SYSVARS else []
    keys = [*signers, vote_account, *sysvars, VOTE_PROGRAM_ID]
    named = [vote_account, *reversed(sysvars), signers[-1]]
    out = Writer().u8(len(signers)).u8(len(signers) - 1).u8(len(sysvars) + 1)
    out.compact_u16(len(keys)).raw(b"".join(keys)).raw(_key(blockhash, "blockhash"))
    out.compact_u16(1).u8(len(keys) - 1).compact_u16(len(named)).raw(bytes(keys.index(key) for key in named))
    message = out.compact_u16(len(instruction_data)).raw(instruction_data).bytes()
    length = INDEX_BYTES_MAX + SIGNATURE_BYTES * len(signers) + len(message)
    if length > TRANSACTION_BYTES_MAX:
        raise InvalidInput(f"the transaction would have {length} bytes, a packet holds {TRANSACTION_BYTES_MAX}")
    return message


def _require_consistent(vote: LastVote) -> None:
    """Nothing of `vote` would be lost or bent by encoding it."""
    _key(vote.hash, "bank hash")
    if vote.kind is VoteKind.VOTE:
        if vote.lockouts or vote.root is not None:
            raise InvalidInput("a Vote carries slots only, no lockouts and no root")
    elif tuple(lockout.slot for lockout in vote.lockouts) != vote.slots:
        raise InvalidInput("the vote's slots are not those of its lockouts")
    if vote.block_id is not None:
        if vote.kind is not VoteKind.TOWER_SYNC:
            raise InvalidInput(f"a {vote.kind.value} carries no block id")
        _key(vote.block_id, "block id")
    compact = vote.kind in (VoteKind.COMPACT_VOTE_STATE_UPDATE, VoteKind.TOWER_SYNC)
    if any(not 0 <= slot <= U64_MAX for slot in vote.slots):
        raise InvalidInput("a slot is 0 to 2**64-1")
    counts_max = 0xFF if compact else 0xFFFFFFFF
    if any(not 0 <= lockout.confirmation_count <= counts_max for lockout in vote.lockouts):
        raise InvalidInput(f"a confirmation count is 0 to {counts_max} in a {vote.kind.value}")
    if vote.root is not None and not 0 <= vote.root <= (U64_MAX - 1 if compact else U64_MAX):
        raise InvalidInput(f"root {vote.root} is out of range; the compact forms write no root as 2**64-1")
    if vote.timestamp is not None and not -(2**63) <= vote.timestamp < 2**63:
        raise InvalidInput(f"timestamp {vote.timestamp} does not fit 64 bits")


def _key(data: bytes, what: str) -> bytes:
    if len(data) != KEY_BYTES:
        raise InvalidInput(f"{what} has {KEY_BYTES} bytes, not {len(data)}")
    return data
