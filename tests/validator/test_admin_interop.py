"""The wire between this and the validators in use: the bytes that their command line sends, and those that their server answers.

Their client is jsonrpc-core-client 18 over a Unix socket: compact JSON, fields in this order, `null` where a method takes no
params, ids from 0 on each connection, one newline. Their server answers in compact JSON, `result` or `error` before the id, and
one newline.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.admin import BOUND_S, KEY, Control, raw, with_server
from tests.support.live import in_thread, rpc_server
from tests.validator.test_cli import CLUSTER, OWN, call
from tower.keys import write_keypair_file
from tower.validator.admin import AdminClient, AdminError, admin_socket, control_handlers
from tower.validator.admin_absent import ABSENT

SECRET = ",".join(str(number) for number in KEY.secret)
PRESENT = {"code": -32602, "message": "Authorized voter already present"}
NO_PLUGINS = {"code": -32600, "message": "No geyser plugin service"}


def sent(method: str, params: str = "null") -> bytes:
    """What their command line sends first on a connection."""
    return f'{{"jsonrpc":"2.0","method":"{method}","params":{params},"id":0}}\n'.encode()


def test_the_bytes_of_their_command_line_are_answered_byte_for_byte(tmp_path: Path) -> None:
    key_file = tmp_path / "key.json"
    write_keypair_file(key_file, KEY)
    contact = (
        f'{{"id":"{KEY.address}","gossip":"127.0.0.1:8001","tvu":"0.0.0.0:0","tvu_quic":"0.0.0.0:0","serve_repair_quic":"0.0.0.0:0",'
        '"tpu":"0.0.0.0:0","tpu_forwards":"0.0.0.0:0","tpu_vote":"0.0.0.0:0","rpc":"0.0.0.0:0","rpc_pubsub":"0.0.0.0:0",'
        '"serve_repair":"0.0.0.0:0","last_updated_timestamp":0,"shred_version":0}'
    )
    golden = [
        ("startTime", "null", '{"secs_since_epoch":1700000000,"nanos_since_epoch":500000000}'),
        ("startProgress", "null", '"Running"'),
        ("rpcAddress", "null", "null"),
        ("contactInfo", "null", contact),
        ("setLogFilter", '["debug"]', "null"),
        ("addAuthorizedVoter", f'["{key_file}"]', "null"),
        ("removeAllAuthorizedVoters", "null", "null"),
        ("addAuthorizedVoterFromBytes", f"[[{SECRET}]]", "null"),
        ("setIdentity", f'["{key_file}",true]', "null"),
        ("setIdentityFromBytes", f"[[{SECRET}],false]", "null"),
        ("exit", "null", "null"),
    ]

    async def scenario(client: AdminClient, control: Control) -> None:
        for method, params, result in golden:
            assert await raw(tmp_path, sent(method, params)) == f'{{"jsonrpc":"2.0","result":{result},"id":0}}\n'.encode()
        assert control.told == [
            ("voter", KEY), ("asked", KEY), ("adopted", KEY, True), ("asked", KEY), ("adopted", KEY, False),
        ]  # fmt: skip
        await asyncio.wait_for(control.exited.wait(), BOUND_S)

    with_server(tmp_path, scenario)


@pytest.mark.parametrize(
    ("request_text", "error", "ident"),
    [
        (sent("addAuthorizedVoterFromBytes", f"[[{SECRET}]]"), PRESENT, 0),
        (sent("nope"), {"code": -32601, "message": "Method not found"}, 0),
        (sent("listPlugins"), NO_PLUGINS, 0),
        (sent("loadPlugin", '["config.json"]'), NO_PLUGINS, 0),
        (sent("reloadPlugin", '["name","config.json"]'), NO_PLUGINS, 0),
        (sent("unloadPlugin", '["name"]'), NO_PLUGINS, 0),
        (b'{"method":"pid","id":5}', {"code": -32600, "message": "Unsupported JSON-RPC protocol version"}, 5),
        (b'{"jsonrpc":"2.0","method":"pid","id":"x","more":1}', {"code": -32600, "message": "Invalid request"}, "x"),
        (b'{"jsonrpc":"2.0","method":7,"id":6}', {"code": -32600, "message": "Invalid request"}, 6),
        (b'{"jsonrpc":"2.0","method":"pid","params":7,"id":6}', {"code": -32600, "message": "Invalid request"}, 6),
        (b'{"jsonrpc":"2.0","method":"pid","id":-1}', {"code": -32600, "message": "Invalid request"}, None),
        (b'{"jsonrpc":"2.0","method":"pid","id":true}', {"code": -32600, "message": "Invalid request"}, None),
        (b'{"jsonrpc":"2.0","method":"\xff","id":1}', {"code": -32700, "message": "Parse error"}, None),
        (b'{"jsonrpc":"2.0","method":"pid","params":[NaN],"id":1}', {"code": -32700, "message": "Parse error"}, None),
    ],
)
def test_errors_have_their_codes_and_texts(tmp_path: Path, request_text: bytes, error: dict[str, Any], ident: Any) -> None:
    async def scenario(client: AdminClient, control: Control) -> None:
        control.told.append(("voter", KEY))
        text = json.dumps({"jsonrpc": "2.0", "error": error, "id": ident}, separators=(",", ":"))
        assert await raw(tmp_path, request_text) == text.encode() + b"\n"

    with_server(tmp_path, scenario)


def test_what_makes_no_sense_here_says_why_and_is_no_method(tmp_path: Path) -> None:
    async def scenario(client: AdminClient, control: Control) -> None:
        for method, why in ABSENT.items():
            for params in ([], ["anything", {"at": "all"}]):
                with pytest.raises(AdminError) as raised:
                    await client.acall(method, *params)
                assert (raised.value.code, str(raised.value)) == (-32601, f"Method not found: {method} is not here: {why}")
        assert control.told == []

    with_server(tmp_path, scenario)


def test_the_page_lists_every_method_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs" / "admin-rpc.md").read_text()
    tables = page[page.index("## Methods of the validators in use") : page.index("## From the command line")]
    tables = tables[: tables.index("### ")] + tables[tables.index("## Our own methods") :]
    listed = [name for row in re.findall(r"^\| (`.*?) \|", tables, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sorted(control_handlers(Control()))


class Theirs:
    """A server that answers like theirs, from a table of method and result, and remembers the bytes it got."""

    def __init__(self, ledger: Path, results: Mapping[str, str]) -> None:
        self.ledger, self.results = ledger, results
        self.got: list[bytes] = []

    async def __aenter__(self) -> Theirs:
        self._server = await asyncio.start_unix_server(self._serve, str(admin_socket(self.ledger)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readuntil(b"}")  # theirs cuts at the bracket: it may not wait for a newline
        self.got.append(line)
        asked = json.loads(line)
        result = self.results.get(asked["method"])
        known = '"result":' + result if result is not None else '"error":{"code":-32601,"message":"Method not found"}'
        writer.write(f'{{"jsonrpc":"2.0",{known},"id":{asked["id"]}}}\n'.encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()


def test_our_command_line_drives_theirs(tmp_path: Path) -> None:
    key_file = tmp_path / "key.json"
    write_keypair_file(key_file, KEY)
    results = {
        "setIdentity": "null", "setIdentityFromBytes": "null", "addAuthorizedVoter": "null", "removeAllAuthorizedVoters": "null",
        "setLogFilter": "null", "exit": "null", "contactInfo": json.dumps({"id": OWN.address, "gossip": "127.0.0.1:8001"}),
    }  # fmt: skip
    with in_thread(Theirs(tmp_path, results)) as theirs:
        for args in (
            ["set-identity", key_file, "--require-tower"], ["authorized-voter", "add", key_file],
            ["authorized-voter", "remove-all"], ["set-log-filter", "info"], ["exit", "--force"],
        ):  # fmt: skip
            result = call(*args, "-l", tmp_path)
            assert (result.exit_code, result.stderr) == (0, ""), args
        assert call("set-identity", "-l", tmp_path, stdin=key_file.read_text()).exit_code == 0
        lines = call("contact-info", "-l", tmp_path).stdout.splitlines()
        assert lines[:3] == [f"Identity: {OWN.address}", "Gossip: 127.0.0.1:8001", "TVU: -"]
    asked = [json.loads(request) for request in theirs.got]
    assert [(one["method"], one["params"]) for one in asked] == [
        ("setIdentity", [str(key_file), True]), ("addAuthorizedVoter", [str(key_file)]), ("removeAllAuthorizedVoters", []),
        ("setLogFilter", ["info"]), ("exit", []), ("setIdentityFromBytes", [list(KEY.secret), False]), ("contactInfo", []),
    ]  # fmt: skip
    assert all(list(one) == ["jsonrpc", "id", "method", "params"] and one["jsonrpc"] == "2.0" for one in asked)


def test_our_monitor_shows_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tower.validator.monitor as watching

    monkeypatch.setattr(watching.monitor, "__kwdefaults__", {"poll_s": 0.01})
    contact = {"id": OWN.address, "gossip": "127.0.0.1:8001", "tpu": "0.0.0.0:0", "tpu_vote": "0.0.0.0:0", "shred_version": 9}
    with rpc_server(CLUSTER) as rpc:
        results = {
            "startProgress": '"Running"', "rpcAddress": json.dumps(rpc.url.removeprefix("http://")),
            "startTime": '{"secs_since_epoch":1700000000,"nanos_since_epoch":0}', "contactInfo": json.dumps(contact),
        }  # fmt: skip
        server = Theirs(tmp_path, results)
        watched = asyncio.run(_watch_until_shown(server))
    genesis = f"Genesis Hash: {CLUSTER['getGenesisHash']}"
    assert watched[:3] == [f"Ledger location: {tmp_path}", f"Identity: {OWN.address}", genesis]
    assert "Processed Slot: 30" in watched[-2]
    assert watched[-1] == "The validator has ended"


async def _watch_until_shown(server: Theirs) -> list[str]:
    """What `monitor` says, from a server that ends once its status has been shown."""
    from tower.validator.monitor import monitor

    said: list[str] = []
    async with server:

        def live(text: str) -> None:
            said.append(text)
            admin_socket(server.ledger).unlink(missing_ok=True)

        await asyncio.wait_for(monitor(server.ledger, said.append, live), BOUND_S)
    return said
