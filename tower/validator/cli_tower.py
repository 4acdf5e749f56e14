"""`openos-validator tower …`: look at saved towers, and carry them between files and a store."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import click

from tower.errors import InvalidInput, TowerError
from tower.validator.config import Exit
from tower.validator.config_file import config_option
from tower.validator.store_options import check_store, ledger_option, open_store, store_options, store_timeout_option

__all__ = ["tower"]

POLL_S = 0.5  # between two looks at the cluster's slot
SILENT_S_MAX = 60.0  # that the cluster's RPC may be away while slots are counted


@click.group()
def tower() -> None:
    """Work on saved towers: look at them, and carry them between files and a store."""


@tower.command("inspect")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.option("--identity", metavar="PUBKEY", help="Whose tower it should be: address or keypair file.")
def inspect_tower(file: Path, as_json: bool, identity: str | None) -> int:
    """Show what a saved tower holds. Exit status 0 only if its signature is valid (and by --identity, if given)."""
    import json

    from tower.validator import inspect
    from tower.validator.preflight import parse_address

    found = inspect.read_tower(file, None if identity is None else parse_address(identity, "--identity"))
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        from rich.console import Console

        inspect.print_table(found, Console(highlight=False))
    if found["signature"] == inspect.VALID:
        return Exit.OK
    click.echo(f"Error: {file}: the signature is {found['signature']}", err=True)
    return Exit.REFUSED


@tower.command("verify")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--identity", required=True, metavar="ADDRESS", help="Whose tower it must be: address or keypair file.")
def verify_tower(file: Path, identity: str) -> int:
    """Say whether a voter would load a saved tower: whole, signed by --identity, well formed. `-` reads stdin.

    Exit status 0 if so, 12 if not.
    """
    from tower.validator.inspect import read_file
    from tower.validator.preflight import parse_address
    from tower.validator.tower_io import load_tower, summary

    found = load_tower(read_file(file), parse_address(identity, "--identity"), str(file))
    click.echo(f"{file}: usable, {found.generation.value}, {summary(found)}")
    return Exit.OK


@tower.command("export")
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--identity", required=True, metavar="ADDRESS", help="Whose tower: address or keypair file.")
@click.option("--force", is_flag=True, help="Overwrite FILE, unless it holds a newer tower.")
@store_options
@store_timeout_option
@ledger_option
@config_option
def export_tower(target: Path, identity: str, force: bool, store_timeout: float, ledger: Path, **flags: Any) -> int:
    """Write the stored tower to FILE, byte for byte; into a folder under its usual name, to stdout with `-`.

    Reads only. Exit status 1 if none is stored; 12 if what is stored is no usable tower: it is written all the same.
    """
    from tower.keys import to_base58
    from tower.store import ABSENT
    from tower.validator.preflight import parse_address
    from tower.validator.tower_io import holder_text, load_tower, summary, take_out

    whose = parse_address(identity, "--identity")
    address = to_base58(whose)
    config = check_store(ledger, **flags)
    to_stdout = str(target) == "-"
    if to_stdout and sys.stdout.isatty():
        raise InvalidInput("stdout is a terminal, and a tower is no text; redirect it, or name a file")
    store = open_store(config)
    try:
        # a folder that does not know the identity stays as it is: to look would leave a lock file
        known = config.etcd is not None or address in store.identities(store_timeout)
        sighting = store.look(address, store_timeout) if known else None
    finally:
        store.close()
    if sighting is None or sighting.record is None:
        raise InvalidInput(f"no tower of {address} is stored at {', '.join(config.places)}; check --identity")
    if to_stdout:
        sys.stdout.buffer.write(sighting.record)
        sys.stdout.flush()
    else:
        click.echo(take_out(sighting.record, whose, target, force=force))
    click.echo(summary(load_tower(sighting.record, whose, "exported, but it is")), err=True)
    if sighting.instance_revision != ABSENT:
        click.echo(f"the fence is held by {holder_text(sighting)}: if it votes, this copy is old with its next vote", err=True)
    return Exit.OK


@tower.command("import")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--identity", required=True, metavar="KEYPAIR", help="Keypair file of the tower's identity.")
@click.option("--take-fence", is_flag=True, help="Take the fence from whoever holds it: a validator that votes ends.")
@click.option("--dry-run", is_flag=True, help="Say what would happen; claim and write nothing.")
@click.option(
    "--replace-stored",
    metavar="SLOT",
    help="Go back: the last voted slot of the stored tower that shall be given up, or `unusable`. Needs --url.",
)
@click.option("--url", "-u", metavar="URL", help="JSON-RPC of the cluster, whose slots are counted for --replace-stored.")
@click.option(
    "--rebuild-wait-slots",
    type=click.IntRange(min=0),
    default=200,
    show_default=True,
    metavar="SLOTS",
    help="Slots to wait under the fence before --replace-stored writes.",
)
@click.option("--who", default="", metavar="NAME", help="Name of this machine in the owner record. Default: host name.")
@store_options
@store_timeout_option
@ledger_option
@config_option
def import_tower(
    file: Path, identity: str, take_fence: bool, dry_run: bool, replace_stored: str | None, url: str | None,
    rebuild_wait_slots: int, who: str, store_timeout: float, ledger: Path, **flags: Any,
) -> int:  # fmt: skip
    """Write a saved tower into the store, under a fence of its own. `-` reads stdin.

    Claims the fence like a validator: whoever votes under it ends, so where one was ever claimed --take-fence is needed. Refuses
    a tower that the stored one could not have grown into.
    """
    from tower.keys import read_keypair_file
    from tower.validator.inspect import read_file
    from tower.validator.tower_io import FenceTaken, bring_in
    from tower.validator.urls import parse_url

    try:
        pair = read_keypair_file(identity)
    except InvalidInput as problem:
        raise InvalidInput(f"--identity: {problem}; an import signs, it needs the keypair") from None
    record = read_file(file)
    config = check_store(ledger, must_exist=False, **flags)
    if replace_stored is not None and url is None:
        raise InvalidInput("--replace-stored: needs --url <URL>, to count the slots until no vote from before can land")
    cluster = "" if replace_stored is None or url is None else parse_url(url)

    def tell(line: str) -> None:
        click.echo(line)
        sys.stdout.flush()

    def before_claim() -> None:
        if cluster:
            asyncio.run(_slot(cluster))  # a cluster that is not there is found before anybody loses the fence

    store = open_store(config)
    try:
        bring_in(
            store, pair, record, str(file), take_fence=take_fence, replace=replace_stored, dry_run=dry_run, who=who,
            timeout=store_timeout, tell=tell, before_claim=before_claim,
            wait=lambda: asyncio.run(_wait_slots(cluster, rebuild_wait_slots, tell)),
        )  # fmt: skip
    except FenceTaken as problem:
        click.echo(f"Error: {file}: {problem}", err=True)
        return Exit.LOST_FENCE
    finally:
        store.close()
    return Exit.OK


async def _slot(url: str) -> int:
    from tower.validator.rpc import ClusterRpc

    async with ClusterRpc(url) as rpc:
        return await rpc.get_slot()


async def _wait_slots(url: str, slots: int, tell: Any) -> None:
    """Return once the cluster is `slots` slots further. Its RPC may be away for a while, but not for good."""
    from tower.validator.rpc import ClusterRpc, RpcError, RpcUnreachable

    tell(f"waiting for {slots} slots under the fence: a vote from before can still land until then")
    first: int | None = None
    heard = time.monotonic()
    async with ClusterRpc(url) as rpc:
        while True:
            try:
                now = await rpc.get_slot()
                heard, first = time.monotonic(), now if first is None else first
                if now >= first + slots:
                    return
            except (RpcError, RpcUnreachable) as problem:
                if time.monotonic() > heard + SILENT_S_MAX:
                    raise TowerError(f"{problem}; nothing was written, the stored tower is as it was") from None
            await asyncio.sleep(POLL_S)
