"""A primary that was away for longer than the cluster's SlotHashes reach.

Its stored tower holds a root and votes that no bank of its new tree names. The SlotHistory says which of them the cluster
rooted; without it the root would count as another fork's, and the validator would never vote again.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.cluster import run_world, until
from tower.wire import decode_saved_tower

SLOT_HASHES_NAMED = 512


def test_away_for_longer_than_the_cluster_remembers(tmp_path: Path, seed: int) -> None:
    # Slots this short are over before a busy machine has seen them, so being caught up may take a while.
    with run_world(tmp_path, "--fork-every", "0", "--voters", "1", seed=seed, slot_ms=15) as world:
        machine = world.validator().start().wait_running(60)

        def rooted() -> bool:
            return (machine.status().get("rootSlot") or 0) > 0

        until(rooted, "it has a root of its own")
        machine.end()
        tower = decode_saved_tower(world.tower_file.read_bytes(), world.identity.address)
        last = tower.last_voted_slot or 0

        def banks_since() -> int:  # slots are skipped where the machine is slow: banks are what SlotHashes counts
            return len(world.call("localnetChain", {"fromSlot": last + 1})["chain"])

        until(lambda: banks_since() > SLOT_HASHES_NAMED + 40, "the cluster goes on without it", 60)
        machine.start().wait_running(60).wait_vote(more_than=40)
        landed = [vote for vote in world.votes() if vote["landed"] is not None and vote["last_slot"] > last]
        assert len(landed) > 20
        assert machine.status()["rootSlot"] > last
        world.assert_no_conflict()
