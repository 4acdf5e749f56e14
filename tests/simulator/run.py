"""One run: machines, an operator who never rests, faults, and the judge's verdict."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from solders.transaction import Transaction

from tests.simulator.chain import MAJOR, Chain
from tests.simulator.store import Network, SimulatedStore
from tests.simulator.world import MS, Process, S, World
from tests.support.chain import IDENTITY, VOTE_ACCOUNT, digest
from tower.events import (
    Adopted,
    BankFrozen,
    DeadlinePassed,
    Event,
    FenceLost,
    Halt,
    HaltReason,
    Looked,
    LookFailed,
    Resign,
    RootAdvanced,
    StoreAnswered,
    TakeOver,
    VoteSeen,
)
from tower.forkchoice import ForkChoice
from tower.localnet.judge import Ballot, Judge
from tower.runner import CommittedVote, Runner
from tower.stores.memory import MemoryBackend
from tower.voter import TABLE, Voter, VoterConfig, VoterState
from tower.wire import decode_saved_tower, decode_vote_instruction

__all__ = ["Result", "simulate", "unvisited"]

SLOT = 400 * MS
MACHINES = ("a", "b", "c")
BETWEEN = (BankFrozen, RootAdvanced, VoteSeen, Resign)
EXPECTED_HALTS = {HaltReason.LOST_FENCE, HaltReason.STORE_FAILED, HaltReason.RESIGNED}


class _CountingVoter(Voter):
    """The voter itself, and a note of every pair of state and event that it met."""

    visited: Counter[tuple[VoterState, type]]

    def handle(self, event: Event) -> list:
        self.visited[self.state, type(event)] += 1
        return super().handle(event)


@dataclass
class Result:
    """What a run showed."""

    seed: int
    failovers: int = 0
    sent: int = 0
    slots: int = 0
    conflicts: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # anything else that must not be
    counts: Counter[str] = field(default_factory=Counter)
    visited: Counter[tuple[VoterState, type]] = field(default_factory=Counter)
    digest: str = ""

    @property
    def unvisited(self) -> list[str]:
        """Rows of the voter's table that this run never met."""
        return unvisited(self.visited)


def unvisited(visited: Counter[tuple[VoterState, type]]) -> list[str]:
    """Rows of the voter's table that were never met, of those that this runner can meet.

    It looks and claims in one go, so nothing comes in between, and it forgets the write in flight when the voter stops.
    """
    in_one_go = {(state, event) for state in (VoterState.LOOKING, VoterState.CLAIMING) for event in BETWEEN}
    forgotten = {(VoterState.STOPPED, event) for event in (Looked, LookFailed, StoreAnswered, DeadlinePassed)}
    rows = [row for row in TABLE if row not in in_one_go | forgotten]
    return [f"{state.name} {event.__name__}" for state, event in rows if not visited[state, event]]



class _Machine:
    """One machine: at most one process at a time, which stands by or votes."""

    def __init__(self, name: str, run: _Run) -> None:
        self.name, self.run = name, run
        self.clock_offset_s = 0
        self.process: Process | None = None
        self.runner: Runner | None = None
        self.interleaved = self.settling = False

    @property
    def up(self) -> bool:
        return self.process is not None and self.process.alive

    def start(self, claim: bool) -> None:
        """A fresh process: it knows the chain as it is now, and claims at once only if it is told to."""
        self.process = Process(self.name)
        self.interleaved, self.settling = self.run.world.chance(0.5), False
        self.runner = self._life(self.run.chain.tree(), "start")
        if claim:
            self._post(lambda: self._drive(TakeOver()))

    def _life(self, forks: ForkChoice, why: str) -> Runner:
        process = self.process
        config = VoterConfig(IDENTITY.pubkey, VOTE_ACCOUNT, frozenset({IDENTITY.pubkey}), rebuild_wait_slots=5)
        voter = _CountingVoter(config, forks)
        voter.visited = self.run.result.visited
        world = self.run.world

        def fence_lost(seen: int) -> None:
            world.after(0, lambda: self._drive(FenceLost(seen)) if self.runner is runner and runner.adopted else None, process)

        runner = Runner(
            voter, SimulatedStore(self.run.backend, self.run.network, self.name, process), IDENTITY, [IDENTITY],
            lambda vote: self.run.arrive(self.name, vote), why=why, who=self.name, store_timeout=2.0,
            on_adopted=self._adopted, on_halt=self._halted, on_fence_lost=fence_lost,
            clock=lambda: world.now / S, wall_ms=lambda: world.now // MS,
            pause=lambda seconds: world.wait(process, world.now + math.ceil(seconds * S), lambda: False),
        )  # fmt: skip
        return runner

    def _post(self, event: Callable[[], None], delay: int = 0) -> None:
        self.run.world.after(delay, event, self.process)

    def _drive(self, event: Event) -> None:
        """As the process does, or as an embedder may who has other work: with a pause before the answer is waited for."""
        runner, world = self.runner, self.run.world
        if not self.interleaved:
            runner.drive(event)
            return
        runner.dispatch(event)
        if runner.in_flight and not self.settling:
            self.settling = True
            self._post(self._settle, world.rng.choice((0, 2 * MS, 30 * MS, 600 * MS)))

    def _settle(self) -> None:
        """One round; what comes before the next one meets the voter while it is unresolved."""
        self.settling = False
        self.runner.settle()
        if self.runner.in_flight:
            self.settling = True
            self._post(self._settle, self.run.world.rng.choice((0, 50 * MS, 900 * MS)))

    def tell(self, event: Callable[[int], Event]) -> None:
        """Hand the process an event after the network's delay; banks come in order, for each follows the one before."""
        process = self.process
        delay = self.run.world.rng.randint(MS, 20 * MS)

        def arrive() -> None:
            unix_s = 1_700_000_000 + self.run.world.now // S + self.clock_offset_s
            self._drive(event(max(0, unix_s)))

        self.run.world.after(delay, arrive, process)

    def set_identity(self) -> None:
        """The operator's command: a new life on the tree that this process keeps."""
        before = self.runner

        def adopt() -> None:
            if before.voter.state is not VoterState.STANDBY or self.run.world.chance(0.1):
                before.dispatch(Resign("set-identity again"))
            self.runner = self._life(before.voter.forks, "set-identity")
            self._drive(TakeOver())

        self._post(adopt)

    def kill(self) -> None:
        if self.process is not None:
            self.process.alive = False

    def _adopted(self, adopted: Adopted) -> None:
        self.run.adopted(self.name)

    def _halted(self, halt: Halt) -> None:
        self.run.result.counts[f"ended: {halt.reason.value}"] += 1
        if halt.reason not in EXPECTED_HALTS:
            self.run.result.broken.append(f"{self.name} ended: {halt.reason.value}: {halt.text}")
        if halt.reason is not HaltReason.RESIGNED:
            # the process ends, but what was on its way to it may still arrive
            process, world = self.process, self.run.world
            world.after(world.rng.randint(0, 2 * S), lambda: setattr(process, "alive", False))


