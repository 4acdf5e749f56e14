"""What the vote program says to a vote: the stack that it leaves in the account, or the exact error.

A vote for the cluster is a *proposal*: "this is my whole tower, replace what the account holds". The program trusts
nothing in it. It asks two questions, in this order:

1. **Is it about this fork?** Every proposed slot must be an ancestor of the bank that executes the vote. The bank knows
   its ancestors through the SlotHashes sysvar, newest first, at most 512 of them.
2. **Does it keep the promises in the account?** No vote may vanish while it binds, no confirmation count may fall, the
   root may not go back.

It decides what one vote does to one account in one bank. It does not decide who may vote (a missing signature of the
authorized voter ends earlier, as an instruction error), it computes no credits, and whether a vote is *wise* is the
business of `tower.checks`. Nothing here is needed to vote: the voter's own stack obeys these rules by construction, and
the tests hold it against this module and both against the real program.

The fork, first table. Rows are asked in this order, and the first that applies is the answer:

====  ====================================================  ================================================
step  condition                                             answer
====  ====================================================  ================================================
1     no lockouts                                           EmptySlots
2     newest slot <= newest slot in the account             VoteTooOld
3     SlotHashes is empty                                   SlotsMismatch
4     newest slot < oldest SlotHashes slot                  VoteTooOld
5     root < oldest SlotHashes slot                         root := newest account vote <= it, else account root
6     root newer than all of SlotHashes                     SlotsMismatch
7     root inside the range of SlotHashes, but absent       RootOnDifferentFork
8     for each slot, oldest first:
8a    . no SlotHashes entry is left above the last match    SlotsMismatch
8b    . not above the slot before it                        SlotsNotOrdered
8c    . older than all of SlotHashes                        kept if the account has it, else silently dropped
8d    . absent from the rest of SlotHashes                  SlotsMismatch
9     hash is not that of the newest slot                   SlotHashMismatch
====  ====================================================  ================================================

The promises, second table, on what the first one left:

====  ====================================================  ================================================
step  condition                                             answer
====  ====================================================  ================================================
1     more than 31 votes                                    TooManyVotes
2     root below the account's, or gone                     RootRollBack
3     for each vote, oldest first:
3a    . confirmation count 0                                ZeroConfirmations
3b    . confirmation count above 31                         ConfirmationTooLarge
3c    . slot <= root, unless the root is slot 0             SlotSmallerThanRoot
3d    . confirmation count not below the vote before        ConfirmationsNotOrdered
3e    . slot above the lockout of the vote before           NewVoteStateLockoutMismatch
4     for each account vote above the new root:
4a    . missing, but still binds at the next proposed slot  LockoutConflict
4b    . present with a higher confirmation count            ConfirmationRollBack
5     timestamp before the last, or another for its slot    TimestampTooOld
====  ====================================================  ================================================

Steps 4a and 4b walk the account's votes oldest first, and the first that fails is the answer. Then votes and root are
replaced wholesale: a tower that passes is accepted even if voting one by one could never have built it.

>>> account = VoteAccountState(bytes(32), lockouts=(Lockout(1, 3), Lockout(2, 2), Lockout(3, 1)))
>>> ancestors = [(slot, bytes([slot]) * 32) for slot in (9, 4, 3, 2, 1)]
>>> def tower(*lockouts, root=None, timestamp=None):
...     votes = tuple(Lockout(*lockout) for lockout in lockouts)
...     slots = tuple(vote.slot for vote in votes)
...     return LastVote(VoteKind.TOWER_SYNC, slots, votes, root, bytes([slots[-1]]) * 32, timestamp, bytes(32))

A vote for 9: 3 bound until 5 and 2 until 6, so both may be gone, and 1 (until 9) may not:

>>> check_proposal(account, tower((1, 3), (9, 1)), ancestors).votes
[(1, 3), (9, 1)]
>>> check_proposal(account, tower((9, 1)), ancestors)
ProposalResult(error=<VoteError.LockoutConflict: 6>, reason='slot 1 binds until 9, and 9 is proposed next', \
lockouts=(Lockout(slot=1, confirmation_count=3), Lockout(slot=2, confirmation_count=2), \
Lockout(slot=3, confirmation_count=1)), root=None, last_timestamp=BlockTimestamp(slot=0, timestamp=0))

Slot 5 was skipped on this fork, so a tower that holds it comes from another one. A slot older than all that the bank
remembers cannot be checked: the program drops it, unless the account has it already.

>>> check_proposal(account, tower((1, 4), (4, 2), (5, 1)), [(9, bytes(32)), *ancestors[1:]]).error
<VoteError.SlotsMismatch: 1>
>>> unknown = VoteAccountState(bytes(32))
>>> check_proposal(unknown, tower((1, 5), (3, 4), (4, 1)), ancestors[:3]).votes
[(3, 4), (4, 1)]

The older `Vote` instruction names only new slots, and the program steps the stack itself (`apply_vote`). Here 4 comes
first and deepens 1 and 2, so that 2 outlives the vote for 9 as well:

>>> vote = LastVote(VoteKind.VOTE, (4, 9), hash=bytes([9]) * 32)
>>> apply_vote(account, vote, ancestors).votes
[(1, 4), (2, 3), (9, 1)]

Source: check_and_filter_proposed_vote_state, process_new_vote_state, process_vote, check_slots_are_valid and
process_timestamp of the vote program (programs/vote/src/vote_state of Agave 4.1, the one that the property tests run
against; the rules are those of 1.17). The program asks a second time, between 3c and 3d, whether slots rise; after 8b
they do. AssertionFailed (20) stands where 1.17 panicked, and no input reaches it. The program looks at neither block id
nor switch proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from tower.errors import InvalidInput
from tower.lockout import TowerVoteState
from tower.types import MAX_LOCKOUT_HISTORY, BlockTimestamp, LastVote, Lockout, VoteAccountState, VoteKind

__all__ = ["ProposalResult", "VoteError", "apply_vote", "check_proposal", "votable_slots"]

SlotHashes = Sequence[tuple[int, bytes]]


class VoteError(IntEnum):
    """The custom errors of the vote program, with its names and numbers."""

    VoteTooOld = 0
    SlotsMismatch = 1
    SlotHashMismatch = 2
    EmptySlots = 3
    TimestampTooOld = 4
    TooSoonToReauthorize = 5
    LockoutConflict = 6
    NewVoteStateLockoutMismatch = 7
    SlotsNotOrdered = 8
    ConfirmationsNotOrdered = 9
    ZeroConfirmations = 10
    ConfirmationTooLarge = 11
    RootRollBack = 12
    ConfirmationRollBack = 13
    SlotSmallerThanRoot = 14
    TooManyVotes = 15
    VotesTooOldAllFiltered = 16
    RootOnDifferentFork = 17
    ActiveVoteAccountClose = 18
    CommissionUpdateTooLate = 19
    AssertionFailed = 20


@dataclass(frozen=True, slots=True)
class ProposalResult:
    """What the program answers, and what the account holds afterwards: after a refusal, what it held before.

    `error` is `None` for an accepted vote; `reason` names the numbers that were compared.
    """

    error: VoteError | None
    reason: str
    lockouts: tuple[Lockout, ...]
    root: int | None
    last_timestamp: BlockTimestamp

    @property
    def accepted(self) -> bool:
        return self.error is None

    @property
    def votes(self) -> list[tuple[int, int]]:
        """`[(slot, confirmation_count)]`, oldest first: the same shape as `TowerVoteState.votes`."""
        return [(lockout.slot, lockout.confirmation_count) for lockout in self.lockouts]


class _Refused(Exception):
    """A row of the tables applies. Never leaves this module: a refusal is a value."""

    def __init__(self, error: VoteError, reason: str) -> None:
        super().__init__(error, reason)
        self.error = error
        self.reason = reason


def check_proposal(account: VoteAccountState, vote: LastVote, slot_hashes: SlotHashes) -> ProposalResult:
    """What the program does with a full-tower vote (UpdateVoteState, CompactUpdateVoteState, TowerSync; Switch or not).

    `slot_hashes` is the sysvar as the executing bank has it: `(slot, bank hash)`, newest first (`decode_slot_hashes`).
    Raises `InvalidInput` for a `VoteKind.VOTE`, which is no proposal: see `apply_vote`.
    """
    if vote.kind is VoteKind.VOTE:
        raise InvalidInput("a Vote names slots, not a tower: use apply_vote")
    try:
        lockouts, root = _on_this_fork(account, vote, slot_hashes)
        _require_well_formed(lockouts, root, account.root)
        _require_promises_kept(account.lockouts, lockouts, root)
        stamp = _next_timestamp(account.last_timestamp, lockouts[-1].slot, vote.timestamp)
    except _Refused as refused:
        return _unchanged(account, refused)
    return ProposalResult(None, "", tuple(lockouts), root, stamp)


def apply_vote(account: VoteAccountState, vote: LastVote, slot_hashes: SlotHashes) -> ProposalResult:
    """What the program does with a legacy Vote or VoteSwitch: the slots step the account's stack one by one.

    ====  =====================================================  ======================
    step  condition                                              answer
    ====  =====================================================  ======================
    1     no slots                                               EmptySlots
    2     slots older than all of SlotHashes are dropped; none   VotesTooOldAllFiltered
          is left
    3     no slot is newer than the account's newest             VoteTooOld
    4     a newer slot is absent from the rest of SlotHashes;    SlotsMismatch
          or any slot follows the match of the newest entry
    5     hash is not that of the last slot found                SlotHashMismatch
    6     timestamp (of the largest slot named), as above        TimestampTooOld
    ====  =====================================================  ======================

    Slots at or below the account's newest are skipped wherever they stand. Clusters with `deprecate_legacy_vote_ixs`
    refuse the whole instruction. Raises `InvalidInput` for a full-tower vote.

    >>> apply_vote(VoteAccountState(bytes(32)), LastVote(VoteKind.VOTE, (7,)), [(8, bytes(32)), (6, bytes(32))]).reason
    'slot 7 is not among the SlotHashes left'
    """
    if vote.kind is not VoteKind.VOTE:
        raise InvalidInput(f"a {vote.kind.value} is a whole tower: use check_proposal")
    try:
        slots = votable_slots(account, vote, slot_hashes)
        state = TowerVoteState(account.lockouts, account.root)
        for slot in slots:
            state.process_vote(slot)
        stamp = _next_timestamp(account.last_timestamp, max(vote.slots), vote.timestamp)
    except _Refused as refused:
        return _unchanged(account, refused)
    return ProposalResult(None, "", tuple(Lockout(*entry) for entry in state.votes), state.root, stamp)


def _unchanged(account: VoteAccountState, refused: _Refused) -> ProposalResult:
    return ProposalResult(refused.error, refused.reason, account.lockouts, account.root, account.last_timestamp)


# ------------------------------------------------------------------------------------------------ first table: the fork


def _on_this_fork(
    account: VoteAccountState, vote: LastVote, slot_hashes: SlotHashes
) -> tuple[list[Lockout], int | None]:
    """The proposal's lockouts and root after the slot-hash filter."""
    proposed = vote.lockouts
    if not proposed:
        raise _Refused(VoteError.EmptySlots, "the proposal holds no votes")
    newest = proposed[-1].slot
    if account.last_voted_slot is not None and newest <= account.last_voted_slot:
        raise _Refused(VoteError.VoteTooOld, f"slot {newest} is not above the account's {account.last_voted_slot}")
    if not slot_hashes:
        raise _Refused(VoteError.SlotsMismatch, "SlotHashes is empty")
    oldest_known = slot_hashes[-1][0]
    if newest < oldest_known:
        raise _Refused(VoteError.VoteTooOld, f"slot {newest} is older than all SlotHashes, from {oldest_known} on")
    root = vote.root
    if root is not None and root < oldest_known:
        # It cannot be checked, so the newest thing that the account vouches for stands in for it.
        root = next((landed.slot for landed in reversed(account.lockouts) if landed.slot <= root), account.root)

    ancestors = slot_hashes[::-1]  # oldest first, as the tower
    at = 0
    if root is not None:
        at = _seek(ancestors, at, root)
        if at == len(ancestors):
            raise _Refused(VoteError.SlotsMismatch, f"root {root} is newer than all SlotHashes")
        if ancestors[at][0] != root and at > 0:
            raise _Refused(VoteError.RootOnDifferentFork, f"root {root} is not among the SlotHashes")
    voted = {landed.slot for landed in account.lockouts}
    kept: list[Lockout] = []
    previous: int | None = None
    for lockout in proposed:
        slot = lockout.slot
        if at == len(ancestors):
            raise _Refused(VoteError.SlotsMismatch, f"no SlotHashes are left for slot {slot}")
        if previous is not None and slot <= previous:
            raise _Refused(VoteError.SlotsNotOrdered, f"slot {slot} follows {previous}")
        previous = slot
        at = _seek(ancestors, at, slot)
        if at < len(ancestors) and ancestors[at][0] == slot:
            kept.append(lockout)
            at += 1
        elif at > 0:
            raise _Refused(VoteError.SlotsMismatch, f"slot {slot} is not among the SlotHashes left")
        elif slot in voted:
            kept.append(lockout)
    # The newest slot is not older than all of SlotHashes, so the walk ended on its entry.
    if ancestors[at - 1][1] != vote.hash:
        raise _Refused(VoteError.SlotHashMismatch, f"the bank hash of slot {newest} is another one")
    return kept, root


