"""A planned failover against an admin socket, a cluster and a store of the test's own: deadlines, and what is undone."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.litesvm import encode_vote_account, new_account
from tests.support.live import admin_server, rpc_server
from tower.errors import InvalidInput
from tower.keys import Keypair, to_base58, write_keypair_file
from tower.store import Claimed, Owner
from tower.stores.file import FileStore
from tower.types import Lockout
from tower.validator import failover_run as module
from tower.validator.control import Handler
from tower.validator.failover import Ending
from tower.validator.failover_read import Options
from tower.validator.failover_run import Failover, Report
from tower.validator.handover import OFFER_NOTE, Beacon, OfferState, beacon_note, decode_offer
from tower.wire import VOTE_PROGRAM_ID, encode_saved_tower, new_tower

IDENTITY = Keypair.from_seed(bytes([61]) * 32)
SPARE = Keypair.from_seed(bytes([62]) * 32)
VOTE_ACCOUNT = Keypair.from_seed(bytes([63]) * 32)
T = 10.0
SLOT = 500
NOW = Options(Path(), skip_window=True, step_s=1)


class Desk:
    """One node with its admin methods, a cluster that stands still, and a file store with an owner in it."""

    def __init__(self, folder: Path, *, voting: bool) -> None:
        self.folder, self.voting = folder, voting
        self.towers = folder / "towers"
        self.store = FileStore(self.towers)
        sighting = self.store.look(IDENTITY.address, T)
        owner = Owner("first", "start", "host-1", 11, 1, None)
        claimed = self.store.claim(sighting, owner, T)
        assert isinstance(claimed, Claimed)
        self.fence = claimed.fence.revision
        record = encode_saved_tower(new_tower(IDENTITY), IDENTITY)
        self.store.begin_store(claimed.fence, claimed.record_revision, record, T).outcome(T)
        self.landed: list[int] = []
        self.asked: list[tuple[Any, ...]] = []
        self.take: Callable[..., Any] = lambda *arguments: {"fence": 9, "lastVotedSlot": None, "votesFromSlot": None}
        self.unfit = ""
        self.epoch = {"epoch": 3, "slotIndex": 100, "slotsInEpoch": 2000, "absoluteSlot": SLOT}
        write_keypair_file(folder / "validator-keypair.json", IDENTITY)

    def claim_as(self, who: str, host: str, pid: int) -> None:
        owner = Owner(who, "test", host, pid, 2, 480)
        assert isinstance(self.store.claim(self.store.look(IDENTITY.address, T), owner, T), Claimed)

    def announce(self, slot: int = SLOT, unfit: str = "") -> None:
        beacon = Beacon("0a", "second", "host-2", 22, SPARE.address, slot, unfit)
        self.store.put_note(IDENTITY.address, beacon_note("second", "host-2"), beacon.encode(), T)

    def offer_note(self) -> Any:
        return decode_offer(self.store.notes(IDENTITY.address, T).get(OFFER_NOTE))

    def handlers(self) -> dict[str, Handler]:
        async def status() -> dict[str, Any]:
            identity = IDENTITY if self.voting else SPARE
            return {
                "identity": identity.address, "voting": self.voting, "voteAccount": VOTE_ACCOUNT.address, "who": "first",
                "processedSlot": SLOT - 1, "fence": self.fence if self.voting else None, "lastVotedSlot": 480,
            }  # fmt: skip

        async def progress() -> str:
            return "Running"

        async def storage() -> dict[str, Any]:
            return {"tower_storage": "file", "tower": str(self.towers), "etcd_endpoints": [], "etcd_domain_name": "localhost"}

        async def rehearse(path: str, require_tower: bool) -> dict[str, Any]:
            self.asked.append(("rehearse", path, require_tower))
            if self.unfit:
                raise InvalidInput(self.unfit)
            return {"lastVotedSlot": None, "milliseconds": 1.0}

        async def take_over(*arguments: Any) -> Any:
            self.asked.append(("take", *arguments))
            found = self.take(*arguments)
            return await found if asyncio.iscoroutine(found) else found

        async def take(path: Any, why: Any, require_tower: Any, instance_revision: Any, deadline_s: Any) -> Any:
            return await take_over(path, why, require_tower, instance_revision, deadline_s)

        async def pid() -> int:
            return os.getpid()

        async def address() -> None:
            return None

        async def url() -> str:
            return self.url

        async def contact() -> dict[str, Any]:
            return {"id": (IDENTITY if self.voting else SPARE).address}

        return {
            "status": status, "startProgress": progress, "towerStorage": storage, "rehearseTakeOver": rehearse, "takeOver": take,
            "pid": pid, "rpcAddress": address, "rpcUrl": url, "contactInfo": contact,
        }  # fmt: skip

    def accounts(self, params: list[Any]) -> dict[str, Any]:
        """SlotHashes of the 20 newest slots, and the vote account with what has landed."""
        slots = range(SLOT - 1, SLOT - 21, -1)
        hashes = struct.pack("<Q", len(slots)) + b"".join(struct.pack("<Q", slot) + bytes(32) for slot in slots)
        lockouts = tuple(Lockout(slot, len(self.landed) - at) for at, slot in enumerate(self.landed))
        votes = encode_vote_account(replace(new_account(), lockouts=lockouts))

        def shown(data: bytes, owner: bytes) -> dict[str, Any]:
            return {"owner": to_base58(owner), "lamports": 1, "data": [base64.b64encode(data).decode(), "base64"]}

        return {"context": {"slot": SLOT}, "value": [shown(hashes, bytes(32)), shown(votes, VOTE_PROGRAM_ID)]}

    def cluster(self) -> dict[str, Any]:
        return {
            "getEpochInfo": self.epoch, "getHealth": "ok", "getSlot": SLOT, "getLeaderSchedule": {IDENTITY.address: [1, 300]},
            "getVoteAccounts": {"current": [], "delinquent": []}, "getMultipleAccounts": self.accounts,
        }  # fmt: skip

    def go(self, *, real: bool = True, **options: Any) -> Report:
        keypair = None if self.voting else str(self.folder / "validator-keypair.json")
        asked = replace(NOW, ledger=self.folder / "ledger", keypair=keypair, **options)
        return asyncio.run(Failover(asked).go(real=real))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Desk]]:
    monkeypatch.setattr(module, "ANSWER_S", 0.3)
    monkeypatch.setattr(module, "SETTLE_S", 0.2)
    (tmp_path / "ledger").mkdir()
    with ExitStack() as stack:

        def make(*, voting: bool) -> Desk:
            made = Desk(tmp_path, voting=voting)
            stack.callback(made.store.close)
            made.url = stack.enter_context(rpc_server(made.cluster())).url
            stack.enter_context(admin_server(tmp_path / "ledger", made.handlers()))
            return made

        yield make


def last_note(report: Report) -> str:
    return report.run.step.note


# ---- the taker


def test_a_claim_and_its_first_vote(desk: Callable[..., Desk]) -> None:
    here = desk(voting=False)

    def take(*_: Any) -> dict[str, Any]:
        here.landed += [495, 498]
        return {"fence": 9, "lastVotedSlot": 495, "votesFromSlot": None}

    here.take = take
    report = here.go(step_s=5)
    assert (report.run.ending, report.run.reason) == (Ending.DONE, ""), report.run
    path = str((here.folder / "validator-keypair.json").resolve())
    assert here.asked == [("rehearse", path, False), ("take", path, "failover run", False, here.fence, 5)]
    result = report.result
    assert (result.last_slot_before, result.first_slot_after, result.votes_missed) == (495, 498, 2)
    assert result.claimed_ms is not None
    assert result.landed_ms is not None
    assert result.landed_ms >= result.claimed_ms


def test_a_validator_that_refuses_has_claimed_nothing(desk: Callable[..., Desk]) -> None:
    here = desk(voting=False)

    def refuse(*_: Any) -> None:
        raise InvalidInput("nothing was claimed: the deadline has passed")

    here.take = refuse
    report = here.go()
    assert report.run.ending is Ending.UNDONE
    assert last_note(report).endswith(f"nothing was claimed, the fence is still {here.fence}")
    assert report.after is None


@pytest.mark.parametrize("claims", [False, True])
def test_a_validator_that_does_not_answer(desk: Callable[..., Desk], claims: bool) -> None:
    here = desk(voting=False)

    async def hang(*_: Any) -> None:
        if claims:
            here.claim_as("me", socket.gethostname(), os.getpid())
            here.landed += [495]
        await asyncio.sleep(T)

    here.take = hang
    report = here.go()
    if claims:  # it is the store that says so, and what is begun is finished
        assert report.run.ending is Ending.DONE, report.run
        assert report.run.steps[-2].note.endswith("claimed all the same, by me")
        assert (report.result.last_slot_before, report.result.first_slot_after) == (480, 495)
    else:
        assert report.run.ending is Ending.UNDONE
        assert "no answer to takeOver" in last_note(report)


def test_somebody_else_was_quicker(desk: Callable[..., Desk]) -> None:
    here = desk(voting=False)

    def lose(*_: Any) -> None:
        here.claim_as("third", "host-3", 33)
        raise InvalidInput("nothing was claimed: another instance has claimed since")

    here.take = lose
    report = here.go()
    assert (report.run.ending, report.run.claimed) == (Ending.UNDONE, False)
    assert last_note(report).endswith("the identity was claimed meanwhile by third (test)")


def test_a_store_that_is_gone_in_the_middle(desk: Callable[..., Desk]) -> None:
    here = desk(voting=False)

    def vanish(*_: Any) -> None:
        shutil.move(here.towers, here.folder / "away")
        raise InvalidInput("the disk is gone")

    here.take = vanish
    report = here.go()
    assert (report.run.ending, report.run.store_failed) == (Ending.UNKNOWN, True)
    assert "who the owner is now, the store does not say" in last_note(report)


def test_a_first_vote_that_does_not_land(desk: Callable[..., Desk]) -> None:
    here = desk(voting=False)
    here.landed = [480]
    here.take = lambda *_: {"fence": 9, "lastVotedSlot": 480, "votesFromSlot": None}
    report = here.go()
    assert (report.run.ending, report.run.claimed) == (Ending.INCOMPLETE, True)
    assert report.run.reason.startswith("no vote by first landed within")
    assert report.result.votes_missed is None


def test_a_node_that_is_not_fit_is_refused_with_the_reason(desk: Callable[..., Desk]) -> None:
    here = desk(voting=False)
    here.unfit = "not caught up: slot 5 of 500"
    report = here.go()
    assert (report.run.ending, report.run.reason) == (Ending.REFUSED, here.unfit)
    assert [asked[0] for asked in here.asked] == ["rehearse"]


def test_a_stored_tower_of_somebody_else(desk: Callable[..., Desk]) -> None:
    here = desk(voting=False)
    file = here.towers / f"tower-1_9-{IDENTITY.address}.bin"
    file.write_bytes(encode_saved_tower(new_tower(SPARE), SPARE))
    report = here.go()
    assert report.run.ending is Ending.REFUSED
    assert type(report.problem).__name__ == "InvalidSignature"


def test_no_window_before_its_deadline(desk: Callable[..., Desk]) -> None:
    here = desk(voting=False)
    here.epoch |= {"slotIndex": 1990, "absoluteSlot": 1990}
    report = here.go(skip_window=False, window_s=0.3, min_idle_minutes=0.2)
    assert (report.run.ending, report.run.reason) == (Ending.REFUSED, "not within 0.3 s")
    assert report.facts.window == "Current epoch is almost complete"
    assert [asked[0] for asked in here.asked] == ["rehearse"]
    drill = here.go(real=False, skip_window=False, min_idle_minutes=0.2)
    assert drill.run.ending is Ending.DRILL
    assert drill.run.steps[4].note == "a real run would wait: Current epoch is almost complete"


def test_an_unknown_role(desk: Callable[..., Desk]) -> None:
    here = desk(voting=False)
    with pytest.raises(InvalidInput, match="name the identity to take with --identity"):
        asyncio.run(Failover(replace(NOW, ledger=here.folder / "ledger")).go(real=True))


# ---- the giver


def test_an_offer_that_is_taken(desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    here = desk(voting=True)
    here.announce()
    real_put = Failover._put

    async def put_and_be_taken(self: Failover, offer: Any) -> None:
        await real_put(self, offer)
        assert (offer.to, offer.fence, offer.by_slot) == ("0a", here.fence, SLOT + 50)
        here.claim_as("second", "host-2", 22)
        answer = replace(offer, state=OfferState.TAKEN, taken_fence=2, last_voted_slot=496)
        here.store.put_note(IDENTITY.address, OFFER_NOTE, answer.encode(), T)
        here.landed += [496, 497]

    monkeypatch.setattr(Failover, "_put", put_and_be_taken)
    report = here.go(step_s=5)
    assert report.run.ending is Ending.DONE, report.run
    assert (report.result.last_slot_before, report.result.votes_missed) == (496, 0)
    assert "second took over: fence 1 -> 2" in report.run.steps[-2].note
    assert report.after is not None
    assert report.after.fence == 2


def test_an_offer_that_nobody_takes_is_withdrawn(desk: Callable[..., Desk]) -> None:
    here = desk(voting=True)
    here.announce()
    report = here.go()
    assert report.run.ending is Ending.UNDONE
    assert last_note(report) == f"second did not take over within 1 s; nothing was claimed, the fence is still {here.fence}"
    assert here.offer_note().state is OfferState.WITHDRAWN


@pytest.mark.parametrize("by", ["second", "third"])
def test_a_claim_while_the_offer_is_withdrawn(desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    here = desk(voting=True)
    here.announce()
    real_put = Failover._put

    async def put(self: Failover, offer: Any) -> None:
        await real_put(self, offer)
        if offer.state is OfferState.WITHDRAWN:
            here.claim_as(by, "host-2" if by == "second" else "host-3", 22)
            here.landed += [498]

    monkeypatch.setattr(Failover, "_put", put)
    report = here.go()
    if by == "second":
        assert report.run.ending is Ending.DONE, report.run
        assert (report.result.last_slot_before, report.result.first_slot_after) == (480, 498)
    else:
        assert report.run.ending is Ending.UNDONE
        assert "claimed meanwhile by third" in last_note(report)


def test_an_offer_that_is_refused_is_over_at_once(desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    here = desk(voting=True)
    here.announce()
    real_put = Failover._put

    async def put(self: Failover, offer: Any) -> None:
        answer = replace(offer, state=OfferState.REFUSED, reason="the key is missing")
        await real_put(self, answer if offer.state is OfferState.OFFERED else offer)

    monkeypatch.setattr(Failover, "_put", put)
    report = here.go(step_s=T)
    assert report.run.ending is Ending.UNDONE
    assert last_note(report).startswith("the spare refused: the key is missing; nothing was claimed")


def test_the_owner_changed_while_the_window_was_waited_for(desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    here = desk(voting=True)
    here.announce()

    async def waited(self: Failover, deadline_s: float) -> str:
        here.claim_as("third", "host-3", 33)
        return "Ready to restart"

    monkeypatch.setattr(Failover, "_window", waited)
    report = here.go(skip_window=False)
    assert (report.run.ending, report.run.reason) == (Ending.REFUSED, "another instance has claimed since this was planned")
    assert here.offer_note() is None


def test_a_spare_that_is_silent_or_unfit_is_not_asked(desk: Callable[..., Desk]) -> None:
    here = desk(voting=True)
    here.announce(slot=SLOT - 100)
    assert here.go().run.reason == "the spare second was last heard of 100 slots ago"
    here.announce(unfit="no key")
    assert here.go().run.reason == "the spare second cannot take over now: no key"
    assert here.offer_note() is None


def test_a_drill_of_the_owner_writes_nothing(desk: Callable[..., Desk]) -> None:
    here = desk(voting=True)
    here.announce()
    here.go(real=False)  # the lock files are there afterwards
    before = {path.name: path.read_bytes() for path in here.towers.iterdir()}
    assert here.go(real=False).run.ending is Ending.DRILL
    assert {path.name: path.read_bytes() for path in here.towers.iterdir()} == before
    json.dumps(here.go(real=False).result.document())
