"""Bad input to the flags and commands of failovers: one line that names what is wrong and the fix, a status, no trace."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.live import admin_server
from tests.validator.test_bad_input import NODE, OTHER, program, snapshot
from tower.keys import Keypair, write_keypair_file
from tower.validator.admin import AdminClient, AdminError
from tower.validator.config import Exit, FailoverConfig
from tower.validator.control import Handler, control_handlers
from tower.validator.preflight import RunOptions, check_options

VOTE = f"--vote-account {OTHER.address}"
RUN = f"--identity node.json {VOTE}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_keypair_file(tmp_path / "node.json", NODE)
    write_keypair_file(tmp_path / "other.json", OTHER)
    (tmp_path / "text.json").write_text("no keypair")
    return tmp_path


NO_VALIDATOR = r"ledger/admin.rpc does not exist; is the validator running\? --ledger names its folder"
CASES = [
    (f"{RUN} --on-lost-lock perhaps", Exit.USAGE, r"Invalid value for '--on-lost-lock': .*; see openos-validator run --help"),
    (f"{RUN} --unstaked-identity no.json --on-lost-lock demote", 1,
     r"--unstaked-identity: no.json: no such keypair file; name a file written by solana-keygen"),
    (f"{RUN} --unstaked-identity other.json", 1,
     r"--unstaked-identity: has no effect without --on-lost-lock demote or --standby-at-start"),
    (f"{RUN} --unstaked-identity node.json --standby-at-start", 1,
     r"--unstaked-identity: is the --identity itself; make another with solana-keygen new"),
    ("--identity node.json --standby-at-start", 1, r"--standby-at-start: needs --vote-account <ADDRESS> too"),
    (f"{RUN} --standby-at-start --no-voting", 1, r"--standby-at-start: has no effect with --no-voting; leave one of them out"),
    (f"{RUN} --auto-takeover text.json", 1, r"--auto-takeover: text.json: not a keypair file: .*; name a file written by .*"),
    ("--identity node.json --auto-takeover other.json", 1, r"--auto-takeover: needs --vote-account <ADDRESS> too"),
    (f"{RUN} --auto-takeover other.json --no-voting", 1, r"--auto-takeover: has no effect with --no-voting; .*"),
    (f"{RUN} --auto-takeover other.json --accept-handover node.json", 1,
     r"--accept-handover: names another identity than --auto-takeover; a spare watches one identity"),
    ("--identity node.json --accept-handover other.json", 1, r"--accept-handover: needs --vote-account <ADDRESS> too"),
    (f"{RUN} --auto-takeover-after 10", 1, r"--auto-takeover-after: has no effect without --auto-takeover; .*"),
    (f"{RUN} --auto-takeover-min-interval 10", 1, r"--auto-takeover-min-interval: has no effect without --auto-takeover; .*"),
    (f"{RUN} --auto-takeover other.json --auto-takeover-after 0.5", 1, r"--auto-takeover-after: give seconds from 1 to 86400"),
    (f"{RUN} --auto-takeover other.json --auto-takeover-after nan", 1, r"--auto-takeover-after: give seconds from 1 to 86400"),
    (f"{RUN} --auto-takeover other.json --auto-takeover-after soon", Exit.USAGE,
     r"Invalid value for '--auto-takeover-after': .*; see openos-validator run --help"),
    (f"{RUN} --auto-takeover other.json --auto-takeover-min-interval -1", 1,
     r"--auto-takeover-min-interval: give seconds from 0 to 2.592e\+06"),
    ("auto-takeover", Exit.USAGE, r"Missing command.*"),
    ("auto-takeover perhaps", Exit.USAGE, r"No such command 'perhaps'.*; see openos-validator auto-takeover --help"),
    ("auto-takeover pause", 1, NO_VALIDATOR),
    ("auto-takeover resume", 1, NO_VALIDATOR),
    ("auto-takeover status --output xml", Exit.USAGE, r"Invalid value for '--output': .*"),
    ("--ledger elsewhere auto-takeover status", 1, r"elsewhere/admin.rpc does not exist; .*"),
    ("failover", Exit.USAGE, r"Missing command.*"),
    ("failover plan", 1, NO_VALIDATOR),
    ("failover run --identity node.json", 1, NO_VALIDATOR),
    ("failover run --step-deadline 0", Exit.USAGE, r"Invalid value for '--step-deadline': .*"),
    ("failover run --step-deadline soon", Exit.USAGE, r"Invalid value for '--step-deadline': .*"),
    ("failover run --window-deadline -1", Exit.USAGE, r"Invalid value for '--window-deadline': .*"),
    ("failover run surplus", Exit.USAGE, r"Got unexpected extra argument.*; see openos-validator failover run --help"),
    ("failover plan --not-a-drill", Exit.USAGE, r"No such option '?--not-a-drill'?.*"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "status", "expected"), CASES, ids=[case[0][-60:] for case in CASES])
def test_one_line_a_status_and_no_trace(folder: Path, line: str, status: int, expected: str) -> None:
    before = snapshot(folder)
    found, out, err = program(folder, line)
    assert out == ""
    assert re.fullmatch(rf"Error: {expected}\n", err), err
    assert found == status
    assert snapshot(folder) == before


def test_the_flags_as_the_process_gets_them(folder: Path) -> None:
    def config(**flags: Any) -> FailoverConfig:
        own, ledger = str(folder / "node.json"), str(folder / "ledger")
        return check_options(RunOptions(identity=own, vote_account=OTHER.address, ledger=ledger, **flags)).failover

    assert config() == FailoverConfig()
    assert config().watched is None
    other = str(folder / "other.json")
    everything = config(
        on_lost_lock="demote", unstaked_identity=other, standby_at_start=True, auto_takeover=other, auto_takeover_after=12.0,
        auto_takeover_min_interval=0.0, accept_handover=other,
    )  # fmt: skip
    assert everything == FailoverConfig(True, OTHER, True, OTHER, 12.0, 0.0, OTHER)
    assert everything.watched == OTHER
    assert config(accept_handover=other).watched == OTHER


# ---- the admin socket


class Control:
    """What the methods of failovers ask for; everything else is never asked."""

    post_init = True

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.spare = self

    async def take_over(self, *arguments: Any) -> Mapping[str, Any]:
        self.asked.append(arguments)
        return {"fence": 1}

    async def rehearse_take_over(self, identity: Keypair, require_tower: bool) -> Mapping[str, Any]:
        self.asked.append((identity, require_tower))
        return {"lastVotedSlot": 1}

    def tower_storage(self) -> Mapping[str, Any]:
        return {"tower_storage": "file"}

    def pause(self) -> None:
        self.asked.append("pause")

    def resume(self) -> None:
        self.asked.append("resume")

    def status(self) -> Mapping[str, Any]:
        return {"state": "on"}


def handlers(control: Any) -> dict[str, Handler]:
    return control_handlers(control)


BAD_CALLS = [
    ("takeOver", [], r"takeOver takes \[path, why, require_tower, instance_revision, deadline_s\]"),
    ("takeOver", [7, "why", False, 1, 5], "path must be of type str"),
    ("takeOver", ["no.json", "why", False, 1, 5], "Failed to read identity keypair from no.json"),
    ("takeOver", ["node.json", 7, False, 1, 5], "why must be of type str"),
    ("takeOver", ["node.json", "why", 1, 1, 5], "require_tower must be of type bool"),
    ("takeOver", ["node.json", "why", False, True, 5], "instance_revision must be of type int"),
    ("takeOver", ["node.json", "why", False, 1.5, 5], "instance_revision must be of type int"),
    ("takeOver", ["node.json", "why", False, 1, "soon"], "deadline_s must be of type int"),
    ("takeOver", ["node.json", "why", False, 1, 0], "deadline_s must be above 0"),
    ("takeOver", ["node.json", "why", False, 1, float("nan")], "Parse error"),  # JSON has no such number
    ("takeOver", ["node.json", "why", False, 1, 10**6], "deadline_s must be above 0"),
    ("rehearseTakeOver", ["node.json"], r"rehearseTakeOver takes \[path, require_tower\]"),
    ("rehearseTakeOver", ["text.json", False], "not a keypair file"),
    ("autoTakeoverPause", ["now"], r"autoTakeoverPause takes \[\]"),
]


@pytest.mark.parametrize(("method", "params", "expected"), BAD_CALLS)
def test_bad_params(folder: Path, monkeypatch: pytest.MonkeyPatch, method: str, params: list[Any], expected: str) -> None:
    monkeypatch.chdir(folder)
    control = Control()
    (folder / "ledger").mkdir()
    with admin_server(folder / "ledger", handlers(control)), pytest.raises(AdminError, match=expected):
        AdminClient(folder / "ledger").call(method, *params)
    assert control.asked == []


def test_good_params_and_long_reasons(folder: Path) -> None:
    control = Control()
    (folder / "ledger").mkdir()
    client = AdminClient(folder / "ledger")
    with admin_server(folder / "ledger", handlers(control)):
        path = str(folder / "node.json")
        assert client.call("takeOver", path, "x" * 5000, True, 7, 30) == {"fence": 1}
        assert client.call("rehearseTakeOver", path, False) == {"lastVotedSlot": 1}
        assert client.call("towerStorage") == {"tower_storage": "file"}
        assert client.call("autoTakeoverStatus") == {"state": "on"}
        client.call("autoTakeoverPause")
        client.call("autoTakeoverResume")
        control.post_init = False
        with pytest.raises(AdminError, match="Retry once validator start up is complete"):
            client.call("takeOver", path, "why", True, 7, 30)
    assert control.asked == [(NODE, "x" * 200, True, 7, 30.0), (NODE, False), "pause", "resume"]


def test_a_node_that_votes_cannot_take_another_identity(folder: Path) -> None:
    async def status() -> dict[str, Any]:
        return {"identity": NODE.address, "voting": True, "voteAccount": OTHER.address, "processedSlot": 5}

    async def progress() -> str:
        return "Running"

    (folder / "ledger").mkdir()
    with admin_server(folder / "ledger", {"status": status, "startProgress": progress}):
        found, out, err = program(folder, "failover run --identity other.json --not-a-drill")
    assert (found, out) == (1, "")
    assert err == f"Error: --identity: this node votes as {NODE.address}, it cannot take {OTHER.address} too\n"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"startProgress": "LoadingLedger"}, "the validator has not started yet; try again when it runs"),
        ({"status": {"voting": False}}, "the validator runs without --vote-account: it can neither give nor take"),
        ({}, "this node is a spare: name the identity to take with --identity <KEYPAIR>"),
    ],
)
def test_a_node_that_can_neither_give_nor_take(folder: Path, answers: dict[str, Any], expected: str) -> None:
    status = {"identity": NODE.address, "voting": False, "voteAccount": OTHER.address, "processedSlot": 5}
    found = {"status": status, "startProgress": "Running", **answers}

    def answering(value: Any) -> Handler:
        async def answer() -> Any:
            await asyncio.sleep(0)
            return value

        return answer

    (folder / "ledger").mkdir()
    with admin_server(folder / "ledger", {name: answering(value) for name, value in found.items()}):
        code, out, err = program(folder, "failover plan")
    assert (code, out, err) == (1, "", f"Error: {expected}\n")
