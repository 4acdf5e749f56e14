"""Judges a run by its evidence: `python -m tests.fault.judge FOLDER` judges a kept one again.

What it reads: the history of all store operations of all processes, the changes that etcd committed as a witness saw them, what
arrived at the cluster (votes, conflicts, blocks), and what the run says of its faults. What it says:

- **invalid**: the evidence says nothing. No traffic, a fault that did not strike, a witness with a gap, a history that was not
  decided within the checker's bound. It is no pass.
- **violated**: a promise is broken; S1 to S7 by name, or the history is not linearizable.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.fault.checker import Checked, check
from tests.fault.etcd_calls import Change, load_changes
from tests.fault.history import Operation, digest, load
from tests.fault.model import Step, order_of
from tower.errors import TowerError
from tower.keys import to_base58
from tower.leader import decode_reservation
from tower.lockout import require_well_formed
from tower.types import Tower
from tower.wire import decode_saved_tower

__all__ = ["Evidence", "Verdict", "judge", "load_evidence", "main"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that a run leaves. `run` is what it says of itself, `report` the cluster's, `changes` the witness's."""

    run: dict[str, Any]
    report: dict[str, Any]
    operations: tuple[Operation, ...]
    changes: tuple[Change, ...] | None  # None: a store without a witness

    @property
    def identity(self) -> str:
        return str(self.run["identity"])

    @property
    def votes(self) -> list[dict[str, Any]]:
        """Arrived votes of the vote account, by their arrival."""
        found = [vote for vote in self.report["votes"] if vote["vote_account"] == self.run["vote_account"]]
        return sorted(found, key=lambda vote: int(vote["at_ms"]))

    def monotonic(self, unix_ms: int) -> int:
        """The end of a millisecond of the cluster's wall clock, on the clock of the history."""
        return (unix_ms + 1) * 1_000_000 - int(self.run["unix_minus_monotonic_ns"])


@dataclass(slots=True)
class Verdict:
    """What a run shows. It is a pass only if both lists are empty."""

    invalid: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def passed(self) -> bool:
        return not self.invalid and not self.violations

    def __str__(self) -> str:
        found = [f"violated: {each}" for each in self.violations] + [f"invalid: {each}" for each in self.invalid]
        return "\n".join(found or ["no promise is broken, and the evidence is whole"])


def load_evidence(folder: Path) -> Evidence:
    """The evidence that a run wrote to `folder`."""
    run = json.loads((folder / "run.json").read_text())
    report = json.loads((folder / "report.json").read_text())
    changes = folder / "changes.jsonl"
    return Evidence(run, report, tuple(load(folder)), tuple(load_changes(changes)) if run["store"] == "etcd" else None)


def judge(evidence: Evidence) -> Verdict:
    """The verdict on a run."""
    verdict = Verdict()
    _valid(evidence, verdict)
    mine = [each for each in evidence.operations if each.identity == evidence.identity]
    checked = check(mine, order_of(evidence.run["store"]))
    verdict.counts["operations"] = len(mine)
    verdict.counts["checker steps"] = checked.steps
    if checked.linearizable is None:
        verdict.invalid.append(f"the history is not decided: {checked.why}")
    elif not checked.linearizable:
        verdict.violations.append(f"the history is not linearizable: {checked.why}")
    towers = _towers(evidence, checked, verdict)
    _chain(towers, verdict)
    _released(evidence, mine, verdict)
    _unresolved(mine, verdict)
    _well_formed(evidence, mine, verdict)
    _blocks(evidence, checked, verdict)
    _count(evidence, mine, verdict)
    return verdict


# ---- whether it says anything


def _valid(evidence: Evidence, verdict: Verdict) -> None:
    votes, wanted = evidence.votes, int(evidence.run["votes_wanted"])
    landed = sum(vote["landed"] is not None for vote in votes)
    if landed < wanted:
        verdict.invalid.append(f"no traffic: {landed} votes landed, {wanted} are wanted")
    if evidence.run.get("problem"):
        verdict.invalid.append(f"the run did not end as it should: {evidence.run['problem']}")
    if not evidence.run["strikes"]:
        verdict.invalid.append("no fault was made")
    for strike in evidence.run["strikes"]:
        if not strike["proof"] or not all(strike["proof"].values()):
            verdict.invalid.append(f"{strike['fault']}: not shown that it struck: {strike['proof']}")
    for first, last in evidence.run.get("gaps", ()):
        verdict.invalid.append(f"the witness did not see revisions {first} to {last}")
    if evidence.changes is not None and not evidence.changes:
        verdict.invalid.append("the witness saw nothing")


# ---- the order of towers


def _steps(checked: Checked, kind: str) -> list[tuple[Operation, Step]]:
    """The writes of a kind in the order in which they took effect; a repetition that found itself is left out."""
    found: list[tuple[Operation, Step]] = []
    for operation, step in checked.order:
        if step[0] == "store" and step[3] == kind and not (found and found[-1][1][5] == step[5]):
            found.append((operation, step))
    return found


