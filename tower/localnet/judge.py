"""The judge: sees every vote that ever arrives, landed or not, and says which two cannot stand together.

Pure: no I/O, no clock, nothing of the transaction around the vote (`intake`). It decides, per vote account, whether two
votes *conflict*; older and newer go by the last slot voted for, never by the order in which they arrived:

==========  =========================================================================================================
same slot   the same last slot with another hash, other lockouts or another root (a refresh changes the timestamp only)
lockout     a vote of the older is missing in the newer above the newer's root, and was still locked at the newer's next
            slot: an entry (s, c) with s + 2**c >= the newer's smallest slot above s
fork        a vote of the older that was still locked there, in that sense, is no ancestor of the newer's last slot
==========  =========================================================================================================

A vote beside an earlier one on another fork, while it was locked:

>>> judge = Judge()
>>> for slot, parent in ((1, 0), (2, 1), (3, 1)):
...     judge.add_bank(slot, parent)
>>> account = bytes(32)
>>> judge.see(account, Ballot.of([(1, 2), (2, 1)], None, b"h2", b"first", "a"))
>>> judge.see(account, Ballot.of([(1, 2), (3, 1)], None, b"h3", b"second", "b"))
>>> [(conflict.kind, conflict.slot) for conflict in judge.conflicts]
[('lockout', 2)]

**Bounds.** Votes whose last slot lies more than `HORIZON_SLOTS` below the newest bank are counted (`too_old`) and not
compared; nor are more than `BALLOTS_MAX` different votes of one account within that horizon. Every vote in the horizon
that conflicts with an earlier arrival is reported with at least one vote that it conflicts with.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

__all__ = ["BALLOTS_MAX", "HORIZON_SLOTS", "Ancestry", "Arrival", "Ballot", "Conflict", "Judge", "conflict_between"]

HORIZON_SLOTS = 2048
BALLOTS_MAX = 2 * HORIZON_SLOTS  # different votes kept per account
CONFLICTS_MAX = 1000  # kept for the report; all are counted
ARRIVALS_MAX = 20_000  # kept per account, about two hours at 400 ms
ANCESTOR_SETS_MAX = 16


@dataclass(frozen=True, slots=True)
class Ballot:
    """What one vote says, and which signature said it first. Lockouts are oldest first."""

    slots: tuple[int, ...]
    counts: bytes
    root: int | None
    hash: bytes
    signature: bytes
    source: str

    @classmethod
    def of(cls, lockouts: Sequence[tuple[int, int]], root: int | None, hash: bytes, signature: bytes, source: str) -> Ballot:
        """A ballot from `[(slot, confirmation_count)]`; at least one entry."""
        slots = tuple(slot for slot, _ in lockouts)
        return cls(slots, bytes(min(count, 255) for _, count in lockouts), root, hash, signature, source)

    @property
    def last_slot(self) -> int:
        return self.slots[-1]

    def says_the_same(self, other: Ballot) -> bool:
        return (self.slots, self.counts, self.root, self.hash) == (other.slots, other.counts, other.root, other.hash)


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two votes of one account that cannot stand together; `slot` is the vote that they disagree about."""

    vote_account: bytes
    kind: str
    slot: int
    older: Ballot
    newer: Ballot


@dataclass(frozen=True, slots=True)
class Arrival:
    """One vote that arrived. `landed` is the slot of the bank that accepted it."""

    at_ms: int  # since the cluster started
    unix_ms: int
    source: str
    last_slot: int
    hash: bytes
    signature: bytes
    landed: int | None = None


