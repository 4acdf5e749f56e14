"""Towers between files and stores: what may follow what, and who loses the fence for it."""

from __future__ import annotations

import itertools
import random
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.etcd import etcd_flags
from tests.support.live import rpc_server
from tower.errors import InvalidInput, StoreUnavailable, UnusableTower
from tower.keys import Keypair, write_keypair_file
from tower.localnet.etcd_server import EtcdServer
from tower.lockout import TowerVoteState, require_well_formed
from tower.store import Claimed, Committed, Owner, Refusal, Refused, Store, Unknown
from tower.stores.file import FileStore
from tower.stores.memory import MemoryBackend, MemoryStore
from tower.types import BlockTimestamp, Generation, LastVote, Lockout, Tower, VoteKind
from tower.validator.cli import main
from tower.validator.config import Exit
from tower.validator.tower_io import FenceTaken, bring_in, load_tower, record_name, take_out, why_not_after
from tower.wire import encode_saved_tower

T = 5.0
PAIR, OTHER = (Keypair.from_seed(bytes([seed]) * 32) for seed in (41, 42))


def tower_of(state: TowerVoteState, stamp: int = 0, block: int = 1) -> Tower:
    lockouts = tuple(Lockout(*vote) for vote in state.votes)
    slots = tuple(lockout.slot for lockout in lockouts)
    vote = LastVote(VoteKind.TOWER_SYNC, slots, lockouts, state.root, bytes([block]) * 32, stamp or None, bytes(32))
    return Tower(PAIR.pubkey, lockouts, state.root, vote, BlockTimestamp(slots[-1] if slots else 0, stamp))


def voted(*slots: int) -> Tower:
    state = TowerVoteState()
    for slot in slots:
        state.process_vote(slot)
    return tower_of(state)


def saved(tower: Tower, generation: Generation = Generation.CURRENT) -> bytes:
    return encode_saved_tower(tower, PAIR, generation)


# ---- the rule


def test_whatever_grew_out_of_a_tower_may_follow_it_and_not_the_other_way_round(rng: random.Random) -> None:
    for _ in range(40):
        state, slot, towers = TowerVoteState(), rng.randrange(100), []
        for _ in range(rng.randrange(2, 80)):
            slot += rng.choice([1, 1, 1, 2, 3, rng.randrange(1, 40), rng.randrange(1, 5000)])
            state.process_vote(slot)
            towers.append(tower_of(state))
        for earlier, later in itertools.combinations(towers, 2):
            assert why_not_after(earlier, later) is None
            assert why_not_after(later, earlier) is not None
        assert all(why_not_after(each, each) is None for each in towers)


def test_two_branches_of_one_tower_never_follow_each_other(rng: random.Random) -> None:
    """From a common stack, two voters go on on different forks: neither may take the other's place while a vote binds."""
    for _ in range(200):
        common = TowerVoteState()
        slot = 0
        for _ in range(rng.randrange(0, 30)):
            slot += rng.choice([1, 1, 2, 5])
            common.process_vote(slot)
        ours, theirs = common.copy(), common.copy()
        ours.process_vote(slot + 1)
        theirs.process_vote(slot + 2)  # within the two slots for which the vote at slot + 1 binds
        assert why_not_after(tower_of(ours), tower_of(theirs)) is not None
        assert why_not_after(tower_of(theirs), tower_of(ours)) is not None


BASE = voted(10, 11, 12)
RULES = [
    (voted(10, 11, 12), None),
    (voted(10, 11, 12, 13), None),
    (voted(10, 11), r"its last vote 11 is older than the stored one, 12"),
    (Tower(PAIR.pubkey), r"its last vote none is older than the stored one, 12"),
    (replace(BASE, last_vote=replace(BASE.last_vote, hash=bytes([9]) * 32)), r"it votes for another block of slot 12 .*"),
    (voted(10, 12), r"its vote for slot 10 has 2 confirmations, the stored one 3"),
    (voted(10, 11, 13), r"its vote for slot 10 .*|the stored vote for slot 12 binds until slot 14, and is not in it"),
    (voted(13), r"the stored vote for slot 10 binds until slot 18, and is not in it"),
    (voted(100), None),  # everything that was promised has expired by then
    (voted(9, 10, 11, 12, 13), r"it holds a vote for slot 9, which the stored tower does not"),
]


