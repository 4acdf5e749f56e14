"""One machine: at most one process at a time, which stands by or votes. Processes come and go, the machine's clock jumps."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tests.simulator.coverage import Visited
from tests.simulator.leading import LeaderDuty
from tests.simulator.legacy import LegacyStore
from tests.simulator.store import SimulatedStore
from tests.simulator.world import MS, Process, S, Thread
from tests.support.chain import IDENTITY, UNIX_S, VOTE_ACCOUNT
from tower.events import Adopted, BankFrozen, Effect, Event, FenceLost, Halt, HaltReason, Resign, TakeOver
from tower.forkchoice import ForkChoice
from tower.runner import CommittedVote, Runner
from tower.types import FrozenBank
from tower.voter import Voter, VoterConfig, VoterState

if TYPE_CHECKING:
    from tests.simulator.run import Run

__all__ = ["LegacyMachine", "Machine"]

STORE_TIMEOUTS_S = (0.8, 2.0, 5.0)
EXPECTED_HALTS = {HaltReason.LOST_FENCE, HaltReason.STORE_FAILED, HaltReason.RESIGNED}


class _CountingVoter(Voter):
    """The voter itself, and a note of every pair of state and event that it met."""

    visited: Visited

    def effects(self, event: Event) -> Iterator[Effect]:
        self.visited[self.state, type(event)] += 1
        return super().effects(event)


class Machine:
    """A machine that runs this product."""

    legacy = False
    rebuild_wait_slots = 5  # where the store has no tower and the chain has votes

    def __init__(self, name: str, run: Run) -> None:
        self.name, self.run = name, run
        self.clock_offset_s = 0
        self.process = Process(name)
        self.process.alive = False  # nothing has been started yet
        self._admin = Thread(self.process)
        self.runner: Runner | None = None
        self.duty: LeaderDuty | None = None
        self._interleaved = self._settling = False
        self._store_timeout = 0.0
        self._banks: deque[FrozenBank] = deque()  # on their way to the process, in order

    @property
    def up(self) -> bool:
        return self.process.alive

    @property
    def frozen(self) -> bool:
        return self.up and self.process.frozen_until > self.run.world.now

    @property
    def voting(self) -> bool:
        return self.runner is not None and self.runner.adopted is not None and self.runner.halted is None

    def wall_ms(self) -> int:
        """The clock on the wall of this machine; it jumps."""
        return (UNIX_S + self.clock_offset_s) * 1000 + self.run.world.now // MS

    # ---- the process

    def start(self, claim: bool, behind: int = 0) -> None:
        """A fresh process, `behind` banks behind the chain. It claims only if it is told to, and when it has caught up."""
        world = self.run.world
        self.process = Process(self.name)
        self._admin = Thread(self.process)
        self._interleaved, self._settling = world.chance(0.5), False
        self._store_timeout = world.rng.choice(STORE_TIMEOUTS_S)
        forks, missing = self.run.chain.tree(behind)
        self.runner, self.duty = self._life(forks, "start"), None
        self._banks = deque()
        delay = 0
        for bank in missing:
            delay += world.rng.randint(MS, 4 * MS)
            self._deliver(bank, delay)
        if claim:
            self._post(self._take_over, delay)

    def kill(self) -> None:
        self.process.alive = False

    def set_identity(self) -> None:
        """The operator's command: a new life on the tree that this process keeps."""
        self._post(self._take_over)

    def demote(self) -> None:
        """The operator's command: stop voting, and stay. Leading ends at once, even while the store is being waited for."""
        duty = self.duty
        if duty is not None:
            self.run.world.after(0, lambda: duty.ended("demoted"), self._admin)
        self._post(lambda: self._drive(Resign("demoted")))

    def _take_over(self) -> None:
        """As the process does: the life before goes on until what was looked at is found fit, and ends before the claim."""
        before = self.runner
        if self._banks:  # look, then claim: it has to catch up first
            self._post(self._take_over, 5 * MS)
            return
        if before.voter.state is VoterState.STANDBY and not self.run.world.chance(0.1):
            life = before
        else:
            life = self._life(before.voter.forks, "set-identity", before)
        self._drive(TakeOver(), life)
        if life.adopted is not None or before.voter.state is VoterState.STOPPED:
            self.runner = life
            if life.halted is not None and life is not before:
                self._end_soon(life.halted)

    def _life(self, forks: ForkChoice, why: str, before: Runner | None = None) -> Runner:
        """A voter that has not begun yet; `before` ends when it claims."""
        process, world = self.process, self.run.world
        mine = frozenset({IDENTITY.pubkey})
        config = VoterConfig(IDENTITY.pubkey, VOTE_ACCOUNT, mine, rebuild_wait_slots=self.rebuild_wait_slots)
        voter = _CountingVoter(config, forks)
        voter.visited = self.run.result.visited

        def fence_lost(seen: int) -> None:
            world.after(0, lambda: self._fence_lost(life, seen), process.main)

        def before_claim() -> None:
            if before is not None:
                before.dispatch(Resign("set-identity"))
                before.close()

        life = Runner(
            voter, self._store(process.main), IDENTITY, [IDENTITY], self._send,
            why=why, who=self.name, store_timeout=self._store_timeout, before_claim=before_claim,
            on_adopted=lambda adopted: self._adopted(life, adopted), on_halt=lambda halt: self._halted(life, halt),
            on_fence_lost=None if self.legacy else fence_lost,
            clock=lambda: world.now / S, wall_ms=self.wall_ms,
            pause=lambda seconds: world.wait(process.main, world.now + math.ceil(seconds * S), lambda: False),
            trace=None if self.legacy else self.run.trace,
        )  # fmt: skip
        return life

    def _store(self, thread: Thread) -> SimulatedStore:
        store = SimulatedStore(self.run.backend, self.run.members, self.run.network, self.name, thread)
        store.on_trouble = lambda share: self.run.trouble(self, share)
        return store

    # ---- what happens to it

    def _post(self, event: Callable[[], None], delay: int = 0) -> None:
        self.run.world.after(delay, event, self.process.main)

    def _drive(self, event: Event, runner: Runner | None = None) -> None:
        """As the process does, or as an embedder may who has other work: with a pause before the answer is waited for."""
        runner, world = runner or self.runner, self.run.world
        if not self._interleaved:
            runner.drive(event)
            return
        runner.dispatch(event)
        if runner.in_flight and not self._settling:
            self._settling = True
            self._post(self._settle, world.rng.choice((0, 2 * MS, 30 * MS, 600 * MS)))

    def _settle(self) -> None:
        """One round; what comes before the next one meets the voter while it is unresolved."""
        self._settling = False
        self.runner.settle()
        if self.runner.in_flight:
            self._settling = True
            self._post(self._settle, self.run.world.rng.choice((0, 50 * MS, 900 * MS)))

    def tell(self, event: Callable[[], Event]) -> None:
        """Hand the process an event after the network's delay."""
        self._post(lambda: self._drive(event()), self.run.world.rng.randint(MS, 20 * MS))

    def tell_bank(self, bank: FrozenBank) -> None:
        """A bank was frozen. Banks are taken in order, for each follows the one before."""
        self._deliver(bank, self.run.world.rng.randint(MS, 20 * MS))

    def _deliver(self, bank: FrozenBank, delay: int) -> None:
        banks = self._banks
        banks.append(bank)
        self._post(lambda: self._drive(BankFrozen(banks.popleft(), self.wall_ms() // 1000)), delay)

    def slot(self, slot: int) -> None:
        """A slot begins: whoever is adopted may lead it."""
        if self.up and self.duty is not None:
            self.duty.slot(slot)

    # ---- what its lives tell

    def _send(self, vote: CommittedVote) -> None:
        if self.duty is not None:
            self.duty.voted()
        self.run.arrive(self, vote)

    def _adopted(self, life: Runner, adopted: Adopted) -> None:
        self.run.adopted(self)
        if not self.legacy:
            self.duty = LeaderDuty(self, self.process, life, adopted)

    def _fence_lost(self, life: Runner, seen: int) -> None:
        if self.runner is life and life.adopted is not None:
            if self.duty is not None:
                self.duty.lost(seen)
            self._drive(FenceLost(seen))

    def _halted(self, life: Runner, halt: Halt) -> None:
        self.run.halted(self, halt)
        if self.duty is not None and life.adopted is not None:
            self.duty.ended(halt.text)
        if halt.reason not in EXPECTED_HALTS:
            self.run.result.broken.append(f"{self.name} ended: {halt.reason.value}: {halt.text}")
        if life is self.runner:
            self._end_soon(halt)

    def _end_soon(self, halt: Halt) -> None:
        """The process ends, but what was on its way to it may still arrive."""
        if halt.reason is not HaltReason.RESIGNED:
            process, world = self.process, self.run.world
            world.after(world.rng.randint(0, 2 * S), lambda: setattr(process, "alive", False))


class LegacyMachine(Machine):
    """A machine with a validator of the older kind. A process of it takes the identity over once."""

    legacy = True
    rebuild_wait_slots = 0  # it does not wait

    def _take_over(self) -> None:
        if self._banks or self.runner.voter.state is VoterState.STANDBY:
            super()._take_over()
        else:
            self.kill()  # a second load in one process would go under the same id: the operator restarts it instead
            self.start(claim=True)

    def _store(self, thread: Thread) -> LegacyStore:
        store = LegacyStore(self.run.backend, self.run.members, self.run.network, self.name, thread)
        store.instance = self.run.legacy_id(self.wall_ms())
        return store
