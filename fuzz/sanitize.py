"""The compiled module under AddressSanitizer and UBSan: what Python cannot see, seen.

    python -m fuzz.sanitize                 the build, and with it the tests that drive `_fast` hardest
    python -m fuzz.sanitize --selftest      only the proof that a wrong build is caught

Everything happens in build/sanitize: the package is copied there and its extensions are built into the copy with
`TOWER_SANITIZE=1`, so the environment in use keeps its own. Before the tests run, two wrong builds must be caught: one of
`_read` without the length check of `take` (AddressSanitizer), one of `_fast` with lockouts as a signed shift (UBSan). A
sanitizer that is preloaded wrongly reports nothing, and nothing is what a green run shows.

Where gcc has no AddressSanitizer the run ends with a line that says so, and status 0.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["find_sanitizer", "main"]

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "sanitize"
COPIED = ("tower", "tests", "fuzz", "examples", "docs", "setup.py", "pyproject.toml", "README.md", "Makefile")
TESTS = (
    "tests/property",
    "tests/unit/test_lockout.py",
    "tests/unit/test_saved_tower.py",
    "tests/unit/test_vote_transaction.py",
    "tests/unit/test_fuzz_targets.py",
)
BUILD_S_MAX = 600
TEST_TIMEOUT_S = 900  # of one test: the sanitizers take a multiple of the time
NATIVE_EXECUTIONS = 200_000

# (file of tower, what a wrong build loses, right text, wrong text, code that must be caught, the report that it must end with)
WRONG = (
    (
        "_read.pyx",
        "the length check of take",
        "    if count > data.left:\n        raise WireError(data.at - data.start, f\"the data ends early",
        "    if False:\n        raise WireError(data.at - data.start, f\"the data ends early",
        "from tower import _fast; _fast.decode_compact_vote(bytes(9), 8, True)",
        "AddressSanitizer: heap-buffer-overflow",
    ),
    (
        "_fast.pyx",
        "the width of a lockout",
        "lockout = <uint64_t>1 << self.confirmations[self.depth - 1]",
        "lockout = <uint64_t>(<int>1 << self.confirmations[self.depth - 1])",
        "from tower import _fast; s = _fast.TowerVoteState([(1, 31)]); s.process_vote(2)",
        "runtime error: left shift",
    ),
)


def _library(name: str) -> str | None:
    """Where gcc has this library, `None` where it has not."""
    try:
        found = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    path = Path(found.stdout.strip())
    return str(path) if path.is_absolute() and path.exists() else None


def find_sanitizer() -> str | None:
    """What to preload, `None` where there is no AddressSanitizer. libstdc++ goes with it: extensions written in C++ throw."""
    libraries = [_library("libasan.so"), _library("libubsan.so"), _library("libstdc++.so.6")]
    return None if None in libraries[:2] else " ".join(filter(None, libraries))


def _environment(preload: str) -> dict[str, str]:
    fixtures = os.environ.get("TOWER_FIXTURES") or str(ROOT.parent / "shared" / "fixtures" / "towers")
    return {
        **os.environ,
        "LD_PRELOAD": preload,
        "PYTHONMALLOC": "malloc",  # each bytes object in an allocation of its own, so that its end is seen
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=99",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1:exitcode=99",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TOWER_FIXTURES": fixtures,
    }


def _build(folder: Path, wrong: tuple[str, str, str] | None = None) -> None:
    """A copy of the package in `folder`, built for the sanitizers; `wrong` is a file, a text in it, and what to put there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    leave = shutil.ignore_patterns("_*.c", "_*.so", "__pycache__")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=leave)
        elif source.exists():
            shutil.copy(source, folder / name)
    if wrong is not None:
        name, right, other = wrong
        module = folder / "tower" / name
        text = module.read_text()
        if text.count(right) != 1:
            raise SystemExit(f"fuzz/sanitize.py: the self-test no longer fits tower/{name}: {right!r} is not there once")
        module.write_text(text.replace(right, other))
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    built = subprocess.run(
        command,
        cwd=folder,
        # Python's own flags have -fwrapv, with which gcc no longer looks for signed overflow
        env={**os.environ, "TOWER_SANITIZE": "1", "CFLAGS": "-fno-wrapv"},
        capture_output=True,
        text=True,
        timeout=BUILD_S_MAX,
        check=False,
    )
    if built.returncode:
        raise SystemExit(f"the sanitizer build failed:\n{built.stdout}{built.stderr}")


def _run(folder: Path, preload: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=_environment(preload), capture_output=True, text=True, check=False
    )


def _selftest(preload: str) -> bool:
    for name, loses, right, wrong, code, report in WRONG:
        folder = FOLDER / "wrong"
        _build(folder, (name, right, wrong))
        done = _run(folder, preload, "-c", code)
        if done.returncode == 0 or report not in done.stderr:
            print(f"self-test: without {loses} nothing was caught:\n{done.stdout}{done.stderr}")
            return False
        print(f"self-test: without {loses}: caught, {report}")
    return True


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fuzz.sanitize", description="Run the tests of _fast under the sanitizers")
    parser.add_argument("--selftest", action="store_true", help="only prove that wrong builds are caught")
    asked = parser.parse_args(arguments)
    preload = find_sanitizer()
    if preload is None:
        print("sanitize: skipped, gcc has no AddressSanitizer and UBSan here (Debian: libasan, libubsan)")
        return 0
    if not _selftest(preload):
        return 1
    if asked.selftest:
        return 0
    folder = FOLDER / "right"
    _build(folder)
    where = _run(folder, preload, "-c", "from tower import _fast; print(_fast.__file__)")
    if where.returncode or not where.stdout.startswith(str(folder)):
        print(f"sanitize: the copy is not what runs:\n{where.stdout}{where.stderr}")
        return 1
    tests = [sys.executable, "-m", "pytest", "-q", "-o", f"timeout={TEST_TIMEOUT_S}", "-p", "no:cacheprovider", *TESTS]
    tests += ["-k", "not guided"]  # libFuzzer has a memory bound of its own, which the sanitizers' shadow memory breaks
    status = subprocess.run(tests, cwd=folder, env=_environment(preload), check=False).returncode
    if status:
        return status
    code = f"from fuzz.native import run_native; r = run_native(1, {NATIVE_EXECUTIONS}); print(r.executions, r.problem)"
    hammered = _run(folder, preload, "-c", code)
    print(f"native run under the sanitizers: {hammered.stdout.strip()}{hammered.stderr}")
    return 0 if hammered.returncode == 0 and hammered.stdout.strip().endswith("None") else 1


if __name__ == "__main__":
    sys.exit(main())
