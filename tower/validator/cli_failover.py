"""`openos-validator auto-takeover` and `failover`: the command line of failovers, over the admin socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tower.errors import InvalidSignature, WireError, WrongTower
from tower.validator.config import Exit
from tower.validator.store_options import ledger_option
from tower.validator.window_options import window_options

if TYPE_CHECKING:
    from tower.validator.failover import Run

__all__ = ["auto_takeover", "failover"]

F = TypeVar("F", bound=Callable[..., Any])


def _ask(ledger: Path, method: str) -> Any:
    from tower.validator.admin import AdminClient

    return AdminClient(ledger).call(method)


@click.group("auto-takeover", no_args_is_help=False)
def auto_takeover() -> None:
    """Pause and resume the automatic take-over of a running spare, and see what it sees."""


@auto_takeover.command("pause")
@ledger_option
def pause(ledger: Path) -> int:
    """Take nothing over automatically until `resume`, or until the validator starts anew."""
    _ask(ledger, "autoTakeoverPause")
    click.echo("Automatic take-over paused")
    return Exit.OK


@auto_takeover.command("resume")
@ledger_option
def resume(ledger: Path) -> int:
    """Watch again, counting from now on."""
    _ask(ledger, "autoTakeoverResume")
    click.echo("Automatic take-over resumed")
    return Exit.OK


@auto_takeover.command("status")
@click.option("--output", type=click.Choice(["json", "json-compact"]), help="Print as JSON.")
@ledger_option
def status(output: str | None, ledger: Path) -> int:
    """Say whether it is on, and everything that speaks against a take-over now."""
    found = _ask(ledger, "autoTakeoverStatus")
    if output is not None:
        compact = output == "json-compact"
        click.echo(json.dumps(found, indent=None if compact else 2, separators=(",", ":") if compact else None))
        return Exit.OK
    because = f" ({found['pausedBecause']})" if found["pausedBecause"] else ""
    click.echo(f"Automatic take-over: {found['state']}{because}")
    click.echo(f"Identity: {found['identity'] or '-'}")
    click.echo(f"Hand-overs: {'accepted' if found['acceptsHandover'] else 'not accepted'}")
    if found["takesBack"]:
        click.echo(f"Waiting for the store, to take back: {found['takesBack']}")
    if found["owner"]:
        click.echo("This node votes: there is nobody to watch")
        return Exit.OK
    silent, behind = found["silentSeconds"], found["behindSlots"]
    if silent is not None:
        click.echo(f"Owner silent in the store: {silent:g} s")
    if behind is not None:
        click.echo(f"Account behind on the chain: {behind} slots")
    for reason in found["reasons"]:
        click.echo(f"Not now: {reason}")
    return Exit.OK


def failover_options(command: F) -> F:
    """What both commands need to know."""
    seconds = click.FloatRange(min=0.1, max=3600)
    options = (
        click.option("--identity", metavar="KEYPAIR", help="Identity to take; on its owner it may be left out."),
        click.option("--spare", metavar="NAME", help="On the owner: ask this machine (its --who). Default: the furthest one."),
        click.option("--require-tower", is_flag=True, help="Refuse if no tower is stored for the identity."),
        click.option("--now", "skip_window", is_flag=True, help="Do not wait for a restart window."),
        window_options,
        click.option(
            "--window-deadline",
            "window_s",
            type=click.FloatRange(min=0.1, max=7 * 86400),
            default=3600.0,
            show_default=True,
            metavar="SECONDS",
            help="How long to wait for a restart window.",
        ),
        click.option(
            "--step-deadline",
            "step_s",
            type=seconds,
            default=30.0,
            show_default=True,
            metavar="SECONDS",
            help="How long every other step may take.",
        ),
        click.option("--output", type=click.Choice(["json", "json-compact"]), help="Print as JSON: indented, or on one line."),
        ledger_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group("failover", no_args_is_help=False)
def failover() -> None:
    """Move an identity from its owner to a spare, step by step; from either node.

    On the spare it claims the identity; on the owner it asks a spare that runs with --accept-handover or --auto-takeover.
    """


@failover.command("plan")
@failover_options
def plan(output: str | None, **flags: Any) -> int:
    """Show the steps, what each would change, and what speaks against it. Changes nothing."""
    return _go(output, real=False, planned=True, **flags)


@failover.command("run")
@click.option("--not-a-drill", "real", is_flag=True, help="Do it. Without this flag everything is tried that only reads.")
@failover_options
def run(output: str | None, real: bool, **flags: Any) -> int:
    """Go through the steps: a drill, or with --not-a-drill the real thing.

    Exit status: 0 done, or the drill went well; 1 refused, undone, or incomplete (the last line says which); 11 the store does
    not answer; 12 the stored tower is unusable.
    """
    return _go(output, real=real, planned=False, **flags)


def _go(
    output: str | None,
    *,
    real: bool,
    planned: bool,
    identity: str | None,
    min_idle_time: float,
    max_delinquent_stake: int,
    **options: Any,
) -> int:
    from tower.validator.failover import Ending
    from tower.validator.failover_read import Options
    from tower.validator.failover_run import Failover
    from tower.validator.failover_text import console, document, ended_text, print_report, step_lines

    asked = Options(keypair=identity, min_idle_minutes=min_idle_time, max_delinquent=max_delinquent_stake, **options)
    shown = output is None
    out, told = console(), 0

    def show(run: Run) -> None:
        nonlocal told
        lines = step_lines(run)
        for line in lines[told:] if shown and not planned else ():
            out.print(line, markup=False, soft_wrap=True)
        told = len(lines)

    report = asyncio.run(Failover(asked, show).go(real=real))
    said, ending = ended_text(report, plan=planned), report.run.ending
    if shown:
        print_report(report, out, plan=planned)
    else:
        compact = output == "json-compact"
        click.echo(json.dumps(document(report), indent=None if compact else 2, separators=(",", ":") if compact else None))
    if ending in (Ending.DONE, Ending.DRILL):
        if shown:
            click.echo(said)
        return Exit.OK
    click.echo(f"Error: {' '.join(said.split())}", err=True)
    if report.run.store_failed:
        return Exit.STORE_FAILED
    unusable = isinstance(report.problem, (InvalidSignature, WireError, WrongTower))
    return Exit.TOWER_UNUSABLE if unusable else Exit.REFUSED
