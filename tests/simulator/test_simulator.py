"""The simulator on the real code finds nothing; on code with a guard removed it finds the violation. And it is repeatable."""

from __future__ import annotations

import doctest
from collections import Counter
from dataclasses import replace

import pytest

from tests.simulator import judges
from tests.simulator import run as simulator
from tests.simulator.coverage import UNREACHABLE, missing, unvisited
from tests.simulator.legacy import LegacyStore
from tests.simulator.members import Members, Request
from tests.simulator.run import Run, simulate
from tests.simulator.store import SimulatedStore
from tests.support.profiles import NIGHTLY, PROFILE, timeout
from tower import runner as runner_module
from tower.checks import Check
from tower.events import Release
from tower.leader import TABLE as LEADER_TABLE
from tower.leader import LeaderState
from tower.leader_runner import LeaderRunner
from tower.store import ABSENT, Claimed, Committed, Fence, Kind, Refusal, Refused, Unknown
from tower.stores.memory import MemoryBackend
from tower.types import BlockTimestamp
from tower.voter import TABLE, Voter, VoterState

RUNS, FAILOVERS = (500, 200) if PROFILE == NIGHTLY else (12, 200)


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
    assert missing(counts, failovers) == []


def test_the_judges_of_blocks_and_timestamps():
    result = doctest.testmod(judges)
    assert result.attempted > 0
    assert result.failed == 0


def test_what_is_called_unreachable_is_a_row_and_gives_its_reason():
    assert UNREACHABLE.keys() <= {*TABLE, *LEADER_TABLE}
    assert all(UNREACHABLE.values())


@pytest.mark.parametrize("seed", [6, 7, 8])  # with no validator of the older kind, with one, with two
def test_a_seed_repeats_a_run_to_the_last_byte(seed):
    one, again = simulate(seed, 60), simulate(seed, 60)
    assert (one.digest, one.counts, one.visited) == (again.digest, again.counts, again.visited)
    assert one.digest != simulate(seed + 3, 60).digest


def no_revision_of_the_tower(monkeypatch):
    """S4: a late copy of an earlier write takes the tower back."""

    def put(self, fence, expected, record, kind=Kind.TOWER):
        keys = self._of(fence.identity)
        if keys.instance_revision != fence.revision:
            return Refused(Refusal.FENCED, fence.revision, keys.instance_revision)
        return overwrite(self, fence, record, kind)

    monkeypatch.setattr(MemoryBackend, "put", put)


def no_fence(monkeypatch):
    """S3: an owner that was replaced writes on."""
    monkeypatch.setattr(
        MemoryBackend, "put", lambda self, fence, expected, record, kind=Kind.TOWER: overwrite(self, fence, record, kind)
    )
    monkeypatch.setattr(SimulatedStore, "watch", lambda self, fence, on_lost: self)


def overwrite(backend, fence, record, kind):
    held = backend._of(fence.identity).records[kind]
    backend._revision += 1
    held.revision, held.content = backend._revision, record
    return Committed(fence, held.revision, record)


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
    for row, handler in list(TABLE.items()):
        if handler is handled:
            monkeypatch.setitem(TABLE, row, store_answered)
    monkeypatch.setattr(runner_module.CommittedVote, "__init__", lambda self, committed, signed: (
        setattr(self, "signed", signed), setattr(self, "revision", 0))[0])  # fmt: skip


def no_lockout_check(monkeypatch):
    """S1: a fork is left while votes on it still bind."""
    monkeypatch.setattr("tower.checks.check_lockout", lambda state, slot, forks: Check("lockout", True))


def blind_claim(monkeypatch):
    """A tower that was stored is not loaded: the new owner begins from nothing."""
    monkeypatch.setattr(Voter, "_accept", lambda self, record, revision: setattr(self, "_tower_revision", revision))


