"""From a frozen bank to the vote that leaves: fork choice, checks, record, signature, fenced store, transaction, datagram.

The clock starts when the bank is handed to the runner and stops when the vote's datagram has been given to the kernel. Beside
it, in the same rounds, on the same store object and connection and under the same fence: a fenced write of the same bytes with
nothing around it (of the other kind of record, so that the two writers do not meet). What is left is our own share of a vote.

What this does not measure: how a bank arrives (RPC and PubSub), the hop from the event loop to the vote's thread, a store
with several members on a network.
"""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.banks import VOTE_ACCOUNT, Chain
from benchmarks.conftest import Bench
from benchmarks.measure import Sample
from tests.support.etcd import open_store, run_etcd
from tower import _fast, runner
from tower.events import BankFrozen, TakeOver
from tower.forkchoice import ForkChoice
from tower.keys import Keypair
from tower.runner import CommittedVote, Runner
from tower.store import Committed, Fence, Kind, Pending, Store
from tower.stores.memory import MemoryBackend, MemoryStore
from tower.validator.certs import make_certificates
from tower.validator.sender import VoteRoutes, VoteSender
from tower.voter import Voter, VoterConfig, VoterState

FULL_STACK = 64  # votes before the first that is measured: the lockouts are 31 deep then
UNIX_S = 1_700_000_000
TIMEOUT_S = 5.0
PAUSE_S = 0.02  # a real one is 20 times longer, which would take hours

clock = time.perf_counter_ns


class Watched:
    """A store that notes when the runner asks and is answered; all else is the store's own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.asked = self.asked_back = self.waited = self.answered = 0
        self.record = b""
        self.fence: Fence | None = None

    def begin_store(self, fence: Fence, expected_revision: int, record: bytes, timeout: float) -> Watched:
        self.asked = clock()
        self._pending: Pending = self._store.begin_store(fence, expected_revision, record, timeout)
        self.asked_back = clock()
        self.fence, self.record = fence, record
        return self

    def outcome(self, timeout: float) -> Any:
        self.waited = clock()
        outcome = self._pending.outcome(timeout)
        self.answered = clock()
        return outcome

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Way:
    """One voter on one store, its votes going to a port of this machine. `vote` takes the next bank all the way."""

    def __init__(self, store: Store, voters: int, seed: int) -> None:
        self.identity = Keypair.from_seed(seed.to_bytes(32, "big"))
        self.store = Watched(store)
        self.chain = Chain(self.identity.pubkey, voters, seed)
        self._port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._port.bind(("127.0.0.1", 0))
        self._port.setblocking(False)
        self._sender = VoteSender("127.0.0.1")
        self._sender.routes = VoteRoutes({"leader": self._port.getsockname()}, 0, ())
        config = VoterConfig(self.identity.pubkey, VOTE_ACCOUNT, frozenset((self.identity.pubkey,)))
        voter = Voter(config, ForkChoice(self.chain.first))
        self.runner = Runner(voter, self.store, self.identity, [self.identity], self._send)  # type: ignore[arg-type]
        self.sent = 0
        self.votes = 0
        self.released: CommittedVote | None = None
        self.runner.drive(TakeOver())  # votes for the first bank at once
        self._port.recv(2048)
        for _ in range(FULL_STACK):
            self.vote()
        assert len(voter.votes) == 31

    def _send(self, vote: CommittedVote) -> None:
        self._sender(vote)
        self.sent = clock()
        self.released = vote

    def vote(self) -> tuple[int, ...]:
        """Nanoseconds of each of `PARTS`."""
        event = BankFrozen(self.chain.next(), UNIX_S + self.votes)
        began = clock()
        self.runner.drive(event)
        ended = clock()
        self.votes += 1
        store = self.store
        self._same_work(event.bank.slot)
        return (
            self.sent - began,
            store.asked - began,
            store.answered - store.asked,
            store.waited - store.asked_back,
            self.sent - store.answered,
            ended - self.sent,
        )

    def _same_work(self, slot: int) -> None:
        """The vote for this bank left, with the record that the store was given."""
        vote = self.released
        assert vote is not None, self.runner.halted
        assert vote.slot == slot
        assert vote.signed.record == self.store.record
        assert self._port.recv(2048) == vote.transaction
        assert self.runner.voter.state is VoterState.READY

    def close(self) -> None:
        self.runner.close()
        self._sender.close()
        self._port.close()


class Alone:
    """Fenced writes of the newest record of a `Way`, on its store and under its fence, with nothing around them."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._revision = 0

    def write(self) -> int:
        """Nanoseconds of one write."""
        store, fence, record = self._way.store._store, self._way.store.fence, self._way.store.record
        assert fence is not None
        began = clock()
        outcome = store.begin_store(fence, self._revision, record, TIMEOUT_S, Kind.BLOCKS).outcome(TIMEOUT_S)
        taken = clock() - began
        assert isinstance(outcome, Committed), outcome
        self._revision = outcome.record_revision
        store.expect_store()  # as the runner does after each vote
        return taken


def seconds(taken: list[int]) -> Sample:
    return Sample(tuple(each / 1e9 for each in taken))


