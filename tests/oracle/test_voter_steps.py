"""What a voter sends that respects its lockouts is always accepted, on whatever fork it stands.

The voter here is the core alone: `is_locked_out`, `process_vote`, and the message of the hot path. It sees a random tree
of banks, and each fork has its own vote account, as on a cluster: a bank inherits its parent's.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import event, given
from hypothesis import strategies as st

from tests.oracle.strategies import bank_hash
from tests.support.litesvm import BLOCKHASH, IDENTITY, VOTE_ACCOUNT, VoteProgram, encode_vote_account, new_account
from tests.support.profiles import examples, timeout
from tower import _fast, _reference
from tower.proposal import VoteError
from tower.types import ZERO_HASH, Lockout, VoteAccountState
from tower.wire import decode_vote_account

pytestmark = timeout
PROGRAM = VoteProgram()
PATTERN_MAX = 8
SLOT_HASHES_MAX = 512


@dataclass(frozen=True)
class Bank:
    """`ancestors` newest first and with the bank itself; `account` is the vote account's data after it."""

    slot: int
    ancestors: tuple[tuple[int, bytes], ...]
    account: bytes

    @property
    def state(self) -> VoteAccountState:
        return decode_vote_account(self.account)


# one bank: slots skipped before it, how many banks back its parent is, whether the voter tries it and the vote lands
TIMES = st.tuples(st.sampled_from((0, 0, 0, 1, 3, 9, 70)), st.sampled_from((0, 0, 0, 0, 1, 2, 5, 0)), st.integers(0, 7))


@examples(500, 20_000)
@given(st.lists(TIMES, min_size=1, max_size=PATTERN_MAX), st.sampled_from((2, 5, 15, 40, 80)), st.sampled_from((0, 4, 34)))
def test_a_vote_that_is_not_locked_out_is_accepted_on_its_fork(pattern, length, run_up):
    twins = [twin.TowerVoteState() for twin in (_fast, _reference)]
    banks = [Bank(0, ((0, bank_hash(0)),), encode_vote_account(new_account()))]
    refused, switched = 0, 0
    for number in range(run_up + length):
        skipped, back, mood = pattern[number % len(pattern)] if number >= run_up else (0, 0, 0)
        parent = banks[max(len(banks) - 1 - back, 0)]
        slot = banks[-1].slot + 1 + skipped
        ancestors = {ancestor for ancestor, _ in parent.ancestors}
        account = parent.account
        here = ((slot, bank_hash(slot)), *parent.ancestors[: SLOT_HASHES_MAX - 1])
        locked = {twin.is_locked_out(slot, ancestors) for twin in twins}
        assert len(locked) == 1
        if mood != 7 and not locked.pop():
            switched += twins[0].last_voted_slot not in ancestors and len(twins[0]) > 0
            messages = []
            for twin, state in zip((_fast, _reference), twins, strict=True):
                state.process_vote(slot)
                messages.append(
                    twin.encode_vote_message(
                        IDENTITY.pubkey, IDENTITY.pubkey, VOTE_ACCOUNT, BLOCKHASH, state, bank_hash(slot), slot, ZERO_HASH, None
                    )
                )
            assert messages[0] == messages[1]
            if mood != 6:  # else it is lost on its way
                PROGRAM.put_data(parent.account)
                PROGRAM.on_bank(here)
                assert PROGRAM.send_message(messages[0]) is None, f"{parent.state}\nrefused {twins[0]}"
                account = PROGRAM.data()
                landed = decode_vote_account(account)
                assert (list(landed.lockouts), landed.root) == (twins[0].votes, twins[0].root)
                assert landed.last_timestamp == (slot, slot)
        else:
            refused += 1
        banks.append(Bank(slot, here, account))
    event(f"switched forks: {switched > 0}, rooted: {twins[0].root is not None}, locked out: {refused > 0}")


def test_no_chain_can_see_a_vote_on_another_fork():
    """Why the tower must be kept: the fork that never saw a vote cannot hold the voter to it. `is_locked_out` can."""
    state = _fast.TowerVoteState()
    for slot in (1, 2, 3):
        state.process_vote(slot)
    assert state.is_locked_out(4, {0, 1})  # bank 4 is built on bank 1
    dishonest = _fast.encode_vote_message(
        IDENTITY.pubkey,
        IDENTITY.pubkey,
        VOTE_ACCOUNT,
        BLOCKHASH,
        _fast.TowerVoteState([(1, 3), (4, 1)]),
        bank_hash(4),
        None,
        ZERO_HASH,
        None,
    )
    saw_one = new_account(lockouts=(Lockout(1, 1),))
    PROGRAM.put(saw_one)
    PROGRAM.on_bank([(slot, bank_hash(slot)) for slot in (4, 1, 0)])
    assert PROGRAM.send_message(dishonest) is None
    saw_all = new_account(lockouts=tuple(Lockout(*vote) for vote in state.votes))
    PROGRAM.put(saw_all)
    PROGRAM.on_bank([(slot, bank_hash(slot)) for slot in (4, 3, 2, 1, 0)])
    assert PROGRAM.send_message(dishonest) == VoteError.LockoutConflict
