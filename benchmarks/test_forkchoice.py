"""Fork choice: many new votes on a large tree, and whether a tree that has lived for long costs more than a young one."""

from __future__ import annotations

import time

import pytest

from benchmarks.measure import Sample, interleaved
from benchmarks.voters import Electorate, hash_of
from tower import _fast, _reference_tree
from tower.forkchoice import ForkChoice
from tower.keys import Keypair
from tower.types import FrozenBank

VOTERS, BANKS = 2000, 1000
AGES = (1_000, 10_000, 100_000)  # banks that the tree has seen
KEPT = 40  # banks between root and tip


def grown(choice, banks, rng):
    """A tree of that many banks, every tenth of them on a fork of its own."""
    forks, slots = choice(FrozenBank(0, None, hash_of(0))), [0]
    for slot in range(1, banks):
        parent = slots[-1] if rng.random() < 0.9 else rng.choice(slots)
        forks.add(FrozenBank(slot, parent, hash_of(slot)))
        slots.append(slot)
    return forks


def test_new_votes_on_a_large_tree(benchmark, bench):
    voters, banks = (VOTERS, BANKS) if bench.full else (50, 60)
    electorate = Electorate(voters, bench.rng)
    seed = bench.rng.randbytes(8)
    ours, plain = (grown(choice, banks, type(bench.rng)(seed)) for choice in (ForkChoice, _reference_tree.ForkChoice))
    pair, message = Keypair.generate(), bench.rng.randbytes(300)
    rounds = bench.rounds(60, 2)
    step = max(1, banks // (rounds + 1))
    taken, signed = [], []
    for turn in range(rounds):  # each round every voter votes for a newer slot; the banks that say so hang on the last tip
        drawn = range(turn * step, turn * step + step)
        slot = banks + turn
        bank = FrozenBank(slot, slot - 1, hash_of(slot), votes=electorate.newest_votes(drawn), stakes=electorate.stakes)
        began = time.perf_counter()
        ours.add(bank)
        best = ours.best()
        done = time.perf_counter()
        _fast.sign(pair.secret, message)
        signed.append(time.perf_counter() - done)
        taken.append(done - began)
        plain.add(bank)
        assert best == plain.best()
    benchmark(ours.best)
    bench.row("fork choice", f"{voters:,} new votes on a tree of {banks:,} banks, and the best fork", Sample(tuple(taken)),
              against="one bare signature", other=Sample(tuple(signed)), at_most=100, unit="sig")  # fmt: skip


@pytest.mark.parametrize("age", AGES)
def test_an_old_tree_costs_as_a_young_one(benchmark, bench, age):
    voters = 200 if bench.full else 10
    banks = age if bench.full else KEPT + 20
    electorate = Electorate(voters, bench.rng)
    forks = ForkChoice(FrozenBank(0, None, hash_of(0)))
    like = None
    last: list[float] = []
    for slot in range(1, banks + 1):
        bank = electorate.bank(slot, slot - 1, lambda slot=slot: slot - 1 + 40, like)
        like = bank.votes
        began = time.perf_counter()
        forks.add(bank)
        forks.best()
        if slot > KEPT:
            forks.set_root(slot - KEPT)
        last.append(time.perf_counter() - began)
    assert len(forks) == KEPT + 1
    assert forks.best().slot == banks
    benchmark(forks.best)
    newest = Sample(tuple(last[-min(500, banks // 2):]))
    bench.row("fork choice", f"one bank with {voters} new votes, the {banks:,}th of a tree of {KEPT}", newest)
    bench.series("cost against the age of the tree", "one bank, votes folded, root moved on", [banks], [newest.median * 1e6],
                 x_label="banks that the tree has seen", y_label="microseconds")  # fmt: skip


def test_the_best_fork(benchmark, bench):
    banks = BANKS if bench.full else 60
    forks = grown(ForkChoice, banks, bench.rng)
    pair, message = Keypair.generate(), bench.rng.randbytes(300)
    benchmark(forks.best)
    taken = interleaved({"sig": lambda: _fast.sign(pair.secret, message), "best": forks.best}, rounds=bench.rounds(400))
    bench.row("fork choice", f"the best fork of a tree of {banks:,} banks", taken["best"], against="one bare signature",
              other=taken["sig"], unit="sig")  # fmt: skip
