"""One run: machines, an operator who never rests, faults, and the judges' verdict."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field

from solders.transaction import Transaction

from tests.simulator.chain import BEHIND_MAX, MAJOR, Chain
from tests.simulator.coverage import Visited
from tests.simulator.judges import Blocks, Timestamps
from tests.simulator.machine import LegacyMachine, Machine
from tests.simulator.members import Members
from tests.simulator.store import Network
from tests.simulator.world import MS, Process, S, World
from tests.support.chain import IDENTITY, VOTE_ACCOUNT, digest
from tower.events import Halt, HaltReason, RootAdvanced, VoteSeen
from tower.leader import Reserved
from tower.localnet.judge import Ballot, Judge
from tower.runner import CommittedVote
from tower.store import INSTANCE_BYTES, Fence
from tower.stores.memory import MemoryBackend
from tower.trace import Trace
from tower.wire import decode_saved_tower, decode_vote_instruction

__all__ = ["Result", "Run", "simulate"]

SLOT = 400 * MS
MACHINES = ("a", "b", "c")
LEGACY = ("old", "older")
ACTS = {  # of the operator, or of fate, and how often among a hundred
    "set-identity": 44,
    "set-identity everywhere": 6,
    "start": 14,
    "restart": 7,
    "kill": 5,
    "demote": 3,
    "freeze": 10,
    "cut": 5,
    "store down": 3,
    "clock": 6,
}


@dataclass
class Result:
    """What a run showed."""

    seed: int
    failovers: int = 0  # take-overs by this product from another machine
    sent: int = 0
    slots: int = 0
    conflicts: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # anything else that must not be
    counts: Counter[str] = field(default_factory=Counter)
    visited: Visited = field(default_factory=Counter)
    digest: str = ""


class Run:
    """The world of one run. `legacy` machines run a validator of the older kind, none to two; by the seed if it is `None`."""

    def __init__(self, seed: int, legacy: int | None = None, trace: Trace | None = None) -> None:
        self.trace = trace  # of the lives of this product
        self.world = World(seed)
        self.result = Result(seed, counts=self.world.counts)
        self.judge = Judge()
        self.chain = Chain(self.world, self.judge)
        self.backend = MemoryBackend()
        self.members = Members(self.world)
        self.network = Network(self.world)
        self.machines = [Machine(name, self) for name in MACHINES]
        self.machines += [LegacyMachine(name, self) for name in LEGACY[: seed % 3 if legacy is None else legacy]]
        self._legacy_ids: set[bytes] = set()
        self._owner: Machine | None = None
        self._timestamps, self._blocks = Timestamps(), Blocks()
        self._newest_stored = -1
        self._digest = hashlib.sha256()

    # ---- what everybody may see

    def arrive(self, machine: Machine, vote: CommittedVote) -> None:
        """A vote left a machine: the judges see the bytes, and the store is asked whether it knew them (S2, S4)."""
        cast = decode_vote_instruction(bytes(Transaction.from_bytes(vote.transaction).message.instructions[0].data))
        self._digest.update(vote.transaction)
        self.result.sent += 1
        self._count_vote(machine, vote)
        self.judge.see(
            VOTE_ACCOUNT, Ballot.of(cast.lockouts, cast.root, cast.hash, vote.transaction[1:65], machine.name)
        )
        self._broken("timestamps", self._timestamps.see(cast.slots[-1], cast.timestamp))
        record = self.backend.look(IDENTITY.address).record
        slot = None if record is None else decode_saved_tower(record, IDENTITY).last_voted_slot
        newest = -1 if slot is None else slot
        if newest < cast.slots[-1]:
            self._broken("S2", f"a vote for {cast.slots[-1]} left and is not in the store")
        if newest < self._newest_stored:
            self._broken("S4", f"the stored tower went back from {self._newest_stored} to {newest}")
        self._newest_stored = newest
        if self.world.chance(0.9):
            self.chain.submit(cast)

    def reserved(self, life: str, reserved: Reserved) -> None:
        """The store confirmed slots to a life."""
        self.world.counts["blocks: reserved"] += 1
        self._broken("S7", self._blocks.reserved(life, reserved.first, reserved.last))

    def produced(self, life: str, fence: Fence, slot: int) -> None:
        """A block left a machine: it bears the life that produced it."""
        counts = self.world.counts
        counts["blocks: produced"] += 1
        self._digest.update(f"{life} {slot}".encode())
        self._broken("S7", self._blocks.produced(life, slot))
        if fence.revision != self.backend.look(IDENTITY.address).instance_revision:
            counts["blocks: produced after another had claimed"] += 1

    def _broken(self, what: str, problem: str | None) -> None:
        if problem is not None:
            self.result.broken.append(f"{what}: {problem}")

    def _count_vote(self, machine: Machine, vote: CommittedVote) -> None:
        counts, decided = self.world.counts, vote.signed.vote
        counts["vote: of a legacy validator" if machine.legacy else "vote: of this product"] += 1
        counts["vote: without a timestamp" if decided.timestamp is None else "vote: with a timestamp"] += 1
        if decided.cast_at_slot != decided.slot:
            counts["vote: sent again"] += 1
        if decided.switch_proof is not None:
            counts["vote: to another fork"] += 1
        fence = machine.runner.voter.fence
        if fence is not None and fence.revision != self.backend.look(IDENTITY.address).instance_revision:
            counts["vote: left after another had claimed"] += 1

    def adopted(self, machine: Machine) -> None:
        """A life has the identity now."""
        before, self._owner = self._owner, machine
        kind = {False: "ours", True: "legacy"}
        self._digest.update(f"{machine.name} {self.world.now}".encode())
        if before is None:
            what = "taken: for the first time"
        elif before is machine:
            what = "taken: again by the same machine"
        else:
            what = f"taken: by {kind[machine.legacy]} from {kind[before.legacy]}"
            self.result.failovers += not machine.legacy
        self.world.counts[what] += 1

    def halted(self, machine: Machine, halt: Halt) -> None:
        """A life ended, by itself or by order."""
        counts = self.world.counts
        counts[f"ended: {halt.reason.value}"] += 1
        if halt.reason is HaltReason.LOST_FENCE and self.backend.look(IDENTITY.address).instance in self._legacy_ids:
            counts["ended: lost the fence to a legacy validator"] += 1

    def legacy_id(self, wall_ms: int) -> bytes:
        """The id of a legacy process that starts now. Two of them in the same millisecond are put apart; see `legacy`."""
        instance = wall_ms.to_bytes(INSTANCE_BYTES, "little")
        while instance in self._legacy_ids:
            wall_ms += 1
            instance = wall_ms.to_bytes(INSTANCE_BYTES, "little")
        self._legacy_ids.add(instance)
        return instance

    def trouble(self, machine: Machine, share: float) -> None:
        """A write of `machine` is unresolved, or a late copy of one has arrived: now and then the operator acts just then."""
        rng, others = self.world.rng, [other for other in self.machines if other is not machine and other.up]
        if others and self.world.chance(share):
            self.world.counts["set-identity: while a write was unresolved or came late"] += 1
            self.world.after(rng.choice((0, rng.randint(0, 200 * MS))), rng.choice(others).set_identity)
        elif self.world.chance(share / 2):
            self.world.counts["demote: while a write was unresolved or came late"] += 1
            self.world.after(rng.randint(0, 200 * MS), machine.demote)

    # ---- time

    def slot(self) -> None:
        bank, root = self.chain.grow(), self.chain.root
        for machine in self.machines:
            machine.slot(bank.slot + 1)
            if machine.up:
                machine.tell_bank(bank)
                machine.tell(lambda: VoteSeen(MAJOR, bank.parent_slot, digest(str(bank.parent_slot))))
                if bank.slot % 2 == 0 and root is not None:
                    machine.tell(lambda: RootAdvanced(root))
        self.world.after(SLOT, self.slot)

    def operate(self) -> None:
        """One act of the operator, or of fate."""
        rng = self.world.rng
        machine = rng.choice(self.machines)
        act = rng.choices(list(ACTS), list(ACTS.values()))[0]
        if not machine.up and act in ("set-identity", "kill", "freeze", "restart", "demote"):
            act = "start"
        self._act(act, machine)
        self.world.after(rng.randint(100 * MS, 1500 * MS), self.operate)

    def _act(self, act: str, machine: Machine) -> None:
        world, rng, counts = self.world, self.world.rng, self.world.counts
        match act:
            case "set-identity":
                machine.set_identity()
            case "set-identity everywhere":
                for other in self.machines:
                    if other.up:
                        other.set_identity()
            case "start":
                if machine.up:
                    return
                machine.start(world.chance(0.5), rng.choice((0, 0, BEHIND_MAX // 4, BEHIND_MAX)))
            case "restart":
                counts["restart: of the one that votes"] += machine.voting
                machine.kill()
                machine.start(claim=True, behind=rng.choice((1, 5, BEHIND_MAX)))
            case "kill":
                counts["killed while frozen"] += machine.frozen
                machine.kill()
            case "demote":
                machine.demote()
            case "freeze":
                process, duration = machine.process, rng.choice((200 * MS, 2 * S, 12 * S))
                world.freeze(process, duration)
                if world.chance(0.1):
                    world.after(rng.randint(0, duration), lambda: self._kill_frozen(machine, process))
            case "cut":
                self.network.cut_until[machine.name] = world.now + rng.choice((300 * MS, 1 * S, 4 * S))
                self._demote_soon(machine)
            case "store down":
                self.network.store_down_until = world.now + rng.choice((300 * MS, 1500 * MS, 5 * S))
                for other in self.machines:
                    self._demote_soon(other)
            case "clock":
                before, machine.clock_offset_s = machine.clock_offset_s, rng.choice((-3600, -30, -2, 0, 0, 3, 30))
                way = "back" if machine.clock_offset_s < before else "ahead"
                counts[f"clock {way}, of the one that votes" if machine.voting else f"clock {way}"] += 1
                return
        counts[act] += 1

    def _demote_soon(self, machine: Machine) -> None:
        """The operator does not wait until a machine finds out that it cannot reach the store."""

        def demote() -> None:
            if machine.up and machine.voting:
                self.world.counts["demote: without the store"] += 1
                machine.demote()

        if machine.voting and self.world.chance(0.5):
            self.world.after(self.world.rng.randint(0, 1 * S), demote)

    def _kill_frozen(self, machine: Machine, process: Process) -> None:
        if machine.process is process and machine.frozen:
            self.world.counts["killed while frozen"] += 1
            machine.kill()

    def go(self, failovers: int) -> Result:
        for number, machine in enumerate(self.machines):
            machine.start(claim=number == 0)
        self.world.after(SLOT, self.slot)
        self.world.after(S, self.operate)
        self.world.run(lambda: self.result.failovers >= failovers or bool(self.result.broken) or bool(self.chain.faults))
        self.result.slots = self.chain.slot
        self.result.broken += self.chain.faults
        self.result.conflicts = [
            f"{found.kind} at slot {found.slot}: {found.older.last_slot} from {found.older.source}, "
            f"{found.newer.last_slot} from {found.newer.source}"
            for found in self.judge.conflicts
        ]
        self._digest.update(repr((self.world.now, sorted(self.world.counts.items()))).encode())
        self.result.digest = self._digest.hexdigest()
        return self.result


def simulate(seed: int, failovers: int, legacy: int | None = None, trace: Trace | None = None) -> Result:
    """Run until `failovers` happened. The same arguments give the same result, to the last byte sent."""
    return Run(seed, legacy, trace).go(failovers)
