"""What a landed vote earns: credits for rooted votes, more for those that landed soon.

Each vote in an account carries its *latency*: the slots between it and the bank it landed in, at most 255, kept for as
long as the vote stays in the stack. When a vote is rooted it earns

==============  ======================
latency         credits
==============  ======================
0 (unknown)     1
1, 2            16
n > 2           16 - (n - 2), at least 1
==============  ======================

>>> [credits_for(latency) for latency in (0, 1, 2, 3, 10, 17, 18, 255)]
[1, 16, 16, 15, 8, 1, 1, 1]

Credits add up per epoch as `(epoch, credits so far, credits before this epoch)`, the newest 64 epochs; an epoch that
earned nothing gives its place to the next.

>>> add_credits([(3, 100, 90)], 4, 16)
[(3, 100, 90), (4, 116, 100)]
>>> add_credits([(3, 100, 100)], 4, 16)
[(4, 116, 100)]

Source: credits_for_vote_at_index and increment_credits of the vote program, with VOTE_CREDITS_MAXIMUM_PER_SLOT 16 (8 before
2024) and VOTE_CREDITS_GRACE_SLOTS 2. `tests/oracle/test_credits.py` holds this against the real program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tower._fast import TowerVoteState
from tower.proposal import ProposalResult, apply_vote, check_proposal, votable_slots
from tower.types import LastVote, VoteAccountState, VoteKind

__all__ = ["CREDITS_MAX", "EPOCHS_MAX", "GRACE_SLOTS", "LATENCY_MAX", "add_credits", "credits_for", "land"]

CREDITS_MAX = 16  # VOTE_CREDITS_MAXIMUM_PER_SLOT
GRACE_SLOTS = 2  # VOTE_CREDITS_GRACE_SLOTS
LATENCY_MAX = 255
EPOCHS_MAX = 64  # MAX_EPOCH_CREDITS_HISTORY

EpochCredits = Sequence[tuple[int, int, int]]


def credits_for(latency: int) -> int:
    """What a vote with that latency earns once it is rooted; see the table."""
    if latency == 0:
        return 1
    return max(1, CREDITS_MAX - max(0, latency - GRACE_SLOTS))


def add_credits(epochs: EpochCredits, epoch: int, earned: int) -> list[tuple[int, int, int]]:
    """`epochs` after `earned` more credits in `epoch`, oldest first."""
    found = list(epochs) or [(epoch, 0, 0)]
    last_epoch, so_far, before = found[-1]
    if epoch != last_epoch:
        if so_far != before:
            found.append((epoch, so_far, so_far))
        else:
            found[-1] = (epoch, so_far, before)
        del found[:-EPOCHS_MAX]
    last_epoch, so_far, before = found[-1]
    found[-1] = (last_epoch, so_far + earned, before)
    return found


def land(
    account: VoteAccountState, vote: LastVote, slot_hashes: Sequence[tuple[int, bytes]], slot: int, epoch: int
) -> tuple[ProposalResult, VoteAccountState]:
    """What the vote program makes of `vote` in the bank of `slot` and `epoch`: its answer, and the account afterwards.

    Votes, root and timestamp are `tower.proposal`'s; this adds latencies and credits. A refused vote changes nothing.
    """
    legacy = vote.kind is VoteKind.VOTE
    result = (apply_vote if legacy else check_proposal)(account, vote, slot_hashes)
    if not result.accepted:
        return result, account
    known = dict(zip((landed.slot for landed in account.lockouts), account.latencies, strict=True))
    earned: list[int] = []  # one entry a time that the program adds credits
    if legacy:
        state = TowerVoteState(account.lockouts, account.root)
        for voted in votable_slots(account, vote, slot_hashes):
            if state.last_voted_slot is None or voted > state.last_voted_slot:
                known[voted] = min(LATENCY_MAX, max(0, slot - voted))
            rooted = state.process_vote(voted)
            if rooted is not None:
                earned.append(credits_for(known[rooted]))
    elif result.root is not None and result.root != account.root:
        earned = [sum(credits_for(latency) for voted, latency in known.items() if voted <= result.root)]
    credits = list(account.epoch_credits)
    for amount in earned:
        credits = add_credits(credits, epoch, amount)
    latencies = tuple(known.get(landed.slot, min(LATENCY_MAX, max(0, slot - landed.slot))) for landed in result.lockouts)
    after = replace(
        account,
        lockouts=result.lockouts,
        root=result.root,
        last_timestamp=result.last_timestamp,
        epoch_credits=tuple(credits),
        latencies=latencies,
    )
    return result, after