class _Run:
    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.result = Result(seed, counts=self.world.counts)
        self.judge = Judge()
        self.chain = Chain(self.world, self.judge)
        self.backend = MemoryBackend()
        self.network = Network(self.world)
        self.machines = [_Machine(name, self) for name in MACHINES]
        self._owner = ""
        self._digest = hashlib.sha256()

    # ---- what everybody may see

    def arrive(self, source: str, vote: CommittedVote) -> None:
        """A vote left a machine: the judge sees the bytes, and the store is asked whether it knew them (S2)."""
        cast = decode_vote_instruction(bytes(Transaction.from_bytes(vote.transaction).message.instructions[0].data))
        self._digest.update(vote.transaction)
        self.result.sent += 1
        self.judge.see(VOTE_ACCOUNT, Ballot.of(cast.lockouts, cast.root, cast.hash, vote.transaction[1:65], source))
        record = self.backend.look(IDENTITY.address).record
        stored = None if record is None else decode_saved_tower(record, IDENTITY)
        if stored is None or stored.last_voted_slot is None or stored.last_voted_slot < cast.slots[-1]:
            self.result.broken.append(f"S2: a vote for {cast.slots[-1]} left and is not in the store")
        if self.world.chance(0.9):
            self.chain.submit(cast)

    def adopted(self, name: str) -> None:
        self.result.failovers += 1
        self.world.counts["taken over from another machine" if self._owner != name else "taken again by the same"] += 1
        self._owner = name

    # ---- time

    def slot(self) -> None:
        bank = self.chain.grow()
        for machine in self.machines:
            if machine.up:
                machine.tell(lambda unix_s: BankFrozen(bank, unix_s))
                machine.tell(lambda _: VoteSeen(MAJOR, bank.parent_slot, digest(str(bank.parent_slot))))
                if bank.slot % 2 == 0 and len(self.chain.banks) > 33:
                    machine.tell(lambda _: RootAdvanced(self.chain.banks[-33].slot))
        self.world.after(SLOT, self.slot)

    def operate(self) -> None:
        """One act of the operator, or of fate."""
        rng, counts = self.world.rng, self.world.counts
        machine = rng.choice(self.machines)
        act = rng.choices(
            ("set-identity", "both", "start", "kill", "freeze", "cut", "store down", "clock"), (50, 6, 14, 6, 10, 6, 4, 4)
        )[0]
        if not machine.up and act in ("set-identity", "both", "kill", "freeze"):
            act = "start"
        counts[act] += 1
        match act:
            case "set-identity":
                machine.set_identity()
            case "both":
                for other in self.machines:
                    if other.up:
                        other.set_identity()
            case "start":
                if not machine.up:
                    machine.start(claim=self.world.chance(0.5))
            case "kill":
                machine.kill()
            case "freeze":
                machine.process.frozen_until = self.world.now + rng.choice((200 * MS, 2 * S, 12 * S))
            case "cut":
                self.network.cut_until[machine.name] = self.world.now + rng.choice((300 * MS, 1 * S, 4 * S))
            case "store down":
                self.network.store_down_until = self.world.now + rng.choice((300 * MS, 1500 * MS, 3 * S))
            case "clock":
                machine.clock_offset_s = rng.choice((-3600, 0, 5, 3600))
        self.world.after(rng.randint(100 * MS, 1500 * MS), self.operate)

    def go(self, failovers: int) -> Result:
        for number, machine in enumerate(self.machines):
            machine.start(claim=number == 0)
        self.world.after(SLOT, self.slot)
        self.world.after(S, self.operate)
        self.world.run(lambda: self.result.failovers >= failovers or bool(self.result.broken))
        self.result.slots = self.chain.slot
        self.result.conflicts = [
            f"{found.kind} at slot {found.slot}: {found.older.last_slot} from {found.older.source}, "
            f"{found.newer.last_slot} from {found.newer.source}"
            for found in self.judge.conflicts
        ]
        self.result.digest = self._digest.hexdigest()
        return self.result


def simulate(seed: int, failovers: int) -> Result:
    """Run until `failovers` adoptions happened. The same arguments give the same result, to the last byte sent."""
    return _Run(seed).go(failovers)
