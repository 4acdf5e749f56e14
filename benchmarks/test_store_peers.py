"""The same fenced transaction through other clients of etcd, on the same etcd in turns; a record as large as a tower.

A turn is a few stores one after the other, the first of which does not count, since it wakes a peer that has a process of its
own. How often each wrote is counted at the server. What a client's interface cannot say stands in `benchmarks.peers.clients`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conftest import Bench
from benchmarks.measure import Here, Timed, in_turns
from benchmarks.peers.cargo import CannotBuild, build
from benchmarks.peers.clients import IN_PROCESS, Fenced
from benchmarks.peers.pipe import Peer, Turn
from benchmarks.raw_http2 import RawHttp2
from benchmarks.test_store import RECORD_BYTES, FencedStore, RawStore, T, addresses, versions
from tests.support.etcd import open_store
from tower.localnet.etcd_server import EtcdServer, find_etcd, free_ports
from tower.store import Claimed, Owner
from tower.validator.certs import make_certificates

CALLS = 5  # of a turn that count
AHEAD_S = 0.001  # less than between any two votes
TABLE = "clients of etcd"
RAW = "a raw HTTP/2 exchange of the same bytes"
RUST = "Rust etcd-client, directly"
ETCD3 = "etcd3"
MODULES = {"pyetcd": "pyetcd", "etcd3gw": "etcd3gw", "Rust etcd-client, its Python binding": "etcd_client"}
AT_MOST = {RUST: 0.8, "Rust etcd-client, its Python binding": 0.8}
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Etcd:
    server: EtcdServer
    plain_port: int


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """One etcd with two doors: mutual TLS, and one without TLS for the client that has none."""
    folder = tmp_path_factory.mktemp("etcd")
    make_certificates(folder / "certs")
    port, plain = free_ports(2)
    doors = f"--listen-client-urls=https://127.0.0.1:{port},http://127.0.0.1:{plain}"
    with EtcdServer(find_etcd(), folder / "etcd-data", folder / "certs", port, flags=[doors]) as server:
        yield Etcd(server, plain)


def claim(etcd: Etcd, identity: str, record: bytes) -> Fenced:
    """A fence for a client that has no claims of its own."""
    store = open_store(etcd.server)
    try:
        claimed = store.claim(store.look(identity, T), Owner("bench", "start", at_ms=1), T)
    finally:
        store.close()
    assert isinstance(claimed, Claimed)
    fence, (host, port) = claimed.fence, etcd.server.endpoint
    return Fenced(host, port, etcd.plain_port, etcd.server.certs_dir, identity, fence.instance, fence.revision, record)


def _etcd3() -> list[str] | None:
    """etcd3's interpreter and its peer, where there is one: `make bench` makes it."""
    python = os.environ.get("TOWER_ETCD3_PYTHON") or str(ROOT / ".venv" / "etcd3-peer" / "bin" / "python")
    return [python, str(ROOT / "benchmarks" / "peers" / "etcd3_peer.py")] if os.access(python, os.X_OK) else None


def _rust(bench: Bench) -> list[str] | None:
    try:
        return [str(build(only_if_built=not bench.full))]
    except CannotBuild as problem:
        print(problem)
        return None


class Announced:
    """Ours as the voter uses it: each write is announced `AHEAD_S` before, which is no part of its time."""

    def __init__(self, store: FencedStore) -> None:
        self._store = store

    def take(self, calls: int) -> list[float]:
        taken = []
        for _ in range(calls):
            self._store.store.expect_store()
            time.sleep(AHEAD_S)
            began = time.perf_counter()
            self._store()
            taken.append(time.perf_counter() - began)
        return taken


class Others:
    """The clients that are there, each with a fence of its own."""

    def __init__(self, etcd: Etcd, bench: Bench, record: bytes, ends: contextlib.ExitStack) -> None:
        self.cases: dict[str, Timed] = {}
        self.notes: dict[str, str] = {}
        self.fences: dict[str, Fenced] = {}
        self._etcd, self._bench, self._record = etcd, bench, record
        for name, client in IN_PROCESS.items():
            if importlib.util.find_spec(MODULES[name]) is None:
                print(f"{name} is not installed: pip install '.[peers]'")
                continue
            made = client(self._fence(name))
            ends.callback(made.close)
            self.cases[name], self.notes[name] = Here(made), made.note
        for name, command in {ETCD3: _etcd3(), RUST: _rust(bench)}.items():
            if command is None:
                print(f"{name} is left out")
                continue
            peer = ends.enter_context(Peer(command))
            peer.ask(**self._fence(name).command())
            self.cases[name], self.notes[name] = Turn(peer, do="store"), "mutual TLS, in a process of its own"

    def _fence(self, name: str) -> Fenced:
        (identity,) = addresses(self._bench.rng, 1)
        self.fences[name] = claim(self._etcd, identity, self._record)
        return self.fences[name]


def stores_of(rounds: int) -> int:
    """How often a client stores in `in_turns` of so many rounds, with the turn before the first."""
    return 2 + rounds * (1 + CALLS)


@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of the clients' own code
def test_fenced_transaction_of_each_client(etcd: Etcd, bench: Bench, benchmark: Any) -> None:
    record = bench.rng.randbytes(RECORD_BYTES)
    rounds = bench.rounds(300, 1)
    with contextlib.ExitStack() as ends:
        store, other = open_store(etcd.server), open_store(etcd.server)
        ends.callback(store.close)
        ends.callback(other.close)
        identity, told, bare = addresses(bench.rng, 3)
        ours: Callable[[], None] = FencedStore(store, identity, record)
        announced = Announced(FencedStore(other, told, record))
        connection = RawHttp2(etcd.server.endpoint, etcd.server.certs_dir)
        ends.callback(connection.close)
        raw = RawStore(connection, bare, record, bench.rng.randbytes(8))
        others = Others(etcd, bench, record, ends)
        benchmark.pedantic(ours, rounds=1)
        cases: dict[str, Timed] = {"ours": announced, "ours, not announced": Here(ours), RAW: Here(raw), **others.cases}
        taken = in_turns(cases, rounds=rounds, calls=CALLS)
        assert versions(etcd.server, identity) == 1 + stores_of(rounds)
        assert versions(etcd.server, told) == stores_of(rounds)
        assert versions(etcd.server, bare) == stores_of(rounds)
        for fenced in others.fences.values():
            assert versions(etcd.server, fenced.identity) == stores_of(rounds)
    for name, sample in taken.items():
        bench.distribution("latency of a fenced transaction, client by client", name, sample)
        if name in others.cases:
            for way, which in (("ours", "fenced transaction"), ("ours, not announced", "fenced transaction, not announced")):
                bench.row(
                    TABLE, which, taken[way],
                    against=name, other=sample, at_most=AT_MOST.get(name, 1.0), note=others.notes[name],
                )  # fmt: skip
    if RUST in taken:
        floor = "the least that Python can do: a socket, no store around it"
        bench.row(TABLE, RAW, taken[RAW], against=RUST, other=taken[RUST], note=floor)
