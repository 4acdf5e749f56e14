"""What the looking commands say: the rows as a pure function, then real stores, and a validator that runs."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import pty
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.support.cluster import ENVIRONMENT, World, run_world, until
from tests.support.etcd import etcd_flags, open_store, run_etcd, run_etcd_cluster
from tests.support.live import admin_server, rpc_server
from tower.keys import Keypair, write_keypair_file
from tower.localnet.etcd_server import EtcdServer
from tower.lockout import TowerVoteState
from tower.store import ABSENT, Claimed, Committed, ListingStore, Owner, Sighting
from tower.stores.etcd import LIST_PAGE
from tower.stores.file import FileStore
from tower.stores.memory import MemoryBackend, MemoryStore
from tower.types import BlockTimestamp, LastVote, Lockout, Tower, VoteKind
from tower.validator.cli import main
from tower.validator.config import Exit
from tower.validator.etcd_survey import EtcdSurvey, MemberFacts
from tower.validator.looking import (
    Certificate,
    IdentityFacts,
    Landed,
    Limits,
    Observation,
    ValidatorView,
    claims_of,
    describe,
)
from tower.validator.looking_text import history_lines, status_lines, watch_line, watch_page
from tower.wire import decode_saved_tower, encode_saved_tower

T = 5.0
PAIR = Keypair.from_seed(bytes([51]) * 32)
NOW_MS = 1_700_000_000_000
PRIMARY, SECONDARY = (Owner(f"m{n}", "start", f"h{n}", n, NOW_MS - 60_000 * (3 - n), 10 * n) for n in (1, 2))


def record(pair: Keypair = PAIR, slot: int = 77, stamp: int | None = NOW_MS // 1000 - 4) -> bytes:
    lockouts = (Lockout(slot - 2, 3), Lockout(slot - 1, 2), Lockout(slot, 1))
    slots = tuple(lockout.slot for lockout in lockouts)
    vote = LastVote(VoteKind.TOWER_SYNC, slots, lockouts, 7, bytes([1]) * 32, stamp, bytes(32))
    return encode_saved_tower(Tower(pair.pubkey, lockouts, 7, vote, BlockTimestamp(slot, stamp or 0)), pair)


def facts(**more: Any) -> IdentityFacts:
    sighting = Sighting(PAIR.address, 9, bytes(8), 12, record(), SECONDARY)
    changed = {name: more.pop(name) for name in list(more) if name in Sighting.__slots__}
    return IdentityFacts(replace(sighting, **changed), (PRIMARY, SECONDARY), 0.002, **more)


def said_of(*identities: IdentityFacts, **more: Any) -> dict[str, Any]:
    limits = more.pop("limits", Limits())
    return describe(Observation(NOW_MS, "file", ("/towers",), identities, **more), limits)


# ---- the document


def test_held_and_healthy() -> None:
    said = said_of(facts())
    (row,) = said["identities"]
    assert (said["exit_status"], said["problems"], row["state"], row["problems"]) == (Exit.OK, [], "held", [])
    assert row["holder"] == {
        "who": "m2", "host": "h2", "pid": 2, "why": "start", "since": "2023-11-14T22:12:20.000Z", "held_s": 60.0,
    }  # fmt: skip
    assert row["persisted"] == {"slot": 77, "root": 7, "lockouts": 3, "timestamp": NOW_MS // 1000 - 4, "age_s": 4.0}
    assert (row["fence"], row["claims"], said["store"]["look_ms"], said["at"]) == (9, 2, 2.0, "2023-11-14T22:13:20.000Z")
    assert json.loads(json.dumps(said)) == said


OLD = record(stamp=NOW_MS // 1000 - 31)
STATES = [
    ({}, "held", Exit.OK, None),
    ({"record": OLD}, "stale", Exit.UNHEALTHY, "the newest stored vote is 31.0 s old (--max-age 30)"),
    ({"record": None, "record_revision": 0}, "stale", Exit.UNHEALTHY, "no vote is stored yet"),
    ({"record": encode_saved_tower(Tower(PAIR.pubkey), PAIR)}, "stale", Exit.UNHEALTHY, "no vote is stored yet"),
    ({"record": record()[:-1]}, "unusable", Exit.TOWER_UNUSABLE, "the store: no usable tower of "),
    ({"record": record(Keypair.generate())}, "unusable", Exit.TOWER_UNUSABLE, "is not signed by"),
    ({"instance_revision": ABSENT, "instance": None, "owner": None, "record": None}, "nobody", Exit.NOBODY, "nobody ever"),
    ({"instance_revision": ABSENT, "instance": None, "owner": None}, "nobody", Exit.NOBODY, "though a tower is stored"),
    ({"owner": None}, "held", Exit.OK, None),
]


@pytest.mark.parametrize(("change", "state", "status", "problem"), STATES, ids=range(len(STATES)))
def test_states_and_their_exit_statuses(change: dict[str, Any], state: str, status: Exit, problem: str | None) -> None:
    said = said_of(facts(**change))
    (row,) = said["identities"]
    assert (row["state"], said["exit_status"]) == (state, status)
    assert (row["problems"] == []) if problem is None else (problem in row["problems"][0])


def test_the_worst_identity_decides() -> None:
    good, stale = facts(), facts(record=OLD)
    nobody = facts(instance_revision=ABSENT, instance=None, owner=None)
    torn = facts(record=b"torn")
    assert said_of(good, stale)["exit_status"] == Exit.UNHEALTHY
    assert said_of(good, stale, nobody)["exit_status"] == Exit.NOBODY
    assert said_of(nobody, torn, good)["exit_status"] == Exit.TOWER_UNUSABLE
    assert said_of()["exit_status"] == Exit.NOBODY
    assert said_of(error="gone")["exit_status"] == Exit.STORE_FAILED


def test_a_vote_without_a_timestamp_is_as_old_as_the_newest_one_that_has_one() -> None:
    lockouts = (Lockout(5, 1),)
    vote = LastVote(VoteKind.TOWER_SYNC, (5,), lockouts, None, bytes(32), None, bytes(32))
    data = encode_saved_tower(Tower(PAIR.pubkey, lockouts, None, vote, BlockTimestamp(4, NOW_MS // 1000 - 9)), PAIR)
    assert said_of(facts(record=data))["identities"][0]["persisted"]["age_s"] == 9.0


VIEW = {"identity": PAIR.address, "voting": True, "state": "ready", "fence": 9, "lastVotedSlot": 76, "sentVotes": 3}
VIEWS = [
    ({}, 76, None, None),
    ({"sentVotes": 0}, None, "has sent no vote yet", None),
    ({"voting": False, "state": "standby"}, None, "does not vote (standby)", None),
    ({"identity": "else"}, None, "the validator here is else", None),
    ({"fence": 8}, 76, None, "believes in fence 8, the store says 9"),
]


@pytest.mark.parametrize(("change", "released", "why", "problem"), VIEWS, ids=range(len(VIEWS)))
def test_what_the_validator_here_released(change: Any, released: Any, why: str | None, problem: str | None) -> None:
    said = said_of(facts(), validator=ValidatorView("ledger", {**VIEW, **change}))
    (row,) = said["identities"]
    assert row["released"] == released
    assert (row["released_why"] is None) if why is None else (why in row["released_why"])
    assert (row["problems"] == []) if problem is None else (problem in row["problems"][0])
    assert said["exit_status"] == (Exit.OK if problem is None else Exit.UNHEALTHY)


def test_without_a_validator_here_the_reason_is_given() -> None:
    said = said_of(facts(), validator=ValidatorView("ledger", why="no validator here: ledger/admin.rpc does not exist"))
    assert said["identities"][0]["released"] is None
    assert "  released:  - (no validator here: ledger/admin.rpc does not exist)" in status_lines(said)


def test_what_landed() -> None:
    near = said_of(facts(landed=Landed("V" * 32, 75, 40, 1234, 80)))
    assert near["identities"][0]["landed"]["credits"] == 1234
    assert "  landed:    slot 75, root 40, 1234 credits; the cluster is at slot 80" in status_lines(near)
    assert near["exit_status"] == Exit.OK
    for landed in (Landed("V" * 32, 75, 40, 0, 75 + 129), Landed("V" * 32, None, None, 0, 129)):
        far = said_of(facts(landed=landed))
        assert far["exit_status"] == Exit.UNHEALTHY
        assert far["identities"][0]["problems"] == ["delinquent: the newest landed vote is 129 slots behind the cluster"]


UP = MemberFacts("etcd-1", 1, "10.0.0.1:2379", "3.6.9", 1_200_000, is_leader=True)
DOWN = MemberFacts("etcd-2", 2, "10.0.0.2:2379", error="connection refused")


def test_the_members_of_etcd_and_its_alarms() -> None:
    said = said_of(facts(), survey=EtcdSurvey((UP, DOWN), ("NOSPACE on etcd-1",), leader="etcd-1"))
    assert said["problems"] == ["etcd etcd-2 (10.0.0.2:2379): connection refused", "etcd has raised an alarm: NOSPACE on etcd-1"]
    assert said["exit_status"] == Exit.UNHEALTHY
    lines = status_lines(said)
    assert "  etcd-1  10.0.0.1:2379  leader, 3.6.9, 1.2 MB" in lines
    assert "  etcd-2  10.0.0.2:2379  DOWN: connection refused" in lines
    assert "PROBLEM: etcd has raised an alarm: NOSPACE on etcd-1" in lines
    assert said_of(facts(), survey=EtcdSurvey((UP,), leader="etcd-1"))["exit_status"] == Exit.OK
    assert "etcd has no leader: no vote can be stored" in said_of(survey=EtcdSurvey((UP,)))["problems"]


def test_certificates_are_a_problem_before_they_expire() -> None:
    now = datetime.fromtimestamp(NOW_MS / 1000, UTC)
    expires = {"--etcd-cacert-file": 400, "--etcd-cert-file": 3}
    certificates = tuple(Certificate(flag, now + timedelta(days=days)) for flag, days in expires.items())
    said = said_of(facts(), certificates=certificates)
    assert said["problems"] == ["--etcd-cert-file: expires in 3.0 days; renew it"]
    assert [each["days_left"] for each in said["store"]["certificates"]] == [400.0, 3.0]
    assert said_of(facts(), certificates=certificates, limits=Limits(certificate_days=2))["exit_status"] == Exit.OK


def test_a_store_that_does_not_answer_is_said_with_its_members() -> None:
    said = said_of(error="etcd 10.0.0.2:2379: connection refused", survey=EtcdSurvey((DOWN,)))
    assert said["identities"] == []
    assert status_lines(said)[0] == "store file /towers: does not answer"
    assert "does not answer: etcd 10.0.0.2:2379" in watch_line(said)


# ---- history


def test_a_history_tells_takeovers_restarts_imports_and_unnamed_claims() -> None:
    a1 = Owner("a", "start", "h1", 1, 1_000)
    a2 = replace(a1, pid=2, at_ms=61_000, last_voted_slot=5)
    b = Owner("b", "set-identity", "h2", 3, 3_661_000, 900)
    desk = Owner("desk", "import", "h3", 4, 3_660_000, 950)  # whose clock is behind
    sighting = Sighting("me", 4, bytes(8), 0, None, desk)
    rows = claims_of(sighting, [a1, a2, b, desk])
    assert [row["kind"] for row in rows] == ["first", "again", "takeover", "import"]
    assert [row["held_s"] for row in rows] == [60.0, 3600.0, None, None]
    assert [row["from"] for row in rows] == [None, "a", "a", "b"]
    assert [row["slot"] for row in rows] == [None, 5, 900, 950]
    assert [row["current"] for row in rows] == [False, False, False, True]
    lines = history_lines(rows)
    assert lines[0].split() == ["TIME", "WHO", "WHAT", "WHY", "FROM", "SLOT", "HELD"]
    assert "took over, fence taken from a after 1 h 00 min" in lines[3]
    assert "tower imported, fence taken from b after -" in lines[4]
    assert lines[4].endswith("still")
    unnamed = claims_of(replace(sighting, owner=None), [a1])
    assert (unnamed[-1]["kind"], unnamed[-1]["who"], unnamed[-1]["from"], unnamed[-1]["current"]) == ("unnamed", None, "a", True)
    assert "claimed by a validator that leaves no name" in history_lines(unnamed)[-1]
    assert claims_of(Sighting("me", ABSENT, None, 0, None), []) == []


def test_a_random_history_adds_up(rng: random.Random) -> None:
    for _ in range(50):
        at, owners = NOW_MS, []
        for number in range(rng.randrange(1, 20)):
            at += rng.randrange(1, 10**8)
            owners.append(Owner(rng.choice("abc"), "start", "h", number, at))
        rows = claims_of(Sighting("me", 9, bytes(8), 0, None, owners[-1]), owners)
        assert sum(row["held_s"] or 0 for row in rows) == pytest.approx((owners[-1].at_ms - owners[0].at_ms) / 1000)
        for before, row in itertools.pairwise(rows):
            assert (row["kind"] == "again") == (before["who"] == row["who"])
            assert before["held_s"] == row["from_held_s"]


# ---- watch


def test_the_page_shows_what_the_document_says() -> None:
    console = Console(width=150, record=True, file=io.StringIO())
    said = said_of(facts(), facts(record=b"torn"), survey=EtcdSurvey((UP, DOWN), leader="etcd-1"))
    events = claims_of(facts().sighting, [PRIMARY, SECONDARY])
    console.print(watch_page(said, events, [1.0, None, 2.0]))
    text = console.export_text()
    for part in ("m2", "unusable", "DOWN: connection refused", "took over, fence taken from m1", "2.0 ms", "▅ █"):
        assert part in text, text


# ---- stores


def claim(store: ListingStore, pair: Keypair, who: str = "m", data: bytes | None = None) -> Claimed:
    claimed = store.claim(store.look(pair.address, T), Owner(who, "start", "h", 1, NOW_MS), T)
    assert isinstance(claimed, Claimed)
    if data is not None:
        assert isinstance(store.begin_store(claimed.fence, claimed.record_revision, data, T).outcome(T), Committed)
    return claimed


@pytest.fixture
def own_etcd(tmp_path: Path, certificates: Path) -> Iterator[EtcdServer]:
    with run_etcd(tmp_path, certificates) as server:
        yield server


@pytest.fixture(params=["memory", "file", "etcd"])
def empty_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A store that nobody else uses."""
    if request.param == "etcd":
        made: Any = open_store(request.getfixturevalue("own_etcd"))
    else:
        made = FileStore(tmp_path / "towers") if request.param == "file" else MemoryStore(MemoryBackend())
    yield made
    made.close()


