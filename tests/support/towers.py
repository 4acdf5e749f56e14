"""The real tower files, and strategies that make towers of every generation."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from tower.types import (
    BlockTimestamp,
    Generation,
    LastVote,
    Lockout,
    Tower,
    VoteKind,
    VoteStateExtras,
)

FIXTURES = Path(os.environ.get("TOWER_FIXTURES") or Path(__file__).parents[3] / "shared" / "fixtures" / "towers")
U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
KEYS = st.binary(min_size=32, max_size=32)


def fixture_manifest() -> list[dict[str, Any]]:
    """The manifest of the real files, empty where they are not there."""
    manifest = FIXTURES / "manifest.json"
    return json.loads(manifest.read_text()) if manifest.exists() else []


def fixture_params(torn: bool) -> list[Any]:
    """One test parameter a file; a single skipped one, with a line, where the folder is missing."""
    found = [pytest.param(entry, id=entry["path"][:2]) for entry in fixture_manifest() if ("error" in entry) is torn]
    reason = f"the real tower files are not at {FIXTURES}; set TOWER_FIXTURES"
    return found or [pytest.param({}, id="missing", marks=pytest.mark.skip(reason=reason))]


@st.composite
def stacks(draw: st.DrawFn) -> tuple[list[tuple[int, int]], int | None]:
    """A stack that legal votes could have left behind, and its root: any slots, strictly falling counts."""
    count = draw(st.integers(0, 31))
    counts = sorted(draw(st.sets(st.integers(1, 31), min_size=count, max_size=count)), reverse=True)
    root = draw(st.none() | st.integers(0, 2**40))
    slot, votes = root or 0, []
    for confirmation_count in counts:
        slot += draw(st.integers(1, 40) | st.integers(1, 2**20))
        votes.append((slot, confirmation_count))
    return votes, root


@st.composite
def towers(draw: st.DrawFn) -> Tower:
    """A tower of any generation, with whatever older writers left in it."""
    votes, root = draw(stacks())
    lockouts = tuple(Lockout(*vote) for vote in votes)
    generation = draw(st.sampled_from(list(Generation)))
    kind = draw(st.sampled_from(list(VoteKind))) if generation is Generation.CURRENT else VoteKind.VOTE
    slots = tuple(lockout.slot for lockout in lockouts)
    plain = kind is VoteKind.VOTE
    vote = LastVote(
        kind,
        slots,
        () if plain else lockouts,
        None if plain else root,
        draw(KEYS),
        draw(st.none() | I64),
        draw(KEYS) if kind is VoteKind.TOWER_SYNC else None,
    )
    prior = draw(st.none() | st.binary(min_size=1545, max_size=1545).map(lambda ring: ring[:-1] + b"\0"))
    extras = VoteStateExtras(
        draw(KEYS),
        draw(KEYS),
        draw(st.integers(0, 255)),
        tuple(draw(st.lists(st.tuples(U64, KEYS), max_size=3))),
        prior,
        tuple(draw(st.lists(st.tuples(U64, U64, U64), max_size=3))),
        BlockTimestamp(draw(U64), draw(I64)),
    )
    size = draw(st.floats(allow_nan=False))
    stamp = BlockTimestamp(draw(U64), draw(I64))
    return Tower(draw(KEYS), lockouts, root, vote, stamp, draw(U64), size, extras, generation)
