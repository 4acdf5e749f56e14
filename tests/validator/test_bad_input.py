"""Bad input through the real program: one line on stderr that names the flag or file, a status, and no trace on disk."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.live import rpc_server
from tower.keys import Keypair, to_base58, write_keypair_file
from tower.localnet.etcd_server import EtcdServer
from tower.validator.certs import make_certificates
from tower.validator.config import Exit
from tower.validator.ledger import lock_ledger

ROOT = Path(__file__).parents[2]
LIMIT_S = 60
NODE, OTHER = (Keypair.from_seed(bytes([seed]) * 32) for seed in (31, 32))
ETCD = (
    "--identity node.json --tower-storage etcd --etcd-cacert-file certs/etcd-ca.pem --etcd-cert-file certs/validator.pem"
    " --etcd-key-file certs/validator-key.pem --etcd-endpoint 127.0.0.1:2379"
)


def program(folder: Path, line: str, stdin: str = "") -> tuple[int, str, str]:
    """Run `openos-validator` in `folder`; status, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "tower.validator.cli", *line.split()],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def folder(tmp_path: Path, certificates: Path) -> Path:
    write_keypair_file(tmp_path / "node.json", NODE)
    write_keypair_file(tmp_path / "other.json", OTHER)
    (tmp_path / "short.json").write_text(json.dumps(list(NODE.secret[:32])))
    (tmp_path / "swapped.json").write_text(json.dumps([*NODE.secret[:32], *OTHER.pubkey]))
    (tmp_path / "text.json").write_text("no keypair")
    (tmp_path / "certs").symlink_to(certificates)
    (tmp_path / "torn.bin").write_bytes(bytes([1, 0, 0, 0]) + bytes(64) + (2593).to_bytes(8, "little") + bytes(100))
    return tmp_path


USAGE = Exit.USAGE
NEWER = r"; see openos-validator run --help"
CASES = [
    ("", 1, r"The --identity <KEYPAIR> argument is required"),
    ("--identity no.json", 1, r"--identity: no.json: no such keypair file; name a file written by solana-keygen"),
    ("--identity certs", 1, r"--identity: certs: not a file; .*"),
    ("--identity short.json", 1, r"--identity: short.json: not a keypair file: expected 64 numbers, found 32; .*"),
    ("--identity text.json", 1, r"--identity: text.json: not a keypair file: expected a JSON array of 64 numbers; .*"),
    ("--identity swapped.json", 1, r"--identity: swapped.json: the public half .* does not belong to its seed; .*"),
    ("--identity node.json --vote-account nobody", 1, r"--vote-account: 'nobody' is neither a base58 address nor .*"),
    (f"--identity node.json --vote-account {OTHER.address} --authorized-voter no.json", 1,
     r"--authorized-voter: no.json: no such keypair file; .*"),
    ("--identity node.json --url 127.0.0.1:8899", 1, r"--url: '127.0.0.1:8899' is no http\(s\) URL; write it like .*"),
    ("--identity node.json --ledger node.json", 1, r"--ledger: .*/node.json is not a folder; .*"),
    ("--identity node.json --tower-storage etcd", 1,
     r"--tower-storage etcd: the --etcd-cacert-file <FILE> argument is required"),
    (f"{ETCD} --etcd-cacert-file no.pem", 1, r"Unable to read no.pem: No such file or directory; check --etcd-cacert-f.*"),
    (f"{ETCD} --etcd-key-file no.pem", 1, r"Unable to read no.pem: No such file or directory; check --etcd-key-file"),
    (f"{ETCD} --etcd-cert-file node.json", 1, r"--etcd-cert-file: node.json holds no PEM certificate; .*"),
    (f"{ETCD} --etcd-key-file certs/etcd-key.pem", 1, r"--etcd-key-file: certs/etcd-key.pem does not belong to the .*"),
    (f"{ETCD} --etcd-endpoint localhost", 1, r"--etcd-endpoint: 'localhost' is not host:port; write it like 127.*"),
    (f"{ETCD} --etcd-endpoint https://127.0.0.1:2379", 1, r"--etcd-endpoint: .* leave out https:// .*"),
    ("--identity node.json --tower-storage zookeeper", USAGE, r"Invalid value for '--tower-storage': .*" + NEWER),
    ("--identity node.json --no-such-flag", USAGE, r"No such option '?--no-such-flag'?.*" + NEWER),
    ("--identity", USAGE, r"Option '--identity' requires an argument.*; see openos-validator --help"),
    ("--identity node.json surplus", USAGE, r"Got unexpected extra argument.*" + NEWER),
    ("set-identity", 1, r"stdin: not a keypair file: .*; give <KEYPAIR>, or its content on stdin"),
    ("set-identity no.json", 1, r"no.json: no such keypair file"),
    ("set-identity node.json", 1, r"setIdentity request failed: ledger/admin.rpc does not exist; is the validator .*"),
    ("--ledger elsewhere monitor", 1, r"elsewhere/admin.rpc does not exist; is the validator running\? --ledger .*"),
    ("exit -f", 1, r"exit request failed: ledger/admin.rpc does not exist; .*"),
    ("wait-for-restart-window --identity no.json", 1, r"--identity: 'no.json' is neither a base58 address nor .*"),
    ("wait-for-restart-window", 1, r"ledger/admin.rpc does not exist; .*"),
    ("wait-for-restart-window --max-delinquent-stake 101", USAGE, r"Invalid value for '--max-delinquent-stake': .*"),
    ("contact-info", 1, r"contactInfo request failed: ledger/admin.rpc does not exist; .*"),
    ("tower inspect no.bin", 1, r"no.bin: cannot be read: No such file or directory; name a tower file"),
    ("tower inspect node.json", 1, r"node.json: not a whole saved tower: at byte \d+: .*"),
    ("tower inspect torn.bin", 1, r"torn.bin: not a whole saved tower: at byte 176: .*"),
    ("certs make --dir certs", 1, r"certs/etcd-ca.pem: exists and is not overwritten; .*"),
    ("certs make --dir new --host bad_host!", 1, r"'bad_host!' is no host name .*--host.*"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "status", "expected"), CASES, ids=[case[0][-60:] or "nothing" for case in CASES])