def test_identities_are_those_that_have_something_here(empty_store: ListingStore) -> None:
    assert empty_store.identities(T) == []
    pairs = [Keypair.generate() for _ in range(7)]
    for pair in pairs:
        claim(empty_store, pair)
    assert empty_store.identities(T) == sorted(pair.address for pair in pairs)
    before = [empty_store.look(pair.address, T) for pair in pairs]
    empty_store.identities(T)
    assert [empty_store.look(pair.address, T) for pair in pairs] == before


def test_foreign_keys_and_a_long_history_do_not_hide_an_identity(own_etcd: EtcdServer) -> None:
    store = open_store(own_etcd)
    pairs = sorted((Keypair.generate() for _ in range(3)), key=lambda pair: pair.address)
    for pair in pairs:
        claim(store, pair)
    foreign = open_store(own_etcd, transport="grpc")  # has the library's client, which writes any key
    client = foreign._links.current.client
    for name in ("registry/instance", "a", "~", f"{pairs[0].address}x/tower", "0" * 44 + "/instance", "/tower"):
        client.put(name, b"foreign")
    for number in range(LIST_PAGE + 30):
        client.put(f"{pairs[1].address}/history/{number:020d}-00", b"{}")
        client.put(f"Z/{number}", b"foreign")
    assert store.identities(T) == [pair.address for pair in pairs]
    foreign.close()
    store.close()


