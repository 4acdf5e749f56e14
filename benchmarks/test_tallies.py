"""Stake tallies of one bank: what the threshold check and the switch check are given, for every voter and lockout in it.

Each voter has 31 lockouts on our own fork, so that none of them ends the look at a voter early: the most work there can be.
"""

from __future__ import annotations

import pytest

from benchmarks.measure import interleaved
from benchmarks.voters import Electorate, hash_of
from tower import _fast, _reference_tree, checks
from tower._tree import LockedOut
from tower.forkchoice import ForkChoice
from tower.keys import Keypair
from tower.types import FrozenBank

TIP, ROOT = 1000, 900
VOTERS = (100, 300, 1000, 2000, 5000, 10_000)
TARGET_VOTERS = 2000
DEPTH_BELOW = 20  # of our own stack
AGES = (0, 0, 0, 1, 1, 2, 5, 30)  # slots by which voters are behind the bank's parent


def scene(voters, bench):
    """A chain of banks, its tip with that many voters; and the same banks in the readable twin's tree."""
    electorate = Electorate(voters, bench.rng)
    tip = electorate.bank(TIP, TIP - 1, lambda: TIP - 1 - bench.rng.choice(AGES))
    banks = [FrozenBank(ROOT, None, hash_of(ROOT)), *(FrozenBank(slot, slot - 1, hash_of(slot)) for slot in range(ROOT + 1, TIP))]
    ours, plain = ForkChoice(banks[0]), _reference_tree.ForkChoice(banks[0])
    for bank in banks[1:]:
        ours.add(bank)
        plain.add(bank)
    ours.add(tip)
    plain.add(tip)
    return ours, plain, tip


def tallies(forks, bank):
    """Both: the stake by newest vote for the thresholds, and who is locked out of our last vote's fork."""
    votes = forks.votes_in(bank)
    newest = votes.newest_under(bank.slot)
    counted = LockedOut(votes)
    forks.add_locked_out(bank, TIP - 1, counted)
    return newest, counted.stake(bank.stakes), votes.total_stake


def tallies_of_the_twin(forks, bank):
    newest = _reference_tree.newest_under(bank, bank.slot)
    out = _reference_tree.locked_out(bank, TIP - 1, forks)
    return newest, sum(bank.stakes.get(account, 0) for account in out), sum(bank.stakes.get(each, 0) for each in bank.votes)


@pytest.mark.parametrize("voters", VOTERS)
def test_tallies_of_one_bank(benchmark, bench, voters):
    if not bench.full and voters > VOTERS[0]:
        voters = VOTERS[0] + 1
    ours, plain, tip = scene(voters, bench)
    assert tallies(ours, tip) == tallies_of_the_twin(plain, tip)
    secret, message = Keypair.generate().secret, bench.rng.randbytes(300)
    benchmark.pedantic(tallies, (ours, tip), rounds=bench.rounds(50, 1))
    cases = {"sig": lambda: _fast.sign(secret, message), "ours": lambda: tallies(ours, tip)}
    taken = interleaved(cases, rounds=bench.rounds(400))
    ratio = bench.row(
        "stakes",
        f"tallies of one bank, {voters:,} voters x 31 lockouts",
        taken["ours"],
        against="one bare signature",
        other=taken["sig"],
        at_most=15 if voters == TARGET_VOTERS else None,
        unit="sig",
    )
    bench.series("cost against voters", "tallies of one bank", [voters], [ratio], x_label="voters", y_label="signatures")
    if voters == TARGET_VOTERS:
        both = {"ours": lambda: tallies(ours, tip), "twin": lambda: tallies_of_the_twin(plain, tip)}
        taken = interleaved(both, rounds=bench.rounds(20))
        bench.row("stakes", "the same", taken["ours"], against="the readable twin", other=taken["twin"], at_least=1)


def test_the_checks_of_one_bank(benchmark, bench):
    """Threshold and switch check as the voter asks them, on the bank that is voted for."""
    voters = TARGET_VOTERS if bench.full else VOTERS[0]
    ours, _, tip = scene(voters, bench)
    state = _fast.TowerVoteState([(TIP - DEPTH_BELOW + at, DEPTH_BELOW + 1 - at) for at in range(1, DEPTH_BELOW)])

    def both():
        return checks.check_thresholds(state, tip, ours, 8, 2 / 3), checks.check_switch(state.last_voted_slot, tip, ours)

    thresholds, (decision, _) = both()
    assert all(check.passed for check in thresholds)
    assert decision is checks.SwitchDecision.SAME_FORK
    secret, message = Keypair.generate().secret, bench.rng.randbytes(300)
    benchmark(both)
    taken = interleaved({"sig": lambda: _fast.sign(secret, message), "ours": both}, rounds=bench.rounds(400))
    bench.row("stakes", f"threshold and switch check, {voters:,} voters", taken["ours"], against="one bare signature",
              other=taken["sig"], unit="sig")  # fmt: skip
