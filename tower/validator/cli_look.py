"""`status`, `list`, `history`, `watch`: commands that look at a tower store from any machine, and change nothing.

They take the store's flags as `run` names them and need no running validator; one that runs on `--ledger` is asked for its own
view. `--output json` prints what is known as it is; the text is made from the same document.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from tower.validator.config import Exit
from tower.validator.config_file import config_option
from tower.validator.store_options import check_store, ledger_option, open_store, store_options, store_timeout_option

if TYPE_CHECKING:
    from tower.store import ListingStore
    from tower.validator.looking import Observation
    from tower.validator.observing import Observer

__all__ = ["history", "list_identities", "status", "watch"]

F = TypeVar("F", bound=Callable[..., Any])

output_option = click.option(
    "--output", type=click.Choice(["json", "json-compact"]), help="Print as JSON: indented, or on one line."
)


def looking_options(command: F) -> F:
    """The flags of the store, `--ledger`, `--config` and `--output`."""
    for option in (config_option, output_option, ledger_option, store_timeout_option, store_options):
        command = option(command)
    return command


def health_options(command: F) -> F:
    """What else is asked, and what counts as a problem."""
    options = (
        click.option("--url", "-u", metavar="URL", help="JSON-RPC of the cluster, for what landed. Default: not asked."),
        click.option("--vote-account", metavar="ADDRESS", help="Vote account of the identity. Default: the cluster is asked."),
        click.option(
            "--max-age",
            type=click.FloatRange(min=0, min_open=True),
            default=30.0,
            show_default=True,
            metavar="SECONDS",
            help="Age of the newest stored vote above which it is stale.",
        ),
        click.option(
            "--certificate-days",
            type=click.FloatRange(min=0),
            default=14.0,
            show_default=True,
            metavar="DAYS",
            help="Days left of a certificate below which that is a problem.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("identities", metavar="[IDENTITY]...", nargs=-1)
@health_options
@looking_options
def status(output: str | None, max_age: float, certificate_days: float, **asked: Any) -> int:
    """Who holds the fence, since when, which vote is stored, and how the store is. Default: every identity of the store.

    Exit status: 0 all held and healthy; 3 somebody's fence was never claimed; 4 held, but something is wrong; 11 the store does
    not answer; 12 a stored tower is unusable.
    """
    from tower.validator.looking import Limits, describe
    from tower.validator.looking_text import status_lines

    with _observer(**asked) as observer:
        seen = observer.observe()
    said = describe(seen, Limits(max_age, certificate_days))
    _print(said, output, status_lines)
    return _ended(said)


@click.command("list")
@looking_options
def list_identities(output: str | None, **asked: Any) -> int:
    """Every identity in the store: who holds it, since when, and its last stored vote.

    Exit status: 0; 3 there is none; 11 the store does not answer.
    """
    from tower.validator.looking import Limits, ValidatorView, describe_identity
    from tower.validator.looking_text import list_lines

    with _store(**asked) as (store, timeout):
        seen = _look_all(store, timeout)
    nobody, endless = ValidatorView("", why="not asked"), Limits(max_age_s=float("inf"))
    at_ms = _wall_ms()
    rows = [describe_identity(facts, nobody, at_ms, endless) for facts in seen]
    wanted = ("identity", "state", "holder", "fence", "persisted")
    _print([{name: row[name] for name in wanted} for row in rows], output, list_lines)
    return Exit.OK if rows else Exit.NOBODY


@click.command()
@click.argument("identity", required=False)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the newest N claims. Default: all.")
@looking_options
def history(identity: str | None, limit: int | None, output: str | None, **asked: Any) -> int:
    """Every claim, oldest first: when, who, from whom, why, and after which vote. Default: of every identity in the store.

    A claim is at the same time the loss of whoever held the fence before. Exit status: 0; 3 nothing was ever claimed; 11 the
    store does not answer.
    """
    from tower.validator.looking import claims_of
    from tower.validator.looking_text import history_lines

    wanted = () if identity is None else _addresses((identity,))
    with _store(**asked) as (store, timeout):
        facts = _look_all(store, timeout, wanted, straight=asked["tower_storage"] == "etcd")
    rows = [row for each in facts for row in claims_of(each.sighting, each.claims)]
    rows.sort(key=lambda row: row["at"] or "9")  # a claim of unknown time is the newest; else each one's order stays
    _print(rows[-limit:] if limit else rows, output, history_lines)
    return Exit.OK if rows else Exit.NOBODY


@click.command()
@click.argument("identities", metavar="[IDENTITY]...", nargs=-1)
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1, max=3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Pause between two looks.",
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N looks. Default: at ctrl-c.")
@health_options
@looking_options
def watch(
    interval: float, count: int | None, output: str | None, max_age: float, certificate_days: float, **asked: Any
) -> int:
    """`status` again and again: a page on a terminal, else one line a look; one JSON document a line with --output.

    A store that does not answer is shown, and asked again. Exit status: 0 after ctrl-c or --count; 11 if the store never
    answered.
    """
    from tower.validator.looking import Limits, describe

    limits = Limits(max_age, certificate_days)
    answered, left = False, count
    pause = threading.Event()  # never set: a pause that a signal can end
    with contextlib.suppress(KeyboardInterrupt), _observer(**asked) as observer, _shower(output) as show:
        while True:
            seen = observer.observe()
            answered = answered or seen.error is None
            said = describe(seen, limits)
            show(seen, said)
            left = None if left is None else left - 1
            if left == 0:
                break
            pause.wait(interval)
    if answered or count is None:
        return Exit.OK
    return _ended(said)


# ---- shared


def _wall_ms() -> int:
    import time

    return int(time.time() * 1000)


def _addresses(identities: Sequence[str]) -> tuple[str, ...]:
    """Base58 addresses of what was typed, each once."""
    from tower.keys import to_base58
    from tower.validator.preflight import parse_address

    return tuple(dict.fromkeys(to_base58(parse_address(text, "IDENTITY")) for text in identities))


@contextmanager
def _store(ledger: Path, store_timeout: float, **flags: Any) -> Iterator[tuple[ListingStore, float]]:
    store = open_store(check_store(ledger, **flags))
    try:
        yield store, store_timeout
    finally:
        store.close()


@contextmanager
def _observer(
    identities: Sequence[str], url: str | None, vote_account: str | None, ledger: Path, store_timeout: float, **flags: Any
) -> Iterator[Observer]:
    from tower.errors import InvalidInput
    from tower.validator.observing import Observer
    from tower.validator.preflight import parse_address
    from tower.validator.urls import parse_url

    addresses = _addresses(identities)
    account = None if vote_account is None else parse_address(vote_account, "--vote-account")
    typed = click.get_current_context().get_parameter_source("vote_account") is ParameterSource.COMMANDLINE
    if typed and (url is None or len(addresses) != 1):  # in a file for all commands it may stand without use
        raise InvalidInput("--vote-account: goes with --url and exactly one IDENTITY")
    if url is not None:
        parse_url(url)
    config = check_store(ledger, **flags)
    store = open_store(config)
    try:
        yield Observer(store, config, addresses, ledger=ledger, url=url, vote_account=account, timeout=store_timeout)
    finally:
        store.close()


def _look_all(store: ListingStore, timeout: float, wanted: tuple[str, ...] = (), *, straight: bool = False) -> list[Any]:
    """Sighting and history of every identity in the store, or of those `wanted` that are there.

    `straight` asks for those without a list first: in a folder a look leaves a lock file, and in etcd a certificate may be good
    for one identity and not for the list.
    """
    from tower.validator.looking import IdentityFacts

    known = wanted if wanted and straight else store.identities(timeout)
    names = [name for name in wanted if name in known] if wanted else known
    return [IdentityFacts(store.look(name, timeout), tuple(store.history(name, timeout))) for name in names]


def _print(said: Any, output: str | None, text: Callable[[Any], list[str]]) -> None:
    if output is not None:
        click.echo(json.dumps(said, indent=2) if output == "json" else json.dumps(said, separators=(",", ":")))
    else:
        for line in text(said):
            click.echo(line)


def _ended(said: dict[str, Any]) -> int:
    """The exit status of a document; a store that does not answer is an error like every other."""
    if said["store"]["error"] is not None:
        click.echo(f"Error: {said['store']['error']}", err=True)
    return int(said["exit_status"])


@contextmanager
def _shower(output: str | None) -> Iterator[Callable[[Observation, dict[str, Any]], None]]:
    """How one refresh is shown: a page that replaces the one before on a terminal, else a line, flushed at once."""
    from tower.validator.looking import claims_of
    from tower.validator.looking_text import LATENCIES_MAX, watch_line, watch_page

    if output is not None or not sys.stdout.isatty():

        def line(_: Observation, said: dict[str, Any]) -> None:
            click.echo(json.dumps(said, separators=(",", ":")) if output is not None else watch_line(said))
            sys.stdout.flush()

        yield line
        return
    from rich.live import Live

    latencies: deque[float | None] = deque(maxlen=LATENCIES_MAX)
    with Live(screen=False, auto_refresh=False) as live:

        def page(seen: Observation, said: dict[str, Any]) -> None:
            latencies.append(said["store"]["look_ms"])
            events = [row for each in seen.identities for row in claims_of(each.sighting, each.claims)]
            events.sort(key=lambda row: row["at"] or "9")
            live.update(watch_page(said, events, latencies), refresh=True)

        yield page