def test_a_folder_lists_towers_that_were_copied_in_and_nothing_else(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    old, new = Keypair.generate(), Keypair.generate()
    for name in (f"tower-{old.address}.bin", f"tower-1_9-{new.address}.bin", "tower-notes.bin", "fence-x.json", "admin.rpc"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / f"history-{Keypair.generate().address}.jsonl").touch()
    assert store.identities(T) == sorted([old.address, new.address])
    store.close()


# ---- the commands


def json_of(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    store = FileStore(tmp_path / "towers")
    claim(store, PAIR, "m1", record(stamp=None))
    store.close()
    return tmp_path


FILE = ["--tower", "towers"]


def test_looking_leaves_no_trace(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stranger = Keypair.generate().address
    before = sorted(folder.rglob("*"))
    for line in (["status"], ["status", stranger], ["list"], ["history"], ["history", stranger], ["watch", "--count", "1"]):
        main([*line, *FILE])
    assert sorted(folder.rglob("*")) == before
    assert stranger in capsys.readouterr().out


def test_status_of_some_of_all_and_of_nobody(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_keypair_file(folder / "id.json", PAIR)
    assert main(["status", "id.json", *FILE, "--output", "json"]) == Exit.OK
    assert [row["identity"] for row in json_of(capsys)["identities"]] == [PAIR.address]
    stranger = Keypair.generate().address
    assert main(["status", PAIR.address, stranger, PAIR.address, *FILE, "--output", "json-compact"]) == Exit.NOBODY
    assert [row["state"] for row in json_of(capsys)["identities"]] == ["held", "nobody"]
    (folder / "empty").mkdir()
    assert main(["status", "--tower", "empty"]) == Exit.NOBODY
    assert "PROBLEM: no identity was ever claimed in this store" in capsys.readouterr().out
    assert main(["list", "--tower", "empty"]) == Exit.NOBODY
    assert main(["history", "--tower", "empty"]) == Exit.NOBODY


def test_the_validator_on_the_ledger_and_the_cluster_are_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    account = Keypair.generate().address

    async def status() -> dict[str, Any]:
        return {**VIEW, "fence": 1, "voteAccount": account}

    results = {"getAccountInfo": {"context": {"slot": 90}, "value": None}}
    (folder / "ledger").mkdir()
    with admin_server(folder / "ledger", {"status": status}), rpc_server(results) as rpc:
        assert main(["status", *FILE, "--url", rpc.url, "--output", "json"]) == Exit.OK
        assert rpc.calls[0][1][0] == account
    said = json_of(capsys)
    assert said["validator"]["status"]["fence"] == 1
    assert said["identities"][0]["released"] == 76
    assert "not a vote account" in said["identities"][0]["landed_why"]


def test_a_cluster_that_is_not_there_is_a_reason_and_no_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with rpc_server({}) as rpc:
        url = rpc.url
    assert main(["status", *FILE, "--url", url, "--output", "json"]) == Exit.OK
    assert "connection refused" in json_of(capsys)["identities"][0]["landed_why"]


def test_watch_counts_and_prints_one_document_a_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", *FILE, "--count", "3", "--interval", "0.1", "--output", "json"]) == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["identities"][0]["fence"] for line in lines] == [1, 1, 1]
    assert main(["watch", PAIR.address, *FILE, "--count", "2", "--interval", "0.1"]) == Exit.OK
    assert [f"{PAIR.address} held: m1, fence 1" in line for line in capsys.readouterr().out.splitlines()] == [True, True]


def test_history_is_limited_to_the_newest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = FileStore(folder / "towers")
    for number in range(2, 6):
        claim(store, PAIR, f"m{number}")
    store.close()
    assert main(["history", PAIR.address, *FILE, "--limit", "2", "--output", "json"]) == Exit.OK
    assert [(row["number"], row["who"], row["from"]) for row in json_of(capsys)] == [(4, "m4", "m3"), (5, "m5", "m4")]


def test_ctrl_c_ends_watch_with_0(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tower.validator.cli", "watch", *FILE, "--interval", "60"],
        cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert PAIR.address in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_terminal_gets_a_page(folder: Path) -> None:
    ours, theirs = pty.openpty()
    environment = {**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "140", "LINES": "40"}
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-m", "tower.validator.cli", "watch", *FILE, "--interval", "0.1", "--count", "2"],
            cwd=folder, env=environment, stdout=theirs, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # how a terminal says that nobody writes any more
            while part := terminal.read(65536):
                shown += part
        assert process.wait(20) == 0
    text = shown.decode()
    for part in (PAIR.address, "claims, newest first", "first claim", "at most", "in 2 looks"):
        assert part in text, text


def test_the_file_of_flags_serves_these_commands_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = 'identity = "node.json"\ntower = "towers"\nrequire-tower = true\nvote-account = "11111111111111111111111111111111"\n'
    (folder / "validator.toml").write_text(flags)
    for command in ("status", "list", "history"):
        assert main([command, "--config", "validator.toml", "--output", "json"]) == Exit.OK
        assert PAIR.address in capsys.readouterr().out


def test_members_that_are_away_are_named_and_the_store_still_answers(
    tmp_path: Path, certificates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_etcd_cluster(tmp_path, certificates) as cluster:
        store = open_store(cluster)
        claim(store, PAIR, "m1", record(stamp=None))
        flags = etcd_flags(cluster)
        assert main(["status", *flags, "--output", "json"]) == Exit.OK
        members = json_of(capsys)["store"]["members"]
        assert (len(members), sum(member["leader"] for member in members)) == (3, 1)
        follower = next(at for at, member in enumerate(members) if not member["leader"])
        server = next(each for each in cluster.members if f":{each.port}" in members[follower]["endpoint"])
        server.kill()
        assert main(["status", *flags, "--output", "json"]) == Exit.UNHEALTHY
        said = json_of(capsys)
        assert said["identities"][0]["state"] == "held"
        assert [member["error"] is None for member in said["store"]["members"]].count(False) == 1
        cluster.terminate()
        assert main(["status", *flags, "--store-timeout", "1"]) == Exit.STORE_FAILED
        out, err = capsys.readouterr()
        assert out.count("DOWN: ") == 3
        assert err.startswith("Error: etcd ")
        assert len(err.splitlines()) == 1
        assert main(["watch", *flags, "--store-timeout", "1", "--count", "1"]) == Exit.STORE_FAILED
        store.close()


# ---- a validator that runs


@pytest.fixture
def world(tmp_path: Path, certificates: Path, rng: random.Random) -> Iterator[World]:
    with run_etcd(tmp_path, certificates) as etcd, run_world(
        tmp_path, "--fork-every", "0", seed=rng.randrange(1 << 32), etcd=etcd
    ) as made:
        yield made


@pytest.mark.timeout(120)
def test_a_failover_as_the_store_tells_it_and_an_import_that_ends_an_owner(world: World) -> None:
    assert world.etcd is not None
    flags = etcd_flags(world.etcd)
    primary, spare = world.validator("127.0.0.2"), world.validator("127.0.0.3", spare=True)
    primary.more, spare.more = ["--who", "primary"], ["--who", "secondary"]
    primary.start().wait_running().wait_vote()
    spare.start().wait_running()
    spare.set_identity()
    spare.wait_vote(more_than=3)

    def landed() -> dict[str, Any]:
        done = spare.command("status", *flags, "--url", world.url, "--output", "json")
        assert done.returncode == Exit.OK, done.stdout + done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        return said if (said["identities"][0]["landed"] or {}).get("slot") else {}

    said = until(landed, "a vote has landed")
    (row,) = said["identities"]
    assert (row["identity"], row["holder"]["who"], row["holder"]["why"]) == (world.identity.address, "secondary", "set-identity")
    assert (row["holder"]["pid"], row["claims"], row["fence"]) == (spare.process.pid, 2, world.look().instance_revision)
    assert row["landed"]["vote_account"] == world.vote_account
    assert row["released"] >= row["landed"]["slot"]
    assert said["validator"]["status"]["fence"] == row["fence"]
    history = json.loads(primary.command("history", *flags, "--output", "json").stdout)
    assert [(claim["who"], claim["kind"]) for claim in history] == [("primary", "first"), ("secondary", "takeover")]

    # A tower that is in use cannot be put back, and its owner does not notice.
    assert primary.command("tower", "export", *flags, "--identity", world.identity.address, "old.bin").returncode == Exit.OK
    exported = primary.command("tower", "verify", "old.bin", "--identity", "validator-keypair.json")
    assert exported.returncode == Exit.OK
    spare.wait_vote(more_than=2)
    back = ["tower", "import", "old.bin", *flags, "--identity", "validator-keypair.json", "--take-fence"]
    refused = primary.command(*back)
    assert (refused.returncode, refused.stdout) == (Exit.REFUSED, "")
    assert "is older than the stored one" in refused.stderr
    spare.wait_vote(more_than=2)

    # Out of a store that nobody uses any more, into a folder, and on from there.
    spare.process.send_signal(signal.SIGTERM)
    spare.wait_exit(Exit.OK)
    assert primary.command("tower", "export", *flags, "--identity", world.identity.address, "last.bin").returncode == Exit.OK
    last = world.stored_slot()
    world.etcd = None  # from now on the folder is the store
    folder = ["--tower", str(world.towers)]
    done = primary.command("tower", "import", "last.bin", "--identity", "validator-keypair.json", *folder)
    assert done.returncode == Exit.OK, done.stderr
    assert f"last vote {last}," in done.stdout
    listed = json.loads(primary.command("list", *folder, "--output", "json").stdout)
    assert [(each["persisted"]["slot"], each["holder"]["why"]) for each in listed] == [(last, "import")]
    mover = world.validator("127.0.0.2").start().wait_running()
    assert mover.wait_vote(more_than=2)["last_slot"] > last

    # An import that is allowed takes the fence, and with it whoever believes to have it.
    mover.freeze()
    (mover.folder / "ahead.bin").write_bytes(_one_vote_ahead(world))
    imported = ["tower", "import", "ahead.bin", "--identity", "validator-keypair.json", *folder]
    done = mover.command(*imported)
    assert done.returncode == Exit.REFUSED
    assert "add --take-fence" in done.stderr
    done = mover.command(*imported, "--take-fence")
    assert done.returncode == Exit.OK, done.stderr
    assert "TAKING THE FENCE" in done.stdout
    before = world.stored_slot()
    mover.thaw()
    mover.wait_exit(Exit.LOST_FENCE)
    assert world.stored_slot() == before
    world.assert_no_conflict()


def _one_vote_ahead(world: World) -> bytes:
    data = world.look().record
    assert data is not None
    tower = decode_saved_tower(data, world.identity)
    state = TowerVoteState(tower.votes, tower.root)
    state.process_vote((tower.last_voted_slot or 0) + 1)
    lockouts = tuple(Lockout(*vote) for vote in state.votes)
    vote = replace(tower.last_vote, slots=tuple(slot for slot, _ in lockouts), lockouts=lockouts, root=state.root)
    return encode_saved_tower(replace(tower, lockouts=lockouts, root=state.root, last_vote=vote), world.identity)
