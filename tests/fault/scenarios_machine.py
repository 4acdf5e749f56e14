"""Faults of the machines that vote: killed, frozen, without files or memory, with a wrong clock, two at once."""

from __future__ import annotations

import contextlib
import random
import resource
import threading
import time
from collections.abc import Callable
from datetime import datetime

from tests.fault.host import Clock, no_more_files, no_more_memory, restore_limit
from tests.fault.scenario import passes, restarted, scenario, serving_at, take_over
from tests.fault.traffic import FORKS, Machine, Stage, wait
from tower.store import Owner
from tower.validator.config import Exit

__all__: list[str] = []

THAWED = (Exit.LOST_FENCE, Exit.STORE_FAILED)  # the second if it was frozen in the middle of a write, for longer than its bound
LOOP_S = 15.0


@scenario("killed and taken over", in_ci=True, flags=FORKS)
def killed(stage: Stage) -> None:
    owner, spare = stage.pair()
    for _ in range(3):
        with stage.strike("kill") as strike:
            owner.kill()
            strike.proof["status"] = owner.process.returncode == -9
            take_over(spare)
            stage.flows(4, spare)
        owner.spare, owner.environment["FAULT_NAME"] = True, owner.name
        owner.start().wait_running()
        owner, spare = spare, owner


def _freeze(stage: Stage, machine: Machine, fault: str, seconds: float, spare: Machine | None = None) -> None:
    with stage.strike(fault) as strike:
        machine.stop()
        began = time.monotonic()
        before = len(stage.votes(0, machine.address))
        if spare is not None:
            take_over(spare)
            stage.flows(3, spare)
        passes(max(0.0, seconds - (time.monotonic() - began)))
        strike.proof["stood still"] = time.monotonic() - began >= seconds
        strike.proof["no vote meanwhile"] = len(stage.votes(0, machine.address)) == before
        machine.thaw()
        if spare is None:
            stage.flows(3, machine)
        else:
            status = machine.ended()
            assert status in THAWED, f"{status}: {machine.log[-1000:]}"
            strike.proof["ended"] = True
            stage.flows(2, spare)


@scenario("frozen and thawed")
def frozen(stage: Stage) -> None:
    owner, spare = stage.pair()
    _freeze(stage, owner, "freeze 1 s", 1.0)
    _freeze(stage, owner, "freeze 1 s", 1.0)
    _freeze(stage, owner, "freeze 5 s", 4.5)  # below the bound of a store, in whose middle it may fall
    _freeze(stage, owner, "freeze, taken over", 5.0, spare)


@scenario("frozen for a minute")
def frozen_long(stage: Stage) -> None:
    owner, spare = stage.pair()
    _freeze(stage, owner, "freeze 60 s, taken over", 60.0, spare)


@scenario("without files and memory")
def exhausted(stage: Stage) -> None:
    owner, spare = stage.pair()
    with stage.strike("no file handles") as strike:
        before = no_more_files(owner.process.pid)
        for link in owner.links:
            stage.net.set(link, "cut")
        passes(0.5)
        for link in owner.links:
            stage.net.set(link, "pass")  # there is a way to etcd again, and no handle to go it
        strike.proof["nothing is stored"] = stage.quiet(1.5) == 0
        strike.proof["connections were reset"] = sum(link.struck["reset"] for link in owner.links) > 0
        restore_limit(owner.process.pid, resource.RLIMIT_NOFILE, before)
        wait(lambda: not owner.running or stage.votes(int(time.time() * 1000) - 500), "it votes again or ends")
        if owner.running:
            stage.flows(3, owner)
        else:
            restarted(stage, strike, owner)
    with stage.strike("no file handles, member") as strike:
        number = serving_at(stage, owner)
        pid = stage.members[number].pid
        before = no_more_files(pid)
        owner.links[number].struck.clear()
        stage.net.set(owner.links[number], "cut")
        stage.net.set(owner.links[number], "pass")
        stage.flows(4, owner)
        strike.proof["its clients were cut"] = owner.links[number].struck["reset"] > 0
        strike.proof["it had no handle left"] = resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] < before[0]
        restore_limit(pid, resource.RLIMIT_NOFILE, before)
        stage.flows(2, owner)
    with stage.strike("no memory") as strike:
        no_more_memory(owner.process.pid)
        for _ in range(4):
            owner.status()  # something to do that wants memory
        passes(2.0)
        strike.proof["a limit below what it has"] = not owner.running or _limited(owner)
        if owner.running:
            owner.kill()
        take_over(spare)
        stage.flows(4, spare)


def _limited(machine: Machine) -> bool:
    return resource.prlimit(machine.process.pid, resource.RLIMIT_AS)[0] < 1 << 26


