"""On the losing side of one fork after another: the tower's rules hold, and voting goes on after each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cluster import run_world, until

FORK_EVERY, FORK_LENGTH, FORKS = 12, 6, 6


@pytest.mark.timeout(90)
def test_the_losing_side_again_and_again(tmp_path: Path, seed: int) -> None:
    forks = ["--fork-every", str(FORK_EVERY), "--fork-length", str(FORK_LENGTH), "--rpc-on-minority"]
    with run_world(tmp_path, *forks, "--voters", "5", seed=seed, slot_ms=100) as world:
        machine = world.validator().start().wait_running()
        first = machine.wait_vote()["last_slot"]
        end = first + FORKS * FORK_EVERY
        until(lambda: world.slot() >= end, f"{FORKS} forks", 60)
        machine.wait_vote()
        report = world.report()
        chain, voted = set(report["chain"]), [vote["last_slot"] for vote in world.votes()]
        lost = [slot for slot in voted if slot not in chain]
        assert lost, "it never voted on a fork that lost"
        for start in range(first, end, 2 * FORK_EVERY):
            window = range(start, start + 2 * FORK_EVERY)
            assert any(slot in chain and slot in window for slot in voted), f"no vote of slots {window} counts: {voted}"
        assert machine.running
        world.assert_no_conflict()
