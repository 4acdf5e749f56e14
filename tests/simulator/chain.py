"""A chain with forks, two peers that vote on it, and our vote account as far as our votes landed.

Now and then two branches grow at once; the peers take sides, and either branch may win. So our voter is on the losing one
often enough, and has to wait for its lockouts and for the proof that it may switch.

What becomes of a vote in a bank is what the vote program says (`tower.proposal`, which the tests hold against the real one). That
it comes too late, or to a bank of another fork, is normal; any other refusal would be our fault, and is kept in `faults`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.simulator.world import World
from tests.support.chain import IDENTITY, VOTE_ACCOUNT, digest
from tower.forkchoice import ForkChoice
from tower.localnet.judge import Judge
from tower.lockout import TowerVoteState
from tower.proposal import VoteError, check_proposal
from tower.types import FrozenBank, LastVote, Lockout, VoteAccountState

__all__ = ["MAJOR", "Chain"]

MAJOR, MINOR = b"p" * 32, b"q" * 32
STAKES = {VOTE_ACCOUNT: 10, MAJOR: 600, MINOR: 400}
KEPT = 80  # banks that a process which starts is told of at the most
BEHIND_MAX = 30  # banks that a process which starts may have to catch up with
ROOT_DEPTH = 32  # banks below the newest at which the cluster's root is
SLOT_HASHES = 512
PENDING = 8  # votes that may still land
ELSEWHERE = {VoteError.VoteTooOld, VoteError.SlotsMismatch, VoteError.RootOnDifferentFork}


@dataclass
class _Branch:
    tip: FrozenBank
    peers: tuple[bytes, ...]


class Chain:
    """Grows a slot at a time; every bank is given to whoever listens."""

    def __init__(self, world: World, judge: Judge) -> None:
        self._world, self._judge = world, judge
        self.faults: list[str] = []  # refusals of the vote program that may not be
        self._votes: list[LastVote] = []  # sent, and perhaps not in a bank yet
        self._states: dict[int, dict[bytes, TowerVoteState]] = {0: {MAJOR: TowerVoteState(), MINOR: TowerVoteState()}}
        self._lines: dict[int, frozenset[int]] = {0: frozenset({0})}
        self._hashes: dict[int, list[tuple[int, bytes]]] = {0: [(0, digest("0"))]}  # SlotHashes, newest first
        own = VoteAccountState(IDENTITY.pubkey, ((0, IDENTITY.pubkey),))
        first = FrozenBank(0, None, digest("0"), digest("hash 0"), 0, {VOTE_ACCOUNT: own}, STAKES)
        self.banks: list[FrozenBank] = [first]
        self._branches = [_Branch(first, (MAJOR, MINOR))]
        self._fork_ends = 0
        judge.add_bank(0, -1)

    @property
    def slot(self) -> int:
        return self.banks[-1].slot

    @property
    def root(self) -> int | None:
        """The newest slot that the cluster has rooted; it is on every branch."""
        line = self._lines[self._branches[0].tip.slot]
        return next((bank.slot for bank in reversed(self.banks[:-ROOT_DEPTH]) if bank.slot in line), None)

    def tree(self, behind: int = 0) -> tuple[ForkChoice, list[FrozenBank]]:
        """What a process that starts now knows, and the banks that it has to catch up with.

        It knows the banks that are kept, from the oldest on the fork of the newest one, but for the last `behind`.
        """
        behind = min(behind, len(self.banks) - 1)
        known = self.banks[: len(self.banks) - behind]
        line = self._lines[known[-1].slot]
        start = next(at for at, bank in enumerate(known) if bank.slot in line)
        forks = ForkChoice(known[start], rooted=[slot for slot in line if slot < known[start].slot])
        for bank in known[start + 1 :]:
            if bank.parent_slot in forks:  # else a fork that left before the oldest bank that is kept
                forks.add(bank)
        return forks, self.banks[len(known) :]

    def submit(self, vote: LastVote) -> None:
        """A vote arrived at the leaders."""
        self._votes.append(vote)

    def grow(self) -> FrozenBank:
        """The bank of the next slot."""
        slot = self.slot + 1
        rng = self._world.rng
        if len(self._branches) == 2 and slot >= self._fork_ends:
            winner = rng.choice(self._branches)
            self._branches = [_Branch(winner.tip, (MAJOR, MINOR))]
        elif len(self._branches) == 1 and slot > 4 and self._world.chance(0.04):
            self._world.counts["forks"] += 1
            base = self._branches[0].tip
            sides = rng.choice([((MAJOR,), (MINOR,)), ((MINOR,), (MAJOR,)), ((MAJOR, MINOR), ())])
            self._branches = [_Branch(base, sides[0]), _Branch(base, sides[1])]
            self._fork_ends = slot + rng.randint(2, 10)
        branch = rng.choice(self._branches)
        bank = self._child(slot, branch)
        branch.tip = bank
        self.banks.append(bank)
        del self.banks[:-KEPT]
        return bank

    def _child(self, slot: int, branch: _Branch) -> FrozenBank:
        parent = branch.tip
        states = {peer: state.copy() for peer, state in self._states[parent.slot].items()}
        for peer in branch.peers:
            states[peer].process_vote(parent.slot)
        own = self._landed(parent)
        votes = {VOTE_ACCOUNT: own, **{peer: self._account(state) for peer, state in states.items()}}
        line = self._lines[parent.slot] | {slot}
        self._states[slot], self._lines[slot] = states, frozenset(sorted(line)[-2048:])
        self._hashes[slot] = [(slot, digest(str(slot))), *self._hashes[parent.slot][: SLOT_HASHES - 1]]
        for old in [old for old in self._states if old < slot - 64 and all(old != b.tip.slot for b in self._branches)]:
            del self._states[old], self._lines[old], self._hashes[old]
        self._judge.add_bank(slot, parent.slot)
        return FrozenBank(slot, parent.slot, digest(str(slot)), digest(f"hash {slot}"), 0, votes, STAKES)

    def _landed(self, parent: FrozenBank) -> VoteAccountState:
        """Our account after the child of `parent` has executed what was sent."""
        own = parent.votes[VOTE_ACCOUNT]
        for vote in self._votes:
            if own.last_voted_slot is not None and vote.slots[-1] <= own.last_voted_slot:
                continue  # VoteTooOld
            answer = check_proposal(own, vote, self._hashes[parent.slot])
            if answer.error is None:
                own = replace(own, lockouts=answer.lockouts, root=answer.root, last_timestamp=answer.last_timestamp)
                self._world.counts["vote program: accepted"] += 1
            elif answer.error not in ELSEWHERE:
                self.faults.append(f"the vote program: {answer.error.name}: {answer.reason}")
            else:
                self._world.counts[f"vote program: {answer.error.name}"] += 1
        self._votes = self._votes[-PENDING:]
        return own

    @staticmethod
    def _account(state: TowerVoteState) -> VoteAccountState:
        return VoteAccountState(b"n" * 32, (), tuple(Lockout(*vote) for vote in state.votes), state.root)
