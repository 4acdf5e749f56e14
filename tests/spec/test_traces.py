"""Traces: what a runner writes, and whether the specification explains it. An altered trace and a broken voter are refused."""

from __future__ import annotations

import doctest
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from spec import alterations, check, traces
from spec import replay as replay_module
from spec.replay import main, replay, report
from spec.traces import FACTS, event_of, read
from tests.simulator.__main__ import traced
from tests.simulator.run import simulate
from tests.support.chain import IDENTITY, UNIX_S, bank, new_voter
from tower import trace as trace_module
from tower.errors import InvalidInput
from tower.events import BankFrozen, Release, Resign, TakeOver
from tower.runner import CommittedVote, Runner
from tower.store import Committed, Kind, Unknown
from tower.stores.file import FileStore
from tower.stores.memory import MemoryBackend, MemoryStore
from tower.trace import ACTIONS, LifeTrace, Trace
from tower.validator.preflight import RunOptions, check_options
from tower.voter import TABLE, Voter, VoterState

ROOT = Path(__file__).parents[2]
TOWER = (ROOT / "spec" / "FencedTower.tla").read_text()
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="TLC needs Java, which is not on PATH")
FAILOVERS = 30


def events_of(lines, source="here"):
    """What `read` makes of the lines that a trace wrote."""
    return [event_of(line.rstrip(b"\n"), f"{source} line {n}") for n, line in enumerate(lines, start=1)]


class Machine:
    """One machine's store, and lives of one identity on it that all see the same chain."""

    def __init__(self, store, name, clock):
        self.lines, self.sent = [], []
        self.store = store
        self.trace = Trace(self.lines.append, clock=clock, name=name)

    def life(self, **options) -> Runner:
        self.runner = Runner(new_voter(), self.store, IDENTITY, [IDENTITY], self.sent.append, trace=self.trace, **options)
        return self.runner

    def vote(self, *slots):
        for slot in slots:
            self.runner.drive(BankFrozen(bank(slot, slot - 1), UNIX_S + slot))


def two_machines(stores):
    clock = itertools.count(1).__next__
    return [Machine(store, name, clock) for store, name in zip(stores, "ab", strict=True)]


def a_handover(stores):
    """The first machine votes, the second takes over, the first finds out by its next write, and claims back."""
    first, second = two_machines(stores)
    first.life().drive(TakeOver())
    first.vote(1, 2)
    second.life().drive(TakeOver())
    second.vote(1, 2, 3)
    first.vote(3)
    assert first.runner.voter.state is VoterState.STOPPED
    first.life().drive(TakeOver())
    first.vote(1, 2, 3, 4)
    second.runner.dispatch(Resign("test"))
    first.runner.close()
    return sorted(events_of(first.lines, "a") + events_of(second.lines, "b"), key=lambda event: event.t)


@pytest.fixture(scope="module")
def simulated(request, tmp_path_factory):
    """A trace of the simulator with this run's seed."""
    seed = request.config.option.seed
    print(f"seed: {seed}; again: make simulate SEED={seed} RUNS=1 FAILOVERS={FAILOVERS} TRACE=FILE")
    path = tmp_path_factory.mktemp("trace") / "simulated.ndjson"
    result = traced(seed, FAILOVERS, str(path))
    assert not result.conflicts + result.broken
    return path


# ------------------------------------------------------------------------------------------------------------ writing


def test_every_action_that_is_written_is_one_of_the_specification():
    following = TOWER.split("\nNext ==")[1].split("\nSpec ==")[0]
    explained = (ROOT / "spec" / "FencedTrace.tla").read_text()
    for action in ACTIONS:
        assert re.search(rf"^{action}\(n(, s)?\) ==", TOWER, re.MULTILINE), action
        assert re.search(rf"\b{action}\(n", following), f"{action} is no step of the specification"
        assert f'e.action = "{action}"' in explained, f"{action} is never explained"
    assert set(FACTS) == set(ACTIONS)
    written = set(re.findall(r'self\._(?:line|end)\("(\w+)"', Path(trace_module.__file__).read_text()))
    assert written == set(ACTIONS)