class Ancestry:
    """Which slot is an ancestor of which, as far back as the horizon."""

    def __init__(self, horizon: int = HORIZON_SLOTS) -> None:
        self._horizon = horizon
        self._parents: dict[int, int] = {}  # in insertion order, so nearly ascending
        self._sets: OrderedDict[int, frozenset[int]] = OrderedDict()
        self.newest = 0

    @property
    def floor(self) -> int:
        """The oldest slot that is still looked at."""
        return max(0, self.newest - self._horizon)

    def add(self, slot: int, parent: int) -> None:
        self._parents[slot] = parent
        self.newest = max(self.newest, slot)
        while self._parents and (oldest := next(iter(self._parents))) < self.floor:
            del self._parents[oldest]

    def is_ancestor(self, slot: int, of: int) -> bool | None:
        """Is `slot` equal to `of` or below it on its fork? `None` where that is not known (any more)."""
        if slot == of:
            return True
        if slot < self.floor or of not in self._parents:
            return None
        return slot in self.line(of)

    def line(self, of: int) -> frozenset[int]:
        """The ancestors of `of` and itself, as far as they are known."""
        found = self._sets.get(of)
        if of not in self._parents:
            return frozenset()
        if found is None:
            walked = [of]
            slot: int | None = self._parents.get(of)
            while slot is not None:
                walked.append(slot)
                slot = self._parents.get(slot)
            found = self._sets[of] = frozenset(walked)
            while len(self._sets) > ANCESTOR_SETS_MAX:
                self._sets.popitem(last=False)
        return found


def _breaks(slot: int, end: int, newer: Ballot, ancestry: Ancestry) -> str | None:
    """How the vote for `slot`, locked until `end` (inclusive), stands against the newer ballot."""
    above = bisect_right(newer.slots, slot)
    if above == len(newer.slots) or end < newer.slots[above]:
        return None
    present = above > 0 and newer.slots[above - 1] == slot
    if not present and (newer.root is None or slot > newer.root):
        return "lockout"
    return "fork" if ancestry.is_ancestor(slot, newer.last_slot) is False else None


def conflict_between(one: Ballot, other: Ballot, ancestry: Ancestry) -> tuple[str, int] | None:
    """`(kind, slot)` if two ballots of one account conflict, whichever was first. The rules of this module, once."""
    if one.last_slot == other.last_slot:
        return None if one.says_the_same(other) else ("same slot", one.last_slot)
    older, newer = (one, other) if one.last_slot < other.last_slot else (other, one)
    for slot, count in zip(older.slots, older.counts, strict=True):
        kind = _breaks(slot, slot + (1 << count), newer, ancestry)
        if kind:
            return kind, slot
    return None


_Logged = tuple[int, int, str, int, bytes, bytes]  # an `Arrival` without `landed`


@dataclass(slots=True)
class _Account:
    ballots: dict[int, list[Ballot]] = field(default_factory=dict)  # by last slot
    kept: int = 0
    newest: int = -1
    # For each slot ever voted for: the furthest end of its lockout in any ballot, and that ballot. A newer ballot that
    # stands against all of these stands against every older ballot, so votes in order cost one pass.
    claims: dict[int, tuple[int, Ballot]] = field(default_factory=dict)
    # Plain tuples: the collector of cycles does not look at them, and there are many.
    arrivals: deque[_Logged] = field(default_factory=lambda: deque(maxlen=ARRIVALS_MAX))


