"""A store that goes away, stands still, comes back: votes wait, and none leaves without its tower."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cluster import World, run_world, until
from tests.support.etcd import cfssl_certificates, guide_shaped_certificates, run_etcd
from tower.localnet.etcd_server import EtcdServer
from tower.validator.config import Exit


def server(world: World) -> EtcdServer:
    assert world.etcd is not None
    return world.etcd


@pytest.fixture
def resumed(on_etcd: World) -> Iterator[World]:
    """An etcd that runs again after the test, whatever the test did to it."""
    try:
        yield on_etcd
    finally:
        server(on_etcd).terminate()
        server(on_etcd).start()


def all_sent_is_stored(world: World) -> None:
    world.wait_slots(2)  # whatever had left would have arrived
    assert max(vote["last_slot"] for vote in world.votes()) <= world.stored_slot()


def test_an_etcd_that_ends_ends_the_voter(resumed: World) -> None:
    machine = resumed.validator()
    machine.more = ["--store-timeout", "1.5"]
    machine.start().wait_running().wait_vote()
    server(resumed).terminate()
    machine.wait_exit(Exit.STORE_FAILED)
    assert "the store did not confirm the tower within 1.5 s: etcd " in machine.log
    assert not machine.socket.exists()
    server(resumed).start()
    all_sent_is_stored(resumed)


def test_a_pause_beyond_the_bound_ends_the_voter_and_a_late_write_does_no_harm(resumed: World) -> None:
    machine = resumed.validator()
    machine.more = ["--store-timeout", "0.7"]
    machine.start().wait_running().wait_vote()
    server(resumed).pause()
    machine.wait_exit(Exit.STORE_FAILED)
    server(resumed).resume()
    all_sent_is_stored(resumed)
    machine.start().wait_running().wait_vote(more_than=1)


def test_a_pause_within_the_bound_is_waited_for(resumed: World) -> None:
    machine = resumed.validator().start().wait_running()
    machine.wait_vote()
    fence = machine.status()["fence"]
    server(resumed).pause()
    paused = time.monotonic()
    until(lambda: time.monotonic() >= paused + 1.5, "the pause is over")
    server(resumed).resume()
    machine.wait_vote(more_than=3)
    assert machine.status()["fence"] == fence
    assert resumed.votes()[-1]["last_slot"] <= resumed.stored_slot()


def test_a_dead_endpoint_before_a_living_one(on_etcd: World) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = probe.getsockname()[1]
    machine = on_etcd.validator()
    machine.endpoints = [f"127.0.0.1:{dead}", "{}:{}".format(*server(on_etcd).endpoint)]
    machine.start().wait_running().wait_vote(more_than=2)


def test_a_folder_that_goes_away_ends_the_voter(on_file: World) -> None:
    machine = on_file.validator()
    machine.more = ["--store-timeout", "1"]
    machine.start().wait_running().wait_vote()
    gone = on_file.towers.with_name("towers-gone")
    on_file.towers.rename(gone)
    machine.wait_exit(Exit.STORE_FAILED)
    gone.rename(on_file.towers)
    all_sent_is_stored(on_file)


def test_a_store_that_hangs_does_not_hold_up_the_end(on_file: World) -> None:
    """The vote thread sits in a write that cannot go on; the process ends all the same, and in good order."""
    machine = on_file.validator()
    machine.more = ["--store-timeout", "60"]
    machine.start().wait_running().wait_vote()
    lock = os.open(on_file.towers / f"lock-{on_file.identity.address}", os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        until(lambda: machine.status()["state"] == "persisting", "a write hangs")
        asked = time.monotonic()
        machine.process.terminate()
        machine.wait_exit(Exit.OK)
        assert time.monotonic() - asked < 2.5
        assert not machine.socket.exists()
    finally:
        os.close(lock)
    machine.start().wait_running().wait_vote()


def test_a_store_that_hangs_at_the_start_does_not_hold_up_the_end(on_file: World) -> None:
    machine = on_file.validator()
    machine.more = ["--store-timeout", "60"]
    lock = os.open(on_file.towers / f"lock-{on_file.identity.address}", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        machine.start()
        until(lambda: "genesis hash" in machine.log, "the start goes on to the store")
        on_file.wait_slots(2)
        asked = time.monotonic()
        machine.process.terminate()
        machine.wait_exit(Exit.OK)
        assert time.monotonic() - asked < 2.5
        assert not machine.socket.exists()
    finally:
        os.close(lock)


def test_set_identity_does_not_answer_before_the_store_does(on_file: World) -> None:
    primary = on_file.validator().start().wait_running()
    primary.wait_vote()
    spare = on_file.validator("127.0.0.3", spare=True).start().wait_running()
    lock = os.open(on_file.towers / f"lock-{on_file.identity.address}", os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        asking = spare.begin_command("set-identity", "validator-keypair.json")
        until(lambda: spare.log.count("caught up with the cluster") == 2, "the take-over begins")
        on_file.wait_slots(3)
        assert asking.poll() is None
    finally:
        os.close(lock)
    assert asking.wait(20) == 0
    assert spare.status()["voting"] is True
    primary.wait_exit(Exit.LOST_FENCE)


@pytest.mark.parametrize("make", [guide_shaped_certificates, cfssl_certificates])
def test_the_certificates_of_the_guide(tmp_path: Path, seed: int, make: Callable[[Path], Path]) -> None:
    certs = make(tmp_path / "certs")
    with run_etcd(tmp_path, certs) as etcd, run_world(tmp_path, "--fork-every", "0", seed=seed, etcd=etcd) as world:
        primary = world.validator().start().wait_running()
        primary.wait_vote(more_than=2)
        spare = world.validator("127.0.0.3", spare=True).start().wait_running()
        spare.set_identity()
        primary.wait_exit(Exit.LOST_FENCE)
        spare.wait_vote()
        world.assert_no_conflict()