def _seek(ancestors: SlotHashes, at: int, slot: int) -> int:
    """The first place from `at` on whose slot is not below `slot`; the length where there is none."""
    while at < len(ancestors) and ancestors[at][0] < slot:
        at += 1
    return at


def votable_slots(account: VoteAccountState, vote: LastVote, slot_hashes: SlotHashes) -> list[int]:
    """The slots of a legacy vote that the stack is stepped with."""
    if not vote.slots:
        raise _Refused(VoteError.EmptySlots, "the vote names no slots")
    oldest_known = slot_hashes[-1][0] if slot_hashes else 0
    slots = [slot for slot in vote.slots if slot >= oldest_known]
    if not slots:
        raise _Refused(VoteError.VotesTooOldAllFiltered, f"all are older than all SlotHashes, from {oldest_known} on")
    newest = account.last_voted_slot
    if not slot_hashes or (newest is not None and max(slots) <= newest):
        raise _Refused(VoteError.VoteTooOld, f"no slot is above the account's {newest}")
    ancestors = slot_hashes[::-1]
    at = 0
    for slot in slots:
        if at == len(ancestors):
            raise _Refused(VoteError.SlotsMismatch, f"no SlotHashes are left for slot {slot}")
        if newest is not None and slot <= newest:
            continue
        at = _seek(ancestors, at, slot)
        if at == len(ancestors) or ancestors[at][0] != slot:
            raise _Refused(VoteError.SlotsMismatch, f"slot {slot} is not among the SlotHashes left")
        at += 1
    if ancestors[at - 1][1] != vote.hash:
        raise _Refused(VoteError.SlotHashMismatch, f"the bank hash of slot {ancestors[at - 1][0]} is another one")
    return slots