def _towers(evidence: Evidence, checked: Checked, verdict: Verdict) -> list[tuple[str, bytes]]:
    """Every tower that was ever stored, in order, each with where it stood. Held to S3 and to the operations (S2)."""
    if evidence.changes is None:
        return [(str(operation), operation.record or b"") for operation, _ in _steps(checked, "tower")]
    asked: dict[str, list[Operation]] = {}
    for operation in evidence.operations:
        if operation.name in ("store", "legacy-store") and operation.identity == evidence.identity:
            asked.setdefault(digest(operation.record), []).append(operation)
    fence, instance, found = 0, "", []
    at: dict[tuple[str, int], str] = {}
    for change in evidence.changes:
        if change.name == "instance":
            fence, instance = change.revision, (change.value or b"").hex()
        elif change.name in ("tower", "blocks"):
            record = digest(change.value)
            at[(change.name, change.revision)] = record
            writers = [each for each in asked.get(record, ()) if each.asked.get("kind", "tower") == change.name]
            if not writers:
                verdict.violations.append(f"S2: the {change.name} at revision {change.revision} was written by no process")
            elif not any(_may_write(each, fence, instance) for each in writers):
                told = f"revision {change.revision}, under the instance of revision {fence}"
                verdict.violations.append(f"S3: {writers[0]} committed at {told}")
            if change.name == "tower":
                found.append((f"revision {change.revision}", change.value or b""))
    for operation in evidence.operations:
        if operation.outcome == "committed" and operation.identity == evidence.identity:
            place = (str(operation.asked.get("kind", "tower")), int(operation.answer["revision"]))
            if at.get(place) != digest(operation.record):
                verdict.violations.append(f"S2: {operation} is not what the witness saw there")
    return found


def _may_write(operation: Operation, fence: int, instance: str) -> bool:
    return operation.asked["instance"] == instance and operation.asked.get("fence", fence) == fence


def _chain(towers: Sequence[tuple[str, bytes]], verdict: Verdict) -> None:
    """S4 and the part of S1 that the towers alone tell: no locked vote is given up, and nothing goes back."""
    known: list[tuple[str, Tower]] = []
    for where, record in towers:
        try:
            known.append((where, _tower(record)))
        except TowerError as problem:
            verdict.violations.append(f"S5: the tower at {where}: {problem}")
    for (_, old), (where, new) in pairwise(known):
        before, after = old.last_voted_slot or 0, new.last_voted_slot or 0
        if after < before or (new.root or -1) < (old.root or -1):
            verdict.violations.append(f"S4: at {where} the tower went back from slot {before} to {after}")
        elif after == before and (new.lockouts, new.last_vote.hash) != (old.lockouts, old.last_vote.hash):
            verdict.violations.append(f"S1: at {where} another vote for slot {after}")
        elif after > before and (broken := _given_up(old, new)) is not None:
            verdict.violations.append(f"S1: at {where} the vote for slot {broken} was given up while it was locked")


def _given_up(old: Tower, new: Tower) -> int | None:
    slots = [slot for slot, _ in new.lockouts]
    for slot, count in old.lockouts:
        if slot > (-1 if new.root is None else new.root) and slot not in slots:
            above = [each for each in slots if each > slot]
            if above and slot + (1 << count) >= min(above):
                return int(slot)
    return None


def _tower(record: bytes) -> Tower:
    from tower.wire import decode_saved_tower_unchecked

    return decode_saved_tower_unchecked(record)[0]


# ---- releases


def _released(evidence: Evidence, operations: Sequence[Operation], verdict: Verdict) -> None:
    """S2: each vote that arrived stands in a tower whose write had been confirmed to its sender. S1 by the cluster's judge."""
    committed: dict[tuple[int, str], int] = {}
    for operation in operations:
        if operation.outcome == "committed" and operation.asked.get("kind", "tower") == "tower":
            tower = _tower(operation.record or b"")
            key = (tower.last_voted_slot or 0, to_base58(tower.last_vote.hash))
            committed[key] = min(operation.end, committed.get(key, operation.end))
    for vote in evidence.votes:
        confirmed = committed.get((vote["last_slot"], vote["hash"]))
        if confirmed is None:
            verdict.violations.append(f"S2: the vote for slot {vote['last_slot']} from {vote['source']} stands in no tower")
        elif confirmed > evidence.monotonic(vote["unix_ms"]):
            late = (confirmed - evidence.monotonic(vote["unix_ms"])) / 1e6
            verdict.violations.append(f"S2: the vote for slot {vote['last_slot']} came {late:.1f} ms before its tower")
    for conflict in evidence.report["conflicts"]:
        if conflict["vote_account"] == evidence.run["vote_account"]:
            pair = f"{conflict['older']['last_slot']} and {conflict['newer']['last_slot']}"
            verdict.violations.append(f"S1: votes that conflict ({conflict['kind']}): {pair}")
    if evidence.report["conflicts_total"] > len(evidence.report["conflicts"]):
        verdict.violations.append(f"S1: {evidence.report['conflicts_total']} conflicts")


