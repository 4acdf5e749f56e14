"""What a runner did, as lines of JSON at the names of the specification's actions, so that it can be held against it.

A line is written where the action of `spec/FencedTower.tla` with that name happens: `Claim`, `Persist`, `Refresh` and `Settle`
before the request leaves, `Look`, `Claimed`, `Refused` and `Unknown` after the answer came, `Committed` before the vote is
sent, the ends of a life when it ends. A life that is killed writes nothing of it. `python -m spec.replay` reads the lines.

=============  =====================================================================================================
`t`            monotonic nanoseconds, one clock for all processes of a machine
`identity`     whose tower, base58
`life`         which life of a voter, a name that does not come again
`action`       the action's name
=============  =====================================================================================================

The other members are the facts of the action: revisions as the store counts them, slots, and digests of records. A line holds
no key, no secret, no transaction and no record. It decides nothing: what cannot be written is not written, and the voter goes
on; from then on the trace is silent, so that no line is missing between two others.

>>> lines = []
>>> life = Trace(lines.append, clock=lambda: 7, name="a").life("me")
>>> life.looks()
>>> life.handled(Looked(Sighting("me", 3, b"instance", 0, None)), [Halt(HaltReason.REFUSED, "no tower")])
>>> print(b"".join(lines).decode(), end="")
{"t":7,"identity":"me","life":"a-1","action":"Look","since":7,"seen":3,"revision":0,"last":null,"digest":""}
{"t":7,"identity":"me","life":"a-1","action":"Resign","why":"refused"}
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tower.errors import InvalidInput, TowerError
from tower.events import (
    Claim,
    DeadlinePassed,
    Effect,
    Event,
    FenceLost,
    Halt,
    HaltReason,
    Looked,
    Persist,
    Release,
    StoreAnswered,
)
from tower.store import Claimed, Refusal, Refused, Sighting, Unknown
from tower.wire import decode_saved_tower

__all__ = ["ACTIONS", "LifeTrace", "Trace"]

ACTIONS = (
    "Look",
    "Claim",
    "Claimed",
    "Persist",
    "Refresh",
    "Committed",
    "Unknown",
    "Settle",
    "Refused",
    "FenceLost",
    "DeadlinePassed",
    "Resign",
)
DIGEST_HEX = 16  # characters of a record's SHA-256: enough to tell the records of one identity apart


class Trace:
    """Where the lives of one process write their lines, each with one call of `write`.

    `clock` counts nanoseconds and never goes back; `name` is what the names of lives begin with; `on_failure` is told once why
    nothing more is written.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        name: str | None = None,
        close: Callable[[], None] = lambda: None,
        on_failure: Callable[[str], None] = lambda why: None,
    ) -> None:
        self._write = write
        self._close = close
        self._on_failure = on_failure
        self._name = name or f"{os.getpid()}-{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)
        self.clock = clock
        self.failed: str | None = None  # why nothing is written any more

    @classmethod
    def open(cls, path: str | Path, on_failure: Callable[[str], None] = lambda why: None) -> Trace:
        """Append to the file at `path`, made if it is not there. Raises `InvalidInput` that names it."""
        try:
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as problem:
            raise InvalidInput(f"{path}: a trace cannot be written there: {problem.strerror}; choose another file") from None
        return cls(lambda line: os.write(handle, line), close=lambda: os.close(handle), on_failure=on_failure)

    def life(self, identity: str) -> LifeTrace:
        """A new life of `identity`, an address in base58."""
        return LifeTrace(self, identity, f"{self._name}-{next(self._numbers)}")

    def write(self, line: bytes) -> None:
        """One whole line. An error ends the trace and nothing else."""
        if self.failed is not None:
            return
        try:
            written = self._write(line)
        except (OSError, ValueError) as problem:
            self.failed = str(problem)
        else:
            if isinstance(written, int) and written != len(line):
                self.failed = f"only {written} of {len(line)} bytes were written"
        if self.failed is not None:
            self._on_failure(self.failed)

    def close(self) -> None:
        """End the trace. Idempotent."""
        if self.failed != "closed":
            self.failed = "closed"
            self._close()


def digest(record: bytes | None) -> str:
    """Names a record; the empty text where there is none."""
    return "" if record is None else hashlib.sha256(record).hexdigest()[:DIGEST_HEX]


