"""`failover plan` and `failover run` with real processes, from either node, on both stores."""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import pytest

from tests.support.cluster import Validator, World, until
from tower.store import Owner
from tower.stores import _etcd_messages as pb
from tower.stores.etcd import EtcdStore
from tower.validator.config import Exit

# The local cluster has an epoch of some minutes: an idle time that fits into it.
WINDOW = ["--min-idle-time", "0.1", "--max-delinquent-stake", "100"]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def contents(world: World) -> dict[str, Any]:
    """Everything in the store: of a folder each file's bytes, of etcd each key's value and revision."""
    if world.etcd is None:
        return {path.name: path.read_bytes() for path in sorted(world.towers.iterdir())}
    store = world.open_store()
    assert isinstance(store, EtcdStore)
    try:
        answer = store._links.current.call("range", pb.range_request(b"\0", b"\0"), 20)
        return {entry.key.decode(): (entry.value, entry.mod_revision) for entry in pb.decode_range(answer).kvs}
    finally:
        store.close()


def history(world: World) -> list[Owner]:
    store = world.open_store()
    try:
        return store.history(world.identity.address, 20)
    finally:
        store.close()


def missed_by_the_judge(world: World, report: dict[str, Any]) -> int:
    """Slots of the chain between the last vote of the old owner and the first of the new one, none of them voted for."""
    result = report["result"]
    seen = world.report()
    voted = {vote["last_slot"] for vote in seen["votes"] if vote["vote_account"] == world.vote_account}
    before, after = result["lastSlotBefore"], result["firstSlotAfter"]
    assert {before, after} <= voted
    return sum(1 for slot in seen["chain"] if before < slot < after and slot not in voted)


def run(machine: Validator, *arguments: str, command: str = "run") -> tuple[int, dict[str, Any], str]:
    """`failover run` with `--output json`: status, report, stderr."""
    done = machine.command("failover", command, *WINDOW, *arguments, "--output", "json-compact")
    assert done.stdout, done.stderr + machine.log[-2000:]
    return done.returncode, json.loads(done.stdout), done.stderr


def accepting(world: World, address: str = "127.0.0.3", *more: str) -> Validator:
    spare = world.validator(address, spare=True)
    spare.more += ["--accept-handover", "validator-keypair.json", "--who", "second", *more]
    return spare


IDENTITY = ("--identity", "validator-keypair.json")


# ---- drills


def test_plan_and_drill_on_the_spare_change_nothing(world: World) -> None:
    primary = world.validator("127.0.0.2").start().wait_running()
    primary.wait_vote(more_than=2)
    spare = world.validator("127.0.0.3", spare=True).start().wait_running()
    primary.command("exit", "--force")
    primary.wait_exit(Exit.OK)  # so that nobody else writes meanwhile
    before = contents(world)
    for command in ("plan", "run"):
        status, report, err = run(spare, *IDENTITY, command=command)
        assert (status, report["ending"], err) == (0, "drill", ""), report
        assert contents(world) == before
    assert report["role"] == "taker"
    assert [step["state"] for step in report["steps"]] == ["done"] * 5 + ["would be done"] * 2
    assert [step["number"] for step in report["steps"]] == list(range(1, 8))
    assert all(step["milliseconds"] > 0 for step in report["steps"][:5])
    assert report["before"]["fence"] == world.look().instance_revision
    assert report["before"]["tower"]["lastVotedSlot"] == world.stored_slot()
    assert (report["before"]["ownerActive"], report["result"], report["after"]) == (False, None, None)
    assert spare.status()["voting"] is False
    text = spare.command("failover", "plan", *IDENTITY, *WINDOW)
    assert text.returncode == 0
    assert "Look, check and claim" in text.stdout
    assert world.identity.address in text.stdout
    assert contents(world) == before


def test_a_drill_beside_a_voting_owner_leaves_it_alone(world: World) -> None:
    primary = world.validator("127.0.0.2").start().wait_running()
    primary.wait_vote()
    spare = accepting(world).start().wait_running()
    claims = history(world)
    until(lambda: "is ready" in primary.command("failover", "plan", *WINDOW).stdout, "the owner sees the spare")
    for machine, arguments in ((spare, IDENTITY), (primary, ())):
        status, report, _ = run(machine, *arguments)
        assert (status, report["ending"]) == (0, "drill"), report
        if machine is spare:
            assert report["before"]["ownerActive"] is True
    assert report["role"] == "giver"
    assert report["before"]["spare"]["who"] == "second"
    assert history(world) == claims
    assert not any("handover" in name for name in contents(world))
    primary.wait_vote(more_than=2)


# ---- the real thing


def test_from_the_spare(world: World) -> None:
    primary = world.validator("127.0.0.2").start().wait_running()
    primary.wait_vote()
    spare = world.validator("127.0.0.3", spare=True).start().wait_running()
    began = now_ms()
    status, report, err = run(spare, *IDENTITY, "--not-a-drill")
    assert (status, report["ending"], err) == (0, "done", ""), report
    primary.wait_exit(Exit.LOST_FENCE)
    spare.wait_vote(began, more_than=2)
    owner = world.owner()
    assert (owner.pid, owner.why) == (spare.process.pid, "failover run")
    assert report["result"]["votesMissed"] == missed_by_the_judge(world, report)
    assert report["result"]["slotsBetween"] >= 1
    assert report["after"]["owner"]["who"] == owner.who
    assert report["after"]["fence"] == world.look().instance_revision > report["before"]["fence"]
    assert {step["state"] for step in report["steps"]} == {"done"}


