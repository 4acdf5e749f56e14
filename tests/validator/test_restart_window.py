"""The restart window: the policy on a table of cases, then the loop on a cluster that moves as it is asked."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tower.keys import Keypair, to_base58
from tower.validator import restart_window as window
from tower.validator.restart_window import Memory, NoRestartWindow, Observation, Policy, decide, wait
from tower.validator.rpc import EpochInfo, RpcError, SnapshotSlots, VoteAccount, VoteAccounts

ME = Keypair.from_seed(bytes([3]) * 32).pubkey
EPOCH_START, EPOCH_SLOTS, IDLE = 10_000, 1000, 100
READY = "Ready to restart"


def seen(
    slot: int = 0,
    leads: tuple[int, ...] = (),
    *,
    healthy: bool = True,
    delinquent: int = 0,
    total: int = 100,
    snapshot: SnapshotSlots | None = None,
) -> Observation:
    """One look; `slot` and `leads` count from the start of the epoch."""
    epoch = EpochInfo(10, slot, EPOCH_SLOTS, EPOCH_START + slot)
    return Observation(epoch, [EPOCH_START + lead for lead in leads], healthy, delinquent, total, snapshot)


OTHER = Policy(IDLE, own=False)
OWN = Policy(IDLE)


@pytest.mark.parametrize(
    ("policy", "observation", "memory", "text", "opens_in"),
    [
        (OTHER, seen(), Memory(), READY, None),
        (OTHER, seen(healthy=False), Memory(), "Node is unhealthy", None),
        # leader slots: those that are over do not count, the wanted idle time is just enough, one slot less is not
        (OTHER, seen(50, (10, 49)), Memory(), READY, None),
        (OTHER, seen(0, (100, 300)), Memory(), READY, None),
        (OTHER, seen(1, (100, 300)), Memory(), "Next idle window in 99 slots, for 200 slots", 100),
        (OTHER, seen(300, (300,)), Memory(), "Next idle window in 0 slots, for 700 slots", 1),
        (OTHER, seen(301, (300,)), Memory(), READY, None),
        # a window that is over is not announced, one that is too short neither
        (OTHER, seen(590, (0, 200, 600, 650, 660, 800)), Memory(), "Next idle window in 70 slots, for 140 slots", 71),
        (OTHER, seen(690, (0, 700, 899)), Memory(), "Next idle window in 10 slots, for 199 slots", 11),
        (OTHER, seen(690, (0, 700, 800, 899)), Memory(), "Next idle window in 209 slots, for 101 slots", 210),
        (OTHER, seen(690, (0, 700, 800, 900)), Memory(), "Validator will be leader soon. Next leader slot is 10700", None),
        # the end of the epoch: what comes after it is not known
        (OTHER, seen(900, (10,)), Memory(), READY, None),
        (OTHER, seen(901, (10,)), Memory(), "Current epoch is almost complete", 99),
        # delinquency, exactly at the limit and just below
        (OTHER, seen(delinquent=5), Memory(), "Delinquency too high", None),
        (OTHER, seen(delinquent=499, total=10_000), Memory(), READY, None),
        (OTHER, seen(total=0), Memory(), READY, None),
        (replace(OTHER, max_delinquent_percent=50), seen(delinquent=49), Memory(), READY, None),
        # snapshots matter for one's own node only
        (OTHER, seen(snapshot=SnapshotSlots(5, None)), Memory(), READY, None),
        (OWN, seen(snapshot=SnapshotSlots(5, None)), Memory(), "Waiting for a new snapshot", None),
        (OWN, seen(snapshot=SnapshotSlots(5, None)), Memory(5), "Waiting for a new snapshot", None),
        (OWN, seen(snapshot=SnapshotSlots(5, 7)), Memory(5), READY, None),
        (OWN, seen(snapshot=SnapshotSlots(9, None)), Memory(7, True), "Waiting for incremental snapshot", None),
        (OWN, seen(snapshot=None), Memory(7), "Waiting for a new snapshot", None),
        (OWN, seen(snapshot=SnapshotSlots(9, 11), delinquent=6), Memory(7, True), "Delinquency too high", None),
        # a node without snapshots must not wait for one for ever
        (OWN, seen(snapshot=None), Memory(), f"{READY} (this node makes no snapshots)", None),
        # the flag skips snapshots and, as in the tool in use, delinquency; not leader slots, not health
        (replace(OWN, skip_new_snapshot_check=True), seen(snapshot=SnapshotSlots(5, None), delinquent=90), Memory(),
         READY, None),
        (replace(OWN, skip_new_snapshot_check=True), seen(healthy=False), Memory(), "Node is unhealthy", None),
        (replace(OTHER, skip_new_snapshot_check=True), seen(299, (300,)), Memory(),
         "Next idle window in 1 slots, for 700 slots", 2),
    ],
)  # fmt: skip
def test_decide(policy: Policy, observation: Observation, memory: Memory, text: str, opens_in: int | None) -> None:
    verdict, after = decide(policy, observation, memory)
    assert (verdict.text, verdict.opens_in) == (text, opens_in)
    assert verdict.ready is text.startswith(READY)
    assert after.first_snapshot in (memory.first_snapshot, observation.snapshot_slot)
    if opens_in is not None and text.startswith("Next idle"):
        # what was announced is true: nothing before it, and then a hole
        later = replace(observation, snapshot=None)
        for ahead, is_open in ((opens_in - 1, False), (opens_in, True)):
            then = later.epoch.absolute_slot + ahead
            epoch = later.epoch._replace(absolute_slot=then, slot_index=later.epoch.slot_index + ahead)
            moved, _ = decide(replace(policy, own=False), replace(later, epoch=epoch), Memory())
            assert moved.ready is is_open


@pytest.mark.parametrize(
    ("leads", "largest"),
    [(tuple(range(0, EPOCH_SLOTS, 100)), 99), ((100, *range(100, EPOCH_SLOTS, 50)), None), ((), None)],
)
def test_an_identity_that_never_idles_long_enough_is_told_at_once(leads: tuple[int, ...], largest: int | None) -> None:
    if largest is None:
        decide(OTHER, seen(0, leads), Memory())
        return
    with pytest.raises(NoRestartWindow, match=f"at least 100 slots. Largest idle window for epoch 10 is {largest} slots"):
        decide(OTHER, seen(0, leads), Memory())


def test_the_idle_time_in_slots() -> None:
    assert [window.slots_of_minutes(minutes) for minutes in (10, 0, 0.1, 3)] == [1500, 0, 15, 450]
    with pytest.raises(NoRestartWindow):
        decide(Policy(EPOCH_SLOTS + 1), seen(), Memory())
    assert decide(Policy(EPOCH_SLOTS, own=False), seen(), Memory())[0].ready


class MovingCluster:
    """Each look finds it some slots further; two epochs, in which ME leads at the given indices."""

    def __init__(self, leads: dict[int, list[int]], *, slot: int, step: int, snapshots: list[int] | None = None) -> None:
        self.leads, self.slot, self.step = leads, slot, step
        self.snapshots = snapshots
        self.schedules_asked: list[int | None] = []

    async def get_epoch_info(self, commitment: str = "processed") -> EpochInfo:
        self.slot += self.step
        return EpochInfo(self.slot // EPOCH_SLOTS, self.slot % EPOCH_SLOTS, EPOCH_SLOTS, self.slot)

    async def get_health(self) -> bool:
        return True

    async def get_vote_accounts(self, commitment: str = "processed") -> VoteAccounts:
        row = VoteAccount("v", "n", 50, 1, 1)
        return VoteAccounts((row, row), (row._replace(activated_stake=1),))

    async def get_highest_snapshot_slot(self) -> SnapshotSlots | None:
        if self.snapshots is None:
            raise RpcError(-32000, "busy")
        return SnapshotSlots(self.snapshots.pop(0), None)

    async def get_leader_schedule(self, slot: int | None = None, identity: bytes | None = None) -> dict[str, list[int]] | None:
        self.schedules_asked.append(slot)
        assert slot is not None
        assert identity == ME
        return {to_base58(ME): self.leads[slot // EPOCH_SLOTS]}


def run(cluster: MovingCluster, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[float]]:
    lines: list[str] = []
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    assert asyncio.run(wait(cluster, ME, policy, lines.append)).ready
    return lines, slept


def test_the_loop_waits_for_the_hole_and_looks_every_slot_when_it_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = MovingCluster({10: [0, 50, 112]}, slot=10_080, step=10)
    lines, slept = run(cluster, OTHER, monkeypatch)
    # the hole opens at slot 113: from 100 in 5.2 s, later than the next usual look; from 110 in 1.2 s
    assert slept == [5.0, 5.0, 0.4]
    assert lines[0] == (
        "00:00 | Processed Slot: 10090 | Snapshot Slot: - | 0.99% delinquent stake | Next idle window in 22 slots, for 888 slots"
    )
    assert lines[-1].endswith("| Ready to restart")
    assert cluster.slot == 10_120
    assert cluster.schedules_asked == [10_000]


def test_the_loop_asks_for_the_schedule_of_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = MovingCluster({10: [5], 11: [2]}, slot=10_900, step=33)
    run(cluster, OTHER, monkeypatch)
    assert cluster.slot == 11_032
    assert cluster.schedules_asked == [10_000, 11_000]


def test_the_loop_on_the_own_node_ends_after_a_new_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = MovingCluster({10: [5]}, slot=10_100, step=1, snapshots=[7, 7, 7, 9])
    lines, slept = run(cluster, OWN, monkeypatch)
    assert [line.rpartition("| ")[2] for line in lines] == ["Waiting for a new snapshot"] * 3 + [READY]
    assert slept == [5.0] * 3
