"""What enough runs must have visited: every fault by its name, every row of the tables of voter and leader.

A fault that is never struck proves nothing, so the names are counted where they strike. `FAULTS` says how often each must have
struck in 2,000 failovers; they strike three times as often and more.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum

from tower import leader, voter
from tower.events import (
    BankFrozen,
    DeadlinePassed,
    FenceLost,
    Looked,
    LookFailed,
    Resign,
    RootAdvanced,
    StoreAnswered,
    VoteSeen,
)
from tower.leader import LeaderState, Reserve
from tower.voter import VoterState

__all__ = ["FAULTS", "UNREACHABLE", "Visited", "missing", "unvisited"]

Visited = Counter[tuple[Enum, type]]

FAULTS: dict[str, int] = {
    # messages between machines and store
    "request lost": 500,
    "request late": 300,
    "request doubled": 150,
    "request repeated at the next member": 1000,
    "answer lost": 150,
    "answer late": 300,
    "answer doubled": 150,
    "watch lost": 20,
    "watch late": 30,
    "watch doubled": 15,
    "cut": 100,
    "store down": 60,
    "claim: outcome unknown": 1,
    "write: outcome unknown": 150,
    "reservation: outcome unknown": 150,
    # the store's members
    "leader change: it died": 10,
    "leader change: it was cut off": 10,
    "leader change: it handed on": 10,
    "leader change: committed and answer lost": 10,
    "leader change: lost before commit": 10,
    "leader change: read lost": 8,
    "deposed leader: a read hangs": 20,
    "deposed leader: a write hangs": 20,
    "election: no leader known": 100,
    "election: put off, too few members": 3,
    "member away": 50,
    # what comes late and still acts, or is refused
    "late: copy of an answered write": 30,
    "late: copy of an answered reservation": 10,
    "late: copy of an earlier write, after a later one": 15,
    "late: write of a live process, after its successor's claim": 80,
    "late: write of a dead process, after its successor's claim": 60,
    "late: write of a dead process, before any claim": 10,
    "late: claim of a dead process won": 8,
    "late: claim of a dead process lost": 25,
    "late: copy of an earlier reservation, after a later one": 1,
    "late: reservation of a live process, after its successor's claim": 50,
    "late: reservation of a dead process, after its successor's claim": 15,
    "late: reservation of a dead process, before any claim": 10,
    "late: legacy claim of a dead process won": 4,
    "late: legacy write of a dead process won": 4,
    "late: legacy write of a dead process was refused": 4,
    # processes
    "start": 500,
    "restart": 60,
    "restart: of the one that votes": 25,
    "kill": 50,
    "killed while frozen": 12,
    "killed while its claim was under way": 10,
    "killed between the claim and its answer": 10,
    "killed between the claim's answer and the first vote": 10,
    "killed between the beginning of a write and its answer": 8,
    "killed between the commit of a write and its answer": 8,
    "killed between the answer and the release": 8,
    "killed between the beginning of a reservation and its answer": 12,
    "killed between the commit of a reservation and its answer": 12,
    "killed while a legacy claim was under way": 2,
    "killed while a legacy read was under way": 1,
    "killed while a legacy write was under way": 4,
    "died in the middle of a call": 300,
    "freeze": 100,
    "frozen between the answer and the release": 15,
    "blocks: frozen between the question and the block": 5,
    # the operator
    "set-identity": 500,
    "set-identity everywhere": 100,
    "set-identity: while a write was unresolved or came late": 30,
    "demote": 30,
    "demote: while a write was unresolved or came late": 15,
    "demote: without the store": 15,
    # clocks and chain
    "clock back": 25,
    "clock ahead": 40,
    "clock back, of the one that votes": 12,
    "clock ahead, of the one that votes": 20,
    "vote: with a timestamp": 800,
    "vote: without a timestamp": 800,
    "vote: sent again": 2,
    "vote: to another fork": 50,
    "forks": 100,
    # beside validators of the older kind
    "taken: by ours from ours": 800,
    "taken: by ours from legacy": 100,
    "taken: by legacy from ours": 100,
    "taken: by legacy from legacy": 4,
    "taken: again by the same machine": 250,
    "ended: lost the fence to a legacy validator": 80,
    "legacy ended: a claim was not answered": 30,
    "legacy ended: another had claimed before the tower was read": 6,
    "legacy ended: the tower was not read": 10,
    "legacy ended: a write was not answered": 30,
    "legacy ended: a write was refused": 50,
    # what a fence is for: something left although another had claimed, and no promise broke
    "vote: left after another had claimed": 25,
    "blocks: produced after another had claimed": 20,
    "blocks: produced": 200,
    "blocks: reserved": 400,
    "blocks: declined": 300,
    "blocks: own slot left out": 500,
    "blocks: duty ended: lost the fence": 300,
    "blocks: duty ended: resigned": 250,
    "blocks: duty ended: the store failed": 15,
    "ended: lost the fence": 400,
    "ended: resigned": 300,
    "ended: the store failed": 50,
}

_IN_ONE_GO = "the runner looks and claims inside one call, so nothing comes in between"
_FORGOTTEN = "the runner forgets the write in flight when the voter stops, so no answer comes afterwards"
_LOADS_AT_ONCE = "the runner reads the mark inside the call that begins the duty, so nothing comes in between"

# Rows of the tables that the runners cannot reach, and why. The tables have them all the same: the machines are pure, and
# another runner may.
UNREACHABLE: dict[tuple[Enum, type], str] = {
    **{
        (state, event): _IN_ONE_GO
        for state in (VoterState.LOOKING, VoterState.CLAIMING)
        for event in (BankFrozen, RootAdvanced, VoteSeen, Resign)
    },
    **{(VoterState.STOPPED, event): _FORGOTTEN for event in (Looked, LookFailed, StoreAnswered, DeadlinePassed)},
    **{(LeaderState.LOADING, event): _LOADS_AT_ONCE for event in (Reserve, FenceLost, Resign)},
    **{(LeaderState.STOPPED, event): _LOADS_AT_ONCE for event in (Looked, LookFailed)},
}


def unvisited(visited: Visited) -> list[str]:
    """Rows of the tables of voter and leader that were never met, of those that the runners can reach."""
    rows = [row for row in (*voter.TABLE, *leader.TABLE) if row not in UNREACHABLE]
    return [f"{type(state).__name__}.{state.name} {event.__name__}" for state, event in rows if not visited[state, event]]


def missing(counts: Counter[str], failovers: int) -> list[str]:
    """Faults that struck less often than they should in so many failovers."""
    least = {name: number * failovers // 2000 for name, number in FAULTS.items()}
    return [f"{name}: {counts[name]}, not {number}" for name, number in least.items() if counts[name] < number]
