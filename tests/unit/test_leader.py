"""The leader and its runner: the whole table, one life for a slot whatever happens (S7), and what the clock may do."""

from __future__ import annotations

import itertools
import random
import threading
from collections import deque
from dataclasses import dataclass, field

import pytest

from tests.support.chain import FENCE, IDENTITY
from tests.support.etcd import wait_until
from tower import leader as leader_module
from tower.errors import InvalidInput, StoreUnavailable, WireError
from tower.events import Adopted, DeadlinePassed, FenceLost, Look, Looked, LookFailed, Resign, Settle, StoreAnswered
from tower.leader import (
    RESERVATION_SLOTS_MAX,
    RESERVATIONS_HELD_MAX,
    TABLE,
    Declined,
    Leader,
    LeaderState,
    PutReservation,
    Reservation,
    Reserve,
    Reserved,
    Stop,
    StopReason,
    decode_reservation,
    encode_reservation,
)
from tower.leader_runner import LeaderRunner
from tower.store import Claimed, Committed, Fence, Kind, Owner, Refusal, Refused, Sighting, Unknown
from tower.stores.memory import MemoryBackend, MemoryStore

ADOPTED = Adopted(FENCE, None, None)
U64_MAX = (1 << 64) - 1


def record(first: int, last: int, instance: bytes = FENCE.instance) -> bytes:
    return encode_reservation(Reservation(first, last, instance))


def seen(blocks: bytes | None = None, blocks_revision: int = 0, fence: Fence = FENCE) -> Looked:
    return Looked(Sighting(fence.identity, fence.revision, fence.instance, 5, b"tower", None, blocks_revision, blocks))


def committed(first: int, last: int, revision: int = 9) -> StoreAnswered:
    return StoreAnswered(Committed(FENCE, revision, record(first, last)))


# ------------------------------------------------------------------------------------------------------- the machine

EVENTS = {
    Adopted: ADOPTED,
    Looked: seen(),
    LookFailed: LookFailed("down"),
    Reserve: Reserve(20, 23),
    StoreAnswered: StoreAnswered(Unknown("lost")),
    FenceLost: FenceLost(FENCE.revision + 1),
    DeadlinePassed: DeadlinePassed("late"),
    Resign: Resign("told"),
}


def in_state(state: LeaderState) -> Leader:
    leader = Leader()
    script = {
        LeaderState.STANDBY: [],
        LeaderState.LOADING: [ADOPTED],
        LeaderState.READY: [ADOPTED, seen()],
        LeaderState.PERSISTING: [ADOPTED, seen(), Reserve(8, 11)],
        LeaderState.UNRESOLVED: [ADOPTED, seen(), Reserve(8, 11), StoreAnswered(Unknown("lost"))],
        LeaderState.STOPPED: [Resign("told")],
    }
    for event in script[state]:
        leader.handle(event)
    assert leader.state is state
    return leader


def ready(blocks: bytes | None = None, revision: int = 0) -> Leader:
    leader = Leader()
    leader.handle(ADOPTED)
    assert leader.handle(seen(blocks, revision)) == []
    return leader


@pytest.mark.parametrize(
    ("state", "kind"),
    list(itertools.product(LeaderState, EVENTS)),
    ids=lambda value: value.name if isinstance(value, LeaderState) else value.__name__,
)
def test_the_whole_table(state, kind):
    """Every pair of state and event: either it is in the table, or the leader stops as for a bug. None gives slots away."""
    leader = in_state(state)
    effects = leader.handle(EVENTS[kind])
    assert not any(isinstance(effect, Reserved) for effect in effects)
    stops = [effect.reason for effect in effects if isinstance(effect, Stop)]
    if state is LeaderState.STOPPED:
        assert (leader.state, effects) == (LeaderState.STOPPED, [])
    elif (state, kind) not in TABLE:
        assert (leader.state, stops) == (LeaderState.STOPPED, [StopReason.INTERNAL])
    else:
        assert StopReason.INTERNAL not in stops
        assert bool(stops) == (leader.state is LeaderState.STOPPED)


