"""A chain of banks as a validator is told of them: every voter votes for every bank, one slot later.

All voters but ours share one state object a bank: to the reader that is the same, and it saves the maker 2,000 of them. Votes are
in columns, as a validator that embeds the core hands them over: to make columns is the maker's work, not the voter's.
"""

from __future__ import annotations

import random

from tower._tree import BankVotes
from tower.types import FrozenBank, Lockout, VoteAccountState

__all__ = ["VOTE_ACCOUNT", "Chain"]

VOTE_ACCOUNT = bytes(range(32))
STAKE = 1_000_000_000
DEPTH = 31


class Chain:
    """Bank after bank on one fork, each with `voters` vote accounts; `VOTE_ACCOUNT` is that of `identity`."""

    def __init__(self, identity: bytes, voters: int, seed: int) -> None:
        rng = random.Random(seed)
        self._identity = identity
        self._others = [rng.randbytes(32) for _ in range(voters - 1)]
        self._last: BankVotes | None = None
        self._stakes = dict.fromkeys((VOTE_ACCOUNT, *self._others), STAKE)
        self._slot = 0
        self._rng = rng
        self.first = self._bank(0)

    def next(self) -> FrozenBank:
        self._slot += 1
        return self._bank(self._slot)

    def _bank(self, slot: int) -> FrozenBank:
        voted = range(max(0, slot - DEPTH), slot)
        lockouts = tuple(Lockout(each, slot - each) for each in voted)
        root = slot - DEPTH - 1 if slot > DEPTH else None
        own = VoteAccountState(self._identity, ((0, self._identity),), lockouts, root)
        other = VoteAccountState(bytes(32), ((0, bytes(32)),), lockouts, root)
        votes = {VOTE_ACCOUNT: own, **dict.fromkeys(self._others, other)}
        self._last = BankVotes.of(votes, self._stakes, like=self._last)
        return FrozenBank(
            slot, slot - 1 if slot else None, self._rng.randbytes(32), self._rng.randbytes(32), 0, self._last, self._stakes
        )
