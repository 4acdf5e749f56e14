"""Traces: the lines of files, and what TLC is given for them. Runs nothing: that is `spec.replay`.

The lines of one identity, in the order of their clock, become the constants of `FencedTrace.tla`. What is decided here is only
what cannot matter: lives run on as few machines as were busy at once, and numbers are made small without changing their order.

>>> numbers = Numbers([0, 700, 31, 700])
>>> numbers.small(31), numbers.small(700), numbers.large(2)
(1, 2, 700)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["FACTS", "REVISIONS", "Entry", "Event", "Model", "NotATrace", "Numbers", "event_of", "model", "read"]

LINE_BYTES_MAX = 1 << 16
PLAIN = re.compile(r"[0-9A-Za-z._-]{0,100}")  # what may stand in a text; nobody writes anything else
ENTRIES_IN_ONE = 500  # of the trace, in one definition of the module

# Of each action the facts that its line must have. A slot is null where there is none yet.
NUMBER, SLOT, TEXT = "a number", "a slot or null", "a plain text"
_READ = {"revision": NUMBER, "last": SLOT, "digest": TEXT}
_WRITE = {"fence": NUMBER, "expected": NUMBER, "slot": NUMBER, "digest": TEXT}
FACTS: dict[str, dict[str, str]] = {
    "Look": {"since": NUMBER, "seen": NUMBER, **_READ},
    "Claim": {"seen": NUMBER},
    "Claimed": {"fence": NUMBER, **_READ},
    "Persist": {**_WRITE, "on": SLOT, "base": TEXT},
    "Refresh": _WRITE,
    "Committed": {"fence": NUMBER, "revision": NUMBER, "slot": NUMBER, "digest": TEXT},
    "Unknown": _WRITE,
    "Settle": _WRITE,
    "Refused": {"reason": TEXT, "mine": NUMBER, "seen": NUMBER},
    "FenceLost": {"seen": NUMBER},
    "DeadlinePassed": {},  # of a write: its facts; of a claim: none
    "Resign": {"why": TEXT},
}
REVISIONS = ("seen", "fence", "expected", "revision", "mine")
SLOTS = ("slot", "on", "last")
ENDS = ("Refused", "FenceLost", "DeadlinePassed", "Resign")
BASES, REASONS = ("stored", "landed", "rooted"), ("fenced", "conflict")


class NotATrace(Exception):
    """A file cannot be read as a trace; the text names file and line."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a trace. `t` is in nanoseconds; `source` says where the line stands."""

    t: int
    identity: str
    life: str
    action: str
    facts: Mapping[str, Any]
    source: str = ""

    def __str__(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self.facts.items() if name != "since")
        return f"{self.action} of life {self.life}" + (f" ({facts})" if facts else "")


class Numbers:
    """Small numbers in the same order, for TLC counts to 2^31 and revisions go beyond. 0 stays 0."""

    def __init__(self, values: Iterable[int]) -> None:
        self._values = sorted({0, *values})
        self._ranks = {value: rank for rank, value in enumerate(self._values)}

    def small(self, value: int) -> int:
        return self._ranks[value]

    def large(self, rank: int) -> int:
        return self._values[rank]


# ------------------------------------------------------------------------------------------------------------ reading


def read(path: Path) -> list[Event]:
    """The events of one file. Raises `NotATrace`."""
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
    except OSError as problem:
        raise NotATrace(f"{path}: {problem.strerror}; name a file that was written with --trace") from None
    if lines.pop():
        raise NotATrace(f"{path} line {len(lines) + 1}: the line is cut short; take it out to replay what is before it")
    return [event_of(line, f"{path} line {number}") for number, line in enumerate(lines, start=1)]


def _is(kind: str, found: object) -> bool:
    if kind == TEXT:
        return isinstance(found, str) and PLAIN.fullmatch(found) is not None
    return (type(found) is int and found >= 0) or (kind == SLOT and found is None)


def event_of(line: bytes, source: str) -> Event:
    """The event in one line, which stands at `source`. Raises `NotATrace`."""
    try:
        value = json.loads(line) if len(line) <= LINE_BYTES_MAX else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise NotATrace(f"{source}: not an object in JSON; is this a file that was written with --trace?")
    action = value.pop("action", None)
    if not isinstance(action, str) or action not in FACTS:
        raise NotATrace(f"{source}: {action!r} is no action that a process writes ({', '.join(FACTS)})")
    expected = {"t": NUMBER, "identity": TEXT, "life": TEXT, **FACTS[action]}
    if action == "DeadlinePassed" and len(value) > 3:
        expected |= _WRITE
    for name, kind in expected.items():
        if name not in value or not _is(kind, value[name]):
            raise NotATrace(f"{source}: {action} needs {name!r}, {kind}")
    for name, allowed in (("base", BASES), ("reason", REASONS)):
        if name in expected and value[name] not in allowed:
            raise NotATrace(f"{source}: {name!r} is {value[name]!r}, not one of {', '.join(allowed)}")
    facts = {name: value[name] for name in expected if name not in ("t", "identity", "life")}
    return Event(value["t"], value["identity"], value["life"], action, facts, source)


# ----------------------------------------------------------------------------------------------------- the model of it


@dataclass(frozen=True, slots=True)
class Entry:
    """What TLC is given for an event, or for what the order of events tells besides: a look begins, a life is over."""

    action: str
    life: str
    event: Event | None
    facts: Mapping[str, Any]


