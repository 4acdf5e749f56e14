"""What a process does on its own where an identity changes hands: demotion, standing by at start, automatic take-over."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from tests.support.cluster import Validator, World, until
from tower.keys import Keypair, write_keypair_file
from tower.validator.admin import AdminClient

AFTER_S = 2
AUTO = ["--auto-takeover", "validator-keypair.json", "--auto-takeover-after", str(AFTER_S)]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def ask(machine: Validator, method: str) -> Any:
    return AdminClient(machine.folder / "ledger").call(method)


def silent_s(spare: Validator) -> float:
    """For how long the spare has seen nothing of the owner in the store."""
    return ask(spare, "autoTakeoverStatus")["silentSeconds"] or 0.0


def monitored(world: World, address: str = "127.0.0.3", *more: str) -> Validator:
    """A spare that takes over by itself."""
    spare = world.validator(address, spare=True)
    spare.more += [*AUTO, "--auto-takeover-min-interval", "0", "--who", f"spare-{address[-1]}", *more]
    return spare


def automatic(world: World) -> list[str]:
    """The reasons of the automatic take-overs in the history."""
    store = world.open_store()
    try:
        return [claim.why for claim in store.history(world.identity.address, 20) if claim.why.startswith("auto-takeover: ")]
    finally:
        store.close()


# ---- demotion


@pytest.mark.timeout(120)
def test_a_demoted_primary_lives_and_can_take_the_identity_back(world: World) -> None:
    primary = world.validator("127.0.0.2")
    primary.more += ["--on-lost-lock", "demote"]
    primary.start().wait_running().wait_vote()
    spare = world.validator("127.0.0.3", spare=True).start().wait_running()
    spare.set_identity()
    lost_at = now_ms()
    until(lambda: primary.status().get("state") == "standby", "the primary is demoted")
    status, info = primary.status(), ask(primary, "contactInfo")
    assert (status["voting"], status["fence"]) == (False, None)
    assert status["identity"] == info["id"] != world.identity.address
    assert info["id_in_memory"] is True
    assert f"standing by as spare {info['id']} (a fresh keypair in memory" in primary.log
    spare.wait_vote(lost_at, more_than=3)
    claimed_at = world.owner().last_voted_slot or 0
    assert all(vote["last_slot"] <= claimed_at for vote in world.votes(primary.address, world.owner().at_ms))
    first = status["processedSlot"]
    until(lambda: primary.status()["processedSlot"] >= first + 5, "the demoted one follows the cluster")
    began = now_ms()
    primary.set_identity()
    primary.wait_vote(began, more_than=3)
    spare.wait_exit(10)
    assert primary.status()["identity"] == world.identity.address


def test_a_demoted_one_gets_the_identity_that_it_was_given_for_it(on_file: World) -> None:
    primary = on_file.validator("127.0.0.2")
    other = Keypair.generate()
    write_keypair_file(primary.folder / "unstaked.json", other)
    primary.more += ["--on-lost-lock", "demote", "--unstaked-identity", "unstaked.json"]
    primary.start().wait_running().wait_vote()
    spare = on_file.validator("127.0.0.3", spare=True)
    spare.more += ["--on-lost-lock", "demote"]
    spare.start().wait_running().set_identity()
    until(lambda: primary.status().get("identity") == other.address, "the primary is demoted to its other identity")
    assert ask(primary, "contactInfo")["id_in_memory"] is False
    primary.set_identity()
    until(lambda: spare.status().get("identity") == spare.identity.address, "the spare is itself again")
    primary.wait_vote(more_than=2)
    primary.set_identity(own=True)
    spare.set_identity()
    spare.wait_vote(more_than=2)
    assert primary.running


@pytest.mark.timeout(120)
def test_after_a_store_that_failed_the_identity_is_taken_back_if_nobody_else_has_it(on_file: World) -> None:
    primary = on_file.validator("127.0.0.2")
    primary.more += ["--on-lost-lock", "demote", "--store-timeout", "0.5"]
    primary.start().wait_running().wait_vote()
    fence = on_file.look().instance_revision
    away = on_file.towers.with_name("away")
    on_file.towers.rename(away)
    until(lambda: primary.status().get("state") == "standby", "the primary is demoted")
    until(lambda: "taking back: " in primary.log, "it asks for the store, and finds none")
    assert not on_file.towers.exists()
    began = now_ms()
    stored = max(vote["last_slot"] for vote in on_file.votes())
    assert primary.status()["identity"] != on_file.identity.address
    away.rename(on_file.towers)
    assert stored <= on_file.stored_slot()
    primary.wait_vote(began, more_than=2)
    assert on_file.owner().why == f"the store is back, nobody claimed since fence {fence}"


@pytest.mark.timeout(120)
def test_after_a_store_that_failed_an_identity_that_another_has_is_left_alone(on_file: World) -> None:
    primary = on_file.validator("127.0.0.2")
    primary.more += ["--on-lost-lock", "demote", "--store-timeout", "0.5"]
    primary.start().wait_running().wait_vote()
    spare = on_file.validator("127.0.0.3", spare=True).start().wait_running()
    # the primary's way to the store is gone, the spare's is not: another folder stands in its place
    away = on_file.towers.with_name("away")
    on_file.towers.rename(away)
    until(lambda: primary.status().get("state") == "standby", "the primary is demoted")
    primary.process.send_signal(signal.SIGSTOP)
    away.rename(on_file.towers)
    spare.set_identity()
    primary.thaw()
    until(lambda: "was claimed by another instance meanwhile: standing by" in primary.log, "the primary sees that")
    spare.wait_vote(more_than=2)
    assert primary.running
    assert on_file.owner().pid == spare.process.pid


# ---- standing by at start


def test_a_primary_that_stands_by_at_start_takes_its_identity_when_told(world: World) -> None:
    before = world.look()
    primary = world.validator("127.0.0.2")
    write_keypair_file(primary.folder / "unstaked.json", unstaked := Keypair.generate())
    primary.more += ["--standby-at-start", "--unstaked-identity", "unstaked.json"]
    began = now_ms()
    primary.start().wait_running()
    status = primary.status()
    assert (status["state"], status["voting"], status["identity"]) == ("standby", False, unstaked.address)
    world.wait_slots(5)
    assert world.votes(primary.address, began) == []
    assert world.look() == before
    primary.set_identity()
    primary.wait_vote(began, more_than=2)
    assert world.owner().why == "set-identity"


# ---- automatic take-over


@pytest.mark.timeout(150)
def test_a_primary_that_was_killed_is_taken_over_from(world: World) -> None:
    primary = world.validator("127.0.0.2").start().wait_running()
    primary.wait_vote()
    spare = monitored(world).start().wait_running()
    claims = len(automatic(world))
    votes = world.votes(primary.address)[-1]["last_slot"]
    until(lambda: world.votes(primary.address)[-1]["last_slot"] >= votes + 40, "the primary votes for a while")
    assert len(automatic(world)) == claims, "taken over from an owner that votes"
    assert any("votes land" in reason for reason in ask(spare, "autoTakeoverStatus")["reasons"])
    primary.process.kill()
    killed = now_ms()
    spare.wait_vote(killed, more_than=3)
    why = world.owner().why
    assert why.startswith("auto-takeover: silent ")
    assert why.endswith(" slots behind")
    assert automatic(world)[claims:] == [why]
    assert ask(spare, "autoTakeoverStatus")["owner"] is True


@pytest.mark.timeout(150)
def test_a_frozen_primary_is_taken_over_from_and_ends_when_it_thaws(world: World) -> None:
    primary = world.validator("127.0.0.2").start().wait_running()
    primary.wait_vote()
    spare = monitored(world).start().wait_running()
    primary.freeze()
    frozen = now_ms()
    spare.wait_vote(frozen, more_than=2)
    claimed_at = world.owner().last_voted_slot or 0
    thawed = now_ms()
    primary.thaw()
    primary.wait_exit(10)
    assert [vote for vote in world.votes(primary.address, thawed) if vote["last_slot"] > claimed_at] == []


@pytest.mark.timeout(150)
def test_nothing_is_taken_while_paused_and_it_is_after_resume(on_file: World) -> None:
    primary = on_file.validator("127.0.0.2").start().wait_running()
    primary.wait_vote()
    spare = monitored(on_file).start().wait_running()
    paused = spare.command("auto-takeover", "pause")
    assert (paused.returncode, paused.stderr) == (0, "")
    primary.process.kill()
    until(lambda: silent_s(spare) > 2 * AFTER_S + 1, "the owner is silent for longer than it takes")
    status = ask(spare, "autoTakeoverStatus")
    assert (status["state"], status["pausedBecause"], status["reasons"]) == (
        "paused", "by the operator", ["paused: by the operator"],
    )  # fmt: skip
    assert spare.status()["voting"] is False
    shown = spare.command("auto-takeover", "status")
    assert "paused (by the operator)" in shown.stdout
    began = now_ms()
    assert spare.command("auto-takeover", "resume").returncode == 0
    spare.wait_vote(began, more_than=2)


@pytest.mark.timeout(150)
def test_of_two_that_watch_one_takes_over_and_the_other_keeps_the_interval(on_file: World) -> None:
    interval_s = 8
    primary = on_file.validator("127.0.0.2").start().wait_running()
    primary.wait_vote()
    both = [monitored(on_file, address) for address in ("127.0.0.3", "127.0.0.4")]
    for each in both:
        each.more[each.more.index("--auto-takeover-min-interval") + 1] = str(interval_s)
        each.start().wait_running()
    before = len(automatic(on_file))
    primary.process.kill()
    taker = until(lambda: next((each for each in both if each.status().get("voting")), None), "one of the two takes over")
    other = next(each for each in both if each is not taker)
    taker.wait_vote()
    first = on_file.owner()
    assert len(automatic(on_file)) == before + 1
    taker.process.kill()
    until(lambda: any("must lie between two" in why for why in ask(other, "autoTakeoverStatus")["reasons"]), "it waits")
    other.wait_vote(now_ms(), more_than=1)
    second = on_file.owner()
    assert len(automatic(on_file)) == before + 2
    assert second.at_ms - first.at_ms >= interval_s * 1000
    assert (first.who, second.who) == tuple(f"spare-{each.address[-1]}" for each in (taker, other))


@pytest.mark.timeout(150)
def test_who_lost_the_identity_does_not_take_it_again_by_itself(on_file: World) -> None:
    first = on_file.validator("127.0.0.2")
    first.more += ["--on-lost-lock", "demote", "--auto-takeover-min-interval", "0", *AUTO]
    first.start().wait_running().wait_vote()
    second = on_file.validator("127.0.0.3", spare=True).start().wait_running()
    second.set_identity()  # by hand
    paused = "another instance took the identity from this machine"
    until(lambda: ask(first, "autoTakeoverStatus")["pausedBecause"] == paused, "the first one pauses itself")
    second.wait_vote()
    second.process.kill()
    until(lambda: silent_s(first) > 2 * AFTER_S, "the second one is silent")
    assert first.status()["voting"] is False
    assert first.command("auto-takeover", "resume").returncode == 0
    began = now_ms()
    first.wait_vote(began, more_than=2)


@pytest.mark.timeout(150)
def test_an_identity_that_never_used_this_store_is_not_taken_by_itself(on_file: World, tmp_path_factory: Any) -> None:
    spare = monitored(on_file)
    empty = tmp_path_factory.mktemp("empty-store")
    spare.more += ["--tower", str(empty)]
    spare.start().wait_running()
    reason = "this store never held the identity's tower: whoever votes with it now may be outside of the fence"
    until(lambda: reason in ask(spare, "autoTakeoverStatus")["reasons"], "it says why not")
    until(lambda: silent_s(spare) > 2 * AFTER_S, "long enough")
    assert spare.status()["voting"] is False
