"""`openos-validator`: the command line. It reads flags, calls, and turns what went wrong into one line.

Flags without a subcommand run the validator. `--ledger` may stand before or after a subcommand. Exit statuses are those
of `tower.validator.config.Exit`; this is the one place that maps an error to its status. Everything that takes time to
import is imported by the command that needs it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
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
from tower.validator.cli_certs import certs
from tower.validator.cli_completion import completion
from tower.validator.cli_doctor import doctor
from tower.validator.cli_failover import auto_takeover, failover
from tower.validator.cli_look import LOOKING_COMMANDS
from tower.validator.cli_run import run
from tower.validator.cli_tower import WANTS_LEDGER, tower
from tower.validator.config import Exit
from tower.validator.store_options import ledger_option
from tower.validator.window_options import window_options

__all__ = ["cli", "exit_status", "main"]

PROGRAM = "openos-validator"
INTERRUPTED = 130
STDIN_MAX = 1 << 16


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
for _command in LOOKING_COMMANDS:
    cli.add_command(_command)


@cli.command("wait-for-restart-window")
@click.option("--identity", metavar="ADDRESS", help="Identity to watch: address or keypair file. Default: the node's.")
@window_options
@ledger_option  # fmt: skip
def wait_for_restart_window(
    identity: str | None, min_idle_time: float, max_delinquent_stake: int, skip_new_snapshot_check: bool, ledger: Path
) -> int:
    """Return when the validator may be restarted or failed over at the least cost."""
    from tower.validator.preflight import parse_address

    watched = None if identity is None else parse_address(identity, "--identity")
    asyncio.run(_wait(ledger, watched, min_idle_time, max_delinquent_stake, skip_new_snapshot_check))
    return Exit.OK


async def _wait(ledger: Path, watched: bytes | None, minutes: float, max_delinquent: int, skip: bool) -> None:
    from tower.validator import restart_window as window
    from tower.validator.display import status_display
    from tower.validator.rpc import ClusterRpc

    where = await window.find_cluster(ledger)
    identity = where.identity if watched is None else watched
    slots = window.slots_of_minutes(minutes)
    policy = window.Policy(slots, max_delinquent, skip, own=identity == where.identity)
    for line in window.header_lines(identity, policy, minutes):
        click.echo(line)
    with status_display() as (_, live):
        async with ClusterRpc(where.url, flag="the validator's RPC") as rpc:
            verdict = await window.wait(rpc, identity, policy, live)
    click.echo(verdict.text)


@cli.command("set-identity")
@click.argument("keypair", required=False)
@click.option("--require-tower", is_flag=True, help="Refuse if no tower is stored for the identity.")
@ledger_option
def set_identity(keypair: str | None, require_tower: bool, ledger: Path) -> int:
    """Take over another identity; without a file the keypair's JSON comes from stdin.

    Returns when the identity is adopted: fence held, tower loaded.
    """
    from tower.validator.admin import SET_IDENTITY_CALL_S

    _with_keypair(ledger, "setIdentity", keypair, "validator identity", (require_tower,), SET_IDENTITY_CALL_S)
    return Exit.OK


@cli.command("exit")
@click.option("--force", "-f", is_flag=True, help="Now, without waiting for a restart window.")
@click.option("--monitor", "-m", "watch", is_flag=True, help="Monitor the validator until it has ended.")
@window_options
@ledger_option  # fmt: skip
def exit_(
    force: bool, watch: bool, min_idle_time: float, max_delinquent_stake: int, skip_new_snapshot_check: bool,
    ledger: Path,
) -> int:  # fmt: skip
    """End the validator, in a restart window unless --force."""
    if not force:
        asyncio.run(_wait(ledger, None, min_idle_time, max_delinquent_stake, skip_new_snapshot_check))
    _ask(ledger, "exit")
    click.echo("Exit request sent")
    if watch:
        _monitor(ledger, already_ended="The validator has ended")
    return Exit.OK


@cli.command()
@ledger_option
def monitor(ledger: Path) -> int:
    """Show what the validator is doing until it ends."""
    _monitor(ledger)
    return Exit.OK


def _monitor(ledger: Path, already_ended: str | None = None) -> None:
    from tower.validator import monitor as watching
    from tower.validator.admin import AdminUnavailable
    from tower.validator.display import status_display

    with status_display() as (line, live):
        try:
            asyncio.run(watching.monitor(ledger, line, live))
        except AdminUnavailable:
            if already_ended is None:
                raise
            line(already_ended)


@cli.group("authorized-voter")
def authorized_voter() -> None:
    """Add or remove authorized voters of a running validator, until it restarts."""


@authorized_voter.command("add")
@click.argument("keypair", required=False)
@ledger_option
def add_authorized_voter(keypair: str | None, ledger: Path) -> int:
    """Add a keypair that may vote; without a file its JSON comes from stdin."""
    _with_keypair(ledger, "addAuthorizedVoter", keypair, "authorized voter", (), None)
    return Exit.OK


@authorized_voter.command("remove-all")
@ledger_option
def remove_all_authorized_voters(ledger: Path) -> int:
    """Remove all authorized voters: voting stops at once."""
    _ask(ledger, "removeAllAuthorizedVoters")
    click.echo("All authorized voters removed")
    return Exit.OK


@cli.command("contact-info")
@click.option("--output", type=click.Choice(["json", "json-compact"]), help="Print as JSON.")
@ledger_option
def contact_info(output: str | None, ledger: Path) -> int:
    """Print identity and addresses of the validator."""
    from tower.validator.display import contact_info_text

    click.echo(contact_info_text(_ask(ledger, "contactInfo"), output))
    return Exit.OK


def _ask(ledger: Path, method: str, *params: Any, timeout: float | None = None) -> Any:
    """One admin call; its error says which request failed, as the tool in use says it."""
    from tower.validator.admin import AdminClient, AdminError, AdminUnavailable

    try:
        return AdminClient(ledger).call(method, *params, timeout=timeout)
    except (AdminError, AdminUnavailable) as problem:
        raise TowerError(f"{method.removesuffix('FromBytes')} request failed: {problem}") from None


def _with_keypair(ledger: Path, method: str, path: str | None, what: str, more: tuple[Any, ...], timeout: float | None) -> None:
    """Call `method` with a keypair file, or `methodFromBytes` with the keypair from stdin."""
    from tower.errors import InvalidInput
    from tower.keys import parse_keypair, read_keypair_file

    if path is not None:
        read_keypair_file(path)  # what is no keypair file is refused here, before the validator is asked
        whole = str(Path(path).resolve())
        click.echo(f"New {what} path: {whole}")
        _ask(ledger, method, whole, *more, timeout=timeout)
        return
    try:
        pair = parse_keypair(sys.stdin.read(STDIN_MAX))
    except (InvalidInput, UnicodeDecodeError) as problem:
        text = "not a keypair file" if isinstance(problem, UnicodeDecodeError) else str(problem)
        raise InvalidInput(f"stdin: {text}; give <KEYPAIR>, or its content on stdin") from None
    click.echo(f"New {what}: {pair.address}")
    _ask(ledger, f"{method}FromBytes", list(pair.secret), *more, timeout=timeout)


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
