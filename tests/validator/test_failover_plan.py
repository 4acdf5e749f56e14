"""A planned failover without I/O: the steps and what follows when one fails, the plan, offers and beacons."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import pytest

from tower.errors import InvariantViolation
from tower.store import Owner
from tower.validator.failover import (
    UNDO,
    Claim,
    Ending,
    Result,
    Run,
    State,
    Step,
    begin,
    drilled,
    failed,
    missed_slots,
    next_action,
    settled,
    succeeded,
)
from tower.validator.failover_plan import (
    GIVER,
    TAKER,
    Facts,
    choose_spare,
    facts_document,
    problems,
    rows,
    spare_problem,
    steps,
)
from tower.validator.handover import (
    BEACON_SLOTS_MAX,
    Beacon,
    Offer,
    OfferState,
    beacon_note,
    decode_beacon,
    decode_offer,
    refusal,
)

PLAN = [Step("read", "look", 5), Step("write", "claim", 5, writes=True), Step("vote", "first vote", 5)]
IDENTITY = "Id" * 16


def at_write() -> Run:
    return succeeded(begin(PLAN), "fine", 1.0)


def states(run: Run) -> list[State]:
    return [step.state for step in run.steps]


# ---- the steps


def test_everything_works() -> None:
    run = begin(PLAN)
    for key, claimed in (("read", False), ("write", True), ("vote", False)):
        assert next_action(run) == key
        run = succeeded(run, "fine", 2.5, claimed=claimed)
    assert (run.ending, run.claimed, next_action(run), run.reason) == (Ending.DONE, True, None, "")
    assert states(run) == [State.DONE] * 3
    assert [step.ms for step in run.steps] == [2.5] * 3


def test_what_fails_before_anything_was_written_is_refused() -> None:
    run = failed(begin(PLAN), "no", 3.0)
    assert (run.ending, run.reason, next_action(run)) == (Ending.REFUSED, "no", None)
    assert states(run) == [State.FAILED, State.SKIPPED, State.SKIPPED]
    run = failed(at_write(), "not even begun", begun=False)
    assert (run.ending, run.claimed) == (Ending.REFUSED, False)


@pytest.mark.parametrize("claim", [Claim.NONE, Claim.OTHER])
def test_what_was_begun_is_undone(claim: Claim) -> None:
    run = failed(at_write(), "too late", 5000.0)
    assert next_action(run) == UNDO
    assert run.ending is None
    run = settled(run, claim, "so it is")
    assert (run.ending, run.claimed, run.reason) == (Ending.UNDONE, False, "too late")
    assert run.step.note == "too late; so it is"
    assert states(run) == [State.DONE, State.UNDONE, State.SKIPPED]


def test_what_was_claimed_all_the_same_is_finished() -> None:
    run = settled(failed(at_write(), "too late", store=True), Claim.OURS, "claimed")
    assert (run.ending, run.claimed, next_action(run), run.store_failed) == (None, True, "vote", False)
    run = succeeded(run, "voted")
    assert (run.ending, run.reason) == (Ending.DONE, "")


def test_a_store_that_does_not_say_who_owns_is_said() -> None:
    run = settled(failed(at_write(), "too late"), Claim.UNKNOWN, "no answer")
    assert (run.ending, run.store_failed, run.claimed) == (Ending.UNKNOWN, True, False)


def test_after_the_claim_nothing_is_given_back() -> None:
    run = failed(succeeded(at_write(), "claimed", claimed=True), "no vote landed")
    assert (run.ending, run.claimed, run.reason) == (Ending.INCOMPLETE, True, "no vote landed")


def test_a_drill_ends_before_it_writes() -> None:
    run = drilled(at_write())
    assert (run.ending, run.claimed) == (Ending.DRILL, False)
    assert states(run) == [State.DONE, State.WOULD, State.WOULD]


def test_what_speaks_against_it_is_marked() -> None:
    assert succeeded(begin(PLAN), "hm", doubtful=True).steps[0].state is State.DOUBTFUL


def test_out_of_turn_is_a_bug() -> None:
    ended = failed(begin(PLAN), "no")
    undoing = failed(at_write(), "late")
    for act in (
        lambda: succeeded(ended, ""),
        lambda: failed(ended, ""),
        lambda: settled(ended, Claim.NONE, ""),
        lambda: settled(at_write(), Claim.NONE, ""),
        lambda: succeeded(undoing, ""),
    ):
        with pytest.raises(InvariantViolation):
            act()


def test_every_way_through_ends_and_only_a_claim_makes_it_so() -> None:
    """All combinations of what may happen at each turn, on the steps of both roles."""
    for role, choices in itertools.product((TAKER, GIVER), itertools.product("sf", "NOUX", repeat=4)):
        run = begin(steps(role, IDENTITY, step_s=1, window_s=1, skip_window=False))
        turns = itertools.cycle(choices)
        asked = 0
        while (action := next_action(run)) is not None:
            asked += 1
            assert asked <= 2 * len(run.steps)
            turn = next(turns)
            if action == UNDO:
                claims = {"N": Claim.NONE, "O": Claim.OURS, "U": Claim.UNKNOWN, "X": Claim.OTHER}
                run = settled(run, claims.get(turn, Claim.NONE), "")
            elif turn == "f":
                run = failed(run, "it failed")
            else:
                run = succeeded(run, "it worked", claimed=run.step.writes)
        assert run.claimed == (run.ending in (Ending.DONE, Ending.INCOMPLETE))
        assert (run.ending is Ending.DONE) == (not run.reason)


def test_results() -> None:
    result = Result(35.0, 200.0, 480.0, last_slot_before=120, first_slot_after=123, votes_missed=1)
    assert result.document() == {
        "claimedMilliseconds": 35.0, "firstStoredMilliseconds": 200.0, "firstLandedMilliseconds": 480.0,
        "lastSlotBefore": 120, "firstSlotAfter": 123, "slotsBetween": 3, "votesMissed": 1,
    }  # fmt: skip
    assert Result().slots_between is None


@pytest.mark.parametrize(
    ("chain", "landed", "before", "expected"),
    [
        ([10, 11, 12], [10, 11], 10, (11, 0)),
        ([10, 11, 12, 13], [10, 13], 10, (13, 2)),
        ([10, 13, 14], [10, 14], 10, (14, 1)),  # 11 and 12 have no block: nobody could vote for them
        ([10, 11], [10], 10, (None, None)),
        ([], [], 0, (None, None)),
        ([3, 4], [3, 4], -1, (3, 0)),
    ],
)
def test_missed_slots(chain: list[int], landed: list[int], before: int, expected: tuple[int | None, int | None]) -> None:
    assert missed_slots(chain, landed, before) == expected


# ---- the plan

FACTS = Facts(
    role=TAKER, identity=IDENTITY, vote_account="Vote", node="Spare", who="b", node_slot=999, fence=7,
    owner=Owner("a", "start", "host-a", 1, 2), stored_slot=998, stored_root=960, tower_bytes=2300, owner_active=True,
    slot=1000, healthy=True, epoch=3, epoch_slots_left=500, next_leader_slot=1200, landed=997, window="Ready to restart",
)  # fmt: skip
BEACON = Beacon("0a", "b", "host-b", 5, "Spare", 999)


def test_steps_of_both_sides() -> None:
    taker = steps(TAKER, IDENTITY, step_s=7, window_s=60, skip_window=False)
    assert [step.key for step in taker] == ["here", "store", "cluster", "check", "window", "take", "vote"]
    giver = steps(GIVER, IDENTITY, step_s=7, window_s=60, skip_window=True)
    assert [step.key for step in giver] == ["here", "store", "cluster", "spare", "check", "offer", "vote"]
    for listed in (taker, giver):
        assert [step.key for step in listed if step.writes] == [listed[-2].key]
        assert {step.deadline_s for step in listed if step.key != "window"} == {7}
    assert taker[4].deadline_s == 60


def test_what_speaks_against_it() -> None:
    assert problems(FACTS) == []
    bad = dataclasses.replace(FACTS, unfit="not caught up", fence=0, healthy=False, no_spare="nobody there")
    found = problems(bad)
    assert found[0] == "not caught up"
    assert "nobody ever claimed" in found[1]
    assert found[2:] == ["the cluster's RPC calls itself unhealthy", "nobody there"]


def test_the_table_before_and_after() -> None:
    table = {row.name: row for row in rows(FACTS)}
    assert table["identity of this node"][1:] == ("Spare", IDENTITY)
    assert table["owner"][1:] == ("a on host-a (start)", "b")
    assert table["last stored vote"].before == "998 (2 slots behind)"
    assert table["last landed vote"].before == "997 (3 slots behind)"
    assert table["next leader slot"].before == "1200 (in 200 slots)"
    assert table["health there"][1:] == ("votes", "stops at its next write")
    assert table["restart window"].before == "Ready to restart"
    silent = {row.name: row for row in rows(dataclasses.replace(FACTS, owner_active=False, owner=None, landed=None, window=""))}
    assert silent["health there"].before == "silent"
    assert silent["owner"].before == "unknown (it leaves no name)"
    assert silent["last landed vote"].before == "none"
    assert "restart window" not in silent


def test_the_table_of_the_owner_and_of_what_came_of_it() -> None:
    facts = dataclasses.replace(FACTS, role=GIVER, spare=BEACON)
    table = {row.name: row for row in rows(facts)}
    assert table["owner"].after == "b"
    assert table["health there"].before == "b is ready at slot 999"
    after = dataclasses.replace(facts, node="ended", fence=9, owner=Owner("b", "x"), stored_slot=1003, slot=1004, landed=1002)
    came = {row.name: row for row in rows(facts, after)}
    assert (came["fence"].before, came["fence"].after) == ("7", "9")
    assert came["identity of this node"].after == "ended"
    assert came["last stored vote"].after == "1003 (1 slots behind)"
    assert came["next leader slot"].after == ""
    assert {row.name: row for row in rows(dataclasses.replace(facts, spare=None, no_spare="none there"))}[
        "health there"
    ].before == "none there"


def test_the_document_is_json() -> None:
    document = facts_document(dataclasses.replace(FACTS, spare=BEACON))
    assert document is not None
    assert json.loads(json.dumps(document)) == document
    assert document["tower"] == {"lastVotedSlot": 998, "root": 960, "bytes": 2300, "ageSlots": 2}
    assert document["owner"] == {"who": "a", "host": "host-a", "why": "start", "atMs": 2}
    assert facts_document(None) is None


# ---- spares


def test_the_spare_that_is_asked() -> None:
    near, far = BEACON, dataclasses.replace(BEACON, who="c", slot=995)
    silent = dataclasses.replace(BEACON, who="d", slot=1000 - BEACON_SLOTS_MAX - 1)
    unfit = dataclasses.replace(BEACON, who="e", slot=1000, unfit="a key is missing")
    everybody = [far, silent, near, unfit]
    assert choose_spare(everybody, 1000, None) == (near, "")
    assert choose_spare(everybody, 1000, "c") == (far, "")
    assert choose_spare(everybody, 1000, "d") == (silent, f"the spare d was last heard of {BEACON_SLOTS_MAX + 1} slots ago")
    assert choose_spare(everybody, 1000, "e")[1] == "the spare e cannot take over now: a key is missing"
    assert choose_spare(everybody, 1000, "f")[0] is None
    assert "(there are: b, c, d, e)" in choose_spare(everybody, 1000, "f")[1]
    assert choose_spare([unfit], 1000, None)[1] == "the spare e cannot take over now: a key is missing"
    assert spare_problem(dataclasses.replace(BEACON, slot=1003), 1000) == ""  # a spare may be ahead of our RPC


# ---- what is left in the store

OFFER = Offer("11", fence=7, by_slot=1100, to="0a", sender="a")


def test_offers_and_beacons_survive_the_store() -> None:
    taken = dataclasses.replace(OFFER, state=OfferState.TAKEN, taken_fence=9, last_voted_slot=1001, require_tower=True)
    for offer in (OFFER, taken, dataclasses.replace(OFFER, state=OfferState.REFUSED, reason="no")):
        assert decode_offer(offer.encode()) == offer
    assert decode_beacon(BEACON.encode()) == BEACON
    long = dataclasses.replace(BEACON, unfit="x" * 5000)
    assert len(long.encode()) < 1000
    assert beacon_note("a", "h") != beacon_note("b", "h")
    assert beacon_note("a", "h") == beacon_note("a", "h")


def changed(encoded: bytes, **fields: Any) -> bytes:
    return json.dumps({**json.loads(encoded), **fields}).encode()


@pytest.mark.parametrize(
    "note",
    [
        None, b"", b"x", b"[]", b"{}", b"\xff", b"[" * 100_000,
        changed(OFFER.encode(), state="perhaps"),
        changed(OFFER.encode(), fence="7"),
        changed(OFFER.encode(), fence=True),
        changed(OFFER.encode(), by_slot=None),
        changed(OFFER.encode(), to=7),
        changed(OFFER.encode(), require_tower="yes"),
        changed(OFFER.encode(), last_voted_slot="1"),
        changed(OFFER.encode(), surplus=1),
        changed(OFFER.encode(), state=[]),
    ],
)  # fmt: skip
def test_what_is_no_offer_is_none(note: bytes | None) -> None:
    assert decode_offer(note) is None


@pytest.mark.parametrize(
    "note", [None, b"", b"7", b"{}", changed(BEACON.encode(), slot="1"), changed(BEACON.encode(), who=None), OFFER.encode()]
)
def test_what_is_no_beacon_is_none(note: bytes | None) -> None:
    assert decode_beacon(note) is None


def test_when_an_offer_may_be_acted_on() -> None:
    def said(offer: Offer = OFFER, spare: str = "0a", fence: int = 7, tip: int = 1000) -> str:
        return refusal(offer, spare=spare, fence=fence, tip=tip)

    assert said() == said(tip=1100) == ""
    assert said(tip=1101) == "the offer ended with slot 1100, it is slot 1101"
    assert said(fence=8) == "the offer is by an owner with fence 7, the owner now has 8"
    assert said(spare="0b") == "the offer is for another spare"
    for state in set(OfferState) - {OfferState.OFFERED}:
        assert said(dataclasses.replace(OFFER, state=state)) == f"the offer is {state.value}"
