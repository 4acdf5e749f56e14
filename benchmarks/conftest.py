"""The `bench` fixture: how much to measure, with which seed, and where the figures go.

In `make test` every benchmark runs once over its smallest input, so that none can rot; its figures mean nothing there.
`make bench` sets TOWER_BENCH=full. A figure is never asserted: a target that was missed is a line of the report.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.measure import Sample

FULL = os.environ.get("TOWER_BENCH") == "full"
SEED = int(os.environ.get("TOWER_BENCH_SEED", "20261123"))


class Bench:
    """One benchmark's way to the report: rows of tables, series for plots. All times in seconds."""

    def __init__(self, info: dict[str, Any], seed: int) -> None:
        self.full = FULL
        self.seed = seed
        self.rng = random.Random(seed)
        self._info = info
        info["seed"] = seed
        info["full"] = FULL

    def rounds(self, full: int, smoke: int = 2) -> int:
        """How often to repeat: `full` in `make bench`, `smoke` in `make test`."""
        return full if self.full else smoke

    def row(
        self,
        table: str,
        what: str,
        ours: Sample,
        *,
        against: str = "",
        other: Sample | None = None,
        at_most: float | None = None,
        at_least: float | None = None,
        unit: str = "x",
        note: str = "",
    ) -> float | None:
        """A line of the report's `table`; returns the ratio of the medians.

        `other` is what the ratio is taken to (ours / other, or other / ours where `at_least` is the target: times
        faster). `unit` "sig" means that `other` is one bare signature of 300 bytes.
        """
        ratio = None
        if other is not None:
            ratio = other.median / ours.median if at_least is not None else ours.median / other.median
        self._info.setdefault("rows", []).append(
            {
                "table": table,
                "what": what,
                "ours": ours.summary(),
                "against": against,
                "other": None if other is None else other.summary(),
                "ratio": ratio,
                "at_most": at_most,
                "at_least": at_least,
                "unit": unit,
                "note": note,
            }
        )
        return ratio

    def figure(
        self,
        table: str,
        what: str,
        value: float,
        unit: str,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
        note: str = "",
    ) -> None:
        """A line of the report that is no ratio of two samples: megabytes, votes missed, a share of the processor."""
        self._info.setdefault("figures", []).append(
            {"table": table, "what": what, "value": value, "unit": unit, "at_most": at_most, "at_least": at_least, "note": note}
        )

    def series(
        self, plot: str, name: str, x: Sequence[float], y: Sequence[float], *, x_label: str, y_label: str, log: bool = False
    ) -> None:
        """A line of a plot of the report. Lines with the same `plot` share the axes."""
        self._info.setdefault("series", []).append(
            {"plot": plot, "name": name, "x": list(x), "y": list(y), "x_label": x_label, "y_label": y_label, "log": log}
        )

    def distribution(self, plot: str, name: str, sample: Sample) -> None:
        """A line of a plot of latency distributions: milliseconds against the share of the calls that were faster."""
        shares = [index / 200 for index in range(1, 200)] + [0.999]
        self.series(
            plot, name, [sample.quantile(share) * 1000 for share in shares], shares,
            x_label="milliseconds", y_label="share of the calls",
        )  # fmt: skip


@pytest.fixture
def bench(benchmark: Any) -> Bench:
    print(f"seed {SEED}")
    return Bench(benchmark.extra_info, SEED)
