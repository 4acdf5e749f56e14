"""What the demo found: a row a phase, expectations that held or did not, and the table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

__all__ = ["Ledger", "Phase", "Votes", "print_result", "ranges"]


@dataclass(frozen=True, slots=True)
class Votes:
    """The judge's report on our vote account, ordered by arrival."""

    arrivals: tuple[dict[str, Any], ...]
    chain: tuple[int, ...]
    conflicts: int

    @classmethod
    def of(cls, report: dict[str, Any], vote_account: str) -> Votes:
        mine = [vote for vote in report["votes"] if vote["vote_account"] == vote_account]
        return cls(tuple(sorted(mine, key=lambda vote: vote["unix_ms"])), tuple(report["chain"]), report["conflicts_total"])

    def from_address(self, address: str, since_ms: int = 0) -> list[dict[str, Any]]:
        """The votes that came from one machine at or after a time."""
        return [vote for vote in self.arrivals if vote["source"] == address and vote["unix_ms"] >= since_ms]

    def missed(self, after: int, before: int) -> int:
        """How many slots of the chain strictly between two voted ones got no vote of ours."""
        voted = {vote["last_slot"] for vote in self.arrivals}
        return sum(1 for slot in self.chain if after < slot < before and slot not in voted)


@dataclass(slots=True)
class Phase:
    """One row of the table. Milliseconds count from the event that the phase is about."""

    title: str
    giver: str
    giver_slots: tuple[int, int] | None = None
    taker: str = ""
    taker_slots: tuple[int, int] | None = None
    missed: int | None = None
    first_vote_ms: int | None = None
    ended_ms: int | None = None
    ended_from: str = ""  # a mark where `ended_ms` does not count from the phase's own event
    conflicts: int = 0


@dataclass(slots=True)
class Ledger:
    """Rows and expectations, in the order in which they came."""

    phases: list[Phase] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    held: int = 0

    def expect(self, what: str, holds: bool) -> None:
        if holds:
            self.held += 1
        else:
            self.broken.append(what)


def _slots(who: str, slots: tuple[int, int] | None) -> str:
    return f"{who} {slots[0]}-{slots[1]}" if slots else who


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


TEXT_COLUMNS = ("phase", "voted before", "votes after")
NUMBER_COLUMNS = ("slots\nmissed", "ms to\nfirst vote", "ms to the\nold one's end", "conflicting\nvotes")


def print_result(console: Console, ledger: Ledger, seconds: float) -> None:
    """The table, what did not hold, and one last line."""
    table = Table(header_style="bold", box=box.SIMPLE_HEAVY, pad_edge=False)
    for name in TEXT_COLUMNS:
        table.add_column(name, no_wrap=True, vertical="bottom")
    for name in NUMBER_COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for phase in ledger.phases:
        table.add_row(
            phase.title,
            _slots(phase.giver, phase.giver_slots),
            _slots(phase.taker, phase.taker_slots) or "nobody",
            _number(phase.missed),
            _number(phase.first_vote_ms),
            _number(phase.ended_ms) + phase.ended_from,
            str(phase.conflicts),
        )
    console.print(table)
    if any(phase.ended_from for phase in ledger.phases):
        note = "* from the thaw; the others from the start of set-identity, of the primary, or from the end of the store"
        console.print(note, highlight=False)
    for what in ledger.broken:
        console.print(f"[bold red]did not hold:[/] {what}")
    verdict = "[bold green]all held[/]" if not ledger.broken else f"[bold red]{len(ledger.broken)} did not hold[/]"
    console.print(f"{ledger.held + len(ledger.broken)} expectations, {verdict}; {seconds:.0f} s", highlight=False)


def ranges(votes: Sequence[dict[str, Any]]) -> tuple[int, int] | None:
    """First and last slot of some votes."""
    slots = [vote["last_slot"] for vote in votes]
    return (min(slots), max(slots)) if slots else None
