"""The leader duty of the process: when it asks, what leaves, and that nothing that it does holds a vote up."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.chain import IDENTITY, OTHER, UNIX_S, VOTE_ACCOUNT, account, bank
from tests.support.etcd import wait_until
from tower.errors import StoreUnavailable
from tower.events import Adopted, BankFrozen, Halt
from tower.forkchoice import ForkChoice
from tower.leader import Leader, Reserve, decode_reservation
from tower.leader_runner import LeaderRunner
from tower.store import Claimed, Fence, Owner
from tower.stores.memory import MemoryBackend, MemoryStore
from tower.validator.announcement import Announcement, read_announcement
from tower.validator.config import ValidatorConfig
from tower.validator.leader_duty import RESERVE_AHEAD_SLOTS, LeaderDuty
from tower.validator.sender import VoteRoutes, learn_routes
from tower.validator.vote_thread import VoteThread

PATIENCE_S = 10.0
OURS, THEIRS = IDENTITY.address, OTHER.address
FIRST = 16  # of our window, four slots long; there is another one at 40
LEADERS = [THEIRS] * FIRST + [OURS] * 4 + [THEIRS] * 20 + [OURS] * 4


class Cluster:
    """A block port, and what arrived at it."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.blocks: list[Announcement] = []

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.socket.getsockname()
        return host, port

    def slots(self) -> list[int]:
        try:
            while True:
                block = read_announcement(self.socket.recv(2048))
                assert block is not None
                assert block.identity == IDENTITY.pubkey
                self.blocks.append(block)
        except BlockingIOError:
            return [block.slot for block in self.blocks]


class Store(MemoryStore):
    """One whose writes wait while `hold` is set, as on a store that hangs."""

    def __init__(self, backend: MemoryBackend) -> None:
        super().__init__(backend)
        self.hold = False
        self.held, self.go_on, self.closed = threading.Event(), threading.Event(), threading.Event()

    def begin_store(self, *args: Any, **kwargs: Any) -> Any:
        if self.hold:
            self.held.set()
            self.go_on.wait(PATIENCE_S)
        return super().begin_store(*args, **kwargs)

    def close(self) -> None:
        self.closed.set()
        super().close()


class World:
    """One duty on a store in memory, and the store of its voter."""

    def __init__(self) -> None:
        self.backend = MemoryBackend()
        self.cluster = Cluster()
        self.voter = MemoryStore(self.backend)
        self.stores: list[Store] = []
        self.duty = LeaderDuty("127.0.0.1", self.open, 5.0)
        self.duty.routes = VoteRoutes({}, 0, LEADERS, self.cluster.address)

    def open(self) -> Store:
        self.stores.append(Store(self.backend))
        return self.stores[-1]

    def claim(self, store: MemoryStore | None = None) -> Fence:
        store = store or self.voter
        claimed = store.claim(store.look(OURS, 1), Owner("test", "start"), 1)
        assert isinstance(claimed, Claimed)
        return claimed.fence

    def begin(self, fence: Fence) -> Store:
        self.duty.begin(IDENTITY, Adopted(fence, None, None))
        wait_until(lambda: self.stores, "its store is opened")
        return self.stores[-1]

    def mark(self) -> int:
        record = self.voter.look(OURS, 1).blocks
        return -1 if record is None else decode_reservation(record).last

    def reserve_first(self) -> None:
        """Vote, and come near the first window."""
        self.duty.voted(time.monotonic())
        self.duty.slot_begins(FIRST - 2, FIRST - 3)
        wait_until(lambda: self.mark() == FIRST + 3, "the window is reserved")

    def wait_idle(self) -> None:
        """Until the thread has taken in everything that it was told."""
        life = self.duty._life
        assert life is not None
        wait_until(life._inbox.empty, "its inbox is empty")


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "leader"]


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.duty.end("the test is over")
    for store in made.stores:
        store.go_on.set()
    wait_until(lambda: not threads(), "no thread is left")
    assert all(store.closed.is_set() for store in made.stores)
    made.cluster.socket.close()
    made.voter.close()


