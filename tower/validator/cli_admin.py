"""The commands that ask a running validator through its admin socket, ours or one of another make.

`wait-for-restart-window`, `set-identity`, `exit`, `monitor`, `authorized-voter`, `contact-info`, `set-log-filter`: their names,
flags and texts are those of the tool in use.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from tower.errors import TowerError
from tower.validator.exits import Exit
from tower.validator.ledger_option import ledger_option
from tower.validator.window_options import window_options

__all__ = [
    "authorized_voter",
    "contact_info",
    "exit_",
    "monitor",
    "set_identity",
    "set_log_filter",
    "wait_for_restart_window",
]

STDIN_MAX = 1 << 16


@click.command("wait-for-restart-window")
@click.option("--identity", metavar="ADDRESS", help="Identity to watch: address or keypair file. Default: the node's.")
@window_options
@ledger_option  # fmt: skip
def wait_for_restart_window(
    identity: str | None, min_idle_time: float, max_delinquent_stake: int, skip_new_snapshot_check: bool, ledger: Path
) -> int:
    """Return when the validator may be restarted or failed over at the least cost."""
    import asyncio

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


@click.command("set-identity")
@click.argument("keypair", required=False)
@click.option("--require-tower", is_flag=True, help="Refuse if no tower is stored for the identity.")
@ledger_option
def set_identity(keypair: str | None, require_tower: bool, ledger: Path) -> int:
    """Take over another identity; without a file the keypair's JSON comes from stdin.

    Returns when the identity is adopted: fence held, tower loaded.
    """
    from tower.validator.admin_client import SET_IDENTITY_CALL_S

    whose = ("New validator identity", "setIdentity request")
    _with_keypair(ledger, "setIdentity", keypair, whose, (require_tower,), SET_IDENTITY_CALL_S)
    return Exit.OK


@click.command("exit")
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
        import asyncio

        asyncio.run(_wait(ledger, None, min_idle_time, max_delinquent_stake, skip_new_snapshot_check))
    _ask(ledger, "exit")
    click.echo("Exit request sent")
    if watch:
        _monitor(ledger, already_ended="The validator has ended")
    return Exit.OK


@click.command()
@ledger_option
def monitor(ledger: Path) -> int:
    """Show what the validator is doing until it ends."""
    _monitor(ledger)
    return Exit.OK


def _monitor(ledger: Path, already_ended: str | None = None) -> None:
    import asyncio

    from tower.validator import monitor as watching
    from tower.validator.admin_wire import AdminUnavailable
    from tower.validator.display import status_display

    with status_display() as (line, live):
        try:
            asyncio.run(watching.monitor(ledger, line, live))
        except AdminUnavailable:
            if already_ended is None:
                raise
            line(already_ended)


@click.group("authorized-voter")
def authorized_voter() -> None:
    """Add or remove authorized voters of a running validator, until it restarts."""


@authorized_voter.command("add")
@click.argument("keypair", required=False)
@ledger_option
def add_authorized_voter(keypair: str | None, ledger: Path) -> int:
    """Add a keypair that may vote; without a file its JSON comes from stdin."""
    _with_keypair(ledger, "addAuthorizedVoter", keypair, ("Adding authorized voter", "add authorized voter request"))
    return Exit.OK


@authorized_voter.command("remove-all")
@ledger_option
def remove_all_authorized_voters(ledger: Path) -> int:
    """Remove all authorized voters: voting stops at once."""
    _ask(ledger, "removeAllAuthorizedVoters", failed="remove all authorized voters request")
    click.echo("All authorized voters removed")
    return Exit.OK


@click.command("contact-info")
@click.option("--output", type=click.Choice(["json", "json-compact"]), help="Print as JSON.")
@ledger_option
def contact_info(output: str | None, ledger: Path) -> int:
    """Print identity and addresses of the validator."""
    from tower.validator.display import contact_info_text

    click.echo(contact_info_text(_ask(ledger, "contactInfo"), output))
    return Exit.OK


@click.command("set-log-filter")
@click.argument("level", metavar="LEVEL")
@ledger_option
def set_log_filter(level: str, ledger: Path) -> int:
    """Log from LEVEL on (debug, info, warn, error) until the validator restarts."""
    _ask(ledger, "setLogFilter", level)
    return Exit.OK


def _ask(ledger: Path, method: str, *params: Any, timeout: float | None = None, failed: str = "") -> Any:
    """One admin call; its error says which request failed, as the tool in use says it."""
    from tower.validator.admin_client import AdminClient
    from tower.validator.admin_wire import AdminError, AdminUnavailable

    try:
        return AdminClient(ledger).call(method, *params, timeout=timeout)
    except (AdminError, AdminUnavailable) as problem:
        raise TowerError(f"{failed or f'{method} request'} failed: {problem}") from None


def _with_keypair(
    ledger: Path, method: str, path: str | None, words: tuple[str, str], more: tuple[Any, ...] = (), timeout: float | None = None
) -> None:
    """Call `method` with a keypair file, or `methodFromBytes` with the keypair from stdin. `words`: what is being done, and what
    has failed if it fails."""
    from tower.errors import InvalidInput
    from tower.keys import parse_keypair, read_keypair_file

    doing, failed = words
    if path is not None:
        read_keypair_file(path)  # what is no keypair file is refused here, before the validator is asked
        whole = str(Path(path).resolve())
        click.echo(f"{doing} path: {whole}")
        _ask(ledger, method, whole, *more, timeout=timeout, failed=failed)
        return
    try:
        pair = parse_keypair(sys.stdin.read(STDIN_MAX))
    except (InvalidInput, UnicodeDecodeError) as problem:
        text = "not a keypair file" if isinstance(problem, UnicodeDecodeError) else str(problem)
        raise InvalidInput(f"stdin: {text}; give <KEYPAIR>, or its content on stdin") from None
    click.echo(f"{doing}: {pair.address}")
    _ask(ledger, f"{method}FromBytes", list(pair.secret), *more, timeout=timeout, failed=failed)
