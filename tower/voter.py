"""The voter: a state machine without I/O. Events go in, effects come out; `tower.runner` is the only one to carry them out.

One `Voter` is one life of one identity on one machine: it looks, claims, votes, and stops. It never leaves STOPPED; a new life
is a new object. What it decides it decides from its events alone: no clock, no randomness, no store, no network, no secret.

======================  ==============================================================================================
state                   what is true in it
======================  ==============================================================================================
STANDBY                 banks are folded into the tree, nothing is decided: the spare keeps itself ready
LOOKING                 the store is being read, without effect on it
CLAIMING                what was read is fit to vote on, and the claim is under way
READY                   the fence is held, the tower is loaded, nothing is in flight
PERSISTING              one vote is decided and its tower on the way to the store: no new decision (S6)
UNRESOLVED              the store did not say whether it took the tower: the same write is repeated, nothing else (S6)
STOPPED                 the end, and nothing is ever released from it
======================  ==============================================================================================

The order look, then claim matters: a claim takes the owner down, so whatever would keep us from voting (a torn tower, the
wrong vote account, a missing key) must be found before it. `TABLE` lists every pair of state and event that may happen;
any other pair stops the voter.

Safety: S2 and S6 are the shape of the table (a `Release` is only ever returned from `_committed`), S1 and S5 are asked in
`_decide` and `_accept`, S3 and S4 are the store's.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tower import checks
from tower._fast import TowerVoteState
from tower.checks import Check, SwitchDecision
from tower.errors import InvalidInput, InvariantViolation, TowerError, TowerTooOld
from tower.events import (
    Adopted,
    BankFrozen,
    Claim,
    DeadlinePassed,
    Decision,
    Effect,
    Event,
    FenceLost,
    Halt,
    HaltReason,
    LedgerView,
    Look,
    Looked,
    LookFailed,
    Persist,
    Release,
    Resign,
    RootAdvanced,
    Settle,
    StoreAnswered,
    TakeOver,
    Vote,
    VoteSeen,
)
from tower.forkchoice import ForkChoice
from tower.keys import to_base58
from tower.lockout import adopt, malformed, require_well_formed
from tower.restore import adjust
from tower.store import ABSENT, Claimed, Committed, Fence, Refused, Unknown
from tower.types import ZERO_HASH, BlockTimestamp, FrozenBank, Tower
from tower.wire import decode_saved_tower, new_tower, to_current

__all__ = [
    "CLAIM_ATTEMPTS_MAX",
    "TABLE",
    "Voter",
    "VoterConfig",
    "VoterState",
]

CLAIM_ATTEMPTS_MAX = 8  # races lost, or answers lost, before a take-over is given up
MAX_ROOT_DISTANCE_FOR_VOTE_ONLY = 400  # slots from the root to the candidate beyond which blocks carry votes only
SLOT_HASHES_NAMED = 512  # a vote for a slot that the tip's SlotHashes no longer names cannot land
REFRESH_VOTE_BLOCKHEIGHT = 16  # blocks after which a vote that did not land is sent again
MAX_VOTE_REFRESH_INTERVAL_S = 5
TREE_LAG_SLOTS_MAX = 512  # how far our own root may stay behind the cluster's before the tree is pruned without it


class VoterState(enum.Enum):
    """See the table in the module's text."""

    STANDBY = enum.auto()
    LOOKING = enum.auto()
    CLAIMING = enum.auto()
    READY = enum.auto()
    PERSISTING = enum.auto()
    UNRESOLVED = enum.auto()
    STOPPED = enum.auto()

    __hash__ = object.__hash__  # an enumeration hashes its name, in Python; `TABLE` is asked for every event


@dataclass(frozen=True, slots=True)
class VoterConfig:
    """Who votes, with which account and keys. Public keys only: secrets stay with the runner."""

    identity: bytes
    vote_account: bytes
    authorized_voters: frozenset[bytes]
    require_tower: bool = False
    rebuild_wait_slots: int = 200


# ------------------------------------------------------------------------------------------------------- the machine


