"""What `status`, `list`, `history` and `watch` say, as a pure function of what was seen.

`Observation` is what was read at one moment: the store's keys first, for they alone decide who may vote, and beside them what
the etcd members, the validator on this machine and the cluster say. `describe` turns it into the document that `--output
json` prints and the text forms show; `claims_of` turns owners into a history. Nothing here asks a clock or a store.

=========  ===========================================================================================
state      meaning for an identity
=========  ===========================================================================================
held       somebody holds the fence, and the stored tower is usable and young enough
stale      held, but no vote is stored, or the newest is older than `--max-age`
unusable   the stored tower is torn, foreign, badly signed or malformed: nobody can vote on it
nobody     the identity was never claimed in this store
=========  ===========================================================================================
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tower.errors import UnusableTower
from tower.keys import from_base58
from tower.store import ABSENT, Owner, Sighting
from tower.validator.config import Exit
from tower.validator.tower_io import load_tower

if TYPE_CHECKING:
    from tower.validator.etcd_survey import EtcdSurvey, MemberFacts

__all__ = [
    "DELINQUENT_SLOTS",
    "Certificate",
    "IdentityFacts",
    "Landed",
    "Limits",
    "Observation",
    "ValidatorView",
    "claims_of",
    "describe",
    "describe_identity",
    "iso",
]

DELINQUENT_SLOTS = 128  # a vote account whose newest vote is older counts as delinquent
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on what was seen is a problem."""

    max_age_s: float = 30.0  # of the newest stored vote
    certificate_days: float = 14.0  # left until a certificate expires


@dataclass(frozen=True, slots=True)
class Landed:
    """The vote account of an identity, as the cluster's newest bank has it."""

    vote_account: str
    slot: int | None
    root: int | None
    credits: int
    cluster_slot: int


@dataclass(frozen=True, slots=True)
class IdentityFacts:
    """One identity in the store. `look_s` is how long reading it took."""

    sighting: Sighting
    claims: tuple[Owner, ...] = ()
    look_s: float = 0.0
    landed: Landed | None = None
    landed_why: str = "no --url given"  # why `landed` is None


@dataclass(frozen=True, slots=True)
class ValidatorView:
    """What the validator of a ledger folder says of itself; `why` says why it says nothing."""

    ledger: str
    status: Mapping[str, Any] | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that the flags name, and when it expires."""

    flag: str
    expires: datetime.datetime


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that was read at `at_ms`. With `error` the store did not answer, and `identities` is empty."""

    at_ms: int
    kind: str  # of the store: "file" or "etcd"
    places: tuple[str, ...]
    identities: tuple[IdentityFacts, ...] = ()
    validator: ValidatorView = field(default_factory=lambda: ValidatorView("", why="not asked"))
    survey: EtcdSurvey | None = None
    certificates: tuple[Certificate, ...] = ()
    error: str | None = None