class LifeTrace:
    """The lines of one voter's life. Its runner calls each method where the thing happens."""

    def __init__(self, trace: Trace, identity: str, name: str) -> None:
        self._trace = trace
        self._identity = identity
        self._name = name
        self._since = 0  # when the newest look began
        self._alive = False  # between a look and an end; a claim that failed is an end, and the next look another life
        self._claiming = False
        self._unresolved = False
        self._last: int | None = None  # last voted slot of the record that was loaded or committed last
        self._write: dict[str, Any] = {}  # the facts of the write in flight

    def looks(self) -> None:
        """The look begins."""
        self._since = self._trace.clock()

    def claims(self, effect: Claim) -> None:
        """The claim is about to be sent."""
        self._claiming = True
        self._line("Claim", seen=effect.sighting.instance_revision)

    def persists(self, effect: Persist, record: bytes, on: int | None) -> None:
        """The write of `record` is about to be sent; `on` is the last voted slot that the vote was decided on."""
        slot = effect.vote.slot
        self._unresolved = False
        self._write = {"fence": effect.fence.revision, "expected": effect.expected_revision}
        self._write |= {"slot": slot, "digest": digest(record)}
        if slot == on:
            self._line("Refresh", **self._write)
            return
        # Votes that landed and were not stored bind as well; votes that are rooted bind no more.
        ahead = on is not None and (self._last is None or on > self._last)
        base = "stored" if on == self._last else "landed" if ahead else "rooted"
        self._line("Persist", **self._write, on=on, base=base)

    def settles(self) -> None:
        """The write in flight is about to be repeated."""
        self._line("Settle", **self._write)

    def releases(self, effect: Release) -> None:
        """The vote is about to be sent."""
        committed = effect.committed
        self._last, self._unresolved = effect.vote.slot, False
        facts = {"fence": committed.fence.revision, "revision": committed.record_revision}
        self._line("Committed", **facts, slot=effect.vote.slot, digest=digest(committed.record))

    def handled(self, event: Event, effects: Sequence[Effect]) -> None:
        """The voter has taken `event` in, and `effects` are about to be carried out."""
        if isinstance(event, Looked):
            if effects and not self._alive:
                self._alive = True
                sighting = event.sighting
                self._line("Look", since=self._since, seen=sighting.instance_revision, **self._record(sighting))
        elif not self._alive:
            return
        elif isinstance(event, StoreAnswered):
            self._answered(event)
        elif isinstance(event, DeadlinePassed):
            self._end("DeadlinePassed", **self._write)
        halt = next((effect for effect in effects if isinstance(effect, Halt)), None)
        if halt is not None and self._alive:
            if isinstance(event, FenceLost) and halt.reason is HaltReason.LOST_FENCE:
                self._end("FenceLost", seen=event.seen)
            else:
                self._end("Resign", why=halt.reason.name.lower())

    def _answered(self, event: StoreAnswered) -> None:
        match event.outcome:
            case Claimed() as claimed:
                self._claiming = False
                self._line("Claimed", fence=claimed.fence.revision, **self._record(claimed))
            case Refused(reason, mine, seen):
                of = "fenced" if reason is Refusal.FENCED else "conflict"
                self._end("Refused", reason=of, mine=mine, seen=seen)
            case Unknown() if self._claiming:
                self._end("DeadlinePassed")
            case Unknown() if not self._unresolved:
                self._unresolved = True
                self._line("Unknown", **self._write)

    def _record(self, read: Sighting | Claimed) -> dict[str, Any]:
        """The facts of a record that was read; `last` is what stands in it, whatever the voter makes of it."""
        self._last = None
        if read.record is not None:
            try:
                self._last = decode_saved_tower(read.record, self._identity).last_voted_slot
            except TowerError:
                pass  # torn or foreign: the voter stops for it
        return {"revision": read.record_revision, "last": self._last, "digest": digest(read.record)}

    def _end(self, action: str, **facts: Any) -> None:
        self._line(action, **facts)
        self._alive = self._claiming = False
        self._write = {}

    def _line(self, action: str, **facts: Any) -> None:
        event = {"t": self._trace.clock(), "identity": self._identity, "life": self._name, "action": action, **facts}
        self._trace.write(json.dumps(event, separators=(",", ":")).encode() + b"\n")
