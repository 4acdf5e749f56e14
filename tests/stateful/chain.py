"""Banks on forks, two peers that vote in them, and our vote account as far as our votes landed; and what votes make of a tower.

`stack` is written from the rules of the vote program and shares nothing with `tower.lockout`: it translates a tower of the
model, which is a list of votes, into the lockouts that a real one has to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tests.support.chain import VOTE_ACCOUNT, digest
from tower.forkchoice import ForkChoice
from tower.lockout import TowerVoteState
from tower.types import FrozenBank, Lockout, VoteAccountState

__all__ = ["FIRST_SLOT", "MAJOR", "MINOR", "UNIX_S", "Chain", "stack"]

FIRST_SLOT = 1  # in the model no vote is for slot 0
MAJOR, MINOR = b"p" * 32, b"q" * 32
STAKES = {VOTE_ACCOUNT: 10, MAJOR: 700, MINOR: 300}  # the minor one makes a fork heavier, and no switch proof
UNIX_S = 1_700_000_000
HISTORY_MAX = 31

Stack = tuple[tuple[tuple[int, int], ...], int | None]


def stack(votes: Sequence[int]) -> Stack:
    """The lockouts that these votes leave, oldest first, and the root.

    >>> stack([1, 2, 3, 4, 9])
    (((1, 4), (2, 3), (9, 1)), None)
    >>> stack(range(1, 34))[0][0], stack(range(1, 34))[1]
    ((3, 31), 2)
    """
    held: list[list[int]] = []
    root = None
    for slot in votes:
        while held and held[-1][0] + 2 ** held[-1][1] < slot:
            held.pop()
        if len(held) == HISTORY_MAX:
            root = held.pop(0)[0]
        held.append([slot, 1])
        for depth, vote in enumerate(held):
            if len(held) > depth + vote[1]:
                vote[1] += 1
    return tuple((slot, count) for slot, count in held), root


class Chain:
    """Every bank there is, of all forks. A child of any bank can be grown at any time."""

    def __init__(self, identity: bytes) -> None:
        own = VoteAccountState(identity, ((0, identity),))
        first = FrozenBank(FIRST_SLOT, None, digest("bank 1"), digest("hash 1"), 0, {VOTE_ACCOUNT: own}, STAKES)
        self.banks = {FIRST_SLOT: first}
        self._peers = {FIRST_SLOT: {MAJOR: TowerVoteState(), MINOR: TowerVoteState()}}
        self._lines = {FIRST_SLOT: frozenset({FIRST_SLOT})}

    @property
    def newest(self) -> int:
        return max(self.banks)

    def tree(self) -> ForkChoice:
        """What a process that has caught up knows: everything."""
        forks = ForkChoice(self.banks[FIRST_SLOT])
        for slot, bank in self.banks.items():
            if slot != FIRST_SLOT:
                forks.add(bank)
        return forks

    def grow(self, parent: int, gap: int, voting: Sequence[bytes] = (), landed: Sequence[int] = ()) -> FrozenBank:
        """A child of `parent`, `gap` slots after the newest bank of all. The peers in `voting` have voted for the parent;
        `landed` are the votes of ours that have arrived, if they are newer and on this fork."""
        slot = self.newest + gap
        peers = {peer: state.copy() for peer, state in self._peers[parent].items()}
        for peer in voting:
            peers[peer].process_vote(parent)
        line = self._lines[parent] | {slot}
        own = self.banks[parent].votes[VOTE_ACCOUNT]
        if landed and landed[-1] > (own.last_voted_slot or 0) and set(landed) <= line:
            lockouts, root = stack(landed)
            own = replace(own, lockouts=tuple(Lockout(*vote) for vote in lockouts), root=root)
        votes = {VOTE_ACCOUNT: own}
        for peer, state in peers.items():
            votes[peer] = VoteAccountState(b"n" * 32, (), tuple(Lockout(*vote) for vote in state.votes), state.root)
        bank = FrozenBank(slot, parent, digest(f"bank {slot}"), digest(f"hash {slot}"), 0, votes, STAKES)
        self.banks[slot], self._peers[slot], self._lines[slot] = bank, peers, line
        return bank
