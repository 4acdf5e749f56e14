"""Judges of what was sent, beside the local cluster's judge of votes. They know nothing of machines or stores."""

from __future__ import annotations

from bisect import bisect_left, insort

__all__ = ["Blocks", "Timestamps"]

KEPT = 256  # votes that a late one is compared with


class Timestamps:
    """The vote program's rule: timestamps never go back from slot to slot. A vote may carry none.

    The same slot may carry another timestamp, when its vote is sent again: one of them lands.

    >>> judge = Timestamps()
    >>> [judge.see(*vote) for vote in ((4, 100), (6, 100), (5, None), (6, 101))]
    [None, None, None, None]
    >>> judge.see(7, 99)
    'the vote for 7 says 99, the one for 6 said 101'
    """

    def __init__(self) -> None:
        self._seen: list[tuple[int, int]] = []  # (slot, timestamp), rising in both

    def see(self, slot: int, timestamp: int | None) -> str | None:
        """What is wrong with a vote, if anything."""
        if timestamp is None:
            return None
        seen = self._seen
        before = bisect_left(seen, (slot, -1)) - 1
        after = bisect_left(seen, (slot + 1, -1))
        if before >= 0 and seen[before][1] > timestamp:
            return f"the vote for {slot} says {timestamp}, the one for {seen[before][0]} said {seen[before][1]}"
        if after < len(seen) and seen[after][1] < timestamp:
            return f"the vote for {slot} says {timestamp}, the one for {seen[after][0]} says {seen[after][1]}"
        insort(seen, (slot, timestamp))
        del seen[:-KEPT]
        return None


class Blocks:
    """S7: at most one life produces a block for a slot; and at most one was told that it may.

    >>> judge = Blocks()
    >>> [judge.reserved("a", 8, 9), judge.produced("a", 8), judge.produced("a", 8), judge.reserved("b", 9, 11)]
    [None, None, None, 'slot 9 was reserved for a and for b']
    >>> judge.produced("b", 8)
    'slot 8 was produced by a and by b'
    """

    def __init__(self) -> None:
        self._holders: dict[int, str] = {}
        self._producers: dict[int, str] = {}

    def reserved(self, life: str, first: int, last: int) -> str | None:
        """What is wrong with a reservation that was confirmed, if anything."""
        for slot in range(first, last + 1):
            holder = self._holders.setdefault(slot, life)
            if holder != life:
                return f"slot {slot} was reserved for {holder} and for {life}"
        return None

    def produced(self, life: str, slot: int) -> str | None:
        """What is wrong with a block, if anything."""
        producer = self._producers.setdefault(slot, life)
        return None if producer == life else f"slot {slot} was produced by {producer} and by {life}"