# ------------------------------------------------------------------------------------------ second table: the promises


def _require_well_formed(lockouts: Sequence[Lockout], root: int | None, account_root: int | None) -> None:
    """Steps 1 to 3. The filter has seen to it that the slots rise."""
    if len(lockouts) > MAX_LOCKOUT_HISTORY:
        raise _Refused(VoteError.TooManyVotes, f"{len(lockouts)} votes, at most {MAX_LOCKOUT_HISTORY} are possible")
    if account_root is not None and (root is None or root < account_root):
        raise _Refused(VoteError.RootRollBack, f"root {root} is below the account's {account_root}")
    previous: Lockout | None = None
    for lockout in lockouts:
        slot, confirmation_count = lockout
        if confirmation_count == 0:
            raise _Refused(VoteError.ZeroConfirmations, f"slot {slot} has confirmation count 0")
        if confirmation_count > MAX_LOCKOUT_HISTORY:
            raise _Refused(VoteError.ConfirmationTooLarge, f"slot {slot} has confirmation count {confirmation_count}")
        if root and slot <= root:  # slot 0 as root binds nothing: empty towers were once sent with it
            raise _Refused(VoteError.SlotSmallerThanRoot, f"slot {slot} is not above the root {root}")
        if previous is not None:
            if confirmation_count >= previous.confirmation_count:
                raise _Refused(
                    VoteError.ConfirmationsNotOrdered,
                    f"slot {slot} has confirmation count {confirmation_count}, slot {previous.slot} below it "
                    f"{previous.confirmation_count}",
                )
            if slot > previous.last_locked_out_slot:
                raise _Refused(
                    VoteError.NewVoteStateLockoutMismatch,
                    f"slot {slot} lies behind the lockout of slot {previous.slot}, {previous.last_locked_out_slot}",
                )
        previous = lockout


