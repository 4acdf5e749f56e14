"""The spare's watch on a store of memory and a node that only notes what it was asked for: what is taken, and what no more."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tower.errors import InvalidInput, StoreUnavailable, TowerError
from tower.events import Adopted, Halt, HaltReason
from tower.keys import Keypair
from tower.store import Claimed, Owner
from tower.stores.memory import MemoryBackend, MemoryStore
from tower.types import Lockout, VoteAccountState
from tower.validator import spare as module
from tower.validator.config import FailoverConfig
from tower.validator.guarded_store import Guard
from tower.validator.handover import OFFER_NOTE, Offer, OfferState, decode_beacon, decode_offer
from tower.validator.spare import SpareWatch
from tower.validator.vote_thread import Lost

IDENTITY, OWN = (Keypair.from_seed(bytes([seed]) * 32) for seed in (71, 72))
T = 10.0
TIP = 1000


class Node:
    """Takes over if the guard lets it; `before_claim` is what happens between the decision and the look."""

    def __init__(self, backend: MemoryBackend) -> None:
        self.store = MemoryStore(backend)
        self.identity = OWN
        self.landed, self.why_unfit = TIP - 100, ""
        self.taken: list[str] = []
        self.refused: list[str] = []
        self.before_claim: Callable[[], None] = lambda: None

    def voting(self) -> bool:
        return bool(self.taken)

    async def newest(self) -> tuple[int, VoteAccountState]:
        return TIP, VoteAccountState(IDENTITY.pubkey, (), (Lockout(self.landed, 1),), 0)

    async def unfit(self, identity: Keypair) -> str:
        return self.why_unfit

    async def take(self, identity: Keypair, why: str, *, require_tower: bool = False, guard: Guard | None = None) -> Adopted:
        self.before_claim()
        seen = self.store.look(identity.address, T)
        reason = guard(seen) if guard is not None else ""
        if reason:
            self.refused.append(reason)
            raise InvalidInput(reason)
        claimed = self.store.claim(seen, Owner("spare", why, at_ms=int(time.time() * 1000)), T)
        assert isinstance(claimed, Claimed)
        self.taken.append(why)
        return Adopted(claimed.fence, 990, None)


class Desk:
    def __init__(self, **failover: Any) -> None:
        self.backend = MemoryBackend()
        self.owner = MemoryStore(self.backend)
        claimed = self.owner.claim(self.owner.look(IDENTITY.address, T), Owner("owner", "start"), T)
        assert isinstance(claimed, Claimed)
        self.fence = claimed.fence
        self.revision = claimed.record_revision
        self.vote()
        self.node = Node(self.backend)
        self.opened = MemoryStore(self.backend)
        self.watch = SpareWatch(FailoverConfig(**failover), self.node, lambda: self.opened, "spare")

    def vote(self) -> None:
        record = f"tower {self.revision}".encode()
        self.revision = self.owner.begin_store(self.fence, self.revision, record, T).outcome(T).record_revision

    def notes(self) -> dict[str, bytes]:
        return self.owner.notes(IDENTITY.address, T)

    def beacon(self) -> Any:
        return next((decode_beacon(note) for name, note in self.notes().items() if name.startswith("spare-")), None)

    def offer(self) -> Any:
        return decode_offer(self.notes().get(OFFER_NOTE))

    def put(self, offer: Offer) -> None:
        self.owner.put_note(IDENTITY.address, OFFER_NOTE, offer.encode(), T)

    def run(self, script: Callable[[Desk], Awaitable[None]]) -> None:
        async def live() -> None:
            task = asyncio.get_running_loop().create_task(self.watch.run())
            try:
                async with asyncio.timeout(T):
                    await script(self)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                self.watch.close()

        asyncio.run(live())


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    monkeypatch.setattr(module, "BEACON_S", 0.01)
    monkeypatch.setattr(module, "RETRY_FIRST_S", 0.02)
    monkeypatch.setattr(module, "RETRY_MAX_S", 0.05)


AUTO = {"auto_takeover": IDENTITY, "auto_after_s": 0.2, "auto_min_interval_s": 3600.0}


# ---- automatic


def test_an_owner_that_is_gone_is_taken_over_once() -> None:
    async def script(desk: Desk) -> None:
        await until(lambda: desk.node.taken)
        assert desk.node.taken[0].startswith("auto-takeover: silent ")
        assert desk.watch.status()["owner"] is True

    Desk(**AUTO).run(script)


def test_the_interval_is_read_from_the_history() -> None:
    async def script(desk: Desk) -> None:
        await until(lambda: any("must lie between two" in reason for reason in desk.watch.status()["reasons"]))
        assert desk.node.taken == []

    desk = Desk(**AUTO)
    before = Owner("other", "auto-takeover: silent 9 s, 9 slots behind", at_ms=int(time.time() * 1000) - 60_000)
    claimed = desk.owner.claim(desk.owner.look(IDENTITY.address, T), before, T)
    assert isinstance(claimed, Claimed)
    desk.run(script)


@pytest.mark.parametrize("sign", ["vote", "pause"])
def test_what_happens_between_the_decision_and_the_claim_counts(sign: str) -> None:
    async def script(desk: Desk) -> None:
        await until(lambda: desk.node.refused)
        expected = "the owner has stored a vote since" if sign == "vote" else "paused by the operator"
        assert desk.node.refused[0] == expected
        assert desk.node.taken == []

    desk = Desk(**AUTO)
    desk.node.before_claim = desk.vote if sign == "vote" else desk.watch.pause
    desk.run(script)


def test_pausing_and_resuming() -> None:
    async def script(desk: Desk) -> None:
        desk.watch.pause()
        await until(lambda: (desk.watch.status()["silentSeconds"] or 0) > 2 * 0.2)
        status = desk.watch.status()
        assert (status["state"], status["pausedBecause"], status["reasons"]) == (
            "paused", "by the operator", ["paused: by the operator"],
        )  # fmt: skip
        assert desk.node.taken == []
        desk.watch.resume()
        assert desk.watch.status()["silentSeconds"] is None  # counted anew
        await until(lambda: desk.node.taken)

    Desk(**AUTO).run(script)


def test_it_pauses_itself_where_somebody_took_the_identity() -> None:
    desk = Desk(**AUTO)
    desk.watch.changed_by_hand(gave_up=False)
    assert desk.watch.auto_state == "on"
    desk.watch.changed_by_hand(gave_up=True)
    assert desk.watch.status()["pausedBecause"] == "the identity was given up here by hand"
    desk.watch.resume()
    desk.watch.lost(Lost(IDENTITY, 1, Halt(HaltReason.LOST_FENCE, "lost")))
    assert desk.watch.status()["pausedBecause"] == "another instance took the identity from this machine"
    off = Desk(accept_handover=IDENTITY)
    off.watch.lost(Lost(IDENTITY, 1, Halt(HaltReason.LOST_FENCE, "lost")))
    assert (off.watch.auto_state, off.watch.status()["pausedBecause"]) == ("off", None)
    for ask in (off.watch.pause, off.watch.resume):
        with pytest.raises(InvalidInput, match="start the validator with --auto-takeover"):
            ask()


def test_a_store_that_does_not_answer_is_told_once_and_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    looks: list[Any] = []

    def away(*arguments: Any) -> None:
        looks.append(arguments)
        raise StoreUnavailable("nobody answers")

    async def script(desk: Desk) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(desk.opened, "look", away)
            await until(lambda: "the store does not answer" in desk.watch.status()["reasons"] and len(looks) > 5)
        assert [record.message for record in caplog.records].count("looking at the owner: nobody answers") == 1
        await until(lambda: desk.node.taken)

    Desk(**AUTO).run(script)
    assert "looking at the owner: the store answers again" in caplog.text


def test_a_take_over_that_fails_counts_anew(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise TowerError("the disk is full")

    async def script(desk: Desk) -> None:
        await until(lambda: "was not taken over: the disk is full" in caplog.text)
        desk.node.before_claim = lambda: None
        await until(lambda: desk.node.taken)

    desk = Desk(**AUTO)
    desk.node.before_claim = fail
    desk.run(script)


# ---- hand-overs


def offered(desk: Desk, **fields: Any) -> Offer:
    made = Offer("0b", desk.fence.revision, TIP + 50, desk.beacon().id, "owner")
    return dataclasses.replace(made, **fields)


def test_an_offer_to_this_spare_is_taken_and_answered() -> None:
    async def script(desk: Desk) -> None:
        await until(desk.beacon)
        beacon = desk.beacon()
        assert (beacon.who, beacon.slot, beacon.unfit, beacon.auto, beacon.identity) == ("spare", TIP, "", "off", OWN.address)
        desk.put(offered(desk))
        await until(lambda: desk.offer().state is OfferState.TAKEN)
        assert desk.node.taken == ["hand-over asked for by owner"]
        now = desk.owner.look(IDENTITY.address, T).instance_revision
        assert (desk.offer().last_voted_slot, desk.offer().taken_fence) == (990, now)

    Desk(accept_handover=IDENTITY).run(script)


def test_an_offer_is_taken_while_automatic_take_overs_are_paused() -> None:
    async def script(desk: Desk) -> None:
        desk.watch.pause()
        await until(desk.beacon)
        desk.put(offered(desk))
        await until(lambda: desk.node.taken)

    Desk(**{**AUTO, "auto_after_s": 100.0}).run(script)


@pytest.mark.parametrize(
    ("fields", "unfit", "reason"),
    [
        ({"fence": 99}, "", "the offer is by an owner with fence 99"),
        ({"by_slot": TIP - 1}, "", f"the offer ended with slot {TIP - 1}"),
        ({}, "a key is missing", "a key is missing"),
    ],
)
def test_an_offer_that_cannot_be_taken_is_refused_with_the_reason(fields: dict[str, Any], unfit: str, reason: str) -> None:
    async def script(desk: Desk) -> None:
        desk.node.why_unfit = unfit
        await until(lambda: desk.beacon() is not None and desk.beacon().unfit == unfit)
        desk.put(offered(desk, **fields))
        await until(lambda: desk.offer().state is OfferState.REFUSED)
        assert desk.offer().reason.startswith(reason)
        assert (desk.node.taken, desk.node.refused) == ([], [])

    Desk(accept_handover=IDENTITY).run(script)


def test_offers_for_others_are_none_of_its_business() -> None:
    async def script(desk: Desk) -> None:
        await until(desk.beacon)
        desk.put(offered(desk, to="somebody else"))
        before = desk.beacon()
        desk.node.why_unfit = "changed"
        await until(lambda: desk.beacon() != before)  # it has looked again
        assert desk.offer().state is OfferState.OFFERED
        assert desk.node.taken == []

    Desk(accept_handover=IDENTITY).run(script)


@pytest.mark.parametrize("how", ["withdrawn", "overwritten", "claimed"])
def test_an_offer_that_is_gone_when_the_claim_comes_is_not_acted_on(how: str) -> None:
    """A spare that was frozen between reading the offer and its claim."""

    async def script(desk: Desk) -> None:
        await until(desk.beacon)
        offer = offered(desk)

        def meanwhile() -> None:
            if how == "withdrawn":
                desk.put(dataclasses.replace(offer, state=OfferState.WITHDRAWN))
            elif how == "overwritten":
                desk.put(dataclasses.replace(offer, id="other", to="other"))
            else:
                desk.owner.claim(desk.owner.look(IDENTITY.address, T), Owner("third", "by hand"), T)

        desk.node.before_claim = meanwhile
        desk.put(offer)
        await until(lambda: desk.node.refused)
        said = {"withdrawn": "the offer is withdrawn", "overwritten": "the offer is gone", "claimed": "the offer is by an owner"}
        assert desk.node.refused[0].startswith(said[how])
        assert desk.node.taken == []

    Desk(accept_handover=IDENTITY).run(script)


# ---- taking back


def lost(desk: Desk, reason: HaltReason = HaltReason.STORE_FAILED) -> Lost:
    return Lost(IDENTITY, desk.fence.revision, Halt(reason, "gone"))


def test_what_a_failed_store_lost_is_taken_back() -> None:
    async def script(desk: Desk) -> None:
        desk.watch.lost(lost(desk))
        assert desk.watch.status()["takesBack"] == IDENTITY.address
        await until(lambda: desk.node.taken)
        assert desk.node.taken == [f"the store is back, nobody claimed since fence {desk.fence.revision}"]
        assert desk.watch.status()["takesBack"] is None

    Desk(demote=True).run(script)


def test_what_another_has_claimed_is_not_taken_back() -> None:
    async def script(desk: Desk) -> None:
        desk.watch.lost(lost(desk))
        desk.owner.claim(desk.owner.look(IDENTITY.address, T), Owner("third", "by hand"), T)
        await until(lambda: desk.watch.status()["takesBack"] is None)
        assert desk.node.taken == []

    Desk(demote=True).run(script)


def test_an_empty_store_is_not_the_one_that_was_known() -> None:
    looks: list[Any] = []

    class Empty(MemoryStore):
        def look(self, identity: str, timeout: float) -> Any:
            looks.append(identity)
            return super().look(identity, timeout)

    async def script(desk: Desk) -> None:
        desk.watch.lost(lost(desk))
        await until(lambda: len(looks) > 3)
        assert (desk.node.taken, desk.watch.status()["takesBack"]) == ([], IDENTITY.address)

    desk = Desk(demote=True)
    desk.opened = Empty(MemoryBackend())
    desk.run(script)


def test_the_operator_comes_first() -> None:
    desk = Desk(demote=True)
    desk.watch.lost(lost(desk))
    desk.watch.changed_by_hand(gave_up=False)
    assert desk.watch.status()["takesBack"] is None


def test_what_it_is_needed_for() -> None:
    assert not Desk().watch.needed
    assert Desk(demote=True).watch.needed
    assert Desk(accept_handover=IDENTITY).watch.needed
    assert Desk(**AUTO).watch.needed
