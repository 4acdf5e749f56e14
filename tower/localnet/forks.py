"""When the cluster is cut in two, and who is on which side. A pure function of the seed and the number of the cut.

**At random.** Every `fork_every` slots a partition of `fork_length` slots begins. Slots take turns between the
sides, each side builds on its own tip, and neither hears of the other's banks and votes until the partition heals.
The minority always has less than a third of the stake, so the majority goes on confirming and the minority must
switch afterwards.

>>> plan = PartitionPlan(1, 40, 6, {bytes([n]) * 32: 10 for n in range(1, 6)}, bytes([9]) * 32, 1, False)
>>> plan.at(39) is None, plan.at(40).index, plan.at(45).index, plan.at(46) is None
(True, 1, 1, True)
>>> [plan.at(slot).side_of_slot(slot) for slot in range(40, 46)] in ([0, 1] * 3, [1, 0] * 3)
True

**As asked for.** A `PartitionRequest` says when, how long, and how much of the stake: so much on the other side, so
much silent, the rest with us. Our vote account and the RPC are never on the other side and never silent. The silent
hear of banks and do not vote; nothing keeps the other side under a third. Where nobody is on the other side there
is no cut, only silence. The voters stand in one order that follows from the seed: the other side is taken from its
front, the silent from its back. So two requests with the same percentages name the same voters, and one request can
keep silent after the healing those who were silent before it. A random partition that would overlap one that was
asked for is left out.

>>> asked = PartitionRequest.parse("50:8:40:20")
>>> plan = PartitionPlan(1, 0, 0, {bytes([n]) * 32: 10 for n in range(1, 11)}, bytes([99]) * 32, 1, False, [asked])
>>> cut = plan.at(50)
>>> len(cut.minority), len(cut.silent), round(cut.other_share, 3), plan.at(58) is None
(4, 2, 0.396, True)
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tower.errors import InvalidInput

__all__ = ["MAJORITY", "MINORITY", "Partition", "PartitionPlan", "PartitionRequest"]

MAJORITY = 0
MINORITY = 1

REQUESTS_MAX = 64
LENGTH_MIN = 2  # slots: one for each side
SLOT_MAX = 1 << 32
MISSED_PERCENT_MAX = 5.0  # how far the stake reached may be from the stake asked for


@dataclass(frozen=True, slots=True)
class PartitionRequest:
    """One `--partition`. Percentages are of all stake; a `relative` start counts from our first vote's arrival.

    >>> PartitionRequest.parse("+20:12:40:30")
    PartitionRequest(start=20, length=12, other_percent=40.0, silent_percent=30.0, relative=True)
    """

    start: int
    length: int
    other_percent: float
    silent_percent: float = 0.0
    relative: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.start < SLOT_MAX:
            raise InvalidInput(f"--partition {self}: START is a slot from 1 on, or +SLOTS after our first vote")
        if not LENGTH_MIN <= self.length < SLOT_MAX:
            raise InvalidInput(f"--partition {self}: give a LENGTH of at least {LENGTH_MIN} slots")
        if not (0 <= self.other_percent < 100 and 0 <= self.silent_percent < 100):
            raise InvalidInput(f"--partition {self}: percentages are from 0 to less than 100")
        if not 0 < self.other_percent + self.silent_percent < 100:
            raise InvalidInput(f"--partition {self}: both percentages together are over 0 and under 100; the rest is with us")

    def __str__(self) -> str:
        percents = f"{self.other_percent:g}:{self.silent_percent:g}"
        return f"{'+' if self.relative else ''}{self.start}:{self.length}:{percents}"

    @classmethod
    def parse(cls, text: str) -> PartitionRequest:
        """From `START:LENGTH:OTHER_PERCENT[:SILENT_PERCENT]`. Raises `InvalidInput` that names the flag."""
        parts = text.split(":")
        try:
            start, length, other, silent = [*parts, "0"] if len(parts) == 3 else parts
            numbers = int(start), int(length), float(other), float(silent)
        except ValueError:
            raise InvalidInput(
                f"--partition {text}: give START:LENGTH:OTHER_PERCENT[:SILENT_PERCENT], such as 50:12:40:30 "
                "(or +50 for 50 slots after our first vote)"
            ) from None
        return cls(*numbers, relative=start.startswith("+"))

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Partition:
    """One cut: slots `start` to `end` (exclusive). `minority` and `silent` hold vote accounts; shares are of all."""

    index: int  # from 0 on for random ones; those asked for are counted down from -1
    start: int
    end: int
    minority: frozenset[bytes]
    first_side: int
    silent: frozenset[bytes] = frozenset()
    other_share: float = 0.0
    silent_share: float = 0.0
    whole: bool = False  # nobody is on the other side: all slots are ours, everyone hears everything

    @property
    def asked_for(self) -> bool:
        return self.index < 0

    def side_of_slot(self, slot: int) -> int:
        """Which side builds the bank of `slot`."""
        return MAJORITY if self.whole else (self.first_side + slot - self.start) % 2

    def side_of(self, vote_account: bytes) -> int:
        return MINORITY if vote_account in self.minority else MAJORITY


class PartitionPlan:
    """All partitions of a cluster. `others` are the stakes of the cluster's own voters by vote account.

    Raises `InvalidInput` where `requests` overlap, mix both kinds of start, or cannot be met with these stakes.
    """

    def __init__(
        self,
        seed: int,
        fork_every: int,
        fork_length: int,
        others: Mapping[bytes, int],
        ours: bytes,
        our_stake: int,
        rpc_on_minority: bool,
        requests: Sequence[PartitionRequest] = (),
    ) -> None:
        self._seed = seed
        self._every = fork_every
        self._length = fork_length
        self._others = dict(others)
        self._ours = ours
        self._our_stake = our_stake
        self._total = sum(self._others.values()) + our_stake
        self._rpc_on_minority = rpc_on_minority
        self._last: Partition | None = None
        self._relative: list[PartitionRequest] = []
        self._asked: list[Partition] = []
        ordered = sorted(requests, key=lambda request: request.start)
        for one, other in pairwise(ordered):
            if one.relative != other.relative:
                raise InvalidInput(f"--partition {one} and {other}: give START with + for all, or for none")
            if other.start < one.end:
                raise InvalidInput(f"--partition {one} and {other}: they overlap; start the second at {one.end}")
        made = [self._fulfil(-1 - number, request, 0) for number, request in enumerate(ordered)]
        if ordered and ordered[0].relative:
            self._relative = ordered
        else:
            self._asked = made

    def at(self, slot: int) -> Partition | None:
        """The partition that `slot` falls into."""
        asked = next((cut for cut in self._asked if cut.start <= slot < cut.end), None)
        if asked is not None:
            return asked
        if not self._every or slot < self._every:
            return None
        index, offset = divmod(slot, self._every)
        first = slot - offset
        if offset >= self._length or any(cut.start < first + self._length and first < cut.end for cut in self._asked):
            return None
        if self._last is None or self._last.index != index:
            self._last = self._make(index)
        return self._last

    def our_first_vote(self, slot: int) -> None:
        """Our first vote arrived while `slot` was the newest: relative starts count from it. Further calls do nothing."""
        if self._relative:
            self._asked = [self._fulfil(-1 - number, each, slot) for number, each in enumerate(self._relative)]
            self._relative = []

    def _make(self, index: int) -> Partition:
        chooser = random.Random(f"partition {self._seed} {index}")
        minority: set[bytes] = set()
        stake = 0
        if self._rpc_on_minority:
            minority.add(self._ours)
            stake = self._our_stake
        accounts = sorted(self._others)
        chooser.shuffle(accounts)
        wanted = chooser.randint(1, max(1, len(accounts)))
        for account in accounts[:wanted]:
            if 3 * (stake + self._others[account]) < self._total:
                minority.add(account)
                stake += self._others[account]
        start = index * self._every
        return Partition(index, start, start + self._length, frozenset(minority), chooser.randrange(2))

    def _fulfil(self, index: int, request: PartitionRequest, origin: int) -> Partition:
        accounts = sorted(self._others)
        random.Random(f"sides {self._seed}").shuffle(accounts)
        other = self._nearest(accounts, request.other_percent, request)
        silent = self._nearest(accounts[len(other) :][::-1], request.silent_percent, request)
        return Partition(
            index,
            origin + request.start,
            origin + request.end,
            frozenset(other),
            random.Random(f"first {self._seed} {index}").randrange(2),
            frozenset(silent),
            self._share(other),
            self._share(silent),
            whole=not other,
        )

    def _share(self, accounts: Sequence[bytes]) -> float:
        return sum(self._others[account] for account in accounts) / self._total

    def _nearest(self, accounts: Sequence[bytes], percent: float, request: PartitionRequest) -> list[bytes]:
        """As many from the front of `accounts` as come nearest to `percent` of all stake; none for 0."""
        if not percent:
            return []
        counts = range(1, len(accounts) + 1)
        best = min(counts, key=lambda count: abs(self._share(accounts[:count]) - percent / 100), default=0)
        reached = 100 * self._share(accounts[:best])
        if abs(reached - percent) > MISSED_PERCENT_MAX:
            raise InvalidInput(
                f"--partition {request}: {len(self._others)} other voters reach {reached:.1f} %, not {percent:g} %; "
                "give more --voters (10 are enough for steps of 10 %), or another --stake-share"
            )
        return list(accounts[:best])