def test_one_line_a_status_and_no_trace(folder: Path, line: str, status: int, expected: str) -> None:
    before = snapshot(folder)
    found, out, err = program(folder, line)
    if not line.startswith("set-identity node"):
        assert out == ""
    assert re.fullmatch(rf"Error: {expected}\n", err), err
    assert found == status
    assert snapshot(folder) == before


def test_a_second_process_on_one_ledger(folder: Path) -> None:
    with lock_ledger(folder / "ledger"):
        before = snapshot(folder)
        status, out, err = program(folder, "--identity node.json --log run.log")
        assert (status, out) == (1, "")
        assert re.fullmatch(r"Error: Unable to lock .*/ledger directory. Check if another validator is .*\n", err)
        assert snapshot(folder) == before
    with lock_ledger(folder / "ledger"):  # which the refused one did not keep
        pass


def refused_at_start(folder: Path, line: str) -> tuple[int, str]:
    """Status and last line of a process that is refused after it began to look around; it leaves its lock file only."""
    status, out, err = program(folder, f"--log run.log {line}")
    assert out == ""
    left = {path.name for path in (folder / "ledger").iterdir()}
    assert left == {"ledger.lock"}
    assert len(err.splitlines()) == 1, err
    return status, err


def test_no_rpc_there(folder: Path, closed_port: int) -> None:
    status, err = refused_at_start(folder, f"--identity node.json --url http://127.0.0.1:{closed_port}")
    assert status == 1
    assert re.fullmatch(rf"Error: --url http://127.0.0.1:{closed_port}: connection refused; is the .* running\?\n", err)


@pytest.fixture
def closed_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


NOBODY: Mapping[str, Any] = {
    "getGenesisHash": to_base58(bytes(32)),
    "getVersion": {"solana-core": "4.0.1"},
    "getHealth": "ok",
    "getSlot": 5,
    "getEpochInfo": {"epoch": 0, "slotIndex": 5, "slotsInEpoch": 100, "absoluteSlot": 5},
    "getAccountInfo": {"context": {"slot": 5}, "value": None},
    "getMultipleAccounts": lambda params: {"context": {"slot": 5}, "value": [None] * len(params[0])},
    "getVoteAccounts": {"current": [], "delinquent": []},
}


@pytest.mark.parametrize("more", ["", " --no-check-vote-account"])
def test_a_vote_account_that_does_not_exist(folder: Path, more: str) -> None:
    with rpc_server(NOBODY) as rpc:
        line = f"--identity node.json --vote-account {OTHER.address} --url {rpc.url}{more}"
        status, err = refused_at_start(folder, line)
    assert status == 1
    assert err.startswith(f"Error: --vote-account: vote account not found: {OTHER.address}; ")


def test_no_etcd_there(folder: Path, closed_port: int) -> None:
    with rpc_server(NOBODY) as rpc:
        line = f"{ETCD.rpartition(' ')[0]} 127.0.0.1:{closed_port} --url {rpc.url} --store-timeout 0.5"
        status, err = refused_at_start(folder, line)
    assert status == Exit.STORE_FAILED
    assert f"127.0.0.1:{closed_port}" in err


@pytest.mark.parametrize("foreign", ["--etcd-cacert-file", "--etcd-cert-file", "both"])
def test_certificates_of_another_authority(folder: Path, etcd_server: EtcdServer, foreign: str) -> None:
    make_certificates(folder / "others")
    names = {"--etcd-cacert-file": ["etcd-ca"], "--etcd-cert-file": ["validator", "validator-key"]}
    names["both"] = ["etcd-ca", "validator", "validator-key"]
    flags = ETCD.rpartition(" ")[0]
    for name in names[foreign]:
        flags = flags.replace(f"certs/{name}.pem", f"others/{name}.pem")
    host, port = etcd_server.endpoint
    with rpc_server(NOBODY) as rpc:
        status, err = refused_at_start(folder, f"{flags} {host}:{port} --url {rpc.url} --store-timeout 2")
    assert status in (Exit.REFUSED, Exit.STORE_FAILED)
    assert f"{host}:{port}" in err
    assert "certificate" in err
