"""A fast, blind run against the compiled decoders: mutate in place, decode, next. Not coverage-guided.

Atheris cannot see into compiled code, and its bookkeeping costs more than `_fast` needs for a whole tower. This loop
trades feedback for speed: it overwrites numbers of a known input where numbers stand (long runs of zeros are left out) and
decodes. Every input must be read or refused with a `WireError`; every 64th goes through the whole target of the guided
run too, the twin and the encoders included. Under the sanitizers (`fuzz.sanitize`) the same loop looks for memory errors.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from fuzz.corpus import NUMBERS, TOKENS, compact_votes, seeds
from fuzz.mutate import Mutator
from fuzz.targets import TARGETS
from tower import _fast
from tower.errors import WireError

__all__ = ["NativeRun", "run_native"]

WRITES_PER_INPUT = 512  # tried on one input before the next one is made
CHECKED_EVERY = 64
DULL_RUN_BYTES = 48  # zeros in a row, beyond which only the ends are worth a write


class NativeRun:
    """What one run did. `problem` is what stopped it, at `data`, an input of the target `name`."""

    def __init__(self) -> None:
        self.executions = 0
        self.refused = 0
        self.seconds = 0.0
        self.name = ""
        self.data = b""
        self.problem: Exception | None = None


def _places(data: bytes) -> list[int]:
    """Where to write: everywhere but inside long runs of zeros."""
    places: list[int] = []
    at = 0
    while at < len(data):
        end = at
        while end < len(data) and data[end] == 0:
            end += 1
        if end - at > DULL_RUN_BYTES:
            places += [*range(at, at + DULL_RUN_BYTES // 2), *range(end - DULL_RUN_BYTES // 2, end)]
        else:
            end = max(end, at + 1)
            places += range(at, end)
        at = end
    return places or [0]


def _decode_compact(data: bytes) -> Any:
    return _fast.decode_compact_vote(data, 0, True)


def _try_around(run: NativeRun, rng: random.Random, decode: Callable[[bytes], Any], base: bytes) -> None:
    """`WRITES_PER_INPUT` executions, each with one write into `base`."""
    work = bytearray(base)
    check = TARGETS[run.name]
    # drawn at once: drawing one by one would cost as much as decoding
    wheres = rng.choices(_places(base), k=WRITES_PER_INPUT)
    whats = rng.choices(_WHATS, k=WRITES_PER_INPUT)
    for number, (at, what) in enumerate(zip(wheres, whats, strict=True)):
        before = work[at : at + len(what)]
        work[at : at + len(what)] = what
        run.data = data = bytes(work)
        work[at : at + len(what)] = before  # at the end of the data this leaves what was appended: that is an edit too
        run.executions += 1
        try:
            decode(data)
        except WireError:
            run.refused += 1
        if number % CHECKED_EVERY == 0:
            check(data)


_WHATS = [number.to_bytes(8, "little")[:width] for number in NUMBERS for width in (1, 2, 8)]
_WHATS += [bytes([byte]) for byte in range(256)]


def run_native(seed: int, executions: int, seconds: float = float("inf")) -> NativeRun:
    """About `executions` inputs, or as many as `seconds` allow; ends early at the first broken rule."""
    rng = random.Random(seed)
    found = {"tower": seeds("tower", rng), "instruction": compact_votes(rng)}
    decoders = {"tower": _fast.decode_saved_tower, "instruction": _decode_compact}
    mutators = {name: Mutator(rng, inputs, TOKENS[name]) for name, inputs in found.items()}
    run = NativeRun()
    began = time.monotonic()
    while run.problem is None and run.executions < executions and time.monotonic() - began < seconds:
        run.name = rng.choice(list(found))
        # a seed as it is has everything in place; one that was edited before is refused early, or holds something odd
        base = rng.choice(found[run.name]) if rng.random() < 0.5 else mutators[run.name].next()
        try:
            _try_around(run, rng, decoders[run.name], base)
        except Exception as problem:  # whatever it is, it is the answer of the run
            run.problem = problem
    run.seconds = time.monotonic() - began
    return run
