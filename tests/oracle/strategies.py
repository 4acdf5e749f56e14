"""Chains, accounts and votes for the oracle tests: mostly legal, then bent in every way that we can name.

Small integers and short lists come first everywhere, so that a failure shrinks to a short chain with one bend in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from tests.support.litesvm import new_account
from tower._reference import TowerVoteState
from tower.types import BlockTimestamp, LastVote, Lockout, VoteAccountState, VoteKind

CHAIN_LENGTHS = (2, 5, 12, 34, 50, 80, 120)  # drawn evenly, so that deep stacks are as common as short ones
U64_MAX = 2**64 - 1
BASES = (1, 0, 1_000, 2**40, U64_MAX - 2**32, U64_MAX - 30_000)  # the last ones: lockouts saturate
GAPS = st.sampled_from((1, 2, 3, 5, 8, 17, 40, 200))
SlotHashes = list[tuple[int, bytes]]


def bank_hash(slot: int) -> bytes:
    return slot.to_bytes(8, "little") + b"bank hash of that slot.."


@st.composite
def chains(draw: st.DrawFn) -> list[int]:
    """The slots of one fork, oldest first. The gaps repeat a short pattern."""
    base = draw(st.sampled_from(BASES))
    pattern = draw(st.lists(GAPS, min_size=1, max_size=6))
    length = draw(st.sampled_from(CHAIN_LENGTHS))
    slots = itertools.accumulate(itertools.islice(itertools.cycle(pattern), length - 1), initial=base)
    return [slot for slot in slots if slot < U64_MAX]


@st.composite
def windows(draw: st.DrawFn, chain: Sequence[int]) -> SlotHashes:
    """SlotHashes over the chain: whole as a rule, else without its newest or oldest entries, with holes, or empty."""
    slots = list(chain)
    bend = draw(st.integers(0, 15))
    if bend == 1:
        slots = slots[draw(st.integers(1, len(slots))) :]
    elif bend == 2:
        slots = slots[: -draw(st.integers(1, min(3, len(slots))))]
    elif bend == 3:
        for _ in range(min(draw(st.integers(1, 4)), len(slots))):
            slots.pop(draw(st.integers(0, len(slots) - 1)))
    elif bend == 4 and draw(st.booleans()):
        slots = []
    return [(slot, bank_hash(slot)) for slot in reversed(slots)]


@st.composite
def stacks_on(draw: st.DrawFn, slots: Sequence[int]) -> TowerVoteState:
    """A stack with votes on `slots`: stepped one by one (legal), or any that is ordered."""
    if not slots or draw(st.integers(0, 3)):
        state = TowerVoteState(root=draw(st.none() | st.just(max(slots[0] - 1, 0)) if slots else st.none()))
        stride = draw(st.integers(1, 4))
        for slot in slots[::stride]:
            if state.root is None or slot > state.root:
                state.process_vote(slot)
        return state
    voted = sorted(draw(st.sets(st.sampled_from(slots), max_size=31)))
    counts = sorted(draw(st.sets(st.integers(1, 31), min_size=len(voted), max_size=len(voted))), reverse=True)
    below = voted[0] if voted else slots[-1]
    root = draw(st.none() | st.integers(max(below - 300, 0), below - 1)) if below else None
    return TowerVoteState(zip(voted, counts, strict=True), root)


@st.composite
def accounts_on(draw: st.DrawFn, slots: Sequence[int]) -> VoteAccountState:
    state = draw(stacks_on(slots))
    newest = state.last_voted_slot or 0
    stamp = BlockTimestamp(max(newest - draw(st.integers(0, 2)), 0), draw(st.integers(0, 3)))
    return new_account(
        lockouts=tuple(Lockout(*vote) for vote in state.votes),
        root=state.root,
        last_timestamp=draw(st.sampled_from((BlockTimestamp(), stamp))),
    )


# ---------------------------------------------------------------------------------------------------------- proposals


@dataclass
class Draft:
    """A proposal under mutation."""

    lockouts: list[Lockout]
    root: int | None
    hash: bytes
    timestamp: int | None
    chain: list[int]
    pool: list[int]  # slots worth trying: on the chain, beside it, in the account


def drop(draw: st.DrawFn, draft: Draft) -> None:
    if len(draft.lockouts) > 1:
        draft.lockouts.pop(draw(st.integers(0, len(draft.lockouts) - 1)))


def add(draw: st.DrawFn, draft: Draft) -> None:
    new = Lockout(draw(st.sampled_from(draft.pool)), draw(st.integers(1, 31)))
    at = sum(lockout.slot < new.slot for lockout in draft.lockouts)
    draft.lockouts.insert(draw(st.sampled_from((at, 0, len(draft.lockouts)))), new)


def fit_in(draw: st.DrawFn, draft: Draft) -> None:
    """Add a slot with a count that keeps the order: a tower that voting one by one could not have built."""
    slot = draw(st.sampled_from(draft.pool))
    at = sum(lockout.slot < slot for lockout in draft.lockouts)
    low = draft.lockouts[at].confirmation_count if at < len(draft.lockouts) else 0
    high = draft.lockouts[at - 1].confirmation_count if at else 32
    if low + 1 < high:
        draft.lockouts.insert(at, Lockout(slot, draw(st.integers(low + 1, min(high, 33) - 1))))


def move(draw: st.DrawFn, draft: Draft) -> None:
    if draft.lockouts:
        at = draw(st.integers(0, len(draft.lockouts) - 1))
        draft.lockouts[at] = draft.lockouts[at]._replace(slot=draw(st.sampled_from(draft.pool)))


def swap(draw: st.DrawFn, draft: Draft) -> None:
    if len(draft.lockouts) > 1:
        at = draw(st.integers(0, len(draft.lockouts) - 2))
        draft.lockouts[at], draft.lockouts[at + 1] = draft.lockouts[at + 1], draft.lockouts[at]


def recount(draw: st.DrawFn, draft: Draft) -> None:
    if draft.lockouts:
        at = draw(st.integers(0, len(draft.lockouts) - 1))
        count = draft.lockouts[at].confirmation_count
        new = draw(st.sampled_from((max(count - 1, 0), count + 1, 0, 31, 32, 255, 1)))
        draft.lockouts[at] = draft.lockouts[at]._replace(confirmation_count=new)


def cut(draw: st.DrawFn, draft: Draft) -> None:
    """Keep the newest few only."""
    draft.lockouts = draft.lockouts[-draw(st.integers(1, 4)) :]


def empty(draw: st.DrawFn, draft: Draft) -> None:
    draft.lockouts = []


def pile(draw: st.DrawFn, draft: Draft) -> None:
    """The last slots of the chain, each with one confirmation less than the one before, and perhaps too many of them."""
    slots = draft.chain[-draw(st.sampled_from((2, 1, 8, 31, 32, 33))) :: draw(st.integers(1, 2))]
    above = draw(st.sampled_from((0, 1, 4)))
    draft.lockouts = [Lockout(slot, above + len(slots) - at) for at, slot in enumerate(slots)]


def renumber(draw: st.DrawFn, draft: Draft) -> None:
    """The same slots, or every other one, with the lowest counts that fall: less than the account holds."""
    kept = draft.lockouts[:: -draw(st.integers(1, 2))]
    draft.lockouts = [Lockout(vote.slot, at + 1) for at, vote in enumerate(kept)][::-1]


def unroot(draw: st.DrawFn, draft: Draft) -> None:
    draft.root = None


def reroot(draw: st.DrawFn, draft: Draft) -> None:
    near = [draft.root] if draft.root is not None else []
    beside = [max(root + step, 0) for root in near for step in (-1, 1)]
    voted = [lockout.slot for lockout in draft.lockouts]
    draft.root = draw(st.sampled_from([None, 0, *beside, *voted, *draft.pool]))


def rehash(draw: st.DrawFn, draft: Draft) -> None:
    draft.hash = draw(st.sampled_from([bytes(32), *map(bank_hash, draft.pool)]))


def restamp(draw: st.DrawFn, draft: Draft) -> None:
    draft.timestamp = draw(st.integers(0, 3) | st.sampled_from((-1, -(2**63), 2**63 - 1)))


# as often as they are named: what gets far into the tables more often than what ends at its first row
MUTATIONS: tuple[Callable[[st.DrawFn, Draft], None], ...] = (
    drop, drop, drop, add, fit_in, fit_in, move, swap, empty, rehash, restamp, cut, cut, pile, pile, reroot, reroot,
    unroot, renumber, renumber, recount, recount, recount, recount,
)  # fmt: skip
FULL_TOWERS = (VoteKind.TOWER_SYNC, VoteKind.COMPACT_VOTE_STATE_UPDATE, VoteKind.VOTE_STATE_UPDATE)


@dataclass(frozen=True)
class Case:
    """One proposal against one account in one bank; printed whole where a test fails."""

    account: VoteAccountState
    slot_hashes: SlotHashes
    vote: LastVote
    switch_proof: bytes | None


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A legal next tower of an account on a chain, with up to three mutations."""
    chain = draw(chains())
    landed = max(len(chain) - draw(st.sampled_from((1, 2, 4, 10, 40, 120))), 0)
    account = draw(accounts_on(chain[:landed]))
    state = TowerVoteState(account.lockouts, account.root)
    ahead = draw(st.sampled_from((1, 1, 2, 3, 5, 10, 33)))
    for slot in chain[landed : landed + ahead : draw(st.integers(1, 3))]:
        state.process_vote(slot)
    newest = state.last_voted_slot
    assert newest is not None
    known = sorted({*chain[-40:], *(vote.slot for vote in account.lockouts), newest})
    pool = sorted({*known, *(min(slot + 1, U64_MAX - 1) for slot in known[-5:]), 0})
    stamp = draw(st.none() | st.integers(0, 5))
    draft = Draft([Lockout(*vote) for vote in state.votes], state.root, bank_hash(newest), stamp, chain, pool)
    for _ in range(draw(st.sampled_from((1, 1, 1, 0, 2, 3)))):
        draw(st.sampled_from(MUTATIONS))(draw, draft)
    if draft.lockouts and draw(st.integers(0, 3)):
        draft.hash = bank_hash(draft.lockouts[-1].slot)  # mutations of the slots alone should get past the hash
    kind = draw(st.sampled_from(FULL_TOWERS))
    slots = tuple(lockout.slot for lockout in draft.lockouts)
    rising = [draft.root or 0, *slots] == sorted([draft.root or 0, *slots])
    if not rising or any(lockout.confirmation_count > 255 for lockout in draft.lockouts):
        kind = VoteKind.VOTE_STATE_UPDATE  # the compact forms cannot write it
    vote = LastVote(kind, slots, tuple(draft.lockouts), draft.root, draft.hash, draft.timestamp)
    if kind is VoteKind.TOWER_SYNC:
        vote = replace(vote, block_id=bytes(32))
    return Case(account, draw(windows(chain)), vote, draw(st.sampled_from((None, bytes(32)))))


