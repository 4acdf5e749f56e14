"""What the doctor says of etcd: members, releases, access, settings, disks, latency, certificates. Pure.

What it says of space is in `tower.validator.doctor_space`.
"""

from __future__ import annotations

import math

from tower.validator.doctor import Finding, Level, fail, ok, warn
from tower.validator.doctor_facts import ClockFacts, EtcdFacts, name_of
from tower.validator.doctor_space import check_space
from tower.validator.etcd_releases import GOOD, KEEPS_ROLES, judge, keeps_roles
from tower.validator.etcd_survey import MemberFacts

__all__ = ["check_etcd", "clocks_of"]

FSYNC_MAX_S, COMMIT_MAX_S = 0.010, 0.025  # what etcd's documentation asks of a disk, p99
READ_MAX_S, WRITE_MAX_S = 0.050, 0.100  # medians; a slot is 400 ms, and a vote waits for its write
LEADER_CHANGES_A_DAY = 10.0
BEHIND_MAX = 1000  # raft entries
MEMBERS_MAX = 7
CERTIFICATE_WARN_DAYS = 30
DAY_S = 86_400.0


def check_etcd(facts: EtcdFacts) -> list[Finding]:
    """All findings about one etcd cluster."""
    found = _members(facts)
    if facts.survey.answered:
        found += _versions(facts) + _access(facts) + _roles(facts) + _settings(facts) + check_space(facts)
        found += _disks(facts) + _leader_changes(facts) + _certificates(facts)
    return found + _latency(facts)


def clocks_of(facts: EtcdFacts) -> list[ClockFacts]:
    """The members' clocks."""
    told = ((scrape.endpoint, scrape.clock_offset) for scrape in facts.scrapes.values())
    return [ClockFacts(f"the clock of etcd {endpoint}", ahead) for endpoint, ahead in told if ahead is not None]


# -- members


def _members(facts: EtcdFacts) -> list[Finding]:
    survey, name = facts.survey, "etcd-members"
    if not survey.answered:
        reasons = "; ".join(f"etcd {member.endpoint}: {member.error}" for member in survey.members)
        return [fail(name, reasons, "no vote leaves without its tower stored", "systemctl status etcd  # on each member")]
    found = [_unreachable(facts, member) for member in survey.members if member.error is not None]
    if not survey.has_quorum:
        leader = "no leader" if survey.leader is None else f"leader {survey.leader}"
        up, all_of_them = len(survey.answered), len(survey.members)
        why = "etcd confirms no write without a leader that most members follow: voting stops"
        found.append(fail(name, f"{up} of {all_of_them} members answer, {leader}", why, facts.ctl("endpoint status --cluster")))
    voting = [member for member in survey.members if member.id and not member.is_learner]
    found += _count(facts, len(voting)) + _stragglers(facts)
    missing = [name_of(member) for member in survey.members if member.id and not member.configured]
    if missing:
        why = "when the members that are named are down, the validator does not know of the others"
        flags = [f"--etcd-endpoint {member.endpoint}" for member in survey.members if member.id and not member.configured]
        found.append(warn("etcd-endpoints", f"not named by --etcd-endpoint: {', '.join(missing)}", why, " ".join(flags)))
    return found


def _unreachable(facts: EtcdFacts, member: MemberFacts) -> Finding:
    name = "etcd-members" if member.id else "etcd-endpoints"
    line = "systemctl status etcd  # on that machine" if member.id else "--etcd-endpoint HOST:PORT of a member"
    why = "one more that fails, and etcd may not confirm writes any more" if member.id else "no member is known there"
    return warn(name, f"{name_of(member)}: {member.error}", why, line, facts.ctl("member list -w table"))


def _count(facts: EtcdFacts, voting: int) -> list[Finding]:
    name, more = "etcd-members", facts.ctl("member add NAME --peer-urls=https://HOST:2380 --learner")
    leader = f"leader {facts.survey.leader}"
    if voting == 1:
        why = "when it is down nothing is voted, and when its disk is lost the fence is lost; three survive the loss of one"
        return [warn(name, "a single member", why, more)]
    if voting % 2 == 0:
        why = f"{voting} survive the loss of as many as {voting - 1} do, and one more can fail"
        return [warn(name, f"{voting} voting members", why, more)]
    if voting > MEMBERS_MAX:
        why = "each write waits for most of them; 3 or 5 are enough"
        return [warn(name, f"{voting} voting members", why, facts.ctl("member remove ID"))]
    if facts.survey.has_quorum and len(facts.survey.answered) == len(facts.survey.members):
        return [ok(name, f"{voting} voting members answer, {leader}; {voting // 2} may fail")]
    return []


