"""The doctor at real etcds: what is wrong is found, what it says to type mends it, and nothing is written unasked."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.etcd import guide_shaped_certificates, open_store, pems, run_etcd, run_etcd_cluster, wait_until
from tower.localnet.etcd_server import EtcdCluster, EtcdServer
from tower.store import Claimed, Owner
from tower.stores import _etcd_messages as pb
from tower.validator.cert_files import certificate_pem, load_certificates, load_key
from tower.validator.certs import Authority, make_certificates, sign
from tower.validator.cli import main
from tower.validator.config import EtcdConfig
from tower.validator.doctor_space import REVISION_BYTES
from tower.validator.etcd_probe import measure_writes
from tower.validator.etcd_survey import survey

T = 15.0
PROGRAMS = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # etcdctl is beside the interpreter


class Report:
    """What `doctor --output json` said."""

    def __init__(self, status: int, told: dict[str, Any]) -> None:
        self.status, self.level, self.etcd = status, told["level"], told["etcd"]
        self.findings: list[dict[str, Any]] = told["findings"]

    def of(self, check: str) -> list[dict[str, Any]]:
        return [finding for finding in self.findings if finding["check"] == check]

    def one(self, check: str) -> dict[str, Any]:
        (finding,) = self.of(check)
        return finding

    def levels(self, check: str) -> list[str]:
        return [finding["level"] for finding in self.of(check)]

    @property
    def failed(self) -> set[str]:
        """The checks that failed, but for that of the release, which depends on the etcd that the tests are given."""
        return {finding["check"] for finding in self.findings if finding["level"] == "fail"} - {"etcd-version"}


class Doctor:
    """Runs the command at an etcd."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def flags(self, where: EtcdServer | EtcdCluster, certs: Path | None = None) -> list[str]:
        folder = certs or where.certs_dir
        flags = ["--etcd-cacert-file", f"{folder}/etcd-ca.pem", "--etcd-cert-file", f"{folder}/validator.pem"]
        flags += ["--etcd-key-file", f"{folder}/validator-key.pem"]
        for host, port in where.endpoints if isinstance(where, EtcdCluster) else [where.endpoint]:
            flags += ["--etcd-endpoint", f"{host}:{port}"]
        return flags

    def __call__(self, where: EtcdServer | EtcdCluster, *more: str, certs: Path | None = None) -> Report:
        self._capsys.readouterr()
        status = main(["doctor", "--output", "json", "--timeout", "5", *self.flags(where, certs), *more])
        return Report(status, json.loads(self._capsys.readouterr().out))


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Doctor:
    return Doctor(capsys)


def test_the_etcd_of_the_demo_is_refused_and_says_why(etcd_server: EtcdServer, doctor: Doctor) -> None:
    report = doctor(etcd_server)
    version = report.one("etcd-version")
    assert report.failed == set()
    assert (report.status, report.level) == ((1, "fail") if version["level"] == "fail" else (0, "warn"))
    if not version["found"].endswith(": 3.5.1"):
        pytest.skip(f"TOWER_ETCD is another etcd than that of the demo: {version['found']}")
    assert version["level"] == "fail"
    assert version["why"].startswith("a member may lose data when it crashes under load")
    assert "3.5.28" in version["type"][0]
    assert report.one("etcd-members")["found"] == "a single member"
    assert report.one("etcd-access")["level"] == "ok"
    assert report.one("etcd-quota")["level"] == "ok"
    assert "of 2.00 GiB" in report.one("etcd-quota")["found"]
    assert report.one("etcd-compaction")["level"] == "ok"  # the guide's flags are seen
    assert report.one("etcd-read-latency")["found"].startswith(f"127.0.0.1:{etcd_server.port}: read median ")
    assert report.of("etcd-write-latency") == []
    assert report.levels("clock") == ["ok"]
    assert {finding["level"] for finding in report.of("certificates") if "secret key" not in finding["found"]} == {"ok"}
    assert [member["version"] for member in report.etcd["members"]] == ["3.5.1"]


def state(server: EtcdServer) -> tuple[int | None, int | None]:
    """Revision of the store and entries of the log: what any write moves."""
    found = survey(EtcdConfig((server.endpoint,), **pems(server.certs_dir)), T)
    return found.revision, found.members[0].raft_index


@pytest.fixture
def own_etcd(tmp_path: Path, certificates: Path) -> Iterator[EtcdServer]:
    with run_etcd(tmp_path, certificates) as server:
        yield server


def test_unasked_it_writes_nothing(own_etcd: EtcdServer, doctor: Doctor) -> None:
    def settled() -> bool:
        return state(own_etcd) == state(own_etcd)

    wait_until(settled, "a started etcd writes no more on its own")
    before = state(own_etcd)
    doctor(own_etcd)
    assert state(own_etcd) == before


def keys(server: EtcdServer) -> list[bytes]:
    store = open_store(server)
    try:
        everything = store._links.current.call("range", pb.range_request(b"\0", b"\0", keys_only=True), T)
        return sorted(entry.key for entry in pb.decode_range(everything).kvs)
    finally:
        store.close()


