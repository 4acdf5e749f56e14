"""What the doctor says of space in etcd: alarms, quota, and whether old revisions are removed. Pure.

Every stored tower is a revision. Unless they are compacted the database grows until its quota, and etcd then refuses every
write until an operator makes room.
"""

from __future__ import annotations

import math

from tower.validator.doctor import Finding, Level, fail, ok, warn
from tower.validator.doctor_facts import EtcdFacts, name_of

__all__ = ["check_space", "days_left"]

QUOTA_MAX = 8 << 30  # what etcd's documentation advises; the default is 2 GiB
QUOTA_WARN, QUOTA_FAIL = 0.5, 0.8  # shares
DAYS_WARN = 30.0
REVISION_BYTES = 4120  # measured: a stored tower of 2.3 kB takes a page of the database
WRITES_S = 2.5  # of one voting validator
DAY_S = 86_400.0
HISTORY_MAX = 20_000  # revisions that may be there uncompacted: two hours of one validator
HISTORY_YOUNG = 2000  # fewer tell nothing of compaction
COMPACTOR_S = 900.0  # nor does less time: etcd's compactor runs every 5 minutes
FREE_SHARE, FREE_BYTES = 0.5, 512 << 20  # free pages worth a defragmentation


def check_space(facts: EtcdFacts) -> list[Finding]:
    """Alarms, quota and compaction of a cluster of which a member answered."""
    return _alarms(facts) + _quota(facts) + _compaction(facts)


def _alarms(facts: EtcdFacts) -> list[Finding]:
    name, found = "etcd-alarms", []
    for alarm in facts.survey.alarms:
        if alarm.startswith("NOSPACE"):
            found.append(fail(name, f"alarm {alarm}", "etcd refuses every write: nothing is voted", *_make_room(facts)))
        elif alarm.startswith("CORRUPT"):
            why = "members hold different data: a tower read from one may not be the one that was stored last"
            steps = ["stop the validators", facts.ctl("endpoint hashkv --cluster")]
            steps += ["remove the member that differs, clear its data and add it again", facts.ctl("member list -w table")]
            found.append(fail(name, f"alarm {alarm}", why, *steps))
        else:
            found.append(fail(name, f"alarm {alarm}", "etcd says that something is wrong", facts.ctl("alarm list")))
    complaints = [text for text in facts.survey.complaints if "no leader" not in text]  # said of the members
    found += [warn(name, text, "a member says so of itself", facts.ctl("endpoint status -w json")) for text in complaints]
    return found or [ok(name, "no alarm")]


def _make_room(facts: EtcdFacts) -> list[str]:
    """Compact, defragment each member with the leader last, and end the alarm."""
    order = sorted(facts.survey.answered, key=lambda member: member.is_leader)
    lines = [facts.ctl(f"compact {facts.survey.revision}")]
    lines += [facts.ctl("defrag", member.endpoint) for member in order]
    return [*lines, facts.ctl("alarm disarm")]


