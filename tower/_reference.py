"""The readable twin of `tower._fast`: the same names, the same answers, nothing compiled.

Property tests hold the two against each other. It is never chosen silently: import it by name to read it, to check the
compiled one against it, or to run where no compiler exists.

Sources of the rules: the vote program and `VoteState` of solana-labs v1.17 (sdk/program/src/vote/state), `TowerVoteState`
of Agave 2.2 and later, the saved-tower files of every generation (core/src/consensus/tower_storage.rs), the vote
instruction forms of the vote interface.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise

import nacl.bindings
import nacl.exceptions

from tower._bytes import U64_MAX, Reader, Writer
from tower.errors import InvalidInput, SigningError, WireError
from tower.types import (
    MAX_LOCKOUT_HISTORY,
    ZERO_HASH,
    BlockTimestamp,
    Generation,
    LastVote,
    Lockout,
    Tower,
    VoteKind,
    VoteStateExtras,
)

__all__ = [
    "SavedTower",
    "TowerVoteState",
    "decode_compact_vote",
    "decode_saved_tower",
    "encode_compact_vote",
    "encode_saved_tower",
    "encode_tower_body",
    "encode_vote_body",
    "encode_vote_message",
    "encode_vote_record",
    "read_saved_tower",
    "sign",
    "sign_transaction",
    "verify",
]

SIGNATURE_BYTES = 64
KEY_BYTES = 32
MESSAGE_BYTES_MAX = 1232  # what one packet carries
PRIOR_VOTERS_BYTES = 32 * 48 + 8 + 1
EMPTY_PRIOR_VOTERS = bytes(32 * 48) + (31).to_bytes(8, "little") + b"\x01"
NO_ROOT = U64_MAX  # how the compact forms write a missing root
TAG_TOWER_SYNC = 14
TAG_TOWER_SYNC_SWITCH = 15
VOTE_PROGRAM_ID = bytes.fromhex("0761481d357474bb7c4d7624ebd3bdb3d8355e73d11043fc0da3538000000000")
VOTE_KINDS = (VoteKind.VOTE, VoteKind.VOTE_STATE_UPDATE, VoteKind.COMPACT_VOTE_STATE_UPDATE, VoteKind.TOWER_SYNC)


def _u64(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= U64_MAX:
        raise InvalidInput(f"{what} must be an int from 0 to 2**64-1, not {value!r}")
    return value


def _numbers(slots: Iterable[int]) -> Iterable[int]:
    """A buffer of u64 as the ints in it, anything else as it is."""
    try:
        view = memoryview(slots)  # type: ignore[arg-type]
    except TypeError:
        return slots
    return view.tolist() if view.ndim == 1 and view.format.removeprefix("@") in ("Q", "L") and view.itemsize == 8 else slots


def _exact(data: bytes, length: int, what: str) -> bytes:
    if len(data) != length:
        raise InvalidInput(f"{what} has {length} bytes, not {len(data)}")
    return data


class TowerVoteState:
    """The lockout stack of one voter: at most 31 votes, oldest first, and the root below them.

    >>> state = TowerVoteState()
    >>> for slot in (1, 2, 3, 4, 9):
    ...     _ = state.process_vote(slot)
    >>> state.votes
    [(1, 4), (2, 3), (9, 1)]
    """

    __slots__ = ("_confirmations", "_root", "_slots")

    def __init__(self, votes: Iterable[tuple[int, int]] = (), root: int | None = None) -> None:
        self._slots: list[int] = []
        self._confirmations: list[int] = []
        self._root = None if root is None else _u64(root, "root")
        for slot, confirmation_count in votes:
            slot = _u64(slot, "slot")
            confirmation_count = _u64(confirmation_count, "confirmation count")
            if not 1 <= confirmation_count <= MAX_LOCKOUT_HISTORY:
                raise InvalidInput(f"confirmation count of slot {slot} is {confirmation_count}, not 1 to 31")
            if self._slots and slot <= self._slots[-1]:
                raise InvalidInput(f"slots must rise: {slot} follows {self._slots[-1]}")
            if self._slots and confirmation_count >= self._confirmations[-1]:
                raise InvalidInput(f"confirmation counts must fall: slot {slot} has {confirmation_count}")
            if len(self._slots) == MAX_LOCKOUT_HISTORY:
                raise InvalidInput("a tower has at most 31 votes")
            self._slots.append(slot)
            self._confirmations.append(confirmation_count)

    @staticmethod
    def of_saved(saved: SavedTower) -> TowerVoteState:
        """The stack in a saved tower. Raises `InvalidInput` where its lockouts are no stack."""
        return TowerVoteState(saved.tower().lockouts, saved.root)

    @property
    def votes(self) -> list[tuple[int, int]]:
        """`[(slot, confirmation_count)]`, oldest first."""
        return list(zip(self._slots, self._confirmations, strict=True))

    @property
    def root(self) -> int | None:
        """The newest slot that can never be rolled back, `None` before the first."""
        return self._root

    @root.setter
    def root(self, root: int | None) -> None:
        self._root = None if root is None else _u64(root, "root")

    @property
    def last_voted_slot(self) -> int | None:
        """The newest slot in the stack."""
        return self._slots[-1] if self._slots else None

    def __len__(self) -> int:
        return len(self._slots)

    def copy(self) -> TowerVoteState:
        """An independent copy."""
        twin = TowerVoteState()
        twin._slots, twin._confirmations, twin._root = self._slots[:], self._confirmations[:], self._root
        return twin

    def process_vote(self, slot: int) -> int | None:
        """Apply a vote for `slot`; return the slot that became root through it, or `None`.

        A slot that is not newer than the top changes nothing, as in the vote program.
        """
        slot = _u64(slot, "slot")
        if self._slots and slot <= self._slots[-1]:
            return None
        # Expiry runs from the top and stops at the first vote still locked: expired ones below it stay.
        while self._slots and min(self._slots[-1] + (1 << self._confirmations[-1]), U64_MAX) < slot:
            self._slots.pop()
            self._confirmations.pop()
        rooted = None
        if len(self._slots) == MAX_LOCKOUT_HISTORY:
            rooted = self._slots.pop(0)
            self._confirmations.pop(0)
            self._root = rooted
        self._slots.append(slot)
        self._confirmations.append(1)
        for index, confirmation_count in enumerate(self._confirmations):
            if len(self._slots) > index + confirmation_count:
                self._confirmations[index] += 1
        return rooted

    def process_votes(self, slots: Iterable[int]) -> int:
        """Apply a vote for each of `slots` in turn; return how many slots became root. The newest of them is `root`.

        `slots` is any iterable of ints or a buffer of unsigned 64-bit numbers. If one of them is no slot, nothing is applied.
        """
        checked = [_u64(slot, "slot") for slot in _numbers(slots)]
        return sum(self.process_vote(slot) is not None for slot in checked)

    def nth_recent(self, depth: int) -> tuple[int, int] | None:
        """The vote `depth` below the top (the top is 0), or `None` where the stack is not that deep."""
        if depth < 0 or depth >= len(self._slots):
            return None
        return self._slots[-1 - depth], self._confirmations[-1 - depth]

    def is_recent(self, slot: int) -> bool:
        """Whether `slot` is newer than every vote, or than the root where there is none."""
        slot = _u64(slot, "slot")
        if self._slots:
            return slot > self._slots[-1]
        return self._root is None or slot > self._root

    def is_well_formed(self) -> bool:
        """Whether the stack keeps the rules that `tower.lockout.malformed` names: asked before every store (S5)."""
        if any(not 1 <= count <= MAX_LOCKOUT_HISTORY for count in self._confirmations):
            return False
        if self._root and any(slot <= self._root for slot in self._slots):
            return False
        stack = list(zip(self._slots, self._confirmations, strict=True))
        return all(slot < newer <= slot + (1 << count) and fewer < count for (slot, count), (newer, fewer) in pairwise(stack))

    def is_locked_out(self, slot: int, ancestors: Set[int]) -> bool:
        """Whether the lockouts forbid a vote for `slot`, whose fork holds `ancestors` (slots, without `slot` itself).

        True if `slot` is not newer than the top, or if a vote that would still bind after it, or the root, is not on
        that fork. A root that is no ancestor counts as locked out here; the clients on the cluster panic.
        """
        if not self.is_recent(slot):
            return True
        after = self.copy()
        after.process_vote(slot)
        if any(voted != slot and voted not in ancestors for voted in after._slots):
            return True
        return after._root is not None and after._root != slot and after._root not in ancestors

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TowerVoteState) and (self.votes, self.root) == (other.votes, other.root)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"TowerVoteState({self.votes!r}, root={self._root!r})"


# ----------------------------------------------------------------------------------------------------------- signing


def sign(secret: bytes, message: bytes) -> bytes:
    """The 64-byte Ed25519 signature of `message` under libsodium's 64-byte `secret` (seed || public key)."""
    if len(secret) != SIGNATURE_BYTES:
        raise SigningError(f"a secret key has 64 bytes, not {len(secret)}")
    return bytes(nacl.bindings.crypto_sign(message, secret)[:SIGNATURE_BYTES])


