"""When a validator may be restarted, or failed over, at the least cost: `wait-for-restart-window`.

`decide` is the whole policy as a pure function of what was observed; `wait` is the loop around it. A restart window is
open when the node is healthy, the identity has no leader slot for the wanted idle time, the epoch does not end within
it, a new snapshot exists (of one's own node only) and not too much stake is delinquent. It is advice to an operator, no
part of safety: a failover at any other moment costs leader slots, never a conflicting vote.

Differences to the tool in use, all in what it could not do: an idle window that is over is no longer announced, the
window between the last leader slot and the end of the epoch is; an identity whose longest gap in the whole epoch is too
short ends with an error at once instead of waiting for ever; so does not a node that makes no snapshots (such as this
product's own process): there the wait for a new snapshot is left out, and the status says so.

>>> idle_windows([10, 11, 200], start=0, end=432, min_idle_slots=100)
[IdleWindow(start=11, length=189), IdleWindow(start=200, length=232)]
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

from tower.errors import InvalidInput, TowerError
from tower.keys import from_base58, to_base58
from tower.validator.admin import DEFAULT_CALL_S, AdminClient, AdminError
from tower.validator.rpc import ClusterRpc, EpochInfo, RpcError, SnapshotSlots, VoteAccounts
from tower.validator.urls import parse_url

__all__ = [
    "IdleWindow",
    "Memory",
    "NoRestartWindow",
    "Observation",
    "Policy",
    "Verdict",
    "Where",
    "decide",
    "find_cluster",
    "header_lines",
    "idle_windows",
    "next_poll_s",
    "slots_of_minutes",
    "wait",
]

SLOT_S = 0.4
SLOTS_PER_MINUTE = 150
POLL_S = 5.0
DEFAULT_MIN_IDLE_MINUTES = 10
DEFAULT_MAX_DELINQUENT_PERCENT = 5


class NoRestartWindow(TowerError):
    """No restart window can open for this identity in this epoch."""


class IdleWindow(NamedTuple):
    """`start` is the leader slot after which nothing is led for `length` slots."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator wants. `own` is whether the watched identity is the one of the node that is asked."""

    min_idle_slots: int
    max_delinquent_percent: int = DEFAULT_MAX_DELINQUENT_PERCENT
    skip_new_snapshot_check: bool = False
    own: bool = True


def slots_of_minutes(minutes: float) -> int:
    """Whole slots of 400 ms in `minutes`."""
    return math.floor(minutes * SLOTS_PER_MINUTE + 1e-9)


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at the cluster. `leader_slots`: all of the identity's in this epoch, ascending, as absolute slots."""

    epoch: EpochInfo
    leader_slots: Sequence[int]
    healthy: bool
    delinquent_stake: int
    total_stake: int
    snapshot: SnapshotSlots | None

    @property
    def snapshot_slot(self) -> int | None:
        """The newest snapshot's slot, an incremental one if there is any."""
        if self.snapshot is None:
            return None
        return self.snapshot.full if self.snapshot.incremental is None else self.snapshot.incremental


@dataclass(frozen=True, slots=True)
class Memory:
    """What earlier looks leave behind: the snapshot at the first look in a hole, and if an incremental one was seen."""

    first_snapshot: int | None = None
    seen_incremental: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """`text` is what the operator reads. `opens_in` is the number of slots until the next hole, where that is known."""

    ready: bool
    text: str
    opens_in: int | None = None


def idle_windows(leader_slots: Sequence[int], *, start: int, end: int, min_idle_slots: int) -> list[IdleWindow]:
    """The gaps longer than `min_idle_slots` between successive leader slots within `start` to `end` (exclusive)."""
    edges = [start, *(slot for slot in leader_slots if start < slot < end), end]
    gaps = (IdleWindow(first, later - first) for first, later in itertools.pairwise(edges))
    return [gap for gap in gaps if gap.length > min_idle_slots]