@scenario("clocks that jump", needs="gcc")
def clocks(stage: Stage) -> None:
    mine = Clock(stage.folder)
    (stage.folder / "other").mkdir()
    others = Clock(stage.folder / "other")
    owner = stage.machine("primary", **mine.environment).start()
    spare = stage.machine("spare", spare=True, **others.environment).start()
    owner.wait_running()
    spare.wait_running()
    stage.flows(4, owner)
    for fault, seconds in (("clock ahead", 3600.0), ("clock back", -3600.0), ("clock ahead", 7200.0)):
        with stage.strike(fault) as strike:
            mine.move(seconds)
            strike.proof["its clock says so"] = wait(lambda at=seconds: _log_is_off(owner, at), "its log has the new time")
            stage.flows(6, owner)
    with stage.strike("clock ahead, take-over") as strike:
        others.move(86_400.0)
        take_over(spare)
        stage.flows(4, spare)
        strike.proof["its claim is of tomorrow"] = stage.world.owner().at_ms > time.time() * 1000 + 80_000_000
        strike.proof["the owner ended"] = owner.ended() == Exit.LOST_FENCE
    with stage.strike("clock back") as strike:
        others.move(-86_400.0)
        stage.flows(6, spare)
        strike.proof["its clock says so"] = wait(lambda: _log_is_off(spare, -86_400.0), "its log has the new time")


def _log_is_off(machine: Machine, seconds: float) -> bool:
    """Whether the newest line that it logs on request bears the moved time."""
    machine.command("set-log-filter", "info")
    for line in reversed(machine.log.splitlines()):
        with contextlib.suppress(ValueError):
            told = datetime.fromisoformat(line.split()[0].strip("[]")).timestamp()
            return abs(told - time.time() - seconds) < 120
    return False


def _at_once(works: list[Callable[[], object]]) -> None:
    """Do all of it at the same moment."""
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> None:
        barrier.wait()
        work()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


@scenario("two primaries and ten claims")
def many(stage: Stage) -> None:
    with stage.strike("two primaries") as strike:
        pair = [stage.machine("primary-a"), stage.machine("primary-b")]
        _at_once([each.start for each in pair])
        wait(lambda: sum(each.running for each in pair) == 1, "one of the two ends", 60)
        (left,) = [each for each in pair if each.running]
        (gone,) = [each for each in pair if not each.running]
        left.wait_running()
        stage.flows(4, left)
        strike.proof["the other lost the fence"] = gone.process.returncode == Exit.LOST_FENCE
        strike.proof["two had claimed"] = len({entry.who for entry in _claims(stage)}) == 2
    spares = [stage.machine(f"spare-{number}", "--on-lost-lock", "demote", spare=True).start() for number in range(10)]
    for spare in spares:
        spare.wait_running(120)
    stage.flows(2)
    with stage.strike("ten claims") as strike:
        before = len(_claims(stage))
        _at_once([spare.take for spare in spares])
        strike.proof["several claimed"] = len(_claims(stage)) >= before + 2
        strike.proof["the owner ended"] = left.ended() == Exit.LOST_FENCE
        wait(lambda: sum(bool(each.status().get("voting")) for each in spares) == 1, "one of them votes")
        stage.flows(4)


def _claims(stage: Stage) -> list[Owner]:
    store = stage.world.open_store()
    try:
        return list(store.history(stage.world.identity.address, 20))
    finally:
        store.close()


@scenario("taken from both sides", in_ci=True, flags=FORKS)
def loops(stage: Stage) -> None:
    rng = random.Random(stage.seed)
    owner, spare = stage.pair("--on-lost-lock", "demote")
    with stage.strike("set-identity from both") as strike:
        end = time.monotonic() + LOOP_S
        before = len(_claims(stage))
        pauses = {each.name: [rng.uniform(0.0, 1.2) for _ in range(100)] for each in (owner, spare)}

        def again(machine: Machine) -> Callable[[], None]:
            def run() -> None:
                for pause in pauses[machine.name]:
                    machine.take(timeout=10)
                    passes(pause)
                    if time.monotonic() > end:
                        return

            return run

        _at_once([again(owner), again(spare)])
        strike.proof["many take-overs"] = len(_claims(stage)) >= before + 6
        take_over(owner)
        stage.flows(4, owner)


@scenario("late copies", flags=FORKS)
def copies(stage: Stage) -> None:
    owner, spare = stage.pair("--on-lost-lock", "demote")
    stage.copies.touch()
    with stage.strike("late copies") as strike:
        for _ in range(4):
            stage.flows(8, owner)
            take_over(spare)
            stage.flows(4, spare)
            owner, spare = spare, owner
        text = "".join(path.read_text() for path in stage.folder.glob("history-*.jsonl"))
        strike.proof["copies were sent"] = text.count('"client":"copy"') >= 10
