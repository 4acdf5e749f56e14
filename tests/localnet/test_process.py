"""The running cluster: its vote port, its clock, its command line."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.localnet.served import ACCOUNT, CLI, PATIENCE_S, QUIET, cli, run, running, send_udp, until
from tests.localnet.support import OUR_ACCOUNT, genesis, vote
from tower.keys import Keypair
from tower.localnet.genesis import LocalnetConfig
from tower.localnet.server import Localnet


def test_the_vote_port_takes_garbage_and_names_the_source(rng: random.Random) -> None:
    async def scenario() -> None:
        async with running(QUIET) as client:
            made = client.localnet.cluster
            for size in (0, 1, 64, 300, 1232, 1233, 9000):
                send_udp(client.localnet.vote_address, rng.randbytes(size))

            async def arrived() -> bool:
                return made.rpc_view.best >= 3

            await until(arrived)
            tip = made.rpc_view.tip
            parent = made.tree[tip.parent_slot or 0]
            send_udp(client.localnet.vote_address, vote([(parent.slot, 1)], parent.hash, tip.blockhash), source="127.0.0.2")

            async def landed() -> bool:
                return any(arrival.landed for arrival in made.judge.arrivals(OUR_ACCOUNT))

            await until(landed)
            assert [arrival.source for arrival in made.judge.arrivals(OUR_ACCOUNT)] == ["127.0.0.2"]
            assert made.counts["undecodable"] == 7

    run(scenario)


def test_two_machines_that_vote_against_each_other_are_reported() -> None:
    """The judge is the reason for all of this: it must see a conflict that never lands."""

    async def scenario() -> None:
        async with running(QUIET) as client:
            made = client.localnet.cluster

            async def ready() -> bool:
                return made.rpc_view.best >= 6

            await until(ready)
            bank = made.tree[5]
            send_udp(client.localnet.vote_address, vote([(4, 2), (5, 1)], bank.hash, bank.blockhash), "127.0.0.2")
            send_udp(client.localnet.vote_address, vote([(3, 2), (5, 1)], bank.hash, bank.blockhash), "127.0.0.3")

            async def reported() -> bool:
                return bool((await client.call("localnetReport"))["conflicts"])

            await until(reported)
            found = (await client.call("localnetReport"))["conflicts"][0]
            assert (found["kind"], found["vote_account"]) == ("same slot", ACCOUNT)
            assert {found["older"]["source"], found["newer"]["source"]} == {"127.0.0.2", "127.0.0.3"}
            failed = await asyncio.to_thread(cli, "report", "--url", client.localnet.rpc_url)
            assert failed.returncode == 1
            assert "conflicting votes 1" in failed.stdout

    run(scenario)


def test_the_clock_skips_slots_where_the_machine_was_too_slow() -> None:
    lines: list[str] = []

    async def scenario() -> None:
        config = LocalnetConfig(slot_ms=20, voters=0, fork_every=0)
        localnet = Localnet(genesis(config), config, log=lines.append)
        ticking = asyncio.create_task(localnet.run())
        cluster = localnet.cluster

        async def going() -> bool:
            return cluster.slot >= 5

        await until(going)
        before, banks = cluster.slot, len(cluster.tree)
        stalled_at = cluster.time.since_start_ms()
        while cluster.time.since_start_ms() < stalled_at + 25 * config.slot_ms:
            pass  # the machine has no time for the cluster: nothing else runs while 25 slots go by

        async def goes_on() -> bool:
            return cluster.slot > before + 1

        await until(goes_on)
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
        assert cluster.slot >= before + 24, "the slots that went by are still to come"
        made = len(cluster.tree) - banks
        assert made <= cluster.slot - before - 20, "the slots that were missed were made up for"

    run(scenario)
    assert any("skipped" in line for line in lines)


# ---- the command line


def test_run_and_report(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    arguments = ["run", "--dir", str(folder), "--rpc-port", "0", "--slot-ms", "20", "--seed", "auto"]
    process = subprocess.Popen([*CLI, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or not lines[-1].startswith("ready"):
            lines.append(process.stdout.readline())
            assert lines[-1], "".join(lines)
        facts = json.loads((folder / "localnet.json").read_text())
        assert facts["pid"] == process.pid
        assert facts["rpc"] in lines[-1]
        assert facts["websocket"] == f"ws://127.0.0.1:{int(facts['rpc'].rsplit(':', 1)[1]) + 1}"
        identity = Keypair(bytes(json.loads((folder / "validator-keypair.json").read_text())))
        assert facts["identity"] == identity.address
        assert {path.name for path in folder.iterdir()} >= {
            "secondary-validator-keypair.json",
            "vote-account-keypair.json",
        }
        deadline = time.monotonic() + PATIENCE_S
        shown = ""
        while "voter-5" not in shown and time.monotonic() < deadline:
            report = cli("report", "--url", facts["rpc"])
            assert report.returncode == 0, report.stderr
            shown = report.stdout
        assert "voter-5" in shown
        assert "conflicting votes 0" in shown
        second = cli(*arguments)
        assert (second.returncode, second.stderr.count("\n")) == (1, 1)
        assert "--dir" in second.stderr
    finally:
        os.kill(process.pid, signal.SIGTERM)
        rest, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert rest.endswith("stopped\n")
    assert not (folder / "localnet.json").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--slot-ms", "1"], "--slot-ms"),
        (["--stake-share", "1.5"], "--stake-share"),
        (["--voters", "1000"], "--voters"),
        (["--fork-length", "50"], "--fork-length"),
        (["--seed", "soon"], "--seed"),
        (["--seed", "auto", "--slots-in-epoch", "64"], "--slots-in-epoch"),
        (["--authorized-voter", "x"], "x"),
        (["--host", "192.0.2.1"], "--host"),
        (["--rpc-on-minority", "--stake-share", "0.5"], "--rpc-on-minority"),
    ],
)
def test_bad_input_is_one_line_that_names_the_flag(tmp_path: Path, arguments: list[str], named: str) -> None:
    done = cli("run", "--dir", str(tmp_path), "--rpc-port", "0", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert named in done.stderr


def test_keypair_files_are_never_replaced_and_a_bad_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "validator-keypair.json"
    path.write_text("[1, 2, 3]")
    done = cli("run", "--dir", str(tmp_path), "--rpc-port", "0")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert str(path) in done.stderr
    assert path.read_text() == "[1, 2, 3]"


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = cli("run", "--dir", str(tmp_path), "--rpc-port", port)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "--rpc-port" in done.stderr
    assert port in done.stderr
