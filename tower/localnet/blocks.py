"""The judge of blocks: keeps every announcement that arrives for a slot, and says which slot has two (S7).

Pure: no I/O and no clock; that a signature verifies and its signer leads the slot is checked before (`Cluster.announce`). Two
announcements for one slot are a *duplicate* if they say different things, or if they come from two sources: a source is the
address and port of one life of a leader. The same packet again from the same source is a repetition, and nothing.

>>> blocks = BlockJudge()
>>> for parent, source in ((7, "127.0.0.2:9001"), (7, "127.0.0.2:9001"), (7, "127.0.0.3:9001"), (6, "127.0.0.2:9001")):
...     blocks.arrive(BlockArrival(8, parent, bytes(32), source, 0, 0, False))
>>> (blocks.duplicates_total, len(blocks.duplicates), len(list(blocks.arrivals())))
(2, 2, 3)

**Bounds.** The newest `SLOTS_MAX` slots are remembered, `PER_SLOT_MAX` announcements each; more for one slot are judged and
counted, and not kept.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["BlockArrival", "BlockJudge", "Duplicate"]

SLOTS_MAX = 20_000  # with announcements, that are remembered
PER_SLOT_MAX = 8
DUPLICATES_MAX = 1000  # kept for the report; all are counted


@dataclass(frozen=True, slots=True)
class BlockArrival:
    """One announcement that arrived. `filled`: while its slot was open and on its bank's parent, so the slot got its bank."""

    slot: int
    parent_slot: int
    leader: bytes
    source: str  # address:port
    at_ms: int  # since the cluster started
    unix_ms: int
    filled: bool

    def repeats(self, other: BlockArrival) -> bool:
        return (self.parent_slot, self.source) == (other.parent_slot, other.source)


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Two blocks for one slot."""

    first: BlockArrival
    second: BlockArrival


class BlockJudge:
    """Collects announcements, compares, and keeps what was found."""

    def __init__(self) -> None:
        self.duplicates: deque[Duplicate] = deque(maxlen=DUPLICATES_MAX)
        self.duplicates_total = 0
        self.over_limit = 0
        self._slots: OrderedDict[int, list[BlockArrival]] = OrderedDict()

    def arrive(self, block: BlockArrival) -> None:
        """Judge one announcement against those of its slot, whenever it comes."""
        known = self._slots.setdefault(block.slot, [])
        if any(block.repeats(other) for other in known):
            return
        if known:
            self.duplicates_total += 1
            self.duplicates.append(Duplicate(known[0], block))
        if len(known) >= PER_SLOT_MAX:
            self.over_limit += 1
        else:
            known.append(block)
        while len(self._slots) > SLOTS_MAX:
            self._slots.popitem(last=False)

    def arrivals(self) -> Iterator[BlockArrival]:
        """What was announced, by the order in which the slots were first heard of."""
        for blocks in self._slots.values():
            yield from blocks
