"""The compiled tree and tallies against the readable twin: random trees, duplicates, roots, gossip, and hostile numbers."""

from __future__ import annotations

import gc
import random

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from tests.support.chain import digest
from tests.support.profiles import examples, timeout
from tower import _reference_tree as twin
from tower import checks
from tower._tree import BankVotes, LockedOut, Node
from tower.errors import InvalidInput
from tower.forkchoice import ForkChoice
from tower.types import FrozenBank, Lockout, VoteAccountState

pytestmark = timeout

ACCOUNTS = tuple(digest(f"account {number}") for number in range(9))
U64_MAX = (1 << 64) - 1


def stack(rng: random.Random, top: int) -> tuple[Lockout, ...]:
    slots = sorted(rng.sample(range(top + 1), min(top + 1, rng.randint(0, 31))))
    count = len(slots) + rng.choice([0, 0, 3, 40])
    return tuple(Lockout(slot, max(1, count - index)) for index, slot in enumerate(slots))


def state(rng: random.Random, top: int) -> VoteAccountState:
    return VoteAccountState(b"n", lockouts=stack(rng, top))


def some_stakes(rng: random.Random) -> dict[bytes, int]:
    return {account: rng.choice([0, 1, 5, 7, 100, 1 << 60, 1 << 61]) for account in ACCOUNTS if rng.random() < 0.9}


