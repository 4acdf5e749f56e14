"""A validator of the older kind on a real etcd: the real voter on a store that does what solana-validator 1.9 to 2.x did.

It puts its instance (the clock of the machine in milliseconds) without a comparison, reads the tower in a second transaction
if the instance is still its own, overwrites whatever tower is there while the instance has its value, sends each request
once, and ends at the first error. It knows neither owner nor history nor blocks.
"""

from __future__ import annotations

import base64
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import grpc

from tests.fault.etcd_calls import Member
from tests.fault.history import Recorder
from tower.store import ABSENT, Claimed, Committed, Fence, Kind, Outcome, Owner, Sighting
from tower.stores import _etcd_messages as pb

__all__ = ["DIED", "LegacyStore"]

TIMEOUT_S = 10.0
DIED = 70  # its exit status at the first error


def _die(why: str) -> NoReturn:
    """Its only way to handle an error."""
    print(f"legacy: {why}", file=sys.stderr, flush=True)
    os._exit(DIED)


class _Done:
    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def outcome(self, timeout: float) -> Outcome:
        return self._outcome


class _NoWatch:
    def close(self) -> None:
        """It watches nothing."""


class LegacyStore:
    """Implements `tower.store.Store` for one process."""

    def __init__(self, endpoint: tuple[str, int], certs: Path, recorder: Recorder) -> None:
        self._member = Member(endpoint, certs)
        self._recorder = recorder
        self._instance = (time.time_ns() // 1_000_000).to_bytes(8, "little")
        self._lock = threading.Lock()

    def _once(self, request: bytes, ranges: tuple[int, int], what: str) -> pb.TxnAnswer:
        try:
            with self._lock:
                return self._member.txn(request, ranges, TIMEOUT_S)
        except grpc.RpcError as problem:
            _die(f"{what}: {problem.details()}")

    def look(self, identity: str, timeout: float) -> Sighting:
        """The voter that plays it wants to see the tower first. Nothing rests on it: it claims without a comparison."""
        keys = [f"{identity}/{name}".encode() for name in ("instance", "tower")]
        instance, tower = self._once(pb.txn(success=[pb.range_op(key) for key in keys]), (0, 2), "a look was not answered").ranges
        seen = (ABSENT, None) if instance is None else (instance.mod_revision, instance.value)
        return Sighting(identity, *seen, *((ABSENT, None) if tower is None else (tower.mod_revision, tower.value)))

    def claim(self, sighting: Sighting, owner: Owner, timeout: float) -> Claimed:
        identity, instance = sighting.identity, self._instance
        instance_key, tower_key = (f"{identity}/{name}".encode() for name in ("instance", "tower"))
        number = self._recorder.begins("legacy-claim", identity, client="main", instance=instance.hex())
        fence = self._once(pb.txn(success=[pb.put_op(instance_key, instance)]), (0, 0), "a claim was not answered").revision
        self._recorder.ends(number, "claimed", fence=fence)
        read = pb.txn([pb.compare_value(instance_key, instance)], [pb.range_op(tower_key)])
        answer = self._once(read, (0, 1), "the tower was not read")
        if not answer.succeeded:
            _die("another had claimed before the tower was read")
        (tower,) = answer.ranges
        revision, record = (ABSENT, None) if tower is None else (tower.mod_revision, tower.value)
        return Claimed(Fence(identity, fence, instance), revision, record)

    def begin_store(
        self, fence: Fence, expected_revision: int, record: bytes, timeout: float, kind: Kind = Kind.TOWER
    ) -> _Done:
        instance_key, tower_key = (f"{fence.identity}/{name}".encode() for name in ("instance", "tower"))
        encoded = base64.b64encode(record).decode()
        asked: dict[str, Any] = {"client": "main", "instance": fence.instance.hex(), "record": encoded}
        number = self._recorder.begins("legacy-store", fence.identity, **asked)
        write = pb.txn([pb.compare_value(instance_key, fence.instance)], [pb.put_op(tower_key, record)])
        answer = self._once(write, (0, 0), "a write was not answered")
        if not answer.succeeded:
            self._recorder.ends(number, "refused", reason="FENCED", mine=0, seen=0)
            _die("a write was refused")
        self._recorder.ends(number, "committed", revision=answer.revision)
        return _Done(Committed(fence, answer.revision, record))

    def expect_store(self) -> None:
        """Its kind knows nothing of it."""

    def watch(self, fence: Fence, on_lost: Callable[[int], None]) -> _NoWatch:
        return _NoWatch()

    def history(self, identity: str, timeout: float) -> list[Owner]:
        return []

    def close(self) -> None:
        self._member.close()
