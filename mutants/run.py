"""The command: every guard taken out once, and the test that noticed.

    python -m mutants.run                          all mutants: what `make mutants` runs
    python -m mutants.run --only memory-fence      one of them (repeatable; * stands for anything)
    python -m mutants.run --sample 20 --seed 7     twenty of them, drawn from the seed
    python -m mutants.run --only NAME --show       with what pytest printed: is it the guard that is missed?
    python -m mutants.run --list                   what there is, without running anything
    python -m mutants.run --write                  all mutants, and docs/mutants.md from what was found

The tree is copied; nothing is changed in it. First the copy as it is must pass every test that a mutant names. Then each patch
is applied to a copy of its own, the extension is built there if the patch is in it, and the tests that should notice run first.
If none of them does, the quick tests run; if they pass as well, the mutant has survived.

Exit status: 0 all killed, 1 one survived, or ran into the time bound without saying that it may, 2 the run says nothing (a patch
that does not fit, a copy that fails without one, a build that failed).
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mutants.catalog import ROOT, BadMutant, Mutant, load_mutants, misfit
from mutants.report import Verdict, summary, table, write_document

__all__ = ["CannotTell", "main"]

LEFT_OUT = (".venv", ".git", "build", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis", "*-run", "_*.c")
# What looks at the text of the tree and would fall over any change at all says nothing about a guard.
QUICK = ("tests/unit", "tests/property")
ABOUT_THE_TEXT = (
    "tests/unit/test_source.py::test_lint_and_types",
    "tests/unit/test_source.py::test_pyright_agrees_with_the_types_that_embedders_see",
    "tests/unit/test_docs.py",
    "tests/unit/test_fuzz_targets.py",
    "tests/unit/test_mutants.py",
    "tests/unit/test_safety_table.py",
    "tests/unit/test_site.py",
)
TEST_S_MAX = 90  # of one test; most take milliseconds
RUN_S_MAX = 300  # of one pytest run
BUILD_S_MAX = 300
BASE_S_MAX = 1200  # of all named tests together, without a patch
JOBS_MAX = 4
TIMED_OUT = "pytest-timeout"


class CannotTell(Exception):
    """The run can say nothing about the mutants; the text is one line with the fix, more lines are what a tool printed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One pytest run: which tests failed (node ids), whether it ran out of time, and what it printed."""

    failed: tuple[str, ...]
    timed_out: bool
    output: str


def _environment(tree: Path) -> dict[str, str]:
    """For programs in a copy: its packages come before those that are installed, and no repository around it counts."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTEST_ADDOPTS", "PYTHONSAFEPATH", "GIT_DIR")}
    return {**kept, "PYTHONPATH": str(tree), "GIT_CEILING_DIRECTORIES": str(tree.parent)}


def _copy(source: Path, tree: Path) -> Path:
    shutil.copytree(source, tree, ignore=shutil.ignore_patterns(*LEFT_OUT) if source == ROOT else None, symlinks=True)
    return tree


