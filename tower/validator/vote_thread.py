"""The thread that votes: one queue in, one runner at a time, the store's blocking calls, and nothing else.

It owns the tree of banks, the runner of the identity that votes now (or stands by), and the store. Everything that touches them
happens here, one thing after another, so no lock is needed and nothing can vote beside it. `call` runs a function in the
thread and hands its result back; events are posted. An exception that nobody expected stops voting for good and is told
through `on_halt`, like every other end. Every vote that was sent is one line in the log.

**Demotion** (`--on-lost-lock demote`) happens here, before the next event is looked at: the voter that stopped is replaced by
one that stands by under an unstaked identity and goes on with the same tree of banks.
"""

from __future__ import annotations

import concurrent.futures
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tower.checks import check_can_sign
from tower.errors import TowerError
from tower.events import Adopted, Event, FenceLost, Halt, HaltReason, LedgerView, Resign, TakeOver
from tower.forkchoice import ForkChoice
from tower.keys import Keypair
from tower.runner import CommittedVote, Runner
from tower.store import Store
from tower.trace import Trace
from tower.types import VoteAccountState
from tower.validator.config import ValidatorConfig
from tower.validator.guarded_store import Guard, GuardedStore
from tower.validator.leader_duty import LeaderDuty
from tower.validator.logs import about
from tower.validator.metrics import Metrics
from tower.voter import Voter, VoterConfig, VoterState

__all__ = ["DEMOTES", "Lost", "TakeOverFailed", "VoteThread"]

log = logging.getLogger(__name__)

INBOX_MAX = 4096  # banks and calls that may wait while a store is being waited for
# What a process that demotes itself survives. An unusable tower and a broken invariant end it all the same.
DEMOTES = frozenset({HaltReason.LOST_FENCE, HaltReason.STORE_FAILED})

T = TypeVar("T")


class TakeOverFailed(TowerError):
    """An identity was not adopted; `halt` says why, `identity_lost` whether one that voted had to end for it."""

    def __init__(self, halt: Halt, identity_lost: bool) -> None:
        super().__init__(halt.text)
        self.halt = halt
        self.identity_lost = identity_lost


class _WouldClaim(TowerError):
    """A rehearsal has come to the claim: nothing spoke against it."""


def _stop() -> None:
    raise _WouldClaim


@dataclass(frozen=True, slots=True)
class Lost:
    """An identity that this process voted as and gave up to become a spare. `fence` is the revision of its claim."""

    identity: Keypair
    fence: int
    halt: Halt


