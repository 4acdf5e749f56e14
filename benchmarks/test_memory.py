"""What a voter's process holds while it votes: after 1,000 slots, after 10,000, and whether it grows between.

A real `openos-validator` on etcd with mutual TLS, in a local cluster with slots of 40 ms, so that 10,000 pass in seven minutes.
The kernel says what the process holds (`/proc/<pid>/status`): VmRSS with the pages of shared libraries, RssAnon its own alone.

What this does not say: how much a cluster of thousands of voters needs. There are few here; it shows growth with time.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conftest import Bench
from benchmarks.machines import machine, memory_mb, on_etcd
from tests.support.cluster import Validator, World, until

SLOT_MS, SMOKE_SLOT_MS = 40, 25
EARLY, LATE = 1_000, 10_000
SMOKE_EARLY, SMOKE_LATE = 20, 100
SAMPLES = 100
BEHIND_MAX = 64  # slots that its last vote may be behind the cluster's newest
HELD_MB_MAX = 120.0
GROWTH_SHARE_MAX = 0.01  # of what it held after EARLY slots: tables of bounded size still fill up to their bounds


def wait_slot(world: World, voter: Validator, slot: int, slot_ms: int) -> int:
    """Wait until the cluster has come to `slot`; where it is then."""
    newest = 0

    def there() -> bool:
        nonlocal newest
        newest = world.slot()
        return newest >= slot or not voter.running

    until(there, f"slot {slot}", timeout=60 + 5 * SAMPLES * slot_ms / 1000)
    assert voter.running, voter.log[-2000:]
    return newest


@pytest.mark.timeout(1800)
def test_memory_of_a_voter(bench: Bench, benchmark: Any, tmp_path: Path) -> None:
    slot_ms = SLOT_MS if bench.full else SMOKE_SLOT_MS
    early, late = (EARLY, LATE) if bench.full else (SMOKE_EARLY, SMOKE_LATE)
    with on_etcd(tmp_path, seed=bench.seed, slot_ms=slot_ms) as world:
        voter = machine(world, "127.0.0.2").start().wait_running()
        voter.wait_vote()
        first, began = world.slot(), time.monotonic()
        slots, held, own, pace = [], [], [], []

        def follow() -> None:
            """To the last slot, and what the process holds at each hundredth of the way."""
            step = max(1, late // SAMPLES)
            told, at = first, began
            for mark in range(step, late + 1, step):
                newest = wait_slot(world, voter, first + mark, slot_ms)
                resident, anonymous = memory_mb(voter.process.pid, ("VmRSS", "RssAnon"))
                now = time.monotonic()
                slots.append(newest - first)
                held.append(resident)
                own.append(anonymous)
                pace.append((now - at) * 1000 / max(1, newest - told))
                told, at = newest, now

        benchmark.pedantic(follow, rounds=1)
        status, newest = voter.status(), world.slot()
        assert status["voting"] is True
        assert newest - status["lastVotedSlot"] <= BEHIND_MAX, "it fell behind"
        assert status["sentVotes"] >= (newest - first) // 2, "it missed more votes than it sent"
        assert world.call("localnetReport", {"fromSlot": newest})["conflicts_total"] == 0
    at_early = next(index for index, slot in enumerate(slots) if slot >= early)
    table = "memory of a voter"
    bench.figure(table, f"resident after {late} slots", held[-1], "MB", at_most=HELD_MB_MAX)
    bench.figure(table, f"resident after {early} slots", held[at_early], "MB")
    bench.figure(table, "of it its own (RssAnon), then", own[-1], "MB")
    bench.figure(
        table, f"growth from {early} to {late} slots", (held[-1] / held[at_early] - 1) * 100, "%",
        at_most=GROWTH_SHARE_MAX * 100, note=f"{status['sentVotes']} votes sent in {newest - first} slots",
    )  # fmt: skip
    bench.figure(table, "the local cluster's pace at the end", pace[-1], "ms a slot", note=f"set: {slot_ms}")
    for name, values in (("resident", held), ("its own (anonymous)", own)):
        bench.series("memory of a voter", name, slots, values, x_label="slots voted", y_label="megabytes")