@pytest.mark.parametrize(("new", "reason"), RULES, ids=range(len(RULES)))
def test_the_reasons(new: Tower, reason: str | None) -> None:
    import re

    found = why_not_after(BASE, new)
    assert (found is None) if reason is None else re.fullmatch(reason, found or "")


def test_roots_and_timestamps_do_not_go_back() -> None:
    rooted = voted(*range(1, 40))
    later = voted(*range(1, 41))
    assert rooted.root == 8
    assert why_not_after(rooted, replace(later, root=None)) == "its root none is older than the stored one, 8"
    assert why_not_after(rooted, replace(later, root=7)) == "its root 7 is older than the stored one, 8"
    young, old = tower_of(TowerVoteState([(5, 1)]), 1000), tower_of(TowerVoteState([(5, 1)]), 999)
    assert why_not_after(old, young) is None
    assert why_not_after(young, old) == "its last timestamp 999 is older than the stored one"
    assert why_not_after(Tower(PAIR.pubkey, root=3), voted(9)) == "its root none is older than the stored one, 3"


def test_what_a_restart_cut_off_below_the_root_may_follow() -> None:
    """After a restart rooted votes are gone from the stack and the root is the ledger's."""
    before = voted(*range(10, 20))
    after = TowerVoteState([(18, 2), (19, 1)], 17)
    after.process_vote(20)
    assert why_not_after(before, tower_of(after)) is None


def test_an_unusable_tower_says_where_and_why() -> None:
    good = saved(BASE)
    assert load_tower(good, PAIR.pubkey, "x") == BASE
    malformed = replace(BASE, lockouts=(Lockout(12, 1), Lockout(10, 2)), last_vote=LastVote(VoteKind.VOTE, (10,)))
    for data in (good[:-1], b"", good[:10] + bytes([good[10] ^ 1]) + good[11:], saved(malformed)):
        with pytest.raises(UnusableTower, match=rf"^x: no usable tower of {PAIR.address}: "):
            load_tower(data, PAIR.pubkey, "x")
    with pytest.raises(UnusableTower, match="not signed by"):
        load_tower(good, OTHER.pubkey, "x")


# ---- into a store


