"""What `tower.store` promises, held against every adapter: memory, file, and a real etcd with mutual TLS."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.etcd import open_store, wait_until
from tower.errors import InvalidInput, StoreError
from tower.events import Adopted
from tower.keys import to_base58
from tower.leader import Leader, Reserve, StopReason
from tower.leader_runner import LeaderRunner
from tower.store import (
    ABSENT,
    INSTANCE_BYTES,
    Claimed,
    Committed,
    Fence,
    Kind,
    Outcome,
    Owner,
    Refusal,
    Refused,
    Sighting,
    Store,
    Unknown,
)
from tower.stores.file import FileStore
from tower.stores.memory import MemoryBackend, MemoryStore

T = 10.0  # seconds; a bound, never waited for
Open = Callable[[], Store]
both_kinds = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)


@pytest.fixture(params=["memory", "file", "etcd", "etcd-grpc"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens further clients of one and the same store."""
    opened: list[Store] = []
    backend = MemoryBackend()
    server = request.getfixturevalue("etcd_server") if request.param.startswith("etcd") else None

    def open_one() -> Store:
        if server is not None:
            opened.append(open_store(server, transport="grpc" if request.param == "etcd-grpc" else "http2"))
        else:
            opened.append(MemoryStore(backend) if request.param == "memory" else FileStore(tmp_path / "towers"))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


def owner(who: str = "primary", at_ms: int = 1_700_000_000_000, slot: int | None = None) -> Owner:
    return Owner(who, "start", host="h", pid=7, at_ms=at_ms, last_voted_slot=slot)


def claim(store: Store, identity: str, who: Owner | None = None) -> Claimed:
    claimed = store.claim(store.look(identity, T), who or owner(), T)
    assert isinstance(claimed, Claimed), claimed
    return claimed


def put(store: Store, fence: Fence, expected: int, record: bytes, kind: Kind = Kind.TOWER) -> Outcome:
    return store.begin_store(fence, expected, record, T, kind).outcome(T)


def committed(store: Store, fence: Fence, expected: int, record: bytes, kind: Kind = Kind.TOWER) -> Committed:
    outcome = put(store, fence, expected, record, kind)
    assert isinstance(outcome, Committed), outcome
    assert (outcome.fence, outcome.record) == (fence, record)
    return outcome


def stored(store: Store, identity: str, kind: Kind = Kind.TOWER) -> tuple[bytes | None, int]:
    """A record and its revision as anybody sees them."""
    seen = store.look(identity, T)
    return (seen.record, seen.record_revision) if kind is Kind.TOWER else (seen.blocks, seen.blocks_revision)


def test_an_absent_record_and_looks_without_effect(opener: Open, identity: str) -> None:
    store, other = opener(), opener()
    assert isinstance(store, Store)
    nothing = Sighting(identity, ABSENT, None, ABSENT, None, None, ABSENT, None)
    assert store.look(identity, T) == other.look(identity, T) == store.look(identity, T) == nothing
    assert store.history(identity, T) == []

    claimed = store.claim(nothing, owner(), T)  # so many looks, and the sighting is still the present
    assert isinstance(claimed, Claimed)
    assert (claimed.record, claimed.record_revision) == (None, ABSENT)
    seen = other.look(identity, T)
    assert (seen.instance_revision, seen.instance) == (claimed.fence.revision, claimed.fence.instance)
    assert (seen.record, seen.record_revision, seen.owner) == (None, ABSENT, owner())
    assert seen == store.look(identity, T)
    committed(store, claimed.fence, ABSENT, b"tower")  # a look takes nobody's fence away


def test_fences_rise_over_all_identities_and_carry_fresh_bytes(opener: Open, rng: random.Random) -> None:
    stores = [opener(), opener()]
    identities = [to_base58(rng.randbytes(32)) for _ in range(3)]
    fences = [claim(rng.choice(stores), rng.choice(identities)).fence for _ in range(20)]
    revisions = [fence.revision for fence in fences]
    assert revisions == sorted(set(revisions))
    assert revisions[0] > ABSENT
    assert {len(fence.instance) for fence in fences} == {INSTANCE_BYTES}
    assert len({fence.instance for fence in fences}) == len(fences)


