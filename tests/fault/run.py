"""The pinned scenarios: `python -m tests.fault.run [--ci] [--seed N] [--keep FOLDER] [--write] [NAME ...]`.

Each is played on a stage of its own and judged by its evidence. What fails is kept, with its seed, history and logs, and can be
judged again. `--write` puts the table of results into docs/faults.md. Exit status: 0 all played passed; 1 a promise was broken;
2 a run says nothing.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fault import scenarios_etcd, scenarios_file, scenarios_machine, scenarios_network
from tests.fault.host import missing
from tests.fault.judge import Verdict, judge, load_evidence
from tests.fault.scenario import SCENARIOS, Scenario
from tests.fault.table import Row, rows_of, write_page
from tests.fault.traffic import Stage

__all__ = ["Played", "main", "play"]

MODULES = (scenarios_machine, scenarios_etcd, scenarios_network, scenarios_file)  # what fills SCENARIOS


@dataclass(slots=True)
class Played:
    """A scenario that was played, or why it was not."""

    scenario: Scenario
    seed: int
    seconds: float = 0.0
    verdict: Verdict | None = None
    rows: list[Row] = field(default_factory=list)
    skipped: str = ""
    kept: Path | None = None


def play(scenario: Scenario, folder: Path, seed: int) -> Played:
    """Play one scenario in `folder`, which is removed if it passed."""
    if why := missing(scenario.needs):
        return Played(scenario, seed, skipped=why)
    began = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with Stage(folder, scenario.name, seed=seed, **scenario.options) as stage:
            scenario.play(stage)
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # pytest's failures are none of `Exception`
        if not (folder / "run.json").exists():
            verdict = Verdict(invalid=[f"the stage was not set up: {type(problem).__name__}: {problem}"])
            return Played(scenario, seed, time.monotonic() - began, verdict, kept=folder)
    evidence = load_evidence(folder)
    verdict = judge(evidence)
    played = Played(scenario, seed, time.monotonic() - began, verdict, rows_of(evidence))
    if verdict.passed:
        shutil.rmtree(folder)
    else:
        played.kept = folder
    return played


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault.run", description="Play the pinned faults and judge them.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenarios; all if none is named")
    parser.add_argument("--ci", action="store_true", help="the third of them that CI plays")
    parser.add_argument("--seed", type=int, help="of the whole run; printed")
    parser.add_argument("--keep", type=Path, help="folder of what failed; default: a fresh one")
    parser.add_argument("--write", action="store_true", help="write the table into docs/faults.md")
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    asked = parser.parse_args(arguments)
    if asked.list:
        print("\n".join(f"{name}{' (ci)' if each.in_ci else ''}" for name, each in SCENARIOS.items()))
        return 0
    unknown = [name for name in asked.names if name not in SCENARIOS]
    if unknown:
        print(f"Error: no scenario {unknown[0]!r}; --list names them", file=sys.stderr)
        return 2
    named = [each for each in SCENARIOS.values() if not asked.names or each.name in asked.names]
    chosen = [each for each in named if each.in_ci or not asked.ci]
    seed = random.SystemRandom().randrange(1 << 32) if asked.seed is None else asked.seed
    keep = asked.keep or Path(tempfile.mkdtemp(prefix="tower-faults-"))
    keep.mkdir(parents=True, exist_ok=True)
    print(f"seed: {seed} (again with --seed {seed}); what fails is kept in {keep}", flush=True)
    began, results = time.monotonic(), []
    for each in chosen:
        result = play(each, keep / each.name.replace(" ", "-"), random.Random(f"{seed} {each.name}").randrange(1 << 32))
        results.append(result)
        _tell(result)
    seconds = time.monotonic() - began
    _sum_up(results, seconds)
    if asked.write:
        write_page([row for result in results for row in result.rows], results, seconds, seed)
    if not any(keep.iterdir()):
        keep.rmdir()
    if any(result.verdict is not None and result.verdict.violations for result in results):
        return 1
    return 2 if any(result.verdict is not None and not result.verdict.passed for result in results) else 0


def _tell(result: Played) -> None:
    if result.verdict is None:
        print(f"not run  {result.scenario.name}: {result.skipped}", flush=True)
        return
    word = "passed" if result.verdict.passed else "FAILED"
    print(f"{word}  {result.scenario.name} ({result.seconds:.0f} s, seed {result.seed})", flush=True)
    for row in result.rows:
        print(f"    {row}", flush=True)
    if result.kept is not None:
        print(f"  {result.verdict}\n  again: python -m tests.fault.judge '{result.kept}'", flush=True)


def _sum_up(results: Sequence[Played], seconds: float) -> None:
    verdicts = [result.verdict for result in results if result.verdict is not None]
    conflicts = sum(verdict.counts["conflicts"] for verdict in verdicts)
    double = sum(verdict.counts["double blocks"] for verdict in verdicts)
    votes = sum(verdict.counts["votes released"] for verdict in verdicts)
    operations = sum(verdict.counts["operations"] for verdict in verdicts)
    passed = sum(verdict.passed for verdict in verdicts)
    strikes = sum(len(result.rows) for result in results)
    print(
        f"{passed} of {len(verdicts)} scenarios passed, {len(results) - len(verdicts)} not run, in {seconds:.0f} s: "
        f"{strikes} faults, {votes} votes released, {operations} store operations, conflicts {conflicts}, double blocks {double}"
    )


if __name__ == "__main__":
    sys.exit(main())
