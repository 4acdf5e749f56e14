"""The command that holds traces of real processes against the specification.

    python -m spec.replay primary.ndjson secondary.ndjson     is there a behaviour of FencedTower that does this?
    python -m spec.replay --store file FILE...                the processes kept their towers in a folder
    python -m spec.replay --alter 7 FILE...                   the same with one event altered, in each of the ways there are

The lines of all files (docs/specification.md, "Traces") are put in one order by their clock, one identity at a time, and become
the constant of `FencedTrace.tla`; TLC then looks for a behaviour that takes every line as the action of its name, with its
facts. The exit status is the verdict: 0 if there is one, 1 if not, with the first event that nothing explains; 2 if nothing
could be run. With `--alter` it is the other way round: 0 if each altered trace is refused.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spec.alterations import ALTERATIONS, alter
from spec.check import HEAP_MB, SPEC, CannotRun, find_tools
from spec.traces import Event, Model, NotATrace, model, read

__all__ = ["Found", "main", "replay", "report"]

SECONDS_MAX = 1800  # a replay that takes longer has no verdict

@dataclass(frozen=True, slots=True)
class Found:
    """What TLC said of one identity's trace. `refused` is the first event that nothing explains; `there` is how it was then."""

    identity: str
    events: int
    states: int
    seconds: float
    refused: Event | None = None
    there: str = ""


def replay(events: Sequence[Event], *, ordered: bool = True, every_step: bool = False) -> Found:
    """Replay the events of one identity. Raises `CannotRun` if TLC has no verdict."""
    java, jar = find_tools()
    this = model(events, ordered=ordered, every_step=every_step)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tower-replay-") as folder:
        for name in ("FencedTower", "FencedVoting", "FencedTrace"):
            shutil.copy(SPEC / f"{name}.tla", folder)
        (Path(folder) / "Replay.tla").write_text(this.module)
        (Path(folder) / "Replay.cfg").write_text(this.configuration)
        command = [  # one worker and few states: what a longer search gains from, is here the greater part of the time
            java, f"-Djava.io.tmpdir={folder}", f"-Xmx{HEAP_MB}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            "-cp", str(jar), "tlc2.TLC", "-nowarning", "-deadlock", "-workers", "1",
            "-metadir", str(Path(folder) / "states"), "Replay.tla",
        ]  # fmt: skip
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
        except subprocess.TimeoutExpired:
            raise CannotRun(f"TLC did not end within {SECONDS_MAX} s; replay a shorter trace") from None
    seconds = time.monotonic() - begun
    output = done.stdout + done.stderr
    states = re.search(r"(\d+) distinct states found, 0 states left on queue", output)
    reached = re.findall(r'(?m)^<<"at", (\d+)(?:, "(\w+)", (.*))?>>$', output)
    if "No error has been found" not in output or states is None or not reached:
        problem = re.search(r"(?ms)^(?:Error: |\*\*\* )(.*?)$", output)
        raise CannotRun(f"TLC ended without a verdict: {problem.group(1) if problem else output[-500:]}")
    at, state, numbers = reached[-1]
    found = (events[0].identity, len(events), int(states.group(1)), seconds)
    if int(at) == len(this.entries):
        return Found(*found)
    stuck = next(entry.event for entry in this.entries[int(at) :] if entry.event is not None)
    return Found(*found, stuck, _there(this, state, [int(number) for number in numbers.split(",")]))


def _there(this: Model, state: str, numbers: Sequence[int]) -> str:
    """The state of the life whose event was refused, as it was before, in the trace's own numbers."""

    def revision(rank: int) -> str:
        return "not known" if rank < 0 else str(this.revisions.large(rank))

    def slot(rank: int) -> str:
        return "none" if rank == 0 else str(this.slots.large(rank) - 1)

    seen, fence, expected, last, pending = numbers
    match state:
        case "standby":
            return "that life holds nothing and has looked at nothing"
        case "looking" | "claiming":
            return f"that life is {state}, and saw the instance at {revision(seen)}"
        case _:
            knows = f"fence {revision(fence)}, tower at {revision(expected)}, last vote {slot(last)}"
            return f"that life is {state}: {knows}" + (f", the vote for {slot(pending)} under way" if pending else "")


def by_identity(events: Iterable[Event]) -> list[list[Event]]:
    groups: dict[str, list[Event]] = {}
    for event in events:
        groups.setdefault(event.identity, []).append(event)
    return list(groups.values())


def report(found: Found, events: Sequence[Event]) -> str:
    """The verdict on one identity, for people."""
    if found.refused is not None:
        refused = found.refused
        return f"REFUSED: {refused.source}: nothing in the specification explains {refused}\n    before it {found.there}"
    lives = len({event.life for event in events})
    votes = sum(event.action == "Committed" for event in events)
    other = sum(event.facts.get("base", "stored") != "stored" for event in events)
    aside = f", {other} of them decided on other votes than the stored ones" if other else ""
    return (
        f"explained: {found.events} events of {found.identity} in {lives} lives, {votes} votes released{aside}; "
        f"{found.states} states, {found.seconds:.1f} s"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay what was named; 0 if all of it is explained, 1 if not, 2 if it could not be run."""
    parser = argparse.ArgumentParser(prog="python -m spec.replay", description="Hold traces against the specification.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="what processes wrote with --trace, all of one store")
    parser.add_argument("--store", choices=("etcd", "file"), default="etcd", help="how the store counts towers (default etcd)")
    parser.add_argument("--alter", type=int, metavar="SEED", help="alter one event, in each way; 0 if each time it is refused")
    parser.add_argument("--every-step", action="store_true", help="have TLC ask of every step whether it is the specification's")
    options = parser.parse_args(arguments)
    try:
        events = [event for path in options.files for event in read(path)]
        if not events:
            raise NotATrace(f"{', '.join(map(str, options.files))}: no events; did anything vote?")
        ordered = options.store == "etcd"
        good = True
        for group in by_identity(events):
            if options.alter is not None:
                good = _refuses_altered(group, options.alter, ordered) and good
                continue
            found = replay(group, ordered=ordered, every_step=options.every_step)
            print(report(found, group), flush=True)
            good = found.refused is None and good
    except (CannotRun, NotATrace) as problem:
        print(f"replay: {problem}", file=sys.stderr)
        return 2
    return 0 if good else 1


def _refuses_altered(group: Sequence[Event], seed: int, ordered: bool) -> bool:
    good = True
    for kind in ALTERATIONS:
        altered = alter(group, kind, random.Random(f"{seed} {kind}"))
        if altered is None:
            print(f"{kind}: this trace has no event for it")
            continue
        found = replay(altered.events, ordered=ordered)
        good = found.refused == altered.wrong and good
        print(f"{kind}: {altered.says}\n  {report(found, altered.events)}", flush=True)
    return good


if __name__ == "__main__":
    sys.exit(main())