def decide(policy: Policy, seen: Observation, memory: Memory) -> tuple[Verdict, Memory]:
    """Whether now is the time, why not otherwise, and what to remember for the next look.

    Raises `NoRestartWindow` where no gap of the whole epoch is long enough.
    """
    has_incremental = seen.snapshot is not None and seen.snapshot.incremental is not None
    memory = replace(memory, seen_incremental=memory.seen_incremental or has_incremental)
    _require_some_window(policy, seen)
    if not seen.healthy:
        return Verdict(False, "Node is unhealthy"), memory
    hole = _in_hole(policy, seen)
    if hole is not None:
        return hole, memory
    if policy.skip_new_snapshot_check:
        return Verdict(True, "Ready to restart"), memory
    if memory.first_snapshot is None:
        memory = replace(memory, first_snapshot=seen.snapshot_slot)
    if policy.own and memory.first_snapshot is not None and seen.snapshot_slot in (None, memory.first_snapshot):
        return Verdict(False, "Waiting for a new snapshot"), memory
    # stakes are integers: delinquent / total >= percent / 100 without a float
    if seen.total_stake and seen.delinquent_stake * 100 >= policy.max_delinquent_percent * seen.total_stake:
        return Verdict(False, "Delinquency too high"), memory
    if memory.seen_incremental and not has_incremental:
        return Verdict(False, "Waiting for incremental snapshot"), memory
    without = policy.own and memory.first_snapshot is None
    return Verdict(True, "Ready to restart" + (" (this node makes no snapshots)" if without else "")), memory


def _require_some_window(policy: Policy, seen: Observation) -> None:
    first = seen.epoch.first_slot
    # the epoch's first slot can be idle already, as the slot after a leader slot can: hence one before it
    edges = {"start": first - 1, "end": first + seen.epoch.slots_in_epoch}
    gaps = idle_windows(seen.leader_slots, **edges, min_idle_slots=0)
    largest = max((gap.length - 1 for gap in gaps), default=0)
    if largest < policy.min_idle_slots:
        raise NoRestartWindow(
            f"Validator has no idle window of at least {policy.min_idle_slots} slots. Largest idle window for epoch "
            f"{seen.epoch.epoch} is {largest} slots; choose a smaller --min-idle-time"
        )


def _in_hole(policy: Policy, seen: Observation) -> Verdict | None:
    """`None` in a hole of the leader schedule, otherwise the verdict that says when the next one opens."""
    epoch, now = seen.epoch, seen.epoch.absolute_slot
    end = epoch.first_slot + epoch.slots_in_epoch
    if epoch.slot_index + policy.min_idle_slots > epoch.slots_in_epoch:
        return Verdict(False, "Current epoch is almost complete", opens_in=end - now)
    next_leader_slot = next((slot for slot in seen.leader_slots if slot >= now), None)
    if next_leader_slot is None or next_leader_slot - now >= policy.min_idle_slots:
        return None
    windows = idle_windows(seen.leader_slots, start=next_leader_slot, end=end, min_idle_slots=policy.min_idle_slots)
    if not windows:
        return Verdict(False, f"Validator will be leader soon. Next leader slot is {next_leader_slot}")
    start, length = windows[0]
    # the hole opens in the slot after the leader slot that begins the window
    return Verdict(False, f"Next idle window in {start - now} slots, for {length} slots", opens_in=start + 1 - now)


def next_poll_s(verdict: Verdict, poll_s: float = POLL_S) -> float:
    """How long to wait before the next look: every slot when a hole opens sooner than the usual interval is over."""
    if verdict.opens_in is not None and verdict.opens_in * SLOT_S < poll_s:
        return min(SLOT_S, poll_s)
    return poll_s


# ----------------------------------------------------------------------------------------------------- the loop


class Where(NamedTuple):
    """Which JSON-RPC to ask, and the identity of the validator at the admin socket."""

    url: str
    identity: bytes


class Cluster(Protocol):
    """What the loop asks; `ClusterRpc` has it."""

    async def get_epoch_info(self, commitment: str = "processed") -> EpochInfo: ...
    async def get_health(self) -> bool: ...
    async def get_vote_accounts(self, commitment: str = "processed") -> VoteAccounts: ...
    async def get_highest_snapshot_slot(self) -> SnapshotSlots | None: ...
    async def get_leader_schedule(
        self, slot: int | None = None, identity: bytes | None = None
    ) -> dict[str, list[int]] | None: ...


