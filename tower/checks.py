"""May we vote for this bank? Each check answers with a value: what was compared, and a named reason.

A check never raises for a "no", and never looks at a clock, a store or the network. `observed` and `required` are the two
numbers that were compared (stakes in lamports, slots as slots). Stakes are compared as the clients on the cluster do:
IEEE doubles, strictly greater.

>>> check_recent(TowerVoteState([(5, 1)]), 5).reason
'slot 5 is not newer than the last vote 5'

Sources: core/src/consensus.rs (is_recent, is_locked_out, check_vote_stake_thresholds,
make_check_switch_threshold_decision, collect_vote_lockouts) of solana-labs v1.17 and Agave.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple

from tower._fast import TowerVoteState
from tower._tree import LockedOut
from tower.forkchoice import ForkChoice
from tower.types import FrozenBank

__all__ = [
    "SHALLOW_THRESHOLDS",
    "SUPERMINORITY_THRESHOLD",
    "SWITCH_FORK_THRESHOLD",
    "Check",
    "SwitchDecision",
    "check_can_sign",
    "check_lockout",
    "check_propagation",
    "check_recent",
    "check_switch",
    "check_thresholds",
    "stake_voted_for",
]

SWITCH_FORK_THRESHOLD = 0.38
SUPERMINORITY_THRESHOLD = 1 / 3
SHALLOW_THRESHOLDS = ((4, SWITCH_FORK_THRESHOLD), (5, SWITCH_FORK_THRESHOLD))


class Check(NamedTuple):
    """One question and its answer; `reason` says why not, and is empty when passed.

    One that is not `blocking` only warns: it is reported with the decision and does not keep us from voting.
    """  # a named tuple, for it is made several times for each vote, and costs a third of a frozen dataclass

    name: str
    passed: bool
    observed: float = 0
    required: float = 0
    reason: str = ""
    blocking: bool = True

    @property
    def refuses(self) -> bool:
        return self.blocking and not self.passed


CAN_SIGN = Check("can-sign", True)
MAY_SWITCH = Check("switch", True)  # same fork, or none to leave: no stake was compared
PROPAGATED = Check("propagation", True)  # vacuous


class SwitchDecision(enum.Enum):
    """How a vote for the candidate relates to the fork of our last vote."""

    SAME_FORK = "same fork"
    SWITCH_PROOF = "enough stake is locked out on other forks"
    FAILED = "not enough stake is locked out on other forks"
    FAILED_DUPLICATE_ROLLBACK = "the last vote is on a duplicate block, and the candidate is below it on the same fork"


def check_recent(state: TowerVoteState, slot: int) -> Check:
    """The candidate must be newer than the last vote, or than the root where there is none."""
    newest = state.last_voted_slot if len(state) else state.root
    if state.is_recent(slot):
        return Check("recent", True, slot, -1 if newest is None else newest)
    return Check("recent", False, slot, newest or 0, f"slot {slot} is not newer than the last vote {newest}")


def check_lockout(state: TowerVoteState, slot: int, forks: ForkChoice) -> Check:
    """No vote that would still bind at the candidate may be off its fork, and the root must be on it."""
    ancestors = forks.ancestors(slot)
    if not state.is_locked_out(slot, ancestors):
        return Check("lockout", True, slot)
    after = state.copy()
    after.process_vote(slot)
    before = dict(state.votes)
    for voted, _ in after.votes:
        if voted != slot and voted not in ancestors:
            until = voted + (1 << before.get(voted, 0))
            return Check("lockout", False, slot, until, f"the vote for {voted} on another fork binds until {until}")
    if after.root is not None and after.root != slot and after.root not in ancestors:
        return Check("lockout", False, slot, after.root, f"the root {after.root} is not known to be on this fork")
    return Check("lockout", False, slot, state.last_voted_slot or 0, f"slot {slot} is not newer than the last vote")


def stake_voted_for(bank: FrozenBank, slot: int, forks: ForkChoice) -> tuple[int, int]:
    """`(stake, total)` in lamports: how much of the bank's stake has, as this bank knows, voted for `slot` or beyond.

    An account counts with the newest vote that would be left under a vote for the bank itself.
    """
    votes = forks.votes_in(bank)
    return _stake_beyond(votes.newest_under(bank.slot), slot, forks), votes.total_stake


def _stake_beyond(newest: Mapping[int, int], slot: int, forks: ForkChoice) -> int:
    beyond = 0
    for voted, stake in newest.items():
        if forks.is_ancestor(slot, voted):  # of a slot that is not in the tree nothing is known
            beyond += stake
    return beyond


def check_thresholds(
    state: TowerVoteState, bank: FrozenBank, forks: ForkChoice, threshold_depth: int, threshold_size: float
) -> list[Check]:
    """At some depths below the candidate, enough stake must have followed what we voted there.

    The tower's own depth and size block the vote; the shallow ones (`SHALLOW_THRESHOLDS`) only warn, unless they are as
    deep as the tower's. A check passes where the stack is not that deep, and where this vote would not deepen that lockout.
    """
    after = state.copy()
    after.process_vote(bank.slot)
    wanted = [pair for pair in SHALLOW_THRESHOLDS if pair[0] != threshold_depth] + [(threshold_depth, threshold_size)]
    votes = forks.votes_in(bank)
    newest = votes.newest_under(bank.slot)  # one tally for all depths
    return [
        _check_threshold(state, after, newest, votes.total_stake, forks, depth, size, blocking=depth >= threshold_depth)
        for depth, size in wanted
    ]


def _check_threshold(
    state: TowerVoteState,
    after: TowerVoteState,
    newest: Mapping[int, int],
    total: int,
    forks: ForkChoice,
    depth: int,
    size: float,
    blocking: bool,
) -> Check:
    name = f"threshold at depth {depth}"
    deep = after.nth_recent(depth)
    if deep is None:
        return Check(name, True, blocking=blocking)
    share = _stake_beyond(newest, deep[0], forks) / total if total else 0.0
    if share > size or deep in state.votes:
        return Check(name, True, share, size, blocking=blocking)
    reason = f"{share:.3f} of the stake follows slot {deep[0]}, {depth} deep; more than {size:.3f} must"
    return Check(name, False, share, size, reason, blocking)


def check_switch(
    last_voted_slot: int | None,
    bank: FrozenBank,
    forks: ForkChoice,
    stray: bool = False,
    last_voted_hash: bytes | None = None,
) -> tuple[SwitchDecision, Check]:
    """Leaving the fork of the last vote needs more than 38 % of the stake locked out on forks other than it.

    Counted are the accounts with a vote on another fork that still binds at our last vote, and those whose newest gossip
    vote is newer than our last vote and on another fork. `stray`: the last vote was restored from a tower and its slot is
    unknown to this tree, so nothing is known of its ancestors.

    Where the block voted for (`last_voted_hash`) turned out to be a duplicate, and another version stands for its slot,
    leaving costs no proof; going back below it on its own fork is refused.
    """
    if last_voted_slot is not None and last_voted_hash is not None:
        bad = forks.invalid_ancestor(last_voted_slot, last_voted_hash)
        if bad is not None and bank.slot != last_voted_slot and forks.is_ancestor(bank.slot, last_voted_slot):
            reason = f"the last vote {last_voted_slot} is on the duplicate slot {bad}; slot {bank.slot} is below it"
            return SwitchDecision.FAILED_DUPLICATE_ROLLBACK, Check("switch", False, bad, 0, reason)
        if bad is not None and not forks.holds(last_voted_slot, last_voted_hash):
            return SwitchDecision.SWITCH_PROOF, MAY_SWITCH
    if last_voted_slot is None or forks.is_ancestor(last_voted_slot, bank.slot):
        return SwitchDecision.SAME_FORK, MAY_SWITCH
    if forks.is_ancestor(bank.slot, last_voted_slot):
        reason = f"slot {bank.slot} is an ancestor of the last vote {last_voted_slot}"
        return SwitchDecision.FAILED, Check("switch", False, 0.0, SWITCH_FORK_THRESHOLD, reason)
    if stray and bank.slot < last_voted_slot:
        reason = f"voting is suspended until the restored last vote {last_voted_slot} is passed"
        return SwitchDecision.FAILED, Check("switch", False, 0.0, SWITCH_FORK_THRESHOLD, reason)
    votes = forks.votes_in(bank)
    counted = LockedOut(votes)
    _add_landed(counted, last_voted_slot, bank, forks)
    _add_gossiped(counted, last_voted_slot, bank, forks)
    share = counted.stake(bank.stakes) / votes.total_stake if votes.total_stake else 0.0
    if share > SWITCH_FORK_THRESHOLD:
        return SwitchDecision.SWITCH_PROOF, Check("switch", True, share, SWITCH_FORK_THRESHOLD)
    reason = (
        f"{share:.3f} of the stake is locked out on other forks than the last vote {last_voted_slot}; "
        f"more than {SWITCH_FORK_THRESHOLD} must be to leave it"
    )
    return SwitchDecision.FAILED, Check("switch", False, share, SWITCH_FORK_THRESHOLD, reason)


def _proves(other: int, last_voted_slot: int, candidate: int, forks: ForkChoice) -> bool:
    """Whether votes on the fork of `other` say something about leaving the last vote for the candidate.

    Not on our own fork; and, where ours is known, not one that left ours only after the candidate's fork had: such votes
    still speak for a part of our fork that the candidate does not hold.
    """
    if other == last_voted_slot or forks.is_ancestor(last_voted_slot, other):
        return False
    if last_voted_slot not in forks:
        return True
    common = forks.common_ancestor(other, last_voted_slot)
    return common is not None and forks.is_ancestor(common, candidate)


def _add_landed(counted: LockedOut, last_voted_slot: int, candidate: FrozenBank, forks: ForkChoice) -> None:
    """Count the vote accounts with a landed vote on another fork that still binds at our last vote."""
    for leaf in forks.leaves():
        if _proves(leaf.slot, last_voted_slot, candidate.slot, forks):
            forks.add_locked_out(leaf, last_voted_slot, counted)


def _add_gossiped(counted: LockedOut, last_voted_slot: int, candidate: FrozenBank, forks: ForkChoice) -> None:
    """Count those whose newest gossip vote, for a frozen bank, is newer than our last vote and on another fork."""
    proves: dict[int, bool] = {}  # by slot: most voters name the same few
    for account, slot in forks.gossip_votes():
        if slot <= last_voted_slot or slot not in forks:
            continue
        if slot not in proves:
            proves[slot] = _proves(slot, last_voted_slot, candidate.slot, forks)
        if proves[slot]:
            counted.add_account(account)


def check_propagation(bank: FrozenBank, identity: bytes, forks: ForkChoice) -> Check:
    """Our newest leader slot on the candidate's fork must have reached more than a third of the stake.

    Vacuous where the candidate is our own block, or no block of ours is on its fork. An account has seen our block if its
    newest vote, landed or by gossip, is for the block or beyond.
    """
    if bank.leader == identity:
        return PROPAGATED
    own = forks.led_by(identity, bank.slot)
    if own is None:
        return PROPAGATED
    total = sum(bank.stakes.values())
    seen = sum(bank.stakes.get(account, 0) for account in forks.voted_at_or_beyond(own.slot))
    share = seen / total if total else 0.0
    if share > SUPERMINORITY_THRESHOLD:
        return Check("propagation", True, share, SUPERMINORITY_THRESHOLD)
    reason = f"our block {own.slot} has reached {share:.3f} of the stake; more than a third must have seen it"
    return Check("propagation", False, share, SUPERMINORITY_THRESHOLD, reason)


def check_can_sign(
    bank: FrozenBank, vote_account: bytes, identity: bytes, authorized_voters: frozenset[bytes]
) -> tuple[bytes | None, Check]:
    """Whether the bank lets this identity vote with this account: `(authorized voter, check)`.

    The account's node must be the identity (else we are a spare), and the key of its authorized voter for the bank's epoch
    must be loaded.
    """
    own = bank.votes.get(vote_account)
    if own is None:
        return None, Check("can-sign", False, reason="the vote account does not exist in this bank")
    if own.node_pubkey != identity:
        return None, Check("can-sign", False, reason="the vote account's node is another identity: this is a spare")
    voter = own.authorized_voter(bank.epoch)
    if voter is None:
        return None, Check("can-sign", False, bank.epoch, reason=f"no authorized voter for epoch {bank.epoch}")
    if voter not in authorized_voters:
        return None, Check("can-sign", False, bank.epoch, reason="the key of the authorized voter is not loaded")
    return voter, CAN_SIGN
