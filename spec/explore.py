"""Every state of a model of manifest.json, visited in Python: the executable model beside TLC, where there is no Java.

    python -m spec.explore failover swept-tower    these models
    python -m spec.explore                         every model but the large ones; some minutes

It visits states breadth first as TLC does: within the bounds of MCFencedTower, with machines of one kind that may change places
counted once, and every promise asked of every state and step, also of the first one out of bounds. So the number of states and
the length of a counterexample must be those of the manifest; the exit status is 1 where they are not, 2 for a model that
does not exist.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from spec import model
from spec.check import SPEC, Found, Model, load_models, verdict
from spec.model import Constants, Init, Next
from spec.values import Nodes, State

__all__ = ["Bounds", "bounds_of", "explore", "main"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """A model as it is explored: its constants, how far it goes, and what is asked of it."""

    constants: Constants
    revision_max: int
    clock_max: int
    checks: tuple[str, ...]


def _value(text: str, machines: dict[str, int]) -> Any:
    """The value of a constant, as the configuration writes it.

    >>> _value("{1, 2}", {}), _value("{a, old}", {"a": 0, "old": 1}), _value("TRUE", {}), _value('"none"', {})
    (frozenset({1, 2}), frozenset({0, 1}), True, 'none')
    """
    if text.startswith("{"):
        return frozenset(_value(part, machines) for part in re.findall(r"\w+", text))
    if text in machines:
        return machines[text]
    return {"TRUE": True, "FALSE": False}[text] if text.isalpha() else int(text) if text.isdigit() else text.strip('"')


def bounds_of(chosen: Model) -> Bounds:
    """The bounds of a model: MCFencedTower.cfg with what the manifest changes in it."""
    base = (SPEC / "MCFencedTower.cfg").read_text()
    written = {**dict(re.findall(r"(?m)^  (\w+) = (.*)$", base)), **chosen.constants}
    names = re.findall(r"\w+", written["Instances"]) + re.findall(r"\w+", written["Legacy"])
    machines = {name: number for number, name in enumerate(names)}
    values = {name: _value(text, machines) for name, text in written.items()}
    revision_max, clock_max = values.pop("MaxRevision"), values.pop("MaxClock")
    asked = chosen.checks or re.findall(r"(?m)^  (\w+)$", base[base.index("INVARIANTS") :])
    return Bounds(Constants(**values), revision_max, clock_max, tuple(asked))


def _took_over(s: State, n: int) -> bool:
    """TookOver of MCFencedTower: this machine wrote the second vote under its fence; the first one had left from elsewhere."""
    me = s.node[n]
    second = me.state == "ready" and len(me.tower) == 2 and me.tower[:1] in s.released
    return second and isinstance(me.revision, int) and me.revision == me.fence + 1


def _questions(bounds: Bounds) -> tuple[dict[str, Callable[[State], bool]], dict[str, Callable[[State, State], bool]]]:
    """What is asked of every state, and of every step, by name."""
    c = bounds.constants
    of_states: dict[str, Callable[[State], bool]] = {promise.__name__: promise for promise in model.OF_EVERY_STATE}
    of_states["TypeOK"] = lambda s: model.TypeOK(c, s)
    # No promises: what must be reached, see MCFencedTower.
    of_states["NoHandover"] = lambda s: not any(_took_over(s, n) for n in Nodes(c))
    of_states["NoHandoverToInstance"] = lambda s: not any(_took_over(s, n) for n in c.Instances)
    of_states["NoHandoverToLegacy"] = lambda s: not any(_took_over(s, n) for n in c.Legacy)
    of_states["NoSecondProducer"] = lambda s: len({block.by for block in s.produced}) <= 1
    of_steps = {promise.__name__: promise for promise in model.OF_EVERY_STEP}
    return (
        {name: of_states[name] for name in bounds.checks if name in of_states},
        {name: of_steps[name] for name in bounds.checks if name in of_steps},
    )


def _images(c: Constants, s: State) -> Iterator[State]:
    """`s` with the machines of this product in every other order: which machine is which does not matter."""
    own = sorted(c.Instances)
    for order in permutations(own):
        place = {**{n: n for n in c.Legacy}, **dict(zip(own, order, strict=True))}
        yield s._replace(
            node=tuple(s.node[n] for n in sorted(place, key=place.__getitem__)),
            sent=frozenset(m._replace(node=place[m.node]) for m in s.sent),
            answers=frozenset(a._replace(to=a.to._replace(node=place[a.to.node])) for a in s.answers),
        )


def explore(bounds: Bounds) -> Found:
    """Visit every state within bounds, nearest first, until a question is answered with no."""
    begun = time.monotonic()
    c = bounds.constants
    of_states, of_steps = _questions(bounds)
    start = Init(c)
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    seen = set(_images(c, start))
    frontier = [start]

    def found(violated: str, last: State, action: str) -> Found:
        way = [action]
        while (step := came_from[last]) is not None:
            last, action = step
            way.append(action)
        return Found(time.monotonic() - begun, violated=violated, actions=tuple(reversed(way)))

    while frontier:
        reached: list[State] = []
        for s in frontier:
            for action, after in Next(c, s):
                for name, kept in of_steps.items():
                    if not kept(s, after):
                        return found(name, s, action)
                if after in seen:
                    continue
                for name, holds in of_states.items():
                    if not holds(after):
                        return found(name, s, action)
                if after.store.revision > bounds.revision_max or after.clock > bounds.clock_max:
                    continue
                came_from[after] = (s, action)
                seen.update(_images(c, after))
                reached.append(after)
        frontier = reached
    return Found(time.monotonic() - begun, states=len(came_from))


def main(arguments: list[str] | None = None) -> int:
    """Explore the models that were named and compare with the manifest."""
    models = {each.name: each for each in load_models()}
    parser = argparse.ArgumentParser(prog="python -m spec.explore", description="Explore models in Python, without Java.")
    parser.add_argument("model", nargs="*", help="of spec/manifest.json; default: all but the large ones")
    options = parser.parse_args(arguments)
    unknown = set(options.model) - set(models)
    if unknown:
        parser.error(f"no model {', '.join(sorted(unknown))} in spec/manifest.json")
    good = True
    for name in options.model or [each.name for each in models.values() if not each.large]:
        result = explore(bounds_of(models[name]))
        problem = verdict(models[name], result)
        said = f"{result.violated}, {result.steps} steps" if result.violated else f"holds, {result.states} states"
        print(f"{'ok  ' if problem is None else 'FAIL'} {name:<32} {said:<40} {result.seconds:6.1f} s", flush=True)
        if problem is not None:
            good = False
            print(f"     {problem}: {' '.join(result.actions)}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
