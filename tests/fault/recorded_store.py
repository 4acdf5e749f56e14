"""Any store with every operation written down, and at will with late copies of its writes.

It wraps what the product opens and changes nothing of it: calls, answers and errors pass through. A late copy is the same write
under the same fence, sent again over a connection of its own some time after the first: what a network does to a request.
"""

from __future__ import annotations

import base64
import contextlib
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fault.history import Recorder, digest
from tower.store import Claimed, Committed, Fence, Kind, Outcome, Owner, Pending, Refused, Sighting, Unknown

__all__ = ["Copies", "RecordedStore", "name_of"]

COPY_S = 5.0  # that a late copy may take


def name_of(owner: Owner | None) -> str | None:
    """Tells one claim from every other."""
    return None if owner is None else f"{owner.who}/{owner.pid}/{owner.at_ms}/{owner.why}"


class Copies:
    """Sends some writes again, later, while the file `switch` exists. Copies are recorded as operations of their own."""

    def __init__(self, switch: Path, open_store: Callable[[], Any], recorder: Recorder, seed: int) -> None:
        self._switch, self._open, self._recorder = switch, open_store, recorder
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self._store: RecordedStore | None = None

    def of(self, *write: Any) -> None:
        if self._switch.exists() and self._rng.random() < 0.5:
            timer = threading.Timer(self._rng.uniform(0.001, 1.5), self._send, write)
            timer.daemon = True
            timer.start()

    def _send(self, fence: Fence, expected: int, record: bytes, kind: Kind) -> None:
        with self._lock:
            if self._store is None:
                self._store = RecordedStore(self._open(), self._recorder, client="copy")
            self._store.begin_store(fence, expected, record, COPY_S, kind).outcome(COPY_S)


class _RecordedPending:
    def __init__(self, pending: Pending, recorder: Recorder, number: int) -> None:
        self._pending, self._recorder, self._number = pending, recorder, number
        self._told: Outcome | None = None

    def outcome(self, timeout: float) -> Outcome:
        outcome = self._pending.outcome(timeout)
        if outcome != self._told:
            self._told = outcome
            match outcome:
                case Committed():
                    self._recorder.ends(self._number, "committed", revision=outcome.record_revision)
                case Refused(reason, mine, seen):
                    self._recorder.ends(self._number, "refused", reason=reason.name, mine=mine, seen=seen)
                case Unknown(cause):
                    self._recorder.ends(self._number, "unknown", cause=cause)
        return outcome


class RecordedStore:
    """Implements what the wrapped store does. `client` names this store object among those of its process."""

    def __init__(self, store: Any, recorder: Recorder, client: str, copies: Copies | None = None) -> None:
        self._store, self._recorder, self._client, self._copies = store, recorder, client, copies

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)  # history, notes, watch, close: no operation of the fence

    def look(self, identity: str, timeout: float) -> Sighting:
        number = self._recorder.begins("look", identity, client=self._client)
        seen: Sighting = self._store.look(identity, timeout)
        self._recorder.ends(
            number,
            "seen",
            instance_revision=seen.instance_revision,
            instance=(seen.instance or b"").hex(),
            owner=name_of(seen.owner),
            tower_revision=seen.record_revision,
            tower=digest(seen.record),
            blocks_revision=seen.blocks_revision,
            blocks=digest(seen.blocks),
        )
        return seen

    def claim(self, sighting: Sighting, owner: Owner, timeout: float) -> Claimed | Refused | Unknown:
        asked = {"client": self._client, "seen": sighting.instance_revision, "owner": name_of(owner)}
        number = self._recorder.begins("claim", sighting.identity, **asked)
        outcome: Claimed | Refused | Unknown = self._store.claim(sighting, owner, timeout)
        match outcome:
            case Claimed(fence, record_revision, record):
                facts = {"fence": fence.revision, "instance": fence.instance.hex()}
                facts |= {"record_revision": record_revision, "record": digest(record)}
                self._recorder.ends(number, "claimed", **facts)
            case Refused(reason, mine, seen):
                self._recorder.ends(number, "refused", reason=reason.name, mine=mine, seen=seen)
            case Unknown(cause):
                self._recorder.ends(number, "unknown", cause=cause)
        return outcome

    def begin_store(
        self, fence: Fence, expected_revision: int, record: bytes, timeout: float, kind: Kind = Kind.TOWER
    ) -> _RecordedPending:
        asked = {"fence": fence.revision, "instance": fence.instance.hex(), "kind": kind.value, "expected": expected_revision}
        encoded = base64.b64encode(record).decode()
        number = self._recorder.begins("store", fence.identity, client=self._client, **asked, record=encoded)
        pending = self._store.begin_store(fence, expected_revision, record, timeout, kind)
        if self._copies is not None:
            with contextlib.suppress(RuntimeError):  # no thread can be started at the end of the interpreter
                self._copies.of(fence, expected_revision, record, kind)
        return _RecordedPending(pending, self._recorder, number)