def _stragglers(facts: EtcdFacts) -> list[Finding]:
    answered = facts.survey.answered
    newest = max((member.raft_index or 0 for member in answered), default=0)
    found = []
    for member in answered:
        behind = newest - (member.raft_index or 0)
        if behind > BEHIND_MAX:
            why = "it does not help to confirm writes, and is no replacement yet for one that fails"
            line = facts.ctl("endpoint status -w table --cluster")
            found.append(warn("etcd-members", f"{name_of(member)} is {behind} entries behind", why, line))
        if member.is_learner:
            line = facts.ctl(f"member promote {member.id:x}")
            found.append(warn("etcd-members", f"{name_of(member)} is a learner", "it has no vote", line))
    return found


# -- releases


def _versions(facts: EtcdFacts) -> list[Finding]:
    name, found = "etcd-version", []
    by_version: dict[str, list[str]] = {}
    for member in facts.survey.answered:
        by_version.setdefault(member.version or "", []).append(name_of(member))
    for version, members in by_version.items():
        verdict = judge(version)
        what = f"{', '.join(members)}: {version or 'unknown'}"
        if verdict is None:
            found.append(ok(name, what))
            continue
        step = f"replace etcd by {GOOD} or newer of these lines, one member after the other"
        level = Level.FAIL if verdict.refused else Level.WARN
        lines = (step, facts.ctl("endpoint status -w table --cluster"))
        found.append(Finding(name, level, what, verdict.why, lines))
    if len(by_version) > 1:
        why = "fine during an upgrade, and only then: the cluster speaks as its oldest member"
        line = facts.ctl("endpoint status -w table --cluster")
        found.append(warn(name, f"members run {len(by_version)} different releases", why, line))
    return found


# -- who may do what, and how it was started


def _access(facts: EtcdFacts) -> list[Finding]:
    open_ones = [name_of(member) for member in facts.survey.answered if member.open_to_all]
    if not open_ones:
        return [ok("etcd-access", "clients without a certificate are refused")]
    why = "whoever reaches the port can take the fence, or change the tower"
    line = "etcd ... --client-cert-auth --trusted-ca-file=certs/etcd-ca.pem  # on each member, one after the other"
    return [fail("etcd-access", f"clients without a certificate are served by {', '.join(open_ones)}", why, line)]


def _roles(facts: EtcdFacts) -> list[Finding]:
    name = "etcd-roles"
    if facts.opened is not None:
        if len(facts.opened) < 2:
            return []
        why = "whoever has it can take the fence of each of them, and read and replace their towers"
        line = f"openos-validator access grant {facts.opened[0]} --user NAME  # for each; then: openos-validator access enable"
        return [warn(name, f"this certificate opens the keys of {len(facts.opened)} identities", why, line)]
    found = [ok(name, "this certificate opens only what its roles name")]
    leaky = [f"{name_of(member)}: {member.version}" for member in facts.survey.answered if not keeps_roles(member.version or "")]
    if leaky:
        why = "ways around a role are known in it: who has a role here may read keys that it does not name"
        line = f"replace etcd by {KEEPS_ROLES} or newer of these lines, one member after the other"
        found.append(warn(name, ", ".join(leaky), why, line))
    return found


def _settings(facts: EtcdFacts) -> list[Finding]:
    found = []
    for scrape in facts.scrapes.values():
        if scrape.flag("unsafe-no-fsync") not in (None, "false"):
            why = "what it confirms is lost when the machine loses power, and with it the fence"
            line = "start etcd without --unsafe-no-fsync, one member after the other"
            found.append(fail("etcd-settings", f"{scrape.endpoint}: runs with --unsafe-no-fsync", why, line))
        if scrape.flag("force-new-cluster") not in (None, "false"):
            why = "at each start it forgets the other members; it is for one start after a disaster"
            line = "start etcd without --force-new-cluster"
            found.append(fail("etcd-settings", f"{scrape.endpoint}: runs with --force-new-cluster", why, line))
    return found


