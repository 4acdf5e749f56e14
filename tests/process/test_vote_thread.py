"""The vote thread where something goes wrong in it: it stops, tells, and lets go of the store."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.chain import IDENTITY, OTHER, UNIX_S, VOTE_ACCOUNT, account, bank
from tower.errors import SigningError
from tower.events import BankFrozen, Halt, HaltReason
from tower.forkchoice import ForkChoice
from tower.runner import CommittedVote
from tower.store import Owner
from tower.stores.memory import MemoryBackend, MemoryStore
from tower.validator import vote_thread as module
from tower.validator.config import ValidatorConfig
from tower.validator.vote_thread import TakeOverFailed, VoteThread

PATIENCE_S = 10.0


class Machine:
    """A vote thread on a store of memory; what it sends and how it ends."""

    def __init__(self, backend: MemoryBackend, voters: tuple[Any, ...] = (IDENTITY,)) -> None:
        config = ValidatorConfig(
            identity=OTHER, vote_account=VOTE_ACCOUNT, authorized_voters=voters, ledger=Path(), url="", websocket_url=""
        )
        self.store = MemoryStore(backend)
        self.sent: list[CommittedVote] = []
        self.halts: queue.Queue[Halt] = queue.Queue()
        self.send: Callable[[CommittedVote], None] = self.sent.append
        forks = ForkChoice(bank(0, None))
        self.votes = VoteThread(config, self.store, forks, lambda vote: self.send(vote), self.halts.put)

    def take_over(self) -> Any:
        return self.votes.call(lambda: self.votes.take_over(IDENTITY, "set-identity", False)).result(PATIENCE_S)

    def freeze_bank(self, slot: int) -> None:
        self.votes.post(BankFrozen(bank(slot, slot - 1, own=account()), UNIX_S))


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
def machine(backend: MemoryBackend) -> Iterator[Machine]:
    made = Machine(backend)
    made.votes.start()
    yield made
    made.votes.close(PATIENCE_S)
    assert "vote" not in [thread.name for thread in threading.enumerate()]


def test_a_vote_is_one_line_in_the_log(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tower")
    machine.take_over()
    machine.freeze_bank(1)
    machine.votes.call(lambda: None).result(PATIENCE_S)
    lines = [record.message for record in caplog.records if record.message.startswith("voted 1 ")]
    assert len(lines) == 1
    assert lines[0].startswith("voted 1 (root None), tower stored in ")
    assert lines[0].endswith(" ms")
    assert [vote.slot for vote in machine.sent][-1] == 1


def test_the_unexpected_ends_voting_for_good(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.take_over()

    def broken(vote: CommittedVote) -> None:
        raise ZeroDivisionError("in the sender")

    machine.send = broken
    machine.freeze_bank(1)
    halt = machine.halts.get(timeout=PATIENCE_S)
    assert (halt.reason, halt.text) == (HaltReason.INTERNAL, "ZeroDivisionError: in the sender")
    machine.send = machine.sent.append
    sent = len(machine.sent)
    machine.freeze_bank(2)
    machine.votes.close(PATIENCE_S)
    assert len(machine.sent) == sent
    assert machine.votes.status()["voting"] is False


def test_a_take_over_that_breaks_after_its_claim_never_votes(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error came from the life that was being built, which is not the thread's yet: it must be ended there."""

    def broken(*_: object) -> bytes:
        raise SigningError("no signature")

    with monkeypatch.context() as patched:
        patched.setattr("tower._fast.sign_transaction", broken)
        machine.freeze_bank(1)
        with pytest.raises(TakeOverFailed, match="no signature") as failed:
            machine.take_over()
    assert failed.value.halt.reason is HaltReason.INTERNAL
    machine.freeze_bank(2)
    machine.votes.call(lambda: None).result(PATIENCE_S)
    assert machine.sent == []
    assert machine.votes.status()["voting"] is False


def test_a_lost_fence_is_told(machine: Machine, backend: MemoryBackend) -> None:
    machine.take_over()
    machine.freeze_bank(1)
    machine.votes.call(lambda: None).result(PATIENCE_S)
    sent = len(machine.sent)
    other = MemoryStore(backend)
    other.claim(other.look(IDENTITY.address, 1), Owner("other", "start"), 1)
    assert machine.halts.get(timeout=PATIENCE_S).reason is HaltReason.LOST_FENCE
    machine.freeze_bank(2)
    machine.votes.call(lambda: None).result(PATIENCE_S)
    assert len(machine.sent) == sent


def test_a_full_inbox_is_the_end(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    held = machine.votes.call(lambda: go_on.wait(PATIENCE_S))
    for slot in range(1, module.INBOX_MAX + 3):
        machine.freeze_bank(slot)
    halt = machine.halts.get(timeout=PATIENCE_S)
    assert (halt.reason, halt.text) == (HaltReason.INTERNAL, f"the vote thread is {module.INBOX_MAX} events behind")
    go_on.set()
    assert held.result(PATIENCE_S) is True
    machine.votes.close(PATIENCE_S)  # what waited is not begun


def test_a_thread_that_never_started_lets_go_of_the_store(backend: MemoryBackend) -> None:
    machine = Machine(backend)
    machine.votes.close(PATIENCE_S)
    with pytest.raises(Exception, match="closed"):
        machine.store.look(IDENTITY.address, 1)
