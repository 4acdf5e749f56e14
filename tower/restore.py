"""What a stored tower means in a ledger that moved on without it.

A tower that was away for long holds votes older than any tree of banks, and one whose votes were never rooted by the
cluster holds votes on forks that are gone. The SlotHistory of a rooted bank tells which is which: every slot of the last
2**20 is on the rooted fork or not.

=========  ====================================================
answer     meaning for a slot
=========  ====================================================
FOUND      it is an ancestor of the rooted bank, or the bank
NOT_FOUND  it was skipped or is on a fork that lost
FUTURE     it is newer than the rooted bank
TOO_OLD    it is older than the history reaches
=========  ====================================================

From the newest vote down to the root, the first FOUND slot is the *anchor*: it and everything below it is rooted and binds
nobody any more; the votes above it still bind and stay, even where their fork is gone. The root moves up to the ledger's,
or, where votes stay that are below it, to the anchor. Votes 10, 12, 15 of which 10 and 12 were rooted:

>>> history = SlotHistory.of({5, 10, 12, 13}, newest=13)
>>> adjust([(10, 4), (12, 3), (15, 2)], 5, 13, history)
Adjusted(votes=[(15, 2)], root=13, stray_slot=15)

Source: adjust_lockouts_after_replay and SlotHistory::check of the clients on the cluster. Where those panic, this raises.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tower._bytes import Reader, Writer
from tower.errors import TowerInconsistent, TowerTooOld, WireError

__all__ = ["HISTORY_SLOTS", "Adjusted", "SlotHistory", "SlotState", "adjust"]

HISTORY_SLOTS = 1 << 20
_WORDS = HISTORY_SLOTS // 64


class SlotState(enum.Enum):
    """See the table in the module's text."""

    FOUND = enum.auto()
    NOT_FOUND = enum.auto()
    FUTURE = enum.auto()
    TOO_OLD = enum.auto()


@dataclass(frozen=True, slots=True)
class SlotHistory:
    """Which of the last 2**20 slots are on the fork of one rooted bank: a ring of bits, and the slot after the newest."""

    bits: bytes
    next_slot: int

    @classmethod
    def decode(cls, data: bytes) -> SlotHistory:
        """The SlotHistory sysvar (131,097 bytes). Raises `WireError`."""
        reader = Reader(bytes(data))
        if not reader.flag("bit vector option"):
            raise WireError(0, "the slot history holds no bits")
        at = reader.offset
        words = reader.count(8, "words of the slot history")
        if words != _WORDS:
            raise WireError(at, f"the slot history has {words} words, not {_WORDS}")
        bits = reader.take(8 * words)
        at = reader.offset
        length = reader.u64()
        if length != HISTORY_SLOTS:
            raise WireError(at, f"the slot history has {length} bits, not {HISTORY_SLOTS}")
        return cls(bits, reader.u64())

    @classmethod
    def of(cls, slots: Iterable[int], newest: int) -> SlotHistory:
        """A history that holds `slots`, all within its reach, as of a bank at slot `newest`."""
        bits = bytearray(8 * _WORDS)
        for slot in slots:
            bits[slot % HISTORY_SLOTS // 8] |= 1 << slot % 8
        return cls(bytes(bits), newest + 1)

    def encode(self) -> bytes:
        """The sysvar's bytes: what `decode` reads."""
        out = Writer().u8(1).u64(_WORDS).raw(self.bits)
        return out.u64(HISTORY_SLOTS).u64(self.next_slot).bytes()

    @property
    def newest(self) -> int:
        return self.next_slot - 1

    @property
    def oldest(self) -> int:
        return max(0, self.next_slot - HISTORY_SLOTS)

    def check(self, slot: int) -> SlotState:
        """Where `slot` stands; see `SlotState`."""
        if slot > self.newest:
            return SlotState.FUTURE
        if slot < self.oldest:
            return SlotState.TOO_OLD
        found = self.bits[slot % HISTORY_SLOTS // 8] >> slot % 8 & 1
        return SlotState.FOUND if found else SlotState.NOT_FOUND


@dataclass(frozen=True, slots=True)
class Adjusted:
    """What of a tower still binds. `stray_slot` is its last vote, where that is on no fork that the ledger has rooted."""

    votes: list[tuple[int, int]]
    root: int | None
    stray_slot: int | None


def adjust(votes: Sequence[tuple[int, int]], root: int | None, replayed_root: int, history: SlotHistory) -> Adjusted:
    """The votes of a stored tower that still bind in a ledger rooted at `replayed_root`, whose `history` this is.

    A tower root above the replayed one (a tower of the future: this ledger is behind) stays, and counts as rooted.
    Raises `TowerTooOld` if the last vote is older than the history reaches, and `TowerInconsistent` where tower and
    ledger cannot both be true.
    """
    if history.check(replayed_root) is not SlotState.FOUND:
        raise TowerInconsistent(f"the ledger's root {replayed_root} is not in its own history")
    if not votes:
        return Adjusted([], replayed_root if root is None else max(root, replayed_root), None)
    future = root is not None and root > replayed_root
    if not future and history.check(votes[-1][0]) is SlotState.TOO_OLD:
        raise TowerTooOld(votes[-1][0], history.oldest)
    anchored = _anchor(votes, root, history, root if future else None)
    if anchored is None:
        if root is not None:
            raise TowerInconsistent("the tower and the ledger have no slot in common")
        return Adjusted(list(votes), None, votes[-1][0])  # it never rooted anything: nothing to anchor, all of it binds
    kept = [vote for vote in votes if vote[0] > anchored]
    new_root = root if future and root is not None else replayed_root
    if kept and kept[0][0] <= new_root:
        new_root = anchored  # votes on a fork that lost, below the ledger's root, bind until they expire all the same
    return Adjusted(kept, new_root, votes[-1][0] if kept else None)


def _anchor(votes: Sequence[tuple[int, int]], root: int | None, history: SlotHistory, rooted_by_tower: int | None) -> int | None:
    """The newest slot of the tower that the ledger has rooted too; the whole tower must be consistent with it."""
    slots = [slot for slot, _ in reversed(votes)] + ([] if root is None else [root])
    anchored: int | None = None
    before = SlotState.FUTURE
    for slot in slots:
        state = SlotState.FOUND if slot == rooted_by_tower else history.check(slot)
        if anchored is None and state is SlotState.FOUND:
            anchored = slot
        elif anchored is not None and state is SlotState.NOT_FOUND:
            raise TowerInconsistent(f"slot {slot} lies below {anchored} in the tower, but not in the ledger")
        if state is SlotState.FUTURE and before is not SlotState.FUTURE:
            raise TowerInconsistent(f"slot {slot} is newer than the ledger, but lies below an older one in the tower")
        if before is SlotState.TOO_OLD and state is not SlotState.TOO_OLD:
            raise TowerInconsistent(f"slot {slot} is within the history, but lies below one that is too old for it")
        before = state
    return anchored
