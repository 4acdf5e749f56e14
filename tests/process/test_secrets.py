"""A full run of real processes, and then a search of everything that they left for key bytes in every encoding.

Two machines on etcd: start, votes, commands of every kind with keys in them, right and wrong, a failover, a fail-back, errors on
purpose, a crash. Looked through: standard output and error of every command, logs, traces, every file that is not a key file,
etcd's data, metrics, the status page, the answers of the admin RPC, command lines and environments, and the memory of the
processes. That the search finds what it is for is the test of `tests/unit/test_leaks.py`, and of a copy planted here.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.process.conftest import watched
from tests.support import leaks
from tests.support.cluster import ENVIRONMENT, PATIENCE_S, Validator, World, end, until
from tests.support.etcd import etcd_flags
from tower.keys import Keypair, read_keypair_file, write_keypair_file
from tower.localnet.etcd_server import free_port
from tower.validator.admin_client import AdminClient
from tower.validator.admin_wire import AdminError, AdminUnavailable

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read by way of /proc")


@pytest.fixture
def world(etcd_world: World) -> Iterator[World]:
    yield from watched(etcd_world)


@dataclass
class Heard:
    """Everything that was said, by whom."""

    said: dict[str, bytes] = field(default_factory=dict)

    def command(self, machine: Validator, *arguments: str, stdin: bytes = b"") -> int:
        done = subprocess.run(
            [sys.executable, "-m", "tower.validator.cli", *arguments],
            cwd=machine.folder, env=ENVIRONMENT, input=stdin, capture_output=True, timeout=3 * PATIENCE_S, check=False,
        )  # fmt: skip
        self.note(f"$ {' '.join(arguments)}", done.stdout + done.stderr)
        return done.returncode

    def ask(self, machine: Validator, method: str, *params: Any) -> None:
        try:
            answer = AdminClient(machine.folder / "ledger").call(method, *params, timeout=PATIENCE_S)
        except (AdminError, AdminUnavailable) as problem:
            answer = f"{problem!r} {problem}"
        self.note(f"admin {method}", json.dumps(answer).encode())

    def page(self, url: str) -> None:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            self.note(url, str(answer.headers).encode() + answer.read())

    def note(self, name: str, data: bytes) -> None:
        self.said[f"{len(self.said)} {name}"] = data

    def leaks(self, secret: bytes) -> dict[str, set[str]]:
        return {name: found for name, data in self.said.items() if (found := leaks.found_in(data, secret))}


def tls_secret(path: Path) -> bytes:
    """The secret number of a TLS key, as the 32 bytes in which every encoding has it."""
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.private_numbers().private_value.to_bytes(32, "big")


def raw_admin(machine: Validator, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(PATIENCE_S)
        link.connect(str(machine.socket))
        link.sendall(data)
        link.shutdown(socket.SHUT_WR)
        said = b""
        while part := link.recv(1 << 16):
            said += part
        return said


METHODS = ("pid", "contactInfo", "startTime", "startProgress", "status", "identityTransitionStatus", "rpcAddress", "towerStorage")


def prepared(world: World, address: str, *, spare: bool) -> tuple[Validator, str]:
    machine = world.validator(address, spare=spare)
    port = free_port()
    machine.more += ["--trace", "trace.ndjson", "--log-format", "json", "--metrics-address", f"127.0.0.1:{port}"]
    machine.more += ["--on-lost-lock", "demote", "--who", address]
    return machine, f"http://127.0.0.1:{port}"


@pytest.mark.timeout(180)
def test_no_key_is_in_anything_that_a_full_run_leaves(world: World) -> None:
    assert world.etcd is not None
    heard = Heard()
    (primary, first), (spare, second) = prepared(world, "127.0.0.2", spare=False), prepared(world, "127.0.0.3", spare=True)
    own, extra = read_keypair_file(spare.folder / "own.json"), Keypair.generate()
    pair, text = world.identity, (spare.folder / "validator-keypair.json").read_text()
    write_keypair_file(spare.folder / "extra.json", extra)
    swapped = json.dumps([*own.secret[:32], *pair.pubkey])
    broken = {"cut.json": text[:-9], "numbers.json": text.replace("[", "[300,"), "swapped.json": swapped}
    broken |= {"words.json": '{"secret": ' + text + "}", "hex.json": pair.secret.hex()}
    broken["base58.json"] = leaks.base58(pair.secret).decode()
    for name, content in broken.items():
        (spare.folder / name).write_text(content)

    primary.start().wait_running().wait_vote(more_than=2)
    spare.start().wait_running()
    storage = etcd_flags(world.etcd)
    for name in broken:  # a key that is no key file, at every door that takes one
        assert heard.command(spare, "set-identity", name) == 1
        assert heard.command(spare, "set-identity", stdin=(spare.folder / name).read_bytes()) == 1
    assert heard.command(spare, "--identity", "cut.json") == 1
    assert heard.command(spare, "tower", "inspect", "validator-keypair.json") == 1
    assert heard.command(spare, "status", "--etcd-endpoint", text.strip(), *storage) == 1  # typed where it does not belong
    assert heard.command(spare, "authorized-voter", "add", "extra.json") == 0
    assert heard.command(spare, "authorized-voter", "add", stdin=json.dumps(list(own.secret)).encode()) == 0
    assert heard.command(spare, "authorized-voter", "add", "extra.json") == 1
    assert heard.command(spare, "doctor", *spare.flags) in (0, 1)
    assert heard.command(spare, "status", world.identity.address, *storage) in (0, 4)
    assert heard.command(spare, "history", "validator-keypair.json", *storage) == 0
    assert heard.command(spare, "failover", "plan", "--identity", "validator-keypair.json", "--now") in (0, 1)
    for request in (
        {"method": "setIdentityFromBytes", "params": [list(pair.secret)[:-1], False]},
        {"method": "setIdentityFromBytes", "params": [[*list(pair.secret)[:-1], 256], False]},
        {"method": "addAuthorizedVoterFromBytes", "params": [[*pair.secret[:32], *own.pubkey]]},
        {"method": "setIdentity", "params": [text, False]},
        {"method": text, "params": [text]},
        {"method": "setLogFilter", "params": [text]},
    ):
        whole = json.dumps({"jsonrpc": "2.0", "id": 1, **request}).encode()
        heard.note(f"admin {request['method'][:20]}", raw_admin(spare, whole))
        heard.note(f"admin {request['method'][:20]}, cut", raw_admin(spare, whole[:-9]))

    assert heard.command(spare, "set-identity", "validator-keypair.json") == 0
    spare.wait_vote(more_than=2)
    until(lambda: primary.status().get("state") == "standby", "the primary is demoted")
    for machine, url in ((primary, first), (spare, second)):
        for path in ("/metrics", "/", "/primary" if machine is spare else "/standby"):
            heard.page(url + path)
        for method in METHODS:
            heard.ask(machine, method)
        pid = machine.process.pid
        heard.note("environment", Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes())
    assert heard.command(primary, "set-identity", "validator-keypair.json") == 0  # and back
    primary.wait_vote(more_than=1)
    until(lambda: spare.status().get("state") == "standby", "the spare is demoted")

    primary.process.send_signal(signal.SIGABRT)  # a crash
    until(lambda: not primary.running, "it has crashed")
    assert primary.process.returncode == -signal.SIGABRT
    assert not list(primary.folder.glob("core*"))
    assert heard.command(spare, "exit", "--force") == 0
    spare.wait_exit(0)
    heard.note("the cluster", json.dumps(world.report()).encode())

    # the key files themselves, and what the test wrote with keys in it
    known = {path for path in world.folder.rglob("*.json") if "keypair" in path.name or path.name in ("own.json", "extra.json")}
    known |= {spare.folder / name for name in broken}
    secrets = {"identity": pair.secret, "spare's": own.secret, "voter's": extra.secret}
    secrets["client certificate's"] = tls_secret(world.etcd.certs_dir / "validator-key.pem")
    for name, secret in secrets.items():
        assert heard.leaks(secret) == {}, name
        assert leaks.found_in_files(world.folder, secret, but=frozenset(known)) == {}, name
    looked_at = {str(path.relative_to(world.folder)) for path in world.folder.rglob("*") if path.is_file() and path not in known}
    for part in ("validator.log", "trace.ndjson", "cluster.log", "etcd-data.log", "member/wal"):
        assert any(part in name for name in looked_at), part
    assert all(heard.said.values()) or len([data for data in heard.said.values() if data]) > len(METHODS)

    # and it would have been found
    (spare.folder / "ledger" / "planted.log").write_text(f"DEBUG keypair {pair.secret.hex()}\n")
    (found,) = leaks.found_in_files(world.folder, pair.secret, but=frozenset(known)).items()
    assert found[0].endswith("planted.log")
    assert found[1] == {"hex"}
    (spare.folder / "ledger" / "planted.log").unlink()


@LINUX
@pytest.mark.timeout(120)
def test_keys_of_a_running_validator_are_on_locked_pages_that_no_core_dump_has(world: World) -> None:
    """In all of its memory, after votes, a take-over by its path, and a loss: the identity's seed is nowhere else."""
    primary, spare = world.validator("127.0.0.2"), world.validator("127.0.0.3", spare=True)
    primary.more += ["--on-lost-lock", "demote"]
    primary.start().wait_running().wait_vote(more_than=2)
    spare.start().wait_running()
    spare.set_identity()
    spare.wait_vote(more_than=2)
    secret, text = world.identity.secret, world.identity_file.read_bytes()
    for machine in (primary, spare):
        pid, copies = machine.process.pid, 0
        for part in leaks.mappings(pid):
            data = leaks.read_memory(pid, part)
            places = leaks.found_raw(data, secret)
            if places:
                assert part.flags >= {"lo", "dd"}, f"{machine.address}: a copy at {part.start + places[0]:x} is not locked"
                copies += len(places) // 3
            assert text[1:60] not in data, f"{machine.address}: the text of the key file is still at {part.start:x}"
        assert copies, "the search looks where the key is"
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert [line.split()[4] for line in limits.splitlines() if line.startswith("Max core")] == ["0"]


@pytest.mark.timeout(60)
def test_a_key_file_that_others_can_read_is_named_in_one_line(world: World) -> None:
    machine = world.validator("127.0.0.2")
    (machine.folder / "validator-keypair.json").chmod(0o644)
    (machine.folder / "own.json").chmod(0o640)
    machine.more += ["--authorized-voter", "validator-keypair.json", "--authorized-voter", "own.json"]
    try:
        machine.start().wait_running().wait_vote()
        warned = [line for line in machine.log.splitlines() if "chmod" in line]
        assert len(warned) == 2
        fix = "lets everybody use the key; type: chmod 600 validator-keypair.json"
        assert any(f"--identity: validator-keypair.json: mode 0644 {fix}" in line for line in warned), warned
        assert any("--authorized-voter: own.json: mode 0640 lets its group use the key" in line for line in warned), warned
        assert all(" WARNING " in line for line in warned)
    finally:
        end(machine.process)
