"""Latencies and credits against the real vote program: votes that land soon, late and very late, over several epochs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from solders.clock import Clock

from tests.support.chain import digest
from tests.support.litesvm import VoteProgram, new_account
from tests.support.profiles import examples, timeout
from tower.credits import CREDITS_MAX, land
from tower.instructions import encode_vote_instruction
from tower.lockout import TowerVoteState
from tower.types import LastVote, Lockout, VoteKind

pytestmark = timeout
PROGRAM = VoteProgram()

STEPS = st.lists(
    st.tuples(
        st.integers(1, 3) | st.integers(1, 40),  # slots to the next vote
        st.sampled_from([1, 1, 2, 2, 3, 9, 17, 18, 40, 300]),  # slots until it lands
        st.sampled_from([0] * 12 + [1, 2]),  # epochs that go by
        st.booleans(),  # a Vote, or a TowerSync of the whole tower
        st.booleans(),  # sent and lost: the next TowerSync carries it along
    ),
    min_size=1,
    max_size=60,
)


@examples(60, 5_000)
@given(STEPS)
def test_latencies_and_credits_are_the_program_s(steps):
    account, tower, slot, epoch = new_account(), TowerVoteState(), 1, 0
    PROGRAM.put(account)
    hashes: list[tuple[int, bytes]] = []
    for distance, delay, epochs, legacy, lost in steps:
        slot += distance
        epoch += epochs
        tower.process_vote(slot)
        hashes = [(slot, digest(str(slot))), *hashes][:512]
        if lost:
            continue
        if legacy:
            # with a slot that the account already has, where there is one: it changes nothing, its latency neither
            known = [landed.slot for landed in account.lockouts[-1:] if landed.slot < slot]
            vote = LastVote(VoteKind.VOTE, (*known, slot), hash=digest(str(slot)))
        else:
            lockouts = tuple(Lockout(*pair) for pair in tower.votes)
            slots = tuple(lockout.slot for lockout in lockouts)
            vote = LastVote(VoteKind.TOWER_SYNC, slots, lockouts, tower.root, digest(str(slot)), None, bytes(32))
        PROGRAM.on_bank(hashes)
        PROGRAM._svm.set_clock(Clock(slot + delay, 0, epoch, epoch + 1, 0))
        result, account = land(account, vote, hashes, slot + delay, epoch)
        answer = PROGRAM.send(encode_vote_instruction(vote))
        assert answer == result.error
        found = PROGRAM.read()
        assert (found.lockouts, found.root) == (account.lockouts, account.root)
        assert found.latencies == account.latencies
        assert found.epoch_credits == account.epoch_credits
        if legacy and result.accepted:
            tower = TowerVoteState(account.lockouts, account.root)  # a Vote does not carry what was lost


def test_a_voter_that_is_never_late_earns_sixteen_a_slot():
    account, tower = new_account(), TowerVoteState()
    hashes: list[tuple[int, bytes]] = []
    for slot in range(1, 101):
        tower.process_vote(slot)
        hashes = [(slot, digest(str(slot))), *hashes]
        lockouts = tuple(Lockout(*pair) for pair in tower.votes)
        vote = LastVote(VoteKind.TOWER_SYNC, tuple(range(tower.votes[0][0], slot + 1)), lockouts, tower.root, digest(str(slot)))
        result, account = land(account, vote, hashes, slot + 2, 0)
        assert result.accepted
    assert account.epoch_credits == ((0, (100 - 31) * CREDITS_MAX, 0),)
