"""What each strike cost, and the page that says it. `docs/faults.md` is made by the run and by nothing else."""

from __future__ import annotations

import datetime
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.fault.faults import CATALOGUE
from tests.fault.judge import Evidence

__all__ = ["PAGE", "Row", "cells_of", "rows_of", "write_page", "write_soak"]

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
PAUSE_S = 0.6  # three slots
BEGIN, END = "<!-- the table is made by the run: begin -->", "<!-- the table is made by the run: end -->"
SOAK_BEGIN, SOAK_END = "<!-- this is made by the soak: begin -->", "<!-- this is made by the soak: end -->"


@dataclass(frozen=True, slots=True)
class Row:
    """One strike. Times in seconds; `again_s` from the strike to the first vote after the longest silence, `None`: never."""

    fault: str
    silent_s: float
    missed: int
    again_s: float | None
    restarted: bool
    conflicts: int

    @property
    def paused(self) -> bool:
        """Whether there was a silence at all: a skipped slot or two is none."""
        return self.again_s is None or self.silent_s > PAUSE_S

    def __str__(self) -> str:
        again = "not again" if self.again_s is None else f"voting again after {self.again_s:.1f} s" if self.paused else "no pause"
        return f"{self.fault}: {self.silent_s:.1f} s without a vote, {self.missed} votes missed, {again}"


def rows_of(evidence: Evidence) -> list[Row]:
    """A row for each strike of a run that came to its end."""
    votes = evidence.votes
    voted, chain = {vote["last_slot"] for vote in votes}, evidence.report["chain"]
    rows = []
    for strike in evidence.run["strikes"]:
        if not strike["until_unix_ms"]:
            continue
        begin, end = strike["at_unix_ms"], strike["until_unix_ms"]
        before = [vote for vote in votes if vote["unix_ms"] <= begin][-1:]
        within = before + [vote for vote in votes if begin < vote["unix_ms"] <= end]
        silences = [(b["unix_ms"] - a["unix_ms"], a, b) for a, b in pairwise(within)]
        if not silences:
            rows.append(Row(strike["fault"], (end - begin) / 1000, 0, None, strike["restarted"], 0))
            continue
        longest, _, after = max(silences, key=lambda each: each[0])
        first, last = within[0]["last_slot"], within[-1]["last_slot"]
        missed = sum(first < slot < last and slot not in voted for slot in chain)
        again = max(0, after["unix_ms"] - begin) / 1000
        conflicts = evidence.report["conflicts_total"]
        rows.append(Row(strike["fault"], longest / 1000, missed, again, strike["restarted"], conflicts))
    return rows


def cells_of(rows: Sequence[Row]) -> list[list[str]]:
    """The table's rows: one for each fault of the catalogue that struck, the worst of its strikes."""
    cells = []
    for name, fault in CATALOGUE.items():
        found = [row for row in rows if row.fault == name]
        if not found:
            continue
        paused = [row for row in found if row.paused]
        longest = max((row.again_s or 0.0 for row in paused), default=0.0)
        again = "never" if any(row.again_s is None for row in found) else f"{longest:.1f} s" if paused else "no pause"
        by_hand = ", started by hand" if any(row.restarted for row in found) else ""
        cells.append(
            [
                name,
                fault.what,
                str(len(found)),
                f"{max(row.silent_s for row in found):.1f} s",
                str(max(row.missed for row in found)),
                str(sum(row.conflicts for row in found)),
                again + by_hand,
                fault.stops,
            ]
        )
    return cells


SOAK_ROWS = {
    "slots": "slots",
    "slots missed": "of them without a vote of ours: every owner that was killed, frozen or cut off missed some",
    "votes released": "votes released",
    "votes landed": "of them landed",
    "operations": "store operations, all histories linearizable",
    "tower: committed": "towers committed",
    "tower: refused": "towers refused",
    "tower: unknown": "towers whose outcome the writer never learned",
    "claim: claimed": "claims",
    "copies: committed": "late copies of a write that repeated what was stored",
    "copies: refused": "late copies that were refused",
    "blocks: committed": "reservations of block slots committed",
    "blocks: refused": "reservations refused",
    "blocks: unknown": "reservations whose outcome the writer never learned",
    "windows reserved": "leader windows reserved",
    "blocks": "blocks announced",
}
HEADS = ("fault", "what", "struck", "longest without a vote", "votes missed", "conflicts", "voting again after", "why it stops")


def write_page(rows: Sequence[Row], results: Sequence[Any], seconds: float, seed: int) -> None:
    """Replace the part of the page between its marks."""
    lines = [f"| {' | '.join(HEADS)} |", f"| {' | '.join('---' for _ in HEADS)} |"]
    lines += [f"| {' | '.join(cells)} |" for cells in cells_of(rows)]
    counts: Counter[str] = Counter()
    for result in results:
        if result.verdict is not None:
            counts.update(result.verdict.counts)
    skipped = [f"{result.scenario.name} ({result.skipped})" for result in results if result.skipped]
    facts = [
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, CPython {platform.python_version()}, "
        f"`python -m tests.fault.run --seed {seed}`: {sum(1 for each in results if each.verdict is not None)} scenarios, "
        f"{len(rows)} faults in {seconds:.0f} s. {counts['operations']} store operations, all linearizable; "
        f"{counts['tower: committed']} towers committed, {counts['tower: refused']} refused, {counts['tower: unknown']} unknown; "
        f"{counts['votes released']} votes released, {counts['slots missed']} of {counts['slots']} slots missed; "
        f"{counts['claim: claimed']} claims; conflicts {counts['conflicts']}, double blocks {counts['double blocks']}.",
        f"Not run here: {'; '.join(skipped) if skipped else 'nothing'}.",
    ]
    _put(BEGIN, END, [*facts, "", *lines])


def write_soak(told: Mapping[str, Any]) -> None:
    """The same for what a soak has seen; `told` are its statistics."""
    counts = Counter(told["counts"])
    commits = ", ".join(f"{commit} ({rounds})" for commit, rounds in told["commits"].items())
    facts = [
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, CPython {platform.python_version()}, "
        f"`python -m tests.fault.soak --seed {told['seed']}`: {told['round']} rounds in {told['seconds'] / 60:.0f} min, "
        f"at commits {commits}. **{counts['failovers']:,} failovers, conflicts {counts['conflicts']}, "
        f"double blocks {counts['double blocks']}.**",
        "",
    ]
    lines = ["| what | how many |", "| --- | --- |"]
    lines += [f"| {what} | {counts[name]:,} |" for name, what in SOAK_ROWS.items() if counts[name]]
    lines += [f"| {name} | {counts[name]:,} |" for name in sorted(counts) if name.startswith(("unknown, then", "rounds without"))]
    lines.append(f"| longest time without a vote | {counts['longest silence, ms'] / 1000:.1f} s |")
    lines += ["", "| fault | struck |", "| --- | --- |"]
    lines += [f"| {name.removeprefix('fault: ')} | {counts[name]:,} |" for name in sorted(counts) if name.startswith("fault: ")]
    _put(SOAK_BEGIN, SOAK_END, [*facts, *lines])


def _put(begin: str, end: str, lines: Sequence[str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split(begin)
    tail = rest.split(end)[1]
    PAGE.write_text("\n".join([head + begin, *lines, end + tail]), encoding="utf-8")
