"""The doctor on a running cluster: the flags of a machine, and what it says when the account, the voter or the tower is wrong."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Validator, World, until
from tests.support.live import rpc_server
from tower.keys import Keypair, to_base58, write_keypair_file

Told = dict[str, list[dict[str, Any]]]


def doctor(machine: Validator, *more: str, status: int, flags: list[str] | None = None) -> Told:
    """The findings of `doctor` with the flags that this machine runs with, by check."""
    done = machine.command("doctor", *(machine.flags if flags is None else flags), "--output", "json", *more)
    assert done.returncode == status, done.stdout + done.stderr
    found: Told = {}
    for finding in json.loads(done.stdout)["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    return found


def failed(found: Told) -> set[str]:
    return {check for check, findings in found.items() if any(finding["level"] == "fail" for finding in findings)}


def levels(found: Told, check: str) -> set[str]:
    return {finding["level"] for finding in found[check]}


def without(flags: list[str], *names: str) -> list[str]:
    """`flags` without these and their values."""
    pairs = zip(flags, [*flags[1:], ""], strict=True)
    drop = {at + more for at, (flag, _) in enumerate(pairs) if flag in names for more in (0, 1)}
    return [flag for at, flag in enumerate(flags) if at not in drop]


def test_a_machine_in_order_before_and_after_it_votes(on_file: World) -> None:
    machine = on_file.validator()
    found = doctor(machine, status=0)
    assert failed(found) == set()
    assert set(found) == {"flags", "keys", "folders", "rpc", "vote-account", "authorized-voter", "balance", "tower", "clock"}
    for check in ("flags", "keys", "folders", "rpc", "vote-account", "authorized-voter", "clock"):
        assert levels(found, check) == {"ok"}, found[check]
    assert not machine.running
    assert not (machine.folder / "ledger").exists()  # it starts nothing and leaves nothing
    machine.start().wait_running()
    machine.wait_vote(more_than=2)
    (tower,) = doctor(machine, status=0)["tower"]
    assert tower["level"] == "ok"
    assert ": last vote " in tower["found"]
    assert "(start)" in tower["found"]


def test_a_machine_on_etcd(on_etcd: World) -> None:
    machine = on_etcd.validator().start().wait_running()
    machine.wait_vote()
    found = doctor(machine, status=1)
    assert failed(found) == {"etcd-version"}  # the one that comes with the demo
    assert found["tower"][0]["found"].startswith("etcd: the tower of ")
    assert levels(found, "tower") == {"ok"}
    assert machine.running  # and it votes on
    machine.wait_vote()


def test_a_spare(on_file: World) -> None:
    spare = on_file.validator("127.0.0.3", spare=True)
    found = doctor(spare, status=0)
    assert "stands by" in found["vote-account"][0]["found"]
    assert levels(found, "authorized-voter") == {"ok"}

    found = doctor(spare, status=1, flags=[flag for flag in spare.flags if flag != "--no-check-vote-account"])
    assert failed(found) == {"vote-account"}
    assert found["vote-account"][0]["type"] == ["--no-check-vote-account"]

    found = doctor(spare, status=1, flags=without(spare.flags, "--authorized-voter"))
    assert failed(found) == {"authorized-voter"}
    assert found["authorized-voter"][0]["type"] == [f"--authorized-voter FILE  # the keypair of {on_file.identity.address}"]


def test_wrong_accounts(on_file: World) -> None:
    machine = on_file.validator()
    flags = without(machine.flags, "--vote-account")
    nobody = Keypair.generate().address
    found = doctor(machine, status=1, flags=[*flags, "--vote-account", nobody])
    assert failed(found) == {"vote-account"}
    assert found["vote-account"][0]["found"] == f"--vote-account: {nobody} does not exist"
    found = doctor(machine, status=1, flags=[*flags, "--vote-account", on_file.identity.address])
    assert failed(found) == {"vote-account"}
    assert "is owned by 11111111111111111111111111111111" in found["vote-account"][0]["found"]
    found = doctor(machine, status=0, flags=flags)
    assert levels(found, "vote-account") == {"warn"}
    assert doctor(machine, "--strict", status=1, flags=flags)["vote-account"] == found["vote-account"]


def test_an_authorized_voter_of_its_own(on_file: World) -> None:
    machine = on_file.validator()
    write_keypair_file(machine.folder / "other.json", Keypair.generate())
    found = doctor(machine, "--authorized-voter", "other.json", status=1)
    assert failed(found) == {"authorized-voter"}


def test_the_rpc_is_down_or_is_none(on_file: World) -> None:
    machine = on_file.validator()
    found = doctor(machine, "--url", "http://127.0.0.1:1", status=1)
    assert failed(found) == {"rpc", "vote-account"}
    assert "connection refused" in found["rpc"][0]["found"]
    found = doctor(machine, "--url", "127.0.0.1:1", status=1)
    assert failed(found) == {"flags", "rpc"}
    with rpc_server({"getHealth": Exception("Node is behind by 300 slots", -32005), "getVersion": {"solana-core": "4.0.1"},
                     "getSlot": 5, "getAccountInfo": {"context": {"slot": 5}, "value": None}}) as rpc:  # fmt: skip
        found = doctor(machine, "--url", rpc.url, status=1)
    assert levels(found, "rpc") == {"warn"}
    assert "calls itself unhealthy" in found["rpc"][0]["found"]
    assert failed(found) == {"vote-account"}  # this one does not know it


def test_clocks_that_differ(on_file: World) -> None:
    machine = on_file.validator()
    long_ago = bytes(32) + (1_700_000_000).to_bytes(8, "little")
    clock = {"owner": to_base58(bytes(32)), "lamports": 1, "data": [base64.b64encode(long_ago).decode(), "base64"]}

    def account(params: list[Any]) -> dict[str, Any]:
        return {"context": {"slot": 5}, "value": clock if params[0].startswith("Sysvar") else None}

    results = {"getHealth": "ok", "getVersion": {"solana-core": "4.0.1"}, "getSlot": 5, "getAccountInfo": account}
    with rpc_server(results) as rpc:
        found = doctor(machine, "--url", rpc.url, status=1)
    assert levels(found, "clock") == {"warn"}
    assert "the cluster's clock is " in found["clock"][0]["found"]
    assert "behind this machine" in found["clock"][0]["found"]


def test_a_torn_tower_and_one_that_is_gone(on_file: World) -> None:
    machine = on_file.validator().start().wait_running()
    machine.wait_vote(more_than=2)
    machine.end()
    kept = on_file.tower_file.with_suffix(".kept")
    shutil.copy(on_file.tower_file, kept)
    try:
        on_file.tower_file.write_bytes(kept.read_bytes()[:100])
        found = doctor(machine, status=1)
        assert failed(found) == {"tower"}
        assert "cannot be used" in found["tower"][0]["found"]
        on_file.tower_file.unlink()
        until(lambda: on_file.votes(), "its votes have arrived")
        found = doctor(machine, status=0)
        assert levels(found, "tower") == {"warn"}
        assert "is not stored, and the account has voted" in found["tower"][0]["found"]
    finally:
        shutil.move(kept, on_file.tower_file)


@pytest.mark.parametrize(("mode", "level"), [(0o644, "fail"), (0o640, "warn")])
def test_keys_that_others_can_read(on_file: World, mode: int, level: str) -> None:
    machine = on_file.validator()
    key: Path = machine.folder / "validator-keypair.json"
    key.chmod(mode)
    found = doctor(machine, status=1 if level == "fail" else 0)
    assert levels(found, "keys") == {level}
    assert found["keys"][0]["type"] == ["chmod 600 validator-keypair.json"]