@pytest.fixture(params=["memory", "file", "etcd"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "etcd":
        made = request.getfixturevalue("etcd_store")()
    else:
        made = FileStore(tmp_path / "towers") if request.param == "file" else MemoryStore(MemoryBackend())
    yield made
    made.close()


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Keypair:
    """A fresh identity: the etcd of the session is shared."""
    return Keypair.generate()


def of(pair: Keypair, tower: Tower, generation: Generation = Generation.CURRENT) -> bytes:
    return encode_saved_tower(replace(tower, identity=pair.pubkey), pair, generation)


def own(store: Store, pair: Keypair, record: bytes | None = None) -> Claimed:
    """A voter elsewhere: it claims, and stores `record`."""
    claimed = store.claim(store.look(pair.address, T), Owner("primary", "start", "h1", 7, 1000), T)
    assert isinstance(claimed, Claimed)
    if record is not None:
        assert isinstance(store.begin_store(claimed.fence, claimed.record_revision, record, T).outcome(T), Committed)
    return claimed


def bring(store: Store, pair: Keypair, record: bytes, **how: Any) -> list[str]:
    told: list[str] = []
    bring_in(store, pair, record, "t.bin", timeout=T, tell=told.append, **how)
    return told


def test_into_an_empty_store(store: Store, pair: Keypair) -> None:
    record = of(pair, BASE)
    told = bring(store, pair, record, who="desk", wall_ms=lambda: 5000)
    seen = store.look(pair.address, T)
    assert seen.record == record
    assert seen.owner is not None
    assert (seen.owner.who, seen.owner.why, seen.owner.at_ms, seen.owner.last_voted_slot) == ("desk", "import", 5000, None)
    assert [owner.why for owner in store.history(pair.address, T)] == ["import"]
    assert told == [
        "t.bin: last vote 12, root none, 3 votes; stored: nothing",
        f"stored under fence {seen.instance_revision}: last vote 12, root none, 3 votes",
    ]


@pytest.mark.parametrize("generation", list(Generation))
def test_every_generation_comes_in_as_the_current_one(generation: Generation, pair: Keypair) -> None:
    store = MemoryStore(MemoryBackend())
    plain = replace(BASE, last_vote=LastVote(VoteKind.VOTE, (12,), hash=bytes([1]) * 32))
    bring(store, pair, of(pair, plain if generation is not Generation.CURRENT else BASE, generation))
    stored = store.look(pair.address, T).record
    assert stored is not None
    found = load_tower(stored, pair.pubkey, "the store")
    assert (found.generation, found.votes) == (Generation.CURRENT, BASE.votes)
    require_well_formed(found)


def test_a_held_fence_is_taken_only_on_demand_and_its_holder_is_fenced(store: Store, pair: Keypair) -> None:
    primary = own(store, pair, of(pair, BASE))
    before = store.look(pair.address, T)
    newer = of(pair, voted(10, 11, 12, 13))
    with pytest.raises(InvalidInput, match=r"is held by primary \(host h1, pid 7, fence \d+, by start\).*--take-fence"):
        bring(store, pair, newer)
    assert store.look(pair.address, T) == before
    told = bring(store, pair, newer, take_fence=True, dry_run=True)
    assert "nothing was changed; the fence would be taken from primary" in told[-1]
    assert store.look(pair.address, T) == before
    told = bring(store, pair, newer, take_fence=True)
    assert any(line.startswith(f"TAKING THE FENCE of {pair.address} from primary") for line in told)
    outcome = store.begin_store(primary.fence, before.record_revision, of(pair, voted(10, 11, 12, 14)), T).outcome(T)
    assert isinstance(outcome, Refused)
    assert outcome.reason is Refusal.FENCED
    assert store.look(pair.address, T).record == newer
    assert store.history(pair.address, T)[-1].last_voted_slot == 12


@pytest.mark.parametrize("new", [voted(10, 11), voted(10, 11, 13), voted(9, 10, 11, 12, 13)], ids=["older", "fork", "more"])
def test_nothing_goes_back_whatever_is_forced(store: Store, pair: Keypair, new: Tower) -> None:
    own(store, pair, of(pair, BASE))
    before = store.look(pair.address, T)
    with pytest.raises(InvalidInput, match=r"t.bin: not imported, nothing was changed: "):
        bring(store, pair, of(pair, new), take_fence=True)
    assert store.look(pair.address, T) == before


def test_what_is_stored_already_costs_nobody_the_fence(store: Store, pair: Keypair) -> None:
    record = of(pair, BASE)
    own(store, pair, record)
    before = store.look(pair.address, T)
    assert bring(store, pair, record) == ["already stored, nothing to do: last vote 12, root none, 3 votes"]
    assert store.look(pair.address, T) == before


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data[:20] + bytes(4) + data[24:]], ids=["torn", "signed"])
def test_an_unusable_file_is_found_before_anything_is_claimed(pair: Keypair, spoil: Callable[[bytes], bytes]) -> None:
    store = MemoryStore(MemoryBackend())
    with pytest.raises(UnusableTower, match=r"^t.bin: no usable tower"):
        bring(store, pair, spoil(of(pair, BASE)), take_fence=True)
    assert store.look(pair.address, T).instance is None


class Meddler(MemoryStore):
    """A store in which something happens at a chosen moment, and whose first answers may be lost."""

    before_claim: Callable[[], object] = staticmethod(lambda: None)
    lost = 0

    def claim(self, *args: Any) -> Any:
        self.before_claim()
        return super().claim(*args)

    def begin_store(self, *args: Any, **kwargs: Any) -> Any:
        pending = super().begin_store(*args, **kwargs)
        if self.lost:
            self.lost -= 1
            pending._outcome = Unknown("the answer was lost")
        return pending


def test_an_owner_that_votes_until_the_claim_keeps_its_newest_tower(pair: Keypair) -> None:
    backend = MemoryBackend()
    owner, store = MemoryStore(backend), Meddler(backend)
    primary = own(owner, pair, of(pair, BASE))
    seen = owner.look(pair.address, T)
    newest = of(pair, voted(10, 11, 12, 13, 14))
    store.before_claim = lambda: owner.begin_store(primary.fence, seen.record_revision, newest, T).outcome(T)
    with pytest.raises(InvalidInput, match="it moved on before the fence was taken, and now its last vote 13 is older"):
        bring(store, pair, of(pair, voted(10, 11, 12, 13)), take_fence=True)
    assert owner.look(pair.address, T).record == newest


def test_somebody_claims_in_the_very_same_moment(pair: Keypair) -> None:
    backend = MemoryBackend()
    store = Meddler(backend)
    store.before_claim = lambda: own(MemoryStore(backend), pair)
    with pytest.raises(FenceTaken, match="nothing was written"):
        bring(store, pair, of(pair, BASE))
    assert store.look(pair.address, T).record is None


