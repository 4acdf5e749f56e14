"""`openos-validator run`: the flags of the validator, handed to the checks and then to the process."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from tower.validator.config_file import config_option
from tower.validator.failover_options import failover_options
from tower.validator.running_options import running_options
from tower.validator.store_options import ledger_option, store_options

__all__ = ["ledger_option", "run"]

log = logging.getLogger(__name__)


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
@store_options
@click.option("--require-tower", is_flag=True, help="Refuse to vote without a stored tower.")
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
@click.option(
    "--no-leader-duty",
    "leader_duty",
    flag_value=False,
    default=True,
    type=bool,
    help="Produce no blocks (only openos-localnet takes them).",
)
@failover_options
@running_options
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
@click.option("--trace", metavar="FILE", help="Append what the voter does, for python -m spec.replay. Default: no trace.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of log lines.")
@ledger_option
@config_option  # fmt: skip
def run(log_file: str, log_format: str, ledger: Path, **flags: Any) -> int:
    """Run the validator (the default command)."""
    from tower.secret_memory import locked_pages
    from tower.validator.key_files import readable_by_others
    from tower.validator.ledger import lock_ledger
    from tower.validator.logs import start_log
    from tower.validator.no_dumps import forbid_dumps
    from tower.validator.preflight import RunOptions, check_options

    no_dumps = forbid_dumps()  # before the first key is read
    config = check_options(RunOptions(ledger=str(ledger), **flags))
    with lock_ledger(config.ledger) as lock:
        start_log(log_file, log_format)
        for line in readable_by_others(flags):
            log.warning("%s", line)
        if not no_dumps:
            log.warning("core dumps of this process, which hold its keys, could not be switched off")
        if not locked_pages():
            log.warning("keys are not locked in memory and may be written to swap; raise RLIMIT_MEMLOCK (systemd: LimitMEMLOCK=)")
        if config.vote_account is None:
            log.warning("--vote-account not specified, voting is disabled")
        from tower.validator import process

        return int(process.run(config, lock))
