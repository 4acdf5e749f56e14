"""The lockout stack: one vote from Python, and a thousand in one call, against the readable twin."""

from __future__ import annotations

from array import array

import pytest

from benchmarks.measure import interleaved
from benchmarks.workload import SLOTS
from tower import _fast, _reference

TABLE = "lockouts"


def one_by_one(twin, slots):
    process_vote = twin.TowerVoteState(root=slots[0] - 1).process_vote
    for slot in slots:
        process_vote(slot)
    return process_vote.__self__


def at_once(twin, slots):
    state = twin.TowerVoteState(root=SLOTS[0] - 1)
    state.process_votes(slots)
    return state


def in_a_row(rng):
    return list(SLOTS)


def with_gaps(rng):
    """Some expire some of those before them: every step is from one slot to forty."""
    slots, slot = [], SLOTS[0]
    for _ in SLOTS:
        slot += rng.choice((1, 1, 1, 2, 3, 5, 40))
        slots.append(slot)
    return slots


@pytest.mark.parametrize("make", [in_a_row, with_gaps], ids=["in a row", "with gaps"])
def test_a_thousand_votes(benchmark, bench, make):
    slots = make(bench.rng)
    buffer = array("Q", slots)
    done = benchmark(at_once, _fast, buffer)
    expected = one_by_one(_reference, slots)
    for state in (done, at_once(_fast, slots), one_by_one(_fast, slots), at_once(_reference, buffer)):
        assert (state.votes, state.root) == (expected.votes, expected.root)
    samples = interleaved(
        {
            "twin": lambda: one_by_one(_reference, slots),
            "one by one": lambda: one_by_one(_fast, slots),
            "a list": lambda: at_once(_fast, slots),
            "a buffer": lambda: at_once(_fast, buffer),
        },
        rounds=bench.rounds(300),
    )
    note = "1,000 votes in a row" if make is in_a_row else "1,000 votes, some of which let others expire"
    for name, what, least in (
        ("one by one", "`process_vote`, 1,000 calls from Python", 20),
        ("a list", "`process_votes` of a list", 100),
        ("a buffer", "`process_votes` of a buffer of u64", 100),
    ):
        bench.row(
            TABLE, what, samples[name], against="the readable twin's 1,000", other=samples["twin"], at_least=least, note=note
        )
