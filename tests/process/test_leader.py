"""Blocks under the fence, with real processes: whatever happens to the leaders, no slot has two blocks (S7)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import PATIENCE_S, VOTE_ADDRESSES, Validator, World, run_world, until
from tests.support.etcd import run_etcd
from tower.leader import decode_reservation
from tower.validator.admin import AdminClient
from tower.validator.config import Exit
from tower.validator.leader_duty import DUTY_S

# A third of the stake leads a third of the windows; the others alone go on confirming.
FLAGS = ("--fork-every", "0", "--announced-blocks", "--stake-share", "0.3")
SLOT_MS = 250  # a window lasts a second: time for a hand-over in its middle
HANDOVERS_MAX = 8
THAWED = (Exit.LOST_FENCE, Exit.STORE_FAILED)  # the second if it was frozen in the middle of a write, for longer than its bound


@pytest.fixture(scope="module")
def led_file(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Iterator[World]:
    with run_world(tmp_path_factory.mktemp("led"), *FLAGS, seed=seed, slot_ms=SLOT_MS) as made:
        yield made


@pytest.fixture(scope="module")
def led_etcd(tmp_path_factory: pytest.TempPathFactory, certificates: Path, seed: int) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("led-on-etcd")
    with (
        run_etcd(folder, certificates) as etcd,
        run_world(folder, *FLAGS, seed=seed, slot_ms=SLOT_MS, etcd=etcd) as made,
    ):
        yield made


@pytest.fixture(params=["file", "etcd"])
def led(request: pytest.FixtureRequest) -> Iterator[World]:
    """A cluster that takes blocks, on both stores; afterwards no vote conflicts and no slot has two blocks."""
    world: World = request.getfixturevalue(f"led_{request.param}")
    try:
        yield world
        world.assert_no_conflict()
        report = world.report()
        assert report["duplicates_total"] == 0, report["duplicates"]
        assert report["announcements_refused"] == 0
    finally:
        world.end_validators()


def blocks(world: World, address: str | None = None, above: int = -1) -> list[dict[str, Any]]:
    """Announced blocks by slot: those of one machine, those above a slot."""
    found = [block for block in world.report()["blocks"] if block["slot"] > above and address in (None, block["source"])]
    return sorted(found, key=lambda block: int(block["slot"]))


def wait_block(world: World, address: str, above: int) -> dict[str, Any]:
    """The first block from `address` above a slot."""
    until(lambda: blocks(world, address, above), f"a block from {address}", timeout=60)
    return blocks(world, address, above)[0]


def mark(world: World) -> int:
    """The newest slot that was ever reserved."""
    record = world.look().blocks
    return -1 if record is None else decode_reservation(record).last


def take(machine: Validator) -> None:
    """`set-identity` without the start of a command: quick enough for the middle of a window."""
    keypair = str(machine.folder / "validator-keypair.json")
    AdminClient(machine.folder / "ledger").call("setIdentity", keypair, False, timeout=PATIENCE_S)


def test_a_leader_reserves_its_windows_and_announces_their_slots(led: World) -> None:
    machine = led.validator().start().wait_running()
    first = wait_block(led, machine.address, led.slot())
    assert first["filled"] is True
    until(lambda: blocks(led, machine.address, first["slot"]), "the next slot of the window")
    found = blocks(led, machine.address, first["slot"] - 1)
    assert [block["slot"] for block in found] == sorted({block["slot"] for block in found})
    assert found[-1]["slot"] <= mark(led)
    assert machine.status()["announcedBlocks"] >= 2
    chain = set(led.report()["chain"])
    assert {block["slot"] for block in found if block["filled"]} <= chain | {led.slot(), found[-1]["slot"]}


def test_without_the_duty_nothing_is_reserved_and_its_slots_are_skipped(led: World) -> None:
    machine = led.validator()
    machine.more = ["--no-leader-duty"]
    before, skipped = mark(led), led.report()["skipped"]
    machine.start().wait_running().wait_vote()
    above = led.slot()
    until(lambda: led.report()["skipped"] >= skipped + 4, "a window of ours is skipped", timeout=60)
    assert blocks(led, machine.address, above) == []
    assert mark(led) == before
    machine.wait_vote()
    assert machine.status()["announcedBlocks"] == 0


def test_a_fail_over_in_the_middle_of_a_window_leaves_its_rest_unled(led: World) -> None:
    cut = 0
    owner = led.validator(VOTE_ADDRESSES[0]).start().wait_running()
    for _ in range(HANDOVERS_MAX):
        spare = led.validator(VOTE_ADDRESSES[1] if owner.address == VOTE_ADDRESSES[0] else VOTE_ADDRESSES[0], spare=True)
        spare.start().wait_running()
        first = wait_block(led, owner.address, max(led.slot(), mark(led)))
        reserved = mark(led)
        take(spare)
        owner.wait_exit(Exit.LOST_FENCE)
        adopted = led.slot()
        mine = wait_block(led, spare.address, first["slot"])
        assert mine["slot"] > reserved, "a slot that the owner before had reserved"
        given = blocks(led, owner.address, first["slot"] - 1)
        assert given[-1]["slot"] <= max(reserved, adopted)
        cut += given[-1]["slot"] < reserved
        owner = spare
        if cut >= 2:
            break
    assert cut, "no hand-over fell into a window: this run says nothing"


def test_a_primary_that_was_frozen_before_its_slot_does_not_produce_after_the_thaw(led: World) -> None:
    primary = led.validator(VOTE_ADDRESSES[0]).start().wait_running()
    spare = led.validator(VOTE_ADDRESSES[1], spare=True).start().wait_running()
    wait_block(led, primary.address, led.slot())
    before = mark(led)
    until(lambda: mark(led) > before, "the next window is reserved, and not yet led", timeout=60)
    primary.freeze()
    reserved, frozen_at = mark(led), led.slot()
    take(spare)
    mine = wait_block(led, spare.address, frozen_at)
    assert mine["slot"] > reserved
    led.wait_slots(int(DUTY_S * 1000 / SLOT_MS) + 1)
    known = blocks(led, primary.address)
    primary.thaw()
    until(lambda: not primary.running, "it ends")
    assert primary.process.returncode in THAWED, primary.log[-3000:]
    led.wait_slots(2)  # whatever had left would have arrived
    assert blocks(led, primary.address) == known


def test_an_owner_that_is_cut_off_from_its_store_stops_leading_and_goes_on_when_it_is_back(led_etcd: World) -> None:
    server = led_etcd.etcd
    assert server is not None
    machine = led_etcd.validator()
    machine.more = ["--store-timeout", "60"]
    machine.start().wait_running()
    wait_block(led_etcd, machine.address, led_etcd.slot())
    server.pause()
    try:
        paused = led_etcd.slot()
        limit = paused + int(DUTY_S * 1000 / SLOT_MS) + 2
        skipped = led_etcd.report()["skipped"]
        until(lambda: led_etcd.slot() > limit and led_etcd.report()["skipped"] >= skipped + 4, "a window passes", timeout=60)
        assert [block["slot"] for block in blocks(led_etcd, machine.address, limit)] == []
        assert machine.running
    finally:
        server.resume()
    wait_block(led_etcd, machine.address, led_etcd.slot())
    assert led_etcd.report()["duplicates_total"] == 0
    led_etcd.end_validators()
