"""Legacy votes through the real program: it steps the stack itself, and ours must be equal after each one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from tests.oracle.strategies import accounts_on, ballots, bank_hash, chains
from tests.support.litesvm import VoteProgram, new_account
from tests.support.profiles import examples, timeout
from tower import _fast, _reference
from tower.errors import InvalidInput
from tower.instructions import encode_vote_instruction
from tower.proposal import VoteError, apply_vote, check_proposal
from tower.types import BlockTimestamp, LastVote, Lockout, VoteKind

pytestmark = timeout
PROGRAM = VoteProgram()


@examples(500, 20_000)
@given(st.data())
def test_any_votes_leave_the_stack_that_the_program_leaves(data):
    chain = data.draw(chains(), "chain")
    account = data.draw(accounts_on(chain[: data.draw(st.sampled_from((0, 1, len(chain) // 2)), "landed")]), "account")
    PROGRAM.put(account)
    twins = [twin.TowerVoteState(account.lockouts, account.root) for twin in (_fast, _reference)]
    for ballot in data.draw(ballots(chain, 12), "ballots"):
        predicted = apply_vote(account, ballot.vote, ballot.slot_hashes)
        before = PROGRAM.data()
        PROGRAM.on_bank(ballot.slot_hashes)
        answer = PROGRAM.send(encode_vote_instruction(ballot.vote, ballot.switch_proof))
        assert answer == predicted.error, f"{ballot}\non {account}\nprogram {answer}, predicted {predicted}"
        event(repr(predicted.error))
        if answer is not None:
            assert PROGRAM.data() == before
            continue
        account = PROGRAM.read()
        oldest = ballot.slot_hashes[-1][0]
        for twin in twins:
            for slot in ballot.vote.slots:
                if slot >= oldest:
                    twin.process_vote(slot)
            assert (twin.votes, twin.root) == (list(account.lockouts), account.root), ballot
        assert (predicted.lockouts, predicted.root) == (account.lockouts, account.root), ballot
        assert predicted.last_timestamp == account.last_timestamp, ballot


@examples(100, 5_000)
@given(
    st.lists(st.integers(1, 6) | st.integers(1, 600), min_size=1, max_size=12),
    st.integers(33, 200),
    st.sampled_from((1, 7, 40)),
    st.sampled_from((0, 2**63, 2**64 - 2**34)),
)
def test_a_long_walk_roots_what_the_program_roots(pattern, length, slots_per_vote, base):
    """Nothing illegal here, so that the stacks get deep and roots move often."""
    slots = list(itertools.accumulate(itertools.islice(itertools.cycle(pattern), length), initial=base))
    PROGRAM.put(new_account())
    PROGRAM.on_bank([(slot, bank_hash(slot)) for slot in reversed(slots)])
    twins = [twin.TowerVoteState() for twin in (_fast, _reference)]
    for at in range(0, len(slots), slots_per_vote):
        part = tuple(slots[at : at + slots_per_vote])
        assert PROGRAM.send(encode_vote_instruction(LastVote(VoteKind.VOTE, part, hash=bank_hash(part[-1])))) is None
        account = PROGRAM.read()
        for twin in twins:
            for slot in part:
                twin.process_vote(slot)
            assert (twin.votes, twin.root) == (list(account.lockouts), account.root)


def known(*slots):
    return [(slot, bank_hash(slot)) for slot in slots]


def vote_for(*slots, hash_of=None, timestamp=None):
    newest = (slots[-1] if slots else 0) if hash_of is None else hash_of
    return LastVote(VoteKind.VOTE, slots, hash=bank_hash(newest), timestamp=timestamp)


VOTED = new_account(lockouts=(Lockout(10, 3), Lockout(11, 2), Lockout(12, 1)), root=9, last_timestamp=BlockTimestamp(12, 5))
ANCESTORS = known(*range(20, 7, -1))
# error, vote, SlotHashes, newest slot afterwards: one case at least for each row of the table of `apply_vote`
ROWS = [
    (VoteError.EmptySlots, vote_for(), ANCESTORS, 12),
    (VoteError.VotesTooOldAllFiltered, vote_for(5, 7), ANCESTORS, 12),
    (None, vote_for(7, 13), ANCESTORS, 13),
    (None, vote_for(3, 13), ANCESTORS, 13),
    (VoteError.VoteTooOld, vote_for(10, 12), ANCESTORS, 12),
    (VoteError.VoteTooOld, vote_for(13), [], 12),
    (VoteError.SlotsMismatch, vote_for(13, 14), known(14, 12, 11), 12),
    (VoteError.SlotsMismatch, vote_for(14, 13), ANCESTORS, 12),
    (VoteError.SlotsMismatch, vote_for(20, 12), ANCESTORS, 12),  # the newest entry is taken: 12 is not even skipped
    (None, vote_for(12, 13), known(14, 13, 11), 13),  # 12 is skipped, and need not be known
    (None, vote_for(13, 12, hash_of=13), ANCESTORS, 13),
    (VoteError.SlotHashMismatch, vote_for(13, 12), ANCESTORS, 12),
    (VoteError.SlotHashMismatch, vote_for(13, 14, hash_of=13), ANCESTORS, 12),
    (VoteError.TimestampTooOld, vote_for(13, timestamp=4), ANCESTORS, 12),
    (None, vote_for(13, timestamp=5), ANCESTORS, 13),
    (None, vote_for(13, 11, hash_of=13, timestamp=6), ANCESTORS, 13),  # the largest slot counts, not the last
]


@pytest.mark.parametrize(("error", "vote", "slot_hashes", "newest"), ROWS)
def test_each_row_of_the_table(error, vote, slot_hashes, newest):
    PROGRAM.put(VOTED)
    PROGRAM.on_bank(slot_hashes)
    predicted = apply_vote(VOTED, vote, slot_hashes)
    assert (predicted.error, PROGRAM.send(encode_vote_instruction(vote))) == (error, error)
    account = PROGRAM.read()
    assert account.last_voted_slot == newest
    assert (predicted.lockouts, predicted.root) == (account.lockouts, account.root)
    assert predicted.last_timestamp == account.last_timestamp


def test_each_kind_of_vote_has_its_own_check():
    with pytest.raises(InvalidInput, match="use apply_vote"):
        check_proposal(VOTED, vote_for(13), ANCESTORS)
    with pytest.raises(InvalidInput, match="use check_proposal"):
        apply_vote(VOTED, LastVote(VoteKind.TOWER_SYNC), ANCESTORS)