# ------------------------------------------------------------------------------------------------------- legacy votes


@dataclass(frozen=True)
class Ballot:
    """One legacy Vote and the SlotHashes of the bank that executes it."""

    slot_hashes: SlotHashes
    vote: LastVote
    switch_proof: bytes | None


@st.composite
def ballots(draw: st.DrawFn, chain: Sequence[int], max_size: int) -> list[Ballot]:
    """Votes along a chain: mostly the next few slots, else old, absent, unordered or no slots, or another hash."""
    at, found = 0, []
    for _ in range(draw(st.integers(1, max_size))):
        at = min(at + draw(st.integers(0, 3)), len(chain) - 1)
        count = draw(st.sampled_from((1, 1, 2, 5, 33)))
        slots = list(chain[at : at + count])
        at = min(at + count, len(chain) - 1)
        bend = draw(st.integers(0, 11))
        if bend == 1:
            slots = draw(st.lists(st.sampled_from(chain), max_size=4))
        elif bend == 2:
            slots.insert(draw(st.integers(0, len(slots))), draw(st.sampled_from(chain)) + draw(st.integers(0, 1)))
        elif bend == 3:
            slots = [*chain[max(at - count - 3, 0) : at - count], *slots]
        elif bend == 4:
            slots.reverse()
        named = bank_hash(slots[-1] if slots else 0)
        if bend == 5:
            named = draw(st.sampled_from((bytes(32), bank_hash(chain[0]), bank_hash(max(slots)))))
        stamp = draw(st.none() | st.integers(0, 3)) if bend > 8 else None
        window = draw(windows(chain)) if bend in (1, 6, 7) else [(slot, bank_hash(slot)) for slot in reversed(chain)]
        vote = LastVote(VoteKind.VOTE, tuple(slots), hash=named, timestamp=stamp)
        found.append(Ballot(window, vote, draw(st.sampled_from((None, bytes(32))))))
    return found
