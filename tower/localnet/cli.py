"""`openos-localnet`: run a local cluster, and read its judge's report.

Exit status 1 if votes conflict or an argument cannot be used, 2 if the command line cannot be parsed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click

from tower.errors import InvalidInput, TowerError
from tower.keys import from_base58
from tower.localnet.forks import PartitionRequest
from tower.localnet.genesis import Genesis, LocalnetConfig, make_genesis, prepare_dir
from tower.localnet.schedule import find_seed
from tower.localnet.server import Localnet

__all__ = ["cli", "main"]

REPORT_TIMEOUT_S = 10.0
DEFAULTS = LocalnetConfig()


@click.group()
@click.version_option(package_name="tower")
def cli() -> None:
    """A local cluster with the real vote program: forks, a leader schedule, other voters, and a judge."""


@cli.command()
@click.option("--dir", "directory", type=click.Path(path_type=Path), required=True, help="Folder for keypairs and facts.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--rpc-port", type=click.IntRange(0, 65534), default=8899, show_default=True, help="PubSub: the next one.")
@click.option("--vote-port", type=click.IntRange(0, 65535), default=0, help="UDP port for votes; 0 finds one.")
@click.option("--slot-ms", type=int, default=DEFAULTS.slot_ms, show_default=True)
@click.option("--voters", type=int, default=DEFAULTS.voters, show_default=True, help="Other voters with stake.")
@click.option("--stake-share", type=float, default=DEFAULTS.stake_share, show_default=True, help="Our part of the stake.")
@click.option("--fork-every", type=int, default=DEFAULTS.fork_every, show_default=True, help="Slots; 0 for no forks.")
@click.option("--fork-length", type=int, default=DEFAULTS.fork_length, show_default=True, help="Slots.")
@click.option("--slots-in-epoch", type=int, default=DEFAULTS.slots_in_epoch, show_default=True)
@click.option("--seed", default="", help="A number, or 'auto': our identity leads once soon, then long not. Default: random.")
@click.option("--rpc-on-minority", is_flag=True, help="Forks cut the RPC off, and with it our validator.")
@click.option(
    "--partition", "partitions", multiple=True, metavar="START:LENGTH:OTHER_PERCENT[:SILENT_PERCENT]",
    help="From slot START for LENGTH slots so much of the stake is on the other side of a cut and so much votes nowhere; "
    "we are in the rest. +START counts from our first vote. Repeatable; shares are met as far as --voters, which have equal "
    "stakes, allow, and the log says what was reached.",
)
@click.option(
    "--announced-blocks", is_flag=True, help="Our identity's slots are skipped unless its validator announces a block."
)
@click.option("--authorized-voter", help="Address that may vote with our vote account. Default: its node.")
def run(
    directory: Path,
    host: str,
    rpc_port: int,
    vote_port: int,
    seed: str,
    authorized_voter: str | None,
    partitions: tuple[str, ...],
    **options: Any,
) -> None:
    """Run a cluster until interrupted."""
    config = LocalnetConfig(**options, partitions=tuple(map(PartitionRequest.parse, partitions)))
    genesis, config = _prepare(directory, config, seed, authorized_voter)
    localnet = Localnet(genesis, config, host=host, rpc_port=rpc_port, vote_port=vote_port, directory=directory, log=_say)
    asyncio.run(_serve(localnet))


def _prepare(directory: Path, config: LocalnetConfig, seed: str, voter: str | None) -> tuple[Genesis, LocalnetConfig]:
    identity, vote_account, secondary = prepare_dir(directory)
    authorized = from_base58(voter) if voter else None

    def genesis_for(chosen: LocalnetConfig) -> Genesis:
        return make_genesis(chosen, identity.pubkey, vote_account.pubkey, authorized_voter=authorized, funded=(secondary.pubkey,))

    config = config.with_seed(_seed(seed, genesis_for(config), config))
    return genesis_for(config), config


def _seed(text: str, genesis: Genesis, config: LocalnetConfig) -> int:
    if text == "auto":
        return find_seed(genesis.identity_stakes, genesis.ours.identity, config.slots_in_epoch)
    if not text:
        return random.SystemRandom().randrange(1 << 32)
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 64:
        raise InvalidInput(f"--seed {text}: give a number from 0 on, or 'auto'")
    return number


def _say(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()


async def _serve(localnet: Localnet) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await localnet.start()
    gc.freeze()  # what exists by now stays: collections of cycles need not look at it again
    clock = asyncio.create_task(localnet.run())
    waiting = asyncio.create_task(stopped.wait())
    try:
        facts = localnet.facts()
        _say(f"seed {facts['seed']}, genesis {facts['genesis_hash']}")
        _say(f"identity {facts['identity']}, vote account {facts['vote_account']}")
        _say(f"ready: rpc {facts['rpc']} pubsub {facts['websocket']} votes {facts['vote']}")
        await asyncio.wait({clock, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if clock.done():
            clock.result()  # the clock only ends by an error: show it
    finally:
        clock.cancel()
        waiting.cancel()
        await asyncio.gather(clock, waiting, return_exceptions=True)
        await localnet.stop()
    _say("stopped")


@cli.command()
@click.option("--store", type=click.Choice(["etcd", "file"]), default="etcd", show_default=True, help="Where towers are kept.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), default=Path("demo-run"), show_default=True)
@click.option("--slot-ms", type=int, default=DEFAULTS.slot_ms, show_default=True)
@click.option("--seed", default="auto", show_default=True, help="As for run; 'auto' gives a restart window soon.")
@click.option("--trace", is_flag=True, help="Both validators write traces, for python -m spec.replay.")
def demo(store: str, directory: Path, slot_ms: int, seed: str, trace: bool) -> None:
    """Play the operator's guide: failover, return, take-over from a frozen primary, a store that goes away.

    Exit status 0 only if every expectation held.
    """
    from rich.console import Console

    from tower.localnet.demo import Demo

    console = Console(width=None if sys.stdout.isatty() else 120)
    sys.exit(Demo(directory, store, slot_ms, seed, console, trace=trace).run())


@cli.command()
@click.option("--url", default="http://127.0.0.1:8899", show_default=True, help="RPC of the cluster.")
@click.option("--json", "as_json", is_flag=True, help="The whole report as JSON.")
def report(url: str, as_json: bool) -> None:
    """Print who voted what, as the judge saw it. Exit status 1 if any two votes conflict, or a slot has two blocks."""
    found = fetch_report(url)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _print_report(found)
    if found["conflicts_total"] or found["duplicates_total"]:
        sys.exit(1)


def fetch_report(url: str) -> dict[str, Any]:
    """`localnetReport` of the cluster at `url`. Raises `InvalidInput` that names the flag."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "localnetReport", "params": []}).encode()
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        if request.type not in ("http", "https"):
            raise ValueError(request.type)
        with urllib.request.urlopen(request, timeout=REPORT_TIMEOUT_S) as response:
            answer = json.loads(response.read())
    except (ValueError, OSError) as problem:
        reason = getattr(problem, "reason", problem)
        raise InvalidInput(f"--url {url}: no answer from a cluster there ({reason}); is openos-localnet running?") from None
    if not isinstance(answer, dict) or "result" not in answer:
        raise InvalidInput(f"--url {url}: answers, but is no openos-localnet")
    result: dict[str, Any] = answer["result"]
    return result