def verify(pubkey: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is `pubkey`'s for exactly `message`."""
    if len(pubkey) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        nacl.bindings.crypto_sign_open(signature + message, pubkey)
    except nacl.exceptions.BadSignatureError:
        return False
    return True


# ------------------------------------------------------------------------------------------------------- saved towers


def _write_full_lockouts(out: Writer, lockouts: Sequence[tuple[int, int]]) -> None:
    out.u64(len(lockouts))
    for slot, confirmation_count in lockouts:
        out.u64(slot).u32(confirmation_count)


def _write_vote_state(out: Writer, tower: Tower) -> None:
    extras = tower.extras
    out.raw(_exact(extras.node_pubkey, KEY_BYTES, "node_pubkey"))
    out.raw(_exact(extras.authorized_withdrawer, KEY_BYTES, "authorized_withdrawer"))
    out.u8(extras.commission)
    _write_full_lockouts(out, tower.lockouts)
    out.option_u64(tower.root)
    out.u64(len(extras.authorized_voters))
    for epoch, voter in extras.authorized_voters:
        out.u64(epoch).raw(_exact(voter, KEY_BYTES, "authorized voter"))
    out.raw(EMPTY_PRIOR_VOTERS if extras.prior_voters is None else extras.prior_voters)
    out.u64(len(extras.epoch_credits))
    for epoch, credits, previous in extras.epoch_credits:
        out.u64(epoch).u64(credits).u64(previous)
    out.u64(extras.last_timestamp.slot).i64(extras.last_timestamp.timestamp)


def _write_last_vote(out: Writer, vote: LastVote, tagged: bool) -> None:
    if tagged:
        out.u32(VOTE_KINDS.index(vote.kind))
    elif vote.kind is not VoteKind.VOTE:
        raise InvalidInput(f"the 1_7_14 layout holds only a Vote, not a {vote.kind.value}")
    if vote.kind is VoteKind.VOTE:
        out.u64(len(vote.slots))
        for slot in vote.slots:
            out.u64(slot)
        out.raw(_exact(vote.hash, KEY_BYTES, "hash")).option_i64(vote.timestamp)
    elif vote.kind is VoteKind.VOTE_STATE_UPDATE:
        _write_full_lockouts(out, vote.lockouts)
        out.option_u64(vote.root).raw(_exact(vote.hash, KEY_BYTES, "hash")).option_i64(vote.timestamp)
    else:
        block_id = (vote.block_id or ZERO_HASH) if vote.kind is VoteKind.TOWER_SYNC else None
        out.raw(encode_compact_vote(vote.lockouts, vote.root, vote.hash, vote.timestamp, block_id))


def encode_tower_body(tower: Tower, generation: Generation) -> bytes:
    """The signed part of a saved tower in the layout of `generation`."""
    out = Writer()
    out.raw(_exact(tower.identity, KEY_BYTES, "identity")).u64(tower.threshold_depth).f64(tower.threshold_size)
    _write_vote_state(out, tower)
    _write_last_vote(out, tower.last_vote, tagged=generation is Generation.CURRENT)
    out.u64(tower.last_timestamp.slot).i64(tower.last_timestamp.timestamp)
    return out.bytes()


def _envelope(body: bytes, secret: bytes, generation: Generation) -> bytes:
    out = Writer()
    if generation is not Generation.BARE_1_7_14:
        out.u32(1 if generation is Generation.CURRENT else 0)
    return out.raw(sign(secret, body)).u64(len(body)).raw(body).bytes()


def encode_saved_tower(tower: Tower, secret: bytes, generation: Generation) -> bytes:
    """A saved tower: envelope, signature by `secret`, and body, in the layout of `generation`."""
    return _envelope(encode_tower_body(tower, generation), secret, generation)


def encode_vote_body(
    identity: bytes,
    state: TowerVoteState,
    bank_hash: bytes,
    timestamp: int | None,
    block_id: bytes,
    last_timestamp: tuple[int, int],
    threshold_depth: int,
    threshold_size: float,
) -> bytes:
    """The signed part of the record for a TowerSync vote of the whole `state`: the hot path of `encode_tower_body`."""
    lockouts = tuple(Lockout(*vote) for vote in state.votes)
    vote = LastVote(VoteKind.TOWER_SYNC, tuple(state._slots), lockouts, state.root, bank_hash, timestamp, block_id)
    stamp = BlockTimestamp(*last_timestamp)
    tower = Tower(identity, lockouts, state.root, vote, stamp, threshold_depth, threshold_size)
    return encode_tower_body(tower, Generation.CURRENT)


def encode_vote_record(
    identity: bytes,
    secret: bytes,
    state: TowerVoteState,
    bank_hash: bytes,
    timestamp: int | None,
    block_id: bytes,
    last_timestamp: tuple[int, int],
    threshold_depth: int,
    threshold_size: float,
) -> bytes:
    """The record to persist for a TowerSync vote of the whole `state`: the hot path of `encode_saved_tower`."""
    body = encode_vote_body(
        identity, state, bank_hash, timestamp, block_id, last_timestamp, threshold_depth, threshold_size
    )
    return _envelope(body, secret, Generation.CURRENT)


def _read_full_lockouts(data: Reader, what: str) -> tuple[Lockout, ...]:
    return tuple(Lockout(data.u64(), data.u32()) for _ in range(data.count(12, what)))


def _read_option(data: Reader, what: str, signed: bool = False) -> int | None:
    if not data.flag(what):
        return None
    return data.i64() if signed else data.u64()


def _read_plain_vote(data: Reader) -> LastVote:
    slots = tuple(data.u64() for _ in range(data.count(8, "slots of the last vote")))
    return LastVote(VoteKind.VOTE, slots, (), None, data.take(KEY_BYTES), _read_option(data, "timestamp option", True))


def _read_last_vote(data: Reader, tagged: bool) -> LastVote:
    at = data.offset
    tag = data.u32() if tagged else 0
    if tag >= len(VOTE_KINDS):
        raise WireError(at, f"kind of the last vote: expected 0 to 3, found {tag}")
    kind = VOTE_KINDS[tag]
    if kind is VoteKind.VOTE:
        return _read_plain_vote(data)
    if kind is VoteKind.VOTE_STATE_UPDATE:
        lockouts = _read_full_lockouts(data, "lockouts of the last vote")
        root = _read_option(data, "root option of the last vote")
        hash, timestamp = data.take(KEY_BYTES), _read_option(data, "timestamp option", True)
        return LastVote(kind, tuple(lockout.slot for lockout in lockouts), lockouts, root, hash, timestamp)
    return _read_compact(data, kind)


def _read_body(data: Reader, generation: Generation) -> Tower:
    identity, depth, size = data.take(KEY_BYTES), data.u64(), data.f64()
    node_pubkey, withdrawer, commission = data.take(KEY_BYTES), data.take(KEY_BYTES), data.u8()
    lockouts = _read_full_lockouts(data, "votes")
    root = _read_option(data, "root option")
    voters = tuple((data.u64(), data.take(KEY_BYTES)) for _ in range(data.count(40, "authorized voters")))
    at = data.offset
    prior: bytes | None = data.take(PRIOR_VOTERS_BYTES)
    if prior is not None and prior[-1] > 1:
        raise WireError(at + PRIOR_VOTERS_BYTES - 1, f"prior voters: expected 0 or 1, found {prior[-1]}")
    if prior == EMPTY_PRIOR_VOTERS:
        prior = None
    earned = tuple((data.u64(), data.u64(), data.u64()) for _ in range(data.count(24, "epoch credits")))
    stamp = BlockTimestamp(data.u64(), data.i64())
    vote = _read_last_vote(data, tagged=generation is Generation.CURRENT)
    last_timestamp = BlockTimestamp(data.u64(), data.i64())
    data.end("the tower")
    extras = VoteStateExtras(node_pubkey, withdrawer, commission, voters, prior, earned, stamp)
    return Tower(identity, lockouts, root, vote, last_timestamp, depth, size, extras, generation)


@dataclass(frozen=True, slots=True)
class SavedTower:
    """A saved tower whose structure is sound, as `read_saved_tower` found it.

    Neither its signature nor its owner is checked, nor whether its lockouts are possible: `tower.wire`, `tower.lockout`.
    """

    data: bytes
    body_at: int
    signature: bytes
    _tower: Tower

    @property
    def generation(self) -> Generation:
        """The layout of the file."""
        return self._tower.generation

    @property
    def identity(self) -> bytes:
        """Whose tower the file says it is."""
        return self._tower.identity

    @property
    def root(self) -> int | None:
        """The root of the lockouts, `None` where they have none."""
        return self._tower.root

    @property
    def last_voted_slot(self) -> int | None:
        """The newest slot of the last vote sent, `None` where nothing was ever sent."""
        return self._tower.last_voted_slot

    def tower(self) -> Tower:
        """All of it, as a `Tower`."""
        return self._tower


def read_saved_tower(data: bytes) -> SavedTower:
    """Check the structure of a saved tower of any generation, and give it back as a `SavedTower`.

    The generation is told by the place of the length: whichever of the two layouts has a length that covers the rest of the
    data exactly. Raises `WireError`.
    """
    reader = Reader(data)
    if len(data) >= 76:
        tag, length = int.from_bytes(data[:4], "little"), int.from_bytes(data[68:76], "little")
        if tag <= 1 and length == len(data) - 76:
            reader.offset = 76
            generation = Generation.CURRENT if tag == 1 else Generation.ENUM_0
            return SavedTower(data, 76, data[4:68], _read_body(reader, generation))
    if len(data) >= 72 and int.from_bytes(data[64:72], "little") == len(data) - 72:
        reader.offset = 72
        return SavedTower(data, 72, data[:64], _read_body(reader, Generation.BARE_1_7_14))
    if len(data) < 76:
        raise WireError(len(data), f"the data ends early: a saved tower has more than 76 bytes, these are {len(data)}")
    tag, length = int.from_bytes(data[:4], "little"), int.from_bytes(data[68:76], "little")
    if tag > 1:
        raise WireError(0, f"no saved tower: version tag {tag} is unknown and no older layout fits")
    if length > len(data) - 76:
        raise WireError(len(data), f"torn: the data ends early, {length} bytes announced at byte 68, {len(data) - 76} are there")
    raise WireError(76 + length, f"{len(data) - 76 - length} bytes follow after the end of the tower")


def decode_saved_tower(data: bytes) -> tuple[Tower, bytes, int]:
    """Read a saved tower of any generation: `(tower, signature, offset of the signed body)`.

    Checks structure only, as `read_saved_tower`; signature, owner and tower invariants are the caller's (`tower.wire`).
    """
    found = read_saved_tower(data)
    return found.tower(), found.signature, found.body_at


# ------------------------------------------------------------------------------------------------- votes on the wire


def encode_compact_vote(
    lockouts: Iterable[tuple[int, int]], root: int | None, hash: bytes, timestamp: int | None, block_id: bytes | None
) -> bytes:
    """The compact payload of a full-tower vote; with `block_id` it is a TowerSync, without a CompactVoteStateUpdate."""
    lockouts = list(lockouts)
    out = Writer()
    out.u64(NO_ROOT if root is None else _u64(root, "root")).compact_u16(len(lockouts))
    previous = 0 if root is None else root
    for slot, confirmation_count in lockouts:
        slot, confirmation_count = _u64(slot, "slot"), _u64(confirmation_count, "confirmation count")
        if slot < previous:
            raise InvalidInput(f"slots must rise: {slot} follows {previous}")
        if confirmation_count > 255:
            raise InvalidInput(f"confirmation count of slot {slot} is {confirmation_count}, not 0 to 255")
        out.varint(slot - previous).u8(confirmation_count)
        previous = slot
    out.raw(_exact(hash, KEY_BYTES, "hash")).option_i64(timestamp)
    if block_id is not None:
        out.raw(_exact(block_id, KEY_BYTES, "block_id"))
    return out.bytes()


def _read_compact(data: Reader, kind: VoteKind) -> LastVote:
    root_or_none = data.u64()
    root = None if root_or_none == NO_ROOT else root_or_none
    slot = root or 0
    lockouts = []
    at = data.offset
    count = data.compact_u16()
    if count > data.left // 2:
        raise WireError(at, f"lockouts: {count} announced, {data.left} bytes left")
    for _ in range(count):
        at = data.offset
        slot += data.varint()
        if slot > U64_MAX:
            raise WireError(at, "slot is larger than 64 bits")
        lockouts.append(Lockout(slot, data.u8()))
    hash, timestamp = data.take(KEY_BYTES), _read_option(data, "timestamp option", True)
    block_id = data.take(KEY_BYTES) if kind is VoteKind.TOWER_SYNC else None
    slots = tuple(lockout.slot for lockout in lockouts)
    return LastVote(kind, slots, tuple(lockouts), root, hash, timestamp, block_id)


def decode_compact_vote(data: bytes, offset: int, with_block_id: bool) -> tuple[LastVote, int]:
    """Read a compact payload at `offset`: `(vote, offset behind it)`."""
    reader = Reader(data, offset)
    kind = VoteKind.TOWER_SYNC if with_block_id else VoteKind.COMPACT_VOTE_STATE_UPDATE
    return _read_compact(reader, kind), reader.offset


def encode_vote_message(
    identity: bytes,
    voter: bytes,
    vote_account: bytes,
    blockhash: bytes,
    state: TowerVoteState,
    bank_hash: bytes,
    timestamp: int | None,
    block_id: bytes,
    switch_proof: bytes | None,
) -> bytes:
    """The message of a TowerSync vote transaction: what its signers sign.

    `identity` pays. Where `voter` is another key it signs second. With `switch_proof` the instruction is TowerSyncSwitch.
    """
    keys = [_exact(identity, KEY_BYTES, "identity")]
    if voter != identity:
        keys.append(_exact(voter, KEY_BYTES, "authorized voter"))
    signers = len(keys)
    keys += [_exact(vote_account, KEY_BYTES, "vote account"), VOTE_PROGRAM_ID]
    data = Writer().u32(TAG_TOWER_SYNC if switch_proof is None else TAG_TOWER_SYNC_SWITCH)
    data.raw(encode_compact_vote(state.votes, state.root, bank_hash, timestamp, block_id))
    if switch_proof is not None:
        data.raw(_exact(switch_proof, KEY_BYTES, "switch proof"))
    instruction = data.bytes()
    out = Writer().u8(signers).u8(signers - 1).u8(1)
    out.compact_u16(len(keys)).raw(b"".join(keys)).raw(_exact(blockhash, KEY_BYTES, "blockhash"))
    out.compact_u16(1).u8(signers + 1).compact_u16(2).u8(signers).u8(signers - 1)
    return out.compact_u16(len(instruction)).raw(instruction).bytes()


def sign_transaction(message: bytes, secrets: Sequence[bytes]) -> bytes:
    """The transaction: the signatures of `message` by `secrets`, in the order of its signer keys, then the message."""
    if not 1 <= len(secrets) <= 2:
        raise InvalidInput(f"a vote has one or two signers, not {len(secrets)}")
    if len(message) > MESSAGE_BYTES_MAX:
        raise InvalidInput(f"a message of {len(message)} bytes does not fit a packet of {MESSAGE_BYTES_MAX}")
    out = Writer().compact_u16(len(secrets))
    for secret in secrets:
        out.raw(sign(secret, message))
    return out.raw(message).bytes()