def test_a_window_is_reserved_ahead_and_each_of_its_slots_announced_once(world: World) -> None:
    world.begin(world.claim())
    world.duty.voted(time.monotonic())
    for slot in range(FIRST + 6):
        world.duty.slot_begins(slot, slot - 1)
        if slot == FIRST - RESERVE_AHEAD_SLOTS - 1:
            world.wait_idle()
            assert world.mark() == -1, "too early: whoever takes over meanwhile could not lead it"
        if slot == FIRST - 1:
            wait_until(lambda: world.mark() == FIRST + 3, "the window is reserved")
        if FIRST <= slot < FIRST + 4:
            wait_until(lambda slot=slot: slot in world.cluster.slots(), "the slot is announced")
            world.duty.slot_begins(slot, slot - 1)
    world.wait_idle()
    assert world.cluster.slots() == [FIRST, FIRST + 1, FIRST + 2, FIRST + 3]
    assert [block.parent_slot for block in world.cluster.blocks] == [FIRST - 1, FIRST, FIRST + 1, FIRST + 2]
    assert world.duty.announced == 4


def test_before_the_first_vote_of_the_life_nothing_is_reserved_and_nothing_leaves(world: World) -> None:
    world.begin(world.claim())
    for slot in range(FIRST + 1):
        world.duty.slot_begins(slot, slot - 1)
    world.wait_idle()
    assert world.mark() == -1
    world.duty.voted(time.monotonic())
    wait_until(lambda: world.mark() == FIRST + 3, "the rest of the window is reserved")
    world.duty.slot_begins(FIRST + 1, FIRST)
    wait_until(lambda: world.cluster.slots() == [FIRST + 1], "the next slot is led")


