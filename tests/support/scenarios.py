"""Cuts that were asked for, and what became of our votes in them: from the cluster's log, report and chain."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from solders.transaction import Transaction

from tests.support.cluster import Validator, World, until
from tower.lockout import TowerVoteState
from tower.types import LastVote, Lockout, Tower, VoteKind
from tower.wire import decode_saved_tower, encode_saved_tower

TOWER_SYNC, TOWER_SYNC_SWITCH = 14, 15
LANDS_WITHIN = 8  # slots: a vote younger than that may still be on its way
_CUT = re.compile(r"^slot (\d+): cut until slot (\d+): other side ([\d.]+) %, silent ([\d.]+) %$", re.MULTILINE)


@dataclass(frozen=True)
class Cut:
    """One line of the cluster's log. It began at `start` at the latest; `end` is the first slot after it."""

    start: int
    end: int
    other_percent: float
    silent_percent: float


def cuts(world: World) -> list[Cut]:
    log = (world.folder / "cluster.log").read_text("utf-8", "replace")
    return [Cut(int(start), int(end), float(other), float(silent)) for start, end, other, silent in _CUT.findall(log)]


def wait_cut(world: World, number: int) -> Cut:
    """The cut with that number, from 0 on, once it has begun."""
    until(lambda: len(cuts(world)) > number, f"cut {number} begins")
    return cuts(world)[number]


def chain(world: World) -> set[int]:
    return set(world.call("localnetChain")["chain"])


def wait_refusal(machine: Validator, wanted: Callable[[list[str]], bool], what: str) -> list[str]:
    """What keeps it from voting now, once that is as `wanted`."""
    last: list[str] = []

    def refused() -> bool:
        last[:] = machine.status().get("refusals", [])
        return wanted(last) or not machine.running

    try:
        until(refused, what)
    finally:
        print(f"refusals of {machine.address}: {last}")
    assert machine.running, machine.log[-3000:]
    return list(last)


def towers_of(votes: Sequence[dict[str, Any]]) -> list[TowerVoteState]:
    """The tower after each vote of a life that began without one, from the slots alone."""
    state, towers = TowerVoteState(), []
    for vote in votes:
        state.process_vote(vote["last_slot"])
        towers.append(state.copy())
    return towers


def instruction_tag(world: World, vote: dict[str, Any]) -> int:
    """Which instruction a landed vote is, read from the chain with the field's own library."""
    config = {"encoding": "base64", "commitment": "confirmed"}
    what = f"the vote for {vote['last_slot']} is confirmed"
    found = until(lambda: world.call("getTransaction", vote["signature"], config), what)
    assert found["meta"]["err"] is None
    message = Transaction.from_bytes(base64.b64decode(found["transaction"][0])).message
    return int.from_bytes(bytes(message.instructions[0].data)[:4], "little")


def assert_all_accepted(world: World) -> None:
    """No vote conflicts, the vote program refused none, and what did not land is on a fork that lost or on its way."""
    report = world.report()
    assert report["conflicts_total"] == 0, report["conflicts"]
    assert report["counts"]["failed_ours"] == 0, "the vote program refused votes of ours"
    assert report["counts"]["failed"] == 0, "the vote program refused votes of the cluster's own voters"
    chain = set(report["chain"])
    votes = [vote for vote in report["votes"] if vote["vote_account"] == world.vote_account]
    landed = {vote["last_slot"] for vote in votes if vote["landed"] is not None}
    missing = {vote["last_slot"] for vote in votes} & chain - landed
    late = {slot for slot in missing if slot < report["slot"] - LANDS_WITHIN}
    assert not late, f"votes on the chain that never landed: {sorted(late)}"


# ---- towers made by hand


def stored_tower(world: World) -> Tower:
    return decode_saved_tower(world.tower_file.read_bytes(), world.identity.address)


def with_stack(tower: Tower, votes: Sequence[tuple[int, int]], root: int | None) -> Tower:
    """`tower` with another stack, whose newest vote is its last one, for a block that nobody knows."""
    lockouts = tuple(Lockout(*vote) for vote in votes)
    slots = tuple(lockout.slot for lockout in lockouts)
    last = LastVote(VoteKind.TOWER_SYNC, slots, lockouts, root, b"\7" * 32, tower.last_vote.timestamp, bytes(32))
    return replace(tower, lockouts=lockouts, root=root, last_vote=last)


def put_tower(world: World, tower: Tower) -> None:
    """Store `tower`, signed, in the place of what is stored. The validator must not run."""
    world.tower_file.write_bytes(encode_saved_tower(tower, world.identity))
