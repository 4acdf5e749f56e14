"""What goes into the voter and what comes out of it: plain frozen values, no behaviour.

Events tell what happened; effects say what to do. `tower.voter` turns the one into the other, `tower.runner` carries the
effects out. The names are those of the state machine's table.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from tower._fast import TowerVoteState
from tower.checks import Check
from tower.restore import SlotHistory
from tower.store import Claimed, Committed, Fence, Refused, Sighting, Unknown
from tower.types import BlockTimestamp, FrozenBank

__all__ = [
    "Adopted",
    "BankFrozen",
    "Claim",
    "DeadlinePassed",
    "Decision",
    "Effect",
    "Event",
    "FenceLost",
    "Halt",
    "HaltReason",
    "LedgerView",
    "Look",
    "LookFailed",
    "Looked",
    "Persist",
    "Release",
    "Resign",
    "RootAdvanced",
    "Settle",
    "StoreAnswered",
    "TakeOver",
    "Vote",
    "VoteSeen",
]


@dataclass(frozen=True, slots=True)
class Vote:
    """A decided vote: everything that its record and its transaction are made of, and nothing secret."""

    slot: int
    bank_hash: bytes
    block_id: bytes
    state: TowerVoteState  # with this vote in it; never changed again
    timestamp: int | None
    last_timestamp: BlockTimestamp
    threshold_depth: int
    threshold_size: float
    voter: bytes
    blockhash: bytes
    switch_proof: bytes | None
    cast_at_slot: int  # the bank that the blockhash is from


@dataclass(frozen=True, slots=True)
class Decision:
    """What was thought about one candidate bank: the vote, or every reason against it."""

    slot: int
    vote: Vote | None
    checks: tuple[Check, ...]
    reset_slot: int  # the bank to build on: the tip of the fork that we are bound to, or the heaviest
    vote_only: bool = False  # the root is so far behind that new blocks should carry votes only

    @property
    def refusals(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.refuses)

    @property
    def warnings(self) -> tuple[Check, ...]:
        """Checks that did not pass and do not block."""
        return tuple(check for check in self.checks if not check.passed and not check.blocking)


# ------------------------------------------------------------------------------------------------------------ events


@dataclass(frozen=True, slots=True)
class LedgerView:
    """What the ledger says of old slots: its root, and the slot history as of it or an earlier root of the same fork."""

    replayed_root: int
    history: SlotHistory


@dataclass(frozen=True, slots=True)
class TakeOver:
    """The operator, or the start of the process, wants this identity to vote here.

    `ledger` is needed only for a stored tower with votes that the tree of banks does not reach. Without it such votes
    bind as if they were on another fork.
    """

    ledger: LedgerView | None = None


@dataclass(frozen=True, slots=True)
class Looked:
    sighting: Sighting


@dataclass(frozen=True, slots=True)
class LookFailed:
    cause: str


@dataclass(frozen=True, slots=True)
class StoreAnswered:
    """The outcome of the claim or of the write in flight."""

    outcome: Claimed | Committed | Refused | Unknown


@dataclass(frozen=True, slots=True)
class BankFrozen:
    """A bank was frozen; `unix_s` is the wall clock in seconds, for the vote's timestamp only."""

    bank: FrozenBank
    unix_s: int


@dataclass(frozen=True, slots=True)
class RootAdvanced:
    """The cluster rooted `slot`."""

    slot: int


@dataclass(frozen=True, slots=True)
class VoteSeen:
    """A vote of `account` for `slot` was seen (gossip, or a vote port) that may not have landed."""

    account: bytes
    slot: int
    bank_hash: bytes


@dataclass(frozen=True, slots=True)
class FenceLost:
    """The watch saw another instance claim, at `seen`."""

    seen: int


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The time that a vote may wait for its store is over."""

    cause: str


@dataclass(frozen=True, slots=True)
class Resign:
    """Stop voting as this identity, by order."""

    reason: str


Event = (
    TakeOver
    | Looked
    | LookFailed
    | StoreAnswered
    | BankFrozen
    | RootAdvanced
    | VoteSeen
    | FenceLost
    | DeadlinePassed
    | Resign
)


# ----------------------------------------------------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class Look:
    """Read both keys of the identity."""


@dataclass(frozen=True, slots=True)
class Claim:
    sighting: Sighting
    last_voted_slot: int | None


@dataclass(frozen=True, slots=True)
class Adopted:
    """The identity is ours: the fence is held and the tower loaded. `votes_from_slot` is set where it must wait."""

    fence: Fence
    last_voted_slot: int | None
    votes_from_slot: int | None


@dataclass(frozen=True, slots=True)
class Persist:
    """Write the tower that contains `vote`, fenced, and sign the vote's transaction meanwhile."""

    fence: Fence
    expected_revision: int
    vote: Vote


@dataclass(frozen=True, slots=True)
class Settle:
    """Repeat the write in flight, unchanged, to learn what became of it."""


@dataclass(frozen=True, slots=True)
class Release:
    """Send the vote in flight: `committed` is the proof that its tower is durable."""

    committed: Committed
    vote: Vote


class HaltReason(enum.Enum):
    """Why a voter stopped: who must act next differs."""

    RESIGNED = "resigned"
    REFUSED = "refused"  # found before the claim: nothing was taken from anybody
    LOST_FENCE = "lost the fence"
    STORE_FAILED = "the store failed"
    TOWER_UNUSABLE = "the stored tower is unusable"
    INTERNAL = "an invariant does not hold"


@dataclass(frozen=True, slots=True)
class Halt:
    reason: HaltReason
    text: str


Effect = Look | Claim | Adopted | Persist | Settle | Release | Halt
