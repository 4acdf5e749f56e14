"""A failover on the screen: numbered steps, the table of before and after, how it ended; and the same as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tower.validator.failover import Ending, Run, State, Step
from tower.validator.failover_plan import GIVER, facts_document, rows
from tower.validator.failover_run import Report

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "document", "ended_text", "print_report", "step_lines"]

WIDTH = 132  # where the output is no terminal
MARKS = {
    State.WAITING: "…",
    State.DONE: "✓",
    State.DOUBTFUL: "!",
    State.WOULD: "→",
    State.SKIPPED: "-",
    State.FAILED: "✗",
    State.UNDOING: "↺",
    State.UNDONE: "↺",
}


def console() -> Console:
    from rich.console import Console

    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=WIDTH)


def step_lines(run: Run) -> list[str]:
    """A line for each step that has ended, or would be done.

    >>> from tower.validator.failover import begin, drilled, succeeded
    >>> step_lines(drilled(succeeded(begin([Step("a", "Look", 5), Step("b", "Claim", 5)]), "fine", 12.34)))
    ['1. ✓ Look (12 ms): fine', '2. → Claim: would be done']
    """
    ended = [(number, step) for number, step in enumerate(run.steps, 1) if step.note or step.state is State.WOULD]
    return [f"{number}. {MARKS[step.state]} {step.title}{_took(step)}: {step.note or step.state.value}" for number, step in ended]


def _took(step: Step) -> str:
    return "" if step.ms is None else f" ({step.ms:,.0f} ms)"


def print_report(report: Report, out: Console, *, plan: bool) -> None:
    """The steps (of a plan), and the table of before and after."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    facts = report.facts
    if plan:
        side = "the owner's side: a spare is asked" if facts.role == GIVER else "the spare's side: it takes over"
        out.print(Text(f"Failover of {facts.identity}, from {side}"))
        table = Table("#", "step", "within", "now", header_style="bold", box=box.SIMPLE_HEAVY, pad_edge=False)
        for number, step in enumerate(report.run.steps, 1):
            now = step.note if step.state is not State.WOULD else "would be done"
            cells = (str(number), step.title, f"{step.deadline_s:g} s", f"{MARKS[step.state]} {now}")
            table.add_row(*(Text(cell, overflow="fold") for cell in cells))
        out.print(table)
    if not facts.slot:
        return  # it did not get as far as the cluster: there is nothing to compare
    compared = Table("", "before", "after", header_style="bold", box=box.SIMPLE_HEAVY, pad_edge=False)
    for row in rows(facts, report.after):
        compared.add_row(*(Text(cell, overflow="fold") for cell in row))
    out.print(compared)


def ended_text(report: Report, *, plan: bool) -> str:
    """How it ended, in one line."""
    run, result, facts = report.run, report.result, report.facts
    match run.ending:
        case Ending.DRILL if plan:
            return "Nothing speaks against it. Try it without writing: `failover run`; do it: `failover run --not-a-drill`"
        case Ending.DRILL:
            claims = "the spare would claim" if facts.role == GIVER else "this node would claim"
            done = sum(step.ms or 0.0 for step in run.steps)
            return (
                f"A drill, nothing was written: {claims} {facts.identity}, fence {facts.fence} -> a higher one, after its last "
                f"vote. Reading took {done:,.0f} ms, one look at the store {facts.look_ms:.1f} ms. Do it: --not-a-drill"
            )
        case Ending.DONE | Ending.INCOMPLETE:
            said = "Done" if run.ending is Ending.DONE else f"Changed hands, but incomplete ({run.reason})"
            times = [(result.claimed_ms, "claimed"), (result.stored_ms, "first vote stored"), (result.landed_ms, "landed")]
            after = ", ".join(f"{what} after {ms:,.0f} ms" for ms, what in times if ms is not None)
            slots = f"votes {_text(result.last_slot_before)} -> {_text(result.first_slot_after)}"
            return f"{said} in {report.seconds:.1f} s: {after}; {slots}, {_text(result.votes_missed)} votes missed"
        case Ending.UNDONE:
            return f"Undone: {run.step.note}"
        case Ending.UNKNOWN:
            return f"Indeterminate: {run.step.note}; ask again with `openos-validator status`"
        case _:
            return f"Refused, nothing was begun: {run.reason}"


def _text(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def document(report: Report) -> dict[str, Any]:
    """Everything, as JSON."""
    run, facts = report.run, report.facts
    listed = [
        {
            "number": number, "step": step.key, "title": step.title, "deadlineSeconds": step.deadline_s, "writes": step.writes,
            "state": step.state.value, "milliseconds": step.ms, "note": step.note or None,
        }
        for number, step in enumerate(run.steps, 1)
    ]  # fmt: skip
    return {
        "ending": None if run.ending is None else run.ending.value,
        "reason": run.reason or None,
        "role": facts.role,
        "identity": facts.identity,
        "voteAccount": facts.vote_account,
        "steps": listed,
        "before": facts_document(facts),
        "after": facts_document(report.after),
        "result": report.result.document() if run.claimed else None,
        "seconds": round(report.seconds, 3),
    }
