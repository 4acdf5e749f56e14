"""The promises of docs/safety.md as functions of a state, or of a step, of the executable model. See `spec.model`."""

# ruff: noqa: N802 - the names are those of FencedTower.tla, by which the two are held to each other

from __future__ import annotations

from collections.abc import Callable

from spec.values import Constants, IsPrefix, Last, Node, Nodes, OneChain, State, States, Voting, WellFormed

__all__ = [
    "OF_EVERY_STATE",
    "OF_EVERY_STEP",
    "DurableBeforeRelease",
    "FencedWrites",
    "MonotoneTower",
    "NoConflictingRelease",
    "NoDecisionWhileUnresolved",
    "OneBlockPerSlot",
    "Refines",
    "TypeOK",
    "WellFormedTower",
]


def TypeOK(c: Constants, s: State) -> bool:
    store = s.store
    return (
        all(me.state in States for me in s.node)
        and all(m.type in {"claim", "store", "reserve"} and m.node in Nodes(c) and 1 <= m.claim <= s.claims for m in s.sent)
        and all(a.to.node in Nodes(c) and a.what.outcome in {"claimed", "committed", "refused"} for a in s.answers)
        and 0 <= store.instance.revision <= store.revision
        and 0 <= store.instance.claim <= s.claims
        and 0 <= store.tower.revision <= store.revision
        and 0 <= store.blocks.revision <= store.revision
        and s.late <= {"store", "reserve"}
    )


def NoConflictingRelease(s: State) -> bool:
    """S1: all votes ever released for the identity, by any machine, lie on one chain of tower steps."""
    return all(OneChain(a, b) for a in s.released for b in s.released)


def DurableBeforeRelease(s: State) -> bool:
    """S2: a vote is released only after the tower that contains it is durable."""
    return s.released <= s.durable


def FencedWrites(s: State) -> bool:
    """S3: after another life has claimed, no write of the old one commits."""
    return not s.late


def MonotoneTower(s: State, after: State) -> bool:
    """S4: the stored tower only moves forward."""
    return IsPrefix(s.store.tower.votes, after.store.tower.votes)


def WellFormedTower(s: State) -> bool:
    """S5: every tower that is stored, loaded or about to be stored is well formed."""
    return WellFormed(s.store.tower.votes) and all(WellFormed(me.tower) and WellFormed(me.pending) for me in s.node)


def NoDecisionWhileUnresolved(s: State) -> bool:
    """S6: of the writes of one life whose outcome it does not know there is at most one."""

    def open_writes(me: Node) -> int:
        return sum(
            m.type == "store" and m.claim == me.claim and m.expected == me.revision and m.votes != me.tower for m in s.sent
        )

    return all(open_writes(me) <= 1 for me in s.node if me.state in Voting)


def OneBlockPerSlot(s: State) -> bool:
    """S7: at most one life produces a block for a slot."""
    return all(a == b for a in s.produced for b in s.produced if a.slot == b.slot)


def Refines(s: State, after: State) -> bool:
    """A step is one of FencedVoting, or none that can be seen from there: Extend, Release or Produce, and no two at once."""
    chain, longer = s.store.tower.votes, after.store.tower.votes
    released, produced = after.released - s.released, after.produced - s.produced
    extend = chain != longer
    seen = (after.released != s.released) + (after.produced != s.produced) + extend
    return (
        seen <= 1
        and s.released <= after.released
        and s.produced <= after.produced
        and (not extend or (IsPrefix(chain, longer) and len(longer) == len(chain) + 1 and longer[-1] > Last(chain)))
        and (not released or (len(released) == 1 and all(tower and IsPrefix(tower, chain) for tower in released)))
        and (not produced or (len(produced) == 1 and all(a.slot != b.slot for a in produced for b in s.produced)))
    )


OF_EVERY_STATE: tuple[Callable[[State], bool], ...] = (
    NoConflictingRelease,
    DurableBeforeRelease,
    FencedWrites,
    WellFormedTower,
    NoDecisionWhileUnresolved,
    OneBlockPerSlot,
)
OF_EVERY_STEP: tuple[Callable[[State, State], bool], ...] = (MonotoneTower, Refines)
