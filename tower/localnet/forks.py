"""When the cluster is cut in two, and who is on which side. A pure function of the seed and the number of the cut.

Every `fork_every` slots a partition of `fork_length` slots begins. Slots take turns between the sides, each side builds
on its own tip, and neither hears of the other's banks and votes until the partition heals. The minority always has less
than a third of the stake, so the majority goes on confirming and the minority must switch afterwards.

>>> plan = PartitionPlan(1, 40, 6, {bytes([n]) * 32: 10 for n in range(1, 6)}, bytes([9]) * 32, 1, False)
>>> plan.at(39) is None, plan.at(40).index, plan.at(45).index, plan.at(46) is None
(True, 1, 1, True)
>>> [plan.at(slot).side_of_slot(slot) for slot in range(40, 46)] in ([0, 1] * 3, [1, 0] * 3)
True
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["MAJORITY", "MINORITY", "Partition", "PartitionPlan"]

MAJORITY = 0
MINORITY = 1


@dataclass(frozen=True, slots=True)
class Partition:
    """One cut: slots `start` to `end` (exclusive). `minority` holds vote accounts."""

    index: int
    start: int
    end: int
    minority: frozenset[bytes]
    first_side: int

    def side_of_slot(self, slot: int) -> int:
        """Which side builds the bank of `slot`."""
        return (self.first_side + slot - self.start) % 2

    def side_of(self, vote_account: bytes) -> int:
        return MINORITY if vote_account in self.minority else MAJORITY


class PartitionPlan:
    """All partitions of a cluster. `others` are the stakes of the cluster's own voters by vote account."""

    def __init__(
        self,
        seed: int,
        fork_every: int,
        fork_length: int,
        others: Mapping[bytes, int],
        ours: bytes,
        our_stake: int,
        rpc_on_minority: bool,
    ) -> None:
        self._seed = seed
        self._every = fork_every
        self._length = fork_length
        self._others = dict(others)
        self._ours = ours
        self._our_stake = our_stake
        self._rpc_on_minority = rpc_on_minority
        self._last: Partition | None = None

    def at(self, slot: int) -> Partition | None:
        """The partition that `slot` falls into."""
        if not self._every or slot < self._every:
            return None
        index, offset = divmod(slot, self._every)
        if offset >= self._length:
            return None
        if self._last is None or self._last.index != index:
            self._last = self._make(index)
        return self._last

    def _make(self, index: int) -> Partition:
        chooser = random.Random(f"partition {self._seed} {index}")
        total = sum(self._others.values()) + self._our_stake
        minority: set[bytes] = set()
        stake = 0
        if self._rpc_on_minority:
            minority.add(self._ours)
            stake = self._our_stake
        accounts = sorted(self._others)
        chooser.shuffle(accounts)
        wanted = chooser.randint(1, max(1, len(accounts)))
        for account in accounts[:wanted]:
            if 3 * (stake + self._others[account]) < total:
                minority.add(account)
                stake += self._others[account]
        start = index * self._every
        return Partition(index, start, start + self._length, frozenset(minority), chooser.randrange(2))
