"""The doctor's checks of etcd: each finding from facts alone."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tower.errors import WireError
from tower.validator.doctor import Finding, Level
from tower.validator.doctor_etcd import check_etcd, clocks_of
from tower.validator.doctor_facts import EtcdFacts
from tower.validator.doctor_space import days_left
from tower.validator.etcd_metrics import Scrape, parse_metrics, quantile
from tower.validator.etcd_probe import Latency
from tower.validator.etcd_releases import judge, parse_version
from tower.validator.etcd_survey import EtcdSurvey, MemberFacts, decode_status

NOW = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
OK, WARN, FAIL = Level.OK, Level.WARN, Level.FAIL
GIB, MIB = 1 << 30, 1 << 20
COMMAND = ("etcd", "--auto-compaction-retention", "2", "--auto-compaction-mode=revision", "--client-cert-auth")


def member(number: int, **changes: object) -> MemberFacts:
    facts = MemberFacts(
        f"etcd-{number}", number, f"10.0.0.{number}:2379", "3.6.14", 10 * MIB, 9 * MIB, number == 1, False, 5000, revision=900
    )
    return replace(facts, **changes)  # type: ignore[arg-type]


def scrape(number: int, **changes: object) -> Scrape:
    facts = Scrape(
        f"10.0.0.{number}:2379", None, NOW + datetime.timedelta(days=200), 0.1, COMMAND, 2 * GIB, 900, 890, 1e6, 400_000.0,
        0.002, 0.004, 1,
    )  # fmt: skip
    return replace(facts, **changes)  # type: ignore[arg-type]


def facts_of(*members: MemberFacts, scrapes: tuple[Scrape, ...] | None = None, **survey: object) -> EtcdFacts:
    members = members or (member(1), member(2), member(3))
    told = scrapes if scrapes is not None else tuple(scrape(each.id) for each in members if each.error is None)
    found = EtcdSurvey(members, quota=2 * GIB, leader="etcd-1", revision=900)
    reads = Latency("10.0.0.1:2379", (0.001, 0.002))
    by_endpoint = {each.endpoint: each for each in told}
    return EtcdFacts(replace(found, **survey), by_endpoint, reads, tls="--cacert=ca.pem", unix_time=NOW.timestamp())  # type: ignore[arg-type]


def wrong(facts: EtcdFacts) -> list[Finding]:
    """What is not ok; each says why and what to type."""
    found = [finding for finding in check_etcd(facts) if finding.level is not OK]
    assert all(finding.why and finding.type for finding in found)
    return found


def only(facts: EtcdFacts, check: str, level: Level, text: str) -> Finding:
    (finding,) = wrong(facts)
    assert (finding.check, finding.level) == (check, level), finding
    assert text in finding.found
    return finding


def test_a_cluster_in_order() -> None:
    found = check_etcd(facts_of())
    assert {finding.level for finding in found} == {OK}
    checks = {"etcd-members", "etcd-version", "etcd-access", "etcd-alarms", "etcd-quota", "etcd-compaction", "etcd-disk"}
    assert {finding.check for finding in found} == {*checks, "etcd-read-latency", "certificates"}
    assert found[0].found == "3 voting members answer, leader etcd-1; 1 may fail"


# -- releases

REFUSED = ["3.3.27", "3.4.7", "3.4.23", "3.4.41", "3.5.0", "3.5.1", "3.5.2", "3.5.27", "3.6.0", "3.6.8", "3.6.0-rc.5"]
TAKEN = ["3.5.28", "3.5.33", "3.6.9", "3.6.14", "3.7.0", "3.7.3", "4.0.0"]


@pytest.mark.parametrize("version", [*REFUSED, "3.6.9-rc.0"])
def test_releases_that_lose_data_or_serve_stale_reads_are_refused(version: str) -> None:
    verdict = judge(version)
    assert verdict is not None
    assert verdict.refused
    finding = only(facts_of(*(member(n, version=version) for n in (1, 2, 3))), "etcd-version", FAIL, version)
    assert "3.5.28, 3.6.9, 3.7.0 or newer" in finding.type[0]


@pytest.mark.parametrize("version", TAKEN)
def test_releases_that_are_taken(version: str) -> None:
    assert judge(version) is None
    assert wrong(facts_of(*(member(n, version=version) for n in (1, 2, 3)))) == []


@pytest.mark.parametrize(
    ("version", "why"), [("3.4.42", "unmaintained"), ("3.7.0-rc.0", "before a release"), ("master", "known")]
)
def test_releases_to_be_careful_with(version: str, why: str) -> None:
    finding = only(facts_of(*(member(n, version=version) for n in (1, 2, 3))), "etcd-version", WARN, version)
    assert why in finding.why


def test_what_is_wrong_with_3_5_1_is_said() -> None:
    verdict = judge("3.5.1")
    assert verdict is not None
    assert verdict.why.startswith("a member may lose data when it crashes under load, unnoticed")
    assert "stale" in verdict.why
    assert parse_version("v3.5.1") == ((3, 5, 1), False)


def test_two_releases() -> None:
    only(facts_of(member(1), member(2, version="3.7.1"), member(3)), "etcd-version", WARN, "2 different releases")


# -- members


def test_one_down() -> None:
    facts = facts_of(member(1), member(2), member(3, error="connection refused"))
    finding = only(facts, "etcd-members", WARN, "etcd-3 (10.0.0.3:2379): connection refused")
    assert "one more that fails" in finding.why


def test_no_quorum() -> None:
    down = {"error": "connection refused"}
    found = wrong(facts_of(member(1, is_leader=False), member(2, **down), member(3, **down), leader=None))
    assert [finding.level for finding in found] == [WARN, WARN, FAIL]
    assert found[2].found == "1 of 3 members answer, no leader"
    assert "endpoint status --cluster" in found[2].type[0]


def test_nobody_answers() -> None:
    members = tuple(MemberFacts("", 0, f"10.0.0.{n}:2379", error="connection refused") for n in (1, 2))
    facts = EtcdFacts(EtcdSurvey(members))
    only(facts, "etcd-members", FAIL, "etcd 10.0.0.1:2379: connection refused; etcd 10.0.0.2:2379: connection refused")


@pytest.mark.parametrize(("count", "text"), [(1, "a single member"), (2, "2 voting members"), (4, "4 voting"), (9, "9 voting")])
def test_how_many(count: int, text: str) -> None:
    only(facts_of(*(member(n) for n in range(1, count + 1))), "etcd-members", WARN, text)


@pytest.mark.parametrize("count", [3, 5, 7])
def test_good_numbers(count: int) -> None:
    assert wrong(facts_of(*(member(n) for n in range(1, count + 1)))) == []


def test_a_learner_has_no_vote() -> None:
    finding = only(facts_of(member(1), member(2), member(3), member(10, is_learner=True)), "etcd-members", WARN, "is a learner")
    assert finding.type[0].endswith("member promote a")


def test_one_that_is_behind() -> None:
    only(facts_of(member(1), member(2), member(3, raft_index=3000)), "etcd-members", WARN, "2000 entries behind")


def test_members_that_are_not_named() -> None:
    finding = only(facts_of(member(1), member(2, configured=False), member(3)), "etcd-endpoints", WARN, "etcd-2 (10.0.0.2:2379)")
    assert finding.type == ("--etcd-endpoint 10.0.0.2:2379",)


def test_an_endpoint_behind_which_nobody_is() -> None:
    stray = MemberFacts("", 0, "10.0.0.9:2379", error="host name not found")
    only(facts_of(member(1), member(2), member(3), stray), "etcd-endpoints", WARN, "10.0.0.9:2379: host name not found")


# -- access and settings


def test_open_to_all() -> None:
    only(facts_of(member(1), member(2, open_to_all=True), member(3)), "etcd-access", FAIL, "etcd-2 (10.0.0.2:2379)")


@pytest.mark.parametrize("flag", ["--unsafe-no-fsync", "--unsafe-no-fsync=true", "--force-new-cluster"])
def test_dangerous_flags(flag: str) -> None:
    scrapes = (scrape(1), scrape(2, command=(*COMMAND, flag)), scrape(3))
    only(facts_of(scrapes=scrapes), "etcd-settings", FAIL, flag.partition("=")[0])


def test_flags_of_a_command_line() -> None:
    told = scrape(1, command=("etcd", "-a", "1", "--b=2", "--c", "--d", "--unsafe-no-fsync=false"))
    assert [told.flag(name) for name in "abcde"] == ["1", "2", "true", "true", None]
    assert told.flag("unsafe-no-fsync") == "false"
    assert scrape(1, command=("etcd", "--a=1", "-a", "2")).flag("a") == "2"  # as Go takes it
    assert scrape(1, command=None).flag("a") is None


# -- space


def test_alarms() -> None:
    finding = only(facts_of(alarms=("NOSPACE on etcd-2",)), "etcd-alarms", FAIL, "alarm NOSPACE on etcd-2")
    every = "etcdctl --endpoints=10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379 --cacert=ca.pem"
    assert finding.type == (
        f"{every} compact 900",
        "etcdctl --endpoints=10.0.0.2:2379 --cacert=ca.pem defrag",
        "etcdctl --endpoints=10.0.0.3:2379 --cacert=ca.pem defrag",
        "etcdctl --endpoints=10.0.0.1:2379 --cacert=ca.pem defrag",  # the leader last
        f"{every} alarm disarm",
    )
    finding = only(facts_of(alarms=("CORRUPT",)), "etcd-alarms", FAIL, "CORRUPT")
    assert "different data" in finding.why
    only(facts_of(alarms=("NEW on etcd-1",)), "etcd-alarms", FAIL, "NEW on etcd-1")
    only(facts_of(complaints=("etcdserver: something",)), "etcd-alarms", WARN, "etcdserver: something")


@pytest.mark.parametrize(("share", "level"), [(0.55, WARN), (0.79, WARN), (0.85, FAIL), (1.0, FAIL)])
def test_quota_in_use(share: float, level: Level) -> None:
    size = int(share * 2 * GIB)
    finding = only(facts_of(member(1), member(2, db_size=size, db_in_use=size), member(3)), "etcd-quota", level, f"{share:.0%}")
    assert finding.type[-1].endswith("alarm disarm")


def test_quotas() -> None:
    only(facts_of(quota=9 * GIB, scrapes=tuple(scrape(n, quota=9 * GIB) for n in (1, 2, 3))), "etcd-quota", WARN, "9.00 GiB")
    unknown = facts_of(quota=None, scrapes=tuple(scrape(n, quota=None) for n in (1, 2, 3)))
    only(unknown, "etcd-quota", WARN, "its quota is not known")
    assert days_left(unknown) is None


def test_free_pages() -> None:
    facts = facts_of(member(1), member(2, db_size=900 * MIB, db_in_use=100 * MIB), member(3))
    finding = only(facts, "etcd-quota", WARN, "800.0 MiB of 900.0 MiB are free")
    assert finding.type == ("etcdctl --endpoints=10.0.0.2:2379 --cacert=ca.pem defrag",)


def compaction(**changes: object) -> EtcdFacts:
    return facts_of(scrapes=tuple(scrape(n, **changes) for n in (1, 2, 3)))


BARE = ("etcd", "--client-cert-auth")


def test_never_compacted() -> None:
    facts = compaction(command=BARE, revision=5000, compact_revision=-1)
    finding = only(facts, "etcd-compaction", FAIL, "nothing was ever compacted")
    assert "5000 revisions are kept; full in 2 days at 2.5 writes a second" in finding.found
    assert "--auto-compaction-retention 2" in finding.type[0]


def test_too_young_to_tell() -> None:
    for changes in ({"revision": 30}, {"revision": 5000, "uptime": 100.0, "puts": 10.0}):
        only(compaction(command=BARE, compact_revision=-1, **changes), "etcd-compaction", WARN, "no automatic compaction seen")


def test_a_long_history() -> None:
    only(compaction(command=BARE, revision=90_000, compact_revision=100), "etcd-compaction", FAIL, "89900 revisions are kept")
    only(compaction(revision=90_000, compact_revision=100), "etcd-compaction", FAIL, "89900 revisions are kept; full in 2 days")


def test_compaction_by_other_means() -> None:
    assert wrong(compaction(command=None)) == []  # an environment variable or a file, say: it was compacted
    assert wrong(compaction(command=BARE)) == []


def test_compaction_on_some_members_only() -> None:
    scrapes = (scrape(1), scrape(2, command=BARE), scrape(3))
    only(facts_of(scrapes=scrapes), "etcd-compaction", WARN, "no --auto-compaction-retention on 10.0.0.2:2379")


def test_days_until_full() -> None:
    assert days_left(facts_of()) == pytest.approx((2 * GIB - 9 * MIB) / (2.5 * 4120 * 86_400))  # one validator at least
    assert days_left(compaction(puts=1e8, uptime=1e6)) == pytest.approx((2 * GIB - 9 * MIB) / (100 * 4120 * 86_400))


def test_metrics_that_cannot_be_read() -> None:
    found = wrong(facts_of(scrapes=tuple(Scrape(f"10.0.0.{n}:2379", error="HTTP 404") for n in (1, 2, 3))))
    assert [(finding.check, finding.level) for finding in found] == [("etcd-compaction", WARN), *[("etcd-disk", WARN)] * 3]
    assert found[0].found == "; ".join(f"10.0.0.{n}:2379: HTTP 404" for n in (1, 2, 3))


# -- time


def test_slow_disks() -> None:
    facts = facts_of(scrapes=(scrape(1), scrape(2, fsync_p99=0.03), scrape(3)))
    finding = only(facts, "etcd-disk", WARN, "WAL fsync p99 30.0 ms")
    assert "WAL fsync below 10 ms" in finding.why
    assert "commit" not in finding.why
    only(facts_of(scrapes=(scrape(1), scrape(2, commit_p99=0.03), scrape(3))), "etcd-disk", WARN, "commit p99 30.0 ms")
    assert wrong(facts_of(scrapes=tuple(scrape(n, fsync_p99=None, commit_p99=None) for n in (1, 2, 3)))) == []


def test_latencies() -> None:
    where = "10.0.0.1:2379"
    slow = Latency(where, (0.2, 0.3))
    only(replace(facts_of(), reads=slow), "etcd-read-latency", WARN, "read median 300.0 ms")
    only(replace(facts_of(), writes=slow), "etcd-write-latency", WARN, "fenced write median 300.0 ms, p99 300.0 ms")
    assert wrong(replace(facts_of(), writes=Latency(where, (0.02,)))) == []
    only(replace(facts_of(), writes=Latency(where, (), "permission denied")), "etcd-write-latency", FAIL, "permission denied")
    assert replace(facts_of(), reads=None).reads is None


def test_changes_of_leader() -> None:
    scrapes = (scrape(1), scrape(2, leader_changes=80, uptime=86_400.0), scrape(3))
    only(facts_of(scrapes=scrapes), "etcd-leader", WARN, "80 changes of leader")


def test_certificates_of_members() -> None:
    soon = scrape(2, certificate_ends=NOW + datetime.timedelta(days=10, hours=1))
    finding = only(facts_of(scrapes=(scrape(1), soon, scrape(3))), "certificates", WARN, "valid until 2026-12-02, 10 days")
    assert "certs renew" in finding.type[0]


def test_clocks_of_members() -> None:
    clocks = clocks_of(facts_of(scrapes=(scrape(1), scrape(2, clock_offset=-9.0), scrape(3, clock_offset=None))))
    assert [(clock.source, clock.ahead) for clock in clocks] == [
        ("the clock of etcd 10.0.0.1:2379", 0.1),
        ("the clock of etcd 10.0.0.2:2379", -9.0),
    ]


# -- what members say, as bytes and text


def varints(*values: int) -> Iterator[int]:
    for value in values:
        while value > 0x7F:
            yield value & 0x7F | 0x80
            value >>= 7
        yield value


def test_a_status_of_3_6() -> None:
    header = bytes(varints(1 << 3, 77, 2 << 3, 5, 3 << 3, 901))
    text = b"memberID:5 alarm:NOSPACE "
    data = bytes([0x0A, len(header)]) + header + b"\x12\x063.6.14"
    data += bytes(varints(3 << 3, 4096, 4 << 3, 5, 5 << 3, 300, 6 << 3, 2))
    data += bytes([0x42, len(text)]) + text + bytes(varints(9 << 3, 2048, 12 << 3, 2 * GIB)) + b"\x5a\x033.6"
    status = decode_status(data)
    assert (status.cluster_id, status.member_id, status.revision, status.version) == (77, 5, 901, "3.6.14")
    assert (status.db_size, status.db_in_use, status.leader, status.raft_index, status.raft_term) == (4096, 2048, 5, 300, 2)
    assert (status.is_learner, status.quota, status.errors) == (False, 2 * GIB, ("memberID:5 alarm:NOSPACE ",))
    for cut in range(1, len(data)):
        try:
            decode_status(data[:cut])
        except WireError:
            continue


def test_metrics_text() -> None:
    found = parse_metrics('# HELP a b\na 1\nb{x="y z"} 2.5e+03\nnothing\nc x\n')
    assert found == {"a": 1.0, 'b{x="y z"}': 2500.0}
    assert quantile({}, "h", 0.5) is None
    assert quantile({'h_bucket{le="1"}': 0.0, 'h_bucket{le="+Inf"}': 0.0}, "h", 0.5) is None
    assert quantile({'h_bucket{le="1"}': 1.0, 'h_bucket{le="+Inf"}': 9.0}, "h", 0.99) == 1.0


def test_what_a_certificate_opens() -> None:
    opened = only(replace(facts_of(), opened=("me", "other")), "etcd-roles", WARN, "opens the keys of 2 identities")
    assert "access grant me --user NAME" in opened.type[0]
    assert wrong(replace(facts_of(), opened=("me",))) == []
    kept = replace(facts_of(member(1, version="3.6.14"), member(2, version="3.7.1"), member(3, version="3.8.0")), opened=None)
    assert [finding.check for finding in wrong(kept)] == ["etcd-version"]  # of several releases
    found = [finding for finding in check_etcd(kept) if finding.check == "etcd-roles"]
    assert [(finding.level, finding.found) for finding in found] == [(OK, "this certificate opens only what its roles name")]
    leaky = only(replace(facts_of(*(member(n, version="3.5.28") for n in (1, 2, 3))), opened=None), "etcd-roles", WARN, "3.5.28")
    assert "3.6.14, 3.7.1" in leaky.type[0]
