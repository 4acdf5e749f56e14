"""Random faults and failovers for hours: `python -m tests.fault.soak --minutes N [--rounds N] [--folder F] [--seed N] [--write]`.

A soak is a row of rounds. Each has a stage of its own, draws its faults from the seed and the round's number, and is judged as a
pinned scenario is. What it has seen is added to `soak.json` in the folder after each round, so that a soak that was ended goes on
where it was: the same command with the same folder. A round that fails is kept whole, and ends the soak. `--write` puts what was
seen so far into docs/faults.md.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.fault.host import no_more_files, restore_limit
from tests.fault.judge import Evidence, judge, load_evidence
from tests.fault.proxy import RULES
from tests.fault.scenario import passes, serving_at, take_over
from tests.fault.table import rows_of, write_soak
from tests.fault.traffic import FORKS, Stage, wait
from tower.validator.config import Exit

__all__ = ["Soak", "main", "play_round"]

ROOT = Path(__file__).parents[2]
FAULTS_A_ROUND = 24
STUCK_SLOTS = 20
ENDS = (Exit.LOST_FENCE, Exit.STORE_FAILED)


class Soak:
    """One round on one stage: two machines that take over from each other, and whatever is drawn."""

    def __init__(self, stage: Stage, rng: random.Random) -> None:
        self.stage, self.rng = stage, rng
        self.failovers = 0
        self.owner, self.spare = stage.pair()

    def run(self, count: int) -> None:
        faults: list[tuple[str, Callable[[], Any]]] = [
            ("kill", self.kill),
            ("freeze, taken over", self.freeze),
            ("cut off, taken over", self.cut_off),
            ("take-over", self.plain),
            ("take-over", self.plain),
            ("member killed", self.member_killed),
            ("member frozen", self.member_frozen),
            ("link", self.link),
            ("late copies", self.copies),
            ("compaction", self.tidy),
            ("no file handles", self.handles),
        ]
        for _ in range(count):
            name, fault = self.rng.choice(faults)
            with self.stage.strike(name) as strike:
                strike.proof["struck"] = fault()
                self.alive()

    # ---- what goes on all the while

    def alive(self) -> None:
        """Somebody votes again: the owner, or after its end the spare."""
        try:
            self.stage.flows(2, self.owner, timeout=12)
        except BaseException as problem:  # pytest's failures are none of `Exception`
            if isinstance(problem, KeyboardInterrupt) or self.owner.running:
                raise
            self.change()

    def change(self) -> None:
        """The spare takes over; who owned comes back as the spare, dead or alive."""
        take_over(self.spare)
        self.failovers += 1
        if self.owner.running:
            self.owner.thaw()
            for link in self.owner.links:
                self.stage.net.set(link, "pass")
            status = self.owner.ended()
            assert status in ENDS, f"{self.owner.name} ended with {status}: {self.owner.log[-1000:]}"
        else:  # killed by us, or ended as documented
            status = self.owner.process.returncode
            assert status in (*ENDS, -signal.SIGKILL), f"{self.owner.name} ended with {status}: {self.owner.log[-1000:]}"
        self.owner.spare = True
        self.owner.start().wait_running()
        self.owner, self.spare = self.spare, self.owner
        self.stage.flows(1, self.owner)

    # ---- faults; each gives what shows that it struck

    def plain(self) -> bool:
        self.change()
        return True

    def kill(self) -> bool:
        self.owner.kill()
        dead = self.owner.process.returncode == -9
        self.change()
        return dead

    def freeze(self) -> bool:
        self.owner.stop()
        passes(self.rng.uniform(0.0, 4.0))
        self.change()
        return True

    def cut_off(self) -> int:
        rule = self.rng.choice(("cut", "hole", "deaf", "mute"))
        links = self.owner.links
        before = sum(sum(link.struck.values()) for link in links)
        for link in links:
            self.stage.net.set(link, rule)
        passes(self.rng.uniform(0.2, 2.0))
        self.change()
        return sum(sum(link.struck.values()) for link in links) - before

    def _member(self) -> Any:
        return self.rng.choice(self.stage.members)

    def member_killed(self) -> bool:
        member = self._member()
        member.kill()
        passes(self.rng.uniform(0.2, 3.0))
        if self.rng.random() < 0.3:
            self.change()
        member.start()
        return True

    def member_frozen(self) -> bool:
        member = self._member()
        member.pause()
        passes(self.rng.uniform(0.2, 3.0))
        member.resume()
        return True

    def link(self) -> int:
        rule = self.rng.choice([rule for rule in RULES if rule != "pass"])
        links = self.owner.links
        in_use = serving_at(self.stage, self.owner)
        some = [each for number, each in enumerate(links) if number == in_use or self.rng.random() < 0.5]
        before = sum(sum(each.struck.values()) for each in some)
        for each in some:
            self.stage.net.set(each, rule)
        passes(self.rng.uniform(0.3, 2.5))
        for each in some:
            self.stage.net.set(each, "pass")
        return sum(sum(each.struck.values()) for each in some) - before

    def copies(self) -> bool:
        self.stage.copies.touch()
        self.stage.flows(3, self.owner)
        self.change()
        self.stage.flows(3, self.owner)
        self.stage.copies.unlink()
        return True

    def tidy(self) -> bool:
        self.stage.api(self.stage.leader()).compact(self.stage.witnessed)
        self.stage.api(self._member()).defragment()
        return True

    def handles(self) -> bool:
        before = no_more_files(self.owner.process.pid)
        for link in self.owner.links:
            self.stage.net.set(link, "cut")
            self.stage.net.set(link, "pass")
        passes(self.rng.uniform(0.5, 2.0))
        if self.owner.running:
            restore_limit(self.owner.process.pid, resource.RLIMIT_NOFILE, before)
        wait(lambda: not self.owner.running or self.stage.votes(int(time.time() * 1000) - 500), "it votes again or ends")
        return True


def play_round(folder: Path, seed: int, count: int = FAULTS_A_ROUND) -> tuple[Counter[str], list[str]]:
    """One round in `folder`; what it saw, and what is wrong (nothing, if it passed; then the folder is removed)."""
    shutil.rmtree(folder, ignore_errors=True)
    failovers = 0
    try:
        with Stage(folder, "soak", seed=seed, flags=FORKS) as stage:
            soak = Soak(stage, random.Random(seed))
            try:
                soak.run(count)
            finally:
                failovers = soak.failovers
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # judged below by what it left
        if not (folder / "run.json").exists():
            return Counter(), [f"the stage was not set up: {problem}"]
    evidence = load_evidence(folder)
    verdict = judge(evidence)
    counts = verdict.counts
    counts["failovers"] = failovers
    counts["rounds"] = 1
    counts["longest silence, ms"] = int(1000 * max((row.silent_s for row in rows_of(evidence)), default=0.0))
    if not verdict.passed and not verdict.violations and stuck(evidence):
        counts = Counter({"rounds without a result, the cluster stood still on a fork": 1})
    elif not verdict.passed:
        return counts, verdict.violations + verdict.invalid
    shutil.rmtree(folder)
    return counts, []


def stuck(evidence: Evidence) -> bool:
    """Whether most of the cluster's own voters had stopped: their votes for the better side of a fork landed nowhere.

    It happens where a fork ends while many slots are skipped; nobody may switch then, and nothing can be said of ours.
    """
    newest: dict[str, int] = {}
    for vote in evidence.report["votes"]:
        if vote["vote_account"] != evidence.run["vote_account"]:
            newest[vote["vote_account"]] = max(vote["last_slot"], newest.get(vote["vote_account"], 0))
    behind = [slot for slot in newest.values() if slot < max(evidence.report["chain"]) - STUCK_SLOTS]
    return 2 * len(behind) > len(newest)


def _load(path: Path) -> dict[str, Any]:
    told: dict[str, Any] = {"seed": None, "round": 0, "seconds": 0.0, "counts": {}, "commits": {}}
    return told | json.loads(path.read_text()) if path.exists() else told


def _commit() -> str:
    """What is played: the commit, with a mark where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if every round passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault.soak", description="Random faults and failovers, judged.")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long this call goes on (default 60)")
    parser.add_argument("--rounds", type=int, default=1 << 30, help="at most so many in this call")
    parser.add_argument("--folder", type=Path, default=Path("fault-soak"), help="statistics and what failed; go on with the same")
    parser.add_argument("--seed", type=int, help="of a new soak; printed")
    parser.add_argument("--write", action="store_true", help="write what was seen so far into docs/faults.md")
    asked = parser.parse_args(arguments)
    asked.folder = asked.folder.resolve()  # the machines of a round work elsewhere
    asked.folder.mkdir(parents=True, exist_ok=True)
    statistics = asked.folder / "soak.json"
    told = _load(statistics)
    if told["seed"] is None:
        told["seed"] = random.SystemRandom().randrange(1 << 32) if asked.seed is None else asked.seed
    counts, commits, commit = Counter(told["counts"]), Counter(told["commits"]), _commit()
    print(f"seed: {told['seed']}, from round {told['round']} on; statistics in {statistics}", flush=True)
    end = time.monotonic() + 60 * asked.minutes
    last = told["round"] + asked.rounds
    while time.monotonic() < end and told["round"] < last:
        began = time.monotonic()
        number = told["round"]
        seed = random.Random(f"{told['seed']} {number}").randrange(1 << 32)
        seen, wrong = play_round(asked.folder / f"round-{number}", seed)
        longest = max(counts["longest silence, ms"], seen.pop("longest silence, ms", 0))
        counts.update(seen)
        counts["longest silence, ms"] = longest
        seconds = told["seconds"] + time.monotonic() - began
        commits[commit] += 1
        told |= {"round": number + 1, "seconds": seconds, "counts": dict(counts), "commits": dict(commits)}
        new = statistics.with_suffix(".new")
        new.write_text(json.dumps(told, indent=1, sort_keys=True))
        new.rename(statistics)
        of = f"{counts['failovers']} failovers, {counts['votes released']} votes, conflicts {counts['conflicts']}"
        print(f"round {number} (seed {seed}): {'FAILED' if wrong else 'passed'}; so far {of}, {seconds / 60:.0f} min", flush=True)
        if wrong:
            print("  " + "\n  ".join(wrong))
            print(f"  again: python -m tests.fault.judge '{asked.folder / f'round-{number}'}'")
            return 1
    for what, many in sorted(counts.items()):
        print(f"  {what:40} {many}")
    if asked.write:
        write_soak(told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
