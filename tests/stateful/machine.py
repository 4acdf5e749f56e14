"""The rules by which hypothesis plays: what may happen next, to whom, in any order."""

from __future__ import annotations

from typing import Any

from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from spec.values import Voting
from tests.stateful.chain import MAJOR, MINOR
from tests.stateful.leading import LeadingWorld
from tests.stateful.lives import POINTS
from tests.stateful.pair import INSTANCES, LEGACY
from tests.stateful.servers import MemorySide, ServerSide
from tower.keys import Keypair
from tower.runner import Runner
from tower.voter import Voter

__all__ = ["Fenced"]

ALL = (*INSTANCES, *LEGACY)
KINDS = ("claim", "store", "reserve")
WAITING = {"claiming", "persisting", "unresolved"}
PICK = st.integers(0, 63)  # of a list that only the present state knows; the smallest are drawn most when it shrinks
RECENT = 6  # banks of which the next one's parent is


def can(*states: str, of: tuple[int, ...] = ALL) -> Any:
    """A precondition: some machine that is awake is in one of these states."""
    return precondition(lambda self: bool(self.world.machines(states, of)))


class Fenced(RuleBasedStateMachine):
    """Three machines of this product and one of the older kind, with one identity on one store."""

    make_voter: type[Voter] = Voter
    make_runner: type[Runner] = Runner
    guards: dict[str, Any] = {}  # of the model, where it is to lack what the real side lacks  # noqa: RUF012

    def make_server(self, identity: Keypair) -> ServerSide:
        return MemorySide(identity)

    def make_identity(self) -> Keypair:
        return Keypair.from_seed(b"i" * 32)

    def __init__(self) -> None:
        super().__init__()
        identity = self.make_identity()
        self.world = LeadingWorld(self.make_server(identity), identity, self.make_voter, self.make_runner, **self.guards)

    def pick(self, number: int, states: set[str] | frozenset[str], of: tuple[int, ...] = ALL) -> int:
        """One of the machines in these states."""
        found = self.world.machines(states, of)
        return found[number % len(found)]

    def landed(self, number: int) -> tuple[int, ...]:
        """A tower that may have landed, 1 for the longest; none for 0."""
        towers = self.world.landable()
        return towers[-number] if 0 < number <= len(towers) else ()

    # ---- the chain

    @rule(
        parent=PICK, gap=st.sampled_from([1, 1, 1, 2, 3, 9, 40]), peers=st.sets(st.sampled_from([MAJOR, MINOR])),
        landed=st.integers(0, 3), told=st.sets(st.sampled_from(ALL), min_size=1), settled=st.booleans(),
    )  # fmt: skip
    def bank_frozen(self, parent, gap, peers, landed, told, settled):
        """On one of several forks; some are told at once, and vote undisturbed or not."""
        world = self.world
        recent = sorted(world.chain.banks)[-RECENT:]
        bank = world.grow(recent[-1 - parent % len(recent)], gap, tuple(sorted(peers)), self.landed(landed))
        for n in sorted(told):
            if n not in world.frozen and bank.parent_slot in world.known[n]:
                world.tell(n, bank)
                if settled:
                    world.settle(n)

    @can(*sorted(Voting))
    @rule(number=PICK, peers=st.sets(st.sampled_from([MAJOR, MINOR])), landed=st.integers(0, 3), settled=st.booleans())
    def fork_grows(self, number, peers, landed, settled):
        """The fork of one machine, which is told alone, and is likely to vote if it may."""
        n = self.pick(number, Voting)
        tip = self.world.lives[n].voter.forks.best().slot
        bank = self.world.grow(tip, 1, tuple(sorted(peers)), self.landed(landed))
        self.world.tell(n, bank)
        if settled:
            self.world.settle(n)

    @precondition(lambda self: any(self.world.untold(n) for n in ALL if n not in self.world.frozen))
    @rule(number=PICK, which=PICK, settled=st.booleans())
    def bank_heard_of(self, number, which, settled):
        """Later than others, and in another order."""
        world = self.world
        behind = [n for n in ALL if n not in world.frozen and world.untold(n)]
        n = behind[number % len(behind)]
        banks = world.untold(n)
        world.tell(n, banks[which % len(banks)])
        if settled:
            world.settle(n)

    @can("ready", of=INSTANCES)
    @rule(number=PICK)
    def fork_loses_weight(self, number):
        """Room for the last vote to be sent again."""
        ready = [n for n in self.world.machines({"ready"}, INSTANCES) if self.world.s.node[n].tower]
        if ready:
            self.world.lose_weight(ready[number % len(ready)])

    # ---- a life

    @initialize(number=PICK, settled=st.sampled_from([True, True, False]))
    def first_owner(self, number, settled):
        self.take_over(number, settled)

    @can("standby")
    @rule(number=PICK, settled=st.booleans())
    def take_over(self, number, settled):
        n = self.pick(number, {"standby"})
        self.world.take_over(n)
        if settled:
            self.world.settle(n)

    @can("looking")
    @rule(number=PICK, answered=st.sampled_from([True, True, True, False]))
    def look_answered(self, number, answered):
        n = self.pick(number, {"looking"})
        if answered:
            self.world.hear_look(n)
        else:
            self.world.hear_no_look(n)

    @can("loading")
    @rule(number=PICK)
    def load(self, number):
        self.world.load(self.pick(number, {"loading"}))

    @can("looking", "loading", *WAITING)
    @rule(number=PICK)
    def settle(self, number):
        """For once all goes well."""
        self.world.settle(self.pick(number, {"looking", "loading", *WAITING}))

    @can("looking", "ready", *WAITING)
    @rule(number=PICK, point=st.sampled_from(POINTS))
    def doom(self, number, point):
        """A crash in the middle of what comes next."""
        self.world.doom(self.pick(number, {"looking", "ready", *WAITING}), point)

    @can("looking", "loading", "ready", *WAITING)
    @rule(number=PICK, resigns=st.booleans())
    def end(self, number, resigns):
        n = self.pick(number, {"looking", "loading", "ready", *WAITING})
        if resigns:
            self.world.resign(n)
        else:
            self.world.crash(n)

    @precondition(lambda self: len(self.world.frozen) < 2)
    @rule(number=PICK)
    def freeze(self, number):
        awake = [n for n in ALL if n not in self.world.frozen]
        self.world.freeze(awake[number % len(awake)])

    @precondition(lambda self: self.world.frozen)
    @rule(number=PICK, seconds=st.sampled_from([0.0, 1.0, 60.0]))
    def thaw(self, number, seconds):
        frozen = sorted(self.world.frozen)
        self.world.thaw(frozen[number % len(frozen)], seconds)

    # ---- requests and answers

    @precondition(lambda self: self.world.under_way())
    @rule(kind=st.sampled_from(KINDS), which=PICK, newest=st.booleans(), times=st.sampled_from([1, 1, 2]))
    def request_arrives(self, kind, which, newest, times):
        """Late, or again, or after its sender has ended; or the newest, at once and twice."""
        for _ in range(times):
            letters = [m for m in self.world.under_way() if m.type == kind] or self.world.under_way()
            if letters:
                self.world.arrive(letters[-1] if newest else letters[which % len(letters)])

    @precondition(lambda self: self.world.answers())
    @rule(which=PICK)
    def answer_arrives(self, which):
        answers = self.world.answers()
        self.world.hear(answers[which % len(answers)])

    @can(*WAITING)
    @rule(number=PICK)
    def no_answer_arrives(self, number):
        self.world.hear_nothing(self.pick(number, WAITING))

    @can("persisting", "unresolved")
    @rule(number=PICK)
    def deadline_passes(self, number):
        self.world.pass_deadline(self.pick(number, {"persisting", "unresolved"}))

    @precondition(lambda self: self.world.fence_lost())
    @rule(number=PICK)
    def watch_tells(self, number):
        lost = self.world.fence_lost()
        self.world.hear_watch(lost[number % len(lost)])

    @can(*sorted(Voting), of=INSTANCES)
    @rule(number=PICK)
    def watch_echoes(self, number):
        self.world.hear_echo(self.pick(number, Voting, INSTANCES))

    @precondition(lambda self: self.world.ghosts)
    @rule(number=PICK)
    def haunt(self, number):
        ghosts = sorted(self.world.ghosts)
        self.world.haunt(ghosts[number % len(ghosts)])

    # ---- the leader

    @precondition(lambda self: self.world.leaders(lambda duty: duty.loading))
    @rule(number=PICK, answered=st.sampled_from([True, True, True, False]))
    def mark_read(self, number, answered):
        leaders = self.world.leaders(lambda duty: duty.loading)
        n = leaders[number % len(leaders)]
        if answered:
            self.world.read_mark(n)
        else:
            self.world.fail_to_read_mark(n)

    @precondition(lambda self: self.world.leaders(lambda duty: not duty.stopped))
    @rule(number=PICK, below=st.integers(0, 4), length=st.integers(1, 4), undisturbed=st.integers(0, 3))
    def windows_come(self, number, below, length, undisturbed):
        """Near the newest mark of all: partly below it, just above, or one that another life has taken."""
        leaders = self.world.leaders(lambda duty: not duty.stopped)
        n = leaders[number % len(leaders)]
        for _ in range(undisturbed):
            self.world.settle(n)
            self.take_window(n, below, length)
            self.world.settle(n)
        self.take_window(n, below, length)

    def take_window(self, n, below, length):
        if n in self.world.leaders(lambda duty: duty.loaded):
            first = max(1, self.world.s.store.blocks.mark + 1 - below)
            self.world.reserve(n, first, first + length - 1)

    @precondition(lambda self: self.world.leaders(lambda duty: duty.runner.in_flight))
    @rule(number=PICK, late=st.booleans())
    def no_answer_for_leader(self, number, late):
        leaders = self.world.leaders(lambda duty: duty.runner.in_flight)
        n = leaders[number % len(leaders)]
        if late:
            self.world.pass_leaders_deadline(n)
        else:
            self.world.hear_nothing_of_reservation(n)

    @precondition(lambda self: self.world.fence_lost())
    @rule(number=PICK)
    def watch_tells_leader(self, number):
        lost = self.world.fence_lost()
        self.world.hear_leaders_watch(lost[number % len(lost)])

    # ---- always

    @invariant()
    def both_sides_are_equal(self) -> None:
        self.world.compare()

    def teardown(self) -> None:
        for action in self.world.counts:
            event(action)
        for life in self.world.lives.values():
            life.close()