# -- time


def _disks(facts: EtcdFacts) -> list[Finding]:
    name, found = "etcd-disk", []
    for scrape in facts.scrapes.values():
        if scrape.error is not None:
            why = "how long its disk takes is not known"
            line = f"curl --cacert ... --cert ... --key ... https://{scrape.endpoint}/metrics"
            found.append(warn(name, f"{scrape.endpoint}: {scrape.error}", why, line))
            continue
        parts = (("WAL fsync", scrape.fsync_p99, FSYNC_MAX_S), ("commit", scrape.commit_p99, COMMIT_MAX_S))
        told = [(what, value, limit) for what, value, limit in parts if value is not None]
        text = ", ".join(f"{what} p99 {value * 1000:.1f} ms" for what, value, _ in told)
        slow = [(what, limit) for what, value, limit in told if value > limit]
        if not slow:
            found.append(ok(name, f"{scrape.endpoint}: {text or 'too little was written to tell how long it takes'}"))
            continue
        wanted = " and ".join(f"{what} below {limit * 1000:.0f} ms" for what, limit in slow)
        why = f"etcd wants {wanted}; every vote waits for it"
        line = "iostat -x 1  # on that machine; give etcd an NVMe disk of its own, not the ledger's"
        found.append(warn(name, f"{scrape.endpoint}: {text}", why, line))
    return found


def _latency(facts: EtcdFacts) -> list[Finding]:
    found = []
    limits = (("read", facts.reads, READ_MAX_S), ("fenced write", facts.writes, WRITE_MAX_S))
    for what, measured, limit in limits:
        if measured is None:
            continue
        name = f"etcd-{what.replace('fenced ', '')}-latency"
        line = f"ping {measured.endpoint.rpartition(':')[0]}  # then: members closer to each other and to the validators"
        if measured.error is not None:
            why = "what the doctor cannot do, the validator cannot do either"
            found.append(fail(name, f"{measured.endpoint}: {what}: {measured.error}", why, facts.ctl("endpoint health")))
        if not measured.samples:
            continue
        text = f"{measured.endpoint}: {what} median {measured.at(0.5) * 1000:.1f} ms, p99 {measured.at(0.99) * 1000:.1f} ms"
        if measured.at(0.5) > limit:
            why = f"more than {limit * 1000:.0f} ms; a slot is 400 ms, and a vote waits for its write"
            found.append(warn(name, text, why, line))
        elif measured.error is None:
            found.append(ok(name, text))
    return found


def _leader_changes(facts: EtcdFacts) -> list[Finding]:
    found = []
    for scrape in facts.scrapes.values():
        days = max((scrape.uptime or 0) / DAY_S, 1.0)
        if scrape.leader_changes is not None and scrape.leader_changes > LEADER_CHANGES_A_DAY * days:
            why = "each costs a second or two without votes; mostly a disk or a network that is too slow for the heartbeat"
            line = "--heartbeat-interval 200 --election-timeout 2000  # flags of etcd, for members far from each other"
            text = f"{scrape.endpoint}: {scrape.leader_changes} changes of leader in {days:.0f} days or less"
            found.append(warn("etcd-leader", text, why, line))
    return found


def _certificates(facts: EtcdFacts) -> list[Finding]:
    found = []
    for scrape in facts.scrapes.values():
        if scrape.certificate_ends is None:
            continue
        left = (scrape.certificate_ends.timestamp() - facts.unix_time) / DAY_S
        until = f"{scrape.certificate_ends:%Y-%m-%d}, {math.floor(left)} days"
        text = f"etcd {scrape.endpoint}: its certificate is valid until {until}"
        if left >= CERTIFICATE_WARN_DAYS:
            found.append(ok("certificates", text))
        else:
            why = "after that no validator takes it for etcd, and voting stops"
            line = "openos-validator certs renew etcd  # or the member's name, where they are made; then copy the pair there"
            found.append(warn("certificates", text, why, line))
    return found

