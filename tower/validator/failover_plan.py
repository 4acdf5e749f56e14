"""What a failover would change, and what speaks against it: from the facts that were read, without I/O.

`Facts` is one reading of this node, the store and the cluster; `steps` are the numbered steps of its role, `rows` the table of
before and after, `problems` everything for which a failover would be refused before it begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tower.store import ABSENT, Owner
from tower.validator.failover import Step
from tower.validator.handover import BEACON_SLOTS_MAX, Beacon

__all__ = ["GIVER", "TAKER", "Facts", "Row", "choose_spare", "facts_document", "problems", "rows", "spare_problem", "steps"]

TAKER, GIVER = "taker", "giver"


@dataclass(frozen=True, slots=True)
class Facts:
    """Slots are absolute. What could not be read, or does not exist, is `None`; `unfit` is empty if this node is fit."""

    role: str
    identity: str
    vote_account: str
    node: str  # the identity that this node has now
    who: str  # this machine's name
    node_slot: int
    unfit: str = ""
    fence: int = ABSENT
    owner: Owner | None = None
    stored_slot: int | None = None
    stored_root: int | None = None
    tower_bytes: int = 0
    owner_active: bool = False  # its tower changed while it was looked at
    slot: int = 0  # of the cluster
    healthy: bool = False
    epoch: int = 0
    epoch_slots_left: int = 0
    next_leader_slot: int | None = None
    landed: int | None = None
    window: str = ""  # what `wait-for-restart-window` says now
    spare: Beacon | None = None  # giver: who would be asked
    no_spare: str = ""  # giver: why nobody can be
    look_ms: float = 0.0

    @property
    def tower_age(self) -> int | None:
        """Slots from the stored tower's last vote to the cluster's newest bank."""
        return None if self.stored_slot is None else max(0, self.slot - self.stored_slot)

    @property
    def behind(self) -> int | None:
        """Slots from the account's last landed vote to the cluster's newest bank."""
        return None if self.landed is None else max(0, self.slot - self.landed)


class Row(NamedTuple):
    name: str
    before: str
    after: str


def steps(facts_role: str, identity: str, *, step_s: float, window_s: float, skip_window: bool) -> list[Step]:
    """The steps of a failover for this node's role, each with its deadline in seconds."""
    short = f"{identity[:8]}…"
    window = [] if skip_window else [Step("window", "Wait for a restart window", window_s)]
    store = Step("store", "The store answers and its tower is whole", step_s)
    cluster = Step("cluster", "The cluster answers: epoch, leader slots, votes", step_s)
    check = Step("check", "Nothing speaks against it", step_s)
    vote = Step("vote", "The new owner's first vote is stored and has landed", step_s)
    if facts_role == GIVER:
        return [
            Step("here", f"This node votes as {short}: its state", step_s),
            store,
            cluster,
            Step("spare", "Spares that accept hand-overs", step_s),
            check,
            *window,
            Step("offer", "Ask it to take over, and lose the fence to it", step_s, writes=True),
            vote,
        ]
    return [
        Step("here", f"This node could vote as {short}: caught up, keys, stored tower", step_s),
        store,
        cluster,
        check,
        *window,
        Step("take", "Look, check and claim", step_s, writes=True),
        vote,
    ]


def choose_spare(beacons: Sequence[Beacon], slot: int, wanted: str | None) -> tuple[Beacon | None, str]:
    """Whom to ask, and why nobody where there is nobody. `wanted` is a machine's name; else the one that is furthest.

    >>> choose_spare([], 100, None)[1]
    'no spare has announced itself in the store; start one with --accept-handover, or run `failover run` on the spare'
    """
    named = [beacon for beacon in beacons if wanted in (None, beacon.who)]
    if not named:
        whom = "no spare" if wanted is None else f"no spare named {wanted}"
        others = ", ".join(sorted(beacon.who for beacon in beacons))
        hint = f" (there are: {others})" if others else ""
        fix = "start one with --accept-handover, or run `failover run` on the spare"
        return None, f"{whom} has announced itself in the store{hint}; {fix}"
    best = max(named, key=lambda beacon: (not spare_problem(beacon, slot), beacon.slot, beacon.who))
    return best, spare_problem(best, slot)


def spare_problem(beacon: Beacon, slot: int) -> str:
    """Why this spare cannot be asked; empty if it can. `slot` is the cluster's."""
    if slot - beacon.slot > BEACON_SLOTS_MAX:
        return f"the spare {beacon.who} was last heard of {slot - beacon.slot} slots ago"
    return f"the spare {beacon.who} cannot take over now: {beacon.unfit}" if beacon.unfit else ""


