"""etcd's API over a channel of the tests' own: what the faults do to a member, and the log of every change it committed.

Nothing here shares code with the store's connections: it is the witness.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from tests.support.etcd import pems, wait_until
from tower.localnet.etcd_server import EtcdServer
from tower.stores import _etcd_messages as pb

__all__ = ["Change", "Member", "Witness", "load_changes"]

OPTIONS = [
    ("grpc.ssl_target_name_override", "localhost"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
]
NO_SPACE = 1


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


class Member:
    """One member, called directly. Raises `grpc.RpcError` where it does not answer in time."""

    def __init__(self, endpoint: tuple[str, int], certs: Path, **others: bytes) -> None:
        given = {**pems(certs), **others}
        credentials = grpc.ssl_channel_credentials(given["ca_cert"], given["key"], given["cert"])
        self._channel = grpc.secure_channel("{}:{}".format(*endpoint), credentials, OPTIONS)

    def call(self, method: str, request: bytes = b"", timeout: float = 10.0) -> bytes:
        answer: bytes = self._channel.unary_unary(f"/etcdserverpb.{method}")(request, timeout=timeout)
        return answer

    def txn(self, request: bytes, ranges: tuple[int, int], timeout: float) -> pb.TxnAnswer:
        return pb.decode_txn(self.call("KV/Txn", request, timeout), ranges)

    def put(self, key: bytes, value: bytes, timeout: float = 10.0) -> None:
        self.call("KV/Put", _bytes(1, key) + _bytes(2, value), timeout)

    def revision(self, timeout: float = 10.0) -> int:
        """The store's newest revision, by a linearizable read."""
        return pb.decode_range(self.call("KV/Range", pb.range_request(b"\0"), timeout)).revision

    def read_at(self, key: bytes, revision: int) -> None:
        """Read a key as it was; an error where that is compacted away."""
        self.call("KV/Range", pb.range_request(key) + _number(4, revision))

    def compact(self, revision: int) -> None:
        self.call("KV/Compact", _number(1, revision) + _number(2, 1), 30.0)

    def defragment(self) -> None:
        self.call("Maintenance/Defragment", b"", 30.0)

    def status(self, timeout: float = 5.0) -> dict[str, int]:
        """`member`, `leader` (ids) and `size` of the data base in bytes."""
        found = {"member": 0, "leader": 0, "size": 0}
        for field in pb.fields(self.call("Maintenance/Status", b"", timeout)):
            if field.number == 1:
                header = {part.number: part for part in pb.fields(field.as_bytes())}
                found["member"] = header[2].as_int()
            elif field.number in (3, 4):
                found["size" if field.number == 3 else "leader"] = field.as_int()
        return found

    def alarms(self) -> int:
        """How many alarms stand."""
        return sum(field.number == 2 for field in pb.fields(self.call("Maintenance/Alarm", b"")))

    def disarm(self, member: int) -> None:
        self.call("Maintenance/Alarm", _number(1, 2) + _number(2, member % (1 << 64)) + _number(3, NO_SPACE))

    def watch(self, prefix: bytes, start: int) -> Iterator[bytes]:
        create = _bytes(1, prefix) + _bytes(2, prefix[:-1] + bytes([prefix[-1] + 1])) + _number(3, start)
        stop = threading.Event()

        def outgoing() -> Iterator[bytes]:
            yield _bytes(1, create)
            stop.wait()

        call = self._channel.stream_stream("/etcdserverpb.Watch/Watch")(outgoing())
        try:
            yield from call
        finally:
            stop.set()
            call.cancel()

    def close(self) -> None:
        self._channel.close()


@dataclass(frozen=True, slots=True)
class Change:
    """One committed change of a key of the identity: its revision, what follows the slash, the value (`None`: deleted)."""

    revision: int
    name: str
    value: bytes | None


def _changes(answer: bytes, prefix: bytes) -> tuple[list[Change], int, bool]:
    """The changes in a WatchResponse, the revision up to which compaction has hidden them (0: none), and if it is the end."""
    changes, compacted, ended = [], 0, False
    for field in pb.fields(answer):
        if field.number == 4:
            ended = field.as_int() != 0
        elif field.number == 5:
            compacted = field.as_int()
        elif field.number == 11:
            event = {part.number: part for part in pb.fields(field.as_bytes())}
            kv = {part.number: part for part in pb.fields(event[2].as_bytes())}
            deleted = 1 in event and event[1].as_int() == 1
            value = None if deleted else kv[5].as_bytes() if 5 in kv else b""
            changes.append(Change(kv[3].as_int(), kv[1].as_bytes()[len(prefix) :].decode(), value))
    return changes, compacted, ended


class Witness:
    """Follows every change of an identity's keys at the members themselves, past everything that the faults break."""

    def __init__(self, members: Sequence[EtcdServer], certs: Path, identity: str, path: Path) -> None:
        self._members = [Member(member.endpoint, certs) for member in members]
        self._prefix, self._path = identity.encode() + b"/", path
        self._stop = threading.Event()
        self.reached = 0
        self.gaps: list[tuple[int, int]] = []  # revisions that compaction hid before they were seen
        self._call: Any = None
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        at = 0
        with open(self._path, "a") as sink:
            while not self._stop.is_set():
                try:
                    self._follow(self._members[at], sink)
                except grpc.RpcError:
                    pass  # this member is gone: the next one
                at = (at + 1) % len(self._members)
                self._stop.wait(0.05)

    def _follow(self, member: Member, sink: Any) -> None:
        self._call = member.watch(self._prefix, self.reached + 1)
        for answer in self._call:
            changes, compacted, ended = _changes(answer, self._prefix)
            if compacted:
                self.gaps.append((self.reached + 1, compacted - 1))
                self.reached = compacted - 1
            for change in changes:
                if change.revision > self.reached:
                    value = None if change.value is None else base64.b64encode(change.value).decode()
                    sink.write(json.dumps({"revision": change.revision, "name": change.name, "value": value}) + "\n")
            if changes:
                self.reached = max(self.reached, changes[-1].revision)
                sink.flush()
            if ended or self._stop.is_set():
                return

    def finish(self, timeout: float = 20.0) -> None:
        """End when everything that is committed has been seen. A last mark is written to know that."""
        mark = self._prefix + b"note/end-of-the-run"

        def written() -> bool:
            for member in self._members:
                try:
                    member.put(mark, b"", 2.0)
                    return True
                except grpc.RpcError:
                    continue
            return False

        wait_until(written, "some member takes the witness's mark", timeout)
        newest = next(r for r in map(self._newest, self._members) if r)
        wait_until(lambda: self.reached >= newest, f"the witness has seen revision {newest}", timeout)
        self.close()

    def _newest(self, member: Member) -> int:
        try:
            found = pb.decode_range(member.call("KV/Range", pb.range_request(self._prefix + b"note/end-of-the-run"), 3.0))
        except grpc.RpcError:
            return 0
        return found.kvs[0].mod_revision if found.kvs else 0

    def close(self) -> None:
        self._stop.set()
        for member in self._members:
            member.close()
        self._thread.join(5)


def load_changes(path: Path) -> list[Change]:
    """What a witness wrote, by revision."""
    found = []
    for line in path.read_text().splitlines():
        told = json.loads(line)
        value = None if told["value"] is None else base64.b64decode(told["value"])
        found.append(Change(told["revision"], told["name"], value))
    return sorted(found, key=lambda change: change.revision)
