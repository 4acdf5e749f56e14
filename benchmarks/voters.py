"""Banks with many voters, for tallies and fork choice: seeded, each voter with a full stack of 31 lockouts."""

from __future__ import annotations

import random
from collections.abc import Callable

from tower._tree import BankVotes
from tower.types import FrozenBank, Lockout, VoteAccountState

__all__ = ["DEPTH", "Electorate", "hash_of"]

DEPTH = 31


def hash_of(slot: int) -> bytes:
    return slot.to_bytes(32, "big")


class Electorate:
    """`count` voters with stakes from 1 to 10**12 lamports."""

    def __init__(self, count: int, rng: random.Random) -> None:
        self.rng = rng
        self.accounts = [rng.randbytes(32) for _ in range(count)]
        self.stakes = {account: rng.randint(1, 10**12) for account in self.accounts}

    def votes(self, top: Callable[[], int]) -> dict[bytes, VoteAccountState]:
        """Everybody's 31 lockouts on consecutive slots, the newest as `top` says for each."""
        stacks: dict[int, tuple[Lockout, ...]] = {}
        votes = {}
        for account in self.accounts:
            newest = top()
            if newest not in stacks:
                stacks[newest] = tuple(Lockout(newest - DEPTH + at, DEPTH + 1 - at) for at in range(1, DEPTH + 1))
            votes[account] = VoteAccountState(bytes(32), lockouts=stacks[newest])
        return votes

    def bank(self, slot: int, parent: int | None, top: Callable[[], int], like: BankVotes | None = None) -> FrozenBank:
        """A bank with these votes, in columns, as a validator hands it over."""
        columns = BankVotes.of(self.votes(top), self.stakes, like)
        return FrozenBank(slot, parent, hash_of(slot), votes=columns, stakes=self.stakes)

    def newest_votes(self, slots: range) -> BankVotes:
        """One vote each, for a slot drawn from `slots`: other ones than before, where the range has moved on."""
        drawn = {each: (Lockout(self.rng.choice(slots), 1),) for each in self.accounts}
        votes = {each: VoteAccountState(bytes(32), lockouts=lockouts) for each, lockouts in drawn.items()}
        return BankVotes.of(votes, self.stakes)
