"""`openos-validator certs`: make, renew and show the certificates of etcd and its clients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tower.errors import InvalidInput
from tower.validator.config import Exit

__all__ = ["certs"]

folder_option = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    default=Path("certs"),
    show_default=True,
    metavar="DIR",
    help="Folder of the certificates.",
)


@click.group()
def certs() -> None:
    """Make, renew and show the TLS certificates of etcd and its clients."""


@certs.command("make")
@folder_option
@click.option(
    "--host", "hosts", metavar="HOST", multiple=True,
    help="Name or address of etcd, in every member's certificate; repeatable. Default: localhost and 127.0.0.1.",
)
@click.option(
    "--member", "members", metavar="NAME=HOST[,HOST...]", multiple=True,
    help="A member of etcd with names and addresses of its own; repeatable. Default: one, named etcd.",
)
@click.option(
    "--validator", "validators", metavar="NAME", multiple=True,
    help="A client's certificate of this name; repeatable. Default: one, named validator.",
)
@click.option("--days", type=int, default=1825, show_default=True, help="Validity of the certificates.")
@click.option("--ca-days", type=int, help="Validity of the authority. Default: 3650, or --days if that is more.")
@click.option("--keep-ca", is_flag=True, help="Add only what is named, signed by the authority that is in the folder.")
@click.option("--force", is_flag=True, help="Replace files that exist.")  # fmt: skip
def make_certs(
    directory: Path,
    hosts: Sequence[str],
    members: Sequence[str],
    validators: Sequence[str],
    days: int,
    ca_days: int | None,
    keep_ca: bool,
    force: bool,
) -> int:
    """Make a certificate authority, and certificates for the members of etcd and the validators."""
    from tower.validator.certs import make_certificates

    paths = make_certificates(
        directory,
        hosts=hosts or ("localhost", "127.0.0.1"),
        members=_members(members) if members or keep_ca else None,
        validators=validators or (() if keep_ca else ("validator",)),
        days=days,
        ca_days=ca_days,
        overwrite=force,
        keep_authority=keep_ca,
    )
    for path in paths:
        click.echo(path)
    return Exit.OK


def _members(texts: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts:
        name, separator, hosts = text.partition("=")
        own = hosts.split(",") if separator else []
        if not name or "" in own or (separator and not hosts):
            raise InvalidInput(f"--member: {text!r} is not NAME=HOST[,HOST...]; write it like etcd-1=10.0.0.1,etcd-1.example")
        if name in found:
            raise InvalidInput(f"--member: {name!r} is named twice; give all of its hosts at once, with commas")
        found[name] = own
    return found


@certs.command("renew")
@click.argument("certificates", metavar="NAME|FILE...", nargs=-1, required=True)
@folder_option
@click.option(
    "--ca-dir", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the authority. Default: beside the file."
)
@click.option("--days", type=int, help="Validity from now on. Default: as long as the old one was valid.")
@click.option("--same-key", is_flag=True, help="Keep the key: only the certificate is replaced.")
@click.option("--no-backup", is_flag=True, help="Keep no copy of the old pair.")
def renew_certs(
    certificates: Sequence[str], directory: Path, ca_dir: Path | None, days: int | None, same_key: bool, no_backup: bool
) -> int:
    """Renew certificates where they lie: same subject, names and usage, new key, new time.

    The old pair stays beside the new one under a dated name. etcd takes the new files for the next connection that it
    accepts; a validator keeps what it started with until it is restarted.
    """
    from tower.validator.certs_renew import find_certificate, renew

    for name in certificates:
        done = renew(
            find_certificate(name, directory), days=days, ca_dir=ca_dir, keep_key=same_key, backup=not no_backup
        )
        for note in done.notes:
            click.echo(f"Note: {note}", err=True)
        key = "new key" if done.new_key else "same key"
        click.echo(f"{done.certificate}: valid until {done.not_after:%Y-%m-%d %H:%M} UTC, {key}")
        for backup in done.backups:
            click.echo(f"  before: {backup}")
    return Exit.OK


@certs.command("show")
@click.argument("paths", metavar="[DIR|FILE...]", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--warn-days", type=click.IntRange(0, 7300), default=30, show_default=True, help="Exit with 1 when one ends within so long."
)
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def show_certs(paths: Sequence[Path], warn_days: int, output: str) -> int:
    """Show certificates and their keys. Exit status 0 only if all are valid for long enough and their keys are in order.

    Without an argument: those in the folder certs.
    """
    import datetime
    import json

    from tower.validator.certs_show import describe, print_table, read_certificates

    found = read_certificates(paths or (Path("certs"),), datetime.datetime.now(datetime.UTC), warn_days)
    if output == "json":
        click.echo(json.dumps([describe(facts) for facts in found], indent=2))
    else:
        from rich.console import Console

        print_table(found, Console(highlight=False))
    problems = [problem for facts in found for problem in facts.problems]
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    return Exit.REFUSED if problems else Exit.OK
