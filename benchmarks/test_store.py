"""The fenced store over mutual TLS with one etcd on loopback, beside the least Python that has the same bytes answered."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.conftest import Bench
from benchmarks.measure import Sample, interleaved
from benchmarks.raw_http2 import RawHttp2
from tests.support.etcd import open_store, run_etcd
from tower import _fast
from tower.keys import Keypair, to_base58
from tower.localnet.etcd_server import EtcdServer
from tower.store import ABSENT, Claimed, Committed, Kind, Owner
from tower.stores import _etcd_messages as pb
from tower.stores.etcd import EtcdStore
from tower.validator.certs import make_certificates

T = 10.0
WAYS = {"announced": "http2", "http2": "http2", "grpc": "grpc"}  # and the transport of each
RECORD_BYTES = 2300  # a saved tower with a full stack


class FencedStore:
    """Call it to store the next record under a fence, as a voter does for a vote."""

    def __init__(self, store: EtcdStore, identity: str, record: bytes) -> None:
        self.store, self.record = store, record
        claimed = store.claim(store.look(identity, T), Owner("bench", "start", at_ms=1), T)
        assert isinstance(claimed, Claimed)
        self.fence, self.revision, self.stored = claimed.fence, ABSENT, 0

    def __call__(self) -> None:
        outcome = self.store.begin_store(self.fence, self.revision, self.record, T).outcome(T)
        if not isinstance(outcome, Committed):
            raise AssertionError(outcome)
        self.revision = outcome.record_revision
        self.stored += 1


class RawStore:
    """The same exchange without a store: the same bytes each time, so nothing is encoded and no answer is read.

    Its third comparison is of a key that stays as it is; all keys and values have the lengths of the fenced store's.
    """

    def __init__(self, raw: RawHttp2, identity: str, record: bytes, instance: bytes) -> None:
        self.raw, self.stored = raw, 0
        held, other, key = (f"{identity}/{name}".encode() for name in ("instance", "owner", "tower"))
        puts = pb.txn(success=[pb.put_op(held, instance), pb.put_op(other, b"")])
        revision = pb.decode_txn(raw.exchange(puts), (0, 0)).revision
        self.request = pb.txn(
            [pb.compare_mod_revision(held, revision), pb.compare_value(held, instance), pb.compare_mod_revision(other, revision)],
            [pb.put_op(key, record)],
            [pb.range_op(held), pb.range_op(key)],
        )
        self.answer = b""

    def __call__(self) -> None:
        self.answer = self.raw.exchange(self.request)
        self.stored += 1

    def committed(self) -> bool:
        return pb.decode_txn(self.answer, (2, 0)).succeeded


def versions(server: EtcdServer, identity: str) -> int:
    """How often the tower of `identity` was written."""
    store = open_store(server)
    try:
        data = store._links.current.call("range", pb.range_request(f"{identity}/tower".encode()), T)
    finally:
        store.close()
    (found,) = [field for field in pb.fields(data) if field.number == 2]
    return next(field.as_int() for field in pb.fields(found.as_bytes()) if field.number == 4)


def addresses(rng: random.Random, count: int) -> list[str]:
    return [to_base58(rng.randbytes(32)) for _ in range(count)]


def measure(server: EtcdServer, bench: Bench, benchmark: Any, rounds: int) -> dict[str, Sample]:
    """Both transports, the raw exchange and a signature in turns; what was written is counted at the server.

    "announced" is our own transport as the voter uses it: each write is announced when the one before is done.
    """
    raw_identity, *identities = addresses(bench.rng, 1 + len(WAYS))
    record, instance = bench.rng.randbytes(RECORD_BYTES), bench.rng.randbytes(8)
    secret, message = Keypair.from_seed(bench.rng.randbytes(32)).secret, bench.rng.randbytes(300)
    raw = RawHttp2(server.endpoint, server.certs_dir)
    stores = {way: open_store(server, transport=transport) for way, transport in WAYS.items()}
    try:
        ours = {
            way: FencedStore(store, identity, record)
            for (way, store), identity in zip(stores.items(), identities, strict=True)
        }
        bare = RawStore(raw, raw_identity, record, instance)
        benchmark.pedantic(ours["http2"], rounds=rounds, warmup_rounds=1)
        cases = {"raw": bare, **ours, "sig": lambda: _fast.sign(secret, message)}
        taken = interleaved(cases, rounds=rounds, after={"announced": stores["announced"].expect_store})
        assert bare.committed()
        assert versions(server, raw_identity) == bare.stored
        for way, identity in zip(WAYS, identities, strict=True):
            assert versions(server, identity) == ours[way].stored
        put = stores["http2"]._puts[Kind.TOWER][1].request(ours["http2"].revision, record)
        assert abs(len(put) - len(bare.request)) <= 4  # numbers of other lengths
    finally:
        raw.close()
        for store in stores.values():
            store.close()
    return taken


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """An etcd that nothing else uses."""
    folder = tmp_path_factory.mktemp("etcd")
    make_certificates(folder / "certs")
    with run_etcd(folder, folder / "certs") as server:
        yield server


@pytest.mark.timeout(600)
def test_fenced_store(etcd: EtcdServer, bench: Bench, benchmark: Any) -> None:
    taken = measure(etcd, bench, benchmark, bench.rounds(3000, 3))
    what = "fenced store, mutual TLS, one etcd on loopback"
    note = f"a record of {RECORD_BYTES} bytes"
    against, raw, sig = "a raw HTTP/2 exchange of the same bytes", taken["raw"], taken["sig"]
    announced = f"{note}; announced after the write before, as the voter does"
    bench.row("store", what, taken["announced"], against=against, other=raw, at_most=1.15, note=announced)
    bench.row("store", f"{what}, not announced", taken["http2"], against=against, other=raw, at_most=1.15, note=note)
    bench.row("store", f"{what}, over gRPC's channel", taken["grpc"], against=against, other=raw, note=note)
    bench.row("store", f"{what}, in signatures", taken["announced"], against="one signature of 300 bytes", other=sig, unit="sig")
    names = {"raw": "raw exchange", "announced": "ours", "http2": "ours, not announced", "grpc": "gRPC"}
    for way, name in names.items():
        bench.distribution("latency of a store", name, taken[way])
