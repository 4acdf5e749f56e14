"""What runs of the benchmarks are condensed to: benchmarks/results.json, from which the report is made.

A run is a JSON file of pytest-benchmark for one topic, which is one file benchmarks/test_<topic>.py. It takes the place of
the same topic's earlier run and leaves the others; each keeps its commit, its date and how long it took. Numbers are kept to
four digits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["FILE", "NotAFullRun", "condense", "dump", "load", "merge", "targets_of", "verdict"]

FILE = Path(__file__).with_name("results.json")
DIGITS = 4
POINTS_MAX = 70  # of a line of a plot


class NotAFullRun(Exception):
    """One line that says why the run gives no report."""


def _short(value: Any) -> Any:
    """The same with every number rounded to so many digits that a reader can use."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotAFullRun(f"{value} is no figure")
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: _short(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_short(each) for each in value]
    return value


def _thin(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of a plot with at most `POINTS_MAX` points, the last one among them."""
    step = max(1, math.ceil(len(line["x"]) / POINTS_MAX))
    kept = sorted({*range(0, len(line["x"]), step), len(line["x"]) - 1} - {-1})
    return {**line, "x": [line["x"][index] for index in kept], "y": [line["y"][index] for index in kept]}


def condense(run: Mapping[str, Any], topic: str, seconds: float) -> dict[str, Any]:
    """One topic's run in short. Raises `NotAFullRun` for one of smoke tests, or of nothing."""
    made = [each["extra_info"] for each in run["benchmarks"]]
    if not made:
        raise NotAFullRun(f"the run of {topic} has no benchmark in it")
    if not all(info.get("full") for info in made):
        raise NotAFullRun(f"the run of {topic} is one of smoke tests: set TOWER_BENCH=full, or use make bench")
    commit = run["commit_info"]
    return {
        "topic": topic,
        "commit": (commit.get("id") or "unknown")[:12],
        "dirty": bool(commit.get("dirty")),
        "date": run["datetime"][:10],
        "seconds": round(seconds),
        "seed": made[0]["seed"],
        "rows": [_short(row) for info in made for row in info.get("rows", [])],
        "figures": [_short(row) for info in made for row in info.get("figures", [])],
        "series": [_short(_thin(line)) for info in made for line in info.get("series", [])],
    }


def merge(results: Mapping[str, Any], surroundings: Mapping[str, Any], topics: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The results with these topics in the place of their earlier runs."""
    kept = {topic["topic"]: topic for topic in results.get("topics", [])}
    kept.update({topic["topic"]: topic for topic in topics})
    return {"surroundings": dict(surroundings), "topics": [kept[name] for name in sorted(kept)]}


def load() -> dict[str, Any]:
    """What is written down; nothing at all where there is no file yet."""
    if not FILE.exists():
        return {"surroundings": {}, "topics": []}
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def dump(results: Mapping[str, Any]) -> str:
    """As JSON with a line an entry, so that a change of it can be read."""
    lines = [f' "surroundings": {json.dumps(results["surroundings"], indent=2)},', ' "topics": [']
    for number, topic in enumerate(results["topics"], 1):
        plain = {name: value for name, value in topic.items() if not isinstance(value, list)}
        lists = {name: value for name, value in topic.items() if isinstance(value, list)}
        parts = [f"   {json.dumps(name)}: {json.dumps(value)}" for name, value in plain.items()]
        for name, entries in lists.items():
            inside = ",\n".join(f"    {json.dumps(entry, separators=(',', ':'))}" for entry in entries)
            parts.append(f"   {json.dumps(name)}: [\n{inside}\n   ]" if entries else f"   {json.dumps(name)}: []")
        lines.append("  {\n" + ",\n".join(parts) + "\n  }" + ("," if number < len(results["topics"]) else ""))
    return "{\n" + "\n".join([*lines, " ]"]) + "\n}\n"


def verdict(entry: Mapping[str, Any]) -> str:
    """`reached`, `missed`, or nothing where there is no target.

    >>> verdict({"ratio": 1.21, "at_most": 1.15, "at_least": None})
    'missed'
    """
    value = entry["ratio"] if "ratio" in entry else entry["value"]
    if value is None or (entry["at_most"] is None and entry["at_least"] is None):
        return ""
    low = entry["at_least"] is None or value >= entry["at_least"]
    return "reached" if low and (entry["at_most"] is None or value <= entry["at_most"]) else "missed"


def targets_of(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every line that has a target, topic by topic."""
    return [row for topic in results["topics"] for row in [*topic["rows"], *topic["figures"]] if verdict(row)]
