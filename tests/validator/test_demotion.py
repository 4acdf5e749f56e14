"""The vote thread where an identity is given up without the process, rehearsed, or taken under a condition."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.chain import IDENTITY, OTHER, UNIX_S, VOTE_ACCOUNT, account, bank
from tower.errors import StoreError
from tower.events import BankFrozen, Halt, HaltReason
from tower.forkchoice import ForkChoice
from tower.keys import Keypair
from tower.runner import CommittedVote
from tower.store import Owner, Sighting, Unknown
from tower.stores.memory import MemoryBackend, MemoryStore
from tower.validator.config import FailoverConfig, ValidatorConfig
from tower.validator.guarded_store import GuardedStore, unchanged
from tower.validator.vote_thread import TakeOverFailed, VoteThread

PATIENCE_S = 10.0
T = 1.0
UNSTAKED = Keypair.from_seed(b"u" * 32)


class Machine:
    """A vote thread of the identity's own primary, on a store of memory."""

    def __init__(self, backend: MemoryBackend, own: Keypair = IDENTITY, **failover: Any) -> None:
        config = ValidatorConfig(
            identity=own, vote_account=VOTE_ACCOUNT, authorized_voters=(IDENTITY,), ledger=Path(), url="", websocket_url="",
            store_timeout=0.2, failover=FailoverConfig(**failover),
        )  # fmt: skip
        self.store = MemoryStore(backend)
        self.sent: list[CommittedVote] = []
        self.halts: queue.Queue[Halt] = queue.Queue()
        self.votes = VoteThread(config, self.store, ForkChoice(bank(0, None)), self.sent.append, self.halts.put)
        self.votes.start()

    def call(self, work: Callable[[VoteThread], Any]) -> Any:
        return self.votes.call(lambda: work(self.votes)).result(PATIENCE_S)

    def take_over(self, guard: Any = None) -> Any:
        return self.call(lambda votes: votes.take_over(IDENTITY, "set-identity", False, guard=guard))

    def freeze_bank(self, slot: int) -> None:
        self.votes.post(BankFrozen(bank(slot, slot - 1, own=account()), UNIX_S))

    def newest(self) -> int:
        return int(self.call(lambda votes: votes.newest()[0]))


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
def machines(backend: MemoryBackend) -> Iterator[Callable[..., Machine]]:
    made: list[Machine] = []

    def make(*arguments: Any, **failover: Any) -> Machine:
        made.append(Machine(backend, *arguments, **failover))
        return made[-1]

    yield make
    for machine in made:
        machine.votes.close(PATIENCE_S)


def another_claims(backend: MemoryBackend) -> None:
    store = MemoryStore(backend)
    store.claim(store.look(IDENTITY.address, T), Owner("other", "set-identity"), T)


def test_without_the_flag_a_lost_fence_is_the_end(machines: Callable[..., Machine], backend: MemoryBackend) -> None:
    machine = machines()
    machine.take_over()
    another_claims(backend)
    assert machine.halts.get(timeout=PATIENCE_S).reason is HaltReason.LOST_FENCE
    assert (machine.votes.lost, machine.votes.identity) == (None, IDENTITY)


def test_a_demoted_voter_goes_on_as_a_spare_with_the_same_banks(
    machines: Callable[..., Machine], backend: MemoryBackend
) -> None:
    machine = machines(demote=True)
    adopted = machine.take_over()
    machine.freeze_bank(1)
    assert machine.newest() == 1
    assert [vote.slot for vote in machine.sent] == [0, 1]
    another_claims(backend)
    halt = machine.halts.get(timeout=PATIENCE_S)
    lost = machine.votes.lost
    assert lost is not None
    assert (lost.identity, lost.fence, lost.halt) == (IDENTITY, adopted.fence.revision, halt)
    for slot in (2, 3, 4):
        machine.freeze_bank(slot)
    assert machine.newest() == 4  # no bank is missed: the next one's parent is there
    assert [vote.slot for vote in machine.sent] == [0, 1]
    status = machine.call(lambda votes: votes.status())
    assert (status["state"], status["voting"], status["fence"]) == ("standby", False, None)
    assert machine.votes.in_memory
    assert machine.votes.identity not in (IDENTITY, OTHER)
    machine.take_over()
    machine.freeze_bank(5)
    machine.newest()
    assert [vote.slot for vote in machine.sent][-1] == 5
    assert (machine.votes.identity, machine.votes.in_memory) == (IDENTITY, False)


