r"""Plain mutations of known inputs: no coverage, no feedback, the same inputs again for the same seed.

>>> mutator = Mutator(random.Random(1), [b"hello"], (b"\xff\xff",))
>>> len({mutator.next() for _ in range(100)}) > 50
True
"""

from __future__ import annotations

import random
from collections.abc import Sequence

__all__ = ["Mutator"]

EDITS_MAX = 4  # of one input
CHUNK_BYTES_MAX = 64  # that one edit removes, repeats or takes from another input


class Mutator:
    """Inputs made of `seeds`, each with a few edits; `tokens` are written over or into them."""

    def __init__(self, rng: random.Random, seeds: Sequence[bytes], tokens: Sequence[bytes] = ()) -> None:
        self._rng = rng
        self._seeds = list(seeds)
        self._tokens = list(tokens) or [b"\0"]

    def next(self) -> bytes:
        """One more input."""
        data = bytearray(self._rng.choice(self._seeds))
        for _ in range(self._rng.randint(1, EDITS_MAX)):
            self._edit(data)
        return bytes(data)

    def _edit(self, data: bytearray) -> None:
        rng = self._rng
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.randint(1, CHUNK_BYTES_MAX))
        match rng.randrange(8):
            case 0 | 1 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 2 if at < len(data):
                data[at] = rng.randrange(256)
            case 3 | 4:
                token = rng.choice(self._tokens)
                data[at : at + (len(token) if rng.random() < 0.7 else 0)] = token
            case 5:
                del data[at : len(data) if rng.random() < 0.3 else end]
            case 6:
                data[at:at] = data[at:end]
            case _:
                other = rng.choice(self._seeds)
                start = rng.randrange(len(other) + 1)
                data[at:end] = other[start : start + end - at]
