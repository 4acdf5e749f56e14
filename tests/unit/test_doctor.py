"""The doctor's checks of this machine, its cluster and its account: what is said of which facts, and what to type."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tower.validator import doctor
from tower.validator.certs import make_certificates
from tower.validator.certs_show import CertificateFacts, read_pair
from tower.validator.doctor import Finding, Level, describe, fail, ok, warn, worst
from tower.validator.doctor_facts import (
    CLUSTER_CLOCK_WARN_S,
    CertificateFiles,
    ClockFacts,
    FolderFacts,
    KeyFile,
    RpcFacts,
    TowerFacts,
    VoteFacts,
)

NOW = datetime.datetime.now(datetime.UTC)
OK, WARN, FAIL = Level.OK, Level.WARN, Level.FAIL


def one(findings: list[Finding]) -> Finding:
    (finding,) = findings
    if finding.level is not Level.OK:  # every one that is not ok says why, and what to type
        assert finding.why
        assert finding.type
    return finding


def test_the_worst_counts_and_json_has_it_all() -> None:
    findings = [ok("a", "fine"), warn("b", "so so", "why", "one", "two"), ok("c", "fine")]
    worse = [*findings, fail("d", "bad", "why", "x")]
    assert [worst([]), worst(findings[:1]), worst(findings), worst(worse)] == [OK, OK, WARN, FAIL]
    told = json.loads(json.dumps(describe(findings)))
    assert told["level"] == "warn"
    assert told["findings"][1] == {"check": "b", "level": "warn", "found": "so so", "why": "why", "type": ["one", "two"]}


def test_flags() -> None:
    assert one(doctor.check_flags(None)).level is OK
    finding = one(doctor.check_flags("--identity: no.json: no such keypair file"))
    assert (finding.level, finding.found) == (FAIL, "--identity: no.json: no such keypair file")


@pytest.mark.parametrize(
    ("mode", "foreign", "level"),
    [(0o600, False, OK), (0o400, False, OK), (0o640, False, WARN), (0o660, False, WARN), (0o604, False, FAIL),
     (0o644, False, FAIL), (0o777, False, FAIL), (0o600, True, WARN)],
)  # fmt: skip
def test_modes_of_keys(mode: int, foreign: bool, level: Level) -> None:
    finding = one(doctor.check_keys([KeyFile("--identity", "id.json", mode, foreign)]))
    assert finding.level is level
    if level is not OK:
        assert finding.type == ("chown $(id -u):$(id -g) id.json" if foreign else "chmod 600 id.json",)


def test_keys_that_cannot_be_read() -> None:
    finding = one(doctor.check_keys([KeyFile("--authorized-voter", "v.json", error="no such keypair file")]))
    assert finding.level is FAIL
    assert finding.found == "--authorized-voter: v.json: no such keypair file"


@pytest.mark.parametrize(("writable", "free", "level"), [(True, 1 << 30, OK), (True, 1 << 20, WARN), (False, 1 << 30, FAIL)])
def test_folders(writable: bool, free: int, level: Level) -> None:
    finding = one(doctor.check_folders([FolderFacts("--ledger", "/ledger", writable, free)]))
    assert finding.level is level
    assert "--ledger: /ledger" in finding.found


@pytest.fixture
def certificate(tmp_path: Path) -> CertificateFacts:
    make_certificates(tmp_path, days=100)
    return read_pair(tmp_path / "validator.pem", None, NOW, 30)[0]


def at(certificate: CertificateFacts, days: float) -> CertificateFacts:
    return read_pair(Path(certificate.file), None, NOW + datetime.timedelta(days=days), 30)[0]


@pytest.mark.parametrize(("days", "level", "text"), [(0.5, OK, "99 days"), (80, WARN, "expires on"), (101, FAIL, "expired on")])
def test_certificates_in_time(certificate: CertificateFacts, days: float, level: Level, text: str) -> None:
    finding = one(doctor.check_certificates(CertificateFiles((at(certificate, days),))))
    assert finding.level is level
    assert text in finding.found
    if level is not OK:
        assert finding.type[0] == f"openos-validator certs renew {certificate.file}"
        assert "restart" in finding.type[1]


def test_a_certificate_from_tomorrow(certificate: CertificateFacts) -> None:
    finding = one(doctor.check_certificates(CertificateFiles((at(certificate, -1),))))
    assert (finding.level, finding.type) == (FAIL, ("timedatectl set-ntp true",))
    assert "not valid before" in finding.found


def test_a_key_of_another_certificate_and_none(certificate: CertificateFacts) -> None:
    key = Path(certificate.file).with_name("validator-key.pem")
    for content in (key.with_name("etcd-key.pem").read_text(), "no"):
        key.write_text(content)
        assert one(doctor.check_certificates(CertificateFiles((at(certificate, 0),)))).level is FAIL


def test_a_key_that_others_read_is_said_once_of_its_file(certificate: CertificateFacts) -> None:
    Path(certificate.file).with_name("validator-key.pem").chmod(0o644)
    assert one(doctor.check_certificates(CertificateFiles((at(certificate, 0),)))).level is OK


def test_certificates_that_are_not_there_and_the_authoritys_key() -> None:
    finding = one(doctor.check_certificates(CertificateFiles(errors=("--etcd-cert-file: not given",))))
    assert (finding.level, finding.found) == (FAIL, "--etcd-cert-file: not given")
    finding = one(doctor.check_certificates(CertificateFiles(authority_key="certs/etcd-ca-key.pem")))
    assert finding.level is WARN
    assert "certs/etcd-ca-key.pem" in finding.type[0]


@pytest.mark.parametrize(
    ("ahead", "limit", "level", "text"),
    [(0.0, 2.0, OK, "agrees within 2 s"), (-1.9, 2.0, OK, "agrees"), (3.0, 2.0, WARN, "3.0 s ahead of"),
     (-90.0, CLUSTER_CLOCK_WARN_S, WARN, "90.0 s behind"), (20.0, CLUSTER_CLOCK_WARN_S, OK, "agrees within 30 s")],
)  # fmt: skip
def test_clocks(ahead: float, limit: float, level: Level, text: str) -> None:
    finding = one(doctor.check_clocks([ClockFacts("the cluster's clock", ahead, limit)]))
    assert finding.level is level
    assert text in finding.found


def test_the_rpc() -> None:
    good = RpcFacts("http://127.0.0.1:8899", None, True, "4.0.1", 7)
    finding = one(doctor.check_rpc(good))
    assert finding.level is OK
    assert "version 4.0.1, slot 7" in finding.found
    assert one(doctor.check_rpc(replace(good, healthy=False))).level is WARN
    finding = one(doctor.check_rpc(RpcFacts("http://127.0.0.1:8899", error="connection refused")))
    assert (finding.level, finding.found) == (FAIL, "connection refused")
    assert finding.type[0].startswith("curl -s http://127.0.0.1:8899 ")


VOTE = VoteFacts("Vote", None, True, node="Node", epoch=5, voters=((3, "Voter"),), balance=10**10)


def vote(
    facts: VoteFacts, identity: str = "Node", loaded: tuple[str, ...] = ("Voter",), spare: bool = False
) -> dict[str, Finding]:
    found = doctor.check_vote_account(facts, identity, loaded, spare=spare)
    for finding in found:
        one([finding])
    return {finding.check: finding for finding in found}


def test_a_good_vote_account() -> None:
    found = vote(VOTE)
    assert list(found) == ["vote-account", "authorized-voter", "balance"]
    assert {finding.level for finding in found.values()} == {OK}
    assert "its node is this identity" in found["vote-account"].found


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"error": "no answer"}, "no answer"), ({"found": False}, "--vote-account: Vote does not exist"),
     ({"owner": "1111"}, "is owned by 1111"), ({"unreadable": "at byte 4: short"}, "cannot be read: at byte 4: short"),
     ({"voters": ()}, "is not initialized")],
)  # fmt: skip
def test_what_is_no_vote_account(changes: dict[str, object], text: str) -> None:
    found = vote(replace(VOTE, **changes))  # type: ignore[arg-type]
    assert list(found) == ["vote-account"]
    assert found["vote-account"].level is FAIL
    assert text in found["vote-account"].found


def test_the_node_of_the_account() -> None:
    finding = vote(VOTE, "Spare")["vote-account"]
    assert (finding.level, finding.type) == (FAIL, ("--no-check-vote-account",))
    assert "its node is Node, not Spare" in finding.found
    finding = vote(VOTE, "Spare", spare=True)["vote-account"]
    assert finding.level is OK
    assert "stands by" in finding.found


def test_who_may_vote() -> None:
    found = vote(VOTE, loaded=("Node",))["authorized-voter"]
    assert (found.level, found.type) == (FAIL, ("--authorized-voter FILE  # the keypair of Voter",))
    assert found.found == "the authorized voter of epoch 5 is Voter"
    later = doctor.check_vote_account(replace(VOTE, voters=((3, "Voter"), (6, "Next"))), "Node", ["Voter"], spare=False)
    assert [finding.level for finding in later if finding.check == "authorized-voter"] == [OK, WARN]
    assert next(each for each in later if each.level is WARN).found == "from epoch 6 on the authorized voter is Next"
    assert vote(replace(VOTE, voters=((6, "Next"),)))["authorized-voter"].level is FAIL
    assert replace(VOTE, voters=((1, "Old"), (5, "Voter"), (6, "Next"))).voter() == "Voter"


@pytest.mark.parametrize(("balance", "level"), [(0, FAIL), (1, FAIL), (10**9, WARN), (4 * 10**9, OK)])
def test_fees(balance: int, level: Level) -> None:
    finding = vote(replace(VOTE, balance=balance))["balance"]
    assert finding.level is level
    if level is WARN:
        assert "fees of 0.9 days" in finding.found


TOWER = TowerFacts("Node", "etcd", None, None, 42, True, "primary (start)", True)


@pytest.mark.parametrize(
    ("facts", "level", "text"),
    [
        (TOWER, OK, "etcd: the tower of Node: last vote 42, held by primary (start)"),
        (replace(TOWER, error="etcd 127.0.0.1:1: connection refused"), FAIL, "connection refused"),
        (replace(TOWER, unusable="at byte 9: the data ends early"), FAIL, "cannot be used: at byte 9"),
        (replace(TOWER, stored=False), WARN, "is not stored, and the account has voted"),
        (replace(TOWER, stored=False, has_voted=False), OK, "is not stored yet, and the account has not voted"),
        (replace(TOWER, stored=False, has_voted=None), OK, "etcd: the tower of Node is not stored"),
    ],
)
def test_the_tower(facts: TowerFacts, level: Level, text: str) -> None:
    finding = one(doctor.check_tower(facts))
    assert finding.level is level
    assert text in finding.found
