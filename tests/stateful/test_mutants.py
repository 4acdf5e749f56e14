"""With a guard removed, the stateful test finds it: each mutant here is one thing that must not be missing.

The draws are derandomized: each run plays the same examples, so a mutant is found in each run or in none.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.stateful.machine import Fenced
from tests.stateful.pair import Differs
from tests.stateful.servers import MemorySide
from tests.stateful.witness import Broken
from tests.support.profiles import timeout
from tower.checks import Check, SwitchDecision
from tower.events import BankFrozen, FenceLost, StoreAnswered
from tower.runner import Runner
from tower.store import Committed, Fence, Kind, Unknown
from tower.stores.memory import MemoryStore
from tower.voter import Voter, VoterState

EXAMPLES_MAX = 2000


class AdapterOf(MemorySide):
    """The memory store with another adapter."""

    adapter_class: type[MemoryStore]

    def make_adapter(self, backend):
        return self.adapter_class(backend, random_bytes=lambda count: self._random)


class NoTowerRevision(MemoryStore):
    """A write does not compare the tower's revision."""

    def begin_store(self, fence, expected_revision, record, timeout, kind=Kind.TOWER):
        if kind is Kind.TOWER:
            expected_revision = self.look(fence.identity, timeout).record_revision
        return super().begin_store(fence, expected_revision, record, timeout, kind)


class NoReservationRevision(MemoryStore):
    """A reservation does not compare the revision of the one before."""

    def begin_store(self, fence, expected_revision, record, timeout, kind=Kind.TOWER):
        if kind is Kind.BLOCKS:
            expected_revision = self.look(fence.identity, timeout).blocks_revision
        return super().begin_store(fence, expected_revision, record, timeout, kind)


class NoInstanceRevision(MemoryStore):
    """A write does not compare the instance's revision."""

    def begin_store(self, fence, expected_revision, record, timeout, kind=Kind.TOWER):
        now = self.look(fence.identity, timeout)
        fence = Fence(now.identity, now.instance_revision, now.instance)
        return super().begin_store(fence, expected_revision, record, timeout, kind)


class NoClaimRevision(MemoryStore):
    """A claim does not compare what was looked at."""

    def claim(self, sighting, owner, timeout):
        return super().claim(self.look(sighting.identity, timeout), owner, timeout)


class Deaf(Voter):
    """It does not listen to the watch."""

    def effects(self, event):
        return iter(()) if isinstance(event, FenceLost) else super().effects(event)


class Impatient(Voter):
    """It decides anew while an outcome is unknown."""

    def effects(self, event):
        if self.state is not VoterState.UNRESOLVED or not isinstance(event, BankFrozen):
            return super().effects(event)
        self._fold(event)
        pending = self._pending
        effects = self._decide()
        if effects and effects[0].vote.slot != pending.slot:
            return iter(effects)
        self.state, self._pending = VoterState.UNRESOLVED, pending  # nothing new
        return iter(())


class Forgetful(Voter):
    """It does not load the tower that its claim brings along."""

    def _accept(self, record, revision):
        self._tower_revision = revision


class Early(Runner):
    """It can send a vote that was not committed, past the only door."""

    def send_early(self):
        signed = self._in_flight.signed
        self._send(SimpleNamespace(transaction=signed.transaction, slot=signed.vote.slot))


class Credulous(Early):
    """It takes an unknown outcome for a commit."""

    def dispatch(self, event):
        if isinstance(event, StoreAnswered) and isinstance(event.outcome, Unknown) and self.in_flight:
            self.send_early()
        super().dispatch(event)


class Hasty(Early):
    """It sends a vote while its tower is under way."""

    def _persist(self, effect):
        super()._persist(effect)
        self.send_early()


class OverTaken(Runner):
    """It goes on with a write that was refused, as if it had only to be repeated."""

    def settle(self):
        flight = self._in_flight
        outcome = flight.pending.outcome(0)
        self.dispatch(StoreAnswered(outcome if isinstance(outcome, Committed) else Unknown("not now")))


def play(adapter=MemoryStore, voter=Voter, runner=Runner, guards=None):
    """Let hypothesis play with these parts, until it finds something."""
    played = []

    class Mutated(Fenced):
        make_voter, make_runner = voter, runner

        def make_server(self, identity):
            played.append(1)
            server = AdapterOf(identity)
            server.adapter_class = adapter
            return server

    Mutated.guards = guards or {}
    options = settings(
        max_examples=EXAMPLES_MAX, stateful_step_count=50, derandomize=True, database=None, deadline=None,
        phases=[Phase.generate], report_multiple_bugs=False, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    try:
        run_state_machine_as_test(Mutated, settings=options)
    finally:
        print(f"derandomized; {len(played)} examples")


def named(value):
    return value if isinstance(value, str) else " ".join(part.__name__ for part in value.values() if isinstance(part, type))


@timeout
@pytest.mark.parametrize(
    ("parts", "promise"),
    [
        ({"adapter": NoTowerRevision, "guards": {"CompareTower": False}}, "S4"),
        ({"adapter": NoInstanceRevision, "guards": {"InstanceCheck": "none"}}, "S3"),
        ({"adapter": NoReservationRevision, "guards": {"CompareBlocks": False}}, "S7"),
        ({"voter": Impatient, "guards": {"SettleBeforeDeciding": False}}, "S6"),
        ({"runner": Credulous, "guards": {"HoldUnknown": False}}, "S2"),
        ({"runner": Hasty, "guards": {"CommitBeforeRelease": False}}, "S2"),
    ],
    ids=named,
)
def test_a_removed_guard_is_found_by_its_promise(parts, promise):
    """The model lacks the same guard, so the two agree; what is found is the promise that does not hold any more."""
    with pytest.raises(Broken, match=f"^{promise}: ") as found:
        play(**parts)
    print(found.value)


def test_a_voter_that_leaves_its_fork_while_it_is_bound_is_found(monkeypatch):
    """The model does not know what a tower allows; who sees what was stored and what was sent does."""
    monkeypatch.setattr("tower.checks.check_lockout", lambda state, slot, forks: Check("lockout", True))
    free = SwitchDecision.SAME_FORK, Check("switch", True)
    monkeypatch.setattr("tower.checks.check_switch", lambda *asked: free)
    with pytest.raises(Broken, match=r"^S[14]: ") as found:
        play()
    print(found.value)


@timeout
@pytest.mark.parametrize(
    "parts",
    [
        {"adapter": NoTowerRevision},
        {"adapter": NoInstanceRevision, "voter": Deaf},
        {"adapter": NoClaimRevision},
        {"voter": Forgetful},
        {"voter": Deaf},
        {"runner": OverTaken},
    ],
    ids=named,
)
def test_what_the_model_does_not_do_is_found(parts):
    """Mostly before a promise is broken: the model has its guards, and so the two differ."""
    with pytest.raises((Differs, Broken)) as found:
        play(**parts)
    print(found.value)
