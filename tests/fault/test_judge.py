"""The judge on evidence that is whole, and on evidence with one thing wrong: each promise is named, and silence is no pass."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fault.etcd_calls import Change
from tests.fault.history import FOREVER, Operation, digest
from tests.fault.judge import Evidence, judge
from tests.fault.table import rows_of
from tower.keys import Keypair, to_base58
from tower.leader import Reservation, encode_reservation
from tower.types import LastVote, Lockout, Tower, VoteKind
from tower.wire import encode_saved_tower

PAIR, ACCOUNT = Keypair.generate(), "account"
MS = 1_000_000


def tower(*votes: tuple[int, int], root: int | None = None, mark: int = 0, last: int | None = None) -> bytes:
    """A saved tower with these lockouts; `mark` makes the bank hash another one."""
    lockouts = tuple(Lockout(*vote) for vote in votes)
    newest = votes[-1][0] if last is None else last
    hash = bytes([newest % 256, mark]) * 16
    vote = LastVote(VoteKind.TOWER_SYNC, tuple(slot for slot, _ in votes), lockouts, root, hash, None, bytes(32))
    return encode_saved_tower(Tower(PAIR.pubkey, lockouts, root, vote), PAIR)


FIRST, SECOND, THIRD = tower((10, 1)), tower((10, 2), (11, 1)), tower((10, 3), (11, 2), (12, 1))


@dataclass
class Run:
    """Evidence to be altered: times in milliseconds, the wall clock a million ahead of the other."""

    operations: list[Operation] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    votes: list[dict[str, Any]] = field(default_factory=list)
    conflicts: list[dict[str, Any]] = field(default_factory=list)
    duplicates: list[dict[str, Any]] = field(default_factory=list)
    strikes: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    store: str = "etcd"

    def _operation(self, at: int, name: str, asked: dict[str, Any], answer: dict[str, Any], process: str, lasts: int = 1) -> None:
        end = (at + lasts) * MS if answer else FOREVER
        number = len(self.operations) + 1
        client = {"client": "store-1", **asked}
        self.operations.append(Operation(process, number, at * MS, end, PAIR.address, name, client, answer))

    def claim(
        self, at: int, seen: int, fence: int, tower_revision: int = 0, record: bytes | None = None, process: str = "a"
    ) -> None:
        answer = {"outcome": "claimed", "fence": fence, "instance": f"{fence:016x}"}
        answer |= {"record_revision": tower_revision, "record": digest(record)}
        self._operation(at, "claim", {"seen": seen, "owner": process}, answer, process)
        self.changes.append(Change(fence, "instance", bytes.fromhex(f"{fence:016x}")))

    def write(
        self, at: int, fence: int, expected: int, record: bytes, revision: int | None, kind: str = "tower", process: str = "a"
    ) -> None:
        asked = {"fence": fence, "instance": f"{fence:016x}", "kind": kind, "expected": expected}
        asked["record"] = base64.b64encode(record).decode()
        self._operation(at, "store", asked, {} if revision is None else {"outcome": "committed", "revision": revision}, process)
        if revision is not None:
            self.changes.append(Change(revision, kind, record))

    def vote(self, at: int, slot: int, mark: int = 0) -> None:
        hash = to_base58(bytes([slot % 256, mark]) * 16)
        facts = {"vote_account": ACCOUNT, "source": "127.0.0.2", "last_slot": slot, "hash": hash, "signature": f"{slot}{mark}"}
        self.votes.append({**facts, "at_ms": at, "unix_ms": at + 1_000_000, "landed": slot + 1})

    @property
    def evidence(self) -> Evidence:
        run = {"name": "made up", "seed": 1, "store": self.store, "identity": PAIR.address, "vote_account": ACCOUNT}
        run |= {"unix_minus_monotonic_ns": 1_000_000 * MS, "votes_wanted": 3, "strikes": self.strikes, "gaps": [], "problem": ""}
        report = {"votes": self.votes, "conflicts": self.conflicts, "conflicts_total": len(self.conflicts)}
        report |= {"duplicates": self.duplicates, "duplicates_total": len(self.duplicates), "blocks": []}
        report["chain"] = list(range(9, 20))
        changes = tuple(sorted(self.changes, key=lambda change: change.revision)) if self.store == "etcd" else None
        return Evidence(run | self.facts, report, tuple(sorted(self.operations, key=lambda each: each.begin)), changes)


def good() -> Run:
    run = Run(strikes=[{"fault": "kill", "at_unix_ms": 1_000_012, "until_unix_ms": 1_000_050, "proof": {"dead": True}}])
    run.strikes[0]["restarted"] = False
    run.claim(0, 0, 5)
    for number, record in enumerate((FIRST, SECOND, THIRD)):
        run.write(10 + 10 * number, 5, 0 if number == 0 else 5 + number, record, 6 + number)
        run.vote(12 + 10 * number, 10 + number)
    return run


def test_whole_evidence_passes() -> None:
    verdict = judge(good().evidence)
    assert verdict.passed, verdict
    assert verdict.counts["tower: committed"] == 3
    assert verdict.counts["votes released"] == 3
    assert str(verdict) == "no promise is broken, and the evidence is whole"


def test_a_file_store_is_judged_without_a_witness() -> None:
    run = good()
    run.store = "file"
    assert judge(run.evidence).passed


def fenced_write(run: Run) -> None:
    run.claim(35, 5, 9, 8, THIRD, "b")
    run.write(40, 5, 8, tower((10, 4), (11, 3), (12, 2), (13, 1)), 10)


def back_in_time(run: Run) -> None:
    run.write(40, 5, 8, SECOND, 9)


def gives_up(run: Run) -> None:
    run.write(40, 5, 8, tower((10, 4), (11, 3), (13, 1)), 9)  # 12 is locked up to 14


def two_votes(run: Run) -> None:
    run.write(40, 5, 8, tower((10, 3), (11, 2), (12, 1), mark=1), 9)


def unstored(run: Run) -> None:
    run.vote(44, 13)


def early(run: Run) -> None:
    run.votes[-1]["unix_ms"] -= 5


def other_hash(run: Run) -> None:
    run.vote(44, 12, mark=7)


def never_answered(run: Run) -> None:
    record = tower((10, 4), (11, 3), (12, 2), (13, 1))
    run.write(40, 5, 8, record, None)
    run.changes.append(Change(9, "tower", record))
    run.vote(44, 13)


def undecided(run: Run) -> None:
    run.write(40, 5, 8, tower((10, 4), (11, 3), (12, 2), (13, 1)), None)
    run.write(50, 5, 8, tower((10, 4), (11, 3), (12, 2), (14, 1)), 9)


def malformed(run: Run) -> None:
    run.write(40, 5, 8, tower((10, 1), (11, 2), (12, 3)), 9)


def conflict(run: Run) -> None:
    ballot = {"last_slot": 12}
    run.conflicts.append({"vote_account": ACCOUNT, "kind": "lockout", "older": ballot, "newer": ballot})


def double_block(run: Run) -> None:
    run.duplicates.append({"first": {"slot": 30}, "second": {"slot": 30}})


def reserved_twice(run: Run) -> None:
    run.write(40, 5, 0, encode_reservation(Reservation(20, 23, bytes(8))), 9, "blocks")
    run.write(42, 5, 9, encode_reservation(Reservation(23, 27, bytes(8))), 10, "blocks")


def foreign_change(run: Run) -> None:
    run.changes.append(Change(9, "tower", tower((10, 4), (11, 3), (12, 2), (13, 1))))


def lost_change(run: Run) -> None:
    run.changes = [change for change in run.changes if change.revision != 8]


def impossible(run: Run) -> None:
    run.write(40, 5, 7, tower((10, 4), (11, 3), (12, 2), (13, 1)), 9)


WRONG: dict[str, tuple[Callable[[Run], None], str]] = {
    "a write under an old fence": (fenced_write, "S3:"),
    "the tower goes back": (back_in_time, "S4:"),
    "a locked vote is given up": (gives_up, "S1:"),
    "two votes for a slot are stored": (two_votes, "S1:"),
    "votes that conflict arrive": (conflict, "S1:"),
    "a vote without a tower": (unstored, "S2:"),
    "a vote before its tower": (early, "S2:"),
    "a vote for another bank than its tower's": (other_hash, "S2:"),
    "a vote whose write nobody heard of": (never_answered, "S2:"),
    "a tower that nobody wrote": (foreign_change, "S2:"),
    "a confirmed tower that never was": (lost_change, "S2:"),
    "a decision before the last is settled": (undecided, "S6:"),
    "a malformed tower": (malformed, "S5:"),
    "two blocks for a slot": (double_block, "S7:"),
    "a slot that is reserved twice": (reserved_twice, "S7:"),
    "a write on a tower that was not the last": (impossible, "not linearizable"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_broken_promise_is_named(name: str) -> None:
    alter, told = WRONG[name]
    run = good()
    alter(run)
    verdict = judge(run.evidence)
    assert any(told in each for each in verdict.violations), verdict
    assert not verdict.passed


def no_votes(run: Run) -> None:
    for vote in run.votes:
        vote["landed"] = None


def no_strike(run: Run) -> None:
    run.strikes.clear()


def unproven(run: Run) -> None:
    run.strikes[0]["proof"] = {"dead": False}


def without_proof(run: Run) -> None:
    run.strikes[0]["proof"] = {}


def gap(run: Run) -> None:
    run.facts["gaps"] = [[2, 3]]


def timed_out(run: Run) -> None:
    run.facts["problem"] = "not in 40 s: 4 more votes"


EMPTY: dict[str, tuple[Callable[[Run], None], str]] = {
    "no traffic": (no_votes, "no traffic"),
    "no fault": (no_strike, "no fault was made"),
    "a fault that did not strike": (unproven, "not shown that it struck"),
    "a fault without a proof": (without_proof, "not shown that it struck"),
    "a witness with a gap": (gap, "the witness did not see revisions 2 to 3"),
    "a run that timed out": (timed_out, "did not end as it should"),
}


@pytest.mark.parametrize("name", EMPTY)
def test_evidence_that_says_nothing_is_no_pass(name: str) -> None:
    alter, told = EMPTY[name]
    run = good()
    alter(run)
    verdict = judge(run.evidence)
    assert not verdict.violations
    assert any(told in each for each in verdict.invalid), verdict
    assert not verdict.passed


def test_a_take_over_passes() -> None:
    run = good()
    run.claim(35, 5, 9, 8, THIRD, "b")
    run.write(40, 5, 8, tower((10, 4), (11, 3), (12, 2), (13, 1)), None)  # of the owner before, whose answer never came
    run.write(42, 9, 8, tower((10, 4), (11, 3), (12, 2), (13, 1), mark=0), 10, process="b")
    run.vote(45, 13)
    verdict = judge(run.evidence)
    assert verdict.passed, verdict


def test_a_strike_s_cost() -> None:
    run = good()
    run.votes[-1]["unix_ms"] += 20  # 10 at 12, 11 at 22, 12 at 52 is after the strike's end
    run.strikes[0]["until_unix_ms"] = 1_000_060
    (row,) = rows_of(run.evidence)
    assert (row.fault, row.silent_s, row.again_s, row.missed) == ("kill", 0.03, 0.04, 0)


def write_folder(run: Run, folder: Path) -> None:
    evidence = run.evidence
    (folder / "run.json").write_text(json.dumps(evidence.run))
    (folder / "report.json").write_text(json.dumps(evidence.report))
    with open(folder / "history-a.jsonl", "w") as history:
        for each in evidence.operations:
            begun = {"n": each.number, "process": each.process, "at": each.begin, "identity": each.identity}
            history.write(json.dumps({**begun, "op": each.name, "asked": dict(each.asked)}) + "\n")
            if each.known:
                history.write(json.dumps({**begun, "at": each.end, "answer": dict(each.answer)}) + "\n")
    with open(folder / "changes.jsonl", "w") as changes:
        for change in evidence.changes or ():
            value = base64.b64encode(change.value or b"").decode()
            changes.write(json.dumps({"revision": change.revision, "name": change.name, "value": value}) + "\n")


@pytest.mark.parametrize(("alter", "status", "told"), [(None, 0, "no promise"), (early, 1, "S2:"), (unproven, 2, "not shown")])
def test_a_kept_folder_is_judged_again(tmp_path: Path, alter: Callable[[Run], None] | None, status: int, told: str) -> None:
    run = good()
    if alter is not None:
        alter(run)
    write_folder(run, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tests.fault.judge", str(tmp_path)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert told in done.stdout


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fault.judge", str(tmp_path / "none")],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "name a folder that a run has kept" in done.stderr