def _size(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB" if count < 1 << 30 else f"{count / (1 << 30):.2f} GiB"


def days_left(facts: EtcdFacts) -> float | None:
    """Days until an etcd that is never compacted is full, at its own rate and at least one validator's; `None`: unknown."""
    if facts.quota is None:
        return None
    in_use = max((member.db_in_use or member.db_size or 0 for member in facts.survey.answered), default=0)
    return max(facts.quota - in_use, 0) / (_rate(facts) * REVISION_BYTES * DAY_S)


def _quota(facts: EtcdFacts) -> list[Finding]:
    name, quota = "etcd-quota", facts.quota
    size, fullest = max((member.db_size or 0, name_of(member)) for member in facts.survey.answered)
    if quota is None:
        why = "when it is used up etcd refuses every write; the default is 2 GiB"
        line = facts.ctl("endpoint status -w table --cluster")
        return [warn(name, f"{fullest} has {_size(size)}; its quota is not known", why, line)]
    text = f"{fullest} has {_size(size)} of {_size(quota)}, {size / quota:.0%}"
    found = []
    if size >= QUOTA_WARN * quota:
        level = Level.FAIL if size >= QUOTA_FAIL * quota else Level.WARN
        why = "when it is full etcd refuses every write: nothing is voted"
        found.append(Finding(name, level, text, why, tuple(_make_room(facts))))
    if quota > QUOTA_MAX:
        why = "etcd advises at most 8 GiB: starts and repairs take too long beyond"
        found.append(warn(name, f"the quota is {_size(quota)}", why, f"--quota-backend-bytes={QUOTA_MAX}"))
    for member in facts.survey.answered:
        free = (member.db_size or 0) - (member.db_in_use if member.db_in_use is not None else member.db_size or 0)
        if free > FREE_BYTES and free > FREE_SHARE * (member.db_size or 0):
            why = "free pages count towards the quota; a member stands still while it is defragmented, so the leader comes last"
            line = facts.ctl("defrag", member.endpoint)
            found.append(warn(name, f"{name_of(member)}: {_size(free)} of {_size(member.db_size or 0)} are free", why, line))
    return found or [ok(name, text)]


def _compaction(facts: EtcdFacts) -> list[Finding]:
    """Whether old revisions are removed: every vote leaves one, and a database that keeps them is full within days."""
    name, scrapes = "etcd-compaction", [each for each in facts.scrapes.values() if each.revision is not None]
    if not scrapes:
        return [_unknown_compaction(facts)]
    history = max((each.revision or 0) - max(each.compact_revision or 0, 0) for each in scrapes)
    automatic = [each for each in scrapes if each.flag("auto-compaction-retention") not in (None, "", "0")]
    known = [each for each in scrapes if each.command is not None]
    left = days_left(facts)
    when = "" if left is None else f"; full in {_days(left)} at {_rate(facts):.1f} writes a second"
    lines = ("--auto-compaction-mode revision --auto-compaction-retention 2  # flags of etcd", *_make_room(facts)[:1])
    why = "each vote adds a revision; without compaction the quota is used up, and then nothing is voted"
    if history > HISTORY_MAX:
        level = Level.FAIL if left is None or left < DAYS_WARN or not automatic else Level.WARN
        return [Finding(name, level, f"{history} revisions are kept{when}", why, lines)]
    if automatic or any((each.compact_revision or 0) > 0 for each in scrapes):
        if known and len(automatic) < len(known) and automatic:
            names = ", ".join(each.endpoint for each in known if each not in automatic)
            why = "the leader compacts; when one of these becomes the leader nobody does"
            return [warn(name, f"no --auto-compaction-retention on {names}", why, lines[0])]
        how = "automatic compaction is on" if automatic else "old revisions were removed"
        return [ok(name, f"{how}; {history} revisions are kept")]
    if history > HISTORY_YOUNG and max(each.uptime or 0 for each in scrapes) > COMPACTOR_S:
        return [fail(name, f"nothing was ever compacted; {history} revisions are kept{when}", why, *lines)]
    return [warn(name, f"no automatic compaction seen; {history} revisions are kept{when}", why, *lines)]


def _unknown_compaction(facts: EtcdFacts) -> Finding:
    reasons = "; ".join(f"{each.endpoint}: {each.error}" for each in facts.scrapes.values()) or "no metrics were read"
    why = "whether old revisions are removed is not known; without that etcd is full within days"
    line = "curl --cacert ... --cert ... --key ... https://HOST:2379/metrics | grep -E 'compact_revision|current_revision'"
    return warn("etcd-compaction", reasons, why, line)


def _rate(facts: EtcdFacts) -> float:
    rates = [scrape.puts / scrape.uptime for scrape in facts.scrapes.values() if scrape.puts and scrape.uptime]
    return max([*rates, WRITES_S])


def _days(days: float) -> str:
    return f"{days * 24:.1f} hours" if days < 2 else f"{math.floor(days)} days"
