"""FencedTower.tla in Python: one function for each action and each promise, under the names that they have there.

An action takes the constants, a state, and what the TLA+ quantifies over. It returns the next state, or `None` where it is
not enabled; it changes nothing. `Next` gives every step out of a state. States are made of tuples and frozen sets, so they can
be kept, compared and hashed. With guards taken out of `Constants` the protocol fails as it does there.

`tests/spec/test_model.py` holds it to the module: the same names with the same arguments, the same numbers of states, the same
shortest counterexamples. `spec.explore` visits every state of it; `tests/stateful` walks it beside the real voter.

Machines are numbered from 0, those of this product and those of the older kind together.

>>> c = Constants(Lives=frozenset({1, 2}), Instances=frozenset({0, 1}), Slots=frozenset({1, 2}))
>>> s = Claim(c, Look(c, Init(c), 0), 0)
>>> (request,) = s.sent
>>> s = TakeClaim(c, s, request)
>>> s = Persist(c, Claimed(c, s, 0, *s.answers), 0, 2)
>>> s.node[0].state, s.node[0].pending, s.store.tower.votes
('persisting', (2,), ())
>>> Persist(c, s, 0, 3) is None  # not while an outcome is open
True
>>> s = TakeStore(c, s, StoreRequest(s, 0))
>>> s = Committed(c, s, 0, *s.answers)
>>> s.node[0].state, s.released == {(2,)}, NoConflictingRelease(s)
('ready', True, True)
"""

# ruff: noqa: N802 - the names are those of the TLA+ module, by which the two are held to each other

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from spec.promises import (
    OF_EVERY_STATE,
    OF_EVERY_STEP,
    DurableBeforeRelease,
    FencedWrites,
    MonotoneTower,
    NoConflictingRelease,
    NoDecisionWhileUnresolved,
    OneBlockPerSlot,
    Refines,
    TypeOK,
    WellFormedTower,
)
from spec.values import (
    Awaited,
    Blocks,
    Brought,
    ClaimRequest,
    Constants,
    FenceHolds,
    Init,
    Instance,
    Last,
    Message,
    Nodes,
    Nothing,
    Once,
    Outcome,
    Produced,
    Reply,
    ReserveRequest,
    State,
    Step,
    StoredTower,
    StoreRequest,
    TooLate,
    Tower,
    TowerRevision,
    Voting,
    changed,
    written,
)

__all__ = [
    "OF_EVERY_STATE",
    "OF_EVERY_STEP",
    "Claim",
    "ClaimArrives",
    "Claimed",
    "Committed",
    "Constants",
    "Crash",
    "DeadlinePassed",
    "DurableBeforeRelease",
    "FenceLost",
    "FencedWrites",
    "Init",
    "Load",
    "Look",
    "MonotoneTower",
    "Next",
    "NoConflictingRelease",
    "NoDecisionWhileUnresolved",
    "OneBlockPerSlot",
    "Persist",
    "Produce",
    "ProduceUnfenced",
    "Refines",
    "Refresh",
    "Refused",
    "Reserve",
    "ReserveArrives",
    "Resign",
    "Settle",
    "StoreArrives",
    "Sweep",
    "TakeClaim",
    "TakeReservation",
    "TakeStore",
    "Tick",
    "TypeOK",
    "Unknown",
    "WellFormedTower",
]


def Arrived(c: Constants, s: State, m: Message) -> State:
    """The request was used up, if it is of the kind that is sent once."""
    return s._replace(sent=s.sent - {m}) if Once(c, m) else s


def Answer(s: State, m: Message, outcome: Outcome) -> State:
    """The store answers; nobody hears an answer that nobody waits for."""
    return s._replace(answers=s.answers | {Reply(m, outcome)}) if Awaited(s, m) else s


# ---------------------------------------------------------------------------------- a machine's life: look, claim, load


