"""`openos-validator`: the command line. It reads flags, calls, and turns what went wrong into one line.

Flags without a subcommand run the validator. `--ledger` may stand before or after a subcommand. Exit statuses are those
of `tower.validator.config.Exit`; this is the one place that maps an error to its status. Everything that takes time to
import is imported by the command that needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from tower.errors import (
    InvalidSignature,
    InvariantViolation,
    StoreUnavailable,
    TowerError,
    UnusableTower,
    WireError,
    WrongTower,
)
from tower.validator.cli_admin import ADMIN_COMMANDS
from tower.validator.cli_certs import certs
from tower.validator.cli_completion import completion
from tower.validator.cli_doctor import doctor
from tower.validator.cli_failover import auto_takeover, failover
from tower.validator.cli_look import LOOKING_COMMANDS
from tower.validator.cli_run import run
from tower.validator.cli_tower import WANTS_LEDGER, tower
from tower.validator.config import Exit

__all__ = ["cli", "exit_status", "main"]

PROGRAM = "openos-validator"
INTERRUPTED = 130


def exit_status(problem: TowerError) -> Exit:
    """The exit status for an error that reached the command line."""
    if isinstance(problem, InvariantViolation):
        return Exit.INTERNAL
    if isinstance(problem, StoreUnavailable):
        return Exit.STORE_FAILED
    if isinstance(problem, (InvalidSignature, UnusableTower, WireError, WrongTower)):
        return Exit.TOWER_UNUSABLE
    return Exit.REFUSED


class _DefaultRun(click.Group):
    """A group whose subcommand may be left out: then it is `run`."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands, and the flags that run the validator."""
        found = super().shell_complete(ctx, incomplete)
        return [*found, *run.shell_complete(ctx, incomplete)] if incomplete.startswith("-") else found

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.resilient_parsing and not args:  # a shell that completes the first word
            return super().parse_args(ctx, args)
        ledger: list[str] = []
        rest = list(args)
        while rest and (rest[0] in ("--ledger", "-l") or rest[0].startswith("--ledger=")):
            taken = 1 if "=" in rest[0] else 2
            ledger, rest = ledger + rest[:taken], rest[taken:]
        if rest and rest[0] in self.commands:
            # `tower` and `authorized-voter` have subcommands of their own
            depth = 2 if isinstance(self.commands[rest[0]], click.Group) else 1
            without = ("certs",) if rest[1:2] and rest[1] in WANTS_LEDGER else ("tower", "certs")
            args = [*rest[:depth], *(ledger if rest[0] not in without else []), *rest[depth:]]
        elif args[:1] not in (["--help"], ["-h"], ["--version"], ["-V"]):
            args = ["run", *args]
        return super().parse_args(ctx, args)


CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    from importlib.metadata import PackageNotFoundError, version

    if not wanted:
        return
    try:
        click.echo(f"{PROGRAM} {version('tower')}")
    except PackageNotFoundError:
        click.echo(f"{PROGRAM} (not installed)")
    ctx.exit()


@click.group(cls=_DefaultRun, context_settings=CONTEXT)
@click.option(
    "--version", "-V", is_flag=True, expose_value=False, is_eager=True, callback=_print_version,
    help="Show the version and exit.",
)  # fmt: skip
def cli() -> None:
    """A fenced Solana voter: no vote leaves before its tower is stored, and only the current owner can store it.

    Flags without a command run the validator; `run --help` lists them.
    """


cli.add_command(run)
cli.add_command(completion)
cli.add_command(certs)
cli.add_command(doctor)
cli.add_command(tower)
cli.add_command(auto_takeover)
cli.add_command(failover)
for _command in (*ADMIN_COMMANDS, *LOOKING_COMMANDS):
    cli.add_command(_command)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. Everything that goes wrong is one line on stderr."""
    call: Callable[..., Any] = cli.main
    try:
        status = call(args, prog_name=PROGRAM, standalone_mode=False)
    except click.UsageError as problem:
        command = problem.ctx.command_path if problem.ctx is not None else PROGRAM
        click.echo(f"Error: {_one_line(problem.format_message())}; see {command} --help", err=True)
        return Exit.USAGE
    except click.ClickException as problem:
        click.echo(f"Error: {_one_line(problem.format_message())}", err=True)
        return Exit.REFUSED
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # whoever read us has gone, there is nobody left to tell
        return Exit.REFUSED
    except TowerError as problem:
        click.echo(f"Error: {_one_line(str(problem))}", err=True)
        return exit_status(problem)
    return int(status or Exit.OK)


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
