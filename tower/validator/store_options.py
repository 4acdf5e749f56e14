"""The flags that name a tower store, for `run` and for every command that works on a store from outside.

Their text, defaults and checks are here once, so that what one command takes, all take. `check_store` reads and checks;
`open_store` opens what it found. Only `run` and `tower import` may create the folder of a file store: whoever looks at one
that is not there has mistyped it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from tower.errors import InvalidInput
from tower.validator.ledger_option import ledger_option

if TYPE_CHECKING:
    from tower.store import NotingStore
    from tower.validator.config import EtcdConfig

__all__ = ["StoreConfig", "check_store", "etcd_options", "ledger_option", "open_store", "store_options", "store_timeout_option"]

F = TypeVar("F", bound=Callable[..., Any])


# as `run` has it, where it bounds a vote's wait
store_timeout_option = click.option(
    "--store-timeout",
    type=click.FloatRange(min=0, min_open=True, max=600),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the store may take for an answer.",
)


def store_options(command: F) -> F:
    """Give a command the flags of the store; they arrive as `tower_storage`, `tower` and `etcd_…`."""
    options = (
        click.option(
            "--tower-storage",
            type=click.Choice(["file", "etcd"]),
            default="file",
            show_default=True,
            help="Where the tower is stored and fenced.",
        ),
        click.option("--tower", metavar="DIR", help="Folder of the file storage. Default: the ledger folder."),
    )
    return _with(options, etcd_options(command))


def etcd_options(command: F) -> F:
    """Give a command the flags of etcd alone, for what only etcd has; they arrive as `etcd_…`."""
    options = (
        click.option(
            "--etcd-endpoint", "etcd_endpoints", metavar="HOST:PORT", multiple=True, help="etcd gRPC endpoint; repeatable."
        ),
        click.option(
            "--etcd-domain-name",
            default="localhost",
            show_default=True,
            metavar="DOMAIN",
            help="Name that etcd's certificate must prove.",
        ),
        click.option("--etcd-cacert-file", metavar="FILE", help="PEM: certificate authority of etcd."),
        click.option("--etcd-cert-file", metavar="FILE", help="PEM: our certificate for etcd."),
        click.option("--etcd-key-file", metavar="FILE", help="PEM: key of that certificate."),
    )
    return _with(options, command)


def _with(options: Iterable[Callable[[F], F]], command: F) -> F:
    for option in reversed(tuple(options)):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """A store as the flags name it: `etcd` is `None` for the file store in `tower_dir`."""

    tower_storage: str
    tower_dir: Path
    etcd: EtcdConfig | None = None

    @property
    def places(self) -> list[str]:
        """Where it is, for people: the folder, or every endpoint as `host:port`."""
        if self.etcd is None:
            return [str(self.tower_dir)]
        return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.etcd.endpoints]


def check_store(ledger: Path, *, must_exist: bool = True, **flags: Any) -> StoreConfig:
    """The store of the flags that `store_options` gives a command, checked as `run` checks them; writes nothing.

    `must_exist` refuses a file store whose folder is not there. Raises `InvalidInput`.
    """
    import datetime

    from tower.validator.preflight import RunOptions, check_etcd, check_folder

    options = RunOptions(ledger=str(ledger), **flags)
    flag, folder = ("--ledger", options.ledger) if options.tower is None else ("--tower", options.tower)
    directory = check_folder(folder, flag)
    etcd = check_etcd(options, datetime.datetime.now(datetime.UTC))
    if etcd is None and must_exist and not directory.is_dir():
        fix = "name the folder of the towers with --tower, or --tower-storage etcd"
        raise InvalidInput(f"{flag}: {directory} does not exist, so it is no tower store; {fix}")
    return StoreConfig(options.tower_storage, directory, etcd)


class _NamesStore(Protocol):
    @property
    def tower_dir(self) -> Path: ...

    @property
    def etcd(self) -> EtcdConfig | None: ...


def open_store(config: _NamesStore) -> NotingStore:
    """The tower store that the flags name. Raises `InvalidInput` or `StoreError`."""
    if config.etcd is not None:
        from tower.stores.etcd import EtcdStore

        etcd = config.etcd
        return EtcdStore(
            etcd.endpoints, ca_cert=etcd.ca_cert, cert=etcd.cert, key=etcd.key, domain_name=etcd.domain_name
        )
    from tower.stores.file import FileStore

    return FileStore(config.tower_dir)
