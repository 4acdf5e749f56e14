"""The commands against an admin socket and a JSON-RPC server of the test's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.support.live import RpcServer, admin_server, rpc_server
from tower.errors import (
    InvalidInput,
    InvalidSignature,
    InvariantViolation,
    StoreError,
    StoreUnavailable,
    TowerError,
    WireError,
)
from tower.keys import Keypair, to_base58, write_keypair_file
from tower.validator.certs import FILE_NAMES
from tower.validator.cli import cli, exit_status, main
from tower.validator.config import Exit, ValidatorConfig
from tower.validator.control import Handler, control_handlers
from tower.validator.ledger import LedgerLock
from tower.validator.rpc import RpcUnreachable

OWN, PRIMARY = (Keypair.from_seed(bytes([seed]) * 32) for seed in (21, 22))
EPOCH = {"epoch": 3, "slotIndex": 100, "slotsInEpoch": 2000, "absoluteSlot": 6100}
CLUSTER: dict[str, Any] = {
    "getEpochInfo": EPOCH,
    "getHealth": "ok",
    "getVoteAccounts": {"current": [], "delinquent": []},
    "getLeaderSchedule": {PRIMARY.address: [1, 99]},
    "getIdentity": {"identity": OWN.address},
    "getGenesisHash": to_base58(bytes(32)),
    "getVersion": {"solana-core": "4.0.1"},
    "getSlot": lambda params: {"processed": 30, "confirmed": 20, "finalized": 10}[params[0]["commitment"]],
    "getBalance": {"context": {"slot": 1}, "value": 1_500_000_000},
}


class Validator:
    """A validator that says yes, and ends when it is told to."""

    post_init = True

    def __init__(self, url: str, address: str | None = None) -> None:
        self.url, self.address = url, address
        self.identity = OWN
        self.told: list[Any] = []
        self.ended = threading.Event()
        self.progress: list[Any] = []

    def request_exit(self) -> None:
        self.ended.set()

    def rpc_address(self) -> str | None:
        return self.address

    def rpc_url(self) -> str:
        return self.url

    def set_log_filter(self, text: str) -> None:
        self.told.append(text)

    def start_time(self) -> float:
        return 0.0

    def start_progress(self) -> str | Mapping[str, Any]:
        return self.progress.pop(0) if self.progress else "Running"

    def contact_info(self) -> Mapping[str, Any]:
        return {"id": self.identity.address, "gossip": "127.0.0.1:8001"}

    def status(self) -> Mapping[str, Any]:
        return {"identity": self.identity.address, "state": "voting", "lastVotedSlot": 29, "rootSlot": None}

    async def add_authorized_voter(self, voter: Keypair) -> None:
        self.told.append(voter)

    async def remove_all_authorized_voters(self) -> None:
        self.told.append("none")

    async def set_identity(self, identity: Keypair, require_tower: bool) -> None:
        if require_tower:
            raise InvalidInput(f"Unable to load tower for identity {identity.address}")
        self.told.append(identity)


@contextmanager
def validator(ledger: Path, cluster: dict[str, Any], *, own_rpc: bool = False) -> Iterator[tuple[Validator, RpcServer]]:
    with rpc_server(cluster) as rpc:
        running = Validator(rpc.url, rpc.url.removeprefix("http://") if own_rpc else None)
        with admin_server(ledger, control_handlers(running)):
            yield running, rpc


def call(*args: Any, stdin: str | None = None) -> Result:
    """The command line, through `main`, so that errors become lines and statuses."""

    class Command:
        name = "openos-validator"

        def main(self, args: Any, **_: Any) -> None:
            raise SystemExit(main(args))

    return CliRunner().invoke(Command(), [str(arg) for arg in args], input=stdin)  # type: ignore[arg-type]


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    write_keypair_file(tmp_path / "validator-keypair.json", PRIMARY)
    return tmp_path / "validator-keypair.json"


def test_the_guides_failover_command(tmp_path: Path, key_file: Path) -> None:
    with validator(tmp_path, CLUSTER) as (running, rpc):
        waited = call("--ledger", tmp_path, "wait-for-restart-window", "--identity", key_file)
        assert (waited.exit_code, waited.stderr) == (0, "")
        assert waited.stdout.splitlines()[:3] == [
            f"Identity: {PRIMARY.address}",
            "Minimum Idle Time: 1500 slots (~10 minutes)",
            "Maximum permitted delinquency: 5%",
        ]
        assert waited.stdout.splitlines()[-1] == "Ready to restart"
        schedule = next(params for method, params in rpc.calls if method == "getLeaderSchedule")
        assert schedule == [6000, {"commitment": "processed", "identity": PRIMARY.address}]
        taken = call("set-identity", key_file, "--ledger", tmp_path)
        assert (taken.exit_code, taken.stdout) == (0, f"New validator identity path: {key_file.resolve()}\n")
        assert running.told == [PRIMARY]


def test_set_identity_from_stdin_and_refused(tmp_path: Path, key_file: Path) -> None:
    with validator(tmp_path, CLUSTER) as (running, _):
        result = call("set-identity", "-l", tmp_path, stdin=key_file.read_text())
        assert (result.exit_code, result.stdout) == (0, f"New validator identity: {PRIMARY.address}\n")
        assert running.told == [PRIMARY]
        result = call("set-identity", key_file, "--require-tower", "-l", tmp_path)
        assert result.exit_code == 1
        assert result.stderr == f"Error: setIdentity request failed: Unable to load tower for identity {PRIMARY.address}\n"
        result = call("set-identity", "-l", tmp_path, stdin="[1, 2]")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("Error: stdin: not a keypair file")
        assert running.told == [PRIMARY]


@pytest.mark.parametrize("plain_http", [False, True])
def test_the_own_identity_is_watched_by_default(tmp_path: Path, plain_http: bool) -> None:
    with validator(tmp_path, {**CLUSTER, "getIdentity": {"identity": PRIMARY.address}}, own_rpc=plain_http) as (_, rpc):
        result = call("wait-for-restart-window", "-l", tmp_path)
        assert result.stdout.splitlines()[0] == f"Identity: {OWN.address}"
        assert result.stdout.splitlines()[-1] == "Ready to restart (this node makes no snapshots)"
        assert ("getIdentity", []) not in rpc.calls  # that would be the node that serves the RPC


def test_a_validator_of_another_make_is_asked_who_it_is(tmp_path: Path) -> None:
    with rpc_server(CLUSTER) as rpc:

        async def address() -> str:
            return rpc.url.removeprefix("http://")

        handlers: dict[str, Handler] = {"rpcAddress": address}
        with admin_server(tmp_path, handlers):
            result = call("wait-for-restart-window", "-l", tmp_path)
        assert result.stdout.splitlines()[0] == f"Identity: {OWN.address}"
        assert ("getIdentity", []) in rpc.calls


def test_not_now_is_an_error(tmp_path: Path) -> None:
    busy = {**CLUSTER, "getLeaderSchedule": {OWN.address: list(range(0, 2000, 100))}}
    with validator(tmp_path, busy) as (running, _):
        for command in ("wait-for-restart-window", "exit"):
            result = call(command, "-l", tmp_path)
            assert result.exit_code == 1
            assert result.stderr.startswith("Error: Validator has no idle window of at least 1500 slots.")
        assert not running.ended.is_set()
        result = call("exit", "--min-idle-time", "0", "-l", tmp_path)
        assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "Exit request sent")
        assert running.ended.wait(10)


def test_a_validator_of_another_make_without_rpc(tmp_path: Path) -> None:
    async def none() -> None: ...

    handlers: dict[str, Handler] = {"rpcAddress": none}
    with admin_server(tmp_path, handlers):
        result = call("wait-for-restart-window", "-l", tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: RPC not available")


def test_exit_now_and_monitor_until_the_end(tmp_path: Path) -> None:
    with rpc_server(CLUSTER) as rpc:
        running = Validator(rpc.url)
        with admin_server(tmp_path, control_handlers(running)):
            result = call("exit", "--force", "-l", tmp_path)
        assert (result.exit_code, result.stdout) == (0, "Exit request sent\n")
    gone = call("monitor", "-l", tmp_path)
    assert gone.exit_code == 1
    assert "admin.rpc does not exist" in gone.stderr


def test_monitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tower.validator.monitor as watching

    looks = 0
    end = threading.Event()

    class Ending(Validator):
        def status(self) -> Mapping[str, Any]:
            nonlocal looks
            looks += 1
            if looks == 3:
                self.identity = PRIMARY
            if looks == 5:
                end.set()
            return super().status()

    monkeypatch.setattr(watching.monitor, "__kwdefaults__", {"poll_s": 0.01})
    results: list[Result] = []
    with rpc_server(CLUSTER) as rpc:
        running = Ending(rpc.url)
        running.progress = ["Initializing", "LoadingLedger", {"ProcessingLedger": {"slot": 1, "max_slot": 2}}]
        with admin_server(tmp_path, control_handlers(running)):
            thread = threading.Thread(target=lambda: results.append(call("monitor", "-l", tmp_path)))
            thread.start()
            assert end.wait(30)
        thread.join(30)
    (result,) = results
    lines = result.stdout.splitlines()
    assert (result.exit_code, result.stderr) == (0, "")
    assert lines[:4] == [
        f"Ledger location: {tmp_path}",
        "LoadingLedger",
        "ProcessingLedger (slot 1, max_slot 2)",
        f"Identity: {OWN.address}",
    ]
    assert "Version: 4.0.1" in lines
    assert "Gossip Address: 127.0.0.1:8001" in lines
    assert not any("TPU" in line for line in lines)  # what is 0.0.0.0:0 is not an address
    status = next(line for line in lines if "Processed Slot" in line)
    assert "healthy | voting | Processed Slot: 30 | Confirmed Slot: 20 | Finalized Slot: 10 | Full Snap" in status
    assert "Last Vote: 29 | Root: - | Balance: 1.500000000 SOL" in status
    assert lines.index(f"Identity: {PRIMARY.address}") > lines.index(status)
    assert lines[-1] == "The validator has ended"


def test_voters_and_contact_info(tmp_path: Path, key_file: Path) -> None:
    with validator(tmp_path, CLUSTER) as (running, _):
        added = call("authorized-voter", "add", key_file, "-l", tmp_path)
        assert (added.exit_code, added.stdout) == (0, f"Adding authorized voter path: {key_file.resolve()}\n")
        # as the tool in use takes it: the ledger first
        removed = call("-l", tmp_path, "authorized-voter", "remove-all")
        assert (removed.exit_code, removed.stdout) == (0, "All authorized voters removed\n")
        added = call("authorized-voter", "add", "-l", tmp_path, stdin=key_file.read_text())
        assert (added.exit_code, added.stdout) == (0, f"Adding authorized voter: {PRIMARY.address}\n")
        assert call("set-log-filter", "debug", "-l", tmp_path).exit_code == 0
        assert running.told == [PRIMARY, "none", PRIMARY, "debug"]
        plain = call("contact-info", "-l", tmp_path).stdout.splitlines()
        assert plain[:3] == [f"Identity: {OWN.address}", "Gossip: 127.0.0.1:8001", "TVU: 0.0.0.0:0"]
        for form, lines in (("json", 14), ("json-compact", 1)):
            out = call("contact-info", "--output", form, "-l", tmp_path).stdout
            assert json.loads(out)["id"] == OWN.address
            assert (len(out.splitlines()) > 1) is (lines > 1)


def test_what_failed_is_named_as_the_tool_in_use_names_it(tmp_path: Path, key_file: Path) -> None:
    for args, failed in (
        (["authorized-voter", "add", key_file], "add authorized voter request failed: "),
        (["authorized-voter", "remove-all"], "remove all authorized voters request failed: "),
        (["set-log-filter", "debug"], "setLogFilter request failed: "),
    ):
        result = call(*args, "-l", tmp_path)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"Error: {failed}{tmp_path}/admin.rpc does not exist")


def test_run_is_the_default_and_gets_its_config(tmp_path: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tower.validator import logs, process

    seen: list[tuple[ValidatorConfig, str]] = []

    def run(config: ValidatorConfig, lock: LedgerLock) -> int:
        seen.append((config, repr(lock)))
        return Exit.LOST_FENCE

    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr(logs, "start_log", lambda target, form: None)
    flags = [
        "--identity", key_file, "--vote-account", OWN.address, "--no-check-vote-account", "--require-tower",
        "--url", "http://127.0.0.1:18899", "--store-timeout", "2.5", "--rebuild-wait-slots", "7",
        "--bind-address", "127.0.0.1", "--tower", tmp_path / "tower",
    ]  # fmt: skip
    ledger = tmp_path / "ledger"
    for args in ([*flags, "-l", ledger], ["--ledger", ledger, *flags], ["run", *flags, "--ledger", ledger]):
        result = call(*args)
        assert (result.exit_code, result.stderr) == (Exit.LOST_FENCE, "")
    assert len(seen) == 3
    assert len({repr(item) for item in seen}) == 1
    config, lock = seen[0]
    assert (config.identity, config.vote_account, config.ledger) == (PRIMARY, OWN.pubkey, ledger)
    assert (config.check_vote_account, config.require_tower) == (False, True)
    assert (config.store_timeout, config.rebuild_wait_slots, config.bind_address) == (2.5, 7, "127.0.0.1")
    assert (config.url, config.websocket_url) == ("http://127.0.0.1:18899", "ws://127.0.0.1:18900/")
    assert config.tower_dir == tmp_path / "tower"
    assert "held" in lock
    assert call("--identity", key_file, "--vote-account", OWN.address, "-l", ledger).exit_code == Exit.LOST_FENCE
    plain = seen[-1][0]
    assert (plain.check_vote_account, plain.require_tower, plain.tower_dir) == (True, False, ledger)
    assert config.identity.secret.hex() not in repr(config)


def test_certs_make(tmp_path: Path) -> None:
    args = ["certs", "make", "--dir", tmp_path / "certs", "--host", "10.0.0.1", "--host", "etcd.example.org"]
    result = call(*args)
    assert result.exit_code == 0
    assert {Path(line).name for line in result.stdout.splitlines()} == set(FILE_NAMES)
    again = call(*args)
    assert (again.exit_code, again.stdout) == (1, "")
    assert "exists and is not overwritten" in again.stderr


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (InvalidInput("x"), Exit.REFUSED),
        (RpcUnreachable("x"), Exit.REFUSED),
        (StoreError("x"), Exit.REFUSED),
        (StoreUnavailable("x"), Exit.STORE_FAILED),
        (WireError(1, "x"), Exit.TOWER_UNUSABLE),
        (InvalidSignature("x"), Exit.TOWER_UNUSABLE),
        (InvariantViolation("x"), Exit.INTERNAL),
    ],
)
def test_exit_statuses(problem: TowerError, status: Exit, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise problem

    assert exit_status(problem) is status
    monkeypatch.setattr(cli, "main", fail)
    result = call("anything")
    assert (result.exit_code, result.stderr) == (status, f"Error: {problem}\n")


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["run", "--help"], ["--version"], ["tower", "inspect", "-h"]])
def test_help(args: list[str]) -> None:
    result = call(*args)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(("Usage: openos-validator", "openos-validator "))