def End(c: Constants, s: State, n: int) -> State:
    """The machine's life ends, and with it all that it knew. What it sent is on its way all the same."""
    ended = changed(s, n, **Nothing(c)._asdict())
    return ended._replace(answers=frozenset(a for a in s.answers if a.to.node != n))


def Look(c: Constants, s: State, n: int) -> Step:
    """Read both keys without effect on them."""
    if not (n in c.Instances and s.node[n].state == "standby"):
        return None
    return changed(s, n, state="looking", seen=s.store.instance.revision)


def Claim(c: Constants, s: State, n: int) -> Step:
    """Send a claim with fresh bytes. An older validator claims without a look."""
    if s.node[n].state != ("standby" if n in c.Legacy else "looking") or s.claims + 1 not in c.Lives:
        return None
    value = s.claims + 1 if c.RandomInstance else s.clock
    s = changed(s, n, state="claiming", claim=s.claims + 1, value=value)
    return s._replace(claims=s.claims + 1, sent=s.sent | {ClaimRequest(s, n)})


def TakeClaim(c: Constants, s: State, m: Message) -> Step:
    """What the store does with a claim: compare, put and read in one. Without AtomicClaim, and for an older validator: put."""
    if m.type != "claim":
        return None
    s = Arrived(c, s, m)
    if Once(c, m) or s.store.instance.revision == m.seen:
        instance = Instance(s.store.revision + 1, m.value, m.claim)
        return Answer(written(s, instance=instance), m, Brought(c, s, instance))
    if s.store.instance.value == m.value:  # an earlier copy of it had won
        return Answer(s, m, Brought(c, s, s.store.instance))
    return Answer(s, m, Outcome("refused"))


def Claimed(c: Constants, s: State, n: int, a: Reply) -> Step:
    """The claim succeeded: the fence is held and the tower is loaded, both as of the same moment."""
    if not (a in s.answers and s.node[n].state == "claiming"):
        return None
    if not (a.to.node == n and a.to.type == "claim" and a.what.outcome == "claimed"):
        return None
    if Once(c, a.to):
        s = changed(s, n, state="loading")
    else:
        what = a.what
        s = changed(s, n, state="ready", fence=what.fence, tower=what.tower, revision=what.revision,
                    mark=what.mark, markRevision=what.markRevision)  # fmt: skip
    return s._replace(answers=frozenset(b for b in s.answers if b.to.node != n))


def Load(c: Constants, s: State, n: int) -> Step:
    """A second transaction reads what the claim's put came to; an older validator asks whether its bytes are still there."""
    store = s.store
    if s.node[n].state != "loading" or (n in c.Legacy and store.instance.value != s.node[n].value):
        return None
    return changed(s, n, state="ready", fence=store.instance.revision, tower=store.tower.votes, revision=TowerRevision(c, s),
                   mark=store.blocks.mark, markRevision=store.blocks.revision)  # fmt: skip


# ----------------------------------------------------------------------------------- one vote: persist, then release


def Send(c: Constants, s: State, n: int, tower: Tower) -> State:
    """The tower of a decided vote goes to the store."""
    s = changed(s, n, state="persisting", pending=tower)
    return s._replace(
        sent=s.sent | {StoreRequest(s, n)},
        answers=frozenset(a for a in s.answers if not (a.to.node == n and a.to.type == "store")),
        released=s.released if c.CommitBeforeRelease else s.released | {tower},
    )


def Persist(c: Constants, s: State, n: int, slot: int) -> Step:
    """Decide a vote for a later slot, on top of what is durable, and persist it."""
    me = s.node[n]
    may_decide = {"ready"} if c.SettleBeforeDeciding else {"ready", "unresolved"}
    return Send(c, s, n, (*me.tower, slot)) if me.state in may_decide and slot > Last(me.tower) else None


def Refresh(c: Constants, s: State, n: int) -> Step:
    """Send the last vote once more, with a younger blockhash: the same promise, through the same door."""
    me = s.node[n]
    return Send(c, s, n, me.tower) if me.state == "ready" and me.tower else None


