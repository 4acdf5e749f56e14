"""What must not be taken over is refused, in one clear line, and whoever votes healthily goes on voting."""

from __future__ import annotations

import time
from pathlib import Path

from tests.support.cluster import Validator, World, until
from tower.keys import Keypair
from tower.store import Sighting
from tower.validator.config import Exit
from tower.wire import encode_saved_tower, new_tower


def healthy_owner(world: World) -> Validator:
    primary = world.validator("127.0.0.2").start().wait_running()
    primary.wait_vote()
    return primary


def foreign_tower() -> bytes:
    other = Keypair.generate()
    return encode_saved_tower(new_tower(other.pubkey), other)


def refused(world: World, spare: Validator, expected: str, *flags: str) -> None:
    """`set-identity` on the spare ends in one line; the fence stays where it is, and the spare runs on."""
    before = world.look()
    done = spare.command("set-identity", "validator-keypair.json", *flags)
    assert done.returncode == Exit.REFUSED, spare.log
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: setIdentity request failed: ")
    assert expected in lines[0]
    after = world.look()
    assert (after.instance_revision, after.owner) == (before.instance_revision, before.owner)
    status = spare.status()
    assert (status["state"], status["voting"], status["identity"]) == ("standby", False, spare.identity.address)


def test_a_spare_without_the_voter_key_takes_nothing(world: World) -> None:
    primary = healthy_owner(world)
    spare = world.validator("127.0.0.3", spare=True)
    spare.more = ["--authorized-voter", "own.json"]
    spare.start().wait_running()
    assert spare.command("authorized-voter", "remove-all").returncode == 0
    refused(world, spare, "the key of the authorized voter is not loaded")
    primary.wait_vote(more_than=1)
    assert spare.command("authorized-voter", "add", "validator-keypair.json").returncode == 0
    spare.set_identity()  # with the key it can, so it was the key
    primary.wait_exit(Exit.LOST_FENCE)
    spare.wait_vote()


def test_a_stored_tower_that_cannot_be_used_takes_nobody_down(on_file: World) -> None:
    """The owner's next write may meet what was put there, so it is paused, with its tower safe, and goes on after."""
    primary = healthy_owner(on_file)
    spare = on_file.validator("127.0.0.3", spare=True).start().wait_running()
    primary.freeze()
    good = on_file.tower_file.read_bytes()
    for bad in (good[: len(good) // 2], foreign_tower(), good[:-1] + bytes([good[-1] ^ 1])):
        on_file.tower_file.write_bytes(bad)
        refused(on_file, spare, f"the stored tower of {on_file.identity.address} is unusable: ")
        assert on_file.tower_file.read_bytes() == bad
    on_file.tower_file.write_bytes(good)
    primary.thaw()
    primary.wait_vote(more_than=1)
    assert primary.status()["voting"] is True


def test_require_tower_refuses_where_none_is_stored(on_file: World) -> None:
    machine = healthy_owner(on_file)
    machine.end()
    good = on_file.tower_file.read_bytes()
    on_file.tower_file.unlink()
    before = on_file.look()
    spare = on_file.validator("127.0.0.3", spare=True).start().wait_running()
    refused(on_file, spare, "--require-tower", "--require-tower")
    machine.more = ["--require-tower"]
    machine.start().wait_exit(Exit.REFUSED)
    assert "no tower is stored for this identity and --require-tower is set" in machine.log
    assert on_file.look() == before
    on_file.tower_file.write_bytes(good)
    machine.start().wait_running().wait_vote()


def test_no_start_on_a_tower_that_cannot_be_used(on_file: World) -> None:
    machine = healthy_owner(on_file)
    machine.end()
    good = on_file.tower_file.read_bytes()
    for bad in (good[:100], foreign_tower()):
        on_file.tower_file.write_bytes(bad)
        before, seen = everything(on_file.towers), len(machine.log)
        began = time.time_ns() // 1_000_000
        machine.start().wait_exit(Exit.TOWER_UNUSABLE)
        last = machine.log[seen:].splitlines()[-1]
        assert f"the stored tower of {on_file.identity.address} is unusable: " in last
        assert f"exit status {Exit.TOWER_UNUSABLE:d}" in last
        assert everything(on_file.towers) == before
        assert on_file.votes(since_ms=began) == []
        assert not machine.socket.exists()
    on_file.tower_file.write_bytes(good)
    machine.start().wait_running().wait_vote()


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_lost_tower_is_rebuilt_and_waited_for(on_file: World) -> None:
    machine = healthy_owner(on_file)
    machine.end()
    last = on_file.votes()[-1]["last_slot"]
    on_file.wait_slots(2)  # so that all that was sent has landed
    on_file.tower_file.unlink()
    began = time.time_ns() // 1_000_000
    machine.more = ["--rebuild-wait-slots", "25"]
    machine.start().wait_running()
    assert machine.status()["refusals"] != []
    claimed: Sighting = on_file.look()
    assert claimed.record is None, "a tower was stored before its time"
    line = until(lambda: [line for line in machine.log.splitlines() if "no vote before slot" in line], "it says so")[-1]
    first = int(line.rsplit(" ", 1)[1])
    machine.wait_vote(began, more_than=1)
    votes = on_file.votes(machine.address, began)
    assert votes[0]["last_slot"] >= first >= last + 25
    assert on_file.look().record is not None
