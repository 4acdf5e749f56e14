"""Who is in the etcd cluster, and how each member is: asked of every member itself, changing nothing.

`survey` asks every configured endpoint for its status and for the list of members, and then the members that none of
the endpoints turned out to be, at the addresses that they advertise. A member without quorum answers as well: nothing
here goes through raft. That is also why alarms are read from the status and not listed: listing them is a proposal to
raft, and before etcd 3.5.5 one could keep a member from starting after a power failure (etcd's CHANGELOG-3.5, 14429).

Of the client library it takes the connection and the list of members. Its `status` knows no size in use, no learner and
no alarm, asks for the members again, and keeps from an operator why a call failed; the answer is therefore read here.

>>> decode_status(bytes.fromhex("0a0408011002" "1205332e352e31" "1880a001" "2002" "2805" "4a00"))
Traceback (most recent call last):
    ...
tower.errors.WireError: at byte 21: field 9 is no number
>>> decode_status(bytes.fromhex("0a0408011002" "1205332e352e31" "1880a001" "2002" "2805" "5001")).is_learner
True
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from tower.errors import WireError
from tower.stores import _etcd_messages as pb
from tower.stores._common import Deadline
from tower.stores._etcd_link import CALL_ERRORS, Link, explain, read_credentials
from tower.validator.config import EtcdConfig

__all__ = ["EtcdSurvey", "MemberFacts", "Status", "decode_status", "reason", "survey"]

AT_ONCE_MAX = 16  # members asked at the same time
ALARM = re.compile(r"memberID:(\d+)\s+alarm:(\w+)")
REASONS = (  # what gRPC says, and what it means
    ("Endpoint closing", "it takes connections and says nothing; check that the process runs and is not frozen"),
    # TLS 1.3 tells of a refused certificate only after the handshake, where gRPC does not understand it
    ("TSI_DATA_CORRUPTED", "it refused our certificate; check --etcd-cert-file and --etcd-key-file"),
)
NO_TLS = "it advertises {url}, and TLS is always on here; start it with --advertise-client-urls=https://..."
NOT_STARTED = "it is in the list of members and has never started; start it, or remove it: etcdctl member remove {id:x}"


@dataclass(frozen=True, slots=True)
class Status:
    """One member's answer to a status request. Sizes are bytes; 0 or `None` where an old release does not say."""

    cluster_id: int
    member_id: int
    revision: int
    version: str
    db_size: int
    db_in_use: int | None
    leader: int  # 0: it knows of none
    raft_index: int
    raft_term: int
    is_learner: bool
    quota: int | None  # from 3.6 on
    errors: tuple[str, ...]  # active alarms of the cluster, and what else it complains about


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """One member, or a configured endpoint behind which none was found (`id` 0). `error` says why it told nothing."""

    name: str
    id: int
    endpoint: str  # `host:port` as configured, or else as advertised
    version: str | None = None
    db_size: int | None = None  # bytes on its disk, which count towards the quota
    db_in_use: int | None = None  # bytes of these that hold something
    is_leader: bool = False
    is_learner: bool = False
    raft_index: int | None = None
    error: str | None = None
    revision: int | None = None  # of its store
    quota: int | None = None
    configured: bool = True  # false: found by asking the others
    open_to_all: bool = False  # it answers a client without a certificate


@dataclass(frozen=True, slots=True)
class EtcdSurvey:
    """The cluster as its members told it. Without an answer `members` are the configured endpoints with their errors."""

    members: tuple[MemberFacts, ...]
    alarms: tuple[str, ...] = ()  # like "NOSPACE on etcd-1"
    quota: int | None = None  # bytes; the smallest that a member told (from 3.6 on)
    cluster_id: int | None = None
    leader: str | None = None  # name or id of the leader that the members agree on
    revision: int | None = None  # the newest that a member told
    complaints: tuple[str, ...] = ()  # what members say of themselves beside alarms

    @property
    def answered(self) -> tuple[MemberFacts, ...]:
        """The members that told how they are."""
        return tuple(member for member in self.members if member.error is None)

    @property
    def has_quorum(self) -> bool:
        """Whether more than half of the voting members answered and there is a leader."""
        voting = [member for member in self.members if member.id and not member.is_learner]
        up = sum(member.error is None for member in voting)
        return self.leader is not None and 2 * up > len(voting)