def test_without_a_trace_nothing_of_it_is_touched(monkeypatch):
    def touched(*args, **kwargs):
        raise AssertionError("a trace was touched")

    for owner, names in ((Trace, ("life", "write")), (LifeTrace, [name for name in vars(LifeTrace) if name[0] != "_"])):
        for name in names:
            monkeypatch.setattr(owner, name, touched)
    monkeypatch.setattr(trace_module, "digest", touched)
    sent = []
    runner = Runner(new_voter(), MemoryStore(MemoryBackend()), IDENTITY, [IDENTITY], sent.append)
    for event in (TakeOver(), BankFrozen(bank(1, 0), UNIX_S), Resign("test")):
        runner.drive(event)
    assert [vote.slot for vote in sent] == [0, 1]
    with pytest.raises(AssertionError, match="touched"):  # and this is how it would be noticed
        Runner(new_voter(), MemoryStore(MemoryBackend()), IDENTITY, [IDENTITY], sent.append, trace=Trace(print))


def test_a_trace_changes_nothing_of_what_is_done(tmp_path):
    path = tmp_path / "t.ndjson"
    assert traced(11, 20, str(path)).digest == simulate(11, 20, legacy=0).digest
    again = tmp_path / "again.ndjson"
    traced(11, 20, str(again))
    assert path.read_bytes() == again.read_bytes()


def test_a_line_holds_the_facts_of_its_action_and_nothing_else(simulated):
    seen = set()
    for line in simulated.read_bytes().splitlines():
        value = json.loads(line)
        seen.add(value["action"])
        facts = set(FACTS[value["action"]])
        if value["action"] == "DeadlinePassed" and "fence" in value:
            facts = set(FACTS["Settle"])
        assert set(value) == {"t", "identity", "life", "action"} | facts
        assert all(len(str(fact)) <= 64 for fact in value.values())
        assert value["identity"] == IDENTITY.address
    assert {"Look", "Claim", "Claimed", "Persist", "Committed", "Unknown", "Settle", "Refused", "Resign"} <= seen


def test_each_line_is_one_write_to_the_end_of_the_file(tmp_path, monkeypatch):
    path = tmp_path / "t.ndjson"
    path.write_bytes(b"before\n")
    writes, write = [], os.write
    monkeypatch.setattr(os, "write", lambda handle, data: (writes.append(data), write(handle, data))[1])
    first, second = Trace.open(path), Trace.open(path)
    for trace in (first, second, first):
        runner = Runner(new_voter(), MemoryStore(MemoryBackend()), IDENTITY, [IDENTITY], print, trace=trace)
        runner.dispatch(TakeOver())
        runner.dispatch(Resign("test"))
    for trace in (first, second):
        trace.close()
        trace.close()
    lines = path.read_bytes().splitlines(keepends=True)
    assert lines == [b"before\n", *writes]
    assert len({json.loads(line)["life"] for line in writes}) == 3


@pytest.mark.parametrize("broken", ["error", "short", "closed"])
def test_what_cannot_be_written_ends_the_trace_and_not_the_voter(broken):
    told, lines, sent = [], [], []

    def write(line):
        lines.append(line)
        if len(lines) < 3:
            return len(line)
        if broken == "error":
            raise OSError(28, "No space left on device")
        return len(line) - 1

    trace = Trace(write, on_failure=told.append)
    if broken == "closed":
        trace.close()
    runner = Runner(new_voter(), MemoryStore(MemoryBackend()), IDENTITY, [IDENTITY], sent.append, trace=trace)
    runner.drive(TakeOver())
    runner.drive(BankFrozen(bank(1, 0), UNIX_S))
    assert [vote.slot for vote in sent] == [0, 1]
    assert len(lines) == (0 if broken == "closed" else 3)
    assert len(told) == (0 if broken == "closed" else 1)