def iso(at_ms: int) -> str:
    """A moment as ISO 8601 in UTC, to the millisecond.

    >>> iso(1_700_000_000_123)
    '2023-11-14T22:13:20.123Z'
    """
    moment = datetime.datetime.fromtimestamp(0, datetime.UTC) + datetime.timedelta(milliseconds=at_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# ------------------------------------------------------------------------------------------------------------- status


def describe(seen: Observation, limits: Limits) -> dict[str, Any]:
    """The document of `status`, and with `exit_status` what the command ends with."""
    store, problems = _store(seen, limits)
    rows = [describe_identity(facts, seen.validator, seen.at_ms, limits) for facts in seen.identities]
    if seen.error is None and not rows:
        problems.append("no identity was ever claimed in this store, and no tower is stored")
    states = {row["state"] for row in rows}
    if seen.error is not None:
        status = Exit.STORE_FAILED
    elif "unusable" in states:
        status = Exit.TOWER_UNUSABLE
    elif "nobody" in states or not rows:
        status = Exit.NOBODY
    elif problems or any(row["problems"] for row in rows):
        status = Exit.UNHEALTHY
    else:
        status = Exit.OK
    validator = {"ledger": seen.validator.ledger, "status": seen.validator.status, "why": seen.validator.why or None}
    return {
        "at": iso(seen.at_ms), "exit_status": int(status), "problems": problems, "store": store, "validator": validator,
        "identities": rows,
    }  # fmt: skip


def _store(seen: Observation, limits: Limits) -> tuple[dict[str, Any], list[str]]:
    problems = [] if seen.error is None else [f"the store does not answer: {seen.error}"]
    looks = sorted(facts.look_s for facts in seen.identities)
    store: dict[str, Any] = {
        "kind": seen.kind,
        "places": list(seen.places),
        "look_ms": round(looks[len(looks) // 2] * 1000, 3) if looks else None,
        "error": seen.error,
    }
    if seen.survey is not None:
        store["members"] = [_member(member) for member in seen.survey.members]
        store["alarms"] = list(seen.survey.alarms)
        problems += [f"etcd {_name(m)}: {m.error}" for m in seen.survey.members if m.error is not None]
        problems += [f"etcd has raised an alarm: {alarm}" for alarm in seen.survey.alarms]
        if seen.survey.answered and seen.survey.leader is None:
            problems.append("etcd has no leader: no vote can be stored")
    if seen.certificates:
        now = datetime.datetime.fromtimestamp(seen.at_ms / 1000, datetime.UTC)
        store["certificates"] = []
        for each in seen.certificates:
            days = (each.expires - now).total_seconds() / DAY_S
            expires = each.expires.isoformat().replace("+00:00", "Z")
            store["certificates"].append({"flag": each.flag, "expires": expires, "days_left": round(days, 1)})
            if days < limits.certificate_days:
                problems.append(f"{each.flag}: expires in {days:.1f} days; renew it")
    return store, problems


def _name(member: MemberFacts) -> str:
    return f"{member.name} ({member.endpoint})" if member.name else member.endpoint


def _member(member: MemberFacts) -> dict[str, Any]:
    return {
        "name": member.name, "endpoint": member.endpoint, "version": member.version, "db_bytes": member.db_size,
        "leader": member.is_leader, "error": member.error,
    }  # fmt: skip


def describe_identity(facts: IdentityFacts, validator: ValidatorView, at_ms: int, limits: Limits) -> dict[str, Any]:
    """The row of one identity, in `status`, `list` and `watch` alike."""
    sighting = facts.sighting
    held = sighting.instance_revision != ABSENT
    persisted, unusable = _persisted(sighting, at_ms)
    problems = []
    if unusable is not None:
        state = "unusable"
        problems.append(unusable)
    elif not held:
        state = "nobody"
        problems.append("nobody ever claimed it" + ("" if persisted is None else ", though a tower is stored"))
    elif persisted is None or persisted["slot"] is None:
        state = "stale"
        problems.append("no vote is stored yet")
    elif persisted["age_s"] is not None and persisted["age_s"] > limits.max_age_s:
        state = "stale"
        problems.append(f"the newest stored vote is {persisted['age_s']:.1f} s old (--max-age {limits.max_age_s:g})")
    else:
        state = "held"
    released, released_why, doubt = _released(sighting, validator)
    if doubt is not None:
        problems.append(doubt)
    landed = facts.landed
    behind = 0 if landed is None else landed.cluster_slot - (landed.slot or 0)
    if behind > DELINQUENT_SLOTS:
        problems.append(f"delinquent: the newest landed vote is {behind} slots behind the cluster")
    return {
        "identity": sighting.identity,
        "state": state,
        "problems": problems,
        "holder": _holder(sighting, at_ms) if held else None,
        "fence": sighting.instance_revision or None,
        "claims": len(facts.claims),
        "persisted": persisted,
        "released": released,
        "released_why": released_why,
        "landed": None if landed is None else _landed(landed),
        "landed_why": facts.landed_why if landed is None else None,
    }


def _holder(sighting: Sighting, at_ms: int) -> dict[str, Any]:
    """Who claimed last; a validator of the older kind leaves no name."""
    owner = sighting.owner
    if owner is None:
        return {"who": None, "host": None, "pid": None, "why": None, "since": None, "held_s": None}
    held_s = round((at_ms - owner.at_ms) / 1000, 3) if owner.at_ms else None
    return {
        "who": owner.who, "host": owner.host, "pid": owner.pid, "why": owner.why,
        "since": iso(owner.at_ms) if owner.at_ms else None, "held_s": held_s,
    }  # fmt: skip


def _persisted(sighting: Sighting, at_ms: int) -> tuple[dict[str, Any] | None, str | None]:
    """The last vote in the stored tower, and what makes the tower unusable."""
    if sighting.record is None:
        return None, None
    try:
        tower = load_tower(sighting.record, from_base58(sighting.identity), "the store")
    except UnusableTower as problem:
        return None, str(problem)
    # a vote may go without a timestamp, where its voter's clock went back; then the newest one before it counts
    stamp = tower.last_vote.timestamp or tower.last_timestamp.timestamp or None
    return {
        "slot": tower.last_voted_slot,
        "root": tower.root,
        "lockouts": len(tower.lockouts),
        "timestamp": stamp,
        "age_s": None if stamp is None else round(max(0.0, at_ms / 1000 - stamp), 3),
    }, None


def _released(sighting: Sighting, validator: ValidatorView) -> tuple[int | None, str | None, str | None]:
    """The last vote that left, as the validator here says; or why that is not known; and whether it errs about the fence."""
    said = validator.status
    if said is None:
        return None, validator.why, None
    if said.get("identity") != sighting.identity:
        return None, f"the validator here is {said.get('identity')}", None
    if not said.get("voting"):
        return None, f"the validator here does not vote ({said.get('state')})", None
    doubt = None
    if said.get("fence") != sighting.instance_revision:
        doubt = f"the validator here believes in fence {said.get('fence')}, the store says {sighting.instance_revision}"
    slot = said.get("lastVotedSlot")
    if not said.get("sentVotes") or not isinstance(slot, int):
        return None, "the validator here has sent no vote yet", doubt
    return slot, None, doubt


def _landed(landed: Landed) -> dict[str, Any]:
    return {
        "vote_account": landed.vote_account, "slot": landed.slot, "root": landed.root, "credits": landed.credits,
        "cluster_slot": landed.cluster_slot,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ history


def claims_of(sighting: Sighting, owners: Sequence[Owner]) -> list[dict[str, Any]]:
    """One row a claim, oldest first. A claim is the loss of whoever had the fence before: `from` names it.

    `kind` is `first`, `takeover` (another machine had it), `again` (the same machine), `import` (by `tower import`), or
    `unnamed`: a last row without a time, where a validator that leaves no name has claimed since. Durations are
    differences of wall clocks, of two machines maybe: `None` where they contradict each other.

    >>> a, b = Owner("a", "start", "h1", 1, 1000), Owner("b", "set-identity", "h2", 2, 61_500, 40)
    >>> rows = claims_of(Sighting("me", 2, None, 0, None, b), [a, b])
    >>> [(row["kind"], row["who"], row["from"], row["from_held_s"]) for row in rows]
    [('first', 'a', None, None), ('takeover', 'b', 'a', 60.5)]
    """
    rows: list[dict[str, Any]] = []
    before: Owner | None = None
    for number, owner in enumerate(owners, 1):
        rows.append(_claim(sighting.identity, number, owner, before))
        if len(rows) > 1:
            rows[-2]["held_s"] = rows[-1]["from_held_s"]
        before = owner
    if sighting.instance_revision != ABSENT and sighting.owner is None:
        unnamed = Owner("", "", "", 0, 0, None)
        rows.append({**_claim(sighting.identity, len(rows) + 1, unnamed, before), "kind": "unnamed", "who": None, "why": None})
    if rows and sighting.instance_revision != ABSENT:
        rows[-1]["current"] = True
    return rows


def _claim(identity: str, number: int, owner: Owner, before: Owner | None) -> dict[str, Any]:
    if owner.why == "import":
        kind = "import"
    elif before is None:
        kind = "first"
    else:
        kind = "again" if (owner.who, owner.host) == (before.who, before.host) else "takeover"
    held = None
    if before is not None and before.at_ms and owner.at_ms >= before.at_ms:
        held = (owner.at_ms - before.at_ms) / 1000
    return {
        "identity": identity,
        "number": number,
        "at": iso(owner.at_ms) if owner.at_ms else None,
        "kind": kind,
        "who": owner.who,
        "host": owner.host,
        "pid": owner.pid,
        "why": owner.why,
        "slot": owner.last_voted_slot,
        "from": None if before is None else before.who,
        "from_held_s": held,
        "held_s": None,
        "current": False,
    }