@both_kinds
def test_s3_an_old_fence_is_refused_after_a_claim(opener: Open, identity: str, kind: Kind) -> None:
    first, second = opener(), opener()
    mine = claim(first, identity)
    written = committed(first, mine.fence, ABSENT, b"record 1", kind)
    yours = claim(second, identity)
    assert stored(second, identity, kind) == (b"record 1", written.record_revision)
    brought = (b"record 1", written.record_revision) if kind is Kind.TOWER else (None, ABSENT)
    assert (yours.record, yours.record_revision) == brought

    fenced = Refused(Refusal.FENCED, mine.fence.revision, yours.fence.revision)
    assert put(first, mine.fence, written.record_revision, b"record 2", kind) == fenced
    assert put(first, mine.fence, ABSENT, b"record 1", kind) == fenced  # not even the repetition of what did commit
    assert stored(second, identity, kind) == (b"record 1", written.record_revision)
    committed(second, yours.fence, written.record_revision, b"record 2'", kind)


@both_kinds
def test_a_fence_must_agree_in_revision_and_bytes(opener: Open, identity: str, kind: Kind) -> None:
    """A backup that was restored counts revisions again; the random bytes still tell two claims apart."""
    store = opener()
    mine = claim(store, identity)
    other_bytes = Fence(identity, mine.fence.revision, bytes(INSTANCE_BYTES))
    other_revision = Fence(identity, mine.fence.revision + 1, mine.fence.instance)
    for forged in (other_bytes, other_revision):
        outcome = put(store, forged, ABSENT, b"record", kind)
        assert isinstance(outcome, Refused)
        assert outcome.reason is Refusal.FENCED
    assert stored(store, identity, kind) == (None, ABSENT)


@both_kinds
def test_a_wrong_expected_revision_is_a_conflict(opener: Open, identity: str, kind: Kind) -> None:
    store = opener()
    fence = claim(store, identity).fence
    one = committed(store, fence, ABSENT, b"record 1", kind)
    conflict = Refused(Refusal.CONFLICT, ABSENT, one.record_revision)
    assert put(store, fence, ABSENT, b"record 2", kind) == conflict
    wrong = one.record_revision + 1
    assert put(store, fence, wrong, b"record 2", kind) == Refused(Refusal.CONFLICT, wrong, one.record_revision)
    assert stored(store, identity, kind) == (b"record 1", one.record_revision)


def test_an_announced_write_is_like_any_other(opener: Open, identity: str) -> None:
    """And one that was announced and never comes has no effect; nor has it on a store that was closed."""
    store, successor = opener(), opener()
    store.expect_store()  # on a connection that is not open yet
    fence, revision = claim(store, identity).fence, ABSENT
    for number in range(4):
        for _ in range(number):
            store.expect_store()
        assert stored(successor, identity)[1] == revision
        revision = committed(store, fence, revision, b"%d" % number, Kind.TOWER).record_revision
    store.expect_store()
    newer = claim(successor, identity).fence
    assert put(store, fence, revision, b"late") == Refused(Refusal.FENCED, fence.revision, newer.revision)
    store.expect_store()
    store.close()
    store.expect_store()
    assert stored(successor, identity) == (b"3", revision)


@both_kinds
def test_a_repetition_of_a_committed_write_says_the_same_again(opener: Open, identity: str, kind: Kind) -> None:
    store = opener()
    fence = claim(store, identity).fence
    one = committed(store, fence, ABSENT, b"record 1", kind)
    assert put(store, fence, ABSENT, b"record 1", kind) == one
    two = committed(store, fence, one.record_revision, b"record 2", kind)
    assert put(opener(), fence, one.record_revision, b"record 2", kind) == two
    assert stored(store, identity, kind) == (b"record 2", two.record_revision)


@both_kinds
def test_s4_a_late_copy_never_takes_the_record_back(opener: Open, identity: str, kind: Kind) -> None:
    """S7 as well: a reservation that comes late must not make slots free again that were given meanwhile."""
    store = opener()
    fence = claim(store, identity).fence
    one = committed(store, fence, ABSENT, b"record 1", kind)
    two = committed(store, fence, one.record_revision, b"record 2", kind)
    three = committed(store, fence, two.record_revision, b"record 3", kind)
    for expected, record in ((ABSENT, b"record 1"), (one.record_revision, b"record 2")):
        refused = Refused(Refusal.CONFLICT, expected, three.record_revision)
        assert put(store, fence, expected, record, kind) == refused
    assert stored(store, identity, kind) == (b"record 3", three.record_revision)