@pytest.mark.parametrize("where", ["", "no/such/folder/t.ndjson"])
def test_a_bad_path_is_refused_before_anything_starts(where, tmp_path):
    key = tmp_path / "id.json"
    key.write_text(json.dumps(list(IDENTITY.secret)))
    before = sorted(tmp_path.rglob("*"))
    options = RunOptions(identity=str(key), ledger=str(tmp_path / "ledger"), trace=str(tmp_path / where))
    with pytest.raises(InvalidInput, match=r"^--trace: \S+ is (a folder; name a file|not a folder; make it)"):
        check_options(options)
    assert sorted(tmp_path.rglob("*")) == before
    assert check_options(replace(options, trace=str(tmp_path / "t.ndjson"))).trace == tmp_path / "t.ndjson"
    with pytest.raises(InvalidInput, match="a trace cannot be written there"):
        Trace.open(tmp_path / where)


# ---------------------------------------------------------------------------------------------------------- replaying


@needs_java
def test_a_simulated_run_is_explained(simulated):
    events = read(simulated)
    found = replay(events)
    assert found.refused is None, report(found, events)
    assert found.events == len(events) > 5 * FAILOVERS
    assert found.states > len(events)


@needs_java
def test_every_step_of_a_replay_is_one_of_the_specification(tmp_path):
    path = tmp_path / "t.ndjson"
    traced(5, 12, str(path))
    found = replay(read(path), every_step=True)
    assert found.refused is None, report(found, read(path))


@needs_java
@pytest.mark.parametrize("kind", alterations.ALTERATIONS)
def test_a_trace_with_one_event_altered_is_refused_and_the_event_is_named(kind, simulated, rng):
    altered = alterations.alter(read(simulated), kind, rng)
    assert altered is not None
    print(altered.says)
    found = replay(altered.events)
    assert found.refused == altered.wrong, report(found, altered.events)
    named = f"{altered.wrong.source}: nothing in the specification explains {altered.wrong.action}"
    assert named in report(found, altered.events)


def release_on_unknown(monkeypatch):
    """S2: a vote leaves although nobody knows whether its tower is stored."""
    handled = Voter._store_answered

    def store_answered(self, event):
        if not isinstance(event.outcome, Unknown):
            return handled(self, event)
        self.state = VoterState.READY
        return [Release(Committed(self.fence, self._tower_revision, b""), self._pending)]

    for row, handler in list(TABLE.items()):
        if handler is handled:
            monkeypatch.setitem(TABLE, row, store_answered)
    monkeypatch.setattr(CommittedVote, "__init__", lambda self, committed, signed: (
        setattr(self, "signed", signed), setattr(self, "revision", 0))[0])  # fmt: skip


def decide_while_persisting(monkeypatch):
    """S6: a vote is decided while the one before is under way."""
    monkeypatch.setitem(TABLE, (VoterState.PERSISTING, BankFrozen), Voter._bank_frozen)


def overwriting_store(monkeypatch):
    """S3: the store takes what an owner writes that was replaced."""

    def put(self, fence, expected, record, kind=Kind.TOWER):
        held = self._of(fence.identity).records[kind]
        self._revision += 1
        held.revision, held.content = self._revision, record
        return Committed(fence, held.revision, record)

    monkeypatch.setattr(MemoryBackend, "put", put)


def claim_without_comparison(monkeypatch):
    """A claim is taken although somebody else claimed after the look."""
    claim = MemoryBackend.claim

    def any_claim(self, identity, seen, instance, owner):
        return claim(self, identity, self.look(identity).instance_revision, instance, owner)

    monkeypatch.setattr(MemoryBackend, "claim", any_claim)


@needs_java
@pytest.mark.parametrize("mutant", [release_on_unknown, decide_while_persisting, overwriting_store, claim_without_comparison])
def test_what_a_broken_voter_or_store_did_is_refused(mutant, monkeypatch, tmp_path):
    mutant(monkeypatch)
    path = tmp_path / "t.ndjson"
    for seed in range(1, 9):
        traced(seed, 40, str(path))
        events = read(path)
        found = replay(events)
        if found.refused is not None:
            print(report(found, events))
            return
    pytest.fail(f"eight runs were explained: {mutant.__doc__}")


