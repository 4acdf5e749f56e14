"""What is missing before a claim: each thing by itself, and a cluster that does not answer is asked again."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from tower.errors import InvalidInput
from tower.events import LedgerView
from tower.restore import SlotHistory
from tower.types import VoteAccountState
from tower.validator import catch_up as module
from tower.validator.catch_up import CAUGHT_UP_SLOTS, LEDGER_SLOTS_MAX, CatchUp
from tower.validator.rpc import RpcUnreachable

OWN = VoteAccountState(b"n" * 32)


class World:
    """A node at slot 100 of 100 that nothing is missing to; the ledger is read from a history that ends at slot 90."""

    def __init__(self) -> None:
        self.slot, self.newest = 100, 100
        self.own: VoteAccountState | None = OWN
        self.healthy = True
        self.failures = 0
        self.ledgers = 0
        self.asked = 0

    async def get_slot(self) -> int:
        self.asked += 1
        if self.failures:
            self.failures -= 1
            raise RpcUnreachable("not now")
        return self.newest

    async def get_health(self) -> bool:
        return self.healthy

    async def ledger(self) -> LedgerView:
        self.ledgers += 1
        return LedgerView(90, SlotHistory.of({90}, 90))

    async def here(self) -> tuple[int, VoteAccountState | None]:
        return self.slot, self.own

    def catch_up(self, routed: bool = True, vote_account: bytes | None = b"v" * 32) -> CatchUp:
        event = asyncio.Event()
        if routed:
            event.set()
        feed = SimpleNamespace(ledger=self.ledger)
        return CatchUp(self, feed, vote_account, self.here, event)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "arguments", "missing"),
    [
        ({}, {}, ""),
        ({"newest": 100 + CAUGHT_UP_SLOTS}, {}, ""),
        ({"newest": 101 + CAUGHT_UP_SLOTS}, {}, "slot 100 of 104"),
        ({"own": None}, {}, "the vote account is not seen yet"),
        ({"own": None}, {"vote_account": None}, ""),
        ({}, {"routed": False}, "the leader schedule is not known yet"),
        ({"healthy": False}, {}, "the cluster's RPC is unhealthy"),
    ],
)
def test_each_thing_that_can_be_missing_is_named(changes: dict, arguments: dict, missing: str) -> None:
    async def scenario() -> None:
        world = World()
        for name, value in changes.items():
            setattr(world, name, value)
        found = await world.catch_up(**arguments).missing()
        assert found == "" if not missing else missing in found

    asyncio.run(scenario())


def test_it_waits_for_what_is_missing_and_for_a_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        world = World()
        world.failures, world.healthy = 2, False
        caught_up = world.catch_up()
        waiting = asyncio.create_task(caught_up.wait())
        async with asyncio.timeout(10):
            while world.asked < 4:
                await asyncio.sleep(0)
        assert not waiting.done()
        world.healthy = True
        await asyncio.wait_for(waiting, 10)
        assert (caught_up.slot, world.ledgers, world.failures) == (100, 1, 0)
        await caught_up.wait()
        assert world.ledgers == 1  # still new enough
        world.slot = world.newest = 91 + LEDGER_SLOTS_MAX
        await caught_up.wait()
        assert world.ledgers == 2

    monkeypatch.setattr(module, "POLL_S", 0)
    monkeypatch.setattr(module, "RETRY_MAX_S", 0)
    asyncio.run(scenario())


def test_what_is_not_there_in_time_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        world = World()
        world.healthy = False
        with pytest.raises(InvalidInput, match=r"not caught up with the cluster within 0\.05 s; nothing was claimed"):
            await world.catch_up().within(0.05)
        world.healthy = True
        await world.catch_up().within(10)

    monkeypatch.setattr(module, "POLL_S", 0.001)
    asyncio.run(scenario())
