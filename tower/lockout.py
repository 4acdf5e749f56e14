"""The lockout stack: what a vote promises, and when it stops binding.

A vote for a slot is a promise not to vote on any fork without that slot for a while. Each further vote on top doubles the
promise of every vote below it that is confirmed consecutively, so that going back costs more the deeper it goes. A vote with
confirmation count `c` binds up to and including slot `slot + 2**c`.

Votes 1, 2, 3, 4, all on one fork:

=====  ==================  =======  ====================
slot   confirmation count  lockout  last locked out slot
=====  ==================  =======  ====================
4      1                   2        6
3      2                   4        7
2      3                   8        10
1      4                   16       17
=====  ==================  =======  ====================

>>> state = TowerVoteState()
>>> for slot in (1, 2, 3, 4):
...     _ = state.process_vote(slot)
>>> state.votes
[(1, 4), (2, 3), (3, 2), (4, 1)]

Then a vote for 9. Expiry runs *from the top* and stops at the first vote still locked: 4 (until 6) and 3 (until 7) go, 2 (until
10) stays. Nothing doubles, for 1 and 2 already counted two votes above them:

>>> _ = state.process_vote(9)
>>> state.votes
[(1, 4), (2, 3), (9, 1)]

Votes for 10 and 11 deepen the new top; the old ones grow only once the stack is higher than it ever was above them:

>>> _ = state.process_vote(10); state.votes
[(1, 4), (2, 3), (9, 2), (10, 1)]
>>> _ = state.process_vote(11); state.votes
[(1, 5), (2, 4), (9, 3), (10, 2), (11, 1)]

Since expiry stops at the first survivor, a vote that has expired can stay below one that has not: here 2 binds until 10
and 9 until 17, and both are still there for a vote at 13, where 2 alone would be gone.

>>> under = TowerVoteState([(2, 3), (9, 2)])
>>> _ = under.process_vote(13); under.votes
[(2, 3), (9, 2), (13, 1)]

The 32nd vote in a row roots the oldest: it can never be rolled back, and its fork is the only one there is.

>>> long = TowerVoteState()
>>> [long.process_vote(slot) for slot in range(1, 33)][-1], long.root, long.votes[0], len(long)
(1, 1, (2, 31), 31)

Source of the rules: `process_next_vote_slot`, `pop_expired_votes` and `double_lockouts` of the vote program (the 31 bits of
`MAX_LOCKOUT_HISTORY`, `INITIAL_LOCKOUT` 2). The compiled implementation is `tower._fast`, its readable twin
`tower._reference`; this module is their face and the home of the invariants that S5 speaks of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tower._fast import TowerVoteState
from tower.errors import InvariantViolation
from tower.types import MAX_LOCKOUT_HISTORY, Lockout, Tower, VoteKind

__all__ = ["TowerVoteState", "adopt", "malformed", "require_well_formed"]


def malformed(lockouts: Sequence[tuple[int, int]], root: int | None) -> str | None:
    """What is wrong with a stack, or `None` if it is well formed: the rules of the vote program's own check.

    >>> malformed([(1, 2), (2, 1)], root=0)
    >>> malformed([(2, 1), (1, 2)], root=0)
    'slots must rise: 1 follows 2'
    """
    if len(lockouts) > MAX_LOCKOUT_HISTORY:
        return f"{len(lockouts)} votes, at most {MAX_LOCKOUT_HISTORY} are possible"
    previous, count, until = -1, MAX_LOCKOUT_HISTORY + 1, 1 << 64  # plain numbers: this is on the way of every vote
    for slot, confirmation_count in lockouts:
        if not 1 <= confirmation_count <= MAX_LOCKOUT_HISTORY:
            return f"slot {slot} has confirmation count {confirmation_count}, not 1 to {MAX_LOCKOUT_HISTORY}"
        if root is not None and slot <= root and root != 0:
            return f"slot {slot} is not above the root {root}"
        if slot <= previous:
            return f"slots must rise: {slot} follows {previous}"
        if confirmation_count >= count:
            return f"confirmation counts must fall: slot {slot} has {confirmation_count} above {Lockout(previous, count)}"
        if slot > until:
            return f"slot {slot} lies behind the lockout of slot {previous}, which should have been popped"
        previous, count, until = slot, confirmation_count, slot + (1 << confirmation_count)
    return None


def require_well_formed(tower: Tower) -> None:
    """S5: called at every load and before every store. Raises `InvariantViolation` that says what is wrong."""
    problem = malformed(tower.lockouts, tower.root)
    last = tower.last_vote
    if problem is None and tower.lockouts and last.kind is not VoteKind.VOTE and last.slots:
        if last.lockouts != tower.lockouts:
            problem = "the last vote holds other lockouts than the tower"
        elif last.root != tower.root:
            problem = f"the last vote names root {last.root}, the tower {tower.root}"
    if problem is None and tower.lockouts and last.slots and last.slots[-1] != tower.lockouts[-1].slot:
        problem = f"the last vote is for slot {last.slots[-1]}, the newest of the tower is {tower.lockouts[-1].slot}"
    if problem is None and not 0.0 < tower.threshold_size < 1.0:
        problem = f"threshold size {tower.threshold_size} is no fraction"
    if problem is not None:
        raise InvariantViolation(f"malformed tower: {problem}")


def adopt(state: TowerVoteState, landed: Iterable[tuple[int, int]], landed_root: int | None) -> TowerVoteState:
    """The stack after seeing what *landed* in the vote account of a frozen bank.

    Where the account's newest vote is newer than ours it replaces our votes and root; a root of ours that is newer stays, and
    votes at or below it go. Otherwise our own stack comes back unchanged (a copy).

    >>> adopt(TowerVoteState([(1, 1)]), [(5, 2), (6, 1)], 4)
    TowerVoteState([(5, 2), (6, 1)], root=4)
    >>> adopt(TowerVoteState([(7, 1)]), [(5, 2), (6, 1)], 4)
    TowerVoteState([(7, 1)], root=None)

    Source: "tower sync from bank" in ReplayStage::compute_bank_stats.
    """
    landed = list(landed)
    if not landed or (state.last_voted_slot is not None and landed[-1][0] <= state.last_voted_slot):
        return state.copy()
    if state.root is not None and (landed_root is None or landed_root < state.root):
        return TowerVoteState([vote for vote in landed if vote[0] > state.root], state.root)
    return TowerVoteState(landed, landed_root)
