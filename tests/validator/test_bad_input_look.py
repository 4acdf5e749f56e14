"""Bad input to the looking commands and to `tower …`, through the real program: one line, an exact status, no trace on disk."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from tests.validator.test_bad_input import program, snapshot
from tower.keys import Keypair, write_keypair_file
from tower.store import Claimed, Owner
from tower.stores.file import FileStore
from tower.types import LastVote, Lockout, Tower, VoteKind
from tower.validator.config import Exit
from tower.wire import encode_saved_tower

NODE, OTHER = (Keypair.from_seed(bytes([seed]) * 32) for seed in (61, 62))
ETCD = (
    "--tower-storage etcd --etcd-cacert-file certs/etcd-ca.pem --etcd-cert-file certs/validator.pem"
    " --etcd-key-file certs/validator-key.pem"
)


def tower(*slots: int) -> bytes:
    lockouts = tuple(Lockout(slot, len(slots) - at) for at, slot in enumerate(slots))
    vote = LastVote(VoteKind.TOWER_SYNC, slots, lockouts, None, bytes(32), 1, bytes(32))
    return encode_saved_tower(Tower(NODE.pubkey, lockouts, None, vote), NODE)


@pytest.fixture
def folder(tmp_path: Path, certificates: Path) -> Path:
    write_keypair_file(tmp_path / "node.json", NODE)
    write_keypair_file(tmp_path / "other.json", OTHER)
    (tmp_path / "certs").symlink_to(certificates)
    (tmp_path / "good.bin").write_bytes(tower(10, 11))
    (tmp_path / "older.bin").write_bytes(tower(10))
    (tmp_path / "newer.bin").write_bytes(tower(10, 11, 12))
    (tmp_path / "torn.bin").write_bytes(tower(10, 11)[:-3])
    (tmp_path / "text.json").write_text(json.dumps("no keypair"))
    (tmp_path / "empty").mkdir()
    store = FileStore(tmp_path / "towers")
    claimed = store.claim(store.look(NODE.address, 5), Owner("primary", "start", "h1", 7, 1000), 5)
    assert isinstance(claimed, Claimed)
    store.begin_store(claimed.fence, claimed.record_revision, tower(10, 11), 5).outcome(5)
    store.close()
    return tmp_path


HOLDER = r"primary \(host h1, pid 7, fence 1, by start\)"
CASES = [
    *((f"{command} --ledger no", 1, r"--ledger: .*/no does not exist, so it is no tower store; name the folder .*")
      for command in ("status", "list", "history", "watch")),
    ("status --tower no", 1, r"--tower: .*/no does not exist, so it is no tower store; .* --tower-storage etcd"),
    ("status --tower good.bin", 1, r"--tower: .*/good.bin is not a folder; .*"),
    ("status nobody --tower towers", 1, r"IDENTITY: 'nobody' is neither a base58 address nor a keypair file"),
    ("history text.json --tower towers", 1, r"IDENTITY: text.json: not a keypair file: .*"),
    ("status --tower towers --etcd-endpoint 127.0.0.1:1", 1, r"--etcd-endpoint: has no effect without --tower-storage .*"),
    ("list --tower-storage etcd", 1, r"--tower-storage etcd: the --etcd-cacert-file <FILE> argument is required"),
    (f"list {ETCD}", 1, r"--tower-storage etcd: at least one --etcd-endpoint <HOST:PORT> is required"),
    (f"status {ETCD} --etcd-endpoint localhost", 1, r"--etcd-endpoint: 'localhost' is not host:port; .*"),
    (f"status {ETCD} --etcd-endpoint 127.0.0.1:1 --etcd-cert-file no.pem", 1, r"Unable to read no.pem: .*"),
    ("status --tower towers --url 127.0.0.1:8899", 1, r"--url: '127.0.0.1:8899' is no http\(s\) URL; .*"),
    ("status --tower towers --vote-account no --url http://127.0.0.1:1", 1, r"--vote-account: 'no' is neither .*"),
    (f"status --tower towers --vote-account {OTHER.address}", 1,
     r"--vote-account: goes with --url and exactly one IDENTITY"),
    ("status --tower towers --max-age 0", 2, r"Invalid value for '--max-age': .*; see openos-validator status --help"),
    ("status --tower towers --output yaml", 2, r"Invalid value for '--output': .*"),
    ("status --tower towers --store-timeout 0", 2, r"Invalid value for '--store-timeout': .*"),
    ("history --tower towers --limit 0", 2, r"Invalid value for '--limit': .*"),
    ("history a b --tower towers", 2, r"Got unexpected extra argument.*"),
    ("watch --tower towers --interval 0", 2, r"Invalid value for '--interval': .*"),
    ("watch --tower towers --count 0", 2, r"Invalid value for '--count': .*"),
    ("tower", 2, r".*"),
    ("tower verify good.bin", 2, r"Missing option '--identity'.*"),
    ("tower verify no.bin --identity node.json", 1, r"no.bin: cannot be read: No such file or directory; name a tower file"),
    ("tower verify torn.bin --identity node.json", 12, r"torn.bin: no usable tower of \w+: at byte \d+: .*"),
    ("tower verify good.bin --identity other.json", 12, r"good.bin: no usable tower of \w+: the saved tower is not signed by .*"),
    ("tower verify good.bin --identity nobody", 1, r"--identity: 'nobody' is neither a base58 address nor a keypair file"),
    ("tower export out.bin --identity node.json --tower no", 1, r"--tower: .*/no does not exist, so it is no tower store; .*"),
    ("tower export out.bin --identity node.json --tower empty", 1, r"no tower of \w+ is stored at .*/empty; check --identity"),
    ("tower export out.bin --identity other.json --tower towers", 1, r"no tower of \w+ is stored at .*; check --identity"),
    ("tower export good.bin --identity node.json --tower towers", 1,
     r"good.bin: exists and is not overwritten; choose another name, or add --force"),
    ("tower export newer.bin --force --identity node.json --tower towers", 1,
     r"newer.bin: the tower in it would be lost, for of the stored one: its last vote 11 is older than .*, 12; .*"),
    ("tower export towers --force --identity node.json --tower towers", 1,
     r"towers/tower-1_9-\w+.bin: belongs to the tower store in that folder; .* tower import writes there"),
    ("tower export no/out.bin --identity node.json --tower towers", 1, r"no/out.bin: cannot be written: .*; choose another .*"),
    ("tower import no.bin --identity node.json --tower towers", 1, r"no.bin: cannot be read: No such file or directory; .*"),
    ("tower import torn.bin --identity node.json --tower towers", 12, r"torn.bin: no usable tower of \w+: at byte \d+: .*"),
    ("tower import good.bin --identity other.json --tower towers", 12, r"good.bin: no usable tower of \w+: .* not signed by .*"),
    (f"tower import newer.bin --identity {NODE.address} --tower towers", 1,
     r"--identity: \w+: no such keypair file; an import signs, it needs the keypair"),
    ("tower import newer.bin --identity node.json --tower towers", 1,
     rf"newer.bin: not imported, nothing was changed: the fence of \w+ is held by {HOLDER}; .* add --take-fence"),
    ("tower import older.bin --identity node.json --tower towers --take-fence", 1,
     r"older.bin: not imported, nothing was changed: its last vote 10 is older than the stored one, 11"),
    ("tower import older.bin --identity node.json --tower towers --take-fence --replace-stored 11", 1,
     r"--replace-stored: needs --url <URL>, to count the slots .*"),
    ("tower import older.bin --identity node.json --tower towers --take-fence --replace-stored 9 --url http://127.0.0.1:1", 1,
     r"older.bin: not imported, .*: --replace-stored 9 does not name the stored tower, which is: last vote 11, .*"),
    ("tower import newer.bin --identity node.json --tower towers --take-fence --replace-stored 11 --url http://127.0.0.1:1", 1,
     r"newer.bin: not imported, .*: --replace-stored has no use here, for nothing would go back; leave it out"),
    ("tower import good.bin --identity node.json --tower no/towers", 1, r".*/no/towers: cannot be created, .*; see --tower"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "status", "expected"), CASES, ids=[case[0][:70] for case in CASES])
def test_one_line_a_status_and_no_trace(folder: Path, line: str, status: int, expected: str) -> None:
    before = snapshot(folder)
    found, out, err = program(folder, line)
    assert (found, out) == (status, ""), err
    assert re.fullmatch(rf"Error: {expected}\n", err), err
    assert snapshot(folder) == before


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("command", ["list", "history", "tower export out.bin --identity node.json"])
def test_no_etcd_there(folder: Path, closed_port: int, command: str) -> None:
    line = f"{command} {ETCD} --etcd-endpoint 127.0.0.1:{closed_port} --store-timeout 0.5"
    status, out, err = program(folder, line)
    assert (status, out) == (Exit.STORE_FAILED, "")
    assert re.fullmatch(rf"Error: etcd 127.0.0.1:{closed_port}: connection refused; check --etcd-endpoint and .*\n", err)


def test_no_cluster_there_is_found_before_the_fence_is_taken(folder: Path, closed_port: int) -> None:
    before = snapshot(folder)
    line = "tower import older.bin --identity node.json --tower towers --take-fence --replace-stored 11"
    status, _, err = program(folder, f"{line} --url http://127.0.0.1:{closed_port}")
    assert status == Exit.REFUSED
    assert re.fullmatch(rf"Error: --url http://127.0.0.1:{closed_port}: connection refused; is the .* running\?\n", err)
    assert snapshot(folder) == before


def test_a_torn_fence_file_is_named(folder: Path) -> None:
    (folder / "towers" / f"fence-{NODE.address}.json").write_text("{")
    for command in ("status", "list", "history", "watch"):
        status, out, err = program(folder, f"{command} --tower towers")
        assert (status, out) == (Exit.REFUSED, "")
        assert re.fullmatch(r"Error: .*/fence-\w+.json: torn or foreign fence file; stop every voter .*\n", err)


def test_a_tower_from_stdin(folder: Path) -> None:
    status, out, err = program(folder, "tower verify - --identity node.json", stdin="no tower")
    assert (status, out) == (Exit.TOWER_UNUSABLE, "")
    assert re.fullmatch(r"Error: -: no usable tower of \w+: at byte \d+: .*\n", err)
