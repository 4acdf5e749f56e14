"""Ends in good order, and voting that is switched off and on while the process runs."""

from __future__ import annotations

import signal
import time

import pytest

from tests.support.cluster import World
from tower.validator.config import Exit
from tower.validator.ledger import lock_ledger


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "exit --force"])
def test_an_orderly_end(on_file: World, how: str) -> None:
    machine = on_file.validator().start().wait_running()
    machine.wait_vote()
    assert machine.socket.exists()
    asked = time.monotonic()
    if how == "exit --force":
        done = machine.command("exit", "--force")
        assert (done.returncode, done.stdout) == (0, "Exit request sent\n")
    else:
        machine.process.send_signal(getattr(signal, how))
    machine.wait_exit(Exit.OK)
    assert time.monotonic() - asked < 2.5
    assert not machine.socket.exists()
    assert "Traceback" not in machine.log
    with lock_ledger(machine.folder / "ledger"):
        pass
    assert on_file.votes()[-1]["last_slot"] <= on_file.stored_slot()


def test_voting_follows_the_authorized_voters(world: World) -> None:
    machine = world.validator().start().wait_running()
    machine.wait_vote()
    assert machine.command("authorized-voter", "remove-all").returncode == 0
    removed = time.time_ns() // 1_000_000
    world.wait_slots(6)
    assert world.votes(since_ms=removed) == []
    status = machine.status()
    assert "the key of the authorized voter is not loaded" in status["refusals"]
    again = machine.command("authorized-voter", "add", "validator-keypair.json")
    assert again.returncode == 0
    machine.wait_vote(more_than=2)
    twice = machine.command("authorized-voter", "add", "validator-keypair.json")
    assert (twice.returncode, "Authorized voter already present" in twice.stderr) == (1, True)
    machine.wait_vote()