def test_s7_a_successor_leads_only_above_what_its_predecessor_reserved(opener: Open, identity: str) -> None:
    """The old owner does not know that it is one; it keeps what it was given, and gets nothing more."""
    lives: list[LeaderRunner] = []
    for first in (8, 10):
        claimed = claim(opener(), identity)
        lives.append(LeaderRunner(Leader(), opener(), store_timeout=T, duty_timeout=60.0))
        lives[-1].drive(Adopted(claimed.fence, None, None))
        lives[-1].drive(Reserve(first, first + 3))
    old, new = lives
    assert [[slot for slot in range(20) if life.may_produce(slot)] for life in lives] == [[8, 9, 10, 11], [12, 13]]
    old.drive(Reserve(14, 17))
    assert old.stopped is not None
    assert (old.stopped.reason, new.stopped) == (StopReason.LOST_FENCE, None)
    new.drive(Reserve(14, 17))
    assert [slot for slot in range(20) if old.may_produce(slot) or new.may_produce(slot)] == [12, 13, 14, 15, 16, 17]


def test_the_kinds_share_the_fence_and_nothing_else(opener: Open, identity: str) -> None:
    """A write of one kind neither moves nor compares the revision of the other, and equal bytes are not each other's copy."""
    votes, blocks = opener(), opener()  # as a process has them: one store object for each
    fence = claim(votes, identity).fence
    tower = committed(votes, fence, ABSENT, b"equal")
    assert stored(votes, identity, Kind.BLOCKS) == (None, ABSENT)
    reserved = committed(blocks, fence, ABSENT, b"equal", Kind.BLOCKS)
    for number in range(3):
        tower = committed(votes, fence, tower.record_revision, b"tower %d" % number)
        reserved = committed(blocks, fence, reserved.record_revision, b"slots %d" % number, Kind.BLOCKS)
    seen = votes.look(identity, T)
    assert seen == blocks.look(identity, T)
    assert (seen.record, seen.record_revision) == (b"tower 2", tower.record_revision)
    assert (seen.blocks, seen.blocks_revision) == (b"slots 2", reserved.record_revision)
    assert isinstance(put(blocks, fence, tower.record_revision, b"slots 3", Kind.BLOCKS), Refused)  # the other's revision

    lost: list[int] = []
    votes.watch(fence, lost.append)
    committed(blocks, fence, reserved.record_revision, b"slots 4", Kind.BLOCKS)
    yours = claim(opener(), identity)
    wait_until(lambda: lost, "the watch fires")
    assert (yours.record, yours.record_revision, lost) == (b"tower 2", tower.record_revision, [yours.fence.revision])


@pytest.mark.parametrize("record", [b"", bytes(range(256)) * 40, b"\n{}\0"], ids=["empty", "10 kB", "text-like"])
@both_kinds
def test_records_come_back_byte_for_byte(opener: Open, identity: str, record: bytes, kind: Kind) -> None:
    store = opener()
    written = committed(store, claim(store, identity).fence, ABSENT, record, kind)
    assert written.record_revision != ABSENT
    assert claim(opener(), identity).record == (record if kind is Kind.TOWER else None)
    assert stored(store, identity, kind) == (record, written.record_revision)


def test_the_loser_of_a_race_is_refused_and_changes_nothing(opener: Open, identity: str) -> None:
    first, second = opener(), opener()
    sighting = second.look(identity, T)
    winner = claim(first, identity, owner("winner"))
    assert second.claim(sighting, owner("loser"), T) == Refused(Refusal.FENCED, ABSENT, winner.fence.revision)
    assert second.look(identity, T).owner == owner("winner")
    assert [claimed.who for claimed in second.history(identity, T)] == ["winner"]
    committed(first, winner.fence, ABSENT, b"tower")


def test_a_claim_brings_back_the_record_of_its_own_moment(opener: Open, identity: str) -> None:
    """S1: the owner went on writing after the look, and those votes bind whoever claims."""
    owning, claiming = opener(), opener()
    mine = claim(owning, identity)
    one = committed(owning, mine.fence, mine.record_revision, b"tower 1")
    sighting = claiming.look(identity, T)
    two = committed(owning, mine.fence, one.record_revision, b"tower 2")
    yours = claiming.claim(sighting, owner("secondary"), T)
    assert isinstance(yours, Claimed)
    assert (yours.record, yours.record_revision) == (b"tower 2", two.record_revision)