def test_the_table_has_no_pair_that_the_test_does_not_know():
    assert {kind for _, kind in TABLE} == set(EVENTS)
    expected = {
        (LeaderState.STANDBY, Adopted): LeaderState.LOADING,
        (LeaderState.LOADING, Looked): LeaderState.READY,
        (LeaderState.READY, Reserve): LeaderState.PERSISTING,
        (LeaderState.PERSISTING, StoreAnswered): LeaderState.UNRESOLVED,
        (LeaderState.UNRESOLVED, StoreAnswered): LeaderState.UNRESOLVED,
    }
    for state, kind in TABLE:
        leader = in_state(state)
        leader.handle(EVENTS[kind])
        stays = state if kind is Reserve else LeaderState.STOPPED
        assert leader.state is expected.get((state, kind), stays), (state, kind)


def test_a_reservation_is_held_only_after_its_commit():
    leader = ready()
    assert leader.handle(Reserve(8, 11)) == [PutReservation(FENCE, 0, record(8, 11))]
    assert not leader.holds(8)
    assert leader.handle(StoreAnswered(Unknown("lost"))) == [Settle()]
    assert not leader.holds(8)
    answer = committed(8, 11, revision=9)
    assert leader.handle(answer) == [Reserved(answer.outcome, 8, 11)]
    assert [leader.holds(slot) for slot in (7, 8, 11, 12)] == [False, True, True, False]
    assert leader.handle(Reserve(12, 15)) == [PutReservation(FENCE, 9, record(12, 15))]
    assert leader.holds(11)  # what is ours stays ours while more is asked for


def test_only_what_is_above_the_mark_is_asked_for():
    others = record(4, 11, b"somebody")
    leader = ready(others, 6)
    assert leader.handle(Reserve(8, 11)) == [Declined(8, 11, "slots up to 11 were reserved before")]
    assert leader.handle(Reserve(10, 13)) == [PutReservation(FENCE, 6, record(12, 13))]
    leader.handle(committed(12, 13))
    assert not leader.holds(11)
    assert leader.handle(Reserve(12, 13)) == []  # ours already: nothing to do
    assert leader.handle(Reserve(13, 14)) == [PutReservation(FENCE, 9, record(14, 14))]


def test_what_another_leader_of_this_very_life_reserved_is_not_ours():
    leader = ready(record(8, 11), 6)
    assert not leader.holds(8)
    assert [type(effect) for effect in leader.handle(Reserve(8, 11))] == [Declined]


def test_while_one_reservation_is_under_way_another_has_to_wait():
    leader = ready()
    leader.handle(Reserve(8, 11))
    assert leader.handle(Reserve(12, 15)) == [Declined(12, 15, "the leader is PERSISTING: ask again once it is READY")]
    assert [type(effect) for effect in leader.handle(committed(8, 11))] == [Reserved]


@pytest.mark.parametrize(
    "other",
    [
        Fence(FENCE.identity, FENCE.revision + 1, FENCE.instance),
        Fence(FENCE.identity, FENCE.revision, b"restored"),
        Fence("somebody", FENCE.revision, FENCE.instance),
    ],
)
def test_a_look_that_does_not_show_our_own_fence_ends_the_duty(other):
    """One that was made before the claim, or after the next one: what it says of the mark may be wrong."""
    leader = in_state(LeaderState.LOADING)
    (stop,) = leader.handle(seen(record(4, 7), 6, other))
    assert stop.reason is StopReason.LOST_FENCE


def test_a_look_at_an_identity_without_an_instance_ends_the_duty():
    leader = in_state(LeaderState.LOADING)
    (stop,) = leader.handle(Looked(Sighting(FENCE.identity, 0, None, 0, None)))
    assert stop.reason is StopReason.LOST_FENCE


