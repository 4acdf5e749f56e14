"""The cluster out of reach, behind, or silent: nothing is claimed before this node is caught up, and nothing ends for it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support.cluster import Validator, World, until
from tests.support.network import Network, network
from tower.validator.config import Exit


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
def net(on_file: World) -> Iterator[Network]:
    with network(on_file) as made:
        yield made
        on_file.end_validators()


def behind(net: Network, machine: Validator) -> Validator:
    """`machine` reaches the cluster through `net` only."""
    machine.url, machine.websocket = net.url, net.websocket
    return machine


def test_no_claim_before_it_is_caught_up(on_file: World, net: Network) -> None:
    machine = behind(net, on_file.validator())
    before, began = on_file.look(), now_ms()
    net.unhealthy, net.slots_ahead = True, 100
    machine.start()

    def asked(method: str, times: int) -> None:
        known = net.calls.count(method)
        until(lambda: net.calls.count(method) >= known + times or not machine.running, f"{method} is asked")
        assert machine.running, machine.log

    asked("getSlot", 3)  # far behind
    assert on_file.look() == before
    net.slots_ahead = 0
    asked("getHealth", 3)  # near, and the node calls itself unhealthy
    assert on_file.look() == before
    assert machine.progress() == "StartingServices"
    done = machine.command("set-identity", "validator-keypair.json")
    assert (done.returncode, "Retry once validator start up is complete" in done.stderr) == (1, True)
    net.down = True  # and no answer at all
    until(lambda: "WARNING tower.validator.catch_up] catching up" in machine.log or not machine.running, "it notices")
    net.down = False
    asked("getHealth", 1)
    assert on_file.look() == before
    assert on_file.votes(since_ms=began) == []
    net.unhealthy = False
    machine.wait_running().wait_vote(began)
    assert on_file.owner().pid == machine.process.pid


def test_set_identity_waits_until_the_spare_is_caught_up(on_file: World, net: Network) -> None:
    primary = on_file.validator("127.0.0.2").start().wait_running()
    primary.wait_vote()
    spare = behind(net, on_file.validator("127.0.0.3", spare=True)).start().wait_running()
    before = on_file.look().instance_revision
    net.unhealthy = True
    known = net.calls.count("getHealth")
    asking = spare.begin_command("set-identity", "validator-keypair.json")
    until(lambda: net.calls.count("getHealth") >= known + 3, "the spare sees that it must wait")
    assert asking.poll() is None
    assert on_file.look().instance_revision == before
    primary.wait_vote(more_than=1)
    net.unhealthy = False
    assert asking.wait(20) == 0
    primary.wait_exit(Exit.LOST_FENCE)
    spare.wait_vote()


def test_a_cut_connection_is_made_again(on_file: World, net: Network) -> None:
    machine = behind(net, on_file.validator()).start().wait_running()
    first = machine.wait_vote(more_than=8)
    connections = net.connections
    net.cut()
    until(lambda: net.connections > connections, "it connects again")
    machine.wait_vote(more_than=2)
    slots = {vote["last_slot"] for vote in on_file.votes(machine.address)}
    chain = [slot for slot in on_file.report()["chain"] if first["last_slot"] <= slot <= max(slots)]
    assert [slot for slot in chain if slot not in slots] == [], "what was missed meanwhile is not voted for"


def test_a_cluster_out_of_reach_for_a_while(on_file: World, net: Network) -> None:
    machine = behind(net, on_file.validator()).start().wait_running()
    machine.wait_vote(more_than=2)
    fence = machine.status()["fence"]
    net.down = True
    net.cut()
    on_file.wait_slots(25)
    assert machine.running, machine.log
    assert on_file.votes(machine.address)[-1]["last_slot"] < on_file.slot() - 15, "the cut cut nothing"
    net.down = False
    machine.wait_vote(more_than=5)
    assert machine.status()["fence"] == fence


def test_an_identity_is_given_up_without_the_cluster(on_file: World, net: Network) -> None:
    machine = behind(net, on_file.validator("127.0.0.3", spare=True)).start().wait_running()
    machine.set_identity()
    machine.wait_vote()
    net.down = True
    net.cut()
    machine.set_identity(own=True)
    assert machine.status()["state"] == "standby"
    net.down = False
    machine.set_identity()
    machine.wait_vote()