@dataclass(frozen=True, slots=True)
class _Listed:
    """A member as the others list it."""

    id: int
    name: str
    client_urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came back from one address: a status, or why not."""

    address: tuple[str, int]
    status: Status | None
    listed: tuple[_Listed, ...] = ()
    error: str | None = None
    note: str | None = None
    open_to_all: bool = False


def survey(config: EtcdConfig, timeout: float) -> EtcdSurvey:
    """Ask every member, all at the same time; ends within about `timeout` seconds and never raises for what etcd does.

    Raises `InvalidInput` for files that are no PEM.
    """
    credentials = read_credentials(config.ca_cert, config.cert, config.key)
    deadline = Deadline(timeout)

    def ask(addresses: Sequence[tuple[str, int]], seconds: float) -> list[_Answer]:
        with ThreadPoolExecutor(min(AT_ONCE_MAX, len(addresses)) or 1) as pool:
            return list(pool.map(lambda address: _ask(address, config, credentials, seconds), addresses))

    answers = ask(config.endpoints, timeout / 2)
    listed = next((answer.listed for answer in answers if answer.listed), ())
    met = {answer.status.member_id for answer in answers if answer.status is not None}
    silent = {answer.address for answer in answers if answer.status is None}
    others = {}
    for member in listed:
        address = next((found for url in member.client_urls if (found := _address_of(url)) is not None), None)
        if member.id not in met and address is not None and address not in silent:
            others[member.id] = address
    more = dict(zip(others, ask(list(others.values()), max(deadline.left(), 0.1)), strict=True)) if others else {}
    return _put_together(answers, listed, more)


def _ask(address: tuple[str, int], config: EtcdConfig, credentials: Any, timeout: float) -> _Answer:
    link = Link(*address, credentials, config.domain_name, timeout)
    try:
        status = decode_status(_status_call(link.client.channel, timeout))
        listed, note = _list(link, config)
        strangers = _answers_strangers(address, config, timeout)
        return _Answer(address, status, listed, note=note, open_to_all=strangers)
    except (*CALL_ERRORS, WireError) as problem:
        return _Answer(address, None, error=reason(problem, config.domain_name))
    finally:
        link.client.close()


def _list(link: Link, config: EtcdConfig) -> tuple[tuple[_Listed, ...], str | None]:
    """The members as this one lists them, or why it does not: a user may be allowed the status only."""
    try:
        return tuple(_Listed(each.id, each.name, tuple(each.client_urls)) for each in link.client.members), None
    except CALL_ERRORS as problem:
        return (), f"the members are not known: {reason(problem, config.domain_name)}"


def reason(problem: Exception, domain_name: str) -> str:
    """Why a call to a member failed, for people."""
    text = explain(problem, domain_name)[0]
    for mark, meaning in REASONS:
        if mark in text:
            return meaning
    return text


def _status_call(channel: Any, timeout: float) -> bytes:
    answer: bytes = channel.unary_unary("/etcdserverpb.Maintenance/Status")(b"", timeout=timeout)
    return answer


def _answers_strangers(address: tuple[str, int], config: EtcdConfig, timeout: float) -> bool:
    """Whether this endpoint answers a client that shows no certificate: then anybody can take the fence."""
    import grpc  # type: ignore[import-untyped]  # here: the connection's module sets its log level before

    link = Link(*address, grpc.ssl_channel_credentials(config.ca_cert), config.domain_name, timeout)
    try:
        _status_call(link.client.channel, timeout)
        return True
    except CALL_ERRORS:
        return False
    finally:
        link.client.close()


def decode_status(data: bytes) -> Status:
    """A `StatusResponse`; `WireError` if it is none."""
    numbers: dict[int, int] = {}
    header: dict[int, int] = {}
    version, errors = "", []
    for field in pb.fields(data):
        if field.number == 1:
            header = {inner.number: inner.as_int() for inner in pb.fields(field.as_bytes())}
        elif field.number == 2:
            version = field.as_bytes().decode("utf-8", "replace")
        elif field.number == 8:
            errors.append(field.as_bytes().decode("utf-8", "replace"))
        elif field.number in (3, 4, 5, 6, 9, 10, 12):
            numbers[field.number] = field.as_int()
    return Status(
        cluster_id=header.get(1, 0) % pb.U64,
        member_id=header.get(2, 0) % pb.U64,
        revision=header.get(3, 0),
        version=version,
        db_size=numbers.get(3, 0),
        db_in_use=numbers.get(9),
        leader=numbers.get(4, 0) % pb.U64,
        raft_index=numbers.get(5, 0),
        raft_term=numbers.get(6, 0),
        is_learner=bool(numbers.get(10, 0)),
        quota=numbers.get(12) or None,
        errors=tuple(errors),
    )


def _address_of(url: str) -> tuple[str, int] | None:
    """Host and port of an advertised URL with TLS."""
    try:
        parts = urlsplit(url)
        return (parts.hostname, parts.port) if parts.scheme == "https" and parts.hostname and parts.port else None
    except ValueError:
        return None


def _shown(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _facts(answer: _Answer, names: dict[int, str]) -> MemberFacts:
    status = answer.status
    if status is None:
        return MemberFacts("", 0, _shown(answer.address), error=answer.error)
    return MemberFacts(
        name=names.get(status.member_id, ""),
        id=status.member_id,
        endpoint=_shown(answer.address),
        version=status.version,
        db_size=status.db_size,
        db_in_use=status.db_in_use,
        is_leader=status.leader == status.member_id,
        is_learner=status.is_learner,
        raft_index=status.raft_index,
        revision=status.revision,
        quota=status.quota,
        open_to_all=answer.open_to_all,
    )


def _put_together(answers: list[_Answer], listed: tuple[_Listed, ...], more: dict[int, _Answer]) -> EtcdSurvey:
    names = {member.id: member.name for member in listed}
    members: dict[int, MemberFacts] = {}
    strays: list[MemberFacts] = []  # endpoints that did not answer, until a member with their address is found
    for answer in answers:
        facts = _facts(answer, names)
        if facts.id:
            members.setdefault(facts.id, facts)  # two endpoints may lead to one member
        else:
            strays.append(facts)
    for member in listed:
        if member.id in members:
            continue
        addresses = {_shown(address) for url in member.client_urls if (address := _address_of(url)) is not None}
        stray = next((each for each in strays if each.endpoint in addresses), None)
        if stray is not None:
            strays.remove(stray)
            members[member.id] = replace(stray, name=member.name, id=member.id)
        else:
            members[member.id] = _unconfigured(member, more.get(member.id), names)
    found = sorted(members.values(), key=lambda each: (each.name, each.id))
    statuses = [answer.status for answer in (*answers, *more.values()) if answer.status is not None]
    notes = [answer.note for answer in answers if answer.note is not None]
    return _summary(tuple(found) + tuple(strays), statuses, notes, names)


def _unconfigured(member: _Listed, answer: _Answer | None, names: dict[int, str]) -> MemberFacts:
    """A member that none of the configured endpoints is."""
    where = _shown(answer.address) if answer is not None else " ".join(member.client_urls)
    nothing = MemberFacts(member.name, member.id, where, configured=False)
    if answer is None:
        why = NO_TLS.format(url=where) if member.client_urls else NOT_STARTED.format(id=member.id)
        return replace(nothing, error=why)
    if answer.status is None:
        return replace(nothing, error=answer.error)
    if answer.status.member_id != member.id:
        other = names.get(answer.status.member_id, f"{answer.status.member_id:x}")
        return replace(nothing, error=f"at the address that it advertises, {where}, {other or 'another member'} answers")
    return replace(_facts(answer, names), configured=False)


def _summary(
    members: tuple[MemberFacts, ...], statuses: list[Status], notes: list[str], names: dict[int, str]
) -> EtcdSurvey:
    alarms: dict[str, None] = {}
    complaints = dict.fromkeys(notes)
    for status in statuses:
        for text in status.errors:
            found = ALARM.search(text)
            if found is None:
                complaints[text] = None
                continue
            number = int(found[1])
            alarms[f"{found[2]} on {names.get(number) or f'{number:x}'}" if number else found[2]] = None
    newest = max(statuses, key=lambda status: status.raft_term, default=None)
    leader = None
    if newest is not None and newest.leader:
        leader = names.get(newest.leader) or f"{newest.leader:x}"
    return EtcdSurvey(
        members=members,
        alarms=tuple(alarms),
        quota=min((status.quota for status in statuses if status.quota), default=None),
        cluster_id=newest.cluster_id if newest is not None else None,
        leader=leader,
        revision=max((status.revision for status in statuses), default=None),
        complaints=tuple(complaints),
    )