def test_a_lost_answer_is_settled_by_the_same_write(pair: Keypair) -> None:
    store = Meddler(MemoryBackend())
    store.lost = 3
    bring(store, pair, of(pair, BASE))
    assert store.look(pair.address, T).record == of(pair, BASE)


def test_a_store_that_never_confirms_ends_in_time_and_says_so(pair: Keypair) -> None:
    store = Meddler(MemoryBackend())
    store.lost = 1_000_000
    with pytest.raises(StoreUnavailable, match="it may be written or not; repeat the command: the answer was lost"):
        bring_in(store, pair, of(pair, BASE), "t.bin", timeout=0.2, tell=lambda line: None)


# ---- going back, on purpose


def test_going_back_names_what_is_given_up_and_waits_under_the_fence(store: Store, pair: Keypair) -> None:
    own(store, pair, of(pair, BASE))
    older = of(pair, voted(10))
    for wrong in ("11", "unusable", "10"):
        with pytest.raises(InvalidInput, match=f"--replace-stored {wrong} does not name the .*, which is: last vote 12"):
            bring(store, pair, older, take_fence=True, replace=wrong)
    waited: list[bytes | None] = []
    bring(store, pair, older, take_fence=True, replace="12", wait=lambda: waited.append(store.look(pair.address, T).record))
    assert waited == [of(pair, BASE)], "while it waits, whoever starts still finds the stored tower"
    assert store.look(pair.address, T).record == older


def test_going_back_has_no_use_where_nothing_goes_back(store: Store, pair: Keypair) -> None:
    with pytest.raises(InvalidInput, match="--replace-stored has no use here"):
        bring(store, pair, of(pair, BASE), replace="12")
    own(store, pair, of(pair, BASE))
    with pytest.raises(InvalidInput, match="--replace-stored has no use here"):
        bring(store, pair, of(pair, voted(10, 11, 12, 13)), take_fence=True, replace="12")


def test_a_claim_during_the_wait_ends_it_and_nothing_is_written(store: Store, pair: Keypair) -> None:
    own(store, pair, of(pair, BASE))
    with pytest.raises(FenceTaken, match="nothing was written"):
        bring(store, pair, of(pair, voted(10)), take_fence=True, replace="12", wait=lambda: own(store, pair))
    assert store.look(pair.address, T).record == of(pair, BASE)


def test_an_unusable_stored_tower_is_replaced_only_by_its_name(store: Store, pair: Keypair) -> None:
    own(store, pair, b"torn")
    with pytest.raises(InvalidInput, match="the stored tower cannot be compared with it: the store: no usable tower"):
        bring(store, pair, of(pair, BASE), take_fence=True)
    bring(store, pair, of(pair, BASE), take_fence=True, replace="unusable")
    assert store.look(pair.address, T).record == of(pair, BASE)


# ---- into a file


def test_out_byte_for_byte_and_never_over_something(tmp_path: Path) -> None:
    record = saved(BASE)
    path = take_out(record, PAIR.pubkey, tmp_path, force=False)
    assert path == tmp_path / f"tower-1_9-{PAIR.address}.bin"
    assert path.read_bytes() == record
    assert stat.S_IMODE(path.stat().st_mode) & 0o111 == 0
    with pytest.raises(InvalidInput, match="exists and is not overwritten"):
        take_out(record, PAIR.pubkey, tmp_path, force=False)
    assert take_out(saved(voted(10, 11, 12, 13)), PAIR.pubkey, path, force=True) == path
    with pytest.raises(InvalidInput, match="would be lost, for of the stored one: its last vote 12 is older"):
        take_out(record, PAIR.pubkey, path, force=True)
    path.write_bytes(b"something else")
    assert take_out(record, PAIR.pubkey, path, force=True).read_bytes() == record
    assert list(tmp_path.iterdir()) == [path]


def test_out_into_the_folder_of_a_store_is_an_import(tmp_path: Path) -> None:
    (tmp_path / f"fence-{PAIR.address}.json").write_text("{}")
    for target in (tmp_path, tmp_path / record_name(PAIR.pubkey)):
        with pytest.raises(InvalidInput, match="belongs to the tower store in that folder"):
            take_out(saved(BASE), PAIR.pubkey, target, force=True)
    take_out(saved(BASE), PAIR.pubkey, tmp_path / "copy.bin", force=False)


