"""How soon an owner stops after another instance has claimed, told by its store's watch.

Two store objects on one etcd with mutual TLS, as two machines have them. The owner's voter has a thread of its own, as in the
process: the watch hands over, the thread tells the voter, the voter halts. The clock starts when the claim is *sent*: its
commit lies somewhere before its answer, so what is shown is longer than the time from the commit by up to a whole store.

No promise rests on this time: an owner that is not told finds out at its next write, which is refused.
"""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.banks import VOTE_ACCOUNT, Chain
from benchmarks.conftest import Bench
from benchmarks.measure import Sample
from tests.support.etcd import open_store, run_etcd
from tower.events import FenceLost, Halt, HaltReason, Resign, TakeOver
from tower.forkchoice import ForkChoice
from tower.keys import Keypair
from tower.runner import CommittedVote, Runner
from tower.store import Claimed, Committed, Fence, Kind, Owner, Store
from tower.validator.certs import make_certificates
from tower.voter import Voter, VoterConfig

# The owner writes for so long before it is replaced. A watch that is younger may be told later: etcd brings a watcher that began
# behind its newest revision up to date by a loop of 100 ms.
OWNS_S, SMOKE_OWNS_S = 0.25, 0.02
TIMEOUT_S = 5.0
OWNER = Owner("another", "benchmark")


class Life:
    """One life of the owner's voter, in a thread as `tower.validator.vote_thread` has it."""

    def __init__(self, store: Store, identity: Keypair) -> None:
        self._store = store
        self._inbox: queue.SimpleQueue[FenceLost | Resign] = queue.SimpleQueue()
        self.halted_at = 0
        self.halt: Halt | None = None
        self._adopted = threading.Event()
        self._identity = identity
        chain = Chain(identity.pubkey, 20, 1)
        config = VoterConfig(identity.pubkey, VOTE_ACCOUNT, frozenset((identity.pubkey,)))
        self.runner = Runner(
            Voter(config, ForkChoice(chain.first)), store, identity, [identity], self._sent,
            on_halt=self._halted, on_fence_lost=lambda seen: self._inbox.put(FenceLost(seen)),
        )  # fmt: skip
        self._thread = threading.Thread(target=self._run, name="vote")
        self._thread.start()
        assert self._adopted.wait(TIMEOUT_S)

    def _sent(self, vote: CommittedVote) -> None:
        """To nobody: only the loss is looked at."""

    def _halted(self, halt: Halt) -> None:
        self.halted_at, self.halt = time.perf_counter_ns(), halt

    def _run(self) -> None:
        self.runner.drive(TakeOver())
        self._adopted.set()
        self.runner.drive(self._inbox.get())

    @property
    def fence(self) -> Fence:
        assert self.runner.adopted is not None
        return self.runner.adopted.fence

    def join(self) -> Halt:
        """The end of the voter, which must come."""
        self._thread.join(TIMEOUT_S)
        if self._thread.is_alive():
            self._inbox.put(Resign("the benchmark ends"))
            self._thread.join(TIMEOUT_S)
        self.runner.close()
        assert self.halt is not None
        return self.halt


def write(store: Store, fence: Fence, expected: int, record: bytes) -> tuple[float, int]:
    """Seconds of one fenced write, and the record's new revision."""
    began = time.perf_counter_ns()
    outcome = store.begin_store(fence, expected, record, TIMEOUT_S, Kind.BLOCKS).outcome(TIMEOUT_S)
    taken = time.perf_counter_ns() - began
    assert isinstance(outcome, Committed), outcome
    return taken / 1e9, outcome.record_revision


@pytest.mark.timeout(300)
def test_loss_of_the_fence(bench: Bench, benchmark: Any, tmp_path: Path) -> None:
    make_certificates(tmp_path / "certs")
    stores, noticed, answered = [], [], []
    identity = Keypair.from_seed(bench.seed.to_bytes(32, "big"))
    with run_etcd(tmp_path, tmp_path / "certs") as server:
        ours, theirs = open_store(server), open_store(server)
        revision = 0

        def one() -> None:
            nonlocal revision
            life = Life(ours, identity)
            record = bench.rng.randbytes(2300)
            until = time.monotonic() + (OWNS_S if bench.full else SMOKE_OWNS_S)
            while time.monotonic() < until:
                taken, revision = write(ours, life.fence, revision, record)
                stores.append(taken)
            sighting = theirs.look(identity.address, TIMEOUT_S)
            began = time.perf_counter_ns()
            claimed = theirs.claim(sighting, OWNER, TIMEOUT_S)
            ended = time.perf_counter_ns()
            halt = life.join()
            assert isinstance(claimed, Claimed)
            assert (halt.reason, claimed.fence.revision > life.fence.revision) == (HaltReason.LOST_FENCE, True)
            noticed.append((life.halted_at - began) / 1e9)
            answered.append((life.halted_at - ended) / 1e9)

        try:
            one()  # connections
            stores, noticed, answered = [], [], []
            benchmark.pedantic(one, rounds=1)
            for _ in range(bench.rounds(100, 1)):
                one()
        finally:
            ours.close()
            theirs.close()
    table, told = "planned failover", Sample(tuple(noticed))
    bench.row(
        table, "loss of the fence noticed, from the sending of the claim", told,
        against="one fenced store", other=Sample(tuple(stores)), at_most=3.0,
    )  # fmt: skip
    middle = sorted(answered)[len(answered) // 2] * 1e6
    bench.figure(table, "the same, from the claim's answer (negative: before it)", middle, "microseconds")
    bench.distribution("loss of the fence", "noticed after the claim was sent", told)
    bench.distribution("loss of the fence", "one fenced store", Sample(tuple(stores)))
