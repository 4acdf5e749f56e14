"""`tower inspect` on real tower files of every generation; their manifest says what is in them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tower.keys import Keypair
from tower.types import BlockTimestamp, LastVote, Lockout, Tower, VoteKind
from tower.validator.cli import cli
from tower.wire import encode_saved_tower

FIXTURES = Path(os.environ.get("TOWER_FIXTURES") or Path(__file__).parents[3] / "shared" / "fixtures" / "towers")
MANIFEST = FIXTURES / "manifest.json"
ENTRIES: list[dict[str, Any]] = json.loads(MANIFEST.read_text()) if MANIFEST.exists() else []
needs_fixtures = pytest.mark.skipif(not ENTRIES, reason=f"no tower files at {FIXTURES}; set TOWER_FIXTURES")
PAIR = Keypair.from_seed(bytes([7]) * 32)
OTHER = Keypair.from_seed(bytes([8]) * 32)


def inspect(*args: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["tower", "inspect", *args], standalone_mode=False)
    if result.exception is not None:
        return 1, result.stdout, f"Error: {result.exception}"
    return int(result.return_value), result.stdout, result.stderr


@needs_fixtures
def test_the_set_is_the_one_we_know() -> None:
    assert sum("error" not in entry for entry in ENTRIES) == 20
    assert sum("error" in entry for entry in ENTRIES) == 1


@needs_fixtures
@pytest.mark.parametrize("entry", [e for e in ENTRIES if "error" not in e], ids=lambda entry: entry["path"][:2])
def test_real_towers(entry: dict[str, Any]) -> None:
    status, out, err = inspect("--json", str(FIXTURES / entry["path"]), "--identity", entry["identity"])
    assert (status, err) == (0, "")
    found = json.loads(out)
    expected = {key: value for key, value in entry.items() if key != "path"}
    assert {key: found[key] for key in expected} == expected
    assert found["signature"] == "valid"
    assert found["last_vote"]["kind"] == entry["last_vote_kind"]
    assert found["last_vote"]["hash"] == entry["last_vote_hash"]
    assert found["last_vote"]["timestamp"] == entry["last_vote_timestamp"]
    assert found["last_vote"]["block_id"] == entry["block_id"]
    assert found["last_vote"]["slots"][-1] == entry["votes"][-1][0]


@needs_fixtures
def test_the_torn_file_is_refused_by_name_and_offset() -> None:
    (entry,) = (e for e in ENTRIES if "error" in e)
    for flags in ([], ["--json"]):
        status, out, err = inspect(*flags, str(FIXTURES / entry["path"]))
        assert (status, out) == (1, "")
        assert entry["file"] in err
        assert f"at byte {entry['size']}" in err
        assert "\n" not in err


def write_tower(path: Path) -> bytes:
    lockouts = (Lockout(101, 3), Lockout(104, 2), Lockout(300, 1))
    vote = LastVote(VoteKind.TOWER_SYNC, (101, 104, 300), lockouts, 100, bytes([0x11]) * 32, 1700000000, bytes(32))
    data = encode_saved_tower(Tower(PAIR.pubkey, lockouts, 100, vote, BlockTimestamp(300, 1700000000)), PAIR)
    path.write_bytes(data)
    return data


def test_the_table_for_people(tmp_path: Path) -> None:
    write_tower(tmp_path / "t.bin")
    status, out, err = inspect(str(tmp_path / "t.bin"))
    assert (status, err) == (0, "")
    for text in (PAIR.address, "valid", "TowerSync, 3 slots, newest 300", "11" * 32, "slot 300, 1700000000", "enum-1"):
        assert text in out
    rows = [line.replace("│", " ").split() for line in out.splitlines() if line.startswith("│")]
    assert rows == [["300", "1", "302"], ["104", "2", "108"], ["101", "3", "109"]]


def test_signature_states(tmp_path: Path) -> None:
    file = tmp_path / "t.bin"
    data = write_tower(file)
    status, out, err = inspect("--json", str(file), "--identity", OTHER.address)
    assert (status, json.loads(out)["signature"]) == (1, "for another identity")
    assert err == f"Error: {file}: the signature is for another identity\n"
    broken = bytearray(data)
    broken[10] ^= 1
    file.write_bytes(broken)
    for more in ([], ["--identity", PAIR.address], ["--identity", OTHER.address]):
        status, out, err = inspect("--json", str(file), *more)
        assert (status, json.loads(out)["signature"], json.loads(out)["root"]) == (1, "invalid", 100)


@pytest.mark.parametrize("keep", [0, 3, 75, 200, 1000, -1])
def test_a_file_that_ends_early(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "t.bin"
    file.write_bytes(write_tower(file)[:keep])
    status, out, err = inspect("--json", str(file))
    assert (status, out) == (1, "")
    assert err.startswith(f"Error: {file}: not a whole saved tower: at byte ")


def test_what_is_no_tower_file(tmp_path: Path) -> None:
    (tmp_path / "huge").write_bytes(bytes((1 << 20) + 1))
    for path, text in ((tmp_path, "Is a directory"), (tmp_path / "no", "No such file"), (tmp_path / "huge", "no tower")):
        status, out, err = inspect(str(path))
        assert (status, out) == (1, "")
        assert str(path) in err
        assert text in err