def test_a_store_that_fails_demotes_too(machines: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    machine = machines(demote=True)
    machine.take_over()

    class Silent:
        def outcome(self, timeout: float) -> Unknown:
            return Unknown("no answer")

    monkeypatch.setattr(MemoryStore, "begin_store", lambda *_arguments, **_more: Silent())
    machine.freeze_bank(1)
    assert machine.halts.get(timeout=PATIENCE_S).reason is HaltReason.STORE_FAILED
    assert [vote.slot for vote in machine.sent] == [0]
    assert machine.votes.identity != IDENTITY
    assert machine.newest() == 1


def test_whose_identity_the_spare_has(machines: Callable[..., Machine]) -> None:
    def spare_of(machine: Machine) -> Keypair:
        found: Keypair = machine.call(lambda votes: votes.spare_identity())
        return found

    fresh = machines(demote=True)
    first = spare_of(fresh)
    assert first == spare_of(fresh) != IDENTITY  # made up once
    assert spare_of(machines(demote=True, unstaked_identity=UNSTAKED)) == UNSTAKED
    spare = machines(OTHER, demote=True)
    spare.take_over()
    assert spare_of(spare) == OTHER  # its own, which is another than the one given up


def test_a_rehearsal_finds_what_a_take_over_would_and_changes_nothing(
    machines: Callable[..., Machine], backend: MemoryBackend
) -> None:
    owner, spare = machines(), machines(OTHER)
    owner.take_over()
    owner.freeze_bank(1)
    owner.newest()
    before = MemoryStore(backend).look(IDENTITY.address, T)
    assert spare.call(lambda votes: votes.rehearse(IDENTITY, True)) == 1
    assert MemoryStore(backend).look(IDENTITY.address, T) == before
    with pytest.raises(TakeOverFailed, match="another identity"):
        spare.call(lambda votes: votes.rehearse(UNSTAKED, False))
    assert spare.call(lambda votes: votes.unfit(IDENTITY)) == ""
    assert "another identity" in spare.call(lambda votes: votes.unfit(UNSTAKED))
    spare.call(lambda votes: votes.set_authorized_voters(()))
    assert "authorized voter" in spare.call(lambda votes: votes.unfit(IDENTITY))
    assert (spare.votes.identity, spare.halts.empty()) == (OTHER, True)
    owner.freeze_bank(2)
    owner.newest()
    assert [vote.slot for vote in owner.sent] == [0, 1, 2]


def test_an_owner_rehearses_without_ending_itself(machines: Callable[..., Machine]) -> None:
    owner = machines()
    owner.take_over()
    owner.call(lambda votes: votes.rehearse(IDENTITY, False))
    owner.freeze_bank(1)
    owner.newest()
    assert [vote.slot for vote in owner.sent] == [0, 1]


@pytest.mark.parametrize("since", ["a vote", "a claim"])
def test_a_condition_is_asked_of_the_very_look_before_the_claim(
    machines: Callable[..., Machine], backend: MemoryBackend, since: str
) -> None:
    owner, spare = machines(), machines(OTHER)
    owner.take_over()
    owner.freeze_bank(1)
    owner.newest()
    seen = MemoryStore(backend).look(IDENTITY.address, T)
    if since == "a vote":
        owner.freeze_bank(2)
        owner.newest()
    else:
        another_claims(backend)
    now = MemoryStore(backend).look(IDENTITY.address, T)
    expected = "the owner has stored a vote since" if since == "a vote" else "another instance has claimed since"
    with pytest.raises(TakeOverFailed, match=f"nothing was claimed: {expected}") as failed:
        spare.take_over(unchanged(seen.instance_revision, seen.record_revision))
    assert not failed.value.identity_lost
    assert MemoryStore(backend).look(IDENTITY.address, T) == now
    spare.take_over(unchanged(now.instance_revision, now.record_revision))
    spare.freeze_bank(3)
    assert spare.votes.identity == IDENTITY


def test_of_two_who_decided_on_the_same_reading_one_succeeds(backend: MemoryBackend) -> None:
    """Both have looked; the claim of the second compares itself with a reading that is no longer true, and looks again."""
    first, second = MemoryStore(backend), MemoryStore(backend)
    seen = first.look(IDENTITY.address, T)
    guarded = GuardedStore(second, unchanged(seen.instance_revision))
    late: Sighting = guarded.look(IDENTITY.address, T)
    first.claim(seen, Owner("first", "auto"), T)
    refused = guarded.claim(late, Owner("second", "auto"), T)
    assert type(refused).__name__ == "Refused"
    with pytest.raises(StoreError, match="another instance has claimed since"):
        guarded.look(IDENTITY.address, T)
    assert [owner.who for owner in guarded.history(IDENTITY.address, T)] == ["first"]
    guarded.close()


def test_what_is_told_of_a_life_that_was_given_up_is_its_own(
    machines: Callable[..., Machine], backend: MemoryBackend
) -> None:
    machine = machines(demote=True)
    machine.take_over()
    assert machine.votes.given_up == (None, None)  # a spare was given up, which sent nothing
    machine.freeze_bank(1)
    assert machine.newest() == 1
    another_claims(backend)
    machine.halts.get(timeout=PATIENCE_S)
    sent, _ = machine.votes.given_up
    assert sent == machine.sent[-1].slot == 1
    machine.take_over()
    machine.freeze_bank(2)
    assert machine.newest() == 2
    assert machine.sent[-1].slot == 2
    assert machine.votes.given_up == (None, None)  # what it voted for once, it did not vote for in the life before this one
    machine.call(lambda votes: votes.stand_by(votes.spare_identity()))
    assert machine.votes.given_up[0] == 2
    assert machine.votes.identity != IDENTITY