def test_what_a_predecessor_reserved_is_not_led(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tower")
    other = MemoryStore(world.backend)
    runner = LeaderRunner(Leader(), other)
    runner.drive(Adopted(world.claim(other), None, None))
    runner.drive(Reserve(FIRST, FIRST + 1))
    world.begin(world.claim())
    world.reserve_first()
    for slot in range(FIRST, FIRST + 3):
        world.duty.slot_begins(slot, slot - 1)
        world.wait_idle()
    wait_until(lambda: world.cluster.slots() == [FIRST + 2], "what is above the mark is led")
    assert f"no block for slot {FIRST}: it is not reserved here" in caplog.messages


def test_when_end_has_returned_nothing_leaves_any_more(world: World) -> None:
    store = world.begin(world.claim())
    world.reserve_first()
    life = world.duty._life
    assert life is not None
    world.duty.end("given up")
    life.slot_begins(FIRST, FIRST - 1)
    wait_until(store.closed.is_set, "its store is closed")
    assert world.cluster.slots() == []


def test_a_claim_that_the_watch_saw_ends_the_duty_and_an_echo_does_not(world: World) -> None:
    fence = world.claim()
    store = world.begin(fence)
    world.reserve_first()
    world.duty.lost(IDENTITY, fence.revision)
    world.duty.lost(OTHER, fence.revision + 1)
    world.duty.slot_begins(FIRST, FIRST - 1)
    wait_until(lambda: world.cluster.slots() == [FIRST], "it still leads")
    world.duty.lost(IDENTITY, fence.revision + 1)
    world.duty.slot_begins(FIRST + 1, FIRST)
    wait_until(store.closed.is_set, "its store is closed")
    assert world.cluster.slots() == [FIRST]


def test_nobody_waits_for_a_store_that_hangs_and_the_end_counts_meanwhile(world: World) -> None:
    store = world.begin(world.claim())
    store.hold = True
    world.duty.voted(time.monotonic())
    world.duty.slot_begins(FIRST - 1, FIRST - 2)
    wait_until(store.held.is_set, "a reservation hangs")
    for _ in range(3):  # from the vote thread's place: each returns, though the store does not
        world.duty.voted(time.monotonic())
        world.duty.slot_begins(FIRST, FIRST - 1)
    world.duty.end("given up")
    assert not store.go_on.is_set()
    store.go_on.set()
    wait_until(store.closed.is_set, "its store is closed")
    assert world.cluster.slots() == []


def test_a_vote_of_the_life_before_is_none_of_the_next(world: World) -> None:
    world.begin(world.claim())
    world.reserve_first()
    world.duty.end("given up")
    wait_until(lambda: not threads(), "the first life has ended")
    world.begin(world.claim())
    world.duty.slot_begins(36, 35)
    world.wait_idle()
    assert world.mark() == FIRST + 3
    world.duty.voted(time.monotonic())
    wait_until(lambda: world.mark() == 43, "after a vote of its own it reserves")


@pytest.mark.parametrize("off", ["by flag", "by cluster"])
def test_where_nobody_takes_blocks_nothing_is_begun(world: World, off: str) -> None:
    if off == "by flag":
        world.duty = LeaderDuty("127.0.0.1", world.open, 5.0, enabled=False)
        world.duty.routes = VoteRoutes({}, 0, LEADERS, world.cluster.address)
    else:
        world.duty.routes = replace(world.duty.routes, blocks=None)
    world.duty.begin(IDENTITY, Adopted(world.claim(), None, None))
    world.duty.voted(time.monotonic())
    assert world.stores == []
    assert threads() == []


def test_a_store_that_cannot_be_opened_ends_the_duty_alone(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def away() -> Any:
        raise StoreUnavailable("etcd is away")

    duty = LeaderDuty("127.0.0.1", away, 5.0)
    duty.routes = world.duty.routes
    duty.begin(IDENTITY, Adopted(world.claim(), None, None))
    wait_until(lambda: not threads(), "the thread has ended")
    assert f"no leader duty for {OURS}: etcd is away" in caplog.messages
    duty.voted(time.monotonic())
    duty.end("the process ends")


# ---- in the vote thread


class Noted(LeaderDuty):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1", lambda: MemoryStore(MemoryBackend()), 1.0)
        self.told: list[Any] = []

    def begin(self, identity: Any, adopted: Adopted) -> None:
        self.told.append(("begin", identity.address, adopted.fence.revision))

    def voted(self, began: float) -> None:
        assert 0 <= time.monotonic() - began < PATIENCE_S
        self.told.append("voted")

    def lost(self, identity: Any, seen: int) -> None:
        self.told.append(("lost", identity.address))

    def end(self, reason: str) -> None:
        self.told.append("end")


@pytest.fixture
def voting() -> Iterator[tuple[VoteThread, Noted, MemoryBackend]]:
    backend, noted = MemoryBackend(), Noted()
    config = ValidatorConfig(
        identity=OTHER, vote_account=VOTE_ACCOUNT, authorized_voters=(IDENTITY,), ledger=Path(), url="", websocket_url=""
    )
    votes = VoteThread(
        config, MemoryStore(backend), ForkChoice(bank(0, None)), lambda vote: None, lambda halt: None, leading=noted
    )
    votes.start()
    yield votes, noted, backend
    votes.close(PATIENCE_S)


def in_thread(votes: VoteThread, work: Callable[[], Any] = lambda: None) -> Any:
    return votes.call(work).result(PATIENCE_S)


def test_the_duty_begins_with_the_adoption_hears_each_vote_and_ends_with_the_life(voting: Any) -> None:
    votes, noted, _ = voting
    adopted = in_thread(votes, lambda: votes.take_over(IDENTITY, "set-identity", False))
    # The vote of the take-over itself leaves before the duty begins: the next one counts.
    assert noted.told == ["end", "voted", ("begin", OURS, adopted.fence.revision)]
    noted.told.clear()
    votes.post(BankFrozen(bank(1, 0, own=account()), UNIX_S))
    in_thread(votes)
    assert noted.told == ["voted"]
    noted.told.clear()
    in_thread(votes, lambda: votes.stand_by(OTHER))
    assert noted.told == ["end"]


def test_the_duty_hears_of_a_lost_fence_before_the_vote_thread_is_free(voting: Any) -> None:
    votes, noted, backend = voting
    in_thread(votes, lambda: votes.take_over(IDENTITY, "set-identity", False))
    busy, go_on = threading.Event(), threading.Event()
    held = votes.call(lambda: (busy.set(), go_on.wait(PATIENCE_S)))
    assert busy.wait(PATIENCE_S)
    noted.told.clear()
    other = MemoryStore(backend)
    other.claim(other.look(OURS, 1), Owner("other", "start"), 1)
    wait_until(lambda: noted.told, "it was told")
    assert noted.told == [("lost", OURS)]
    go_on.set()
    held.result(PATIENCE_S)
    in_thread(votes)
    assert noted.told == [("lost", OURS), "end"]


def test_a_take_over_that_is_refused_leaves_the_duty_as_it_is(voting: Any) -> None:
    votes, noted, _ = voting
    in_thread(votes, lambda: votes.take_over(IDENTITY, "set-identity", False))
    noted.told.clear()
    with pytest.raises(Exception, match="this is a spare"):
        in_thread(votes, lambda: votes.take_over(OTHER, "set-identity", True))
    assert noted.told == []
    assert votes.voting()


def test_the_duty_ends_with_the_thread_whatever_ended_it() -> None:
    backend, noted, halts = MemoryBackend(), Noted(), list[Halt]()

    def broken(vote: Any) -> None:
        if vote.slot:
            raise ZeroDivisionError("in the sender")

    config = ValidatorConfig(
        identity=OTHER, vote_account=VOTE_ACCOUNT, authorized_voters=(IDENTITY,), ledger=Path(), url="", websocket_url=""
    )
    votes = VoteThread(config, MemoryStore(backend), ForkChoice(bank(0, None)), broken, halts.append, leading=noted)
    votes.start()
    in_thread(votes, lambda: votes.take_over(IDENTITY, "set-identity", False))
    noted.told.clear()
    votes.post(BankFrozen(bank(1, 0, own=account()), UNIX_S))
    wait_until(lambda: noted.told, "it was told")
    assert noted.told == ["end"]
    assert len(halts) == 1
    votes.close(PATIENCE_S)


# ---- what is learnt of the cluster


class Rpc:
    """A cluster of four slots an epoch, as its RPC tells of it."""

    def __init__(self, blocks: str | None) -> None:
        self.blocks = blocks
        self.asked: list[int] = []

    async def get_cluster_nodes(self) -> list[dict[str, Any]]:
        node = {"pubkey": "n", "tpuVote": "127.0.0.1:1"}
        return [node if self.blocks is None else {**node, "localnetBlocks": self.blocks}]

    async def get_epoch_info(self) -> Any:
        class Info:
            absolute_slot, first_slot, slots_in_epoch = 9, 8, 4

        return Info()

    async def get_leader_schedule(self, slot: int) -> dict[str, list[int]] | None:
        self.asked.append(slot)
        return {"a": [0, 1]} if slot < 12 else {"b": [2, 3]}


def test_with_a_block_port_the_next_epoch_is_learnt_too() -> None:
    rpc: Any = Rpc("127.0.0.1:7")
    routes = asyncio.run(learn_routes(rpc))
    assert routes.blocks == ("127.0.0.1", 7)
    assert [routes.leader(slot) for slot in (7, 8, 10, 14, 15, 16)] == ["", "a", "", "b", "b", ""]
    rpc = Rpc(None)
    routes = asyncio.run(learn_routes(rpc))
    assert (routes.blocks, rpc.asked, len(routes.leaders)) == (None, [9], 4)