def TakeStore(c: Constants, s: State, m: Message) -> Step:
    """What the store does with a write: both comparisons, then the put."""
    if m.type != "store":
        return None
    s = Arrived(c, s, m)
    if FenceHolds(c, s, m) and (m.node in c.Legacy or not c.CompareTower or TowerRevision(c, s) == m.expected):
        s = written(s, tower=StoredTower(s.store.revision + 1, m.votes))
        s = s._replace(durable=s.durable | {m.votes}, late=s.late | TooLate(s, m))
        return Answer(s, m, Outcome("committed", revision=TowerRevision(c, s)))
    if m.node not in c.Legacy and FenceHolds(c, s, m) and s.store.tower.votes == m.votes:  # an earlier copy had won
        return Answer(s, m, Outcome("committed", revision=TowerRevision(c, s)))
    return Answer(s, m, Outcome("refused"))


def Committed(c: Constants, s: State, n: int, a: Reply) -> Step:
    """The store says that the tower is durable: the vote is released. The only way in which a vote leaves."""
    me = s.node[n]
    if not (a in s.answers and me.state in {"persisting", "unresolved"}):
        return None
    if not (a.to == StoreRequest(s, n) and a.what.outcome == "committed"):
        return None
    s = changed(s, n, state="ready", tower=me.pending, revision=a.what.revision, pending=())
    return s._replace(
        released=s.released | {me.pending},
        answers=frozenset(b for b in s.answers if not (b.to.node == n and b.to.type == "store")),
    )


def Unknown(c: Constants, s: State, n: int) -> Step:
    """No answer came in time, so nothing is known. An older validator ends here (DeadlinePassed)."""
    if not (n in c.Instances and s.node[n].state == "persisting"):
        return None
    released = s.released if c.HoldUnknown else s.released | {s.node[n].pending}
    return changed(s, n, state="unresolved")._replace(released=released)


def Settle(c: Constants, s: State, n: int) -> Step:
    """Repeat the write, unchanged. What may arrive again is in `sent` already, so nothing changes here."""
    return s if s.node[n].state == "unresolved" and StoreRequest(s, n) in s.sent else None


# ------------------------------------------------------------------------------------------------------------ blocks


def Reserve(c: Constants, s: State, n: int, slot: int) -> Step:
    """Ask for a slot above all that were reserved."""
    me = s.node[n]
    if not (n in c.Instances and me.state in Voting and c.FencedBlocks and me.reserving == 0 and slot > me.mark):
        return None
    s = changed(s, n, reserving=slot)
    return s._replace(sent=s.sent | {ReserveRequest(s, n)})


def TakeReservation(c: Constants, s: State, m: Message) -> Step:
    """What the store does with a reservation: both comparisons, then the put."""
    if m.type != "reserve":
        return None
    s = Arrived(c, s, m)
    if FenceHolds(c, s, m) and (not c.CompareBlocks or s.store.blocks.revision == m.expected):
        s = written(s, blocks=Blocks(s.store.revision + 1, m.slot))
        s = s._replace(late=s.late | TooLate(s, m))
        return Answer(s, m, Outcome("committed", revision=s.store.blocks.revision))
    if FenceHolds(c, s, m) and s.store.blocks.mark == m.slot:  # an earlier copy had won
        return Answer(s, m, Outcome("committed", revision=s.store.blocks.revision))
    return Answer(s, m, Outcome("refused"))


def Produce(c: Constants, s: State, n: int, a: Reply) -> Step:
    """The slot is ours: the block is produced."""
    me = s.node[n]
    if not (a in s.answers and me.reserving != 0):
        return None
    if not (a.to == ReserveRequest(s, n) and a.what.outcome == "committed"):
        return None
    s = changed(s, n, mark=me.reserving, markRevision=a.what.revision, reserving=0)
    return s._replace(
        produced=s.produced | {Produced(me.reserving, me.claim)},
        answers=frozenset(b for b in s.answers if not (b.to.node == n and b.to.type == "reserve")),
    )