def test_of_ten_concurrent_claims_from_one_sighting_exactly_one_wins(opener: Open, identity: str) -> None:
    sighting = opener().look(identity, T)
    stores = [opener() for _ in range(10)]
    barrier = threading.Barrier(10)
    results: list[Claimed | Refused | Unknown] = []

    def race(store: Store, who: str) -> None:
        barrier.wait(T)
        results.append(store.claim(sighting, owner(who), T))

    threads = [threading.Thread(target=race, args=(store, f"racer {n}")) for n, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(T)
    winners = [result for result in results if isinstance(result, Claimed)]
    losers = [result for result in results if isinstance(result, Refused) and result.reason is Refusal.FENCED]
    assert (len(winners), len(losers)) == (1, 9)
    assert stores[0].look(identity, T).instance == winners[0].fence.instance
    assert len(stores[0].history(identity, T)) == 1


def test_history_tells_every_claim_in_order(opener: Open, identity: str) -> None:
    # The second machine's clock is behind: the order is that of the claims, not of the clocks.
    owners = [owner("primary", 3000), owner("secondary", 1000, slot=41), owner("primary", 3500, slot=99)]
    for each in owners:
        claim(opener(), identity, each)
    other = identity[:-1] + ("2" if identity[-1] != "2" else "3")
    claim(opener(), other, owner("elsewhere"))
    assert opener().history(identity, T) == owners


def test_a_watch_fires_once_on_a_foreign_claim_and_never_on_own_stores(opener: Open, identity: str) -> None:
    first, second = opener(), opener()
    other = identity[:-1] + ("2" if identity[-1] != "2" else "3")
    mine = claim(first, identity)
    lost: list[int] = []
    closed: list[int] = []
    first.watch(mine.fence, lost.append)
    first.watch(mine.fence, closed.append).close()
    one = committed(first, mine.fence, ABSENT, b"tower 1")
    committed(first, mine.fence, one.record_revision, b"tower 2")
    claim(second, other)
    assert lost == []

    yours = claim(second, identity)
    wait_until(lambda: lost, "the watch fires")
    claim(second, identity)
    late: list[int] = []
    watch = first.watch(mine.fence, late.append)  # lost before it began
    wait_until(lambda: late, "a watch on a lost fence fires")
    watch.close()
    watch.close()
    assert (lost, len(late), closed) == ([yours.fence.revision], 1, [])


def test_a_closed_store_says_so_and_leaves_no_thread(opener: Open, identity: str) -> None:
    before = set(threading.enumerate())
    store = opener()
    mine = claim(store, identity)
    store.watch(mine.fence, lambda _: None)
    committed(store, mine.fence, ABSENT, b"tower")
    store.close()
    store.close()
    wait_until(lambda: set(threading.enumerate()) <= before, "no thread of the store is left")
    with pytest.raises(StoreError, match="closed"):
        store.look(identity, T)
    assert isinstance(put(store, mine.fence, ABSENT, b"tower"), Unknown)


@pytest.mark.parametrize("identity", ["", "../x", "a/b", "a b"])
def test_an_identity_cannot_reach_other_keys(opener: Open, identity: str) -> None:
    with pytest.raises(InvalidInput, match="identity"):
        opener().look(identity, T)


# -- random sequences against a model

CLIENTS = 3
WHAT = st.sampled_from(["look", "claim", "store", "store", "store", "stale", "repeat", "expect"])
ACTIONS = st.tuples(WHAT, st.integers(0, CLIENTS - 1), st.sampled_from([Kind.TOWER, Kind.TOWER, Kind.BLOCKS]))


class Model:
    """What a store is, for one identity: numbers stand for revisions and are compared with the adapter's by equality."""

    def __init__(self) -> None:
        self.claims = 0
        self.records: dict[Kind, bytes | None] = dict.fromkeys(Kind)

    def claim(self, seen: int) -> bool:
        if self.claims != seen:
            return False
        self.claims += 1
        return True

    def store(self, fence: int, expected: bytes | None, record: bytes, kind: Kind) -> Refusal | None:
        if fence != self.claims:
            return Refusal.FENCED
        if self.records[kind] not in (expected, record):
            return Refusal.CONFLICT
        self.records[kind] = record
        return None


@pytest.fixture
def clients(opener: Open) -> list[Store]:
    """Shared by all examples of one test; each example has an identity of its own."""
    return [opener() for _ in range(CLIENTS)]


@given(actions=st.lists(ACTIONS, min_size=5, max_size=40))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_sequence_does_what_the_model_says(clients: list[Store], actions: list[tuple[str, int, Kind]]) -> None:
    identity = to_base58(random.SystemRandom().randbytes(32))
    model = Model()
    sightings = [clients[0].look(identity, T)] * CLIENTS
    seen = [0] * CLIENTS  # the model's claims at each client's sighting
    held: list[tuple[Fence, int] | None] = [None] * CLIENTS  # each client's fence, and the model's
    known: dict[bytes | None, int] = {None: ABSENT}  # the revision of each record ever stored
    writes: list[tuple[Fence, int, bytes | None, bytes, Kind]] = []
    for number, (action, who, kind) in enumerate(actions):
        store, mine = clients[who], held[who]
        if action == "look":
            sightings[who], seen[who] = store.look(identity, T), model.claims
            tower, blocks = model.records[Kind.TOWER], model.records[Kind.BLOCKS]
            assert (sightings[who].record, sightings[who].record_revision) == (tower, known[tower])
            assert (sightings[who].blocks, sightings[who].blocks_revision) == (blocks, known[blocks])
        elif action == "claim":
            claimed = store.claim(sightings[who], owner(str(who)), T)
            assert isinstance(claimed, Claimed) == model.claim(seen[who])
            if isinstance(claimed, Claimed):
                tower = model.records[Kind.TOWER]
                assert (claimed.record, claimed.record_revision) == (tower, known[tower])
                held[who] = (claimed.fence, model.claims)
        elif action == "expect":
            store.expect_store()
        elif action == "repeat" and writes:
            check(store, model, known, *writes[-1 - who % len(writes)])
        elif mine is not None:
            expected = model.records[kind] if action == "store" else None
            write = (mine[0], mine[1], expected, b"%d" % number, kind)
            check(store, model, known, *write)
            writes.append(write)
    for kind in Kind:
        assert stored(clients[0], identity, kind)[0] == model.records[kind]


def check(
    store: Store,
    model: Model,
    known: dict[bytes | None, int],
    fence: Fence,
    fence_number: int,
    expected: bytes | None,
    record: bytes,
    kind: Kind,
) -> None:
    """One write on both sides; the answers must agree."""
    outcome = put(store, fence, known[expected], record, kind)
    refusal = model.store(fence_number, expected, record, kind)
    if refusal is None:
        assert isinstance(outcome, Committed), outcome
        known[record] = outcome.record_revision
    else:
        assert isinstance(outcome, Refused), outcome
        assert outcome.reason is refusal


def test_two_owners_that_fight_leave_one_chain_of_records(opener: Open, identity: str, rng: random.Random) -> None:
    """Each record names its predecessor. Whatever the two do to each other, the committed ones form one chain."""
    goal = 60
    chains: list[dict[int, str]] = [{}, {}]
    turns = [rng.randrange(1, 8) for _ in range(1000)]
    problems: list[object] = []

    def fight(me: int, store: Store) -> None:
        count = 0
        for turn in turns:
            if count >= goal:
                return
            claimed = store.claim(store.look(identity, T), owner(str(me)), T)
            if not isinstance(claimed, Claimed):
                continue
            count, revision = int((claimed.record or b"0 ").split()[0]), claimed.record_revision
            for _ in range(turn):
                outcome = put(store, claimed.fence, revision, b"%d by %d" % (count + 1, me))
                if not isinstance(outcome, Committed):
                    if not isinstance(outcome, Refused) or outcome.reason is not Refusal.FENCED:
                        problems.append(outcome)
                    break
                count, revision = count + 1, outcome.record_revision
                if count in chains[me]:
                    problems.append(f"{count} twice by {me}")
                chains[me][count] = f"{count} by {me}"

    threads = [threading.Thread(target=fight, args=(me, opener())) for me in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not problems
    assert not chains[0].keys() & chains[1].keys(), "both committed a record of the same number: the chain forked"
    last = opener().look(identity, T).record
    assert last is not None
    top = int(last.split()[0])
    assert sorted(chains[0] | chains[1]) == list(range(1, top + 1))
    assert top >= goal
