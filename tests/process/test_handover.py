"""An identity that wanders between machines: planned, unplanned, back again, and never in two hands."""

from __future__ import annotations

import time

import pytest

from tests.support.cluster import World, until
from tower.store import ABSENT
from tower.validator.config import Exit


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def test_a_spare_follows_and_claims_nothing(world: World) -> None:
    before = world.look()
    began = now_ms()
    spare = world.validator("127.0.0.3", spare=True).start().wait_running()
    status = spare.status()
    assert (status["voting"], status["state"], status["fence"]) == (False, "standby", None)
    first = status["processedSlot"]
    until(lambda: spare.status()["processedSlot"] >= first + 5, "the spare follows")
    assert world.votes(spare.address, began) == []
    assert world.look() == before
    assert world.look(spare.identity).instance_revision == ABSENT


def test_set_identity_answers_when_the_identity_is_adopted(world: World) -> None:
    primary = world.validator("127.0.0.2").start().wait_running()
    primary.wait_vote()
    spare = world.validator("127.0.0.3", spare=True).start().wait_running()
    began = now_ms()
    spare.set_identity()
    status, owner = spare.status(), world.owner()
    assert status["voting"] is True
    assert status["fence"] == world.look().instance_revision
    assert status["identity"] == world.identity.address
    assert (owner.pid, owner.why) == (spare.process.pid, "set-identity")
    assert owner.last_voted_slot is not None
    primary.wait_exit(Exit.LOST_FENCE)
    spare.wait_vote(began, more_than=3)
    late = [vote["last_slot"] for vote in world.votes(primary.address, owner.at_ms)]
    assert all(slot <= owner.last_voted_slot for slot in late), "a vote that the claim did not see"
    assert "voted " in spare.log
    assert "tower stored in " in spare.log


def test_a_frozen_primary_thaws_and_ends_without_a_vote(world: World) -> None:
    primary = world.validator("127.0.0.2").start().wait_running()
    primary.wait_vote()
    spare = world.validator("127.0.0.3", spare=True).start().wait_running()
    primary.freeze()
    began = now_ms()
    spare.set_identity()
    claimed_at = world.owner().last_voted_slot or 0
    spare.wait_vote(began, more_than=2)
    thawed = now_ms()
    primary.thaw()
    primary.wait_exit(Exit.LOST_FENCE)
    world.wait_slots(2)
    assert [vote for vote in world.votes(primary.address, thawed) if vote["last_slot"] > claimed_at] == []
    assert spare.status()["voting"] is True


def test_voting_ends_before_set_identity_answers(on_file: World) -> None:
    machine = on_file.validator("127.0.0.2", spare=True).start().wait_running()
    machine.set_identity()
    machine.wait_vote()
    machine.set_identity(own=True)
    answered = now_ms()
    status = machine.status()
    assert (status["voting"], status["identity"]) == (False, machine.identity.address)
    on_file.wait_slots(6)
    assert on_file.votes(machine.address, answered) == []
    assert machine.running
    machine.set_identity()
    machine.wait_vote(more_than=2)
    assert on_file.owner().why == "set-identity"


def test_two_started_at_once_are_one_soon(world: World) -> None:
    both = [world.validator(address).start() for address in ("127.0.0.2", "127.0.0.3")]
    until(lambda: sum(each.running for each in both) == 1, "one of the two ends")
    ended, left = sorted(both, key=lambda each: each.running)
    ended.wait_exit(Exit.LOST_FENCE)
    left.wait_running().wait_vote(more_than=2)
    assert world.owner().pid == left.process.pid


@pytest.mark.timeout(120)
def test_hand_over_after_hand_over(on_file: World) -> None:
    taker = on_file.validator("127.0.0.2", spare=True).start().wait_running()
    giver = on_file.validator("127.0.0.3", spare=True).start().wait_running()
    taker.set_identity()
    for _ in range(6):
        taker, giver = giver, taker
        giver.wait_vote()
        taker.wait_running()
        began = now_ms()
        taker.set_identity()
        giver.wait_exit(Exit.LOST_FENCE)
        taker.wait_vote(began)
        giver.start()  # as itself again, as its supervisor would
    until(lambda: giver.status().get("state") == "standby", "the last giver stands by")
    assert taker.status()["voting"] is True
