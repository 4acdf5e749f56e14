"""The runner: persist, then release. What is sent was committed; what is unknown is repeated, the same; then the end."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest
from solders.transaction import Transaction

from tests.support.chain import FENCE, IDENTITY, OTHER, UNIX_S, account, bank, new_voter, sighting
from tower.errors import InvariantViolation, StoreUnavailable
from tower.events import BankFrozen, HaltReason, Release, Resign, TakeOver
from tower.forkchoice import ForkChoice
from tower.runner import CommittedVote, Runner, SignedVote
from tower.store import Claimed, Committed, Refusal, Refused, Unknown
from tower.stores.memory import MemoryBackend, MemoryStore
from tower.voter import VoterState
from tower.wire import decode_saved_tower


class ScriptedStore:
    """Answers writes as told, and notes the order of everything."""

    def __init__(self, *answers, notes):
        self.answers = deque(answers)
        self.notes = notes
        self.writes = []
        self.looks = deque()
        self.expected = []  # how many writes had been answered when the next one was announced

    def look(self, identity, timeout):
        self.notes.append("look")
        return self.looks.popleft()() if self.looks else sighting()

    def claim(self, seen, owner, timeout):
        self.notes.append(f"claim {owner.why}")
        return Claimed(FENCE, 0, None)

    def begin_store(self, fence, expected_revision, record, timeout):
        self.notes.append("begin")
        self.writes.append((fence, expected_revision, record))
        return self

    def expect_store(self):
        self.expected.append((len(self.writes), self.notes[-1]))

    def outcome(self, timeout):
        self.notes.append("outcome")
        assert timeout >= 0
        answer = self.answers.popleft()
        return answer(self.writes[-1][2]) if callable(answer) else answer

    def watch(self, fence, on_lost):
        self.notes.append("watch")
        return self

    def close(self):
        self.notes.append("close")


def committed(record):
    return Committed(FENCE, 11, record)


def scripted(*answers, clock=lambda: 0.0, voters=(IDENTITY,), forks=None, **options):
    notes = []
    store = ScriptedStore(*answers, notes=notes)
    voter = new_voter(forks, authorized_voters=frozenset(pair.pubkey for pair in voters))
    sent = []

    def send(vote):
        notes.append("send")
        sent.append(vote)

    options.setdefault("pause", lambda seconds: notes.append("pause"))
    runner = Runner(voter, store, IDENTITY, voters, send, clock=clock, wall_ms=lambda: 5, **options)
    return runner, store, sent, notes


def test_the_vote_is_signed_while_the_write_is_under_way_and_sent_after_its_commit(monkeypatch):
    runner, store, sent, notes = scripted(committed)
    sign = runner._sign
    monkeypatch.setattr(runner, "_sign", lambda vote: (notes.append("sign"), sign(vote))[1])
    runner.dispatch(TakeOver())
    assert sent == []
    assert runner.in_flight
    runner.settle()
    assert notes == ["look", "claim start", "begin", "sign", "outcome", "send"]
    (vote,) = sent
    Transaction.from_bytes(vote.transaction).verify()
    tower = decode_saved_tower(store.writes[0][2], IDENTITY)
    assert tower.votes == vote.signed.vote.state.votes
    assert (vote.slot, vote.revision) == (0, 11)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Refused(Refusal.FENCED, 7, 9), HaltReason.LOST_FENCE),
        (Refused(Refusal.CONFLICT, 7, 9), HaltReason.LOST_FENCE),
    ],
)
def test_a_refused_write_ends_the_voter_and_nothing_is_sent(answer, reason):
    halts = []
    runner, _, sent, _ = scripted(answer, on_halt=halts.append)
    runner.drive(TakeOver())
    assert (sent, runner.voter.state, runner.halted.reason) == ([], VoterState.STOPPED, reason)
    assert halts == [runner.halted]
    runner.drive(BankFrozen(bank(1, 0), UNIX_S))
    assert sent == []


def test_an_unknown_write_is_repeated_unchanged_until_it_is_settled():
    runner, store, sent, _ = scripted(Unknown("a"), Unknown("b"), committed)
    runner.drive(TakeOver())
    assert len(store.writes) == 3
    assert len(set(store.writes)) == 1
    assert len(sent) == 1


def test_a_store_that_is_unknown_at_once_is_asked_again_after_growing_pauses():
    pauses, now = [], [0.0]

    def pause(seconds):
        pauses.append(round(seconds, 3))
        now[0] = round(now[0] + seconds, 6)

    runner, store, sent, _ = scripted(*[Unknown("disk full")] * 60, clock=lambda: now[0], pause=pause, store_timeout=1.0)
    runner.drive(TakeOver())
    assert pauses == [0.01, 0.02, 0.04, 0.08, 0.16, 0.2, 0.2, 0.2, 0.09]
    assert (len(store.writes), sent, runner.halted.reason) == (9, [], HaltReason.STORE_FAILED)


def test_a_store_that_stays_silent_ends_the_voter_before_any_send():
    now = [0.0]

    def silence(record):
        now[0] += 2.0
        return Unknown("silence")

    runner, store, sent, _ = scripted(silence, silence, silence, silence, clock=lambda: now[0], store_timeout=5.0)
    runner.drive(TakeOver())
    assert (sent, runner.halted.reason) == ([], HaltReason.STORE_FAILED)
    assert "within 5 s: silence" in runner.halted.text
    assert len(store.writes) == 3


def test_a_look_that_fails_claims_nothing():
    runner, store, _, notes = scripted()

    def unavailable():
        raise StoreUnavailable("etcd is down")

    store.looks.append(unavailable)
    runner.drive(TakeOver())
    assert notes == ["look"]
    assert (runner.halted.reason, runner.halted.text) == (HaltReason.STORE_FAILED, "etcd is down")


def test_resigning_while_a_write_is_under_way_sends_nothing():
    runner, _, sent, _ = scripted(committed)
    runner.dispatch(TakeOver())
    runner.dispatch(Resign("told"))
    assert not runner.in_flight
    runner.settle()
    assert sent == []


def test_a_released_vote_leaves_before_the_next_is_thought_about():
    runner, store, sent, notes = scripted(committed, committed)
    runner.dispatch(TakeOver())
    runner.dispatch(BankFrozen(bank(1, 0), UNIX_S))  # while the first vote's write is under way
    runner.settle()
    assert notes[-3:] == ["outcome", "send", "begin"]
    assert [vote.slot for vote in sent] == [0]
    runner.settle()
    assert [vote.slot for vote in sent] == [0, 1]
    assert len(store.writes) == 2


def test_the_next_write_is_announced_when_the_vote_has_left_and_none_is_on_its_way():
    runner, store, sent, _ = scripted(committed, committed, Refused(Refusal.FENCED, 7, 8))
    runner.dispatch(TakeOver())
    runner.dispatch(BankFrozen(bank(1, 0), UNIX_S))
    assert store.expected == []
    runner.settle()
    assert (len(sent), store.expected) == (1, []), "the next vote is under way already"
    runner.settle()
    assert store.expected == [(2, "send")]
    runner.drive(BankFrozen(bank(2, 1), UNIX_S))
    assert (runner.voter.state, store.expected) == (VoterState.STOPPED, [(2, "send")]), "nothing follows on a lost fence"


def test_who_is_told_to_stop_while_a_vote_leaves_decides_nothing_more():
    runner, store, sent, _ = scripted(committed)
    send = runner._send
    runner._send = lambda vote: (send(vote), runner.dispatch(Resign("told")))
    runner.dispatch(TakeOver())
    runner.dispatch(BankFrozen(bank(1, 0), UNIX_S))
    runner.settle()
    assert [vote.slot for vote in sent] == [0]
    assert (runner.voter.state, runner.in_flight, len(store.writes)) == (VoterState.STOPPED, False, 1)
    assert runner.halted.reason is HaltReason.RESIGNED


def test_the_watch_begins_with_the_fence_and_ends_with_the_runner():
    runner, _, _, notes = scripted(committed, on_fence_lost=lambda seen: None)
    runner.drive(TakeOver())
    runner.close()
    assert notes[:3] == ["look", "claim start", "watch"]
    assert notes[-1] == "close"


def test_before_claim_runs_between_look_and_claim():
    notes_seen = []
    runner, _, _, notes = scripted(committed, before_claim=lambda: notes_seen.extend(notes))
    runner.dispatch(TakeOver())
    assert notes_seen == ["look"]


def test_a_second_signer_signs_second():
    own = account(voter=OTHER.pubkey)
    runner, _, sent, _ = scripted(committed, voters=(OTHER,), forks=ForkChoice(bank(0, None, own)))
    runner.drive(TakeOver())
    parsed = Transaction.from_bytes(sent[0].transaction)
    parsed.verify()
    assert [bytes(key) for key in parsed.message.account_keys[:2]] == [IDENTITY.pubkey, OTHER.pubkey]


def test_a_committed_vote_cannot_be_built_from_anything_else():
    runner, _, sent, _ = scripted(committed)
    runner.drive(TakeOver())
    signed = sent[0].signed
    for proof in (Committed(FENCE, 1, b"another record"), Unknown("?"), None, True):
        with pytest.raises(InvariantViolation):
            CommittedVote(proof, signed)
    CommittedVote(Committed(FENCE, 1, signed.record), signed)
    assert isinstance(signed, SignedVote)


def test_a_release_sends_only_the_vote_in_flight():
    """S2: an equal vote that is not the one in flight has no commit of its own."""
    runner, store, sent, _ = scripted(committed)
    runner.dispatch(TakeOver())
    flight = runner._in_flight
    other = Release(Committed(FENCE, 11, store.writes[0][2]), replace(flight.signed.vote))
    with pytest.raises(InvariantViolation, match="without its vote in flight"):
        runner._carry_out(other)
    assert sent == []


def test_two_runners_on_one_store_fence_each_other():
    backend = MemoryBackend()
    lives = []
    for _ in range(2):
        sent = []
        runner = Runner(new_voter(), MemoryStore(backend), IDENTITY, [IDENTITY], sent.append)
        lives.append((runner, sent))
    (first, first_sent), (second, second_sent) = lives
    first.drive(TakeOver())
    first.drive(BankFrozen(bank(1, 0), UNIX_S))
    second.drive(TakeOver())
    assert second.voter.votes == first.voter.votes
    first.drive(BankFrozen(bank(2, 1), UNIX_S))
    assert (first.halted.reason, [vote.slot for vote in first_sent]) == (HaltReason.LOST_FENCE, [0, 1])
    second.drive(BankFrozen(bank(1, 0), UNIX_S))
    second.drive(BankFrozen(bank(2, 1), UNIX_S))
    assert [vote.slot for vote in second_sent] == [2]
