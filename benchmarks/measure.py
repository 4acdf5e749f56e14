"""Timing side by side: what is compared is called in turns, so that a busy or throttled machine slows both alike.

What this does not do: it does not pin processors, does not subtract the cost of a Python call, and makes no claim about
another machine. A ratio of two medians of one run is the claim; the absolute figures beside it only say on what scale.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Here", "Sample", "Timed", "in_turns", "interleaved"]


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds per call, one entry a round, in the order of the rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def quantile(self, share: float) -> float:
        """The smallest value that at least `share` of the rounds do not exceed."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1e6) * len(ordered) // 1_000_000) - 1))]

    def summary(self) -> dict[str, float]:
        """What the report and the JSON keep, in seconds."""
        return {
            "rounds": len(self.seconds),
            "min": min(self.seconds),
            "q1": self.quantile(0.25),
            "median": self.median,
            "q3": self.quantile(0.75),
            "p99": self.quantile(0.99),
            "max": max(self.seconds),
        }


def interleaved(
    cases: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    inner: int = 1,
    after: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, Sample]:
    """Call every case `inner` times in each of `rounds` rounds, one case after the other; seconds per call of each.

    `after`: what follows on a case's turn and does not count.

    The order turns around from round to round. Garbage collection waits meanwhile, as `timeit` has it.
    """
    taken: dict[str, list[float]] = {name: [] for name in cases}
    clock, order, after = time.perf_counter, list(cases.items()), after or {}
    for name, call in order:  # caches, branch predictors, connections
        call()
        after.get(name, bool)()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in order:
                turns = range(inner)
                began = clock()
                for _ in turns:
                    call()
                taken[name].append((clock() - began) / inner)
                after.get(name, bool)()
            order.reverse()
    finally:
        if collecting:
            gc.enable()
    return {name: Sample(tuple(seconds)) for name, seconds in taken.items()}


class Timed(Protocol):
    """What can be called in turns with others, in this process or in one of its own, and says itself how long it took."""

    def take(self, calls: int) -> list[float]:
        """Seconds of each of so many calls, one after the other."""


@dataclass(frozen=True, slots=True)
class Here:
    """A call of this process."""

    call: Callable[[], object]

    def take(self, calls: int) -> list[float]:
        clock, call, taken = time.perf_counter, self.call, []
        for _ in range(calls):
            began = clock()
            call()
            taken.append(clock() - began)
        return taken


def in_turns(cases: Mapping[str, Timed], *, rounds: int, calls: int, before: int = 1) -> dict[str, Sample]:
    """Each case takes its turn in each of `rounds` rounds: `before` calls that do not count, then `calls` that do.

    For cases in other processes, which wake up in the first call of a turn. All have it, so that all are treated alike. The order
    turns around from round to round, and garbage collection waits, as in `interleaved`; a sample has `rounds * calls` entries.
    """
    taken: dict[str, list[float]] = {name: [] for name in cases}
    order = list(cases.items())
    for _, case in order:
        case.take(1 + before)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, case in order:
                taken[name] += case.take(before + calls)[before:]
            order.reverse()
    finally:
        if collecting:
            gc.enable()
    return {name: Sample(tuple(seconds)) for name, seconds in taken.items()}
