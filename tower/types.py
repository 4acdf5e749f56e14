"""The values that the core passes around: plain, frozen, in the chain's own words.

Identities, vote accounts and hashes are 32 raw `bytes` here; base58 belongs to the edges (`tower.keys`). Slots, roots and
stakes are `int` within u64; stakes are lamports; timestamps are Unix seconds (i64).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

__all__ = [
    "DEFAULT_THRESHOLD_DEPTH",
    "DEFAULT_THRESHOLD_SIZE",
    "MAX_LOCKOUT_HISTORY",
    "ZERO_HASH",
    "BlockTimestamp",
    "FrozenBank",
    "Generation",
    "LastVote",
    "Lockout",
    "Tower",
    "VoteAccountState",
    "VoteKind",
    "VoteStateExtras",
]

MAX_LOCKOUT_HISTORY = 31
DEFAULT_THRESHOLD_DEPTH = 8
DEFAULT_THRESHOLD_SIZE = 2 / 3
ZERO_HASH = bytes(32)


class Lockout(NamedTuple):
    """One vote of a tower. It locks every fork without `slot` until `slot + 2**confirmation_count` is passed.

    >>> Lockout(100, 3).last_locked_out_slot
    108
    """

    slot: int
    confirmation_count: int

    @property
    def last_locked_out_slot(self) -> int:
        """The last slot (inclusive) at which this vote still binds; saturates at u64."""
        return min(self.slot + (1 << min(self.confirmation_count, MAX_LOCKOUT_HISTORY)), (1 << 64) - 1)


class BlockTimestamp(NamedTuple):
    """The newest timestamp that a vote carried, and for which slot."""

    slot: int = 0
    timestamp: int = 0


class VoteKind(str, Enum):
    """Which vote instruction a tower's last vote was recorded as (protocol: VoteTransaction tags 0 to 3)."""

    VOTE = "Vote"
    VOTE_STATE_UPDATE = "VoteStateUpdate"
    COMPACT_VOTE_STATE_UPDATE = "CompactVoteStateUpdate"
    TOWER_SYNC = "TowerSync"


class Generation(str, Enum):
    """On-disk layouts of a saved tower, oldest first. Readers take all of them, writers write `CURRENT`."""

    BARE_1_7_14 = "bare-1_7_14"  # up to 1.8: no version tag, `tower-<identity>.bin`
    ENUM_0 = "enum-0"  # version tag 0 around the old body
    CURRENT = "enum-1"  # version tag 1, since 1.14


@dataclass(frozen=True, slots=True)
class LastVote:
    """The vote that a tower sent last.

    `slots` are its slots oldest first. `lockouts` repeats them with confirmation counts for the full-tower kinds and is
    empty for `VoteKind.VOTE`. `hash` is the bank hash of the newest slot; `block_id` is set for TowerSync only.
    """

    kind: VoteKind
    slots: tuple[int, ...] = ()
    lockouts: tuple[Lockout, ...] = ()
    root: int | None = None
    hash: bytes = ZERO_HASH
    timestamp: int | None = None
    block_id: bytes | None = None

    @property
    def last_slot(self) -> int | None:
        """The newest slot voted for, `None` where the vote is empty."""
        return self.slots[-1] if self.slots else None


@dataclass(frozen=True, slots=True)
class VoteStateExtras:
    """What older writers copied from the vote account into the tower and newer ones leave at its defaults.

    Kept so that a file of any generation encodes again to the same bytes; voting never looks at it.
    """

    node_pubkey: bytes = ZERO_HASH
    authorized_withdrawer: bytes = ZERO_HASH
    commission: int = 0
    authorized_voters: tuple[tuple[int, bytes], ...] = ()  # (epoch, voter), ascending
    prior_voters: bytes | None = None  # the 1545 raw bytes of the ring; None for the empty ring
    epoch_credits: tuple[tuple[int, int, int], ...] = ()  # (epoch, credits, previous credits)
    last_timestamp: BlockTimestamp = BlockTimestamp()


@dataclass(frozen=True, slots=True)
class Tower:
    """A tower as it is saved: whose it is, its lockouts (oldest first), its root, and the last vote sent."""

    identity: bytes
    lockouts: tuple[Lockout, ...] = ()
    root: int | None = None
    last_vote: LastVote = LastVote(VoteKind.TOWER_SYNC, block_id=ZERO_HASH)
    last_timestamp: BlockTimestamp = BlockTimestamp()
    threshold_depth: int = DEFAULT_THRESHOLD_DEPTH
    threshold_size: float = DEFAULT_THRESHOLD_SIZE
    extras: VoteStateExtras = VoteStateExtras()
    generation: Generation = Generation.CURRENT

    @property
    def votes(self) -> list[tuple[int, int]]:
        """`[(slot, confirmation_count)]`, oldest first: the same shape as `TowerVoteState.votes`."""
        return [tuple(lockout) for lockout in self.lockouts]  # type: ignore[misc]

    @property
    def last_voted_slot(self) -> int | None:
        """The slot of the last vote sent, `None` where nothing was ever sent."""
        return self.last_vote.last_slot


@dataclass(frozen=True, slots=True)
class VoteAccountState:
    """What one bank knows of one vote account.

    `authorized_voters` maps the first epoch of validity to the voter, ascending; `lockouts` are oldest first.
    """

    node_pubkey: bytes
    authorized_voters: tuple[tuple[int, bytes], ...] = ()
    lockouts: tuple[Lockout, ...] = ()
    root: int | None = None
    epoch_credits: tuple[tuple[int, int, int], ...] = ()
    last_timestamp: BlockTimestamp = BlockTimestamp()
    # slots between each vote and the bank it landed in, as `lockouts`; for credits only, so not compared
    latencies: tuple[int, ...] = field(default=(), compare=False)

    @property
    def last_voted_slot(self) -> int | None:
        return self.lockouts[-1].slot if self.lockouts else None

    def authorized_voter(self, epoch: int) -> bytes | None:
        """The voter for `epoch`: the entry with the greatest epoch not above it."""
        found = None
        for first_epoch, voter in self.authorized_voters:
            if first_epoch <= epoch:
                found = voter
        return found


@dataclass(frozen=True, slots=True)
class FrozenBank:
    """One frozen bank, as the voter is told of it.

    `parent_slot` is `None` only for the first bank of a tree. `votes` are the vote accounts *in this bank*, by vote
    account address; `stakes` the stake in lamports of each for the bank's epoch. `last_blockhash` is any blockhash that
    is still young enough for a transaction; it does not identify the bank, `bank_hash` does.
    """

    slot: int
    parent_slot: int | None
    bank_hash: bytes
    last_blockhash: bytes = ZERO_HASH
    epoch: int = 0
    votes: Mapping[bytes, VoteAccountState] = field(default_factory=dict)
    stakes: Mapping[bytes, int] = field(default_factory=dict)
    block_id: bytes = ZERO_HASH
    leader: bytes | None = None  # who produced it, where that is known
    parent_hash: bytes | None = None  # which version of the parent's slot; None: the only one, or the first valid one