def test_a_record_that_cannot_be_read_ends_the_duty_and_is_named():
    leader = in_state(LeaderState.LOADING)
    (stop,) = leader.handle(seen(b"garbage", 6))
    assert stop.reason is StopReason.RECORD_UNUSABLE
    assert FENCE.identity in stop.text


def test_a_store_that_knew_less_than_the_chain_makes_blocks_wait_as_votes_do():
    leader = Leader()
    leader.handle(Adopted(FENCE, 41, 250))
    leader.handle(seen(record(4, 7), 6))
    assert leader.handle(Reserve(240, 243)) == [Declined(240, 243, "slots up to 249 were reserved before")]
    assert leader.handle(Reserve(248, 251)) == [PutReservation(FENCE, 6, record(250, 251))]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Refused(Refusal.FENCED, 7, 9), StopReason.LOST_FENCE),
        (Refused(Refusal.CONFLICT, 7, 9), StopReason.CONFLICT),
        (Committed(Fence(FENCE.identity, 8, b"instance"), 9, record(8, 11)), StopReason.INTERNAL),
        (Committed(FENCE, 9, record(8, 12)), StopReason.INTERNAL),
        (Claimed(FENCE, 9, None), StopReason.INTERNAL),
    ],
)
@pytest.mark.parametrize("state", [LeaderState.PERSISTING, LeaderState.UNRESOLVED])
def test_any_other_answer_ends_the_duty_and_what_was_held_with_it(state, answer, reason):
    leader = ready()
    leader.handle(Reserve(4, 7))
    leader.handle(committed(4, 7))
    leader.handle(Reserve(8, 11))
    if state is LeaderState.UNRESOLVED:
        leader.handle(StoreAnswered(Unknown("lost")))
    (stop,) = leader.handle(StoreAnswered(answer))
    assert (stop.reason, leader.state, leader.holds(4), leader.holds(8)) == (reason, LeaderState.STOPPED, False, False)
    assert leader.handle(committed(8, 11)) == []
    assert not leader.holds(8)


def test_an_echo_of_an_older_claim_is_no_loss():
    leader = ready()
    assert leader.handle(FenceLost(FENCE.revision)) == []
    (stop,) = leader.handle(FenceLost(FENCE.revision + 1))
    assert stop.reason is StopReason.LOST_FENCE


def test_only_the_newest_windows_are_remembered_and_the_last_slot_can_be_reserved():
    leader = ready()
    for first in range(0, 8 * RESERVATIONS_HELD_MAX, 4):
        leader.handle(Reserve(first, first + 3))
        leader.handle(committed(first, first + 3))
    assert len(leader.reserved) == RESERVATIONS_HELD_MAX
    assert not leader.holds(0)
    assert leader.holds(8 * RESERVATIONS_HELD_MAX - 1)
    leader.handle(Reserve(U64_MAX, U64_MAX))
    leader.handle(committed(U64_MAX, U64_MAX))
    assert leader.holds(U64_MAX)
    assert [type(effect) for effect in ready(record(U64_MAX, U64_MAX), 1).handle(Reserve(U64_MAX, U64_MAX))] == [Declined]


@pytest.mark.parametrize(("first", "last"), [(5, 4), (-1, 4), (0, 1 << 64), (7, 7 + RESERVATION_SLOTS_MAX)])
def test_a_window_that_is_none_cannot_be_asked_for(first, last):
    with pytest.raises(InvalidInput, match=f"slots {first} to {last}"):
        Reserve(first, last)
    Reserve(7, 6 + RESERVATION_SLOTS_MAX)


# -------------------------------------------------------------------------------------------------------- the record


def test_the_record_is_as_documented():
    data = bytes.fromhex("01000000" "0800000000000000" "0b00000000000000") + b"instance"
    assert record(8, 11) == data
    assert decode_reservation(data) == Reservation(8, 11, b"instance")


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (b"", 0),
        (record(8, 11)[:-1], 20),
        (record(8, 11) + b"\0", 28),
        (b"\2" + record(8, 11)[1:], 0),
        (record(8, 11)[:12] + record(7, 7)[12:], 4),
    ],
    ids=["empty", "torn", "trailing", "layout", "backwards"],
)
def test_other_bytes_are_refused_with_their_offset(data, offset):
    with pytest.raises(WireError) as problem:
        decode_reservation(data)
    assert problem.value.offset == offset


