"""The byte formats at the edge of the core: saved towers, vote instructions, vote accounts.

`decode_saved_tower` reads every generation of file and checks, in the order of the clients on the cluster, the signature
against the identity it was asked for, then the structure, then the owner named inside. `encode_saved_tower` writes the
current layout. Whether a decoded tower is a *possible* tower is another question: `tower.lockout.require_well_formed`.

>>> from tower.keys import Keypair
>>> pair = Keypair.from_seed(bytes([7]) * 32)
>>> tower = new_tower(pair.pubkey)
>>> decode_saved_tower(encode_saved_tower(tower, pair), pair.address) == tower
True

Sources: SavedTowerVersions, Tower1_7_14 and Tower1_14_11 (solana-labs core/src/consensus), VoteStateVersions and
VoteInstruction of the vote interface.
"""

from __future__ import annotations

import itertools
from typing import Any

from tower import _fast
from tower._bytes import Reader
from tower.errors import InvalidInput, InvalidSignature, WireError, WrongTower
from tower.keys import as_keypair, as_pubkey, to_base58
from tower.types import (
    BlockTimestamp,
    Generation,
    LastVote,
    Lockout,
    Tower,
    VoteAccountState,
    VoteKind,
    VoteStateExtras,
)

__all__ = [
    "VOTE_PROGRAM_ID",
    "decode_saved_tower",
    "decode_saved_tower_unchecked",
    "decode_slot_hashes",
    "decode_vote_account",
    "decode_vote_instruction",
    "encode_saved_tower",
    "new_tower",
    "to_current",
]

VOTE_PROGRAM_ID = bytes.fromhex("0761481d357474bb7c4d7624ebd3bdb3d8355e73d11043fc0da3538000000000")
KEY_BYTES = 32
PRIOR_VOTERS_BYTES = 32 * 48 + 8 + 1
BLS_PUBKEY_BYTES = 48
SLOT_HASHES_MAX = 512


def new_tower(identity: Any) -> Tower:
    """The tower of an identity that never voted: no votes, no root, nothing sent."""
    return Tower(as_pubkey(identity))


def decode_saved_tower(data: bytes, identity: Any) -> Tower:
    """The tower in `data`, saved for `identity` (32 bytes, base58, a keypair or solders' Pubkey).

    Takes all generations of file and the etcd value alike; `Tower.generation` tells which it was. Raises
    `InvalidSignature` if the signature is not the identity's, `WireError` with the offset if the bytes are torn or hold
    what no writer writes, `WrongTower` if another node is named inside.
    """
    pubkey = as_pubkey(identity)
    saved = _fast.read_saved_tower(bytes(data))
    if not _fast.verify(pubkey, saved.data[saved.body_at :], saved.signature):
        raise InvalidSignature(f"the saved tower is not signed by {to_base58(pubkey)}")
    if saved.identity != pubkey:
        raise WrongTower(to_base58(pubkey), to_base58(saved.identity))
    return saved.tower()


def decode_saved_tower_unchecked(data: bytes) -> tuple[Tower, bool]:
    """The tower in `data` and whether the identity named *inside* signed it. For looking at a file, never for voting."""
    saved = _fast.read_saved_tower(bytes(data))
    return saved.tower(), _fast.verify(saved.identity, saved.data[saved.body_at :], saved.signature)


def encode_saved_tower(tower: Tower, keypair: Any, generation: Generation = Generation.CURRENT) -> bytes:
    """`tower` signed by `keypair`, as it is stored: by default in the current layout, whatever it was read from.

    Raises `WrongTower` if the tower belongs to another identity than the key, `InvalidInput` if it does not fit the layout.
    """
    pair = as_keypair(keypair)
    if tower.identity != pair.pubkey:
        raise WrongTower(pair.address, to_base58(tower.identity))
    return _fast.encode_saved_tower(tower, pair.secret, generation)


def to_current(tower: Tower) -> Tower:
    """The same tower as current writers keep it: votes and root only, without the old copy of the vote account."""
    return Tower(
        tower.identity,
        tower.lockouts,
        tower.root,
        tower.last_vote,
        tower.last_timestamp,
        tower.threshold_depth,
        tower.threshold_size,
        VoteStateExtras(),
        Generation.CURRENT,
    )


# ------------------------------------------------------------------------------------------------- vote instructions

