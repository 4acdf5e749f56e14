"""A local cluster and validators as real processes, each in a folder of its own.

`World` is one cluster, one tower store and what the cluster's judge has seen; `Validator` is one machine in it: a folder,
an address that its votes come from, a log. Every wait is for a condition, with a bound.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.etcd import open_store
from tower.errors import StoreUnavailable
from tower.keys import Keypair, read_keypair_file, write_keypair_file
from tower.localnet.cli import fetch_report
from tower.localnet.etcd_server import EtcdServer
from tower.store import Owner, Sighting, Store
from tower.stores.file import FileStore
from tower.validator.admin import AdminClient, AdminError, AdminUnavailable
from tower.wire import decode_saved_tower

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
POLL_S = 0.02
PATIENCE_S = 20.0
VOTE_ADDRESSES = ("127.0.0.2", "127.0.0.3")


def until(condition: Callable[[], Any], what: str | Callable[[], str], timeout: float = PATIENCE_S) -> Any:
    """The first true value of `condition()`; fails with `what`, as it is then, after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() >= deadline:
            pytest.fail(f"not in {timeout:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(POLL_S)
    return value


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that a test started, frozen or not."""
    if process.poll() is None:
        process.terminate()
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass
class World:
    """One cluster in `folder`. `url` is its RPC; `identity` and `vote_account` are the validator's."""

    folder: Path
    url: str
    websocket: str
    etcd: EtcdServer | None = None
    validators: list[Validator] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def identity_file(self) -> Path:
        return self.folder / "cluster" / "validator-keypair.json"

    @property
    def identity(self) -> Keypair:
        return read_keypair_file(self.identity_file)

    @property
    def vote_account(self) -> str:
        return read_keypair_file(self.folder / "cluster" / "vote-account-keypair.json").address

    @property
    def towers(self) -> Path:
        """The folder of the file store, shared by all validators."""
        return self.folder / "towers"

    @property
    def tower_file(self) -> Path:
        return self.towers / f"tower-1_9-{self.identity.address}.bin"

    # ---- the judge

    def report(self) -> dict[str, Any]:
        return fetch_report(self.url)

    def call(self, method: str, *params: Any) -> Any:
        """The result of one call to the cluster's RPC."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return json.load(response)["result"]

    def slot(self) -> int:
        return int(self.call("getSlot", {"commitment": "processed"}))

    def wait_slots(self, count: int) -> None:
        """Let the cluster go on for `count` slots."""
        first = self.slot()
        until(lambda: self.slot() >= first + count, f"the cluster goes on for {count} slots")

    def votes(self, address: str | None = None, since_ms: int = 0) -> list[dict[str, Any]]:
        """Arrived votes of the vote account, in order: those of one address, those from a moment on."""
        found = [vote for vote in self.report()["votes"] if vote["vote_account"] == self.vote_account]
        wanted = [vote for vote in found if vote["unix_ms"] >= since_ms and address in (None, vote["source"])]
        return sorted(wanted, key=lambda vote: vote["unix_ms"])

    def assert_no_conflict(self) -> None:
        report = self.report()
        assert report["conflicts_total"] == 0, report["conflicts"]

    # ---- the store

    def open_store(self) -> Store:
        return FileStore(self.towers) if self.etcd is None else open_store(self.etcd)

    def look(self, identity: Keypair | None = None, timeout: float = PATIENCE_S) -> Sighting:
        store = self.open_store()
        try:
            return store.look((identity or self.identity).address, timeout)
        finally:
            store.close()

    def owner(self) -> Owner:
        owner = self.look().owner
        assert owner is not None
        return owner

    def stored_slot(self) -> int:
        record = self.look().record
        assert record is not None
        return decode_saved_tower(record, self.identity.address).last_voted_slot or 0

    # ---- machines

    def validator(self, address: str = VOTE_ADDRESSES[0], *, spare: bool = False) -> Validator:
        """A machine with the voting identity, or with an unstaked one of its own that can vote as the other."""
        folder = self.folder / f"machine-{next(self.numbers)}"
        folder.mkdir()
        shutil.copy(self.identity_file, folder)
        write_keypair_file(folder / "own.json", Keypair.generate())
        made = Validator(self, folder, address, spare)
        self.validators.append(made)
        return made

    def end_validators(self) -> None:
        for each in self.validators:
            each.end()
        self.validators.clear()


@dataclass
class Validator:
    """One machine of a `World`. `url` and `websocket` may lead through a proxy; flags in `more` are added to each start."""

    world: World
    folder: Path
    address: str
    spare: bool
    more: list[str] = field(default_factory=list)
    url: str = ""
    websocket: str = ""
    endpoints: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None
    _begun: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def identity(self) -> Keypair:
        """The identity that it starts with."""
        return read_keypair_file(self.folder / "own.json") if self.spare else self.world.identity

    @property
    def flags(self) -> list[str]:
        own = "own.json" if self.spare else "validator-keypair.json"
        flags = ["--identity", own, "--vote-account", self.world.vote_account, "--ledger", "ledger"]
        flags += ["--url", self.url or self.world.url, "--ws", self.websocket or self.world.websocket]
        flags += ["--bind-address", self.address]
        if self.spare:
            flags += ["--no-check-vote-account", "--authorized-voter", "validator-keypair.json"]
        etcd = self.world.etcd
        if etcd is None:
            return [*flags, "--tower-storage", "file", "--tower", str(self.world.towers), *self.more]
        flags += ["--tower-storage", "etcd", "--etcd-cacert-file", str(etcd.certs_dir / "etcd-ca.pem")]
        flags += ["--etcd-cert-file", str(etcd.certs_dir / "validator.pem")]
        flags += ["--etcd-key-file", str(etcd.certs_dir / "validator-key.pem")]
        for endpoint in self.endpoints or ["{}:{}".format(*etcd.endpoint)]:
            flags += ["--etcd-endpoint", endpoint]
        return [*flags, *self.more]

    def start(self) -> Validator:
        assert not self.running
        with open(self.folder / "validator.log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tower.validator.cli", *self.flags],
                cwd=self.folder, env={**ENVIRONMENT, **self.environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        path = self.folder / "validator.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`openos-validator` with `arguments`, as an operator of this machine types it."""
        return subprocess.run(
            [sys.executable, "-m", "tower.validator.cli", *arguments],
            cwd=self.folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=3 * PATIENCE_S, check=False,
        )  # fmt: skip

    def begin_command(self, *arguments: str) -> subprocess.Popen[bytes]:
        """As `command`, without waiting for its end; ended with this machine."""
        begun = subprocess.Popen(
            [sys.executable, "-m", "tower.validator.cli", *arguments],
            cwd=self.folder, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self._begun.append(begun)
        return begun

    def set_identity(self, own: bool = False) -> None:
        """Take the voting identity, or go back to the own one; must succeed."""
        done = self.command("set-identity", "own.json" if own else "validator-keypair.json")
        assert done.returncode == 0, done.stderr + self.log

    def status(self) -> dict[str, Any]:
        """What it says of itself; empty while it does not answer."""
        with contextlib.suppress(AdminError, AdminUnavailable):
            answer: dict[str, Any] = AdminClient(self.folder / "ledger").call("status", timeout=PATIENCE_S)
            return answer
        return {}

    @property
    def socket(self) -> Path:
        return self.folder / "ledger" / "admin.rpc"

    def progress(self) -> str:
        with contextlib.suppress(AdminError, AdminUnavailable):
            return str(AdminClient(self.folder / "ledger").call("startProgress", timeout=PATIENCE_S))
        return ""

    def wait_running(self, timeout: float = PATIENCE_S) -> Validator:
        def settled() -> bool:
            return self.progress() == "Running" or not self.running

        until(settled, lambda: f"{self.address} runs: {self.log[-2000:]}", timeout)
        assert self.running, self.log
        return self

    def wait_vote(self, since_ms: int | None = None, more_than: int = 0) -> dict[str, Any]:
        """Its newest arrived vote, once there are more than `more_than` since `since_ms` (default: now)."""
        since = time.time_ns() // 1_000_000 if since_ms is None else since_ms

        def arrived() -> bool:
            return len(self.world.votes(self.address, since)) > more_than or not self.running

        until(arrived, f"votes from {self.address}")
        assert self.running, self.log
        return self.world.votes(self.address, since)[-1]

    def wait_exit(self, status: int, timeout: float = PATIENCE_S) -> None:
        until(lambda: not self.running, f"{self.address} ends", timeout)
        assert self.process.returncode == status, self.log[-3000:]

    def freeze(self) -> None:
        """SIGSTOP, at a moment when it does not hold the file store's lock: that would freeze everybody else too."""

        def frozen() -> bool:
            self.process.send_signal(signal.SIGSTOP)
            try:
                self.world.look(timeout=0.5)
            except StoreUnavailable:
                self.thaw()
                return False
            return True

        until(frozen, "it is frozen outside of a write")

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        for each in (*self._begun, *([self._process] if self._process is not None else [])):
            end(each)


@contextlib.contextmanager
def run_world(folder: Path, *flags: str, seed: int, slot_ms: int = 120, etcd: EtcdServer | None = None) -> Iterator[World]:
    """A running cluster with few voters; `flags` go to `openos-localnet run`."""
    log = folder / "cluster.log"
    command = ["run", "--dir", str(folder / "cluster"), "--rpc-port", "0", "--slot-ms", str(slot_ms), "--seed", str(seed)]
    print(f"seed: {seed} of the cluster")
    with open(log, "wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "tower.localnet.cli", *command, "--voters", "3", *flags],
            env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
        )  # fmt: skip
    world = None
    try:
        until(lambda: "\nready: " in log.read_text() or process.poll() is not None, "the cluster is ready")
        assert process.poll() is None, log.read_text()
        words = next(line for line in log.read_text().splitlines() if line.startswith("ready: ")).split()
        (folder / "towers").mkdir()
        world = World(folder, words[2], words[4], etcd)
        yield world
    finally:
        if world is not None:
            world.end_validators()
        end(process)