def test_any_bytes_are_a_reservation_or_a_wire_error(rng: random.Random):
    read, offsets = 0, []
    for _ in range(5_000):
        data = bytearray(record(rng.randrange(1 << 64), U64_MAX, rng.randbytes(8)))
        for _ in range(rng.randrange(3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        data = data[: rng.choice((len(data), len(data), rng.randrange(len(data))))]
        try:
            found = decode_reservation(bytes(data))
        except WireError as problem:
            offsets.append(problem.offset)
            continue
        read += 1
        assert encode_reservation(found) == data
    assert 1_000 < read < 5_000
    assert set(offsets) <= {0, *range(4, 29)}


# ------------------------------------------------------------------------------------- many lives, one slot for each


class Forgetful(MemoryBackend):
    """A store without the second comparison: whoever holds the fence overwrites what is there."""

    def put(self, fence, expected, record, kind=Kind.TOWER):
        return super().put(fence, self.look(fence.identity).blocks_revision, record, kind)


@dataclass
class Life:
    number: int
    fence: Fence
    leader: Leader = field(default_factory=Leader)
    sighting: Sighting | None = None
    put: PutReservation | None = None


class Game:
    """Lives on one store, each of which believes in itself. Every request that was ever sent may arrive, and arrive again."""

    def __init__(self, rng: random.Random, backend: MemoryBackend, *, unknown_is_yes: bool = False) -> None:
        self.rng, self.backend, self.unknown_is_yes = rng, backend, unknown_is_yes
        self.lives: list[Life] = []
        self.sent: list[tuple[Life, PutReservation]] = []
        self.answers: list[tuple[Life, PutReservation, Committed | Refused]] = []
        self.given: dict[int, int] = {}  # which life each slot was given to
        self.mark = -1
        self.counts = {"lives": 0, "reserved": 0, "late copy refused": 0, "unknown": 0, "old fence refused": 0}

    def play(self, steps: int) -> None:
        moves = [self.claim, *[self.look] * 4, *[self.reserve] * 4, *[self.arrive] * 5, *[self.answer] * 4, self.unknown]
        for _ in range(steps):
            self.rng.choice(moves)()
            if self.rng.random() < 0.01:
                self.end()

    def claim(self) -> None:
        now = self.backend.look(IDENTITY.address)
        if len(self.lives) >= 8 or (self.lives and self.rng.random() < 0.7):
            return
        claimed = self.backend.claim(now.identity, now.instance_revision, self.rng.randbytes(8), Owner("x", "start"))
        assert isinstance(claimed, Claimed)
        life = Life(len(self.lives), claimed.fence)
        self.lives.append(life)
        self.counts["lives"] += 1
        assert life.leader.handle(Adopted(claimed.fence, None, None)) == [Look()]

    def look(self) -> None:
        """The look is answered in one step and heard in another."""
        for life in self.lives:
            if life.leader.state is LeaderState.LOADING and self.rng.random() < 0.6:
                if life.sighting is None:
                    life.sighting = self.backend.look(IDENTITY.address)
                else:
                    life.leader.handle(Looked(life.sighting))

    def reserve(self) -> None:
        if self.lives:
            life, first = self.rng.choice(self.lives[-3:]), self.rng.randrange(60)
            if life.leader.state is not LeaderState.STANDBY:
                self.after(life, life.leader.handle(Reserve(first, first + self.rng.randrange(6))))

    def arrive(self) -> None:
        if not self.sent:
            return
        life, put = self.rng.choice(self.sent)
        before = self.backend.look(IDENTITY.address)
        outcome = self.backend.put(put.fence, put.expected_revision, put.record, Kind.BLOCKS)
        after = self.backend.look(IDENTITY.address)
        if isinstance(outcome, Refused):
            late = outcome.reason is Refusal.CONFLICT
            self.counts["late copy refused" if late else "old fence refused"] += 1
            assert after == before
        else:
            assert put.fence.revision == before.instance_revision  # S3
        if after.blocks is not None and after != before:
            assert decode_reservation(after.blocks).last > self.mark, "the mark went back"
            self.mark = decode_reservation(after.blocks).last
        if life.put is put:
            self.answers.append((life, put, outcome))

    def answer(self) -> None:
        if self.answers:
            life, put, outcome = self.answers.pop(self.rng.randrange(len(self.answers)))
            if life.put is put and self.rng.random() < 0.8:
                self.after(life, life.leader.handle(StoreAnswered(outcome)))

    def unknown(self) -> None:
        for life in self.lives:
            if life.leader.state in (LeaderState.PERSISTING, LeaderState.UNRESOLVED) and self.rng.random() < 0.5:
                self.counts["unknown"] += 1
                if self.unknown_is_yes and life.put is not None:
                    self.after(life, life.leader.handle(StoreAnswered(Committed(life.fence, 0, life.put.record))))
                else:
                    assert life.leader.handle(StoreAnswered(Unknown("lost"))) == [Settle()]

    def end(self) -> None:
        if self.lives:
            life = self.rng.choice(self.lives)
            newest = self.backend.look(IDENTITY.address).instance_revision
            event = self.rng.choice((FenceLost(newest), Resign("told"), DeadlinePassed("late")))
            if (life.leader.state, type(event)) in TABLE:
                self.after(life, life.leader.handle(event))

    def after(self, life: Life, effects: list) -> None:
        for effect in effects:
            if isinstance(effect, PutReservation):
                life.put = effect
                self.sent.append((life, effect))
            elif isinstance(effect, Reserved):
                life.put = None
                self.counts["reserved"] += 1
                for slot in range(effect.first, effect.last + 1):
                    assert life.leader.holds(slot)
                    assert slot not in self.given, f"slot {slot} was given to {self.given[slot]} and to {life.number}"
                    self.given[slot] = life.number


def test_s7_whatever_arrives_late_or_twice_no_slot_is_given_to_two_lives(rng: random.Random):
    totals = dict.fromkeys(Game(rng, MemoryBackend()).counts, 0)
    owners_of_blocks = 0
    for _ in range(300):
        game = Game(rng, MemoryBackend())
        game.play(300)
        owners_of_blocks += len(set(game.given.values())) > 1
        for name, count in game.counts.items():
            totals[name] += count
    assert min(totals.values()) > 200, totals
    assert owners_of_blocks > 50


@pytest.mark.parametrize("guard", ["the second comparison", "the mark", "the commit"])
def test_s7_is_broken_without(guard, rng: random.Random, monkeypatch: pytest.MonkeyPatch):
    """The game finds what each guard is there for."""
    if guard == "the mark":
        monkeypatch.setattr(leader_module, "decode_reservation", lambda data: Reservation(0, 0, bytes(8)))
    problem = ""
    for _ in range(300):
        backend = Forgetful() if guard == "the second comparison" else MemoryBackend()
        try:
            Game(rng, backend, unknown_is_yes=guard == "the commit").play(300)
        except AssertionError as violation:
            problem = str(violation)
            break
    assert "was given to" in problem or "the mark went back" in problem


# -------------------------------------------------------------------------------------------------------- the runner


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class ScriptedStore:
    """Answers writes as told; each answer may be a call that gets the record."""

    def __init__(self, *answers, sighting=None):
        self.answers = deque(answers)
        self.sighting = sighting or seen().sighting
        self.writes = []

    def look(self, identity, timeout):
        if isinstance(self.sighting, Exception):
            raise self.sighting
        return self.sighting

    def begin_store(self, fence, expected_revision, record, timeout, kind=Kind.TOWER):
        self.writes.append((fence, expected_revision, record, kind))
        return self

    def outcome(self, timeout):
        assert timeout >= 0
        answer = self.answers.popleft()
        return answer(self.writes[-1][2]) if callable(answer) else answer


def yes(data):
    return Committed(FENCE, 9, data)


def scripted(*answers, sighting=None, **options):
    clock = Clock()
    store = ScriptedStore(*answers, sighting=sighting)

    def pause(seconds):
        clock.now = round(clock.now + seconds, 6)

    options.setdefault("pause", pause)
    return LeaderRunner(Leader(), store, clock=clock, **options), store, clock


def test_a_window_may_be_produced_in_once_the_store_has_confirmed_it():
    heard = []
    runner, store, _ = scripted(yes, on_reserved=heard.append, on_declined=heard.append)
    runner.drive(ADOPTED)
    assert not runner.on_duty()
    runner.dispatch(Reserve(8, 11))
    assert runner.in_flight
    assert not runner.may_produce(8)
    runner.settle()
    assert [runner.may_produce(slot) for slot in (7, 8, 11, 12)] == [False, True, True, False]
    assert store.writes == [(FENCE, 0, record(8, 11), Kind.BLOCKS)]
    runner.drive(Reserve(4, 7))
    assert heard == [Reserved(yes(record(8, 11)), 8, 11), Declined(4, 7, "slots up to 11 were reserved before")]


def test_an_unknown_reservation_is_repeated_unchanged_after_growing_pauses_until_its_deadline():
    pauses = []
    clock = Clock()

    def pause(seconds):
        pauses.append(round(seconds, 3))
        clock.now = round(clock.now + seconds, 6)

    store = ScriptedStore(*[Unknown("disk full")] * 60)
    stops = []
    runner = LeaderRunner(Leader(), store, store_timeout=1.0, clock=clock, pause=pause, on_stop=stops.append)
    runner.drive(ADOPTED)
    runner.drive(Reserve(8, 11))
    assert pauses == [0.01, 0.02, 0.04, 0.08, 0.16, 0.2, 0.2, 0.2, 0.09]
    assert len(store.writes) == 9
    assert set(store.writes) == {(FENCE, 0, record(8, 11), Kind.BLOCKS)}
    assert (stops, runner.stopped.reason) == ([runner.stopped], StopReason.STORE_FAILED)
    assert "within 1 s: disk full" in runner.stopped.text
    assert not runner.may_produce(8)


@pytest.mark.parametrize("refusal", Refusal)
def test_a_refused_reservation_ends_the_duty_also_for_what_was_held(refusal):
    runner, _, _ = scripted(yes, Refused(refusal, 7, 9))
    runner.drive(ADOPTED)
    runner.drive(Reserve(8, 11))
    assert runner.may_produce(8)
    runner.drive(Reserve(12, 15))
    assert (runner.may_produce(8), runner.on_duty()) == (False, False)
    runner.confirmed(100.0)  # a vote that was still under way
    assert not runner.on_duty()
    runner.drive(Reserve(16, 19))
    assert not runner.in_flight


def test_a_look_that_fails_ends_the_duty_before_any_write():
    runner, store, _ = scripted(sighting=StoreUnavailable("etcd is down"))
    runner.drive(ADOPTED)
    assert (runner.stopped.reason, runner.stopped.text, store.writes) == (StopReason.STORE_FAILED, "etcd is down", [])


def test_without_a_confirmed_write_the_duty_rests_until_the_next_one():
    runner, _, clock = scripted(yes, duty_timeout=2.0)
    runner.drive(ADOPTED)
    runner.drive(Reserve(8, 11))
    clock.now = 102.0
    assert runner.may_produce(8)
    clock.now = 102.5
    assert not runner.may_produce(8)
    runner.confirmed(100.2)  # a vote that began long ago
    assert not runner.may_produce(8)
    runner.confirmed(102.3)
    assert runner.may_produce(8)
    runner.confirmed(101.0)  # answers may come out of order
    clock.now = 104.25
    assert runner.may_produce(8)
    runner.confirmed(999.0)  # nothing begins in the future
    clock.now = 106.3
    assert not runner.on_duty()


def test_votes_alone_keep_the_duty_and_give_no_slot():
    runner, _, _ = scripted()
    runner.drive(ADOPTED)
    runner.confirmed(100.0)
    assert runner.on_duty()
    assert not runner.may_produce(8)


def test_an_answer_that_was_read_late_counts_from_the_beginning_of_its_write():
    """Frozen between the write and its answer: the slots are ours, but whether we still are the owner is not known."""
    clock = Clock()

    def frozen(data):
        clock.now += 60.0
        return yes(data)

    runner = LeaderRunner(Leader(), ScriptedStore(frozen), clock=clock, duty_timeout=2.0)
    runner.drive(ADOPTED)
    runner.drive(Reserve(8, 11))
    assert runner.leader.holds(8)
    assert not runner.may_produce(8)
    runner.confirmed(clock.now)
    assert runner.may_produce(8)


def test_a_repeated_write_counts_from_its_newest_copy():
    runner, _, clock = scripted(Unknown("lost"), yes, pause=lambda seconds: None, duty_timeout=2.0)
    runner.drive(ADOPTED)
    runner.dispatch(Reserve(8, 11))
    clock.now = 103.0
    runner.settle()
    runner.settle()
    clock.now = 104.9
    assert runner.may_produce(8)


def test_what_another_thread_tells_takes_the_duty_at_once_while_the_store_is_waited_for():
    waits, goes_on = threading.Event(), threading.Event()

    def slow(data):
        waits.set()
        assert goes_on.wait(10)
        return yes(data)

    runner, _, _ = scripted(yes, slow)
    runner.drive(ADOPTED)
    runner.drive(Reserve(8, 11))
    assert runner.may_produce(8)
    thread = threading.Thread(target=runner.drive, args=(Reserve(12, 15),))
    thread.start()
    try:
        assert waits.wait(10)
        runner.tell(FenceLost(FENCE.revision))  # an echo
        assert runner.may_produce(8)
        runner.tell(FenceLost(FENCE.revision + 1))
        assert not runner.may_produce(8)
        assert runner.leader.state is LeaderState.PERSISTING  # it has not heard of it yet
    finally:
        goes_on.set()
        thread.join(10)
    wait_until(lambda: not thread.is_alive(), "the leader's thread goes on")
    assert runner.stopped.reason is StopReason.LOST_FENCE
    assert not runner.may_produce(12)


def test_told_to_resign_before_the_adoption_it_never_reads_the_store():
    runner, store, _ = scripted(sighting=StoreUnavailable("must not be asked"))
    runner.tell(Resign("exit"))
    runner.drive(ADOPTED)
    assert (runner.stopped, store.writes) == (Stop(StopReason.RESIGNED, "exit"), [])


def test_a_successor_leads_only_above_what_its_predecessor_reserved():
    """S7 on a real store: the old owner does not know yet that it is one, and no slot is in two hands all the same."""
    backend = MemoryBackend()
    clock = Clock()
    lives = []
    for number in range(2):
        store = MemoryStore(backend)
        claimed = store.claim(store.look(IDENTITY.address, 1), Owner("x", "start"), 1)
        runner = LeaderRunner(Leader(), MemoryStore(backend), clock=clock)
        runner.drive(Adopted(claimed.fence, None, None))
        lives.append(runner)
        if number == 0:
            runner.drive(Reserve(8, 11))
    old, new = lives
    assert old.may_produce(11)
    new.drive(Reserve(10, 13))
    for slot in range(20):
        assert not (old.may_produce(slot) and new.may_produce(slot))
    assert [slot for slot in range(20) if new.may_produce(slot)] == [12, 13]
    old.drive(Reserve(14, 17))
    assert (old.stopped.reason, old.may_produce(11)) == (StopReason.LOST_FENCE, False)
    assert backend.look(IDENTITY.address).record is None  # a reservation never touches the tower
