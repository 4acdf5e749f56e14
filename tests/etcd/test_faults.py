"""What the etcd store does when answers get lost, endpoints die or hang, and others use the same keys."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.etcd import Proxy, open_store, run_etcd, wait_until
from tower.errors import StoreUnavailable
from tower.localnet.etcd_server import EtcdServer
from tower.store import ABSENT, Claimed, Committed, Owner, Refusal, Refused, Unknown
from tower.stores import _etcd_messages as pb
from tower.stores.etcd import TRANSPORTS, EtcdStore

T = 10.0
OWNER = Owner("primary", "start", at_ms=1)
Open = Callable[..., EtcdStore]


@pytest.fixture(params=TRANSPORTS, autouse=True)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here holds on both ways to etcd."""
    monkeypatch.setenv("TOWER_ETCD_TRANSPORT", request.param)


@pytest.fixture
def proxy(etcd_server: EtcdServer) -> Iterator[Proxy]:
    with Proxy(etcd_server.endpoint) as proxy:
        yield proxy


def claim(store: EtcdStore, identity: str) -> Claimed:
    claimed = store.claim(store.look(identity, T), OWNER, T)
    assert isinstance(claimed, Claimed), claimed
    return claimed


def test_a_lost_answer_to_a_committed_store_settles_as_committed(etcd_store: Open, proxy: Proxy, identity: str) -> None:
    store, direct = etcd_store(endpoints=[proxy.endpoint], attempt_timeout=5.0), etcd_store()
    mine = claim(store, identity)
    proxy.lose_answers()
    pending = store.begin_store(mine.fence, ABSENT, b"tower", T)
    wait_until(lambda: direct.look(identity, T).record == b"tower", "the write commits")
    assert isinstance(pending.outcome(0.02), Unknown)  # nobody has told us
    proxy.cut()
    outcome = pending.outcome(T)
    assert outcome == Committed(mine.fence, direct.look(identity, T).record_revision, b"tower")
    assert pending.outcome(0) == outcome
    assert outcome.record_revision == mine.fence.revision + 1  # written once: the repetition did not put it again


def test_a_lost_answer_to_a_claim_settles_as_claimed(etcd_store: Open, proxy: Proxy, identity: str) -> None:
    store, direct = etcd_store(endpoints=[proxy.endpoint], attempt_timeout=5.0), etcd_store()
    sighting = store.look(identity, T)
    proxy.lose_answers()
    claims: list[object] = []
    thread = threading.Thread(target=lambda: claims.append(store.claim(sighting, OWNER, T)))
    thread.start()
    seen = wait_until(lambda: (now := direct.look(identity, T)).instance and now, "the claim commits")
    proxy.cut()
    thread.join(T)
    (claimed,) = claims
    assert isinstance(claimed, Claimed), claimed
    assert (claimed.fence.revision, claimed.fence.instance) == (seen.instance_revision, seen.instance)
    assert len(direct.history(identity, T)) == 1
    assert isinstance(store.begin_store(claimed.fence, ABSENT, b"tower", T).outcome(T), Committed)


def test_s3_a_lost_answer_and_a_claim_meanwhile_is_fenced(etcd_store: Open, proxy: Proxy, identity: str) -> None:
    store, direct = etcd_store(endpoints=[proxy.endpoint], attempt_timeout=5.0), etcd_store()
    mine = claim(store, identity)
    proxy.lose_answers()
    pending = store.begin_store(mine.fence, ABSENT, b"tower", T)
    wait_until(lambda: direct.look(identity, T).record == b"tower", "the write commits")
    yours = claim(direct, identity)
    proxy.cut()
    assert pending.outcome(T) == Refused(Refusal.FENCED, mine.fence.revision, yours.fence.revision)
    assert yours.record == b"tower"


def test_a_second_endpoint_takes_over_from_a_dead_and_from_a_silent_one(
    etcd_server: EtcdServer, etcd_store: Open, identity: str
) -> None:
    with Proxy(etcd_server.endpoint) as first, Proxy(etcd_server.endpoint) as second:
        store = etcd_store(endpoints=[first.endpoint, second.endpoint, etcd_server.endpoint], attempt_timeout=0.3)
        mine = claim(store, identity)
        first.close()  # refuses connections
        one = store.begin_store(mine.fence, ABSENT, b"tower 1", T).outcome(T)
        assert isinstance(one, Committed)
        second.lose_answers()  # takes requests, answers nothing
        two = store.begin_store(mine.fence, one.record_revision, b"tower 2", T).outcome(T)
        assert isinstance(two, Committed)
        assert store.look(identity, T).record_revision == two.record_revision


def test_the_watch_goes_on_at_another_endpoint(etcd_server: EtcdServer, etcd_store: Open, identity: str) -> None:
    with Proxy(etcd_server.endpoint) as first, Proxy(etcd_server.endpoint) as second:
        store, other = etcd_store(endpoints=[first.endpoint, second.endpoint]), etcd_store()
        mine = claim(store, identity)
        lost: list[int] = []
        store.watch(mine.fence, lost.append)
        first.close()
        second.cut()
        assert isinstance(store.begin_store(mine.fence, ABSENT, b"tower", T).outcome(T), Committed)
        assert lost == []  # a broken connection is no foreign claim
        yours = claim(other, identity)
        assert wait_until(lambda: lost, "the watch fires over the second endpoint") == [yours.fence.revision]


