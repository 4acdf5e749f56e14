"""`openos-validator`: the command line. It reads flags, calls, and turns what went wrong into one line.

Flags without a subcommand run the validator. `--ledger` may stand before or after a subcommand. Exit statuses are those
of `tower.validator.exits.Exit`; this is the one place that maps an error to its status. A command is imported when it is named,
and imports what takes time itself: the start of `set-identity` is a part of every failover.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from tower.errors import (
    InvalidSignature,
    InvariantViolation,
    StoreUnavailable,
    TowerError,
    UnusableTower,
    WireError,
    WrongTower,
)
from tower.validator.exits import Exit

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["cli", "exit_status", "main"]

PROGRAM = "openos-validator"
INTERRUPTED = 130

# The commands by name: the module of `tower.validator` that holds each, and its name there.
COMMANDS = {
    "access": ("cli_access", "access"),
    "authorized-voter": ("cli_admin", "authorized_voter"),
    "auto-takeover": ("cli_failover", "auto_takeover"),
    "certs": ("cli_certs", "certs"),
    "completion": ("cli_completion", "completion"),
    "contact-info": ("cli_admin", "contact_info"),
    "doctor": ("cli_doctor", "doctor"),
    "exit": ("cli_admin", "exit_"),
    "failover": ("cli_failover", "failover"),
    "history": ("cli_look", "history"),
    "list": ("cli_look", "list_identities"),
    "monitor": ("cli_admin", "monitor"),
    "run": ("cli_run", "run"),
    "set-identity": ("cli_admin", "set_identity"),
    "set-log-filter": ("cli_admin", "set_log_filter"),
    "status": ("cli_look", "status"),
    "tower": ("cli_tower", "tower"),
    "wait-for-restart-window": ("cli_admin", "wait_for_restart_window"),
    "watch": ("cli_look", "watch"),
}
WANTS_LEDGER = ("export", "import")  # of the commands of `tower`, those to which a --ledger before it is handed on


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
    """A group whose subcommand may be left out: then it is `run`. Its commands are those of `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        home = COMMANDS.get(cmd_name)
        if home is None:
            return None
        command: click.Command = getattr(import_module(f"tower.validator.{home[0]}"), home[1])
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands, and the flags that run the validator."""
        found = super().shell_complete(ctx, incomplete)
        run = self.get_command(ctx, "run") if incomplete.startswith("-") else None
        return found if run is None else [*found, *run.shell_complete(ctx, incomplete)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.resilient_parsing and not args:  # a shell that completes the first word
            return super().parse_args(ctx, args)
        ledger: list[str] = []
        rest = list(args)
        while rest and (rest[0] in ("--ledger", "-l") or rest[0].startswith("--ledger=")):
            taken = 1 if "=" in rest[0] else 2
            ledger, rest = ledger + rest[:taken], rest[taken:]
        command = self.get_command(ctx, rest[0]) if rest else None
        if command is not None:
            # `tower` and `authorized-voter` have subcommands of their own
            depth = 2 if isinstance(command, click.Group) else 1
            without = ("certs",) if rest[1:2] and rest[1] in WANTS_LEDGER else ("access", "tower", "certs")
            args = [*rest[:depth], *(ledger if rest[0] not in without else []), *rest[depth:]]
        elif args[:1] not in (["--help"], ["-h"], ["--version"], ["-V"]):
            args = ["run", *args]
        return super().parse_args(ctx, args)


CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version

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
    from tower.validator.redact import hide_keys

    return hide_keys(" ".join(text.split()))


if __name__ == "__main__":
    sys.exit(main())