class Judge:
    """Collects arrivals, compares, and keeps what was found."""

    def __init__(self, horizon: int = HORIZON_SLOTS) -> None:
        self.ancestry = Ancestry(horizon)
        self.conflicts: deque[Conflict] = deque(maxlen=CONFLICTS_MAX)
        self.conflicts_total = 0
        self.counts = {"votes": 0, "too_old": 0, "over_limit": 0}
        self._accounts: dict[bytes, _Account] = {}
        self._landed: OrderedDict[bytes, int] = OrderedDict()

    def add_bank(self, slot: int, parent: int) -> None:
        """A bank exists. Called before any vote for it can arrive."""
        self.ancestry.add(slot, parent)

    def arrive(self, vote_account: bytes, ballot: Ballot, at_ms: int, unix_ms: int) -> None:
        """A vote arrived: log it and judge it. Arriving twice is nothing special."""
        account = self._account(vote_account)
        account.arrivals.append((at_ms, unix_ms, ballot.source, ballot.last_slot, ballot.hash, ballot.signature))
        self.see(vote_account, ballot)

    def landed(self, signature: bytes, slot: int) -> None:
        """The bank of `slot` accepted the vote with this signature."""
        self._landed[signature] = slot
        while len(self._landed) > ARRIVALS_MAX * max(1, len(self._accounts)):
            self._landed.popitem(last=False)

    def arrivals(self, vote_account: bytes) -> Iterator[Arrival]:
        """The log of one account, oldest arrival first."""
        for logged in self._account(vote_account).arrivals:
            yield Arrival(*logged, landed=self._landed.get(logged[-1]))

    def last_source(self, vote_account: bytes) -> str:
        """Where the newest arrival for the account came from; empty if there was none."""
        arrivals = self._account(vote_account).arrivals
        return arrivals[-1][2] if arrivals else ""

    @property
    def accounts(self) -> tuple[bytes, ...]:
        return tuple(self._accounts)

    def see(self, vote_account: bytes, ballot: Ballot) -> None:
        """Compare a ballot with what is known of its account, then remember it."""
        account = self._account(vote_account)
        self.counts["votes"] += 1
        self._forget_old(account)
        if ballot.last_slot < self.ancestry.floor:
            self.counts["too_old"] += 1
            return
        twins = account.ballots.get(ballot.last_slot, [])
        if any(twin.says_the_same(ballot) for twin in twins):
            return
        if account.kept >= BALLOTS_MAX:
            self.counts["over_limit"] += 1
            return
        if ballot.last_slot > account.newest:
            self._judge_newest(vote_account, account, ballot)
        else:
            self._judge_late(vote_account, account, ballot)
        account.ballots.setdefault(ballot.last_slot, []).append(ballot)
        account.kept += 1
        account.newest = max(account.newest, ballot.last_slot)
        for slot, count in zip(ballot.slots, ballot.counts, strict=True):
            end = slot + (1 << count)
            known = account.claims.get(slot)
            if known is None or known[0] < end:
                account.claims[slot] = (end, ballot)

    def _judge_newest(self, vote_account: bytes, account: _Account, ballot: Ballot) -> None:
        # Most claims are on the ballot's own fork, and in it or below its root: those cannot break, and are set aside.
        chain, present = self.ancestry.line(ballot.last_slot), set(ballot.slots)
        root = -1 if ballot.root is None else ballot.root
        suspects = account.claims.keys() - chain
        suspects.update(slot for slot in account.claims if slot > root and slot not in present)
        for slot in sorted(suspects):
            end, witness = account.claims[slot]
            kind = _breaks(slot, end, ballot, self.ancestry)
            if kind:
                self._report(Conflict(vote_account, kind, slot, witness, ballot))
                return

    def _judge_late(self, vote_account: bytes, account: _Account, ballot: Ballot) -> None:
        for known in [known for twins in account.ballots.values() for known in twins]:
            found = conflict_between(ballot, known, self.ancestry)
            if found:
                older, newer = (ballot, known) if ballot.last_slot < known.last_slot else (known, ballot)
                self._report(Conflict(vote_account, found[0], found[1], older, newer))
                return

    def _report(self, conflict: Conflict) -> None:
        self.conflicts_total += 1
        self.conflicts.append(conflict)

    def _account(self, vote_account: bytes) -> _Account:
        return self._accounts.setdefault(vote_account, _Account())

    def _forget_old(self, account: _Account) -> None:
        floor = self.ancestry.floor
        if not account.ballots or min(account.ballots) >= floor:
            return
        for slot in [slot for slot in account.ballots if slot < floor]:
            account.kept -= len(account.ballots.pop(slot))
        for slot in [slot for slot in account.claims if slot < floor]:
            del account.claims[slot]