def _apply(mutant: Mutant, tree: Path, *flags: str) -> None:
    """Apply the patch to `tree`, or with `--check` only try to. Raises `CannotTell`."""
    try:
        done = subprocess.run(
            ["git", "apply", *flags, str(mutant.path)],
            cwd=tree, env=_environment(tree), capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise CannotTell("git is not on PATH: it applies the patches; install it") from None
    problem = done.stderr.strip() if done.returncode else misfit(mutant, tree) if "--check" in flags else None
    if problem is not None:
        raise CannotTell(f"{mutant.name}: the patch does not fit the tree; bring {mutant.path.name} up to date\n{problem}")


def _build(tree: Path) -> None:
    for old in (tree / "tower").glob("_*.so"):
        old.unlink()
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    try:
        done = subprocess.run(
            command, cwd=tree, env=_environment(tree), capture_output=True, text=True, timeout=BUILD_S_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        raise CannotTell(f"the extensions were not built within {BUILD_S_MAX} s") from None
    if done.returncode:
        raise CannotTell(f"the extensions could not be built\n{done.stdout}{done.stderr}")


def _pytest(tree: Path, tests: Sequence[str], seed: int, bound: float, *flags: str) -> Outcome:
    """Run `tests` in `tree`. Raises `CannotTell` if they could not be run at all."""
    cache = tree / "mutant-cache"
    shutil.rmtree(cache, ignore_errors=True)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--seed", str(seed), "-o", f"cache_dir={cache}"]
    command += ["-o", f"timeout={TEST_S_MAX}", "-o", "timeout_method=signal", f"--basetemp={tree.with_name(tree.name + '-t')}"]
    with subprocess.Popen(
        [*command, *flags, *tests], cwd=tree, env=_environment(tree), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=bound)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # a session of its own: what the tests started ends with it
            output, _ = process.communicate()
            return Outcome((), True, output)
    last = cache / "v" / "cache" / "lastfailed"
    failed = tuple(json.loads(last.read_text())) if last.exists() else ()
    if process.returncode == 0:
        return Outcome((), False, output)
    if process.returncode != 1 or not failed or any("::" not in name for name in failed):
        raise CannotTell(f"pytest could not run the tests (status {process.returncode})\n{output}")
    return Outcome(failed, f"from {TIMED_OUT}" in output, output)


class Lab:
    """A copy of the tree that passes its tests, and copies of it to break."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._seed = seed
        self._base = _copy(ROOT, folder / "base")
        self._quick_lock = threading.Lock()
        self._quick_passes = False

    def check_imports(self) -> None:
        """The copy must be what is imported, and not what is installed."""
        code = "import tower, tests; from tower import _fast; print(tower.__file__, _fast.__file__, tests.__file__, sep='\\n')"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=self._base, env=_environment(self._base), capture_output=True, text=True, check=False,
        )  # fmt: skip
        places = done.stdout.splitlines()
        if done.returncode or any(not place.startswith(str(self._base)) for place in places):
            raise CannotTell(f"the copy is not what is imported; run `make setup` first\n{done.stdout}{done.stderr}")
        print(f"copy: {places[0]}", flush=True)

    def check_base(self, mutants: Sequence[Mutant]) -> None:
        """Without a patch, every named test passes. Raises `CannotTell`."""
        tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
        began = time.monotonic()
        outcome = _pytest(self._base, tests, self._seed, BASE_S_MAX)
        if outcome.failed or outcome.timed_out:
            raise CannotTell(f"the tree fails without any mutant: {', '.join(outcome.failed) or 'timed out'}\n{outcome.output}")
        print(f"without a mutant: {outcome.output.splitlines()[-1].strip('= ')}, {time.monotonic() - began:.0f} s", flush=True)

    def check_quick(self) -> None:
        with self._quick_lock:
            if not self._quick_passes:
                outcome = _pytest(self._base, QUICK, self._seed, BASE_S_MAX, *_without_text())
                if outcome.failed or outcome.timed_out:
                    raise CannotTell(f"the quick tests fail without any mutant\n{outcome.output}")
                self._quick_passes = True

    def judge(self, mutant: Mutant) -> Verdict:
        """Apply, build if needed, test. Raises `CannotTell`."""
        tree = self._folder / mutant.name
        began = time.monotonic()
        try:
            _copy(self._base, tree)
            _apply(mutant, tree)
            if mutant.rebuilds:
                _build(tree)
            outcome = _pytest(tree, mutant.tests, self._seed, RUN_S_MAX)
            expected = True
            if not outcome.failed and not outcome.timed_out:
                self.check_quick()
                outcome, expected = _pytest(tree, QUICK, self._seed, RUN_S_MAX, *_without_text()), False
            killer = outcome.failed[0] if outcome.failed else None
            return Verdict(mutant, killer, expected, outcome.timed_out, time.monotonic() - began, outcome.output)
        except CannotTell as problem:
            raise CannotTell(f"{mutant.name}: {problem}") from None
        finally:
            shutil.rmtree(tree, ignore_errors=True)
            shutil.rmtree(tree.with_name(tree.name + "-t"), ignore_errors=True)


def _without_text() -> Iterator[str]:
    for name in ABOUT_THE_TEXT:
        yield f"--deselect={name}" if "::" in name else f"--ignore={name}"


def _chosen(mutants: list[Mutant], patterns: list[str], sample: int | None, seed: int) -> list[Mutant]:
    for pattern in patterns:
        if not fnmatch.filter([mutant.name for mutant in mutants], pattern):
            raise CannotTell(f"--only {pattern}: no mutant has that name; see --list")
    if patterns:
        mutants = [mutant for mutant in mutants if any(fnmatch.fnmatchcase(mutant.name, pattern) for pattern in patterns)]
    if sample is not None and sample < len(mutants):
        mutants = sorted(random.Random(seed).sample(mutants, sample), key=lambda mutant: mutant.name)
    return mutants


def _run(mutants: list[Mutant], jobs: int, seed: int, show: bool) -> list[Verdict]:
    """Every verdict, in the order of the mutants. Raises `CannotTell`."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, contextlib.ExitStack() as stack:
        lab = Lab(Path(folder), seed)
        for mutant in mutants:
            _apply(mutant, Path(folder) / "base", "--check")
        lab.check_imports()
        lab.check_base(mutants)
        # Builds take longest: begun first, so that no job waits for one at the end.
        order = sorted(mutants, key=lambda mutant: not mutant.rebuilds)
        pool = ThreadPoolExecutor(jobs)
        stack.callback(pool.shutdown, cancel_futures=True)
        futures = {mutant.name: pool.submit(lab.judge, mutant) for mutant in order}
        problems = []
        for mutant in order:
            try:
                verdict = futures[mutant.name].result()
                print(f"{verdict.output}\n{verdict.line()}" if show else verdict.line(), flush=True)
            except CannotTell as problem:  # the others are judged all the same
                print(f"NO ANSWER {problem}", flush=True)
                problems.append(mutant.name)
        if problems:
            raise CannotTell(f"no answer about {', '.join(problems)}")
        return [futures[mutant.name].result() for mutant in mutants]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="mutants.run", description="Take out every guard once; the tests must notice")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this mutant; repeatable, * is a wildcard")
    parser.add_argument("--list", action="store_true", help="print what there is and end")
    jobs = min(JOBS_MAX, os.cpu_count() or 1)
    parser.add_argument("--jobs", type=int, default=jobs, help="so many at a time (default: %(default)s)")
    parser.add_argument("--sample", type=int, default=None, metavar="N", help="N mutants, drawn from --seed")
    parser.add_argument("--seed", type=int, default=1, help="of the sample and of the tests (default: %(default)s)")
    parser.add_argument("--show", action="store_true", help="print what pytest said of each mutant")
    parser.add_argument("--write", action="store_true", help="write docs/mutants.md from this run; only with all mutants")
    asked = parser.parse_args(arguments)
    if asked.jobs < 1 or (asked.sample is not None and asked.sample < 1):
        parser.error("--jobs and --sample take a number above 0")
    if asked.write and (asked.only or asked.sample is not None):
        parser.error("--write needs all mutants: leave out --only and --sample")
    began = time.monotonic()
    try:
        mutants = _chosen(load_mutants(), asked.only, asked.sample, asked.seed)
        if asked.list:
            for mutant in mutants:
                print(f"{mutant.name:<34} {mutant.breaks:<22} {mutant.without}")
            return 0
        verdicts = _run(mutants, asked.jobs, asked.seed, asked.show)
    except (BadMutant, CannotTell) as problem:
        print(f"mutants: {problem}", file=sys.stderr)
        return 2
    seconds = time.monotonic() - began
    print("\n".join(["", *table(verdicts), "", summary(verdicts, seconds)]))
    if asked.write:
        write_document(verdicts, seconds, asked.jobs)
    return 0 if all(verdict.killed for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