def test_measured_writes_leave_nothing(own_etcd: EtcdServer, doctor: Doctor, identity: str) -> None:
    store = open_store(own_etcd)
    assert isinstance(store.claim(store.look(identity, T), Owner("primary", "start", at_ms=1), T), Claimed)
    sighting, before = store.look(identity, T), keys(own_etcd)
    report = doctor(own_etcd, "--measure-writes")
    assert "fenced write median" in report.one("etcd-write-latency")["found"]
    assert (state(own_etcd)[0] or 0) > 50
    assert keys(own_etcd) == before
    assert store.look(identity, T) == sighting
    store.close()


def test_three_members_one_down_two_down(tmp_path: Path, doctor: Doctor) -> None:
    certs = tmp_path / "certs"
    make_certificates(certs, members={name: [] for name in ("etcd-1", "etcd-2", "etcd-3")})
    (certs / "etcd-ca-key.pem").rename(tmp_path / "etcd-ca-key.pem")
    with run_etcd_cluster(tmp_path, certs) as cluster:
        report = doctor(cluster)
        assert report.failed == set()
        assert report.one("etcd-members")["found"].startswith("3 voting members answer, leader etcd-")
        assert report.levels("certificates") == ["ok"] * 5  # authority, our own, three members
        assert report.levels("clock") == ["ok"] * 3

        cluster.members[2].kill()
        report = doctor(cluster)
        (down,) = (finding for finding in report.of("etcd-members") if "connection refused" in finding["found"])
        assert down["level"] == "warn"
        assert down["found"].startswith("etcd-3 (127.0.0.1:")
        assert "etcd-members" not in report.failed

        cluster.members[1].kill()
        config = EtcdConfig(tuple(cluster.endpoints), **pems(certs))
        wait_until(lambda: survey(config, T).leader is None, "the last member finds that it has no leader")
        report = doctor(cluster)
        assert "etcd-members" in report.failed
        assert [finding["found"] for finding in report.of("etcd-members") if finding["level"] == "fail"] == [
            "1 of 3 members answer, no leader"
        ]
        assert "etcd-read-latency" in report.failed  # which nothing answers now

        cluster.members[0].kill()
        report = doctor(cluster)
        assert (report.status, report.failed) == (1, {"etcd-members"})


def test_a_silent_etcd_costs_no_more_than_the_timeout(own_etcd: EtcdServer, doctor: Doctor) -> None:
    own_etcd.pause()
    report = doctor(own_etcd, "--timeout", "1")
    assert report.one("etcd-members")["level"] == "fail"


def test_a_full_etcd_and_what_to_type(tmp_path: Path, certificates: Path, doctor: Doctor) -> None:
    flags = [f"--quota-backend-bytes={4 << 20}", "--auto-compaction-retention=0"]
    with run_etcd(tmp_path, certificates, flags=flags) as server:
        config = EtcdConfig((server.endpoint,), **pems(certificates))
        wait_until(lambda: measure_writes(config, server.endpoint, T, 200).error, "its quota is used up", 60)
        report = doctor(server)
        assert {"etcd-alarms", "etcd-quota"} == report.failed
        alarm = report.one("etcd-alarms")
        assert alarm["found"] == "alarm NOSPACE on default"
        assert "nothing is voted" in alarm["why"]
        assert report.one("etcd-compaction")["level"] == "warn"
        assert "revisions are kept; full in " in report.one("etcd-compaction")["found"]

        for line in alarm["type"]:
            environment = {**os.environ, "PATH": PROGRAMS, "ETCDCTL_API": "3"}
            typed = subprocess.run(line, shell=True, env=environment, capture_output=True, text=True, timeout=60, check=False)
            assert typed.returncode == 0, line + typed.stderr
        report = doctor(server)
        assert report.failed == set()
        assert measure_writes(config, server.endpoint, T, 3).error is None


def test_an_etcd_that_takes_everybody_and_one_that_does_not_flush(tmp_path: Path, certificates: Path, doctor: Doctor) -> None:
    flags = ["--client-cert-auth=false", "--trusted-ca-file=", "--unsafe-no-fsync"]
    with run_etcd(tmp_path, certificates, flags=flags) as server:
        report = doctor(server)
        assert {"etcd-access", "etcd-settings"} <= report.failed
        assert "can take the fence" in report.one("etcd-access")["why"]
        assert report.one("etcd-settings")["found"].endswith("runs with --unsafe-no-fsync")


def test_with_the_guides_certificates(tmp_path: Path, doctor: Doctor) -> None:
    certs = guide_shaped_certificates(tmp_path / "certs")
    with run_etcd(tmp_path, certs) as server:
        report = doctor(server)
        assert report.failed == {"keys"}  # they were made readable by all
        assert report.one("keys")["type"] == [f"chmod 600 {certs / 'validator-key.pem'}"]
        assert "of 2.00 GiB" in report.one("etcd-quota")["found"]  # from the metrics, which need a TLS of their own
        assert report.one("etcd-access")["level"] == "ok"
        assert [finding for finding in report.of("certificates") if finding["found"].startswith("etcd 127.0.0.1:")]
        report = doctor(server, "--etcd-domain-name", "etcd.example")
        assert "its certificate is not for 'etcd.example'; check --etcd-domain-name" in report.one("etcd-members")["found"]


