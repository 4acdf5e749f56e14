"""A planned failover: `set-identity` typed on a spare that is caught up, until the first vote of the new owner is released.

Two validators hand one identity to and fro in one local cluster with slots of 400 ms, on one etcd with mutual TLS. The
loser stays as a spare (`--on-lost-lock demote`). What happened when is taken from the traces that both write (all processes share
the machine's monotonic clock), the request from the new owner's log, the arrival of votes from the cluster's judge.

Not measured: a network between the machines, and an operator's typing. After a claim the new owner votes as soon as there
is a bank that the old one has not voted for, so the longest wait is for the next slot.
"""

from __future__ import annotations

import itertools
import json
import time
from calendar import timegm
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conftest import Bench
from benchmarks.machines import begin, ended, environment, machine, on_etcd
from benchmarks.measure import Sample
from tests.support.cluster import Validator, World, until
from tower.keys import Keypair, write_keypair_file

SLOT_MS, SMOKE_SLOT_MS = 400, 100
COMMAND_S = 30.0
VOTES_AFTER = 4  # of the new owner, before the next failover
# the steps of the timeline, in the order of a vote that had to wait for nothing
STEPS = (
    "asked", "look", "claim sent", "fence held", "old owner told", "answered", "first write", "first vote released",
    "vote arrived",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Failover:
    """One failover; seconds from the start of the command."""

    steps: dict[str, float]
    missed: int  # slots of the chain that no owner voted for

    @property
    def first_vote(self) -> float:
        return self.steps["first vote released"]


def trace_of(where: Validator) -> list[dict[str, Any]]:
    with open(where.folder / "trace.ndjson", encoding="ascii") as file:
        return [json.loads(line) for line in file]


def asked_at(where: Validator) -> float:
    """When the newest request reached the process: seconds of the wall clock, to the millisecond."""
    lines = (json.loads(line) for line in where.log.splitlines() if line.startswith("{"))
    at = [line["at"] for line in lines if line.get("event") == "asked"][-1]
    whole, _, milliseconds = at.rstrip("Z").partition(".")
    return timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + int(milliseconds) / 1000


def start(world: World, address: str, *, spare: bool) -> Validator:
    made = machine(world, address, "--on-lost-lock", "demote", "--unstaked-identity", "spare.json", spare=spare)
    made.more += ["--trace", "trace.ndjson", "--log-format", "json"]
    write_keypair_file(made.folder / "spare.json", Keypair.generate())
    return made.start()


def fail_over(world: World, old: Validator, new: Validator, variables: dict[str, str]) -> Failover:
    """Type `set-identity` on `new`, wait until it votes, and put together what happened when."""
    before, told_before = len(trace_of(new)), len(trace_of(old))
    last = world.votes(old.address)[-1]["last_slot"]
    began, began_wall = time.monotonic(), time.time()
    command = begin(new, "set-identity", "validator-keypair.json", environment=variables)
    assert ended(command, COMMAND_S) == 0, new.log
    answered = time.monotonic()

    def released() -> list[dict[str, Any]]:
        return [event for event in trace_of(new)[before:] if event["action"] == "Committed"]

    until(lambda: len(released()) >= VOTES_AFTER, "the new owner votes")
    until(lambda: old.status().get("state") == "standby", "the old owner is a spare")
    first = {}
    for event in trace_of(new)[before:]:
        first.setdefault(event["action"], event)
    (end,) = [event for event in trace_of(old)[told_before:] if event["action"] in ("FenceLost", "Refused")]
    arrived = until(
        lambda: [vote for vote in world.votes(new.address) if vote["last_slot"] >= first["Committed"]["slot"]], "it arrives"
    )[0]
    moments = {
        "look": first["Look"]["since"], "claim sent": first["Claim"]["t"], "fence held": first["Claimed"]["t"],
        "old owner told": end["t"], "first write": first["Persist"]["t"], "first vote released": first["Committed"]["t"],
    }  # fmt: skip
    steps = {name: moment / 1e9 - began for name, moment in moments.items()}
    steps |= {"asked": asked_at(new) - began_wall, "answered": answered - began}
    steps["vote arrived"] = arrived["unix_ms"] / 1000 - began_wall
    newest = released()[VOTES_AFTER - 1]["slot"]
    chain = set(world.call("localnetChain", {"fromSlot": last})["chain"])
    voted = {vote["last_slot"] for vote in world.votes() if vote["source"] in (old.address, new.address)}
    return Failover(steps, sum(1 for slot in chain - voted if last < slot < newest))


@pytest.mark.timeout(600)
def test_planned_failover(bench: Bench, benchmark: Any, tmp_path: Path) -> None:
    count, slot_ms = bench.rounds(20, 1), SLOT_MS if bench.full else SMOKE_SLOT_MS
    variables = environment(tmp_path)
    with on_etcd(tmp_path, seed=bench.seed, slot_ms=slot_ms) as world:
        old = start(world, "127.0.0.2", spare=False).wait_running()
        new = start(world, "127.0.0.3", spare=True).wait_running()
        old.wait_vote(more_than=VOTES_AFTER)
        # what is imported once is compiled once: the first command of a new installation is nobody's failover
        assert ended(begin(new, "set-log-filter", "info", environment=variables), COMMAND_S) == 0
        made: list[Failover] = []
        pair = itertools.cycle(((old, new), (new, old)))

        def one() -> None:
            time.sleep(bench.rng.random() * slot_ms / 1000)  # at any moment of a slot
            made.append(fail_over(world, *next(pair), variables))

        benchmark.pedantic(one, rounds=1, iterations=1)
        while len(made) < count:
            one()
        world.assert_no_conflict()
        assert all(each.steps["claim sent"] < each.steps["fence held"] < each.first_vote for each in made)
        report(bench, made, slot_ms)


def report(bench: Bench, made: list[Failover], slot_ms: int) -> None:
    first = Sample(tuple(each.first_vote for each in made))
    slot = Sample((slot_ms / 1000,))
    table = "planned failover"
    bench.row(table, "set-identity to first released vote", first, against="one slot", other=slot, at_most=1.0)
    for name in STEPS:
        bench.row(table, f"set-identity to: {name}", Sample(tuple(each.steps[name] for each in made)))
    missed = sorted(each.missed for each in made)
    note = f"of {len(made)}; most: {missed[-1]}"
    bench.figure(table, "votes missed, median", missed[len(missed) // 2], "votes", at_most=0, note=note)
    bench.figure(table, "conflicting votes, all failovers", 0, "votes", at_most=0, note="asserted, by the cluster's judge")
    for number, each in enumerate(made, 1):
        ordered = sorted((each.steps[name] * 1000, STEPS.index(name)) for name in STEPS)
        bench.series(
            "failover timeline", f"failover {number}", [at for at, _ in ordered], [step for _, step in ordered],
            x_label="milliseconds from the start of the command", y_label=" / ".join(STEPS),
        )  # fmt: skip