# ---- the commands


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_keypair_file(tmp_path / "id.json", PAIR)
    (tmp_path / "t.bin").write_bytes(saved(BASE))
    (tmp_path / "older.bin").write_bytes(saved(voted(10)))
    return tmp_path


def test_from_a_file_through_etcd_into_a_folder_and_back(
    folder: Path, etcd_server: EtcdServer, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = Keypair.generate()
    write_keypair_file(folder / "fresh.json", pair)
    record = of(pair, BASE)
    (folder / "fresh.bin").write_bytes(record)
    etcd = etcd_flags(etcd_server)
    assert main(["tower", "import", "fresh.bin", "--identity", "fresh.json", *etcd]) == Exit.OK
    assert main(["tower", "export", "out.bin", "--identity", pair.address, *etcd]) == Exit.OK
    assert (folder / "out.bin").read_bytes() == record
    assert main(["tower", "import", "out.bin", "--identity", "fresh.json", "--tower", "towers"]) == Exit.OK
    assert main(["tower", "export", ".", "--identity", "fresh.json", "--tower", "towers"]) == Exit.OK
    assert (folder / record_name(pair.pubkey)).read_bytes() == record
    assert main(["tower", "verify", "out.bin", "--identity", pair.address]) == Exit.OK
    out, err = capsys.readouterr()
    assert "out.bin: usable, enum-1, last vote 12, root none, 3 votes\n" in out
    assert "Error" not in err


def test_the_ledger_may_stand_before_the_command(folder: Path) -> None:
    assert main(["--ledger", "ledger", "tower", "import", "t.bin", "--identity", "id.json"]) == Exit.OK
    assert (folder / "ledger" / record_name(PAIR.pubkey)).read_bytes() == saved(BASE)
    assert main(["--ledger", "elsewhere", "tower", "verify", "t.bin", "--identity", "id.json"]) == Exit.OK


def test_an_unusable_tower_is_exported_for_a_look_and_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = FileStore(folder / "towers")
    own(store, PAIR, saved(BASE)[:-1])
    store.close()
    assert main(["tower", "export", "bad.bin", "--identity", "id.json", "--tower", "towers"]) == Exit.TOWER_UNUSABLE
    assert (folder / "bad.bin").read_bytes() == saved(BASE)[:-1]
    assert capsys.readouterr().err.startswith(f"Error: exported, but it is: no usable tower of {PAIR.address}: ")


class Slots:
    """A cluster whose slot rises by 40 with every question, and what the store held at each."""

    def __init__(self, towers: Path) -> None:
        self.slot, self.towers, self.seen = 100, towers, set[bytes]()

    def __call__(self, params: list[Any]) -> int:
        self.slot += 40
        self.seen.add((self.towers / record_name(PAIR.pubkey)).read_bytes())
        return self.slot


def test_the_command_goes_back_after_200_slots_of_the_cluster(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tower", "import", "t.bin", "--identity", "id.json", "--tower", "towers"]) == Exit.OK
    cluster = Slots(folder / "towers")
    back = ["tower", "import", "older.bin", "--identity", "id.json", "--tower", "towers", "--take-fence"]
    assert main(back) == Exit.REFUSED
    with rpc_server({"getSlot": cluster}) as rpc:
        assert main([*back, "--replace-stored", "12", "--url", rpc.url]) == Exit.OK
    assert cluster.slot >= 100 + 40 + 200
    assert cluster.seen == {saved(BASE)}, "nothing was written before the wait was over"
    assert (folder / "towers" / record_name(PAIR.pubkey)).read_bytes() == saved(voted(10))
    assert "waiting for 200 slots under the fence" in capsys.readouterr().out


def test_a_claim_during_the_wait_is_a_lost_fence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tower", "import", "t.bin", "--identity", "id.json", "--tower", "towers"]) == Exit.OK
    answers = iter([100, 100])

    def slot(params: list[Any]) -> int:
        found = next(answers, 1000)
        if found == 1000:
            store = FileStore(folder / "towers")
            own(store, PAIR)
            store.close()
        return found

    back = ["tower", "import", "older.bin", "--identity", "id.json", "--tower", "towers", "--take-fence"]
    with rpc_server({"getSlot": slot}) as rpc:
        assert main([*back, "--replace-stored", "12", "--url", rpc.url]) == Exit.LOST_FENCE
    assert (folder / "towers" / record_name(PAIR.pubkey)).read_bytes() == saved(BASE)
    assert "another instance has claimed since" in capsys.readouterr().err
