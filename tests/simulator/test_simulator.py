"""The simulator on the real code finds nothing; on code with a guard removed it finds the violation. And it is repeatable."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulator import run as simulator
from tests.simulator.run import simulate, unvisited
from tests.support.profiles import NIGHTLY, PROFILE, timeout
from tower import runner as runner_module
from tower.checks import Check
from tower.events import Release
from tower.store import Committed, Refusal, Refused, Unknown
from tower.stores.memory import MemoryBackend
from tower.voter import Voter, VoterState

RUNS, FAILOVERS = (500, 200) if PROFILE == NIGHTLY else (10, 200)


@timeout
def test_thousands_of_failovers_and_no_violation(request):
    seed = request.config.option.seed
    print(f"seed: {seed}")
    visited, counts, failovers = Counter(), Counter(), 0
    for number in range(RUNS):
        result = simulate(seed + number, FAILOVERS)
        again = f"make simulate SEED={result.seed} RUNS=1 FAILOVERS={FAILOVERS}"
        assert not result.conflicts + result.broken, f"{again}: {result.conflicts + result.broken}"
        visited.update(result.visited)
        counts.update(result.counts)
        failovers += result.failovers
    assert failovers >= RUNS * FAILOVERS
    assert unvisited(visited) == []
    faults = {"kill", "freeze", "cut", "store down", "clock", "both", "forks"}
    faults |= {"request late", "request lost", "answer late", "answer lost", "watch lost"}
    assert faults <= {fault for fault in counts if counts[fault]}


def test_a_seed_repeats_a_run_to_the_last_byte():
    assert simulate(7, 60).digest == simulate(7, 60).digest
    assert simulate(7, 60).digest != simulate(8, 60).digest


def no_revision_of_the_tower(monkeypatch):
    """S4: a late copy of an earlier write takes the tower back."""

    def put(self, fence, expected, record):
        keys = self._of(fence.identity)
        if keys.instance_revision != fence.revision:
            return Refused(Refusal.FENCED, fence.revision, keys.instance_revision)
        self._revision += 1
        keys.record_revision, keys.record = self._revision, record
        return Committed(fence, keys.record_revision, record)

    monkeypatch.setattr(MemoryBackend, "put", put)


def no_fence(monkeypatch):
    """S3: an owner that was replaced writes on."""

    def put(self, fence, expected, record):
        keys = self._of(fence.identity)
        self._revision += 1
        keys.record_revision, keys.record = self._revision, record
        return Committed(fence, keys.record_revision, record)

    monkeypatch.setattr(MemoryBackend, "put", put)
    monkeypatch.setattr(simulator.SimulatedStore, "watch", lambda self, fence, on_lost: self)


def release_on_unknown(monkeypatch):
    """S2: a vote leaves although nobody knows whether its tower is stored."""
    handled = Voter._store_answered

    def store_answered(self, event):
        if isinstance(event.outcome, Unknown):
            vote, self._pending = self._pending, None
            self.state = VoterState.READY
            return [Release(Committed(self.fence, self._tower_revision, b""), vote)]
        return handled(self, event)

    monkeypatch.setattr(Voter, "_store_answered", store_answered)
    table = dict(simulator.TABLE)
    for row, handler in table.items():
        if handler is handled:
            monkeypatch.setitem(simulator.TABLE, row, store_answered)
    monkeypatch.setattr(runner_module.CommittedVote, "__init__", lambda self, committed, signed: (
        setattr(self, "signed", signed), setattr(self, "revision", 0))[0])  # fmt: skip


def no_lockout_check(monkeypatch):
    """S1: a fork is left while votes on it still bind."""
    monkeypatch.setattr("tower.checks.check_lockout", lambda state, slot, forks: Check("lockout", True))


def blind_claim(monkeypatch):
    """A tower that was stored is not loaded: the new owner begins from nothing."""
    monkeypatch.setattr(Voter, "_accept", lambda self, record, revision: setattr(self, "_tower_revision", revision))


@pytest.mark.parametrize("mutant", [no_revision_of_the_tower, no_fence, release_on_unknown, no_lockout_check, blind_claim])
def test_a_removed_guard_is_found(mutant, monkeypatch):
    mutant(monkeypatch)
    for seed in range(1, 30):
        result = simulate(seed, 200)
        if result.conflicts or any(problem.startswith("S2") for problem in result.broken):
            return
    pytest.fail(f"29 runs of 200 failovers did not notice: {mutant.__doc__}")