def copy_of(certs: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in certs.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
        (folder / path.name).chmod(path.stat().st_mode & 0o777)
    return folder


def test_an_expired_certificate(etcd_server: EtcdServer, tmp_path: Path, doctor: Doctor) -> None:
    certs = copy_of(etcd_server.certs_dir, tmp_path / "certs")
    authority, old = Authority.load(certs), load_certificates(certs / "validator.pem")[0]
    ended = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=1)
    key = load_key(certs / "validator-key.pem")
    kept = [(extension.value, extension.critical) for extension in old.extensions]
    expired = sign(old.subject, old.issuer, key, authority.key, ended, kept)
    (certs / "validator.pem").write_bytes(certificate_pem(expired))
    report = doctor(etcd_server, certs=certs)
    assert {"certificates", "etcd-members"} <= report.failed
    (finding,) = (each for each in report.of("certificates") if each["level"] == "fail")
    assert "validator.pem: expired on " in finding["found"]
    assert finding["type"][0] == f"openos-validator certs renew {certs / 'validator.pem'}"
    assert "it refused our certificate" in report.one("etcd-members")["found"]

    assert main(finding["type"][0].split()[1:]) == 0  # and that mends it
    assert doctor(etcd_server, certs=certs).failed == set()


@pytest.mark.parametrize(
    ("mode", "level"), [(0o644, "fail"), (0o640, "warn"), (0o600, "ok")], ids=["others", "group", "owner"]
)
def test_who_can_read_the_key(etcd_server: EtcdServer, tmp_path: Path, doctor: Doctor, mode: int, level: str) -> None:
    certs = copy_of(etcd_server.certs_dir, tmp_path / "certs")
    (certs / "validator-key.pem").chmod(mode)
    report = doctor(etcd_server, certs=certs)
    assert report.one("keys")["level"] == level


def test_of_another_authority(etcd_server: EtcdServer, tmp_path: Path, doctor: Doctor) -> None:
    make_certificates(tmp_path / "certs")
    report = doctor(etcd_server, certs=tmp_path / "certs")
    assert report.failed == {"etcd-members"}
    assert "check --etcd-cacert-file" in report.one("etcd-members")["found"]


def test_a_key_of_another_certificate(etcd_server: EtcdServer, tmp_path: Path, doctor: Doctor) -> None:
    certs = copy_of(etcd_server.certs_dir, tmp_path / "certs")
    (certs / "validator-key.pem").write_bytes((certs / "etcd-key.pem").read_bytes())
    report = doctor(etcd_server, certs=certs)
    assert {"certificates", "etcd-members"} <= report.failed
    assert "do not belong together" in report.one("etcd-members")["found"]


def test_strict_and_the_table(tmp_path: Path, doctor: Doctor, capsys: pytest.CaptureFixture[str]) -> None:
    certs = guide_shaped_certificates(tmp_path / "certs")  # whose keys all can read
    with run_etcd(tmp_path, certs) as server:
        assert main(["doctor", *doctor.flags(server)]) == 1
        told = capsys.readouterr()
        assert "What to type:" in told.out
        for text in ("etcd-members", "a single member", "etcd-version"):
            assert text in told.out
        lines = [line.partition("  ")[2].strip() for line in told.out.splitlines()]
        assert f"chmod 600 {certs}/validator-key.pem" in lines  # in one piece, to be copied
        tls = f"--cacert={certs}/etcd-ca.pem --cert={certs}/validator.pem --key={certs}/validator-key.pem"
        assert f'TLS="{tls}"' in told.out
        add = f"etcdctl --endpoints=127.0.0.1:{server.port} $TLS member add NAME --peer-urls=https://HOST:2380 --learner"
        assert add in lines
        assert told.err.startswith("Error: ")
        assert "findings need work: keys" in told.err
        for key in certs.glob("*-key.pem"):
            key.chmod(0o600)
        main(["doctor", *doctor.flags(server)])
        assert "keys" not in capsys.readouterr().err
        assert main(["doctor", "--strict", *doctor.flags(server)]) == 1
        assert "etcd-members" in capsys.readouterr().err


def test_a_stored_tower_takes_a_page_of_the_database(tmp_path: Path, certificates: Path) -> None:
    """What the forecast of the quota counts with."""
    with run_etcd(tmp_path, certificates, flags=["--auto-compaction-retention=0"]) as server:
        config = EtcdConfig((server.endpoint,), **pems(certificates))
        count = 1000
        before = survey(config, T).members[0].db_size or 0
        assert len(measure_writes(config, server.endpoint, 60, count).samples) == count

        def flushed() -> int:
            grown = (survey(config, T).members[0].db_size or 0) - before
            return grown if grown > 0.9 * count * REVISION_BYTES else 0

        grown = wait_until(flushed, "etcd has written them to its database")
        assert grown == pytest.approx(count * REVISION_BYTES, rel=0.1)