@pytest.mark.timeout(120)
def test_from_the_owner_and_back_again(world: World) -> None:
    primary = world.validator("127.0.0.2")
    primary.more += ["--on-lost-lock", "demote", "--accept-handover", "validator-keypair.json", "--who", "first"]
    primary.start().wait_running().wait_vote()
    spare = accepting(world, "127.0.0.3", "--on-lost-lock", "demote").start().wait_running()
    giver, taker = primary, spare
    for names in (("first", "second"), ("second", "first")):
        ready = f"{names[1]} is ready"
        until(lambda giver=giver, ready=ready: ready in giver.command("failover", "plan", *WINDOW).stdout, ready)
        began = now_ms()
        status, report, err = run(giver, "--not-a-drill")
        assert (status, report["ending"], err) == (0, "done", ""), report
        taker.wait_vote(began, more_than=2)
        owner = world.owner()
        assert (owner.pid, owner.who) == (taker.process.pid, names[1])
        assert owner.why == f"hand-over asked for by {names[0]}"
        assert report["result"]["votesMissed"] == missed_by_the_judge(world, report)
        assert giver.status()["state"] == "standby"
        giver, taker = taker, giver


def test_an_owner_that_ends_is_told_of_to_the_end(on_file: World) -> None:
    primary = on_file.validator("127.0.0.2").start().wait_running()
    primary.wait_vote()
    accepting(on_file).start().wait_running()
    until(lambda: "is ready" in primary.command("failover", "plan", *WINDOW).stdout, "the owner sees the spare")
    done = primary.command("failover", "run", *WINDOW, "--not-a-drill")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "second took over: fence" in done.stdout
    assert "votes missed" in done.stdout.splitlines()[-1]
    assert "ended" in done.stdout
    primary.wait_exit(Exit.LOST_FENCE)


# ---- what does not work out


def test_an_owner_without_a_spare_is_told_so(on_file: World) -> None:
    primary = on_file.validator("127.0.0.2").start().wait_running()
    primary.wait_vote()
    on_file.validator("127.0.0.3", spare=True).start().wait_running()
    status, report, err = run(primary, "--not-a-drill", "--spare", "nobody")
    assert (status, report["ending"]) == (Exit.REFUSED, "refused")
    assert err.startswith("Error: Refused, nothing was begun: no spare named nobody has announced itself in the store")
    assert "--accept-handover" in err
    primary.wait_vote(more_than=2)


@pytest.mark.timeout(120)
def test_a_spare_that_does_not_answer_in_time(world: World) -> None:
    primary = world.validator("127.0.0.2").start().wait_running()
    primary.wait_vote()
    spare = accepting(world).start().wait_running()
    until(lambda: "is ready" in primary.command("failover", "plan", *WINDOW).stdout, "the owner sees the spare")
    fence = world.look().instance_revision
    spare.freeze()
    try:
        status, report, err = run(primary, "--not-a-drill", "--now", "--step-deadline", "2")
    finally:
        spare.thaw()
    if report["ending"] == "refused":  # the machine was so slow that the frozen spare was found silent first
        assert "last heard of" in err
    else:
        assert (status, report["ending"]) == (Exit.REFUSED, "undone"), report
        assert "second did not take over within 2 s; nothing was claimed" in err
    processed = spare.status()["processedSlot"]
    until(lambda: spare.status()["processedSlot"] > processed + 20, "the spare goes on, with time to claim if it would")
    assert world.look().instance_revision == fence
    assert spare.status()["voting"] is False
    primary.wait_vote(more_than=2)


def test_an_interrupted_offer_does_not_outlive_its_command(on_file: World) -> None:
    primary = on_file.validator("127.0.0.2").start().wait_running()
    primary.wait_vote()
    spare = accepting(on_file).start().wait_running()
    until(lambda: "is ready" in primary.command("failover", "plan", *WINDOW).stdout, "the owner sees the spare")
    spare.freeze()
    try:
        asked = primary.begin_command("failover", "run", "--not-a-drill", "--now")
        note = on_file.towers / f"note-{on_file.identity.address}-handover"
        until(lambda: note.exists() and b'"offered"' in note.read_bytes(), "the offer is made")
        asked.send_signal(signal.SIGINT)
        until(lambda: b'"withdrawn"' in note.read_bytes(), "the offer is withdrawn")
        assert asked.wait(20) == 130
    finally:
        spare.thaw()
    primary.wait_vote(more_than=5)
    assert on_file.owner().pid == primary.process.pid


def test_a_spare_that_could_not_vote_refuses_before_anything(on_file: World) -> None:
    primary = on_file.validator("127.0.0.2").start().wait_running()
    primary.wait_vote()
    spare = accepting(on_file).start().wait_running()
    assert spare.command("authorized-voter", "remove-all").returncode == 0
    fence = on_file.look().instance_revision
    status, report, err = run(spare, *IDENTITY, "--not-a-drill")
    assert (status, report["ending"]) == (Exit.REFUSED, "refused")
    assert "authorized voter" in err
    seen = until(lambda: _refused(primary), "the owner sees that the spare is not fit")
    assert "the spare second cannot take over now: " in seen
    assert on_file.look().instance_revision == fence
    primary.wait_vote(more_than=2)


def _refused(primary: Validator) -> str:
    done = primary.command("failover", "run", *WINDOW, "--not-a-drill")
    assert done.returncode == Exit.REFUSED
    return done.stderr if "cannot take over now" in done.stderr else ""


def test_an_identity_that_nobody_claimed_in_this_store(on_file: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    spare = on_file.validator("127.0.0.3", spare=True)
    spare.more += ["--tower", str(tmp_path_factory.mktemp("empty"))]
    spare.start().wait_running()
    status, _, err = run(spare, *IDENTITY, "--not-a-drill")
    assert status == Exit.REFUSED
    assert "nobody ever claimed" in err
    assert "set-identity" in err
