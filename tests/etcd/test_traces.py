"""Voters on a real etcd whose answers get lost, taken over in the middle of a write: what they did, TLC explains."""

from __future__ import annotations

import itertools
import queue
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spec import alterations
from spec.replay import replay, report
from spec.traces import Event, read
from tests.support.chain import UNIX_S, VOTE_ACCOUNT, account, bank, peer_votes
from tests.support.etcd import Proxy, wait_until
from tower.events import BankFrozen, FenceLost, HaltReason, Resign, TakeOver
from tower.forkchoice import ForkChoice
from tower.keys import Keypair
from tower.localnet.etcd_server import EtcdServer
from tower.runner import Runner
from tower.stores.etcd import EtcdStore
from tower.trace import Trace
from tower.types import FrozenBank
from tower.voter import Voter, VoterConfig, VoterState

pytestmark = pytest.mark.skipif(shutil.which("java") is None, reason="TLC needs Java, which is not on PATH")

Open = Callable[..., EtcdStore]
LIVES = 6


def chain(pair: Keypair, slot: int) -> FrozenBank:
    """The banks of one chain without forks, on which a peer has voted for all."""
    own = account(node=pair.pubkey, voter=pair.pubkey)
    return bank(slot, slot - 1 if slot else None, own, peer_votes(slot - 1)[-31:])


class Machine:
    """A machine behind a network of its own, with a trace of its own."""

    def __init__(self, name: str, pair: Keypair, open_store: Open, server: EtcdServer, folder: Path) -> None:
        self.pair = pair
        self.proxy = Proxy(server.endpoint)
        self.store = open_store(endpoints=[self.proxy.endpoint], attempt_timeout=0.2)
        self.path = folder / f"{name}.ndjson"
        self.trace = Trace.open(self.path)
        self.sent: list[int] = []
        self.lost: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.runner: Runner | None = None
        self.slot = 0

    def life(self, upto: int, *, watch: bool = True, timeout: float = 5.0) -> Runner:
        """A new life that knows the chain up to a slot, and has looked and claimed; whether it could is its own affair."""
        pair, forks = self.pair, ForkChoice(chain(self.pair, 0))
        for slot in range(1, upto + 1):
            forks.add(chain(pair, slot))
        self.lost, self.slot = queue.SimpleQueue(), upto
        config = VoterConfig(pair.pubkey, VOTE_ACCOUNT, frozenset({pair.pubkey}))
        self.runner = Runner(
            Voter(config, forks), self.store, pair, [pair], lambda vote: self.sent.append(vote.slot), store_timeout=timeout,
            on_fence_lost=self.lost.put if watch else None, trace=self.trace,
        )  # fmt: skip
        return self.runner

    def vote(self, upto: int) -> None:
        """Follow the chain until a slot, or until the voter stops; what the watch saw is heard in between."""
        runner = self.runner
        while self.slot < upto and runner.voter.state is not VoterState.STOPPED:
            while not self.lost.empty():
                runner.drive(FenceLost(self.lost.get()))
            self.slot += 1
            runner.drive(BankFrozen(chain(self.pair, self.slot), UNIX_S + self.slot))

    def close(self) -> None:
        if self.runner is not None:
            self.runner.close()
        self.trace.close()
        self.proxy.close()


@pytest.fixture
def machines(etcd_server: EtcdServer, etcd_store: Open, tmp_path: Path) -> Iterator[list[Machine]]:
    pair = Keypair.generate()
    made = [Machine(name, pair, etcd_store, etcd_server, tmp_path) for name in ("a", "b", "c")]
    yield made
    for machine in made:
        machine.close()


def events_of(machines: list[Machine]) -> list[Event]:
    return [event for machine in machines for event in read(machine.path)]


def test_a_take_over_in_the_middle_of_a_write_is_explained(
    machines: list[Machine], etcd_store: Open, rng: random.Random
) -> None:
    first, second, _ = machines
    direct = etcd_store()
    address = first.pair.address

    def stored(slot: int, by: Machine, store: Open = etcd_store) -> None:
        """The machine decides a vote, and etcd takes it; the answer is lost."""
        before = direct.look(address, 5.0).record_revision
        by.slot = slot
        by.runner.dispatch(BankFrozen(chain(by.pair, slot), UNIX_S + slot))
        wait_until(lambda: direct.look(address, 5.0).record_revision != before, "etcd takes the write")

    first.life(0, watch=False).drive(TakeOver())
    first.vote(3)
    first.proxy.lose_answers()
    stored(4, first)
    second.life(4).drive(TakeOver())  # in the middle of the write, which it reads
    second.vote(6)
    first.proxy.cut()
    while first.runner.in_flight:
        first.runner.settle()
    assert first.runner.halted.reason is HaltReason.LOST_FENCE
    assert (first.sent, second.sent) == ([0, 1, 2, 3], [5, 6])

    first.life(6, timeout=1.0).drive(TakeOver())
    first.vote(7)
    first.proxy.lose_answers()
    stored(8, first)
    while first.runner.in_flight:  # nobody takes over, and nobody answers in time: stored, and never sent
        first.runner.settle()
    first.proxy.cut()
    assert first.runner.halted.reason is HaltReason.STORE_FAILED
    first.life(8).drive(TakeOver())
    first.vote(9)
    assert first.sent == [0, 1, 2, 3, 7, 9]

    events = events_of([first, second])
    assert {"Refused", "DeadlinePassed", "Committed"} <= {event.action for event in events}
    found = replay(events)
    assert found.refused is None, report(found, events)
    altered = alterations.alter(events, rng.choice(list(alterations.ALTERATIONS)), rng)
    assert altered is not None
    assert replay(altered.events).refused == altered.wrong, altered.says


def test_machines_that_take_from_each_other_over_a_bad_network_are_explained(
    machines: list[Machine], rng: random.Random
) -> None:
    """Three threads, each a machine: they take over whenever they like, and each has an answer lost now and then."""
    slots = itertools.count(1)
    seeds = {machine.path.stem: rng.randrange(1 << 32) for machine in machines}
    problems: list[BaseException] = []

    def live(machine: Machine) -> None:
        chance = random.Random(seeds[machine.path.stem])
        try:
            for _ in range(LIVES):
                if machine.runner is not None:
                    machine.runner.dispatch(Resign("again"))
                    machine.runner.close()
                runner = machine.life(next(slots), watch=chance.random() < 0.5)
                if chance.random() < 0.5:
                    machine.proxy.lose_answers()
                    heard = threading.Timer(chance.uniform(0.01, 0.1), machine.proxy.cut)
                    heard.start()
                    runner.drive(TakeOver())
                    heard.join()
                else:
                    runner.drive(TakeOver())
                for _ in range(chance.randint(0, 6)):
                    machine.vote(next(slots))
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=live, args=(machine,)) for machine in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not problems
    events = events_of(machines)
    print(f"{len(events)} events, votes {[len(machine.sent) for machine in machines]}")
    assert sum(event.action == "Claimed" for event in events) >= LIVES
    found = replay(events)
    assert found.refused is None, report(found, events)
