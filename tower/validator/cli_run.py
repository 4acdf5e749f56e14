"""`openos-validator run`: the flags of the validator, handed to the checks and then to the process."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import click

from tower.errors import InvalidInput

__all__ = ["ledger_option", "run"]

LOG_FORMAT = "[%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s] %(message)s"

ledger_option = click.option(
    "--ledger",
    "-l",
    type=click.Path(path_type=Path),
    default=Path("ledger"),
    show_default=True,
    metavar="DIR",
    help="Folder of the validator: admin socket, lock, tower.",
)


@click.command()
@click.option("--identity", "-i", metavar="KEYPAIR", help="Identity keypair file of this validator.")
@click.option("--vote-account", metavar="ADDRESS", help="Vote account: address or keypair file. None: no voting.")
@click.option(
    "--authorized-voter",
    "authorized_voters",
    metavar="KEYPAIR",
    multiple=True,
    help="Keypair that may vote; repeatable. Default: the identity.",
)
@click.option("--no-voting", is_flag=True, help="Follow the cluster, do not vote.")
@click.option("--url", "-u", default="http://127.0.0.1:8899", show_default=True, help="JSON-RPC of the cluster.")
@click.option("--ws", metavar="URL", help="PubSub of the cluster. Default: the port after that of --url.")
@click.option("--bind-address", default="0.0.0.0", show_default=True, metavar="IP", help="Votes are sent from here.")
@click.option(
    "--tower-storage",
    type=click.Choice(["file", "etcd"]),
    default="file",
    show_default=True,
    help="Where the tower is stored and fenced.",
)
@click.option("--tower", metavar="DIR", help="Folder of the file storage. Default: the ledger folder.")
@click.option("--require-tower", is_flag=True, help="Refuse to vote without a stored tower.")
@click.option("--etcd-endpoint", "etcd_endpoints", metavar="HOST:PORT", multiple=True, help="etcd gRPC endpoint; repeatable.")
@click.option(
    "--etcd-domain-name",
    default="localhost",
    show_default=True,
    metavar="DOMAIN",
    help="Name that etcd's certificate must prove.",
)
@click.option("--etcd-cacert-file", metavar="FILE", help="PEM: certificate authority of etcd.")
@click.option("--etcd-cert-file", metavar="FILE", help="PEM: our certificate for etcd.")
@click.option("--etcd-key-file", metavar="FILE", help="PEM: key of that certificate.")
@click.option(
    "--no-check-vote-account",
    "check_vote_account",
    flag_value=False,
    default=True,
    type=bool,
    help="Do not require that the vote account is this identity's (for a spare).",
)
@click.option(
    "--store-timeout",
    type=float,
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a vote may wait for its tower to be stored.",
)
@click.option(
    "--rebuild-wait-slots",
    type=int,
    default=200,
    show_default=True,
    metavar="SLOTS",
    help="Slots to wait before the first vote on a tower rebuilt from the vote account.",
)
@click.option("--who", default="", metavar="NAME", help="Name of this machine in the owner record. Default: host name.")
@click.option(
    "--log",
    "-o",
    "log_file",
    default="-",
    show_default=True,
    metavar="FILE",
    help="Log file, appended to; - is stderr.",
)
@ledger_option  # fmt: skip
def run(log_file: str, ledger: Path, **flags: Any) -> int:
    """Run the validator (the default command)."""
    from tower.validator.ledger import lock_ledger
    from tower.validator.preflight import RunOptions, check_options

    config = check_options(RunOptions(ledger=str(ledger), **flags))
    with lock_ledger(config.ledger) as lock:
        _start_log(log_file)
        if config.vote_account is None:
            logging.getLogger(__name__).warning("--vote-account not specified, voting is disabled")
        from tower.validator import process

        return int(process.run(config, lock))


def _start_log(target: str) -> None:
    handler: logging.Handler = logging.StreamHandler()
    if target != "-":
        try:
            handler = logging.FileHandler(target, encoding="utf-8")
        except OSError as problem:
            raise InvalidInput(f"--log: cannot write {target}: {problem.strerror}; choose another file") from None
    formatter = logging.Formatter(LOG_FORMAT, "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
