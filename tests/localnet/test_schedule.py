"""The leader schedule and the partitions: functions of the seed with the promised shape."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from tests.localnet.support import OUR_ACCOUNT, OURS, genesis, hash_of
from tower.errors import InvalidInput
from tower.localnet.forks import MINORITY, PartitionPlan
from tower.localnet.genesis import LocalnetConfig
from tower.localnet.schedule import find_seed, leader_schedule, leader_slots


def test_windows_of_four_by_stake(rng: random.Random) -> None:
    stakes = {hash_of(n): stake for n, stake in enumerate((50, 30, 20))}
    schedule = leader_schedule(rng.randrange(1 << 32), 3, stakes, 40_002)
    assert len(schedule) == 40_002
    for start in range(0, 40_000, 4):
        assert len(set(schedule[start : start + 4])) == 1
    led = Counter(schedule)
    for identity, stake in stakes.items():
        assert abs(led[identity] / len(schedule) - stake / 100) < 0.03


def test_seed_and_epoch_change_it_and_nothing_else_does() -> None:
    stakes = {hash_of(n): 10 for n in range(5)}
    reference = leader_schedule(1, 0, stakes, 512)
    assert reference != leader_schedule(2, 0, stakes, 512)
    assert reference != leader_schedule(1, 1, stakes, 512)
    assert reference == leader_schedule(1, 0, dict(reversed(stakes.items())), 512)
    # The same in another process, where hashes of strings differ.
    code = (
        "import hashlib\nfrom tower.localnet.schedule import leader_schedule\n"
        "stakes = {hashlib.sha256(str(n).encode()).digest(): 10 for n in range(5)}\n"
        "print(b''.join(leader_schedule(1, 0, stakes, 512)).hex())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert other.stdout.strip() == b"".join(reference).hex()


def test_find_seed_gives_one_window_soon_and_then_none_for_long() -> None:
    config = LocalnetConfig()
    made = genesis(config)
    seed = find_seed(made.identity_stakes, OURS.pubkey, config.slots_in_epoch)
    mine = leader_slots(leader_schedule(seed, 0, made.identity_stakes, config.slots_in_epoch), OURS.pubkey)
    assert 30 <= mine[0] <= 60
    assert mine[:4] == list(range(mine[0], mine[0] + 4))
    assert all(slot >= mine[0] + 4 + 2600 for slot in mine[4:])


def test_find_seed_says_what_is_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tower.localnet.schedule.SEEDS_TRIED_MAX", 50)
    made = genesis(LocalnetConfig(stake_share=0.9))
    with pytest.raises(InvalidInput, match="--stake-share"):
        find_seed(made.identity_stakes, OURS.pubkey, 8192)
    with pytest.raises(InvalidInput, match="--slots-in-epoch"):
        find_seed(made.identity_stakes, OURS.pubkey, 512)


@pytest.mark.parametrize("rpc_on_minority", [False, True])
def test_the_minority_is_under_a_third_and_the_sides_take_turns(rng: random.Random, rpc_on_minority: bool) -> None:
    others = {hash_of(n): rng.randrange(1, 50) for n in range(9)}
    ours = 5
    total = sum(others.values()) + ours
    plan = PartitionPlan(rng.randrange(1 << 32), 40, 6, others, OUR_ACCOUNT, ours, rpc_on_minority)
    minorities = set()
    for index in range(1, 60):
        assert plan.at(index * 40 - 1) is None
        assert plan.at(index * 40 + 6) is None
        cut = plan.at(index * 40)
        assert cut is not None
        assert {cut, *(plan.at(index * 40 + offset) for offset in range(6))} == {cut}
        assert sum(({**others, OUR_ACCOUNT: ours})[account] for account in cut.minority) * 3 < total
        assert (cut.side_of(OUR_ACCOUNT) == MINORITY) == rpc_on_minority
        sides = [cut.side_of_slot(slot) for slot in range(cut.start, cut.end)]
        assert sides in ([0, 1] * 3, [1, 0] * 3)
        minorities.add(cut.minority)
    assert len(minorities) > 10
