"""`openos-validator access`: a role in etcd for each identity, so that no validator's certificate opens another's keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tower.errors import InvalidInput
from tower.validator.config_file import config_option
from tower.validator.exits import Exit
from tower.validator.store_options import etcd_options, store_timeout_option

if TYPE_CHECKING:
    from tower.validator.config import EtcdConfig
    from tower.validator.etcd_access import Access, Step

__all__ = ["access"]

F = TypeVar("F", bound=Callable[..., Any])

dry_run_option = click.option("--dry-run", is_flag=True, help="Show what would be changed, and change nothing.")


def _options(command: F) -> F:
    return etcd_options(store_timeout_option(config_option(command)))


@click.group()
def access() -> None:
    """Roles in etcd: which client certificate may use the keys of which identity.

    etcd takes the common name in a client's certificate for its user. Once `access enable` was typed only root can use these
    commands, with a certificate of that name; validators need none of them.
    """


@access.command("show")
@click.option("--output", type=click.Choice(["json", "json-compact"]), help="Print as JSON.")
@_options
def show(output: str | None, store_timeout: float, **flags: Any) -> int:
    """Show whether authentication is on, and who may use the keys of which identity."""
    from tower.validator.etcd_access import AccessClient, read_access

    with AccessClient(_config(flags), store_timeout) as client:
        found = read_access(client)
    if output is not None:
        import json

        click.echo(json.dumps(_document(found), indent=2 if output == "json" else None))
    else:
        for line in _lines(found):
            click.echo(line)
    return Exit.OK


@access.command("grant")
@click.argument("identity", metavar="IDENTITY")
@click.option(
    "--user", "users", metavar="NAME", multiple=True, required=True,
    help="Common name of a machine's certificate; repeatable.",
)
@dry_run_option
@_options  # fmt: skip
def grant(identity: str, users: Sequence[str], dry_run: bool, store_timeout: float, **flags: Any) -> int:
    """Let the certificates named by --user use the keys of IDENTITY, an address or a keypair file, and no others.

    Makes the role tower-IDENTITY and the users where they are missing. What is there already stays.
    """
    from tower.keys import to_base58
    from tower.validator.etcd_access import plan_grant
    from tower.validator.preflight import parse_address

    address = to_base58(parse_address(identity, "IDENTITY"))
    return _change(flags, store_timeout, dry_run, lambda found, own: plan_grant(found, address, users))


@access.command("revoke")
@click.argument("user", metavar="NAME")
@dry_run_option
@_options
def revoke(user: str, dry_run: bool, store_timeout: float, **flags: Any) -> int:
    """Remove the user NAME: its certificate opens nothing any more, at once."""
    from tower.validator.etcd_access import plan_revoke

    return _change(flags, store_timeout, dry_run, lambda found, own: plan_revoke(found, user))


@access.command("enable")
@dry_run_option
@_options
def enable(dry_run: bool, store_timeout: float, **flags: Any) -> int:
    """Switch authentication on, with root's certificate. Refused while an identity in this etcd has a role that nobody has.

    From then on a client without a user, or without the role for a key, is refused.
    """
    from tower.validator.etcd_access import plan_enable
    from tower.validator.store_options import StoreConfig, open_store

    config = _config(flags)

    def stored() -> list[str]:
        store = open_store(StoreConfig("etcd", Path(), config))
        try:
            return store.identities(store_timeout)
        finally:
            store.close()

    return _change(flags, store_timeout, dry_run, lambda found, own: plan_enable(found, own, stored()))


@access.command("disable")
@dry_run_option
@_options
def disable(dry_run: bool, store_timeout: float, **flags: Any) -> int:
    """Switch authentication off: every certificate of the authority opens everything again. Roles and users stay."""
    from tower.validator.etcd_access import plan_disable

    return _change(flags, store_timeout, dry_run, lambda found, own: plan_disable(found))


def _config(flags: dict[str, Any]) -> EtcdConfig:
    from tower.validator.store_options import check_store

    config = check_store(Path("ledger"), tower_storage="etcd", **flags).etcd
    if config is None:
        raise InvalidInput("--etcd-endpoint: not given; roles are kept in etcd")
    return config


def _change(flags: dict[str, Any], timeout: float, dry_run: bool, plan: Callable[[Access, str], list[Step]]) -> int:
    from tower.validator.etcd_access import AccessClient, apply, common_name, read_access

    config = _config(flags)
    with AccessClient(config, timeout) as client:
        steps = plan(read_access(client), common_name(config.cert))
        for step in steps:
            if not dry_run:
                apply(client, [step])
            click.echo(f"{'would ' if dry_run else ''}{step.text}")
    if not steps:
        click.echo("nothing to do: it is so already")
    return Exit.OK


def _lines(found: Access) -> list[str]:
    from tower.validator.etcd_access import identities_of

    lines = [
        "authentication is on" if found.enabled
        else "authentication is off: every client certificate of the authority may do everything; access enable"
    ]  # fmt: skip
    for identity, users in identities_of(found).items():
        lines.append(f"{identity}: {', '.join(users) or 'nobody; access grant'}")
    for user, roles in sorted(found.users.items()):
        lines.append(f"user {user}: {', '.join(roles) or 'no role, may do nothing'}")
    for role, permissions in sorted(found.roles.items()):
        lines.append(f"role {role}: {', '.join(map(str, permissions)) or 'nothing'}")
    return lines


def _document(found: Access) -> dict[str, Any]:
    from tower.validator.etcd_access import identities_of

    return {
        "enabled": found.enabled,
        "identities": identities_of(found),
        "users": {user: list(roles) for user, roles in sorted(found.users.items())},
        "roles": {role: [str(one) for one in permissions] for role, permissions in sorted(found.roles.items())},
    }