def trusted_clock(monkeypatch):
    """Timestamps: a clock that went back is taken at its word."""

    def timestamp(self, slot):
        return self._unix_s, BlockTimestamp(slot, self._unix_s)

    monkeypatch.setattr(Voter, "_timestamp", timestamp)


def answer_before_commit(monkeypatch):
    """The store is trusted to keep what it answered; here a leader answers before most members have it."""
    made, before = [], {}

    class Backend(MemoryBackend):
        def __init__(self):
            super().__init__()
            made[:] = [self]

    def copied(keys):
        records = {kind: replace(record) for kind, record in keys.records.items()}
        return replace(keys, records=records, history=list(keys.history), watches=list(keys.watches))

    take, lose = Members.take, Members._lose

    def answers_early(self, member, request):
        if self.leader is None or request.reads:
            return take(self, member, request)
        backend = made[0]
        past = {identity: copied(keys) for identity, keys in backend._keys.items()}
        result = request.carry_out()
        request.answer(result)
        late = Request(lambda: result, lambda answer: None, request.refuse, request.reads)
        before[late] = past
        return take(self, member, late)

    def forgets(self, request):
        lose(self, request)
        made[0]._keys = before[request]

    monkeypatch.setattr(simulator, "MemoryBackend", Backend)
    monkeypatch.setattr(Members, "take", answers_early)
    monkeypatch.setattr(Members, "_lose", forgets)


def legacy_ids_from_one_clock(monkeypatch):
    """Two validators of the older kind that start in the same millisecond have one id, and hold one lock."""
    monkeypatch.setattr(Run, "legacy_id", lambda self, wall_ms: bytes(7) + b"1")


def legacy_without_its_tower(monkeypatch):
    """A validator of the older kind without --require-tower goes on from the vote account if it could not read the tower."""
    loaded = LegacyStore.loaded

    def rebuilt(self, read, identity):
        answer = read.wait()
        if answer is None:
            now = self.backend.look(identity)
            return Claimed(Fence(identity, now.instance_revision, self.instance), ABSENT, None)
        return loaded(self, read, identity)

    monkeypatch.setattr(LegacyStore, "loaded", rebuilt)


def block_by_belief(monkeypatch):
    """S7: whoever believes to be the owner produces the block, reserved or not."""
    monkeypatch.setattr(LeaderRunner, "may_produce", lambda self, slot: self.leader.state is not LeaderState.STOPPED)


def no_revision_of_the_reservation(monkeypatch):
    """S7: a late copy of an earlier reservation takes the mark back."""
    checked = MemoryBackend.put

    def put(self, fence, expected, record, kind=Kind.TOWER):
        held = self._of(fence.identity).records[kind]
        return checked(self, fence, expected if kind is Kind.TOWER else held.revision, record, kind)

    monkeypatch.setattr(MemoryBackend, "put", put)


CONFLICT = ""  # the judge of votes found it
MUTANTS = {  # each, and who must find it
    no_revision_of_the_tower: "S4",
    no_fence: "S4",
    release_on_unknown: "S2",
    no_lockout_check: CONFLICT,
    blind_claim: CONFLICT,
    trusted_clock: "timestamps",
    answer_before_commit: "S2",
    legacy_ids_from_one_clock: CONFLICT,
    legacy_without_its_tower: CONFLICT,
    block_by_belief: "S7",
    no_revision_of_the_reservation: "S7",
}


@timeout
@pytest.mark.parametrize(("mutant", "judge"), MUTANTS.items(), ids=[mutant.__name__ for mutant in MUTANTS])
def test_a_removed_guard_is_found(mutant, judge, monkeypatch):
    mutant(monkeypatch)
    for seed in range(1, 30):
        result = simulate(seed, 200, legacy=2 if "legacy" in mutant.__name__ else None)
        found = [f"seed {seed}: {text}" for text in (result.broken if judge else result.conflicts) if text.startswith(judge)]
        if found:
            print(found[0])
            return
    pytest.fail(f"29 runs of 200 failovers did not notice: {mutant.__doc__}")