_PLAIN_VOTES = {2: False, 6: True}  # tag: carries a switch proof
_UPDATES = {8: False, 9: True}
_COMPACT_UPDATES = {12: False, 13: True}
_TOWER_SYNCS = {14: False, 15: True}


def decode_vote_instruction(data: bytes) -> LastVote:
    """The vote in the data of a vote-program instruction, of any voting form.

    Raises `WireError` if the bytes are torn or the instruction is no vote. Trailing bytes are allowed, as in the program.
    """
    reader = Reader(bytes(data))
    tag = reader.u32()
    if tag in _PLAIN_VOTES:
        slots = tuple(reader.u64() for _ in range(reader.count(8, "slots")))
        vote = LastVote(VoteKind.VOTE, slots, (), None, reader.take(KEY_BYTES), _option_i64(reader))
    elif tag in _UPDATES:
        lockouts = tuple(Lockout(reader.u64(), reader.u32()) for _ in range(reader.count(12, "lockouts")))
        root = reader.u64() if reader.flag("root option") else None
        slots = tuple(lockout.slot for lockout in lockouts)
        vote = LastVote(
            VoteKind.VOTE_STATE_UPDATE, slots, lockouts, root, reader.take(KEY_BYTES), _option_i64(reader)
        )
    elif tag in _COMPACT_UPDATES or tag in _TOWER_SYNCS:
        vote, reader.offset = _fast.decode_compact_vote(reader.data, reader.offset, tag in _TOWER_SYNCS)
    else:
        raise WireError(0, f"instruction {tag} of the vote program is no vote")
    if (_PLAIN_VOTES | _UPDATES | _COMPACT_UPDATES | _TOWER_SYNCS)[tag]:
        reader.take(KEY_BYTES)
    return vote


def _option_i64(reader: Reader) -> int | None:
    return reader.i64() if reader.flag("timestamp option") else None


# --------------------------------------------------------------------------------------------------- cluster accounts

_V1_14_11, _V3, _V4 = 1, 2, 3


def decode_vote_account(data: bytes) -> VoteAccountState:
    """The state in a vote account's data: versions 1_14_11, V3 and V4.

    Raises `WireError` for torn data and for an account that was never initialised.
    """
    reader = Reader(bytes(data))
    version = reader.u32()
    if version not in (_V1_14_11, _V3, _V4):
        raise WireError(0, f"vote account version {version} is unknown, or the account is not initialised")
    node_pubkey = reader.take(KEY_BYTES)
    reader.take(KEY_BYTES)  # authorized withdrawer
    if version == _V4:
        reader.take(2 * KEY_BYTES + 2 + 2 + 8)  # collectors, commissions in basis points, pending rewards
        if reader.flag("BLS key option"):
            reader.take(BLS_PUBKEY_BYTES)
    else:
        reader.u8()  # commission
    landed = version != _V1_14_11  # each vote carries the latency with which it landed
    lockouts, latencies = [], []
    for _ in range(reader.count(13 if landed else 12, "votes")):
        latencies.append(reader.u8() if landed else 0)
        lockouts.append(Lockout(reader.u64(), reader.u32()))
    root = reader.u64() if reader.flag("root option") else None
    voters = tuple((reader.u64(), reader.take(KEY_BYTES)) for _ in range(reader.count(40, "authorized voters")))
    if not voters:
        raise WireError(0, "the vote account is not initialised: it has no authorized voter")
    if version != _V4:
        reader.take(PRIOR_VOTERS_BYTES)
    earned = tuple((reader.u64(), reader.u64(), reader.u64()) for _ in range(reader.count(24, "epoch credits")))
    stamp = BlockTimestamp(reader.u64(), reader.i64())
    return VoteAccountState(node_pubkey, voters, tuple(lockouts), root, earned, stamp, tuple(latencies))


def decode_slot_hashes(data: bytes) -> list[tuple[int, bytes]]:
    """The SlotHashes sysvar: `(slot, bank hash)` of a bank's ancestors, newest first, at most 512."""
    reader = Reader(bytes(data))
    entries = [(reader.u64(), reader.take(KEY_BYTES)) for _ in range(reader.count(40, "slot hashes"))]
    if len(entries) > SLOT_HASHES_MAX:
        raise InvalidInput(f"SlotHashes holds {len(entries)} entries, more than {SLOT_HASHES_MAX}")
    if any(older[0] >= newer[0] for newer, older in itertools.pairwise(entries)):
        raise InvalidInput("SlotHashes is not newest first")
    return entries