def _unresolved(operations: Sequence[Operation], verdict: Verdict) -> None:
    """S6: after a write without a known outcome the same store object writes the same again, or has looked anew."""
    last: dict[tuple[str, str, str], Operation] = {}
    for operation in operations:
        client = (operation.process, str(operation.asked.get("client", "")))
        if operation.name in ("look", "claim"):
            for kind in ("tower", "blocks"):
                last.pop((*client, kind), None)
        elif operation.name == "store" and client[1] != "copy":
            key = (*client, str(operation.asked["kind"]))
            before = last.get(key)
            if before is not None and before.end > operation.begin and dict(before.asked) != dict(operation.asked):
                verdict.violations.append(f"S6: {operation} was decided while {before} was not settled")
            last[key] = operation


def _well_formed(evidence: Evidence, operations: Sequence[Operation], verdict: Verdict) -> None:
    """S5: every tower that was about to be stored."""
    for operation in operations:
        if operation.name in ("store", "legacy-store") and operation.asked.get("kind", "tower") == "tower":
            try:
                require_well_formed(decode_saved_tower(operation.record or b"", evidence.identity))
            except TowerError as problem:
                verdict.violations.append(f"S5: {operation.process}#{operation.number}: {problem}")


def _blocks(evidence: Evidence, checked: Checked, verdict: Verdict) -> None:
    """S7: no slot is reserved twice, and none has two blocks."""
    if evidence.changes is None:
        records = [operation.record or b"" for operation, _ in _steps(checked, "blocks")]
    else:
        records = [change.value or b"" for change in evidence.changes if change.name == "blocks"]
    reserved = [decode_reservation(record) for record in records]
    for old, new in pairwise(reserved):
        if new.first <= old.last and new != old:
            verdict.violations.append(f"S7: slots {new.first} to {new.last} were reserved after {old.first} to {old.last}")
    for found in evidence.report["duplicates"]:
        verdict.violations.append(f"S7: two blocks for slot {found['first']['slot']}")
    verdict.counts["windows reserved"] = len(reserved)


# ---- numbers


def _count(evidence: Evidence, operations: Sequence[Operation], verdict: Verdict) -> None:
    counts = verdict.counts
    for operation in operations:
        what = "legacy " if operation.name.startswith("legacy") else ""
        name = operation.name.removeprefix("legacy-")
        if name in ("store", "claim"):
            of = f"{what}{'copies' if operation.asked.get('client') == 'copy' else operation.asked.get('kind', name)}"
            counts[f"{of}: {operation.outcome}"] += 1
    _settled(operations, counts)
    votes = evidence.votes
    counts["votes released"] = len({vote["signature"] for vote in votes})
    counts["votes landed"] = sum(vote["landed"] is not None for vote in votes)
    counts["conflicts"] = int(evidence.report["conflicts_total"])
    counts["double blocks"] = int(evidence.report["duplicates_total"])
    counts["blocks"] = len(evidence.report["blocks"])
    if votes:
        voted = {vote["last_slot"] for vote in votes}
        chain = [slot for slot in evidence.report["chain"] if min(voted) <= slot <= max(voted)]
        counts["slots"] = len(chain)
        counts["slots missed"] = sum(slot not in voted for slot in chain)
    for strike in evidence.run["strikes"]:
        counts[f"fault: {strike['fault']}"] += 1


def _settled(operations: Sequence[Operation], counts: Counter[str]) -> None:
    """How the writes were settled whose first answer was `Unknown`, or that a process died in."""
    committed = {digest(each.record) for each in operations if each.outcome == "committed"}
    refused = {digest(each.record) for each in operations if each.outcome == "refused" and each.record is not None}
    unknown = {digest(each.record) for each in operations if each.record is not None and not each.known}
    for record in unknown:
        how = "committed" if record in committed else "refused" if record in refused else "left to the next claim"
        counts[f"unknown, then {how}"] += 1


def main(arguments: Sequence[str]) -> int:
    """Judge kept folders; 0 if all pass, 1 if a promise is broken, 2 if one says nothing."""
    if not arguments:
        print("usage: python -m tests.fault.judge FOLDER ...: name the folder of a run that was kept", file=sys.stderr)
        return 2
    status = 0
    for name in arguments:
        try:
            evidence = load_evidence(Path(name))
        except (OSError, ValueError, KeyError) as problem:
            print(f"Error: {name}: no run that can be judged: {problem}; name a folder that a run has kept", file=sys.stderr)
            return 2
        verdict = judge(evidence)
        print(f"{name}: {evidence.run['name']}, seed {evidence.run['seed']}\n{verdict}")
        for what, number in sorted(verdict.counts.items()):
            print(f"  {what:40} {number}")
        status = max(status, 1 if verdict.violations else 2 if verdict.invalid else 0, key=lambda s: (s == 1, s))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
