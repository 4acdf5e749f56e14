"""Three members with certificates of our command: mutual TLS to clients and to each other, and renewal while all runs."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.etcd import Proxy, open_store, pems, run_etcd_cluster, wait_until
from tower.errors import StoreError
from tower.localnet.etcd_server import EtcdCluster, EtcdServer
from tower.store import Claimed, Committed, Owner
from tower.stores.etcd import EtcdStore
from tower.validator.cert_files import load_certificates
from tower.validator.cli import main
from tower.validator.config import EtcdConfig
from tower.validator.etcd_survey import EtcdSurvey, survey

T = 15.0
NAMES = ["etcd-1", "etcd-2", "etcd-3"]
MAKE = "certs make --member etcd-1=10.0.0.1 --member etcd-2=10.0.0.2 --member etcd-3=10.0.0.3 --validator validator"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[EtcdCluster]:
    certs = tmp_path / "certs"
    assert main([*MAKE.split(), "--validator", "spare", "--dir", str(certs)]) == 0
    with run_etcd_cluster(tmp_path, certs) as cluster:
        yield cluster


def ask(cluster: EtcdCluster, *members: EtcdServer) -> EtcdSurvey:
    endpoints = [member.endpoint for member in members or cluster.members]
    return survey(EtcdConfig(tuple(endpoints), **pems(cluster.certs_dir)), T)


def claim(store: EtcdStore, identity: str) -> Claimed:
    claimed = store.claim(store.look(identity, T), Owner("primary", "start", at_ms=1), T)
    assert isinstance(claimed, Claimed), claimed
    return claimed


def serial_served(member: EtcdServer) -> int:
    """The serial number of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=str(member.certs_dir / "etcd-ca.pem"))
    context.load_cert_chain(member.certs_dir / "validator.pem", member.certs_dir / "validator-key.pem")
    raw = socket.create_connection(member.endpoint, timeout=T)
    with context.wrap_socket(raw, server_hostname="localhost") as tls:
        shown = tls.getpeercert()
    assert shown is not None
    return int(str(shown["serialNumber"]), 16)


def serial_of(path: Path) -> int:
    return load_certificates(path)[0].serial_number


def test_members_prove_themselves_to_each_other_and_a_dead_one_is_survived(cluster: EtcdCluster, identity: str) -> None:
    for member in cluster.members:
        assert serial_served(member) == serial_of(cluster.certs_dir / f"{member.name}.pem")
        assert "--peer-client-cert-auth" in member.command
        assert f"{member.name}=https://127.0.0.1:" in " ".join(member.command)
    found = ask(cluster)
    assert [member.name for member in found.members] == NAMES
    assert [member.is_leader for member in found.members].count(True) == 1
    assert found.has_quorum
    assert {(member.error, member.open_to_all) for member in found.members} == {(None, False)}
    assert len({member.version for member in found.members}) == 1

    store = open_store(cluster)
    mine = claim(store, identity)
    leader = next(member for member in cluster.members if member.name == found.leader)
    leader.kill()
    stored = store.begin_store(mine.fence, 0, b"tower", T).outcome(T)
    assert isinstance(stored, Committed)
    left = ask(cluster)
    assert left.has_quorum
    assert [member.name for member in left.members if member.error] == [leader.name]
    leader.start()
    assert ask(cluster).leader is not None
    store.close()


def test_one_endpoint_is_enough_to_find_all(cluster: EtcdCluster) -> None:
    found = ask(cluster, cluster.members[1])
    assert [(member.name, member.configured, member.error) for member in found.members] == [
        ("etcd-1", False, None),
        ("etcd-2", True, None),
        ("etcd-3", False, None),
    ]


def test_without_quorum_members_still_tell_how_they_are(cluster: EtcdCluster) -> None:
    for member in cluster.members[1:]:
        member.kill()

    def leaderless() -> EtcdSurvey | None:
        found = ask(cluster)
        return found if found.leader is None else None

    found = wait_until(leaderless, "the last member finds that it has no leader")
    assert not found.has_quorum
    assert [member.error is None for member in found.members] == [True, False, False]
    assert [member.name for member in found.members] == NAMES  # known although they say nothing
    assert "etcdserver: no leader" in found.complaints


def test_a_silent_member_is_no_dead_end(cluster: EtcdCluster) -> None:
    cluster.members[2].pause()
    found = survey(EtcdConfig(tuple(cluster.endpoints), **pems(cluster.certs_dir)), 2.0)
    assert [member.error is None for member in found.members] == [True, True, False]
    assert found.members[2].name == "etcd-3"


def test_renewal_while_the_cluster_runs(cluster: EtcdCluster, identity: str, capsys: pytest.CaptureFixture[str]) -> None:
    certs, first = cluster.certs_dir, cluster.members[0]
    with Proxy(first.endpoint) as proxy, contextlib.ExitStack() as opened:
        store = open_store(cluster, endpoints=[proxy.endpoint], attempt_timeout=5.0)
        opened.callback(store.close)
        mine = claim(store, identity)
        one = store.begin_store(mine.fence, 0, b"tower 1", T).outcome(T)
        assert isinstance(one, Committed)
        old = serial_served(first)
        before = pems(certs)

        assert main(["certs", "renew", "--dir", str(certs), *NAMES, "validator", "etcd-ca"]) == 0
        assert capsys.readouterr().out.count("valid until") == 5

        # etcd reads its files for each new connection; the one that is open goes on
        assert serial_served(first) == serial_of(certs / "etcd-1.pem") != old
        two = store.begin_store(mine.fence, one.record_revision, b"tower 2", T).outcome(T)
        assert isinstance(two, Committed)

        # the store comes back with the certificate and the authority that it was started with
        proxy.cut()
        three = store.begin_store(mine.fence, two.record_revision, b"tower 3", T).outcome(T)
        assert isinstance(three, Committed)
        after = pems(certs)
        assert all(before[name] != after[name] for name in ("ca_cert", "cert", "key"))
        fresh = open_store(cluster)
        opened.callback(fresh.close)
        assert fresh.look(identity, T).record == b"tower 3"

    # members take up the new ones between each other too: each restarts and joins again
    for member in cluster.members:
        member.terminate()
        member.start()
    found = ask(cluster)
    assert found.has_quorum
    assert all(member.error is None for member in found.members)


def test_a_client_needs_a_certificate_by_the_authority(cluster: EtcdCluster, tmp_path: Path, identity: str) -> None:
    spare = {"cert": (cluster.certs_dir / "spare.pem").read_bytes(), "key": (cluster.certs_dir / "spare-key.pem").read_bytes()}
    store = open_store(cluster, **spare)
    claim(store, identity)
    store.close()
    assert main(["certs", "make", "--dir", str(tmp_path / "others")]) == 0
    foreign = pems(tmp_path / "others") | {"ca_cert": pems(cluster.certs_dir)["ca_cert"]}
    found = survey(EtcdConfig(tuple(cluster.endpoints), **foreign), T)
    told = "it refused our certificate; check --etcd-cert-file and --etcd-key-file"
    assert [member.error for member in found.members] == [told] * 3
    store = open_store(cluster, **foreign)
    with pytest.raises(StoreError):
        store.look(identity, 2.0)
    store.close()
