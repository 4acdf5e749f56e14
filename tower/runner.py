"""The runner: carries out what a voter decides, and is the only place from which a vote can leave.

**Persist, then release.** `Persist` starts the fenced write and signs the transaction while the write is under way; the
signed bytes stay in here. Only `Release`, which the voter returns for a `Committed` outcome and for nothing else, wraps them in
a `CommittedVote`, and only a `CommittedVote` is accepted by the sender. `CommittedVote` refuses to be built from anything but
the outcome that holds exactly the record of that vote (S2).

**Time.** A vote may wait `store_timeout` seconds for its store, over all repetitions; then the voter stops. The clock is
monotonic and injected, and so is the pause before a write is repeated.

A runner belongs to one thread. `dispatch` takes an event in; while `in_flight` is true, `settle` waits for the store and goes
on from its answer. The watch calls from a thread of its own, so `on_fence_lost` must only hand over (to a queue).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import final

from tower import _fast
from tower.errors import InvariantViolation, SigningError, StoreError
from tower.events import (
    Adopted,
    Claim,
    DeadlinePassed,
    Effect,
    Event,
    Halt,
    Look,
    Looked,
    LookFailed,
    Persist,
    Release,
    Settle,
    StoreAnswered,
    Vote,
)
from tower.keys import Keypair
from tower.store import Committed, Owner, Pending, Store, Unknown, Watch
from tower.trace import LifeTrace, Trace
from tower.voter import Voter, VoterState

__all__ = ["CommittedVote", "Runner", "SignedVote"]

REPEAT_PAUSE_S, REPEAT_PAUSE_MAX_S = 0.01, 0.2  # before a write whose outcome is unknown is repeated


@final
@dataclass(frozen=True, slots=True)
class SignedVote:
    """A vote that is signed and must not leave yet: the record that was sent to the store, and the transaction."""

    vote: Vote
    record: bytes
    transaction: bytes


@final
class CommittedVote:
    """A vote that may be sent: its tower is durable. Built only from the `Committed` outcome of exactly its record."""

    __slots__ = ("revision", "signed")

    def __init__(self, committed: Committed, signed: SignedVote) -> None:
        if not isinstance(committed, Committed) or committed.record != signed.record:
            raise InvariantViolation("a vote can only be sent after its own tower was committed")
        self.signed = signed
        self.revision = committed.record_revision

    @property
    def transaction(self) -> bytes:
        """The signed transaction, as it goes onto the wire."""
        return self.signed.transaction

    @property
    def slot(self) -> int:
        """The newest slot of the vote."""
        return self.signed.vote.slot


@dataclass(slots=True)
class _InFlight:
    persist: Persist
    signed: SignedVote
    pending: Pending
    deadline: float
    pause: float = REPEAT_PAUSE_S


class Runner:
    """Runs one voter on one store.

    `send` gets each `CommittedVote` once; sending is best effort and must not block. `before_claim` runs when what was
    read is fit to vote on and nothing is claimed yet: the moment for another life on this machine to end. `on_adopted` and
    `on_halt` tell the surroundings. `why` goes into the owner record. All callbacks run in the runner's thread, but
    `on_fence_lost`. `trace` is told what this life does.
    """

    def __init__(
        self,
        voter: Voter,
        store: Store,
        identity: Keypair,
        authorized_voters: Iterable[Keypair],
        send: Callable[[CommittedVote], None],
        *,
        why: str = "start",
        who: str = "",
        store_timeout: float = 5.0,
        before_claim: Callable[[], None] = lambda: None,
        on_adopted: Callable[[Adopted], None] = lambda adopted: None,
        on_halt: Callable[[Halt], None] = lambda halt: None,
        on_fence_lost: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        wall_ms: Callable[[], int] = lambda: int(time.time() * 1000),
        trace: Trace | None = None,
    ) -> None:
        self.voter = voter
        self.halted: Halt | None = None
        self.adopted: Adopted | None = None
        self.store_s = 0.0  # how long the newest write took, from its start to the store's answer
        self.store_began = 0.0  # when it started, on the clock
        self._store = store
        self._identity = identity
        self._voters: Mapping[bytes, Keypair] = {pair.pubkey: pair for pair in authorized_voters}
        self._send = send
        self._why = why
        self._who = who
        self._store_timeout = store_timeout
        self._before_claim = before_claim
        self._on_adopted = on_adopted
        self._on_halt = on_halt
        self._on_fence_lost = on_fence_lost
        self._clock = clock
        self._pause = pause
        self._wall_ms = wall_ms
        self._trace: LifeTrace | None = None if trace is None else trace.life(identity.address)
        self._in_flight: _InFlight | None = None
        self._watch: Watch | None = None

    @property
    def in_flight(self) -> bool:
        """Whether a write is under way whose outcome must be waited for with `settle`."""
        return self._in_flight is not None

    def dispatch(self, event: Event) -> None:
        """Take an event in and carry out what follows, except waiting for a write: that is `settle`."""
        events = deque((event,))
        while events:
            for effect in self._effects(events.popleft()):
                answer = self._carry_out(effect)
                if answer is not None:
                    events.append(answer)
        if self.voter.state is VoterState.STOPPED:
            self._in_flight = None

    def _effects(self, event: Event) -> Iterable[Effect]:
        if self._trace is None:
            return self.voter.effects(event)
        effects = list(self.voter.effects(event))  # a trace tells what follows from an event before it is carried out
        self._trace.handled(event, effects)
        return effects

    def settle(self) -> None:
        """Wait for the write in flight, at most until its deadline, and go on from what the store says."""
        flight = self._in_flight
        if flight is None:
            return
        outcome = flight.pending.outcome(self._left(flight))
        if isinstance(outcome, Unknown) and self._left(flight):
            # A store that says "unknown" at once (a full disk, say) is not asked again at once.
            self._pause(min(flight.pause, self._left(flight)))
            flight.pause = min(2 * flight.pause, REPEAT_PAUSE_MAX_S)
        self.store_began = flight.deadline - self._store_timeout
        self.store_s = self._clock() - self.store_began
        if isinstance(outcome, Unknown) and self._clock() >= flight.deadline:
            text = f"the store did not confirm the tower within {self._store_timeout:g} s: {outcome.cause}"
            self.dispatch(DeadlinePassed(text))
        else:
            self.dispatch(StoreAnswered(outcome))
        if self._in_flight is None and self.voter.state is VoterState.READY:
            self._store.expect_store()  # the vote has left, and there is time until the next bank

    def _left(self, flight: _InFlight) -> float:
        return max(0.0, flight.deadline - self._clock())

    def drive(self, event: Event) -> None:
        """`dispatch`, then `settle` until nothing is in flight. Bounded: every round ends at the write's deadline."""
        self.dispatch(event)
        while self.in_flight:
            self.settle()

    def set_authorized_voters(self, pairs: Iterable[Keypair]) -> None:
        """Vote with these keys from the next decision on; none stops voting at once."""
        self._voters = {pair.pubkey: pair for pair in pairs}
        self.voter.config = replace(self.voter.config, authorized_voters=frozenset(self._voters))

    def close(self) -> None:
        """End the watch. The voter is not told: resign first."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _carry_out(self, effect: Effect) -> Event | None:
        match effect:
            case Persist():
                self._persist(effect)
            case Release():
                self._release(effect)
            case Settle():
                self._repeat()
            case Look():
                return self._look()
            case Claim():
                return self._claim(effect)
            case Adopted():
                if self._on_fence_lost is not None:
                    self._watch = self._store.watch(effect.fence, self._on_fence_lost)
                self.adopted = effect
                self._on_adopted(effect)
            case Halt():
                self.halted = effect
                self._on_halt(effect)
        return None

    def _look(self) -> Event:
        if self._trace is not None:
            self._trace.looks()
        try:
            return Looked(self._store.look(self._identity.address, self._store_timeout))
        except StoreError as problem:
            return LookFailed(str(problem))

    def _claim(self, effect: Claim) -> Event:
        self._before_claim()
        owner = Owner.of_this_process(
            self._why, at_ms=self._wall_ms(), who=self._who, last_voted_slot=effect.last_voted_slot
        )
        if self._trace is not None:
            self._trace.claims(effect)
        return StoreAnswered(self._store.claim(effect.sighting, owner, self._store_timeout))

    def _persist(self, effect: Persist) -> None:
        vote = effect.vote
        record = _fast.encode_vote_record(
            self._identity.pubkey,
            self._identity.secret,
            vote.state,
            vote.bank_hash,
            vote.timestamp,
            vote.block_id,
            vote.last_timestamp,
            vote.threshold_depth,
            vote.threshold_size,
        )
        if self._trace is not None:
            self._trace.persists(effect, record, self.voter.last_voted_slot)
        deadline = self._clock() + self._store_timeout
        pending = self._begin(effect, record, self._store_timeout)
        # The write is under way: the transaction is signed in the time that the store needs, and stays here.
        signed = SignedVote(vote, record, self._sign(vote))
        self._in_flight = _InFlight(effect, signed, pending, deadline)

    def _begin(self, effect: Persist, record: bytes, timeout: float) -> Pending:
        return self._store.begin_store(effect.fence, effect.expected_revision, record, timeout)

    def _repeat(self) -> None:
        flight = self._in_flight
        if flight is None:
            raise InvariantViolation("nothing is in flight that could be repeated")
        if self._trace is not None:
            self._trace.settles()
        flight.pending = self._begin(flight.persist, flight.signed.record, self._left(flight))

    def _sign(self, vote: Vote) -> bytes:
        message = _fast.encode_vote_message(
            self._identity.pubkey,
            vote.voter,
            self.voter.config.vote_account,
            vote.blockhash,
            vote.state,
            vote.bank_hash,
            vote.timestamp,
            vote.block_id,
            vote.switch_proof,
        )
        secrets = [self._identity.secret]
        if vote.voter != self._identity.pubkey:
            pair = self._voters.get(vote.voter)
            if pair is None:
                raise SigningError("the key of the authorized voter is not loaded")
            secrets.append(pair.secret)
        return _fast.sign_transaction(message, secrets)

    def _release(self, effect: Release) -> None:
        flight, self._in_flight = self._in_flight, None
        if flight is None or flight.signed.vote is not effect.vote:
            raise InvariantViolation("a release without its vote in flight")
        vote = CommittedVote(effect.committed, flight.signed)
        if self._trace is not None:
            self._trace.releases(effect)
        self._send(vote)