async def find_cluster(ledger: Path, *, timeout: float = DEFAULT_CALL_S) -> Where:
    """Where the validator of `ledger` looks: the cluster's JSON-RPC that it follows, or, if it is of another make, its own.

    Raises `InvalidInput("RPC not available ...")` if it has neither, and what the admin client raises.
    """
    admin = AdminClient(ledger, timeout=timeout)
    try:
        followed = await admin.acall("rpcUrl")
    except AdminError:  # a validator of another make knows no such method
        followed = None
    if isinstance(followed, str):  # somebody else's, who is not this node
        return Where(followed, from_base58((await admin.acall("contactInfo"))["id"]))
    address = await admin.acall("rpcAddress")
    if not isinstance(address, str):
        raise InvalidInput(f"RPC not available: the validator of {ledger} serves none; start it with one")
    url = parse_url(f"http://{address}", "rpcAddress")
    async with ClusterRpc(url, flag="the validator's RPC") as rpc:
        return Where(url, await rpc.get_identity())


async def observe(rpc: Cluster, identity: bytes, known: Observation | None) -> Observation:
    """Look once; the leader schedule is asked for once per epoch, and taken over from `known` within one."""
    try:
        snapshot = await rpc.get_highest_snapshot_slot()
    except RpcError:
        snapshot = None
    epoch = await rpc.get_epoch_info()
    healthy = await rpc.get_health()
    accounts = await rpc.get_vote_accounts()
    delinquent = sum(account.activated_stake for account in accounts.delinquent)
    total = delinquent + sum(account.activated_stake for account in accounts.current)
    if known is not None and known.epoch.epoch == epoch.epoch:
        leader_slots = known.leader_slots
    else:
        schedule = await rpc.get_leader_schedule(epoch.first_slot, identity)
        if schedule is None:
            raise NoRestartWindow(f"Unable to get leader schedule from slot {epoch.first_slot}")
        leader_slots = sorted(epoch.first_slot + index for index in schedule.get(to_base58(identity), []))
    return Observation(epoch, leader_slots, healthy, delinquent, total, snapshot)


async def wait(
    rpc: Cluster,
    identity: bytes,
    policy: Policy,
    show: Callable[[str], None],
    *,
    poll_s: float = POLL_S,
) -> Verdict:
    """Look until the window is open. `show` gets the status after each look.

    There is no bound on the wait: the operator asked for it and ends it. Raises `NoRestartWindow`, `RpcUnreachable`.
    """
    began = time.monotonic()
    memory = Memory()
    seen: Observation | None = None
    while True:
        seen = await observe(rpc, identity, seen)
        verdict, memory = decide(policy, seen, memory)
        show(status_line(time.monotonic() - began, seen, verdict))
        if verdict.ready:
            return verdict
        await asyncio.sleep(next_poll_s(verdict, poll_s))


def header_lines(identity: bytes, policy: Policy, minutes: float) -> list[str]:
    """What is printed before the first look."""
    return [
        f"Identity: {to_base58(identity)}",
        f"Minimum Idle Time: {policy.min_idle_slots} slots (~{minutes:g} minutes)",
        f"Maximum permitted delinquency: {policy.max_delinquent_percent}%",
    ]


def status_line(elapsed_s: float, seen: Observation, verdict: Verdict) -> str:
    minutes, seconds = divmod(int(elapsed_s), 60)
    percent = 100 * seen.delinquent_stake / seen.total_stake if seen.total_stake else 0.0
    snapshot = "-" if seen.snapshot_slot is None else str(seen.snapshot_slot)
    return (
        f"{minutes:02}:{seconds:02} | Processed Slot: {seen.epoch.absolute_slot} | Snapshot Slot: {snapshot} | "
        f"{percent:.2f}% delinquent stake | {verdict.text}"
    )
