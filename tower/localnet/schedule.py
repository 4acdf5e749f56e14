"""Who leads which slot: by stake, in windows of four slots, a pure function of seed, epoch and stakes.

It decides nothing about banks; the cluster builds every bank itself, whoever leads. Operators' tools ask for it
(`getLeaderSchedule`) to find a window in which a restart costs nothing.

>>> schedule = leader_schedule(7, 0, {bytes([1]) * 32: 3, bytes([2]) * 32: 1}, 32)
>>> len(schedule), schedule == leader_schedule(7, 0, {bytes([2]) * 32: 1, bytes([1]) * 32: 3}, 32)
(32, True)
>>> all(len(set(schedule[start : start + 4])) == 1 for start in range(0, 32, 4))
True
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from tower.errors import InvalidInput

__all__ = ["WINDOW_SLOTS", "find_seed", "leader_schedule", "leader_slots"]

WINDOW_SLOTS = 4
SEEDS_TRIED_MAX = 10_000


def leader_schedule(seed: int, epoch: int, stakes: Mapping[bytes, int], slots_in_epoch: int) -> list[bytes]:
    """The identity that leads each slot of `epoch`, in order. The order of `stakes` does not matter."""
    identities = sorted(stakes, key=lambda identity: (-stakes[identity], identity))
    windows = -(-slots_in_epoch // WINDOW_SLOTS)
    # random.Random of a text is seeded through SHA-512, so it is the same in every process and Python version.
    chooser = random.Random(f"leader schedule {seed} {epoch}")
    chosen = chooser.choices(identities, weights=[stakes[identity] for identity in identities], k=windows)
    return [identity for identity in chosen for _ in range(WINDOW_SLOTS)][:slots_in_epoch]


def leader_slots(schedule: list[bytes], identity: bytes) -> list[int]:
    """The slot indices within the epoch that `identity` leads, ascending."""
    return [index for index, leader in enumerate(schedule) if leader == identity]


def find_seed(
    stakes: Mapping[bytes, int],
    identity: bytes,
    slots_in_epoch: int,
    *,
    first: int = 30,
    last: int = 60,
    idle: int = 2600,
    start: int = 1,
) -> int:
    """The smallest seed >= `start` with which `identity` leads one window that begins at a slot from `first` to `last`,
    none before it, and none for `idle` slots after it.

    So an operator who waits for an idle window of 10 minutes has to wait, and not for long.
    """
    horizon = last + WINDOW_SLOTS + idle
    if slots_in_epoch < horizon:
        raise InvalidInput(f"--seed auto needs --slots-in-epoch {horizon} or more, not {slots_in_epoch}")
    for seed in range(start, start + SEEDS_TRIED_MAX):
        # `choices` draws window by window, so the first windows do not depend on how many follow.
        mine = leader_slots(leader_schedule(seed, 0, stakes, horizon), identity)
        if len(mine) < WINDOW_SLOTS or not first <= mine[0] <= last:
            continue
        after = [slot for slot in mine if slot >= mine[0] + WINDOW_SLOTS]
        if not after or after[0] - (mine[0] + WINDOW_SLOTS) >= idle:
            return seed
    raise InvalidInput(
        f"--seed auto: no seed up to {start + SEEDS_TRIED_MAX} gives the identity one leader window and then "
        f"{idle} idle slots; give a smaller --stake-share"
    )