def _require_promises_kept(landed: Sequence[Lockout], lockouts: Sequence[Lockout], root: int | None) -> None:
    """Both stacks rise, so one walk over the account's votes finds for each the first proposed one not below it."""
    at = 0
    for vote in landed:
        if root is not None and vote.slot <= root:
            continue
        while at < len(lockouts) and lockouts[at].slot < vote.slot:
            at += 1
        if at == len(lockouts):
            return
        proposed = lockouts[at]
        if proposed.slot > vote.slot and vote.last_locked_out_slot >= proposed.slot:
            raise _Refused(
                VoteError.LockoutConflict,
                f"slot {vote.slot} binds until {vote.last_locked_out_slot}, and {proposed.slot} is proposed next",
            )
        if proposed.slot == vote.slot and proposed.confirmation_count < vote.confirmation_count:
            raise _Refused(
                VoteError.ConfirmationRollBack,
                f"slot {vote.slot} has confirmation count {vote.confirmation_count}, proposed is "
                f"{proposed.confirmation_count}",
            )


def _next_timestamp(last: BlockTimestamp, slot: int, timestamp: int | None) -> BlockTimestamp:
    """Vote timestamps never go back, and one slot has one timestamp (slot 0, where accounts start, aside)."""
    if timestamp is None:
        return last
    new = BlockTimestamp(slot, timestamp)
    if slot < last.slot or timestamp < last.timestamp or (slot == last.slot != 0 and new != last):
        raise _Refused(VoteError.TimestampTooOld, f"{tuple(new)} after {tuple(last)}, as (slot, timestamp)")
    return new
