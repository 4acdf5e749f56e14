"""The tower store in etcd: for a primary and a secondary on different machines.

Keys and values of `instance` and `tower` are those of the validators from 1.9 to 2.x, so that one of those and ours
fence each other on one etcd; the others sit beside them, and `owner` and `history` inform people only.

=====================================  ================================================================================
`<identity>/instance`                  8 bytes; whose mod revision is the fence
`<identity>/tower`                     the saved tower
`<identity>/blocks`                    the newest reservation of block slots; older validators do not know it
`<identity>/owner`                     who claimed last, as JSON, with the instance that it belongs to
`<identity>/history/<ms>-<instance>`   the same for every claim; ms with 20 digits
`<identity>/note/<name>`               what machines tell each other; decides nothing
=====================================  ================================================================================

===========  ===========================================  ==================================  =========================
transaction  if                                           then                                else
===========  ===========================================  ==================================  =========================
look                                                      get instance, tower, owner,
                                                          blocks
claim        rev(instance) = seen                         put instance, owner, history;       get instance, tower
                                                          get tower
store        rev(instance) = fence, instance = its        put record                          get instance, record
             bytes, rev(record) = expected
===========  ===========================================  ==================================  =========================

`record` is the key of the kind that is written, `tower` or `blocks`. The instance's bytes are compared as well, because an
etcd restored from a backup may give revisions out again (S3).

**Lost answers.** A copy of a transaction without an answer may have committed, and may still. Every transaction is
therefore sent again with the *same bytes*, and its own effect is recognised: a claim by its random instance, a store by
its record under the fence. `Refused` comes only from an answer, never from an error, and says that this write cannot
commit any more. (A fenced one whose earlier copy got no answer may have committed *before* it was fenced; then the new
owner has read it. It must not be released either way.)

**The way there** is `_etcd_http2`, a small client of our own; with `transport="grpc"`, or TOWER_ETCD_TRANSPORT=grpc in the
environment, it is gRPC's. Both send the same bytes under the same rules.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from tower.errors import InvalidInput, StoreError, StoreUnavailable
from tower.store import (
    ABSENT,
    INSTANCE_BYTES,
    Claimed,
    Committed,
    Fence,
    Kind,
    Outcome,
    Owner,
    Refusal,
    Refused,
    Sighting,
    Unknown,
)
from tower.stores import _etcd_messages as pb
from tower.stores._common import Deadline, decode_owner, encode_owner
from tower.stores._etcd_call import CLOSED, Link
from tower.stores._etcd_exchange import Exchange, Links
from tower.stores._etcd_keys import Keys, identity_of
from tower.stores._etcd_watch import EtcdWatch
from tower.stores._notes import NOTES_MAX, check_note

__all__ = ["TRANSPORTS", "EtcdStore"]

TRANSPORTS = ("http2", "grpc")

HISTORY_PAGE, HISTORY_PAGES_MAX = 500, 200  # claims in one read, and reads; 100 000 claims are centuries of failovers
LIST_PAGE, LIST_PAGES_MAX = 200, 5000  # keys in one read, and reads, of a list of the identities
RECORD_BYTES_MAX = 1 << 20  # etcd refuses requests above 1.5 MiB


T = TypeVar("T")


def _revision(found: pb.KeyValue | None) -> int:
    return ABSENT if found is None else found.mod_revision


def _value(found: pb.KeyValue | None) -> bytes | None:
    return None if found is None else found.value


class EtcdStore:
    """The store in the etcd cluster behind `endpoints`; implements `tower.store.Store`.

    Connects when first used. `ca_cert`, `cert` and `key` are PEM bytes; every endpoint must prove `domain_name`.
    `attempt_timeout` is how long one endpoint may take before the next one is asked. `transport` is one of `TRANSPORTS`;
    without it the environment's TOWER_ETCD_TRANSPORT counts, else the first.
    """

    def __init__(
        self,
        endpoints: Sequence[tuple[str, int]],
        *,
        ca_cert: bytes,
        cert: bytes,
        key: bytes,
        domain_name: str = "localhost",
        attempt_timeout: float = 1.0,
        random_bytes: Callable[[int], bytes] = os.urandom,
        transport: str | None = None,
    ) -> None:
        if not endpoints:
            raise InvalidInput("no etcd endpoint: give --etcd-endpoint host:port")
        if not attempt_timeout > 0:
            raise InvalidInput(f"attempt_timeout is {attempt_timeout}: it must be above 0 seconds")
        transport = transport or os.environ.get("TOWER_ETCD_TRANSPORT") or TRANSPORTS[0]
        links = _links_of(list(dict.fromkeys(endpoints)), (ca_cert, cert, key), domain_name, attempt_timeout, transport)
        self._links = Links(links, attempt_timeout)
        self._puts: dict[Kind, tuple[Fence, pb.FencedPut]] = {}
        self._random_bytes = random_bytes
        self._watches: list[EtcdWatch] = []

    def look(self, identity: str, timeout: float) -> Sighting:
        keys = Keys(identity)
        wanted = (keys.instance, keys.records[Kind.TOWER], keys.owner, keys.records[Kind.BLOCKS])
        request = pb.txn(success=[pb.range_op(key) for key in wanted])
        deadline = Deadline(timeout)
        answer = _answer(self._exchange(request, (0, len(wanted)), deadline, may_give_up=True), deadline)
        instance, tower, owner, blocks = answer.ranges
        holder = decode_owner(_value(owner), instance.value) if instance else None
        return Sighting(
            identity,
            _revision(instance),
            _value(instance),
            _revision(tower),
            _value(tower),
            holder,
            _revision(blocks),
            _value(blocks),
        )

    def claim(self, sighting: Sighting, owner: Owner, timeout: float) -> Claimed | Refused | Unknown:
        keys, instance = Keys(sighting.identity), self._random_bytes(INSTANCE_BYTES)
        entry, tower_key = encode_owner(owner, instance), keys.records[Kind.TOWER]
        request = pb.txn(
            compare=[pb.compare_mod_revision(keys.instance, sighting.instance_revision)],
            success=[
                pb.put_op(keys.instance, instance),
                pb.put_op(keys.owner, entry),
                pb.put_op(keys.history_of(owner.at_ms, instance), entry),
                pb.range_op(tower_key),
            ],
            failure=[pb.range_op(keys.instance), pb.range_op(tower_key)],
        )
        deadline = Deadline(timeout)
        exchange = self._exchange(request, (2, 1), deadline)
        answer = exchange.result(deadline)
        if answer is None:
            return Unknown(exchange.cause())
        tower, revision = answer.ranges[-1], answer.revision
        if not answer.succeeded:
            held = answer.ranges[0]
            if held is None or held.value != instance:
                return Refused(Refusal.FENCED, sighting.instance_revision, _revision(held))
            # An earlier copy had won. Nobody else could write the record since: the instance is still ours.
            revision = held.mod_revision
        return Claimed(Fence(sighting.identity, revision, instance), _revision(tower), _value(tower))

    def begin_store(
        self, fence: Fence, expected_revision: int, record: bytes, timeout: float, kind: Kind = Kind.TOWER
    ) -> _EtcdPending:
        record = bytes(record)
        if len(record) > RECORD_BYTES_MAX:
            raise InvalidInput(f"a record of {len(record)} bytes: etcd takes {RECORD_BYTES_MAX}")
        known = self._puts.get(kind)
        put = known[1] if known is not None and (known[0] is fence or known[0] == fence) else self._make_put(fence, kind)
        exchange = Exchange(self._links, "put", put.request(expected_revision, record), put.decode, Deadline(timeout))
        return _EtcdPending(exchange, fence, expected_revision, record)

    def _make_put(self, fence: Fence, kind: Kind) -> pb.FencedPut:
        """What the writes of one kind under one fence have in common."""
        keys = Keys(fence.identity)
        key = keys.records[kind]
        put = pb.FencedPut(
            fenced=[
                pb.compare_mod_revision(keys.instance, fence.revision),
                pb.compare_value(keys.instance, fence.instance),
            ],
            key=key,
            failure=[pb.range_op(keys.instance), pb.range_op(key)],
        )
        self._puts[kind] = fence, put
        return put

    def expect_store(self) -> None:
        if not self._links.closed:
            self._links.current.expect("put")

    def watch(self, fence: Fence, on_lost: Callable[[int], None]) -> EtcdWatch:
        if self._links.closed:
            raise StoreError(CLOSED)
        watch = EtcdWatch(self._links, fence, on_lost)
        self._watches = [other for other in self._watches if not other.lost.done]
        self._watches.append(watch)
        return watch

    def history(self, identity: str, timeout: float) -> list[Owner]:
        keys, deadline = Keys(identity), Deadline(timeout)
        entries: list[pb.KeyValue] = []
        start = keys.history
        for _ in range(HISTORY_PAGES_MAX):
            request = pb.range_request(start, keys.history_end, HISTORY_PAGE)
            exchange = Exchange(self._links, "range", request, pb.decode_range, deadline, may_give_up=True)
            page = _answer(exchange, deadline)
            entries += page.kvs
            if not page.more or not page.kvs:
                # By revision and not by key: the clocks of two machines may disagree about the order of claims.
                owners = (decode_owner(entry.value) for entry in sorted(entries, key=lambda entry: entry.mod_revision))
                return [owner for owner in owners if owner is not None]
            start = page.kvs[-1].key + b"\0"
        raise StoreError(f"{identity}: more than {HISTORY_PAGE * HISTORY_PAGES_MAX} claims; remove old history keys")

    def identities(self, timeout: float) -> list[str]:
        deadline, start = Deadline(timeout), b"\0"
        found: set[str] = set()
        for _ in range(LIST_PAGES_MAX):
            request = pb.range_request(start, b"\0", LIST_PAGE, keys_only=True)
            exchange = Exchange(self._links, "range", request, pb.decode_range, deadline, may_give_up=True)
            page = _answer(exchange, deadline)
            owners = [identity_of(entry.key) for entry in page.kvs]
            found.update(owner for owner in owners if owner is not None)
            if not page.more or not owners:
                return sorted(found)
            # an identity's keys stand together: leap over the rest of a long history
            start = page.kvs[-1].key + b"\0" if owners[-1] is None else owners[-1].encode() + b"0"
        raise StoreError(f"more than {LIST_PAGE * LIST_PAGES_MAX} foreign keys in this etcd; name the identities instead")

    def put_note(self, identity: str, name: str, note: bytes, timeout: float) -> None:
        key, note = check_note(name, note)
        deadline = Deadline(timeout)
        _answer(self._exchange(pb.txn(success=[pb.put_op(Keys(identity).notes + key, note)]), (0, 0), deadline), deadline)

    def notes(self, identity: str, timeout: float) -> dict[str, bytes]:
        keys, deadline = Keys(identity), Deadline(timeout)
        request = pb.range_request(keys.notes, keys.notes_end, NOTES_MAX)
        page = _answer(Exchange(self._links, "range", request, pb.decode_range, deadline, may_give_up=True), deadline)
        return {entry.key.removeprefix(keys.notes).decode("ascii", "replace"): entry.value for entry in page.kvs}

    def close(self) -> None:
        watches, self._watches = self._watches, []
        for watch in watches:
            watch.close()
        if not self._links.closed:
            self._links.close()

    def _exchange(
        self, request: bytes, ranges: tuple[int, int], deadline: Deadline, *, may_give_up: bool = False
    ) -> Exchange[pb.TxnAnswer]:
        def decode(data: bytes) -> pb.TxnAnswer:
            return pb.decode_txn(data, ranges)

        return Exchange(self._links, "txn", request, decode, deadline, may_give_up=may_give_up)


def _answer(exchange: Exchange[T], wait: Deadline) -> T:
    answer = exchange.result(wait)
    if answer is None:
        raise StoreUnavailable(exchange.cause())
    return answer


def _links_of(
    endpoints: Sequence[tuple[str, int]],
    pems: tuple[bytes, bytes, bytes],
    domain_name: str,
    attempt_timeout: float,
    transport: str,
) -> list[Link]:
    if transport == "http2":
        from tower.stores._etcd_http2 import Http2Link
        from tower.stores._etcd_tls import Credentials

        ours = Credentials(*pems)
        return [Http2Link(host, port, ours, domain_name) for host, port in endpoints]
    if transport == "grpc":
        from tower.stores import _etcd_link  # imports gRPC, which costs memory and time

        theirs = _etcd_link.read_credentials(*pems)
        return [_etcd_link.Link(host, port, theirs, domain_name, attempt_timeout) for host, port in endpoints]
    raise InvalidInput(f"{transport!r} is no way to etcd: TOWER_ETCD_TRANSPORT is one of {', '.join(TRANSPORTS)}")


class _EtcdPending:
    """A write under way. A thread that drives many of them waits for `fileno` and asks `ready`."""

    __slots__ = ("_exchange", "_expected", "_fence", "_outcome", "_record")

    def __init__(self, exchange: Exchange[pb.TxnAnswer], fence: Fence, expected: int, record: bytes) -> None:
        self._exchange, self._fence, self._expected, self._record = exchange, fence, expected, record
        self._outcome: Outcome | None = None

    def outcome(self, timeout: float) -> Outcome:
        if self._outcome is None:
            answer = self._exchange.result(Deadline(timeout))
            if answer is None:
                return Unknown(self._exchange.cause())
            self._outcome = self._judge(answer)
        return self._outcome

    def fileno(self) -> int:
        """The socket of the attempt under way, to wait on until it is readable; -1 while there is none.

        It may change from one `ready` to the next: another endpoint, a connection that was opened anew.
        """
        return self._exchange.fileno()

    def ready(self) -> bool:
        """Take in what has arrived, without waiting: whether `outcome(0)` says how it ended.

        Ask when the socket is readable, and now and then besides: it also begins the next attempt when one has failed.
        """
        return not isinstance(self.outcome(0), Unknown) or self._exchange.over

    def _judge(self, answer: pb.TxnAnswer) -> Outcome:
        if answer.succeeded:
            return Committed(self._fence, answer.revision, self._record)
        instance, record = answer.ranges
        if instance is None or (instance.mod_revision, instance.value) != (self._fence.revision, self._fence.instance):
            return Refused(Refusal.FENCED, self._fence.revision, _revision(instance))
        if record is not None and record.value == self._record:
            return Committed(self._fence, record.mod_revision, self._record)
        return Refused(Refusal.CONFLICT, self._expected, _revision(record))
