"""Short walks of the pair that are told step by step: together they take every action of the specification, on both stores.

So each action has met its counterpart in every run, whatever hypothesis happens to draw.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from spec import model
from spec.values import ReserveRequest, StoreRequest
from tests.stateful.chain import MAJOR, MINOR
from tests.stateful.leading import LeadingWorld
from tests.stateful.lives import POINTS
from tests.stateful.pair import INSTANCES, LEGACY
from tests.stateful.servers import EtcdSide, MemorySide
from tower.keys import Keypair

A, B, C = INSTANCES
(OLD,) = LEGACY
WITHOUT_A_GUARD = {"ProduceUnfenced", "Tick", "Sweep"}  # what only happens where a guard is missing


@pytest.fixture(params=["memory", "etcd"])
def open_world(request):
    """Opens worlds with identities of their own; what they started is ended afterwards."""
    worlds = []
    adapters = []
    if request.param == "etcd":
        open_store = request.getfixturevalue("etcd_store")
        adapters = [open_store() for _ in (*INSTANCES, *LEGACY, "what is stored")]

    def open_one():
        identity = Keypair.from_seed(os.urandom(32))
        side = EtcdSide(identity, adapters) if adapters else MemorySide(identity)
        worlds.append(LeadingWorld(side, identity))
        return worlds[-1]

    yield open_one
    for world in worlds:
        for life in world.lives.values():
            life.close()


def owns(world, n):
    """`n` takes over, and votes if there is something to vote for."""
    world.take_over(n)
    world.settle(n)
    assert world.s.node[n].state == "ready"


def votes(world, n, **arguments):
    """A vote that nothing disturbs."""
    tip = world.lives[n].voter.forks.best().slot
    world.tell(n, world.grow(tip, 1, (MAJOR, MINOR), **arguments))
    world.settle(n)


def decides(world, n):
    """A vote that is decided, and whose write is under way."""
    world.tell(n, world.grow(world.lives[n].voter.forks.best().slot, 1, (MAJOR, MINOR)))
    assert world.s.node[n].state == "persisting"
    return StoreRequest(world.s, n)


def a_write_that_is_unknown_and_then_late(world):
    owns(world, A)
    write = decides(world, A)
    world.hear_nothing(A)
    world.hear_nothing(A)
    assert world.s.node[A].state == "unresolved"
    world.arrive(write)
    world.arrive(write)
    world.hear(world.answers()[0])
    assert world.s.released == {(1,), (1, 2)}
    late = decides(world, A)
    owns(world, B)
    assert world.s.node[B].tower == (1, 2)
    world.arrive(late)
    world.hear(world.answers()[0])
    assert world.s.node[A].state == "standby"
    votes(world, B)
    world.arrive(write)
    world.haunt(A)


def claims_that_race_and_answers_that_are_lost(world):
    for n in INSTANCES:
        world.take_over(n)
    for n in INSTANCES:
        world.hear_look(n)
    first, second, third = world.under_way()
    world.arrive(second)
    world.arrive(first)
    world.arrive(first)
    world.hear(next(a for a in world.answers() if a.to == first))
    assert world.s.node[A].state == "looking"
    world.hear_nothing(B)  # it had won, and never heard
    world.hear_no_look(B)
    world.settle(A)
    world.arrive(third)
    world.arrive(second)
    world.hear(world.answers()[0])
    world.resign(C)
    votes(world, A)


def a_fork_that_loses_its_weight(world):
    owns(world, A)
    votes(world, A)
    votes(world, A)
    votes(world, A, landed=(1,))
    world.lose_weight(A)
    assert world.counts["Refresh"]
    world.settle(A)
    world.freeze(A)
    owns(world, B)
    assert world.s.node[B].tower == (1, 2, 3, 4)
    world.thaw(A, 60.0)
    world.hear_echo(A)
    world.hear_watch(A)


def an_older_validator_and_back(world):
    owns(world, A)
    owns(world, OLD)
    votes(world, OLD)
    world.hear_watch(A)
    decides(world, OLD)
    late = StoreRequest(world.s, OLD)
    owns(world, B)
    world.arrive(late)
    world.hear(world.answers()[0])
    world.take_over(OLD)
    (claim,) = (m for m in world.under_way() if m.node == OLD)
    world.arrive(claim)
    world.hear(world.answers()[0])
    owns(world, C)
    world.load(OLD)  # too late: somebody has claimed since
    assert world.s.node[OLD].state == "standby"
    owns(world, OLD)
    decides(world, OLD)
    world.hear_nothing(OLD)
    world.hear_watch(B)
    world.hear_leaders_watch(C)


def deadlines(world):
    owns(world, A)
    decides(world, A)
    world.pass_deadline(A)
    world.take_over(A)
    world.settle(A)
    world.reserve(A, 10, 13)
    world.hear_nothing_of_reservation(A)
    world.pass_leaders_deadline(A)


def blocks_across_a_handover(world):
    owns(world, A)
    world.reserve(A, 10, 13)
    world.settle(A)
    assert world.lives[A].duty.runner.may_produce(13)
    world.reserve(A, 12, 13)
    world.reserve(A, 13, 15)
    late = ReserveRequest(world.s, A)
    world.freeze(A)
    owns(world, B)
    world.reserve(B, 12, 14)
    world.settle(B)
    assert [(window.first, window.last) for window in world.lives[B].duty.windows] == [(14, 14)]
    world.arrive(late)
    world.thaw(A, 0.0)
    world.hear(world.answers()[0])
    world.take_over(C)
    world.hear_look(C)
    world.arrive(world.under_way()[-1])
    world.hear(world.answers()[0])
    owns(world, A)
    world.read_mark(C)  # of one who was replaced before it had read
    assert world.s.node[C].state == "standby"
    world.hear_leaders_watch(B)
    world.crash(A)


WALKS = (
    a_write_that_is_unknown_and_then_late,
    claims_that_race_and_answers_that_are_lost,
    a_fork_that_loses_its_weight,
    an_older_validator_and_back,
    deadlines,
    blocks_across_a_handover,
)


def test_every_action_has_met_its_counterpart(open_world):
    counts = Counter()
    for walk in WALKS:
        world = open_world()
        walk(world)
        world.compare()
        counts.update(world.counts)
    listed = [model.OF_A_NODE, model.OF_AN_ANSWER, model.OF_A_BLOCK_SLOT, model.OF_A_REQUEST, model.OF_THE_WORLD]
    actions = {action.__name__ for actions in listed for action in actions} | {"Persist"}
    assert set(counts) == actions - WITHOUT_A_GUARD


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_in_the_middle(open_world, point):
    """Whatever was under way stays under way; the successor finds what is durable, and no vote conflicts."""
    world = open_world()
    owns(world, A)
    world.doom(A, point)
    if "claim" in point:
        world.doom(B, point)
        world.take_over(B)
        world.settle(B)
    else:
        votes(world, A)
    died = B if "claim" in point else A
    assert world.s.node[died].state == "standby"
    assert world.counts["Crash"] == 1
    for bank in world.untold(C):
        world.tell(C, bank)
    owns(world, C)
    votes(world, C)
    for request in world.under_way():
        world.arrive(request)
    world.compare()
    # Killed before it sent: the vote is durable, and its successor stands on it; nobody has seen it leave.
    after_two = {(1,), (1, 2, 3)} if point == "before send" else {(1,), (1, 2), (1, 2, 3)}
    assert world.s.released == ({(1,), (1, 2)} if "claim" in point else after_two)
