"""The cluster: opens and freezes banks, cuts and heals itself, takes votes in, and tells who listens.

Sans-I/O and synchronous: `open_slot`, `submit`, `freeze` are all there is, in the order in which the clock (`server`)
or a test calls them. It decides which transactions a bank gets and who hears of it when. Fork choice, roots and
confirmation are the view's (`tree`), execution is the runtime's, conflicts are the judge's.

While a partition lasts each side has its own tip, its own pending votes and its own voters; each hears of the other's
banks when it heals. What arrives over UDP or RPC belongs to the side of our vote account. Voters that a partition keeps
silent stand on our side, hear what it hears, and are told by `is_silent` not to vote.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from solders.transaction import Transaction

from tower.errors import InvariantViolation
from tower.localnet.bank import BLOCKHASH_AGE_MAX, Bank, Executed
from tower.localnet.blocks import BlockArrival, BlockJudge
from tower.localnet.forks import MAJORITY, MINORITY, Partition, PartitionPlan
from tower.localnet.genesis import Genesis, LocalnetConfig
from tower.localnet.intake import Intake, read_ballots, read_transaction
from tower.localnet.judge import HORIZON_SLOTS, Judge
from tower.localnet.runtime import Runtime
from tower.localnet.schedule import WINDOW_SLOTS, leader_schedule
from tower.localnet.tree import Arrived, BankTree, View
from tower.types import FrozenBank
from tower.validator.announcement import read_announcement

__all__ = ["Cluster", "Listener", "Timekeeper"]

PENDING_MAX = 10_000  # votes that wait for a bank of their side; more are dropped and counted
TRANSACTIONS_PER_BANK_MAX = 2_000
ROOTED_SLOTS_MAX = 1 << 20  # slots of the rooted chain kept: as far as SlotHistory reaches
SCHEDULES_MAX = 4


class Listener(Protocol):
    """Who wants to know what the RPC side sees."""

    def on_slot(self, bank: Bank, root: int) -> None:
        """A bank was created."""

    def on_frozen(self, bank: Bank) -> None:
        """A bank was frozen, or a frozen bank of the other side arrived."""

    def on_commitment(self, confirmed: int, root: int) -> None:
        """The confirmed or the rooted slot moved."""

    def on_root(self, slot: int) -> None:
        """`slot` was rooted; called for every slot of the chain, oldest first."""


@dataclass(frozen=True, slots=True)
class Timekeeper:
    """The two clocks: milliseconds since the cluster started (monotonic), and since 1970 (for people and the Clock
    sysvar, never for a deadline)."""

    since_start_ms: Callable[[], int]
    unix_ms: Callable[[], int]

    @classmethod
    def real(cls) -> Timekeeper:
        start = time.monotonic()
        return cls(lambda: int((time.monotonic() - start) * 1000), lambda: int(time.time() * 1000))


class Cluster:
    """All state of one cluster, driven from outside."""

    def __init__(self, genesis: Genesis, config: LocalnetConfig, timekeeper: Timekeeper | None = None) -> None:
        self.genesis = genesis
        self.config = config
        self.time = timekeeper or Timekeeper.real()
        self.judge = Judge()
        self.blocks = BlockJudge()
        self.listeners: list[Listener] = []
        self.counts = {
            "arrived": 0,
            "undecodable": 0,
            "invalid_signature": 0,
            "unauthorized": 0,
            "dropped_full": 0,
            "dropped_blockhash": 0,
            "dropped_repeated": 0,
            "failed": 0,  # executed, and refused by the vote program
            "failed_ours": 0,  # those of them that name our vote account
            "landed": 0,
        }
        self.runtime = Runtime(config.slots_in_epoch)
        first = self.runtime.genesis_bank(genesis, self.time.unix_ms() // 1000)
        self.tree = BankTree(first)
        self.views = tuple(View(self.tree, first, genesis.stakes) for _ in (MAJORITY, MINORITY))
        self.slot = first.slot  # the newest slot that was opened
        self.rooted: deque[int] = deque([first.slot], maxlen=ROOTED_SLOTS_MAX)  # its slots are what SlotHistory holds
        self.skipped = 0  # slots of ours that nobody announced a block for
        self.announcements_refused = 0
        self._filled = first.slot  # the newest slot that a block was announced for in time
        self._open: Bank | None = None
        self._partition: Partition | None = None
        self._pending: tuple[deque[Intake], deque[Intake]] = (deque(), deque())  # by side
        self._arrived: tuple[Arrived, Arrived] = ({}, {})  # by side, landed or not
        self._voters: dict[bytes, Callable[[FrozenBank], None]] = {}
        self._signatures: dict[bytes, list[int]] = {}
        self._schedules: dict[int, list[bytes]] = {}
        ours = genesis.ours
        self._plan = PartitionPlan(
            config.seed,
            config.fork_every,
            config.fork_length,
            {member.vote_account: member.stake for member in genesis.participants[1:]},
            ours.vote_account,
            ours.stake,
            config.rpc_on_minority,
            config.partitions,
        )

    # ---- what is seen

    @property
    def partition(self) -> Partition | None:
        return self._partition

    @property
    def rpc_view(self) -> View:
        """What the RPC node sees: the side of our vote account."""
        return self.views[self._side_of(self.genesis.ours.vote_account)]

    def schedule(self, epoch: int) -> list[bytes]:
        """The leader of each slot of `epoch`."""
        if epoch not in self._schedules:
            while len(self._schedules) >= SCHEDULES_MAX:
                del self._schedules[next(iter(self._schedules))]
            self._schedules[epoch] = leader_schedule(
                self.config.seed, epoch, self.genesis.identity_stakes, self.config.slots_in_epoch
            )
        return self._schedules[epoch]

    def leader(self, slot: int) -> bytes:
        epoch, index = divmod(slot, self.config.slots_in_epoch)
        return self.schedule(epoch)[index]

    def banks_of(self, signature: bytes) -> list[Bank]:
        """The banks that hold the transaction with this signature and are visible over the RPC."""
        visible = self.rpc_view.slots
        return [self.tree[slot] for slot in self._signatures.get(signature, ()) if slot in visible]

    def where(self, signature: bytes) -> tuple[Bank, Executed] | None:
        """The newest bank of the heaviest chain that holds the transaction, and what became of it."""
        for bank in sorted(self.banks_of(signature), key=lambda bank: -bank.slot):
            if self.rpc_view.on_chain(bank.slot):
                return bank, bank.executed[signature]
        return None

    def add_voter(self, vote_account: bytes, deliver: Callable[[FrozenBank], None]) -> None:
        """`deliver` is called with every bank that the voter of this account can know, parents first."""
        self._voters[vote_account] = deliver

    def is_silent(self, vote_account: bytes) -> bool:
        """Whether the voter of this account must not vote now."""
        return self._partition is not None and vote_account in self._partition.silent

    def _side_of(self, vote_account: bytes) -> int:
        return MAJORITY if self._partition is None else self._partition.side_of(vote_account)

    # ---- the clock

    def open_slot(self, slot: int) -> Bank:
        """Begin `slot`: heal or cut first if that is due, then create the bank on its side's tip."""
        if self._open is not None or slot <= self.slot:
            raise InvariantViolation(f"slot {slot} cannot be opened now")
        due = self._plan.at(slot)
        if self._partition is not None and self._partition is not due:
            self._heal()
        self._partition = due
        side = MAJORITY if due is None else due.side_of_slot(slot)
        if self._awaits_block(slot):
            side = self._side_of(self.genesis.ours.vote_account)  # only there our leader hears that it leads
        bank = Bank.child(
            self.views[side].tip,
            slot,
            unix_timestamp=self.time.unix_ms() // 1000,
            slots_in_epoch=self.config.slots_in_epoch,
            side=side,
        )
        self.slot = slot
        self._open = bank
        if bank.parent_slot is None:
            raise InvariantViolation(f"bank {slot} has no parent")
        self.judge.add_bank(slot, bank.parent_slot)
        if self.views[side] is self.rpc_view or due is None:
            for listener in self.listeners:
                listener.on_slot(bank, self.rpc_view.root)
        return bank

    def freeze(self) -> Bank:
        """End the open slot: execute what arrived, close the bank, tell everyone on its side."""
        bank = self._open
        if bank is None:
            raise InvariantViolation("no slot is open")
        self._open = None
        self._execute(bank)
        bank.freeze()
        self.tree.add(bank)
        sides = (MAJORITY, MINORITY) if self._partition is None or self._partition.whole else (bank.side,)
        for side in sides:
            self._deliver(side, bank)
        self._prune()
        return bank

    def end_slot(self) -> Bank | None:
        """`freeze`; or no bank at all where our leader had to announce a block and none arrived."""
        bank = self._open
        if bank is None or bank.slot == self._filled or not self._awaits_block(bank.slot):
            return self.freeze()
        self._open = None
        self.skipped += 1
        return None

    def step(self) -> Bank:
        """Open and freeze the next slot at once."""
        self.open_slot(self.slot + 1)
        return self.freeze()

    # ---- blocks

    def _awaits_block(self, slot: int) -> bool:
        return self.config.announced_blocks and self.leader(slot) == self.genesis.ours.identity

    def announce(self, raw: bytes, source: str) -> None:
        """A packet arrived at the block port from `source` (address:port): shown to the judge if its leader leads its slot."""
        block = read_announcement(raw)
        if (
            block is None
            or not self.slot - HORIZON_SLOTS <= block.slot <= self.slot + WINDOW_SLOTS
            or self.leader(block.slot) != block.identity
        ):
            self.announcements_refused += 1
            return
        now = self._open
        filled = now is not None and (now.slot, now.parent_slot) == (block.slot, block.parent_slot)
        if filled:
            self._filled = block.slot
        at_ms, unix_ms = self.time.since_start_ms(), self.time.unix_ms()
        self.blocks.arrive(
            BlockArrival(block.slot, block.parent_slot, block.identity, source, at_ms, unix_ms, filled)
        )

    # ---- votes

    def submit(self, raw: bytes, source: str, voter: bytes | None = None) -> Intake:
        """A transaction arrived from `source`: shown to the judge, then queued for the next bank of its side.

        `voter` is the vote account of one of the cluster's own voters; everything else is on our side.
        """
        intake = self.arrive(raw, source, voter)
        if intake.problem is None:
            self.enqueue(intake, voter)
        return intake

    def arrive(self, raw: bytes, source: str, voter: bytes | None = None) -> Intake:
        """Read a packet and show its votes to the judge and to its side, whatever happens to it afterwards."""
        at_ms, unix_ms = self.time.since_start_ms(), self.time.unix_ms()
        self.counts["arrived"] += 1
        intake = read_transaction(raw)
        if intake.transaction is not None and intake.signed:
            side = self._side_of(voter or self.genesis.ours.vote_account)
            self._show(intake.transaction, source, side, at_ms, unix_ms)
        if intake.problem is not None:
            unsigned = intake.transaction is not None and not intake.signed
            self.counts["invalid_signature" if unsigned else "undecodable"] += 1
        return intake

    def enqueue(self, intake: Intake, voter: bytes | None = None) -> None:
        """Let a sound transaction wait for the next bank of its side."""
        pending = self._pending[self._side_of(voter or self.genesis.ours.vote_account)]
        if len(pending) >= PENDING_MAX:
            self.counts["dropped_full"] += 1
        else:
            pending.append(intake)

    def _show(self, transaction: Transaction, source: str, side: int, at_ms: int, unix_ms: int) -> None:
        ballots, unreadable = read_ballots(transaction, source)
        self.counts["undecodable"] += unreadable
        for vote_account, signers, ballot in ballots:
            state = self.rpc_view.tip.votes.get(vote_account)
            voters = frozenset(voter for _, voter in state.authorized_voters) if state else frozenset()
            if voters & signers:
                self.judge.arrive(vote_account, ballot, at_ms, unix_ms)
                voted = self.tree.get(ballot.last_slot)
                if voted is not None and voted.hash == ballot.hash:
                    _note(self._arrived[side], vote_account, voted.slot)
                if vote_account == self.genesis.ours.vote_account:
                    self._plan.our_first_vote(self.slot)
            else:
                self.counts["unauthorized"] += 1

    def _execute(self, bank: Bank) -> None:
        queue = self._pending[bank.side]
        chosen: list[tuple[bytes, Transaction]] = []
        seen = self._recent_signatures(bank)
        young = frozenset(bank.recent_blockhashes)
        while queue and len(chosen) < TRANSACTIONS_PER_BANK_MAX:
            intake = queue.popleft()
            if intake.transaction is None:
                continue
            if bytes(intake.transaction.message.recent_blockhash) not in young:
                self.counts["dropped_blockhash"] += 1
            elif intake.signature in seen:
                self.counts["dropped_repeated"] += 1
            else:
                seen.add(intake.signature)
                chosen.append((intake.raw, intake.transaction))
        for executed in self.runtime.execute(bank, chosen):
            bank.executed[executed.signature] = executed
            bank.transaction_count += 1
            self._signatures.setdefault(executed.signature, []).append(bank.slot)
            self.counts["landed" if executed.error is None else "failed"] += 1
            if executed.error is None:
                self.judge.landed(executed.signature, bank.slot)
            elif self.genesis.ours.vote_account in executed.keys:
                self.counts["failed_ours"] += 1

    def _recent_signatures(self, bank: Bank) -> set[bytes]:
        """Signatures on this fork that are as young as a blockhash may be."""
        seen: set[bytes] = set()
        if bank.parent_slot is not None:
            for depth, ancestor in enumerate(self.tree.upwards(bank.parent_slot)):
                if depth > BLOCKHASH_AGE_MAX:
                    break
                seen.update(ancestor.executed)
        return seen

    # ---- who hears what

    def _deliver(self, side: int, bank: Bank) -> None:
        """`side` receives a frozen bank: its view, then the RPC's listeners, then its voters."""
        view = self.views[side]
        confirmed, root = view.confirmed, view.root
        named = view.receive(bank, self._arrived[side])
        if view is self.rpc_view:
            for listener in self.listeners:
                listener.on_frozen(bank)
            if view.root > root:
                for slot in [slot for slot in view.chain(view.root) if slot > root]:
                    self.rooted.append(slot)
                    for listener in self.listeners:
                        listener.on_root(slot)
            if (view.confirmed, view.root) != (confirmed, root):
                for listener in self.listeners:
                    listener.on_commitment(view.confirmed, view.root)
        if named is not None:
            for vote_account, deliver in self._voters.items():
                if self._side_of(vote_account) == side:
                    deliver(named)

    def _heal(self) -> None:
        """Both sides get what they missed, oldest first; waiting votes may go into any bank again."""
        for side in (MAJORITY, MINORITY):
            for vote_account, slot in self._arrived[1 - side].items():
                _note(self._arrived[side], vote_account, slot)
        missed = [self._missing(side) for side in (MAJORITY, MINORITY)]
        for side in (MAJORITY, MINORITY):
            for bank in missed[side]:
                if self.views[side] is self.rpc_view:
                    for listener in self.listeners:
                        listener.on_slot(bank, self.rpc_view.root)
                self._deliver(side, bank)
        self._pending[MAJORITY].extend(self._pending[MINORITY])
        self._pending[MINORITY].clear()

    def _missing(self, side: int) -> list[Bank]:
        gap: Iterable[int] = sorted(self.views[1 - side].slots - self.views[side].slots)
        return [self.tree[slot] for slot in gap if slot in self.tree]

    def _prune(self) -> None:
        dropped = self.tree.prune(min(view.root for view in self.views))
        if not dropped:
            return
        for view in self.views:
            view.forget(bank.slot for bank in dropped)
        for bank in dropped:
            for signature in bank.executed:
                slots = [slot for slot in self._signatures.get(signature, ()) if slot != bank.slot]
                if slots:
                    self._signatures[signature] = slots
                else:
                    self._signatures.pop(signature, None)


def _note(arrived: Arrived, vote_account: bytes, slot: int) -> None:
    arrived[vote_account] = max(slot, arrived.get(vote_account, 0))
