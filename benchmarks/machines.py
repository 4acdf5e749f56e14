"""Real processes for benchmarks: a cluster on etcd with mutual TLS, commands as an operator types them, what a process holds.

Processes run from compiled bytecode, as an installed package does, which is kept in a folder of the run.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.cluster import ENVIRONMENT, Validator, World, run_world
from tests.support.etcd import run_etcd
from tower.validator.certs import make_certificates

__all__ = ["begin", "ended", "environment", "machine", "memory_mb", "on_etcd", "program"]


def environment(folder: Path) -> dict[str, str]:
    """The variables of a process that keeps its bytecode in `folder`."""
    kept = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}


@contextlib.contextmanager
def on_etcd(folder: Path, *flags: str, seed: int, slot_ms: int) -> Iterator[World]:
    """A cluster without forks, and one etcd with mutual TLS for the towers of its validators."""
    certificates = folder / "certs"
    make_certificates(certificates)
    with run_etcd(folder, certificates) as etcd, run_world(
        folder, "--fork-every", "0", *flags, seed=seed, slot_ms=slot_ms, etcd=etcd
    ) as world:
        yield world


def machine(world: World, address: str, *more: str, spare: bool = False) -> Validator:
    """A validator of `world`, not started; `more` are flags of its own."""
    made = world.validator(address, spare=spare)
    made.more += more
    variables = environment(world.folder)
    made.environment.update(variables, PYTHONDONTWRITEBYTECODE="")
    return made


def program() -> list[str]:
    """`openos-validator`: the installed program, or the module where there is none."""
    installed = Path(sys.executable).with_name("openos-validator")
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "tower.validator.cli"]


def begin(where: Validator, *arguments: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Begin the command in the folder of a machine, as an operator types it there."""
    return subprocess.Popen(
        [*program(), *arguments],
        cwd=where.folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def ended(process: subprocess.Popen[bytes], timeout: float) -> int:
    """Wait for the end of a process at most `timeout` seconds, without the pauses of `Popen.wait`; its exit status."""
    handle = os.pidfd_open(process.pid)
    try:
        select.select([handle], [], [], timeout)
    finally:
        os.close(handle)
    return process.wait(0)


def memory_mb(pid: int, fields: Sequence[str] = ("VmRSS", "RssAnon", "RssFile")) -> list[float]:
    """What the kernel says that a process holds, in megabytes (10**6 bytes)."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    return [int(lines[field].split()[0]) * 1024 / 1e6 for field in fields]
