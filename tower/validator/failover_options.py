"""The flags of `run` that say what a machine does on its own where an identity changes hands, and their checks.

All are off by default: without them a lost fence ends the process, a primary claims its identity at start, and a spare takes over
when it is told to. What the flags do is in `tower.validator.spare`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tower.errors import InvalidInput
from tower.keys import Keypair, read_keypair_file
from tower.validator.config import FailoverConfig

if TYPE_CHECKING:
    from tower.validator.preflight import RunOptions

__all__ = ["check_failover", "failover_options", "store_flags"]

AFTER_S_MIN, AFTER_S_MAX = 1.0, 86_400.0
INTERVAL_S_MAX = 30 * 86_400.0
DEFAULTS = FailoverConfig()

F = TypeVar("F", bound=Callable[..., Any])


def failover_options(command: F) -> F:
    """Give `run` its flags for failovers."""
    options = (
        click.option(
            "--on-lost-lock",
            type=click.Choice(["exit", "demote"]),
            default="exit",
            show_default=True,
            help="When another instance has claimed the identity, or the store fails: end, or go on as a spare.",
        ),
        click.option(
            "--unstaked-identity",
            metavar="KEYPAIR",
            help="Identity to be a spare under. Default: --identity if that is another than the one given up, else a fresh one.",
        ),
        click.option(
            "--standby-at-start", is_flag=True, help="Start as a spare even if the vote account is this identity's."
        ),
        click.option(
            "--accept-handover", metavar="KEYPAIR", help="As a spare: take this identity when its owner hands it over."
        ),
        click.option(
            "--auto-takeover", metavar="KEYPAIR", help="As a spare: take this identity when its owner is gone; accepts it too."
        ),
        click.option(
            "--auto-takeover-after",
            type=float,
            metavar="SECONDS",
            help=f"Silent in the store and behind on the chain for so long.  [default: {DEFAULTS.auto_after_s:g}]",
        ),
        click.option(
            "--auto-takeover-min-interval",
            type=float,
            metavar="SECONDS",
            help=f"Between two automatic take-overs, by any machine.  [default: {DEFAULTS.auto_min_interval_s:g}]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def check_failover(options: RunOptions, identity: Keypair) -> FailoverConfig:
    """The flags, checked. Raises `InvalidInput` that names the flag and the fix."""
    demote = options.on_lost_lock == "demote"
    unstaked = _keypair(options.unstaked_identity, "--unstaked-identity")
    if unstaked is not None and not (demote or options.standby_at_start):
        raise InvalidInput("--unstaked-identity: has no effect without --on-lost-lock demote or --standby-at-start")
    if unstaked is not None and unstaked.pubkey == identity.pubkey:
        raise InvalidInput("--unstaked-identity: is the --identity itself; make another with solana-keygen new")
    auto = _keypair(options.auto_takeover, "--auto-takeover")
    accept = _keypair(options.accept_handover, "--accept-handover")
    if auto is not None and accept is not None and auto != accept:
        raise InvalidInput("--accept-handover: names another identity than --auto-takeover; a spare watches one identity")
    needs_votes = {
        "--standby-at-start": options.standby_at_start,
        "--auto-takeover": auto is not None,
        "--accept-handover": accept is not None,
    }
    for flag, given in needs_votes.items():
        if given and options.vote_account is None:
            raise InvalidInput(f"{flag}: needs --vote-account <ADDRESS> too")
        if given and options.no_voting:
            raise InvalidInput(f"{flag}: has no effect with --no-voting; leave one of them out")
    timing = {
        "--auto-takeover-after": options.auto_takeover_after,
        "--auto-takeover-min-interval": options.auto_takeover_min_interval,
    }
    for flag, seconds in timing.items():
        if seconds is not None and auto is None:
            raise InvalidInput(f"{flag}: has no effect without --auto-takeover; add that, or leave it out")
    after, interval = options.auto_takeover_after, options.auto_takeover_min_interval
    if after is not None and not (math.isfinite(after) and AFTER_S_MIN <= after <= AFTER_S_MAX):
        raise InvalidInput(f"--auto-takeover-after: give seconds from {AFTER_S_MIN:g} to {AFTER_S_MAX:g}")
    if interval is not None and not (math.isfinite(interval) and 0 <= interval <= INTERVAL_S_MAX):
        raise InvalidInput(f"--auto-takeover-min-interval: give seconds from 0 to {INTERVAL_S_MAX:g}")
    return FailoverConfig(
        demote=demote,
        unstaked_identity=unstaked,
        standby_at_start=options.standby_at_start,
        auto_takeover=auto,
        auto_after_s=DEFAULTS.auto_after_s if after is None else after,
        auto_min_interval_s=DEFAULTS.auto_min_interval_s if interval is None else interval,
        accept_handover=accept,
    )


def store_flags(options: RunOptions, tower_dir: Path) -> dict[str, Any]:
    """The store's flags with whole paths, so that a command on this machine can open the same store.

    Paths of keys, never what is in them.
    """
    files = {name: getattr(options, name) for name in ("etcd_cacert_file", "etcd_cert_file", "etcd_key_file")}
    return {
        "tower_storage": options.tower_storage,
        "tower": str(tower_dir) if options.tower_storage == "file" else None,
        "etcd_endpoints": list(options.etcd_endpoints),
        "etcd_domain_name": options.etcd_domain_name,
        **{name: None if path is None else str(Path(path).absolute()) for name, path in files.items()},
    }


def _keypair(path: str | None, flag: str) -> Keypair | None:
    if path is None:
        return None
    try:
        return read_keypair_file(path)
    except InvalidInput as problem:
        raise InvalidInput(f"{flag}: {problem}; name a file written by solana-keygen") from None