def problems(facts: Facts) -> list[str]:
    """Everything for which this failover would be refused now."""
    found = [facts.unfit] if facts.unfit else []
    if facts.fence == ABSENT:
        found.append(
            f"nobody ever claimed {facts.identity} in this store, so an owner that votes elsewhere would not be stopped; "
            "if you know that there is none, use set-identity"
        )
    if not facts.healthy:
        found.append("the cluster's RPC calls itself unhealthy")
    if facts.no_spare:
        found.append(facts.no_spare)
    return found


def _owner(owner: Owner | None) -> str:
    if owner is None:
        return "unknown (it leaves no name)"
    where = f" on {owner.host}" if owner.host and owner.host != owner.who else ""
    return f"{owner.who}{where} ({owner.why})"


def _behind(slot: int | None, behind: int | None) -> str:
    return "none" if slot is None else f"{slot} ({behind} slots behind)"


def rows(facts: Facts, after: Facts | None = None) -> list[Row]:
    """The table. `after` is what was read at the end of a real failover; without it, what is to be expected."""
    taking = facts.role == TAKER
    spare = facts.spare.who if facts.spare is not None else "the spare"
    new_owner = facts.who if taking else spare
    there = "votes" if facts.owner_active else "silent"
    if not taking:
        there = facts.no_spare or f"{spare} is ready at slot {facts.spare.slot if facts.spare else 0}"
    leader = facts.next_leader_slot
    table = [
        Row("identity of this node", facts.node, facts.identity if taking else "its unstaked one, or it ends"),
        Row("owner", _owner(facts.owner), new_owner),
        Row("fence", str(facts.fence), f"above {facts.fence}"),
        Row("epoch", f"{facts.epoch}, {facts.epoch_slots_left} slots left", "the same"),
        Row("slot", f"{facts.slot}, this node {facts.node_slot}", ""),
        Row("next leader slot", "none in this epoch" if leader is None else f"{leader} (in {leader - facts.slot} slots)", ""),
        Row("last stored vote", _behind(facts.stored_slot, facts.tower_age), "a later one, on the same tower"),
        Row("last landed vote", _behind(facts.landed, facts.behind), "the new owner's"),
        Row("health here", facts.unfit or "good", "votes" if taking else "a spare, or ended"),
        Row("health there", there, "stops at its next write" if taking else "votes"),
    ]
    if facts.window:
        table.insert(6, Row("restart window", facts.window, ""))
    if after is None:
        return table
    real = {
        "identity of this node": after.node,
        "owner": _owner(after.owner),
        "fence": str(after.fence),
        "epoch": f"{after.epoch}, {after.epoch_slots_left} slots left",
        "slot": str(after.slot),
        "last stored vote": _behind(after.stored_slot, after.tower_age),
        "last landed vote": _behind(after.landed, after.behind),
        "health here": after.unfit or "good",
        "health there": "",
    }
    return [row._replace(after=real.get(row.name, "")) for row in table]


def facts_document(facts: Facts | None) -> dict[str, Any] | None:
    """The facts as JSON, under the names that the other commands use."""
    if facts is None:
        return None
    owner, spare = facts.owner, facts.spare
    return {
        "node": {"identity": facts.node, "who": facts.who, "slot": facts.node_slot, "unfit": facts.unfit or None},
        "fence": facts.fence,
        "owner": None if owner is None else {"who": owner.who, "host": owner.host, "why": owner.why, "atMs": owner.at_ms},
        "ownerActive": facts.owner_active,
        "tower": {
            "lastVotedSlot": facts.stored_slot,
            "root": facts.stored_root,
            "bytes": facts.tower_bytes,
            "ageSlots": facts.tower_age,
        },
        "landedSlot": facts.landed,
        "behindSlots": facts.behind,
        "slot": facts.slot,
        "healthy": facts.healthy,
        "epoch": facts.epoch,
        "epochSlotsLeft": facts.epoch_slots_left,
        "nextLeaderSlot": facts.next_leader_slot,
        "restartWindow": facts.window or None,
        "spare": None if spare is None else _beacon_document(spare),
        "lookMilliseconds": facts.look_ms,
    }


def _beacon_document(spare: Beacon) -> dict[str, Any]:
    return {"who": spare.who, "host": spare.host, "slot": spare.slot, "unfit": spare.unfit or None}
