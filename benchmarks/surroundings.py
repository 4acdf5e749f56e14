"""Where the figures come from: machine, versions, and what a write costs on the disk that etcd's data is on.

No name of the machine, of a user or of a folder is among it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import ssl
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tower.errors import InvalidInput
from tower.localnet.etcd_server import find_etcd

__all__ = ["look_around"]

PACKAGES = (
    "Cython", "PyNaCl", "cryptography", "grpcio", "hpack", "pytest-benchmark", "solders", "etcd-sdk-python", "etcd3gw",
    "etcd-client-py",
)  # fmt: skip
CRATES = ("bincode", "ed25519-dalek", "etcd-client", "solana-vote-interface", "tokio")
LOCK = Path(__file__).parent / "peers" / "rust" / "Cargo.lock"
RECORD_BYTES = 2300
SYNCS = 200
COMMAND_S = 20.0


def look_around() -> dict[str, str]:
    """Name and value, as the report prints them."""
    folder = tempfile.gettempdir()
    return {
        "processor": _processor(),
        "memory": _memory(),
        "kernel": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "file system of etcd's data": _filesystem(folder),
        "append of 2,300 bytes and fdatasync there": _sync(folder),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": _first_line(["gcc", "--version"]),
        "etcd": _etcd(),
        "TLS": ssl.OPENSSL_VERSION,
        "packages": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        "crates": ", ".join(_crates()),
        "Rust": _first_line(["rustc", "--version"]),
    }


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return f"{model[1].strip() if model else platform.processor() or 'unknown'}, {os.cpu_count()} cores"


def _memory() -> str:
    found = re.search(r"^MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    return f"{int(found[1]) * 1024 / 1e9:.1f} GB" if found else "unknown"


def _filesystem(folder: str) -> str:
    """The type of the mount that `folder` is on."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, place, found, *_ = line.split()
        inside = os.path.realpath(folder) == place or os.path.realpath(folder).startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best):
            best, kind = place, found
    return kind


def _sync(folder: str) -> str:
    """What an append and its fdatasync take, which is the floor of every store."""
    data, taken = bytes(RECORD_BYTES), []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(SYNCS):
            began = time.perf_counter()
            os.write(file.fileno(), data)
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - began) * 1000)
    taken.sort()
    return f"median {statistics.median(taken):.3f} ms, p99 {taken[int(SYNCS * 0.99) - 1]:.3f} ms"


def _first_line(command: Sequence[str]) -> str:
    if shutil.which(command[0]) is None:
        return "not here"
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_S)
    return done.stdout.splitlines()[0] if done.stdout else "unknown"


def _etcd() -> str:
    try:
        return _first_line([str(find_etcd()), "--version"]).removeprefix("etcd Version: ")
    except InvalidInput:
        return "not here"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not here"


def _crates() -> list[str]:
    """The crates of the peer in Rust, from its lock file."""
    text = LOCK.read_text(encoding="ascii")
    found = dict(re.findall(r'^name = "([^"]+)"\nversion = "([^"]+)"', text, re.MULTILINE))
    return [f"{name} {found[name]}" for name in CRATES if name in found]