@needs_java
def test_a_handover_over_the_file_store_is_explained(tmp_path):
    """A tower's revision is its content there, beyond what TLC counts to; fences are numbers."""
    stores = [FileStore(tmp_path), FileStore(tmp_path)]
    events = a_handover(stores)
    for store in stores:
        store.close()
    assert [event.action for event in events].count("Committed") == 5
    assert max(event.facts.get("revision", 0) for event in events) > 2**31
    found = replay(events, ordered=False)
    assert found.refused is None, report(found, events)
    refused = replay(events).refused
    assert refused is not None  # contents do not rise
    assert refused.action in ("Claimed", "Committed", "Look")


@needs_java
def test_what_the_store_held_before_is_taken_from_the_first_look(tmp_path):
    backend = MemoryBackend()
    backend._revision = 3 * 2**31
    before = Runner(new_voter(), MemoryStore(backend), IDENTITY, [IDENTITY], lambda vote: None)
    before.drive(TakeOver())
    events = a_handover([MemoryStore(backend), MemoryStore(backend)])
    assert (events[0].action, events[0].facts["last"]) == ("Look", 0)
    found = replay(events)
    assert found.refused is None, report(found, events)


# A trace by hand: `b` looks while `a` holds the identity. What differs from line to line is the point of each test.
BASE = {"identity": "me", "digest": ""}
FIRST = [
    {"t": 2, "life": "a", "action": "Look", "since": 1, "seen": 0, "revision": 0, "last": None},
    {"t": 3, "life": "a", "action": "Claim", "seen": 0},
    {"t": 5, "life": "a", "action": "Claimed", "fence": 7, "revision": 0, "last": None},
    {"t": 6, "life": "a", "action": "Persist", "fence": 7, "expected": 0, "slot": 5, "on": None, "base": "stored", "digest": "d"},
]


def lines_of(*events):
    return [json.dumps({**BASE, **event}).encode() + b"\n" for event in events]


@needs_java
@pytest.mark.parametrize(
    ("look", "explained"),
    [
        ({"t": 9, "since": 4, "seen": 0}, True),  # answered before the claim was taken, heard late
        ({"t": 9, "since": 4, "seen": 7}, True),
        ({"t": 9, "since": 8, "seen": 7, "revision": 9, "last": 5, "digest": "d"}, True),  # the write has arrived
        ({"t": 9, "since": 8, "seen": 7, "revision": 6, "last": 5, "digest": "d"}, False),  # but not before its own claim
        ({"t": 9, "since": 8, "seen": 7, "revision": 9, "last": 5, "digest": "e"}, False),
        ({"t": 9, "since": 8, "seen": 7, "revision": 9, "last": 4, "digest": "d"}, False),
        ({"t": 9, "since": 8, "seen": 8}, False),
        ({"t": 9, "since": 6, "seen": 0}, False),  # a store that reads what is past
    ],
)
def test_a_look_is_answered_at_one_moment_between_its_beginning_and_its_end(look, explained):
    seen = {"life": "b", "action": "Look", "revision": 0, "last": None, **look}
    found = replay(events_of(lines_of(*FIRST, seen)))
    assert (found.refused is None) is explained
    assert explained or found.refused.action == "Look"


@needs_java
@pytest.mark.parametrize(
    ("end", "explained"),
    [
        ({"action": "FenceLost", "seen": 8}, True),  # the claim of a life that was killed
        ({"action": "FenceLost", "seen": 7}, False),
        ({"action": "Refused", "reason": "fenced", "mine": 7, "seen": 9}, True),
        ({"action": "Refused", "reason": "fenced", "mine": 6, "seen": 9}, False),
        ({"action": "Refused", "reason": "conflict", "mine": 0, "seen": 9}, False),  # nobody else has written
        ({"action": "DeadlinePassed", "fence": 7, "expected": 0, "slot": 5, "digest": "d"}, True),
        ({"action": "DeadlinePassed", "fence": 7, "expected": 0, "slot": 6, "digest": "d"}, False),
        ({"action": "Settle", "fence": 7, "expected": 0, "slot": 5, "digest": "d"}, False),  # without an unknown outcome
        ({"action": "Committed", "fence": 7, "revision": 8, "slot": 5, "digest": "d"}, True),
        ({"action": "Committed", "fence": 7, "revision": 7, "slot": 5, "digest": "d"}, False),
        ({"action": "Resign", "why": "resigned"}, True),
    ],
)
def test_how_a_write_may_end(end, explained):
    other = [
        {"t": 7, "life": "b", "action": "Look", "since": 6, "seen": 7, "revision": 0, "last": None},
        {"t": 8, "life": "b", "action": "Claim", "seen": 7},
    ]
    found = replay(events_of(lines_of(*FIRST, *other, {"t": 9, "life": "a", **end})))
    assert (found.refused is None) is explained
    assert explained or found.refused.action == end["action"]