@dataclass(frozen=True, slots=True)
class _LastCast:
    """The last vote as it was, for sending it again; `at_slot` is where its blockhash is from, `None` if restored."""

    slot: int
    bank_hash: bytes
    block_id: bytes
    timestamp: int | None
    at_slot: int | None
    unix_s: int


class Voter:
    """One life of one identity. `forks` is the tree that it keeps; a spare hands its own on to the next life."""

    def __init__(self, config: VoterConfig, forks: ForkChoice) -> None:
        self.config = config
        self.forks = forks
        self.state = VoterState.STANDBY
        self.decision: Decision | None = None  # the newest one, for logs and tests
        self.fence: Fence | None = None
        self._unix_s = 0
        self._claims_left = CLAIM_ATTEMPTS_MAX
        self._pending: Vote | None = None
        self._votes_from_slot: int | None = None
        self._ledger: LedgerView | None = None
        self._load(new_tower(config.identity), 0)

    def _load(self, tower: Tower, revision: int) -> None:
        last = tower.last_vote
        self._tower_revision = revision
        self._votes = TowerVoteState(tower.lockouts, tower.root)
        self._last_voted_slot = tower.last_voted_slot
        self._stray_slot: int | None = None
        self._rebuilding = False
        self._last_cast: _LastCast | None = None
        if last.last_slot is not None:
            block_id = last.block_id or ZERO_HASH
            self._last_cast = _LastCast(last.last_slot, last.hash, block_id, last.timestamp, None, 0)
        self._last_timestamp = tower.last_timestamp
        self._threshold_depth = tower.threshold_depth
        self._threshold_size = tower.threshold_size

    @property
    def votes(self) -> TowerVoteState:
        """A copy of the lockout stack as it stands in the store."""
        return self._votes.copy()

    @property
    def last_voted_slot(self) -> int | None:
        """The slot of the newest vote that is durable."""
        return self._last_voted_slot

    def effects(self, event: Event) -> Iterator[Effect]:
        """Take one event in; the effects in order, each to be carried out before the next is asked for.

        One after another, because a vote that may leave must not wait for the thoughts about the next one: those are
        thought when the released vote is on its way.
        Never raises for what an event says: a pair of state and event that is not in `TABLE`, and any error inside, ends in
        STOPPED with a `Halt`.
        """
        handler = TABLE.get((self.state, type(event)))
        if handler is None:
            yield from self._halt(HaltReason.INTERNAL, f"{type(event).__name__} cannot happen in {self.state.name}")
            return
        try:
            yield from handler(self, event)
        except TowerError as problem:
            yield from self._halt(HaltReason.INTERNAL, str(problem))

    def handle(self, event: Event) -> list[Effect]:
        """All effects of `event` at once, for who looks at them before carrying any out."""
        return list(self.effects(event))

    def _halt(self, reason: HaltReason, text: str) -> list[Effect]:
        self.state = VoterState.STOPPED
        return [Halt(reason, text)]

    # ---- what may happen at any time

    def _ignore(self, event: Any) -> list[Effect]:
        return []

    def _fold(self, event: BankFrozen) -> list[Effect]:
        """Take the bank into the tree; the decision, if any, is left to whoever called."""
        self._unix_s = event.unix_s
        try:
            self.forks.add(event.bank)
        except InvalidInput:
            return []  # below the root, or off the tree: nothing that we could vote on
        return []

    def _vote_seen(self, event: VoteSeen) -> list[Effect]:
        self.forks.note_gossip_vote(event.account, event.slot, event.bank_hash)
        return []

    def _prune(self, event: RootAdvanced) -> list[Effect]:
        """Follow the cluster's root where we do not root ourselves, so that the tree stays bounded."""
        own_root = self._votes.root if self.fence is not None else None
        if event.slot in self.forks and (own_root is None or own_root + TREE_LAG_SLOTS_MAX < event.slot):
            self.forks.set_root(event.slot)
        return []

    def _resign(self, event: Resign) -> list[Effect]:
        return self._halt(HaltReason.RESIGNED, event.reason)

    def _fence_lost(self, event: FenceLost) -> list[Effect]:
        if self.fence is not None and event.seen <= self.fence.revision:
            return []  # an echo of a claim before ours
        return self._halt(HaltReason.LOST_FENCE, f"another instance has claimed this identity (revision {event.seen})")

    # ---- look, then claim

    def _take_over(self, event: TakeOver) -> list[Effect]:
        self._ledger = event.ledger
        return self._look()

    def _look(self) -> list[Effect]:
        self.state = VoterState.LOOKING
        return [Look()]

    def _look_failed(self, event: LookFailed) -> list[Effect]:
        return self._halt(HaltReason.STORE_FAILED, event.cause)

    def _looked(self, event: Looked) -> list[Effect]:
        """Everything that would keep us from voting is found here, before anybody loses anything (S5)."""
        _, can_sign = self._can_sign(self.forks.best())
        if not can_sign.passed:
            return self._halt(HaltReason.REFUSED, can_sign.reason)
        record = event.sighting.record
        if record is None:
            if self.config.require_tower:
                return self._halt(HaltReason.REFUSED, "no tower is stored for this identity and --require-tower is set")
            last_voted_slot = None
        else:
            problem = self._accept(record, event.sighting.record_revision)
            if problem is not None:
                return self._halt(HaltReason.TOWER_UNUSABLE, problem)
            last_voted_slot = self._last_voted_slot
        self.state = VoterState.CLAIMING
        return [Claim(event.sighting, last_voted_slot)]

    def _accept(self, record: bytes, revision: int) -> str | None:
        """Load a stored record; what is wrong with it, if anything. The same check at the look and at the claim (S5)."""
        whose = to_base58(self.config.identity)
        try:
            tower = to_current(decode_saved_tower(record, self.config.identity))
            require_well_formed(tower)
            self._load(tower, revision)
            self._place()
        except TowerTooOld as problem:
            if self.config.require_tower:
                return f"the stored tower of {whose} is unusable and --require-tower is set: {problem}"
            self._load(new_tower(self.config.identity), revision)
            self._rebuilding = True
        except TowerError as problem:
            return f"the stored tower of {whose} is unusable: {problem}"
        return None

    def _place(self) -> None:
        """Bring a tower that the tree of banks does not reach in line with the ledger; see `tower.restore`."""
        root = self._votes.root
        unknown = [slot for slot, _ in self._votes.votes if not self.forks.knows(slot)]
        placed = root is None or self.forks.knows(root)
        if self._ledger is None or (placed and all(slot > self.forks.newest for slot in unknown)):
            return  # what is unknown, if anything, is only ahead of the banks that we have
        found = adjust(self._votes.votes, self._votes.root, self._ledger.replayed_root, self._ledger.history)
        self._votes = TowerVoteState(found.votes, found.root)
        self._stray_slot = found.stray_slot
        if found.root is not None:
            self.forks.note_rooted(found.root)
        if not found.votes:
            self._last_voted_slot, self._last_cast = None, None  # all of it is rooted: nothing binds any more

    def _claim_answered(self, event: StoreAnswered) -> list[Effect]:
        match event.outcome:
            case Claimed() as claimed:
                return self._claimed(claimed)
            case Refused() | Unknown():
                self._claims_left -= 1
                if self._claims_left:
                    return self._look()
                text = f"the claim did not succeed in {CLAIM_ATTEMPTS_MAX} attempts: {event.outcome}"
                return self._halt(HaltReason.STORE_FAILED, text)
            case _:
                raise InvariantViolation(f"a claim cannot end as {type(event.outcome).__name__}")

    def _claimed(self, claimed: Claimed) -> list[Effect]:
        self.fence = claimed.fence
        if claimed.record is not None:
            problem = self._accept(claimed.record, claimed.record_revision)
            if problem is not None:
                return self._halt(HaltReason.TOWER_UNUSABLE, problem)
        elif claimed.record_revision or self._tower_revision:
            raise InvariantViolation("a tower that was seen is gone from the store")
        self._distrust()
        self.state = VoterState.READY
        adopted: Effect = Adopted(claimed.fence, self._last_voted_slot, self._votes_from_slot)
        return [adopted, *self._decide()]

    def _distrust(self) -> None:
        """Where the store knows less than the chain, begin from what landed, as the clients on the cluster do, and wait.

        No tower is stored, or one too old to be placed, or one older than what landed (a store that was restored from a
        backup). Votes that were sent and never landed are unknown then. They cannot land, and so not matter, once their
        blockhash is too old; until then nothing is voted. An identity that never voted has nothing to wait for.
        """
        bank = self.forks.best()
        own = bank.votes[self.config.vote_account]
        stored, landed = self._votes.last_voted_slot, own.last_voted_slot
        if own.root is None and landed is None:
            return
        unknown = self._rebuilding or self._tower_revision == ABSENT
        behind = landed is not None and landed > (self._votes.root or 0) and (stored is None or landed > stored)
        if not unknown and not behind:
            return
        self._adopt_landed(bank)
        self._last_timestamp = max(self._last_timestamp, own.last_timestamp)
        self._votes_from_slot = bank.slot + self.config.rebuild_wait_slots

    # ---- deciding

    def _bank_frozen(self, event: BankFrozen) -> list[Effect]:
        self._fold(event)
        return self._decide()

    def _decide(self) -> list[Effect]:
        """Think about the heaviest bank; a vote for it goes to the store, and the state to PERSISTING.

        Where there is nothing new to vote for, the last vote may be sent again: the same promise with a younger blockhash,
        through the same door, so that it too is fenced.
        """
        bank = self._candidate()
        vote: Vote | None = None
        if bank.slot != self._votes.last_voted_slot:
            self._adopt_landed(bank)
            self.decision = self._think(bank)
            vote = self.decision.vote
        vote = vote or self._refresh()
        if vote is None:
            return []
        if self.fence is None:
            raise InvariantViolation("a decision without a fence")
        if not vote.state.is_well_formed():
            problem = malformed(vote.state.votes, vote.state.root)
            raise InvariantViolation(f"about to store a malformed tower: {problem}")
        self.state = VoterState.PERSISTING
        self._pending = vote
        return [Persist(self.fence, self._tower_revision, vote)]

    def _candidate(self) -> FrozenBank:
        """The heaviest bank; or the tip of our own fork, where our last vote is on a lighter one and can no longer land.

        Then only a newer vote on our own fork can still tell the cluster where we are bound.
        """
        best, last = self.forks.best(), self._last_voted_slot
        if last is None or last not in self.forks or self.forks.is_ancestor(last, best.slot):
            return best
        tip = self.forks.best_below(last)
        own = None if tip is None else tip.votes.get(self.config.vote_account)
        if tip is None or tip.slot == last or own is None or (own.last_voted_slot or 0) >= last:
            return best
        beyond = sum(1 for bank in self.forks.path(tip.slot) if bank.slot > last)
        switch, _ = self._check_switch(best)
        return tip if beyond > SLOT_HASHES_NAMED and switch is SwitchDecision.FAILED else best

    def _check_switch(self, bank: FrozenBank) -> tuple[SwitchDecision, Check]:
        last, cast = self._last_voted_slot, self._last_cast
        stray = last is not None and last == self._stray_slot and last not in self.forks
        bank_hash = cast.bank_hash if cast is not None and cast.slot == last else None
        return checks.check_switch(last, bank, self.forks, stray, bank_hash)

    def _refresh(self) -> Vote | None:
        """The last vote once more, if it has not landed on its own fork for long enough. Never a new decision."""
        cast = self._last_cast
        if cast is None or cast.slot != self._votes.last_voted_slot or self._unix_s < cast.unix_s + MAX_VOTE_REFRESH_INTERVAL_S:
            return None
        tip = self.forks.best_below(cast.slot)
        own = None if tip is None else tip.votes.get(self.config.vote_account)
        if tip is None or tip.slot <= cast.slot or own is None or own.last_voted_slot is None or own.last_voted_slot >= cast.slot:
            return None
        if cast.at_slot is not None:
            blocks = sum(1 for bank in self.forks.path(tip.slot) if bank.slot > cast.at_slot)
            if blocks < REFRESH_VOTE_BLOCKHEIGHT:
                return None
        voter, _ = self._can_sign(tip)
        if voter is None or not self._check_waited(tip).passed:
            return None
        timestamp = (self._last_timestamp.timestamp if cast.timestamp is None else cast.timestamp) + 1
        return Vote(
            slot=cast.slot,
            bank_hash=cast.bank_hash,
            block_id=cast.block_id,
            state=self._votes.copy(),
            timestamp=timestamp,
            last_timestamp=BlockTimestamp(cast.slot, timestamp),
            threshold_depth=self._threshold_depth,
            threshold_size=self._threshold_size,
            voter=voter,
            blockhash=tip.last_blockhash,
            switch_proof=None,
            cast_at_slot=tip.slot,
        )

    def _adopt_landed(self, bank: FrozenBank) -> None:
        """Votes of ours that landed and that our tower does not know bind us all the same."""
        own = bank.votes.get(self.config.vote_account)
        if own is not None and (own.last_voted_slot or 0) > (self._votes.last_voted_slot or 0):
            self._votes = adopt(self._votes, own.lockouts, own.root)
            self._last_voted_slot = self._votes.last_voted_slot
            self._last_cast = None  # it has landed: nothing to send again

    def _think(self, bank: FrozenBank) -> Decision:
        config, votes = self.config, self._votes
        voter, can_sign = self._can_sign(bank)
        switch, may_switch = self._check_switch(bank)
        vote_only = bank.slot > self.forks.root + MAX_ROOT_DISTANCE_FOR_VOTE_ONLY
        results = (
            can_sign,
            self._check_waited(bank),
            may_switch,
            checks.check_recent(votes, bank.slot),
            checks.check_lockout(votes, bank.slot, self.forks),
            *checks.check_thresholds(votes, bank, self.forks, self._threshold_depth, self._threshold_size),
            checks.check_propagation(bank, config.identity, self.forks),
        )
        failed = [check for check in results if not check.passed]  # mostly none
        if voter is None or any(check.refuses for check in failed):
            bound = switch is SwitchDecision.FAILED and self._last_voted_slot is not None
            own_fork = self.forks.best_below(self._last_voted_slot or 0) if bound else None
            return Decision(bank.slot, None, results, (own_fork or bank).slot, vote_only)
        after = votes.copy()
        after.process_vote(bank.slot)
        timestamp, last_timestamp = self._timestamp(bank.slot)
        vote = Vote(
            slot=bank.slot,
            bank_hash=bank.bank_hash,
            block_id=bank.block_id,
            state=after,
            timestamp=timestamp,
            last_timestamp=last_timestamp,
            threshold_depth=self._threshold_depth,
            threshold_size=self._threshold_size,
            voter=voter,
            blockhash=bank.last_blockhash,
            switch_proof=ZERO_HASH if switch is SwitchDecision.SWITCH_PROOF else None,
            cast_at_slot=bank.slot,
        )
        return Decision(bank.slot, vote, results, bank.slot, vote_only)

    def _can_sign(self, bank: FrozenBank) -> tuple[bytes | None, Check]:
        config = self.config
        return checks.check_can_sign(bank, config.vote_account, config.identity, config.authorized_voters)

    def _check_waited(self, bank: FrozenBank) -> Check:
        first = self._votes_from_slot
        if first is None or bank.slot >= first:
            return Check("waited", True, bank.slot, first or 0)
        reason = f"the store knew less than the chain: no vote before slot {first}, when unknown votes can no longer land"
        return Check("waited", False, bank.slot, first, reason)

    def _timestamp(self, slot: int) -> tuple[int | None, BlockTimestamp]:
        """The vote's timestamp and what is remembered of it: never going back, none where the clock went back.

        None before this life's first bank as well, for that brings the clock: 1970 is no time of a vote.
        """
        last = self._last_timestamp
        if self._unix_s and (slot > last.slot or (slot == 0 and last.slot == 0)) and self._unix_s >= last.timestamp:
            return self._unix_s, BlockTimestamp(slot, self._unix_s)
        return None, last

    # ---- what the store says of the write in flight

    def _store_answered(self, event: StoreAnswered) -> Iterable[Effect]:
        match event.outcome:
            case Committed() as committed:
                return self._committed(committed)
            case Refused() as refused:
                text = f"the store refused the tower: {refused.reason.value} (mine {refused.mine}, seen {refused.seen})"
                return self._halt(HaltReason.LOST_FENCE, text)
            case Unknown():
                self.state = VoterState.UNRESOLVED
                return [Settle()]
            case _:
                raise InvariantViolation(f"a write cannot end as {type(event.outcome).__name__}")

    def _committed(self, committed: Committed) -> Iterator[Effect]:
        """The tower is durable: the vote in it may leave, and then the next one may be thought about (S2)."""
        vote, self._pending = self._pending, None
        if vote is None or committed.fence != self.fence:
            raise InvariantViolation("a commit without a write of ours in flight")
        old_root = self._votes.root
        self._votes = vote.state
        self._last_voted_slot = vote.slot
        self._last_timestamp = vote.last_timestamp
        self._last_cast = _LastCast(
            vote.slot, vote.bank_hash, vote.block_id, vote.timestamp, vote.cast_at_slot, self._unix_s
        )
        self._tower_revision = committed.record_revision
        self.state = VoterState.READY
        yield Release(committed, vote)
        if self.state is not VoterState.READY:
            return  # told to stop while the vote left
        if vote.state.root is not None and vote.state.root != old_root and vote.state.root in self.forks:
            self.forks.set_root(vote.state.root)
        yield from self._decide()

    def _deadline_passed(self, event: DeadlinePassed) -> list[Effect]:
        return self._halt(HaltReason.STORE_FAILED, event.cause)