def entries(events: Sequence[Event]) -> list[Entry]:
    """The entries in order. A look has two, for it was answered at some moment between."""
    keyed: list[tuple[tuple[int, int, int], Entry]] = []
    last = {event.life: number for number, event in enumerate(events)}
    for number, event in enumerate(events):
        if event.action == "Look":
            keyed.append(((event.facts["since"], 0, number), Entry("LookBegins", event.life, None, event.facts)))
        keyed.append(((event.t, 1, 2 * number), Entry(event.action, event.life, event, event.facts)))
        if last[event.life] == number and event.action not in ENDS:  # killed, as far as the trace goes
            keyed.append(((event.t, 1, 2 * number + 1), Entry("Crash", event.life, None, {})))
    return [entry for _, entry in sorted(keyed, key=lambda pair: pair[0])]


def machines(found: Sequence[Entry]) -> list[str]:
    """For each entry the machine on which its life runs: one that is free, for which machine it is does not matter."""
    last = {entry.life: number for number, entry in enumerate(found)}
    runs_on: dict[str, str] = {}
    free: list[str] = []
    count, result = 0, []
    for number, entry in enumerate(found):
        if entry.life not in runs_on:
            if not free:
                count += 1
                free.append(f"m{count}")
            runs_on[entry.life] = free.pop()
        result.append(runs_on[entry.life])
        if last[entry.life] == number:
            free.append(runs_on[entry.life])
    return result


@dataclass(frozen=True, slots=True)
class Model:
    """The trace of one identity as a model for TLC."""

    entries: Sequence[Entry]
    module: str
    configuration: str
    revisions: Numbers
    slots: Numbers


def model(events: Sequence[Event], *, ordered: bool, every_step: bool = False) -> Model:
    """The model of the events of one identity; `every_step` has TLC ask of each step whether it is the specification's."""
    events = sorted(events, key=lambda event: event.t)  # stable: what a file says is in its order
    found = entries(events)
    where = machines(found)
    revisions = Numbers(event.facts[name] for event in events for name in REVISIONS if name in event.facts)
    told = [event.facts[name] for event in events for name in SLOTS if event.facts.get(name) is not None]
    slots = Numbers(slot + 1 for slot in told)  # slot 0 can be voted for; 0 says that there is none

    digests = {"": ""}
    for event in events:
        digests.setdefault(event.facts.get("digest", ""), f"d{len(digests)}")

    def value(name: str, fact: Any) -> str:
        if name in SLOTS:
            return str(0 if fact is None else slots.small(fact + 1))
        if name in REVISIONS:
            return str(revisions.small(fact))
        return f'"{digests[fact] if name == "digest" else fact}"'

    def record(entry: Entry, machine: str) -> str:
        facts = "".join(f", {name} |-> {value(name, fact)}" for name, fact in entry.facts.items() if name not in ("since", "why"))
        return f'[action |-> "{entry.action}", node |-> "{machine}"{facts}]'

    records = [record(entry, machine) for entry, machine in zip(found, where, strict=True)]
    parts = [records[first : first + ENTRIES_IN_ONE] for first in range(0, len(records), ENTRIES_IN_ONE)]
    definitions = [f"Part{number} == <<\n" + ",\n".join(part) + ">>" for number, part in enumerate(parts)]
    whole = " \\o ".join(f"Part{number}" for number in range(len(parts)))
    claims = sum(entry.action == "Claim" for entry in found)
    module = "\n".join(
        (
            "---- MODULE Replay ----",
            "EXTENDS FencedTrace",
            *definitions,
            f"TheTrace == {whole}",
            f"TheStart == {_start(events, revisions, slots, digests)}",
            "TheInstances == {" + ", ".join(f'"{machine}"' for machine in sorted(set(where))) + "}",
            f"TheLives == 1..{max(1, claims)}",
            f"TheSlots == {{{', '.join(str(slots.small(slot + 1)) for slot in sorted(set(told)))}}}",
            "====",
        )
    )
    text = CONFIGURATION.format(ordered=str(ordered).upper())
    if every_step:
        text += "PROPERTIES\n  StepsOfTheSpecification\n"
    return Model(found, module + "\n", text, revisions, slots)


CONFIGURATION = """\
SPECIFICATION TraceSpec
CONSTANTS
  Trace <- TheTrace
  Start <- TheStart
  Ordered = {ordered}
  Instances <- TheInstances
  Legacy = {{}}
  Lives <- TheLives
  Slots <- TheSlots
  BlockSlots = {{}}
  InstanceCheck = "revision"
  RandomInstance = TRUE
  CompareTower = TRUE
  AtomicClaim = TRUE
  CommitBeforeRelease = TRUE
  HoldUnknown = TRUE
  SettleBeforeDeciding = TRUE
  FencedBlocks = TRUE
  CompareBlocks = TRUE
  KeepTower = TRUE
  DigestRevision = FALSE
INVARIANTS
  Furthest
  NoConflictingRelease
  DurableBeforeRelease
  FencedWrites
  WellFormedTower
  NoDecisionWhileUnresolved
"""


def _start(events: Sequence[Event], revisions: Numbers, slots: Numbers, digests: Mapping[str, str]) -> str:
    """What the store held before: what the first look saw, for every claim follows a look, and every write a claim."""
    first = next((event.facts for event in events if event.action == "Look"), None)
    if first is None:
        first = {"seen": 0, "revision": 0, "last": None, "digest": ""}
    fence, number = revisions.small(first["seen"]), revisions.small(first["revision"])
    present = sorted(each for each in {fence, number} if each)
    votes = "<<>>" if first["last"] is None else f"<<{slots.small(first['last'] + 1)}>>"
    return (
        f"[revision |-> {len(present)}, instance |-> {present.index(fence) + 1 if fence else 0}, "
        f"tower |-> {present.index(number) + 1 if number else 0}, votes |-> {votes}, fence |-> {fence}, "
        f"number |-> {number}, digest |-> \"{digests[first['digest']]}\"]"
    )