class VoteThread:
    """See the module's text. `on_halt` is called from the thread when the identity that votes has stopped for good."""

    def __init__(
        self,
        config: ValidatorConfig,
        store: Store,
        forks: ForkChoice,
        send: Callable[[CommittedVote], None],
        on_halt: Callable[[Halt], None],
        metrics: Metrics | None = None,
        leading: LeaderDuty | None = None,
    ) -> None:
        self._config = config
        self._leading = leading
        self._metrics = metrics
        self._store = store
        self._send = send
        self._on_halt = on_halt
        self._voters: tuple[Keypair, ...] = config.authorized_voters
        # the kind of queue that takes no lock of Python's: a bank waits a few microseconds less for this thread to wake
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._fresh: Keypair | None = None
        self.lost: Lost | None = None  # the newest demotion
        self.newest_stored: int | None = None  # slot of the newest vote that left
        self._sent: tuple[Runner, int] | None = None  # the same, and whose it was
        self.given_up: tuple[int | None, int | None] = (None, None)  # newest slot sent, and root, of the life before this
        self._identity = config.identity
        self._trace: Trace | None = None
        if config.trace is not None:
            self._trace = Trace.open(config.trace, lambda why: log.warning("the trace ends here: %s", why))
        self._runner = self._life(config.identity, forks, "start", config.require_tower)
        self._thread = threading.Thread(target=self._run, name="vote", daemon=True)

    # ---- from any thread

    @property
    def identity(self) -> Keypair:
        """Who votes or stands by now."""
        return self._identity

    @property
    def in_memory(self) -> bool:
        """Whether that is an identity that was made up for being a spare and ends with the process."""
        return self._identity is self._fresh

    def start(self) -> None:
        self._thread.start()

    def post(self, event: Event) -> None:
        """Hand an event to whatever life runs when its turn comes. Never blocks: a full inbox is the end."""
        self._put(lambda: self._runner.drive(event))

    def call(self, work: Callable[[], T]) -> concurrent.futures.Future[T]:
        """Run `work` in the thread; its result or exception arrives in the future."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except TowerError as problem:
                future.set_exception(problem)
            except BaseException as problem:
                future.set_exception(problem)
                raise

        self._put(run)
        return future

    def _put(self, item: Callable[[], None] | None) -> None:
        if self._inbox.qsize() >= INBOX_MAX:
            self._on_halt(Halt(HaltReason.INTERNAL, f"the vote thread is {INBOX_MAX} events behind"))
            return
        self._inbox.put(item)

    def close(self, timeout: float) -> None:
        """Resign, end the thread, close the store. Waits at most `timeout` seconds.

        What is under way is finished first, which is a store's bound at most; what waits in the queue is not begun.
        """
        self._ending.set()
        self._inbox.put(None)
        if self._thread.ident is None:
            self._close()
        elif threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    # ---- in the thread

    def _run(self) -> None:
        try:
            while not self._ending.is_set() and (item := self._inbox.get()) is not None:
                item()
        except Exception as problem:  # the thread's last line of defence: never go on after the unexpected
            log.exception("the vote thread met what it does not know")
            self._on_halt(Halt(HaltReason.INTERNAL, f"{type(problem).__name__}: {problem}"))
        finally:
            self._close()

    def _close(self) -> None:
        self._retire(self._runner, "the process ends")
        self._store.close()
        if self._trace is not None:
            self._trace.close()

    def _life(
        self,
        identity: Keypair,
        forks: ForkChoice,
        why: str,
        require_tower: bool,
        store: Store | None = None,
        rehearsal: bool = False,
    ) -> Runner:
        config = VoterConfig(
            identity=identity.pubkey,
            vote_account=self._config.vote_account or bytes(32),
            authorized_voters=frozenset(pair.pubkey for pair in self._voters),
            require_tower=require_tower,
            rebuild_wait_slots=self._config.rebuild_wait_slots,
        )
        def send(vote: CommittedVote) -> None:
            self._send(vote)
            decided = vote.signed.vote
            self.newest_stored = vote.slot
            self._sent = (life, vote.slot)
            if self._leading is not None:
                self._leading.voted(life.store_began)
            again = decided.cast_at_slot != decided.slot
            if self._metrics is not None:
                self._metrics.voted(life.store_s, again)
            root, stored_ms = decided.state.root, life.store_s * 1000
            log.info(
                "voted %d%s (root %s), tower stored in %.1f ms", vote.slot, " again" if again else "", root, stored_ms,
                extra=about("vote", slot=vote.slot, again=again, root=root, store_ms=round(stored_ms, 3)),
            )  # fmt: skip

        life = Runner(
            Voter(config, forks),
            store or self._store,
            identity,
            self._voters,
            send,
            why=why,
            who=self._config.who,
            store_timeout=self._config.store_timeout,
            before_claim=_stop if rehearsal else lambda: self._retire(self._runner, f"{identity.address} is taken over"),
            on_halt=(lambda halt: None) if rehearsal else self._halted,
            on_fence_lost=self._fence_lost_callback(identity),
            trace=None if rehearsal else self._trace,  # a rehearsal has no ending that the specification knows
        )
        return life

    def _fence_lost_callback(self, identity: Keypair) -> Callable[[int], None]:
        def fence_lost(seen: int) -> None:
            if self._leading is not None:
                self._leading.lost(identity, seen)  # at once: the vote thread may be waiting for the store

            def tell() -> None:
                if self._runner.voter.config.identity == identity.pubkey and self._runner.adopted is not None:
                    self._runner.drive(FenceLost(seen))

            self._put(tell)

        return fence_lost

    def _halted(self, halt: Halt) -> None:
        level = logging.INFO if halt.reason is HaltReason.RESIGNED else logging.ERROR
        log.log(level, "voting stopped: %s", halt.text, extra=about("stopped", reason=halt.reason.value))
        if self._metrics is not None:
            self._metrics.stopped(halt.reason.value)
        if self._runner.halted is not halt or halt.reason is HaltReason.RESIGNED:
            return
        self._end_leading(halt.text)
        fence = self._runner.voter.fence
        if self._config.failover.demote and halt.reason in DEMOTES and fence is not None:
            self.lost = Lost(self._identity, fence.revision, halt)
            self.stand_by(self.spare_identity())
        self._on_halt(halt)

    def _end_leading(self, reason: str) -> None:
        if self._leading is not None:
            self._leading.end(reason)

    def _retire(self, runner: Runner, reason: str) -> None:
        if runner is self._runner:
            self._end_leading(reason)
        if runner.voter.state not in (VoterState.STOPPED, VoterState.STANDBY):
            runner.dispatch(Resign(reason))
        runner.close()
        if runner is self._runner:
            sent = self._sent[1] if self._sent is not None and self._sent[0] is runner else None
            self.given_up = (sent, runner.voter.votes.root if runner.adopted is not None else None)

    def newest(self) -> tuple[int, VoteAccountState | None]:
        """The slot of the heaviest bank, and our vote account as that bank knows it."""
        bank = self._runner.voter.forks.best()
        return bank.slot, bank.votes.get(self._config.vote_account or b"")

    def voting(self) -> bool:
        """Whether an identity is adopted and its voter alive."""
        return self._runner.adopted is not None and self._runner.voter.state is not VoterState.STOPPED

    def spare_identity(self) -> Keypair:
        """The identity to be a spare under in place of the present one: never the one that is given up."""
        given, own = self._config.failover.unstaked_identity, self._config.identity
        if given is not None:
            return given
        if own != self._identity:
            return own
        self._fresh = self._fresh or Keypair.generate()
        return self._fresh

    def stand_by(self, identity: Keypair) -> None:
        """Keep `identity` without voting; whatever voted before resigns."""
        self._retire(self._runner, f"standing by as {identity.address}")
        self._runner = self._life(identity, self._runner.voter.forks, "standby", False)
        self._identity = identity

    def unfit(self, identity: Keypair) -> str:
        """Why we could not vote as `identity` on the newest bank; empty if we could. Reads only."""
        voters = frozenset(pair.pubkey for pair in self._voters)
        account, bank = self._config.vote_account or b"", self._runner.voter.forks.best()
        _, check = check_can_sign(bank, account, identity.pubkey, voters)
        return "" if check.passed else check.reason

    def rehearse(self, identity: Keypair, require_tower: bool, ledger: LedgerView | None = None) -> int | None:
        """Do everything that a take-over does before its claim; the stored last voted slot. Raises `TakeOverFailed`.

        The store is read and nothing is written; whoever votes here goes on.
        """
        life = self._life(identity, self._runner.voter.forks, "rehearsal", require_tower, rehearsal=True)
        try:
            life.drive(TakeOver(ledger))
        except _WouldClaim:
            return life.voter.last_voted_slot
        finally:
            life.close()
        halt = life.halted or Halt(HaltReason.INTERNAL, "the rehearsal ended in neither way")
        raise TakeOverFailed(halt, identity_lost=False)

    def take_over(
        self,
        identity: Keypair,
        why: str,
        require_tower: bool,
        ledger: LedgerView | None = None,
        guard: Guard | None = None,
    ) -> Adopted:
        """Look, claim, and vote as `identity` from now on. Raises `TakeOverFailed`.

        `ledger` places a stored tower that was away for longer than the tree of banks reaches; `guard` may have something
        against a claim on what is read.
        The life before goes on voting until what was looked at is found fit, and ends before the claim. If this fails
        before the claim, nothing has changed.
        """
        store = None if guard is None else GuardedStore(self._store, guard)
        life = self._life(identity, self._runner.voter.forks, why, require_tower, store)
        before = self._runner
        try:
            life.drive(TakeOver(ledger))
        except TowerError as problem:  # the claim may have gone through: this life must never vote, the other one has ended
            self._retire(life, "the take-over failed")
            halt = Halt(HaltReason.INTERNAL, str(problem))
            raise TakeOverFailed(halt, identity_lost=before.voter.state is VoterState.STOPPED) from problem
        if life.adopted is None:
            halt = life.halted or Halt(HaltReason.INTERNAL, "the take-over ended in neither way")
            life.close()
            raise TakeOverFailed(halt, identity_lost=before.voter.state is VoterState.STOPPED)
        self._runner, self._identity = life, identity
        if life.halted is not None:  # it was adopted and stopped again at once: its first vote met the end
            self._halted(life.halted)
        elif self._leading is not None:
            self._leading.begin(identity, life.adopted)
        return life.adopted

    def set_authorized_voters(self, voters: Sequence[Keypair]) -> None:
        """Vote with these keys from now on; none stops voting."""
        self._voters = tuple(voters)
        self._runner.set_authorized_voters(self._voters)

    def status(self) -> dict[str, Any]:
        """A snapshot for people; reads only, so it may be called from any thread."""
        voter = self._runner.voter
        fence = voter.fence
        return {
            "state": voter.state.name.lower(),
            "voting": self.voting(),
            "lastVotedSlot": voter.last_voted_slot if fence is not None else None,
            "rootSlot": voter.votes.root if fence is not None else None,
            "fence": None if fence is None else fence.revision,
            "storeMilliseconds": round(self._runner.store_s * 1000, 3) if fence is not None else None,
            "refusals": [check.reason for check in voter.decision.refusals] if voter.decision else [],
        }