def measure(
    bench: Bench, way: Way, rounds: int, against: str, table: str, name: str, at_most: float | None, pause_s: float = 0.0
) -> None:
    """`rounds` votes, each after a pause, as are the store alone and the signature that they are compared with."""
    alone = Alone(way)
    whole: dict[str, list[int]] = {part: [] for part in PARTS}
    stores: list[int] = []
    signatures: list[int] = []

    def one_vote() -> None:
        for part, taken in zip(PARTS, way.vote(), strict=True):
            whole[part].append(taken)

    def one_signature() -> None:
        message = bytes(300)
        began = clock()
        _fast.sign(way.identity.secret, message)
        signatures.append(clock() - began)

    order: list[Callable[[], None]] = [one_vote, lambda: stores.append(alone.write()), one_signature]
    alone.write()
    with no_collection():
        for _ in range(rounds):
            for case in order:
                if pause_s:
                    time.sleep(pause_s)
                case()
            order.reverse()
    vote, store, sig = seconds(whole[PARTS[0]]), seconds(stores), seconds(signatures)
    bench.row(table, f"{name}: bank to released vote", vote, against=against, other=store, at_most=at_most)
    for part in PARTS[1:]:
        bench.row(table, f"{name}: {part}", seconds(whole[part]), against="one signature", other=sig, unit="sig")
    bench.distribution("frozen bank to released vote", name, vote)
    bench.distribution("frozen bank to released vote", f"{name}: the store alone", store)


PARTS = (
    "bank to released vote",
    "of it, bank to the store's request",
    "of it, the store: request to answer",
    "of that, signing the transaction meanwhile",
    "of it, commit to released vote",
    "after it, until ready for the next bank",
)


class Profile:
    """Clocks around the steps of a vote, while it is set up; nanoseconds of each call by step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: dict[str, list[int]] = {}
        self._timed(monkeypatch, ForkChoice, "add", "the bank into the tree, its votes weighed")
        self._timed(monkeypatch, Voter, "_candidate", "the heaviest fork")
        self._timed(monkeypatch, Voter, "_think", "the checks, and the vote")
        own = SimpleNamespace(encode_vote_message=_fast.encode_vote_message, sign_transaction=_fast.sign_transaction)
        own.encode_vote_record = _fast.encode_vote_record
        self._timed(monkeypatch, own, "encode_vote_record", "the record, encoded and signed")
        monkeypatch.setattr(runner, "_fast", own)
        self._timed(monkeypatch, Runner, "_begin", "the request, encoded, encrypted and given to the kernel")
        self._timed(monkeypatch, Runner, "_sign", "the transaction, encoded and signed (while the store is waited for)")
        self._timed(monkeypatch, Runner, "_release", "the committed vote, given to the kernel")

    def _timed(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, step: str) -> None:
        call, taken = getattr(owner, name), self.taken.setdefault(step, [])

        def timed(*arguments: Any) -> Any:
            began = clock()
            try:
                return call(*arguments)
            finally:
                taken.append(clock() - began)

        monkeypatch.setattr(owner, name, timed)


class no_collection:  # noqa: N801
    """Garbage waits meanwhile, as in `interleaved`."""

    def __enter__(self) -> None:
        self._on = gc.isenabled()
        gc.collect()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._on:
            gc.enable()


@pytest.fixture
def etcd_store(tmp_path: Path) -> Iterator[Store]:
    make_certificates(tmp_path / "certs")
    with run_etcd(tmp_path, tmp_path / "certs") as server:
        store = open_store(server)
        try:
            yield store
        finally:
            store.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("voters", [20, 2000])
@pytest.mark.parametrize("pause_s", [0.0, PAUSE_S], ids=["at once", "paced"])
def test_bank_to_released_vote_on_etcd(
    bench: Bench, benchmark: Any, etcd_store: Store, voters: int, pause_s: float
) -> None:
    """One bank after the other without a pause, and with one, in which all that takes part falls asleep, as it does in use."""
    way = Way(etcd_store, voters, bench.seed)
    try:
        benchmark.pedantic(way.vote, rounds=1)
        name = f"etcd, {voters} voters{f', after {1000 * pause_s:g} ms' if pause_s else ''}"
        rounds = bench.rounds(400 if pause_s else 2000, 3)
        measure(bench, way, rounds, "the fenced store alone", "frozen bank to released vote", name, 1.15, pause_s)
    finally:
        way.close()


@pytest.mark.timeout(600)
def test_where_the_time_of_a_vote_goes(
    bench: Bench, benchmark: Any, etcd_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps one by one, asleep before: a clock around each, which costs a little itself."""
    profile = Profile(monkeypatch)
    way = Way(etcd_store, 20, bench.seed)
    signatures: list[int] = []
    try:
        benchmark.pedantic(way.vote, rounds=1)
        with no_collection():
            for taken in profile.taken.values():
                taken.clear()
            for _ in range(bench.rounds(400, 3)):
                time.sleep(PAUSE_S)
                way.vote()
                time.sleep(PAUSE_S)
                began = clock()
                _fast.sign(way.identity.secret, bytes(300))
                signatures.append(clock() - began)
    finally:
        way.close()
    assert all(profile.taken.values()), "a step was not on the vote's way"
    for step, taken in profile.taken.items():
        bench.row(
            "where the time of a vote goes", step, seconds(taken), against="one signature", other=seconds(signatures), unit="sig",
            note=f"20 voters, {1000 * PAUSE_S:g} ms after the vote before",
        )  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.parametrize("voters", [20, 2000])
def test_bank_to_released_vote_in_memory(bench: Bench, benchmark: Any, voters: int) -> None:
    """Without a store that takes time: all of it is this program's own."""
    way = Way(MemoryStore(MemoryBackend()), voters, bench.seed)
    try:
        benchmark.pedantic(way.vote, rounds=1)
        name = f"memory, {voters} voters"
        measure(bench, way, bench.rounds(2000, 3), "the memory store alone", "frozen bank to released vote", name, None)
    finally:
        way.close()
