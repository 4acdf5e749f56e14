"""How many instructions the hot functions take, counted by valgrind: a figure that no busy machine changes.

    python -m benchmarks.instructions            count, and print beside what is written down
    python -m benchmarks.instructions --check    the same; status 1 and a line for each that grew by more than 5 %
    python -m benchmarks.instructions --write    count, and write benchmarks/instructions.json

One process calls every function a few times and then one of them 500 times more, and another does the same without the 500: the
difference of the two counts over 500 is its price. What a function costs that does nothing is taken off, which is the
interpreter's own work and moves by some tens of instructions with code that has nothing to do with it. Both processes get
arguments of the same lengths: else their memory lies elsewhere, and Python's own caches find more or less in it.
libsodium's instructions stand apart: they are not ours to save, and are the same for the same bytes.

A count depends on the compiler, on Python, Cython and the C library, and on nothing else here: the C library is told to use the
forms of its functions that every x86-64 processor has. Where the versions are not those in the file, a line says so and only
a growth of more than 25 % fails. Where valgrind is missing the run ends with a line that says so, and status 0.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import Cython

from benchmarks.workload import hot_calls

__all__ = ["Count", "compare", "count_calls", "instructions_by_object", "main"]

ROOT = Path(__file__).parents[1]
FILE = Path(__file__).with_suffix(".json")
CALLS_BEFORE, CALLS = 20, 500
GROWTH_MAX, GROWTH_MAX_ELSEWHERE = 0.05, 0.25
RUN_S_MAX = 300
LIBSODIUM = "_sodium"
NOTHING = "nothing"  # the function that does nothing
# the forms of memcpy and memset that do not depend on the processor
PLAIN_LIBC = "glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM"
OBJECT = re.compile(r"ob=(\(\d+\))(?: (.*))?$")


@dataclass(frozen=True, slots=True)
class Count:
    """Instructions of one call: all but libsodium's, and libsodium's."""

    ours: int
    libsodium: int


class CannotCount(Exception):
    """The text is one line with the fix, more lines are what valgrind printed."""


def instructions_by_object(text: str) -> Counter[str]:
    """What each object file spent by itself, from a file that callgrind wrote.

    >>> calls = ["ob=(1) a.so", "fn=(1) f", "5 70", "cob=(2) b.so", "cfn=(2) g", "calls=1 9", "6 900"]
    >>> instructions_by_object("\\n".join([*calls, "ob=(2)", "fn=(2)", "9 900", "ob=(1)", "+2 3", "totals: 973"]))
    Counter({'b.so': 900, 'a.so': 73})
    """
    spent: Counter[str] = Counter()
    names: dict[str, str] = {}
    here, called = "", False
    for line in text.splitlines():
        if line[:3] == "ob=":
            found = OBJECT.match(line)
            if found is None:
                raise CannotCount(f"callgrind wrote a line that cannot be read: {line!r}")
            here = names.setdefault(found[1], found[2] or "")
        elif line[:6] == "calls=":
            called = True  # the next line is what the callee spent, which is counted where it was spent
        elif line[:1].isdigit() or line[:1] in "+-*":
            _, _, cost = line.partition(" ")
            spent[here] += 0 if called or not cost else int(cost)  # a line without instructions has no number
            called = False
        elif line.startswith("cob=") and " " in line:
            number, name = line[4:].split(" ", 1)
            names.setdefault(number, name)
        elif line[:7] == "totals:" and int(line[7:]) != spent.total():
            raise CannotCount(f"of callgrind's {line[7:].strip()} instructions {spent.total()} could be read: another format?")
    return spent


def toolchain() -> dict[str, str]:
    """What counts depend on."""
    compiler = platform.python_compiler()
    found = shutil.which("gcc")
    if found is not None:
        done = subprocess.run([found, "-dumpfullversion"], capture_output=True, text=True, check=False)
        compiler = f"gcc {done.stdout.strip()}"
    return {
        "compiler": compiler,
        "cython": Cython.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libc": " ".join(platform.libc_ver()),
        "machine": platform.machine(),
    }


def _drive(name: str, calls: int) -> None:
    known = {**hot_calls(), NOTHING: lambda: None}
    gc.collect()
    gc.disable()
    for call, times in [(each, CALLS_BEFORE) for each in known.values()] + [(known[name], calls)]:
        for _ in itertools.repeat(None, times):  # a range would make an int a turn, from 257 on
            call()


def _run(name: str, calls: int, *tool: str) -> None:
    command = [*tool, sys.executable, "-m", "benchmarks.instructions", "--drive", name, "--calls", f"{calls:03}"]
    # everything that could make two runs of the same program differ is set
    env = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": PLAIN_LIBC}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=RUN_S_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        raise CannotCount(f"a run did not end within {RUN_S_MAX} s") from None
    if done.returncode:
        raise CannotCount(f"{name} could not be run (status {done.returncode})\n{done.stdout}{done.stderr}")


def _count(name: str, calls: int) -> Counter[str]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        _run(name, calls, "valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--quiet")
        return instructions_by_object(out.read_text())


def _spent(name: str) -> Counter[str]:
    """Instructions of `CALLS` calls, by object."""
    spent = _count(name, CALLS)
    spent.subtract(_count(name, 0))
    return spent


def count_calls(names: Sequence[str]) -> Iterator[tuple[str, Count]]:
    """Instructions of one call of each of these hot functions. Raises `CannotCount`."""
    _run(names[0], 0)  # so that nothing is compiled by Python under valgrind
    nothing = _spent(NOTHING)
    for name in names:
        more = _spent(name)
        more.subtract(nothing)
        libsodium = sum(spent for path, spent in more.items() if LIBSODIUM in Path(path).name)
        if more.total() <= libsodium:
            raise CannotCount(f"{name} cost nothing: was a file of the package changed meanwhile? Count again")
        yield name, Count(round((more.total() - libsodium) / CALLS), round(libsodium / CALLS))


def compare(then: Mapping[str, Count], now: Mapping[str, Count], growth_max: float) -> list[str]:
    """One line for each function that grew by more than `growth_max`, or is on one side only."""
    problems = []
    for name, count in now.items():
        if name not in then:
            problems.append(f"{name}: {count.ours:,} instructions, and none are written down: --write")
        elif count.ours > then[name].ours * (1 + growth_max):
            growth = count.ours / then[name].ours - 1
            problems.append(
                f"{name}: {count.ours:,} instructions, {growth:.1%} more than the {then[name].ours:,} written down; at most "
                f"{growth_max:.0%}: make it cheaper, or --write and say why in the change"
            )
    return problems


def _read() -> tuple[dict[str, str], dict[str, Count]]:
    if not FILE.exists():
        return {}, {}
    kept = json.loads(FILE.read_text())
    return kept["toolchain"], {name: Count(**count) for name, count in kept["instructions"].items()}


def _write(now: Mapping[str, Count]) -> None:
    kept = {"toolchain": toolchain(), "instructions": {name: asdict(count) for name, count in now.items()}}
    FILE.write_text(json.dumps(kept, indent=2) + "\n")
    print(f"written: {FILE.relative_to(ROOT) if FILE.is_relative_to(ROOT) else FILE}")


def _check(then: Mapping[str, Count], now: Mapping[str, Count], with_then: Mapping[str, str], whole: bool) -> int:
    here, growth_max = toolchain(), GROWTH_MAX
    other = [f"{with_then.get(name, 'unknown')} there, {mine} here" for name, mine in here.items() if with_then.get(name) != mine]
    if other:
        growth_max = GROWTH_MAX_ELSEWHERE
        print(f"counted with other tools ({'; '.join(other)}): only a growth of more than {growth_max:.0%} fails")
    problems = compare(then, now, growth_max)
    if whole:
        problems += [f"{name}: is written down, and no longer counted: --write" for name in then if name not in now]
    for problem in problems:
        print(problem)
    print(f"{len(now)} functions counted, {len(problems)} problems")
    return 1 if problems else 0


def main(arguments: list[str] | None = None) -> int:
    names = list(hot_calls())
    parser = argparse.ArgumentParser(prog="benchmarks.instructions", description="Count the instructions of the hot functions")
    parser.add_argument("--check", action="store_true", help="status 1 if one grew by more than 5 %%")
    parser.add_argument("--write", action="store_true", help="write benchmarks/instructions.json")
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help="this function; repeatable")
    parser.add_argument("--drive", choices=[*names, NOTHING], help=argparse.SUPPRESS)
    parser.add_argument("--calls", type=int, default=CALLS, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.drive:
        _drive(asked.drive, asked.calls)
        return 0
    if asked.write and asked.only:
        parser.error("--write counts all of them: leave --only out")
    if shutil.which("valgrind") is None:
        print("instructions: skipped, valgrind is not on PATH (Debian: apt-get install valgrind)")
        return 0
    with_then, then = _read()
    now = {}
    try:
        for name, count in count_calls(asked.only or names):
            now[name] = count
            before = f"{then[name].ours:>9,}" if name in then else "        -"
            print(f"{name:44} {count.ours:>9,}  was {before}  libsodium {count.libsodium:>9,}", flush=True)
    except CannotCount as problem:
        print(f"instructions: {problem}")
        return 2
    if asked.write:
        _write(now)
        return 0
    return _check(then, now, with_then, not asked.only) if asked.check else 0


if __name__ == "__main__":
    sys.exit(main())
