"""Many validators on one three-member etcd, 2.5 votes a second each: how long a store takes, and who pays for it.

A figure counts from when a vote was due, so it holds whatever a vote had to wait for, the driver included; how late the driver
itself began is a figure of its own. That every vote decided is in etcd, once, is asserted by reading everything back.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conftest import Bench
from benchmarks.scale import Load, Run, scale

CURVE = (10, 100, 300, 1000, 2000)
TARGET = 1000  # identities
QUARTER_OF_A_SLOT_MS = 100.0
MINUTE, FIVE_MINUTES = 150, 750  # slots
TABLE = "scale"


def loads(bench: Bench) -> list[Load]:
    if not bench.full:
        return [Load(10, 7)]
    return [Load(count, FIVE_MINUTES if count == TARGET else MINUTE) for count in CURVE]


def report(bench: Bench, runs: Sequence[Run]) -> None:
    for run in runs:
        what, target = f"{run.load.identities:,} identities", run.load.identities == TARGET
        store, members, votes = run.store, run.members, max(1, run.counts.released)
        note = f"{run.load.seconds:.0f} s, {run.counts.due / run.load.seconds:.0f} votes a second due"
        for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)):
            at_most = QUARTER_OF_A_SLOT_MS if target and name == "p99" else None
            bench.figure(TABLE, f"{what}: store, {name}", store.quantile(share) * 1e3, "ms", at_most=at_most, note=note)
        bench.figure(TABLE, f"{what}: driver late, p99", run.latencies["late"].quantile(0.99) * 1e3, "ms", note="in the store's")
        bench.figure(TABLE, f"{what}: votes stored", votes / run.seconds, "1/s", note=f"{run.counts.left} never begun")
        bench.figure(TABLE, f"{what}: votes decided and not stored", run.unpersisted, "", at_most=0 if target else None)
        unsettled = f"{run.counts.unsettled} never settled" if run.counts.unsettled else "all settled"
        bench.figure(TABLE, f"{what}: writes repeated after an unknown outcome", run.counts.repeated, "", note=unsettled)
        for who, used in (("etcd, 3 members", members.cpu_s), ("our drivers", run.driver_cpu_s), ("all else", run.other_cpu_s)):
            each = "" if who == "all else" else f"{used / votes * 1e6:.0f} us a vote"
            bench.figure(TABLE, f"{what}: processors of {who}", used / run.accounted_s, "cores", note=each)
        bench.figure(TABLE, f"{what}: memory of etcd, 3 members", members.memory_mb, "MB")
        bench.figure(TABLE, f"{what}: memory of our drivers", run.driver_memory_mb, "MB")
        bench.figure(TABLE, f"{what}: largest database", members.database_mb, "MB")
        rate = members.written_mb / run.accounted_s
        bench.figure(TABLE, f"{what}: written, 3 members", rate, "MB/s", note=f"{members.fsyncs / run.accounted_s:.0f} fsyncs/s")
        bench.figure(TABLE, f"{what}: fsync of etcd's log, p99", members.fsync_p99_s * 1e3, "ms", note="slowest member")
        bench.distribution("latency of a store, by identities", what, store)
    x = [run.load.identities for run in runs]
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        y = [run.store.quantile(share) * 1e3 for run in runs]
        bench.series(
            "cost against identities", name, x, y, x_label="identities on one etcd, 2.5 votes/s each", y_label="ms", log=True
        )  # fmt: skip


@pytest.mark.timeout(1800)
def test_many_validators_on_one_etcd(
    bench: Bench, benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    todo = loads(bench)
    if bench.full:
        with capsys.disabled():
            print(f"\nscale: {sum(load.seconds for load in todo) / 60:.0f} minutes of votes, and about two of connecting")
    runs = benchmark.pedantic(lambda: list(scale(tmp_path, todo, bench.seed)), rounds=1)
    for run in runs:
        assert run.counts.released > 0
        if not run.counts.unsettled:
            assert run.unpersisted == 0
    report(bench, runs)