def ProduceUnfenced(c: Constants, s: State, n: int, slot: int) -> Step:
    """A block by belief alone (only without FencedBlocks)."""
    me = s.node[n]
    if c.FencedBlocks or not (n in c.Instances and me.state in Voting and slot > me.mark):
        return None
    return changed(s, n, mark=slot)._replace(produced=s.produced | {Produced(slot, me.claim)})


# ------------------------------------------------------------------------------------------------ the ends of a life


def Crash(c: Constants, s: State, n: int) -> Step:
    """The process dies or is killed; also a machine that is frozen and never thawed."""
    return End(c, s, n) if s.node[n].state != "standby" else None


def Resign(c: Constants, s: State, n: int) -> Step:
    """By order: set-identity away from it, demote, exit."""
    return End(c, s, n) if s.node[n].state != "standby" else None


def FenceLost(c: Constants, s: State, n: int) -> Step:
    """The watch sees that somebody else claimed."""
    me = s.node[n]
    return End(c, s, n) if me.state in Voting and s.store.instance.revision != me.fence else None


def DeadlinePassed(c: Constants, s: State, n: int) -> Step:
    """The time is over that a vote may wait for its store."""
    return End(c, s, n) if s.node[n].state in {"claiming", "persisting", "unresolved"} else None


def Refused(c: Constants, s: State, n: int, a: Reply) -> Step:
    """The store refused. A refused claim means: look again, which is a new life here."""
    return End(c, s, n) if a in s.answers and a.to.node == n and a.what.outcome == "refused" else None


# -------------------------------------------------------------------------------------------------- the world around


def Tick(c: Constants, s: State) -> Step:
    """The clock goes on (only where instances are named by it)."""
    return None if c.RandomInstance else s._replace(clock=s.clock + 1)


def Sweep(c: Constants, s: State) -> Step:
    """Somebody removes the tower because it is old (only without KeepTower)."""
    return None if c.KeepTower or not s.store.tower.votes else written(s, tower=StoredTower())


def ClaimArrives(c: Constants, s: State, m: Message) -> Step:
    """A claim reaches the store, soon or long after it was sent."""
    return TakeClaim(c, s, m) if m in s.sent else None


def StoreArrives(c: Constants, s: State, m: Message) -> Step:
    """A copy of a write reaches the store: the first one or a later one, of a life that waits, or of one that has ended."""
    return TakeStore(c, s, m) if m in s.sent else None


def ReserveArrives(c: Constants, s: State, m: Message) -> Step:
    """A copy of a reservation reaches the store."""
    return TakeReservation(c, s, m) if m in s.sent else None


OF_A_NODE = (Look, Claim, Load, Refresh, Unknown, Settle, Crash, Resign, FenceLost, DeadlinePassed)
OF_AN_ANSWER = (Claimed, Committed, Produce, Refused)
OF_A_BLOCK_SLOT = (Reserve, ProduceUnfenced)
OF_A_REQUEST = (ClaimArrives, StoreArrives, ReserveArrives)
OF_THE_WORLD = (Tick, Sweep)


def Next(c: Constants, s: State) -> Iterator[tuple[str, State]]:
    """Every step out of `s`: the action's name, and the state that it leads to."""
    tried: list[tuple[Callable[..., Step], tuple[Any, ...]]] = [(action, (n,)) for n in Nodes(c) for action in OF_A_NODE]
    tried += [(action, (n, a)) for n in Nodes(c) for a in s.answers for action in OF_AN_ANSWER]
    tried += [(Persist, (n, slot)) for n in Nodes(c) for slot in c.Slots]
    tried += [(action, (n, slot)) for n in Nodes(c) for slot in c.BlockSlots for action in OF_A_BLOCK_SLOT]
    tried += [(action, (m,)) for m in s.sent for action in OF_A_REQUEST]
    tried += [(action, ()) for action in OF_THE_WORLD]
    for action, arguments in tried:
        following = action(c, s, *arguments)
        if following is not None:
            yield action.__name__, following