# ------------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b'{"t":1', "line 1: the line is cut short"),
        (b"[]\n", "line 1: not an object in JSON"),
        (lines_of(FIRST[0])[0] + b"{\n", "line 2: not an object in JSON"),
        (lines_of({**FIRST[1], "action": "Sweep"})[0], "'Sweep' is no action that a process writes"),
        (lines_of({**FIRST[1], "seen": -1})[0], "Claim needs 'seen', a number"),
        (lines_of({**FIRST[1], "seen": True})[0], "Claim needs 'seen', a number"),
        (lines_of({**FIRST[1], "life": None})[0], "Claim needs 'life', a plain text"),
        (lines_of({**FIRST[1], "identity": "me\nREFUSED"})[0], "Claim needs 'identity', a plain text"),
        (lines_of({**FIRST[1], "action": ["Claim"]})[0], "['Claim'] is no action"),
        (lines_of({**FIRST[0], "last": "5"})[0], "Look needs 'last', a slot or null"),
        (b'{"a":' + b"[" * 60_000 + b"\n", "line 1: not an object in JSON"),
        (lines_of({**FIRST[3], "base": '" , x |-> "'})[0], "Persist needs 'base', a plain text"),
        (lines_of({**FIRST[3], "base": "elsewhere"})[0], "'base' is 'elsewhere', not one of"),
        (b'{"t":1,"identity":"me","life":"a","action":"Claim"}\n', "Claim needs 'seen', a number"),
        (b"", "no events; did anything vote?"),
    ],
)
def test_what_is_no_trace_is_named_with_its_line(text, problem, tmp_path, capsys):
    path = tmp_path / "t.ndjson"
    path.write_bytes(text)
    assert main([str(path)]) == 2
    said = capsys.readouterr().err
    assert problem in said
    assert str(path) in said
    assert said.count("\n") == 1


@needs_java
def test_the_exit_status_is_the_verdict(simulated, tmp_path, capsys):
    assert main([str(simulated)]) == 0
    assert capsys.readouterr().out.startswith("explained: ")
    lines = simulated.read_bytes().splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if b'"Committed"' in line)
    path = tmp_path / "altered.ndjson"
    path.write_bytes(b"".join([*lines[:first], lines[first].replace(b'"slot":', b'"slot":9'), *lines[first + 1 :]]))
    assert main([str(path)]) == 1
    named = f"REFUSED: {path} line {first + 1}: nothing in the specification explains Committed"
    assert capsys.readouterr().out.startswith(named)
    other = tmp_path / "other.ndjson"  # of another identity: it has a store of its own
    other.write_bytes(b"".join(line.replace(IDENTITY.address.encode(), b"other") for line in lines))
    assert main([str(simulated), str(other)]) == 0
    assert capsys.readouterr().out.count("explained: ") == 2


def test_without_java_one_line_says_what_to_install(simulated):
    environment = {**os.environ, "PATH": str(ROOT / "spec")}
    command = [sys.executable, "-m", "spec.replay", simulated]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "java" in done.stderr


def test_doctests():
    assert doctest.testmod(traces).failed == 0


def test_a_replay_that_tlc_cannot_judge_is_no_verdict(monkeypatch):
    monkeypatch.setattr(replay_module, "find_tools", lambda: (sys.executable, Path("none.jar")))
    with pytest.raises(check.CannotRun, match="TLC ended without a verdict"):
        replay(events_of(lines_of(*FIRST)))
