"""The checker on histories that are known to be possible, on ones that are not, and against trying every order."""

from __future__ import annotations

import base64
import doctest
import itertools
import random
from dataclasses import replace
from typing import Any

import pytest

from tests.fault import model
from tests.fault.checker import check, check_all
from tests.fault.history import FOREVER, Operation, Recorder, digest, load, settle
from tests.fault.model import FRESH, State, order_of, step, steps_of


def test_doctests() -> None:
    assert doctest.testmod(model).failed == 0


class Story:
    """Operations with chosen times. Each method takes the two times and what was asked and answered."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def _add(self, begin: int, end: int, name: str, asked: dict[str, Any], answer: dict[str, Any], who: str = "a") -> Story:
        number = len(self.operations) + 1
        self.operations.append(Operation(who, number, begin, end, "me", name, asked, answer if end != FOREVER else {}))
        return self

    def claim(self, begin: int, end: int, seen: int, fence: int, *, tower: tuple[int, bytes | None] = (0, None), who: str = "a"):
        answer = {"outcome": "claimed", "fence": fence, "instance": f"i{fence}"}
        answer |= {"record_revision": tower[0], "record": digest(tower[1])}
        return self._add(begin, end, "claim", {"seen": seen, "owner": who}, answer, who)

    def claim_refused(self, begin: int, end: int, expected: int, seen: int, *, who: str = "a"):
        return self._add(begin, end, "claim", {"seen": expected, "owner": who}, {"outcome": "refused", "seen": seen}, who)

    def _write(self, fence: int, expected: int, record: bytes, kind: str) -> dict[str, Any]:
        encoded = base64.b64encode(record).decode()
        return {"fence": fence, "instance": f"i{fence}", "kind": kind, "expected": expected, "record": encoded}

    def store(self, begin: int, end: int, fence: int, expected: int, record: bytes, revision: int = 0, kind: str = "tower"):
        answer = {"outcome": "committed", "revision": revision}
        return self._add(begin, end, "store", self._write(fence, expected, record, kind), answer)

    def refused(self, begin: int, end: int, fence: int, expected: int, record: bytes, reason: str, seen: int):
        answer = {"outcome": "refused", "reason": reason, "seen": seen}
        return self._add(begin, end, "store", self._write(fence, expected, record, "tower"), answer)

    def look(self, begin: int, end: int, fence: int, tower: tuple[int, bytes | None], owner: str | None = "a"):
        answer = {"outcome": "seen", "instance_revision": fence, "instance": f"i{fence}" if fence else "", "owner": owner}
        answer |= {"tower_revision": tower[0], "tower": digest(tower[1]), "blocks_revision": 0, "blocks": ""}
        return self._add(begin, end, "look", {}, answer)

    def legacy_claim(self, begin: int, end: int, fence: int):
        return self._add(begin, end, "legacy-claim", {"instance": f"i{fence}"}, {"outcome": "claimed", "fence": fence})

    def legacy_store(self, begin: int, end: int, fence: int, record: bytes, revision: int):
        asked = {"instance": f"i{fence}", "record": self._write(fence, 0, record, "tower")["record"]}
        return self._add(begin, end, "legacy-store", asked, {"outcome": "committed", "revision": revision})


def story() -> Story:
    """One claim and one tower."""
    return Story().claim(0, 1, 0, 5).store(2, 3, 5, 0, b"1", 6)


GOOD = {
    "one after another": story().store(4, 5, 5, 6, b"2", 7).look(6, 7, 5, (7, b"2")),
    "a look during a write sees the old": story().store(4, 9, 5, 6, b"2", 7).look(5, 6, 5, (6, b"1")),
    "a look during a write sees the new": story().store(4, 9, 5, 6, b"2", 7).look(5, 6, 5, (7, b"2")),
    "a write without an answer happened": story().store(4, FOREVER, 5, 6, b"2").look(6, 7, 5, (7, b"2")),
    "a write without an answer did not happen": story().store(4, FOREVER, 5, 6, b"2").look(6, 7, 5, (6, b"1")),
    "a write without an answer happened late": story()
    .store(4, FOREVER, 5, 6, b"2")
    .look(6, 7, 5, (6, b"1"))
    .look(8, 9, 5, (7, b"2")),
    "its repetition finds it": story().store(4, FOREVER, 5, 6, b"2").store(6, 7, 5, 6, b"2", 7).look(8, 9, 5, (7, b"2")),
    "a successor finds it": story().store(4, FOREVER, 5, 6, b"2").claim(6, 7, 5, 8, tower=(7, b"2"), who="b"),
    "a successor keeps it from happening": story().store(4, FOREVER, 5, 6, b"2").claim(6, 7, 5, 8, tower=(6, b"1"), who="b"),
    "refused after a claim": story().claim(4, 5, 5, 8, tower=(6, b"1"), who="b").refused(6, 7, 5, 6, b"2", "FENCED", 8),
    "refused, and an earlier copy had committed": story()
    .refused(4, 9, 5, 6, b"2", "FENCED", 8)
    .claim(5, 6, 5, 8, tower=(7, b"2"), who="b"),
    "the second of two claims is refused": story()
    .claim(4, 6, 5, 8, tower=(6, b"1"), who="b")
    .claim_refused(4, 9, 5, 8, who="c"),
    "a claim without an answer happened": story().claim(4, FOREVER, 5, 9, who="b").look(6, 7, 9, (6, b"1"), owner="b"),
    "a claim without an answer refuses": story()
    .claim(4, FOREVER, 5, 9, who="b")
    .refused(6, 7, 5, 6, b"2", "FENCED", 9)
    .look(8, 9, 9, (6, b"1"), owner="b"),
    "a legacy validator overwrites": story()
    .legacy_claim(4, 5, 8)
    .legacy_store(6, 7, 8, b"9", 9)
    .claim(8, 9, 8, 12, tower=(9, b"9")),
    "blocks beside the tower": story().store(4, 9, 5, 0, b"b", 8, kind="blocks").store(5, 6, 5, 6, b"2", 7),
}

BAD = {
    "S3: a write commits under the old fence": story()
    .claim(4, 5, 5, 8, tower=(6, b"1"), who="b")
    .store(6, 7, 5, 6, b"2", 9),
    "S4: an older tower comes back": story().store(4, 5, 5, 6, b"2", 7).look(6, 7, 5, (6, b"1")),
    "S4: a late copy takes it back": story().store(4, 5, 5, 6, b"2", 7).store(6, 7, 5, 6, b"3", 8),
    "a confirmed write is lost": story().look(4, 5, 5, (0, None)),
    "a claim does not find the tower": story().claim(4, 5, 5, 8, who="b"),
    "two claims win from one look": story()
    .claim(4, 6, 5, 8, tower=(6, b"1"), who="b")
    .claim(4, 6, 5, 9, tower=(6, b"1"), who="c"),
    "a look goes back in time": story()
    .store(4, 20, 5, 6, b"2", 7)
    .look(5, 6, 5, (7, b"2"))
    .look(8, 9, 5, (6, b"1")),
    "a write without an answer is undone": story()
    .store(4, FOREVER, 5, 6, b"2")
    .look(6, 7, 5, (7, b"2"))
    .look(8, 9, 5, (6, b"1")),
    "revisions do not grow": story().store(4, 5, 5, 6, b"2", 6),
    "refused without a reason": story().refused(4, 5, 5, 6, b"2", "FENCED", 8),
    "a conflict that is none": story().refused(4, 5, 5, 6, b"2", "CONFLICT", 6),
    "a refused write commits afterwards": story()
    .claim(4, 5, 5, 8, tower=(6, b"1"), who="b")
    .refused(6, 7, 5, 6, b"2", "FENCED", 8)
    .look(8, 9, 8, (9, b"2"), owner="b"),
    "a claim is seen that another made": story().claim(4, FOREVER, 5, 9, who="b").look(6, 7, 9, (6, b"1"), owner="c"),
    "a write is seen before it began": story().look(4, 5, 5, (7, b"2")).store(6, 7, 5, 6, b"2", 7),
    "a legacy validator writes after it lost the instance": story()
    .legacy_claim(4, 5, 8)
    .claim(6, 7, 8, 12, tower=(6, b"1"))
    .legacy_store(8, 9, 8, b"9", 13),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_history_that_can_have_been(name: str) -> None:
    found = check(GOOD[name].operations, FRESH)
    assert found.linearizable, found.why
    assert len(found.order) >= sum(operation.known for operation in GOOD[name].operations)


@pytest.mark.parametrize("name", BAD)
def test_a_history_that_cannot_have_been(name: str) -> None:
    found = check(BAD[name].operations, FRESH)
    assert found.linearizable is False
    assert found.why


def test_a_bound_that_is_reached_is_no_pass() -> None:
    found = check(GOOD["one after another"].operations, FRESH, steps_max=3)
    assert found.linearizable is None
    assert "not decided" in found.why


def test_identities_are_judged_apart() -> None:
    bad = [replace(each, identity="you") for each in BAD["revisions do not grow"].operations]
    found = check_all(GOOD["one after another"].operations + bad, FRESH)
    assert {identity: each.linearizable for identity, each in found.items()} == {"me": True, "you": False}


# ---- against trying every order


def every_order(operations: list[Operation], start: State) -> bool:
    """The definition itself: some choice and order of the steps keeps to the times and to the model."""
    steps = [(operation, what, needed) for operation in operations for what, needed in steps_of(operation)]

    def go(state: State, left: frozenset[int]) -> bool:
        if not any(steps[at][2] for at in left):
            return True
        soonest = min(steps[at][0].end for at in left if steps[at][2])
        for at in left:
            operation, what, _ = steps[at]
            after = step(state, what) if operation.begin <= soonest else None
            if after is not None and go(after, left - {at}):
                return True
        return False

    return go(start, frozenset(range(len(steps))))


def random_history(rng: random.Random) -> list[Operation]:
    """What three clients of a real atomic store see, with answers lost; sometimes one answer is falsified."""
    state, now, revision = FRESH, 0, 1
    told = Story()
    for _ in range(rng.randrange(3, 7)):
        begin, length = now + rng.randrange(3), rng.randrange(1, 12)
        now = begin + rng.randrange(1, 5)
        end = FOREVER if rng.random() < 0.25 else begin + length
        revision += 1
        lie = rng.random() < 0.12
        kind = rng.random()
        held = (state.tower[0] or 0, state.tower[1])
        happened = end != FOREVER or rng.random() < 0.5
        if kind < 0.3:
            seen = (state.instance_revision or 0) - lie
            told.claim(begin, end, seen, revision, who=rng.choice("abc"))
            if end != FOREVER:
                told.operations[-1].answer.update(record_revision=held[0], record=held[1])
            if happened:
                state = replace(state, instance_revision=revision, instance=f"i{revision}", owner=told.operations[-1].process)
        elif kind < 0.75 and state.instance_revision:
            record = bytes([rng.randrange(4)])
            told.store(begin, end, state.instance_revision, held[0] + lie, record, revision)
            if happened:
                state = replace(state, tower=(revision, digest(record)))
        elif end != FOREVER:
            told.look(begin, end, state.instance_revision or 0, (held[0] + lie, None), owner=state.owner)
            told.operations[-1].answer["tower"] = held[1]
    return told.operations


def test_it_says_what_trying_every_order_says(rng: random.Random) -> None:
    seen = {True: 0, False: 0}
    for _ in range(1500):
        operations = random_history(rng)
        said = check(operations, FRESH).linearizable
        assert said is every_order(operations, FRESH), [str(operation) for operation in operations]
        seen[said] += 1
    assert min(seen.values()) > 200, f"this run says little: {seen}"


# ---- how long it takes, and what is kept


def test_a_long_history_with_lost_answers_takes_few_steps(rng: random.Random) -> None:
    told, revision, now = Story().claim(0, 1, 0, 5), 5, 10
    lost = 0
    for number in itertools.count(1):
        now += 10
        record = number.to_bytes(4, "big")
        if rng.random() < 0.05:
            told.store(now, FOREVER, 5, revision if number > 1 else 0, record)
            lost += 1
        told.store(now + 2, now + 8, 5, revision if number > 1 else 0, record, 5 + number)
        revision = 5 + number
        if number == 3000:
            break
    found = check(told.operations, FRESH)
    assert found.linearizable
    assert lost > 50
    assert found.steps < 40 * len(told.operations)


def test_the_recorder_s_lines_come_back(tmp_path, identity: str) -> None:
    recorder = Recorder(tmp_path / "history-a.jsonl", "a")
    first = recorder.begins("claim", identity, seen=0, owner="a")
    recorder.ends(first, "claimed", fence=3, instance="aa", record_revision=0, record="")
    second = recorder.begins("store", identity, fence=3, instance="aa", kind="tower", expected=0, record="AA==")
    recorder.ends(second, "unknown", cause="no answer")
    recorder.begins("look", identity)
    recorder.close()
    with open(tmp_path / "history-a.jsonl", "ab") as cut:
        cut.write(b'{"n":4,"proc')
    claim, store, look = load(tmp_path)
    assert (claim.outcome, claim.known, store.outcome, store.known, look.known) == ("claimed", True, "unknown", False, False)
    assert store.unknown_at is not None
    assert store.record == b"\0"
    assert check([claim, store, look], order_of("etcd")).linearizable


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([{"n": 1, "process": "a", "at": 1, "answer": {"outcome": "seen"}}], "never began"),
        ([{"n": 1, "process": "a", "at": 1, "identity": "me", "op": "look", "asked": {}}] * 2, "begins twice"),
        (
            [
                {"n": 1, "process": "a", "at": 5, "identity": "me", "op": "look", "asked": {}},
                {"n": 1, "process": "a", "at": 4, "answer": {"outcome": "seen"}},
            ],
            "before it began",
        ),
    ],
)
def test_lines_that_are_no_history(lines: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        settle(lines)
