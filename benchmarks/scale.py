"""Many validators on one three-member etcd on this machine, mutual TLS everywhere: how long a store takes, and who pays for it.

The members have the guide's flags, and a quota that five minutes of a thousand validators do not fill. Their data is on one
disk, and they share the processors with the drivers and with each other: three machines have more of everything, and a
network between them that this one does not have.

What this does not have of a validator: the watch on its fence (a second connection, silent until somebody claims), and the
cluster that it follows.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import shutil
import ssl
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.driver import LATENCIES, SLOT_S, Counts, Task
from benchmarks.machines import memory_mb
from benchmarks.measure import Sample
from tests.support.etcd import open_store
from tower import _fast
from tower.localnet.etcd_server import EtcdCluster, EtcdServer, find_etcd
from tower.stores import _etcd_messages as pb
from tower.validator.certs import make_certificates
from tower.validator.etcd_metrics import parse_metrics, quantile

__all__ = ["Load", "Members", "Run", "check", "drive", "scale"]

MEMBERS = 3
QUOTA = 8 << 30  # bytes; the most that etcd recommends. A vote takes 4.1 kB of a database until the next compaction (every 5 min)
FSYNC, COMMIT = "etcd_disk_wal_fsync_duration_seconds", "etcd_disk_backend_commit_duration_seconds"
START_IN_S = 0.5  # from "ready" to the first slot
READ_S = 20.0  # for one read at the end
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Load:
    """So many identities with one vote in each of `slots` slots, by so many driver processes."""

    identities: int
    slots: int
    drivers: int = 1

    @property
    def seconds(self) -> float:
        return self.slots * SLOT_S


@dataclass(slots=True)
class Members:
    """What the members of etcd used and did during a run, all together."""

    cpu_s: float = 0.0
    memory_mb: float = 0.0
    written_mb: float = 0.0  # to the disk, as the kernel counts
    fsyncs: float = 0.0  # of their logs
    fsync_p99_s: float = 0.0  # of the slowest of them
    commit_p99_s: float = 0.0
    database_mb: float = 0.0  # of the largest


@dataclass(slots=True)
class Run:
    """What came of a load."""

    load: Load
    seconds: float = 0.0  # from the first slot to the last answer
    accounted_s: float = 0.0  # over which processors and disk were counted; a little more
    counts: Counts = field(default_factory=Counts)
    latencies: dict[str, Sample] = field(default_factory=dict)
    members: Members = field(default_factory=Members)
    driver_cpu_s: float = 0.0
    driver_memory_mb: float = 0.0
    other_cpu_s: float = 0.0  # of everything else on this machine
    ends: dict[str, list[int]] = field(default_factory=dict)  # votes decided, newest revision, fence; by address
    last: dict[str, bytes] = field(default_factory=dict)  # the newest record committed

    @property
    def store(self) -> Sample:
        """A store, from when its vote was due."""
        return self.latencies["from due"]

    @property
    def unpersisted(self) -> int:
        """Votes that were decided and are not known to be stored."""
        return self.counts.decided - self.counts.released


def scale(folder: Path, loads: Sequence[Load], seed: int) -> Iterator[Run]:
    """One load after the other, each on a cluster of its own; what was stored is checked before it ends."""
    make_certificates(folder / "certs")
    program = _etcd_for_one_of_many(folder)
    for number, load in enumerate(loads):
        place = folder / f"cluster-{number}"
        place.mkdir()
        with EtcdCluster(program, place, folder / "certs", MEMBERS, flags=(f"--quota-backend-bytes={QUOTA}",)) as cluster:
            run = drive(cluster, place, load, seed)
            check(cluster, run)
        shutil.rmtree(place)  # gigabytes
        yield run


def _etcd_for_one_of_many(folder: Path) -> Path:
    """etcd, told how many processors are its own: its threads would spin on all of them for work, in each member at once."""
    share = max(1, (os.cpu_count() or 1) // MEMBERS)
    script = folder / "etcd"
    script.write_text(f'#!/bin/sh\nGOMAXPROCS={share} exec {shlex.quote(str(find_etcd()))} "$@"\n', encoding="utf-8")
    script.chmod(0o700)
    return script


def drive(cluster: EtcdCluster, folder: Path, load: Load, seed: int) -> Run:
    """Let the drivers vote, and keep account of what everybody uses meanwhile."""
    run = Run(load)
    with contextlib.ExitStack() as stack:
        drivers = [stack.enter_context(_driver(cluster, folder, load, seed, turn)) for turn in range(load.drivers)]
        for process in drivers:
            _said(process, "ready")
        account = _Account(cluster, drivers)
        start = time.monotonic() + START_IN_S
        for process in drivers:
            _tell(process, repr(start))
        said = [json.loads(_said(process)) for process in drivers]
        run.seconds = time.monotonic() - start
        account.close(run)
    for each in said:
        for name, count in each["counts"].items():
            setattr(run.counts, name, getattr(run.counts, name) + count)
        run.ends.update(each["ends"])
        run.last.update((address, bytes.fromhex(record)) for address, record in each["last"].items())
    run.latencies = _latencies(folder, [each["lengths"] for each in said])
    return run


def _driver(cluster: EtcdCluster, folder: Path, load: Load, seed: int, turn: int) -> contextlib.AbstractContextManager[Any]:
    first, end = (load.identities * each // load.drivers for each in (turn, turn + 1))
    task = Task(
        [[host, port] for host, port in cluster.endpoints], str(cluster.certs_dir), first, end - first, load.slots, seed,
        str(folder / f"latencies-{turn}"),
    )  # fmt: skip
    return _process(json.dumps(asdict(task)))


@contextlib.contextmanager
def _process(task: str) -> Iterator[subprocess.Popen[str]]:
    """A driver; it ends when its input does."""
    command = [sys.executable, "-m", "benchmarks.driver"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            _tell(process, task)
            yield process
        except BaseException:
            process.kill()
            raise


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    print(line, file=process.stdin, flush=True)


def _said(process: subprocess.Popen[str], expected: str = "") -> str:
    """Its next line. What it has to say before it ends early is on the standard error that it shares with us."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line or expected not in line:
        raise RuntimeError(f"a driver ended: status {process.wait()}, said {line!r}")
    return line


