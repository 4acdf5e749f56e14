"""Traces with one event altered, each in a way that no behaviour of the specification explains: a check of the checker.

Only what something else in the trace contradicts is altered. Nobody was told of the last revision of a trace, say, so another
number there would be as good.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from spec.traces import REVISIONS, Event

__all__ = ["ALTERATIONS", "Altered", "alter"]

WRITES = ("Persist", "Refresh")


@dataclass(frozen=True, slots=True)
class Altered:
    """A trace that must be refused. `wrong` is the event that cannot be explained; `says` is what was done, for people."""

    events: Sequence[Event]
    wrong: Event
    says: str


def alter(events: Sequence[Event], kind: str, rng: random.Random) -> Altered | None:
    """The trace with one event altered in the way that `kind` names, the place drawn from `rng`; `None` if there is no place."""
    events = sorted(events, key=lambda event: event.t)
    places = list(ALTERATIONS[kind](events))
    return rng.choice(places)() if places else None


Place = Callable[[], Altered]


def _fact(events: Sequence[Event], name: str, actions: Sequence[str]) -> Iterator[Place]:
    """Another slot, number or digest than the life itself was told, or is sending."""
    for at, event in enumerate(events):
        old = event.facts.get(name)
        if event.action not in actions or old in (None, ""):
            continue

        def do(at: int = at, event: Event = event, old: int | str = old) -> Altered:
            new = old + 1 if isinstance(old, int) else old[::-1] if old[::-1] != old else f"{old}0"
            wrong = replace(event, facts={**event.facts, name: new})
            says = f"{event.source}: {event.action} with {name} {new}, not {old}"
            return Altered([*events[:at], wrong, *events[at + 1 :]], wrong, says)

        yield do


def _next_write(events: Sequence[Event], at: int) -> Event | None:
    """The next event of the same life, if it is another write: it says what the life was told before."""
    after = (event for event in events[at + 1 :] if event.life == events[at].life)
    following = next(after, None)
    return following if following is not None and following.action in WRITES else None


def _revision(events: Sequence[Event]) -> Iterator[Place]:
    """A commit at another revision than the next write of that life expects."""
    for at, event in enumerate(events):
        following = _next_write(events, at)
        if event.action != "Committed" or following is None:
            continue
        # Whoever was told of this tower or of something later before the next write would be contradicted first.
        others = [other for other in events[: events.index(following)] if other is not event]
        told = (other.facts.get(name, 0) for other in others for name in REVISIONS)
        if any(number >= event.facts["revision"] for number in told):
            continue

        def do(at: int = at, event: Event = event, following: Event = following) -> Altered:
            old = event.facts["revision"]
            new = old + 1
            changed = replace(event, facts={**event.facts, "revision": new})
            says = f"{event.source}: Committed with revision {new}, not {old}"
            return Altered([*events[:at], changed, *events[at + 1 :]], following, says)

        yield do


def _order(events: Sequence[Event]) -> Iterator[Place]:
    """The vote is released before its tower is sent to the store."""
    for at, (first, second) in enumerate(itertools.pairwise(events)):
        if first.action in WRITES and second.action == "Committed" and first.life == second.life and first.t < second.t:

            def do(at: int = at, first: Event = first, second: Event = second) -> Altered:
                wrong, late = replace(second, t=first.t), replace(first, t=second.t)
                says = f"{first.source} and {second.source}: {second.action} before {first.action}"
                return Altered([*events[:at], wrong, late, *events[at + 2 :]], wrong, says)

            yield do


def _dropped(events: Sequence[Event]) -> Iterator[Place]:
    """A write is sent while the one before is under way."""
    for at, event in enumerate(events):
        following = _next_write(events, at)
        if event.action == "Committed" and following is not None:

            def do(at: int = at, event: Event = event, following: Event = following) -> Altered:
                return Altered([*events[:at], *events[at + 1 :]], following, f"{event.source}: Committed taken out")

            yield do


def _added(events: Sequence[Event]) -> Iterator[Place]:
    """A vote is released for which nothing was stored."""
    for at, event in enumerate(events):
        if event.action == "Committed":

            def do(at: int = at, event: Event = event) -> Altered:
                facts = {**event.facts, "slot": event.facts["slot"] + 1, "digest": event.facts["digest"][::-1]}
                wrong = replace(event, facts=facts)
                says = f"after {event.source}: a release of slot {facts['slot']} added"
                return Altered([*events[: at + 1], wrong, *events[at + 1 :]], wrong, says)

            yield do


ALTERATIONS: dict[str, Callable[[Sequence[Event]], Iterator[Place]]] = {
    "slot": lambda events: _fact(events, "slot", ("Committed",)),
    "fence": lambda events: _fact(events, "fence", WRITES),
    "expected": lambda events: _fact(events, "expected", WRITES),
    "revision": _revision,
    "digest": lambda events: _fact(events, "digest", ("Claimed", "Committed")),
    "loaded slot": lambda events: _fact(events, "last", ("Claimed",)),
    "order": _order,
    "dropped commit": _dropped,
    "added release": _added,
}