def _print_report(found: dict[str, Any]) -> None:
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for vote in found["votes"]:
        rows.setdefault((vote["vote_account"], vote["source"]), []).append(vote)
    click.echo(f"{'voter':<10} {'source':<16} {'votes':>6} {'landed':>6} {'from slot':>9} {'to slot':>9}")
    for (account, source), votes in sorted(rows.items(), key=lambda row: (found["names"].get(row[0][0], "~"), row[0][1])):
        slots = [vote["last_slot"] for vote in votes]
        landed = sum(vote["landed"] is not None for vote in votes)
        name = found["names"].get(account, account[:8])
        click.echo(f"{name:<10} {source:<16} {len(votes):>6} {landed:>6} {min(slots):>9} {max(slots):>9}")
    click.echo(f"slot {found['slot']}, root {found['root']}, conflicting votes {found['conflicts_total']}")
    for conflict in found["conflicts"]:
        older, newer = conflict["older"], conflict["newer"]
        click.echo(
            f"  {conflict['kind']} at slot {conflict['slot']} on {conflict['vote_account']}: "
            f"{older['last_slot']} from {older['source']} and {newer['last_slot']} from {newer['source']}"
        )
    if not found["blocks"] and not found["skipped"]:
        return
    for source in sorted({block["source"] for block in found["blocks"]}):
        slots = [block["slot"] for block in found["blocks"] if block["source"] == source]
        click.echo(f"blocks from {source}: {len(slots)}, slots {min(slots)} to {max(slots)}")
    click.echo(f"slots of ours without a block {found['skipped']}, slots with two {found['duplicates_total']}")
    for duplicate in found["duplicates"]:
        first, second = duplicate["first"], duplicate["second"]
        click.echo(f"  two blocks for slot {first['slot']}: from {first['source']} and {second['source']}")


def main() -> None:
    """Entry point: bad input ends in one line and status 1."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as problem:
        problem.show()
        sys.exit(problem.exit_code)
    except click.Abort:
        sys.exit(130)
    except TowerError as problem:
        click.echo(f"error: {problem}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