def _latencies(folder: Path, lengths: Sequence[Sequence[int]]) -> dict[str, Sample]:
    found = {name: array("d") for name in LATENCIES}
    for turn, each in enumerate(lengths):
        with open(folder / f"latencies-{turn}", "rb") as file:
            for name, length in zip(LATENCIES, each, strict=True):
                found[name].fromfile(file, length)
    return {name: Sample(tuple(sorted(values))) for name, values in found.items()}


class _Account:
    """What processes have used since this was made."""

    def __init__(self, cluster: EtcdCluster, drivers: Sequence[subprocess.Popen[str]]) -> None:
        self._members, self._drivers = cluster.members, drivers
        self._metrics = [_metrics(member) for member in self._members]
        self._written = sum(_written(member.pid) for member in self._members)
        self._began = time.monotonic()
        self._cpu = self._cpu_now()

    def _cpu_now(self) -> tuple[float, float, float]:
        members = sum(_cpu_s(member.pid) for member in self._members)
        drivers = sum(_cpu_s(process.pid) for process in self._drivers)
        return members, drivers, _busy_s()

    def close(self, run: Run) -> None:
        members, drivers, busy = (after - before for before, after in zip(self._cpu, self._cpu_now(), strict=True))
        run.accounted_s = time.monotonic() - self._began
        run.driver_cpu_s, run.other_cpu_s = drivers, max(0.0, busy - members - drivers)
        run.driver_memory_mb = sum(memory_mb(process.pid, ["VmHWM"])[0] for process in self._drivers)
        ours = run.members
        ours.cpu_s = members
        ours.memory_mb = sum(memory_mb(member.pid, ["VmHWM"])[0] for member in self._members)
        ours.written_mb = (sum(_written(member.pid) for member in self._members) - self._written) / 1e6
        for member, before in zip(self._members, self._metrics, strict=True):
            now = _metrics(member)
            since = {name: value - before.get(name, 0.0) for name, value in now.items()}
            ours.fsyncs += since[f"{FSYNC}_count"]
            ours.fsync_p99_s = max(ours.fsync_p99_s, quantile(since, FSYNC, 0.99) or 0.0)
            ours.commit_p99_s = max(ours.commit_p99_s, quantile(since, COMMIT, 0.99) or 0.0)
            ours.database_mb = max(ours.database_mb, now["etcd_mvcc_db_total_size_in_bytes"] / 1e6)


def _cpu_s(pid: int) -> float:
    """Seconds of processor that a process has used with all its threads, in and out of the kernel."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _busy_s() -> float:
    """The same of the whole machine."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _idle, _waiting, interrupts, soft = (int(word) for word in file.readline().split()[1:8])
    return (user + nice + system + interrupts + soft) / TICKS


def _written(pid: int) -> int:
    with open(f"/proc/{pid}/io", encoding="ascii") as file:
        return int(dict(line.split(": ") for line in file)["write_bytes"])


def _metrics(member: EtcdServer) -> dict[str, float]:
    context = ssl.create_default_context(cafile=str(member.certs_dir / "etcd-ca.pem"))
    context.load_cert_chain(member.certs_dir / "validator.pem", member.certs_dir / "validator-key.pem")
    connection = http.client.HTTPSConnection(member.host, member.port, timeout=READ_S, context=context)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        return parse_metrics(connection.getresponse().read().decode())


def check(cluster: EtcdCluster, run: Run) -> None:
    """Read everything back: each identity's record is its last one, and it was written once for each vote.

    Where a vote is unsettled, its write may be there or not.
    """
    counts = run.counts
    assert len(run.ends) == run.load.identities
    assert counts.due == run.load.identities * run.load.slots == counts.decided + counts.left
    assert counts.decided == counts.released + counts.unsettled == sum(decided for decided, _, _ in run.ends.values())
    assert counts.refused == 0
    assert len(run.store.seconds) == counts.due
    store = open_store(cluster)
    try:
        for address, (decided, revision, fence) in run.ends.items():
            seen = store.look(address, READ_S)
            assert seen.instance_revision == fence
            if counts.unsettled:
                continue
            assert seen.record_revision == revision > fence
            assert seen.record == run.last[address]
            last_slot = _fast.read_saved_tower(seen.record).last_voted_slot
            assert last_slot is not None
            data = store._links.current.call("range", pb.range_request(f"{address}/tower".encode()), READ_S)
            assert _versions(data) == decided
    finally:
        store.close()


def _versions(data: bytes) -> int:
    """How often the one key in the answer to a read was written."""
    (found,) = [each for each in pb.fields(data) if each.number == 2]
    return next(each.as_int() for each in pb.fields(found.as_bytes()) if each.number == 4)