Handler = Callable[[Voter, Any], Iterable[Effect]]

# What was under way when a voter stopped still answers.
STILL_ARRIVING = (
    Looked,
    LookFailed,
    StoreAnswered,
    BankFrozen,
    RootAdvanced,
    VoteSeen,
    FenceLost,
    DeadlinePassed,
    Resign,
)

S = VoterState
TABLE: dict[tuple[VoterState, type], Handler] = {
    (S.STANDBY, TakeOver): Voter._take_over,
    (S.LOOKING, Looked): Voter._looked,
    (S.LOOKING, LookFailed): Voter._look_failed,
    (S.CLAIMING, StoreAnswered): Voter._claim_answered,
    (S.READY, BankFrozen): Voter._bank_frozen,
    (S.READY, FenceLost): Voter._fence_lost,
    (S.PERSISTING, StoreAnswered): Voter._store_answered,
    (S.PERSISTING, FenceLost): Voter._fence_lost,
    (S.PERSISTING, DeadlinePassed): Voter._deadline_passed,
    (S.UNRESOLVED, StoreAnswered): Voter._store_answered,
    (S.UNRESOLVED, FenceLost): Voter._fence_lost,
    (S.UNRESOLVED, DeadlinePassed): Voter._deadline_passed,
    **{
        (state, BankFrozen): Voter._fold
        for state in (S.STANDBY, S.LOOKING, S.CLAIMING, S.PERSISTING, S.UNRESOLVED)
    },
    **{(state, Resign): Voter._resign for state in S if state is not S.STOPPED},
    **{(state, RootAdvanced): Voter._prune for state in S if state is not S.STOPPED},
    **{(state, VoteSeen): Voter._vote_seen for state in S if state is not S.STOPPED},
    **{
        (S.STOPPED, event): Voter._ignore
        for event in STILL_ARRIVING
    },
}
del S