def test_a_claim_while_no_endpoint_was_watched_is_noticed(etcd_store: Open, proxy: Proxy, identity: str) -> None:
    store, other = etcd_store(endpoints=[proxy.endpoint], attempt_timeout=0.3), etcd_store()
    mine = claim(store, identity)
    lost: list[int] = []
    store.watch(mine.fence, lost.append)
    proxy.lose_answers()
    yours = claim(other, identity)
    other.begin_store(yours.fence, ABSENT, b"tower", T).outcome(T)
    proxy.cut()
    assert wait_until(lambda: lost, "the watch reads what it missed") == [yours.fence.revision]


@pytest.fixture
def own_etcd(tmp_path: Path, certificates: Path) -> Iterator[EtcdServer]:
    with run_etcd(tmp_path, certificates) as server:
        yield server


def test_a_paused_etcd_is_unknown_in_time_and_the_repetition_settles_it(own_etcd: EtcdServer, identity: str) -> None:
    store = open_store(own_etcd, attempt_timeout=0.2)
    mine = claim(store, identity)
    sighting = store.look(identity, T)
    own_etcd.pause()
    began = time.monotonic()
    outcome = store.begin_store(mine.fence, ABSENT, b"tower", 0.5).outcome(0.5)
    assert isinstance(outcome, Unknown)
    assert isinstance(store.claim(sighting, OWNER, 0.2), Unknown)
    with pytest.raises(StoreUnavailable, match="no answer in time"):
        store.look(identity, 0.2)
    assert time.monotonic() - began < 2.0
    assert f"127.0.0.1:{own_etcd.port}" in outcome.cause
    own_etcd.resume()
    # The claim that nobody answered may take effect now. Either it does, and fences us, or the write is repeated.
    settled = wait_until(
        lambda: not isinstance(o := store.begin_store(mine.fence, ABSENT, b"tower", T).outcome(T), Unknown) and o,
        "the repetition is answered",
    )
    now = store.look(identity, T)
    if isinstance(settled, Committed):
        assert now.record == b"tower"
    else:
        assert settled == Refused(Refusal.FENCED, mine.fence.revision, now.instance_revision)
        assert now.instance_revision > mine.fence.revision
    store.close()


def test_a_killed_etcd_is_unknown_and_what_was_committed_is_there_again(own_etcd: EtcdServer, identity: str) -> None:
    store = open_store(own_etcd, attempt_timeout=0.5)
    mine = claim(store, identity)
    one = store.begin_store(mine.fence, ABSENT, b"tower 1", T).outcome(T)
    assert isinstance(one, Committed)
    own_etcd.kill()
    outcome = store.begin_store(mine.fence, one.record_revision, b"tower 2", 0.5).outcome(0.5)
    assert isinstance(outcome, Unknown)
    assert "connection refused; check --etcd-endpoint and that etcd is running" in outcome.cause
    pending = store.begin_store(mine.fence, one.record_revision, b"tower 2", 2 * T)
    own_etcd.start()
    assert isinstance(pending.outcome(2 * T), Committed)
    assert store.look(identity, T).record == b"tower 2"
    store.close()


def test_a_legacy_validator_and_ours_fence_each_other(etcd_store: Open, identity: str) -> None:
    """It puts eight bytes of its clock and compares their value; it knows neither owner nor history."""
    store = etcd_store()
    mine = claim(store, identity)
    one = store.begin_store(mine.fence, ABSENT, b"ours", T).outcome(T)
    assert isinstance(one, Committed)
    lost: list[int] = []
    store.watch(mine.fence, lost.append)
    instance_key, tower_key = (f"{identity}/{name}".encode() for name in ("instance", "tower"))
    legacy = (1_700_000_000_000).to_bytes(8, "little")

    def legacy_txn(request: bytes, reads: tuple[int, int]) -> pb.TxnAnswer:
        return pb.decode_txn(store._links.current.call("txn", request, T), reads)

    load = legacy_txn(pb.txn(success=[pb.put_op(instance_key, legacy)]), (0, 0))
    assert wait_until(lambda: lost, "the watch sees the legacy claim") == [load.revision]
    fenced = Refused(Refusal.FENCED, mine.fence.revision, load.revision)
    assert store.begin_store(mine.fence, one.record_revision, b"ours 2", T).outcome(T) == fenced
    legacy_store = pb.txn([pb.compare_value(instance_key, legacy)], [pb.put_op(tower_key, b"theirs")])
    assert legacy_txn(legacy_store, (0, 0)).succeeded
    seen = store.look(identity, T)
    assert (seen.instance, seen.record, seen.owner) == (legacy, b"theirs", None)

    back = claim(store, identity)
    assert back.record == b"theirs"
    assert not legacy_txn(legacy_store, (0, 0)).succeeded
    assert isinstance(store.begin_store(back.fence, back.record_revision, b"ours 3", T).outcome(T), Committed)