class Both:
    """The two trees, told the same things."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.stakes = rng, some_stakes(rng)
        first = FrozenBank(3, None, digest("3"), votes=self.votes(3), stakes=self.stakes)
        rooted = rng.sample(range(3), rng.randint(0, 3))
        self.ours, self.plain = ForkChoice(first, rooted), twin.ForkChoice(first, rooted)
        self.banks = [first]

    def votes(self, top: int) -> dict[bytes, VoteAccountState]:
        return {account: state(self.rng, top) for account in self.rng.sample(ACCOUNTS, self.rng.randint(0, len(ACCOUNTS)))}

    def told(self, name: str, *arguments: object) -> object:
        answers = []
        for forks in (self.ours, self.plain):
            try:
                answers.append(getattr(forks, name)(*arguments))
            except InvalidInput as problem:
                answers.append(str(problem))
        assert answers[0] == answers[1], name
        return answers[0]

    def add(self) -> None:
        rng, parent = self.rng, self.rng.choice(self.banks)
        if rng.random() < 0.1:
            self.stakes = some_stakes(rng)
        slot = parent.slot + rng.choice([1, 1, 1, 2, 5, 0])
        changed = self.votes(slot + rng.choice([0, 0, 4]))
        if rng.random() < 0.5:
            votes = {**parent.votes, **changed}
        else:
            before = parent.votes if isinstance(parent.votes, BankVotes) else BankVotes.of(parent.votes, parent.stakes)
            votes = before.with_changes(changed)
        bank = FrozenBank(
            slot, parent.slot, digest(f"{slot}{rng.choice('aaab')}"), votes=votes, stakes=self.stakes,
            parent_hash=rng.choice([None, parent.bank_hash]),
        )  # fmt: skip
        self.told("add", bank)
        self.banks.append(bank)

    def step(self) -> None:
        rng, bank = self.rng, self.rng.choice(self.banks)
        what = rng.random()
        if what < 0.7:
            self.add()
        elif what < 0.8:
            self.told("note_gossip_vote", rng.choice(ACCOUNTS), bank.slot, bank.bank_hash)
        elif what < 0.85:
            self.told("mark_invalid", bank.slot, bank.bank_hash)
        elif what < 0.9:
            self.told("mark_confirmed", bank.slot, bank.bank_hash)
        elif what < 0.95:
            self.told("set_root", bank.slot)
        else:
            self.told("note_rooted", rng.randint(0, bank.slot))

    def agree(self) -> None:
        rng = self.rng
        known = sorted({bank.slot for bank in self.banks} | {0, 1, 2})
        assert self.ours.root == self.plain.root
        assert self.ours.newest == self.plain.newest
        assert len(self.ours) == len(self.plain)
        assert self.ours.best() is self.plain.best()
        assert list(self.ours.leaves()) == list(self.plain.leaves())
        assert sorted(self.ours.gossip_votes()) == sorted(self.plain.gossip_votes())
        for slot in known:
            for name in ("knows", "bank", "stake", "best_below", "voted_at_or_beyond", "invalid_ancestor"):
                self.told(name, slot)
            assert (slot in self.ours) == (slot in self.plain)
            assert [bank.bank_hash for bank in self.ours.path(slot)] == [bank.bank_hash for bank in self.plain.path(slot)]
            other = rng.choice(known)
            self.told("is_ancestor", slot, other)
            self.told("common_ancestor", slot, other)
            listed, asked = self.plain.ancestors(slot), self.ours.ancestors(slot)
            assert {each for each in known if each in asked} == {each for each in known if each in listed}
        bank, last = rng.choice(self.banks), rng.choice(known)
        assert self.ours.votes_in(bank).newest_under(bank.slot) == twin.newest_under(bank, bank.slot)
        counted = LockedOut(self.ours.votes_in(bank))
        other = rng.choice(self.banks)
        self.ours.add_locked_out(other, last, counted)
        expected = twin.locked_out(other, last, self.plain)
        assert counted.stake(bank.stakes) == sum(bank.stakes.get(account, 0) for account in expected)
        share = checks.stake_voted_for(bank, last, self.ours)
        newest = twin.newest_under(bank, bank.slot).items()
        held = sum(stake for voted, stake in newest if voted in self.plain and self.plain.is_ancestor(last, voted))
        assert share == (held, sum(bank.stakes.get(account, 0) for account in bank.votes))


@examples(200, 20_000)
@given(st.integers(0, 1 << 32))
def test_the_compiled_tree_answers_as_the_plain_one(seed):
    note(f"seed {seed}")
    both = Both(random.Random(seed))
    for _ in range(both.rng.randint(1, 40)):
        both.step()
        both.agree()


@examples(200, 20_000)
@given(st.integers(0, 1 << 32))
def test_columns_are_a_mapping_however_they_were_made(seed):
    note(f"seed {seed}")
    rng = random.Random(seed)
    stakes = some_stakes(rng)
    votes = {account: state(rng, 40) for account in rng.sample(ACCOUNTS, rng.randint(0, len(ACCOUNTS)))}
    made = BankVotes.of(votes, stakes)
    assert (made, len(made), list(made)) == (votes, len(votes), list(votes))
    assert [made.stake(account) for account in ACCOUNTS] == [
        stakes.get(account, 0) if account in votes else 0 for account in ACCOUNTS
    ]
    changed = {account: state(rng, 60) for account in rng.sample(ACCOUNTS, rng.randint(0, len(ACCOUNTS)))}
    later = made.with_changes(changed)
    assert later == {**votes, **changed}
    fresh = BankVotes.of({**votes, **changed}, {account: made.stake(account) for account in ACCOUNTS})
    assert later.newest_under(50) == fresh.newest_under(50)
    assert made == votes
    flat = [lockout for each in fresh.values() for lockout in each.lockouts]
    ends, end = [], 0
    for each in fresh.values():
        end += len(each.lockouts)
        ends.append(end)
    columns = BankVotes.from_columns(
        list(fresh), [fresh.stake(account) for account in fresh], ends, [vote.slot for vote in flat],
        [vote.confirmation_count for vote in flat], states={account: fresh[account] for account in list(fresh)[:1]},
    )  # fmt: skip
    assert columns.newest_under(50) == fresh.newest_under(50)
    assert columns.total_stake == fresh.total_stake
    assert [[vote.slot for vote in each.lockouts] for each in columns.values()] == [
        [vote.slot for vote in each.lockouts] for each in fresh.values()
    ]
    grown = columns.with_changes({digest("new"): state(rng, 9)})
    assert len(grown) == len(columns) + 1
    assert grown.newest_under(50) == columns.newest_under(50)


def test_a_silent_voter_keeps_no_bank_that_has_left_the_tree():
    forks, silent = ForkChoice(FrozenBank(0, None, digest("0"))), {}
    before = nodes()
    for slot in range(1, 401):  # in every bank another voter votes for the first and last time
        silent[digest(f"silent {slot}")] = VoteAccountState(b"n", lockouts=(Lockout(slot, 1),))
        forks.add(FrozenBank(slot, slot - 1, digest(str(slot)), votes=dict(silent), stakes=dict.fromkeys(silent, 1)))
        if slot > 32:
            forks.set_root(slot - 32)
    assert len(forks) == 33
    assert nodes() - before == 32


def nodes() -> int:
    gc.collect()
    return sum(isinstance(thing, Node) for thing in gc.get_objects())


def test_the_stakes_are_those_of_the_bank_and_not_those_of_older_columns():
    one, two = ACCOUNTS[:2]
    state_of_both = VoteAccountState(b"n", lockouts=(Lockout(0, 1),))
    columns = BankVotes.of({one: state_of_both, two: state_of_both}, {one: 1, two: 1})
    bank = FrozenBank(1, 0, digest("1"), votes=columns, stakes={one: 9, two: 1})
    forks = ForkChoice(FrozenBank(0, None, digest("0")))
    forks.add(bank)
    assert forks.stake(0) == 10
    assert checks.stake_voted_for(bank, 0, forks) == (10, 10)
    assert BankVotes.of(columns, columns.stakes_by_account) is columns


def test_weights_from_banks_with_other_stakes_do_not_wrap_around():
    one, two, three = ACCOUNTS[:3]
    voted = VoteAccountState(b"n", lockouts=(Lockout(1, 1),))
    forks = ForkChoice(FrozenBank(0, None, digest("0")))
    for slot in (1, 2):
        forks.add(FrozenBank(slot, 0, digest(str(slot))))
    for slot, account in ((3, one), (4, two)):
        forks.add(FrozenBank(slot, 1, digest(str(slot)), votes={account: voted}, stakes={account: U64_MAX}))
    light = VoteAccountState(b"n", lockouts=(Lockout(2, 1),))
    forks.add(FrozenBank(5, 2, digest("5"), votes={three: light}, stakes={three: U64_MAX}))
    assert (forks.stake(1), forks.stake(2)) == (2 * U64_MAX, U64_MAX)
    assert forks.best().slot == 3


def test_numbers_that_do_not_fit_are_refused():
    one, two = ACCOUNTS[:2]
    fine = VoteAccountState(b"n", lockouts=(Lockout(U64_MAX, 31),))
    assert BankVotes.of({one: fine}, {one: U64_MAX}).newest_under(U64_MAX) == {}
    assert BankVotes.of({one: fine}, {one: U64_MAX}).newest_under(5) == {}
    late = VoteAccountState(b"n", lockouts=(Lockout(U64_MAX - 1, 31),))
    assert BankVotes.of({one: late}, {one: 7}).newest_under(U64_MAX) == {U64_MAX - 1: 7}  # locked to the end of all slots
    with pytest.raises(InvalidInput, match="add up to more than 64 bits"):
        BankVotes.of({one: fine, two: fine}, {one: U64_MAX, two: 1})
    for stakes, lockout in (({one: -1}, (1, 1)), ({one: U64_MAX + 1}, (1, 1)), ({one: 1}, (-1, 1)), ({one: 1}, (U64_MAX + 1, 1))):
        with pytest.raises(InvalidInput, match="64 bits"):
            BankVotes.of({one: VoteAccountState(b"n", lockouts=(Lockout(*lockout),))}, stakes)
    with pytest.raises(InvalidInput, match="the last end"):
        BankVotes.from_columns([one], [1], [2], [1], [1])
    with pytest.raises(InvalidInput, match="as many"):
        BankVotes.from_columns([one], [1, 2], [1], [1], [1])
    with pytest.raises(InvalidInput, match="must not fall"):
        BankVotes.from_columns([one, two], [1, 1], [2, 1], [1], [1])
    with pytest.raises(InvalidInput, match="twice"):
        BankVotes.from_columns([one, one], [1, 1], [1, 1], [1], [1])
    with pytest.raises(InvalidInput, match="no column"):
        BankVotes.from_columns([one], [1], [0], [], [], states={two: fine})
    forks = ForkChoice(FrozenBank(0, None, digest("0")))
    with pytest.raises(InvalidInput, match="a slot is from 0"):
        forks.add(FrozenBank(U64_MAX + 1, 0, digest("far")))
    assert len(forks) == 1
    with pytest.raises(TypeError):
        BankVotes()


def test_a_fork_too_long_for_a_map_is_searched():
    far = 1 << 20
    places = ((1, None), (far, 1), (far + 9, far))
    banks = [FrozenBank(slot, parent, digest(str(slot))) for slot, parent in places]
    forks = ForkChoice(banks[0])
    for bank in banks[1:]:
        forks.add(bank)
    one, two = ACCOUNTS[:2]
    other = FrozenBank(
        far + 20, 1, digest("other"), stakes={one: 3, two: 4},
        votes={
            one: VoteAccountState(b"n", lockouts=(Lockout(far, 31),)),
            two: VoteAccountState(b"n", lockouts=(Lockout(far + 1, 31),)),
        },
    )  # fmt: skip
    forks.add(other)
    counted = LockedOut(forks.votes_in(other))
    forks.add_locked_out(other, far + 9, counted)
    assert counted.stake(other.stakes) == 4
