"""The admin RPC as its callers see it: framing, permissions, answers, errors, start and end."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.support.admin import BOUND_S, KEY, Control, raw, until, with_server
from tower.keys import write_keypair_file
from tower.validator import admin
from tower.validator.admin import (
    AdminClient,
    AdminError,
    AdminServer,
    AdminTimeout,
    AdminUnavailable,
    admin_socket,
    control_handlers,
)
from tower.validator.admin_wire import MAX_REQUEST_BYTES, RequestSplitter


def test_requests_are_cut_at_balanced_brackets_however_they_arrive(rng: random.Random) -> None:
    pieces = ['"', "\\", "{", "}", "[", "]", "a", "\n", "é", ","]

    def value(depth: int) -> Any:
        kind = rng.randrange(3 if depth else 1)
        if kind == 0:
            return "".join(rng.choices(pieces, k=rng.randrange(8)))
        if kind == 1:
            return [value(depth - 1) for _ in range(rng.randrange(4))]
        return {value(0): value(depth - 1) for _ in range(rng.randrange(4))}

    for _ in range(200):
        requests = [rng.choice([{"k": value(3)}, [value(3)]]) for _ in range(rng.randrange(1, 6))]
        texts = [json.dumps(r, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1])) for r in requests]
        stream = "".join(rng.choice(["", " ", "\n", "\r\n\t"]) + text for text in texts).encode()
        splitter, cut, found = RequestSplitter(len(stream)), 0, []
        while cut < len(stream):
            size = rng.randrange(1, 40)
            found += list(splitter.feed(stream[cut : cut + size]))
            cut += size
        assert [json.loads(request) for request in found] == requests


def test_every_method_answers(tmp_path: Path) -> None:
    key_file = tmp_path / "key.json"
    write_keypair_file(key_file, KEY)

    async def scenario(client: AdminClient, control: Control) -> None:
        assert stat.S_IMODE(os.stat(client.path).st_mode) == 0o600
        assert await client.acall("rpcAddress") is None
        assert await client.acall("rpcUrl") == "http://127.0.0.1:1"
        assert await client.acall("pid") == os.getpid()
        assert await client.acall("startTime") == {"secs_since_epoch": 1700000000, "nanos_since_epoch": 500000000}
        assert await client.acall("startProgress") == "Running"
        assert await client.acall("identityTransitionStatus") == {"state": "idle"}
        assert await client.acall("status") == {"identity": KEY.address, "state": "voting"}
        assert await client.acall("setLogFilter", "debug") is None
        info = await client.acall("contactInfo")
        assert (info["id"], info["gossip"], info["tpu_vote"]) == (KEY.address, "127.0.0.1:8001", "0.0.0.0:0")
        await client.acall("addAuthorizedVoter", str(key_file))
        with pytest.raises(AdminError, match=r"^Authorized voter already present$"):
            await client.acall("addAuthorizedVoterFromBytes", list(KEY.secret))
        assert control.told == [("filter", "debug"), ("voter", KEY)]
        await client.acall("removeAllAuthorizedVoters")
        assert control.told == []
        await client.acall("setIdentity", str(key_file), True)
        await client.acall("setIdentityFromBytes", list(KEY.secret), False)
        assert control.told[1::2] == [("adopted", KEY, True), ("adopted", KEY, False)]
        assert await client.acall("exit") is None
        await asyncio.wait_for(control.exited.wait(), BOUND_S)

    with_server(tmp_path, scenario)


def test_set_identity_answers_when_adopted_and_others_are_served_meanwhile(tmp_path: Path) -> None:
    async def scenario(client: AdminClient, control: Control) -> None:
        control.may_adopt.clear()
        asked = asyncio.create_task(client.acall("setIdentityFromBytes", list(KEY.secret), False))
        await until(lambda: ("asked", KEY) in control.told)
        second = asyncio.create_task(client.acall("setIdentityFromBytes", list(KEY.secret), True))
        assert await client.acall("startProgress") == "Running"
        assert not asked.done()
        assert control.told.count(("asked", KEY)) == 1  # one change of identity at a time
        control.may_adopt.set()
        await asyncio.gather(asked, second)
        assert control.told[-1] == ("adopted", KEY, True)

    with_server(tmp_path, scenario)


def test_before_start_up_is_complete(tmp_path: Path) -> None:
    async def scenario(client: AdminClient, control: Control) -> None:
        control.post_init = False
        for method, params in (("setIdentityFromBytes", [list(KEY.secret), False]), ("contactInfo", [])):
            with pytest.raises(AdminError, match=r"^Retry once validator start up is complete$") as raised:
                await client.acall(method, *params)
            assert raised.value.code == -32602
        assert control.told == []
        assert await client.acall("pid") == os.getpid()

    with_server(tmp_path, scenario)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"hello\n", -32700),
        (b'{"jsonrpc": nonsense}', -32700),
        (b"[" * 3000 + b"]" * 3000, -32700),
        (b"[]", -32600),
        (b'{"method":"pid","id":1}', -32600),
        (b'{"jsonrpc":"2.0","method":"nope","id":1}', -32601),
        (b'{"jsonrpc":"2.0","method":"pid","params":[1],"id":1}', -32602),
        (b'{"jsonrpc":"2.0","method":"pid","params":{"a":1},"id":1}', -32602),
        (b'{"jsonrpc":"2.0","method":"setIdentity","params":["k.json",1],"id":1}', -32602),
        (b'{"jsonrpc":"2.0","method":"setIdentity","params":["k.json"],"id":1}', -32602),
        (b'{"jsonrpc":"2.0","method":"pid","params":["' + b"x" * MAX_REQUEST_BYTES, -32600),
    ],
)
def test_a_bad_request_is_answered_by_an_error_code(tmp_path: Path, sent: bytes, code: int) -> None:
    async def scenario(client: AdminClient, control: Control) -> None:
        answer = json.loads(await raw(tmp_path, sent))
        assert answer["error"]["code"] == code
        assert await client.acall("pid") == os.getpid()  # and the server lives on

    with_server(tmp_path, scenario)


def test_batches_notifications_and_several_requests_on_one_connection(tmp_path: Path) -> None:
    async def scenario(client: AdminClient, control: Control) -> None:
        one = b'{"jsonrpc":"2.0","method":"startProgress","params":[],"id":%d}'
        quiet = b'{"jsonrpc":"2.0","method":"setLogFilter","params":["info"]}'
        lines = (await raw(tmp_path, one % 1 + quiet + b"\n" + one % 2 + b"[" + quiet + b"," + one % 3 + b"]")).split(b"\n")
        assert [json.loads(line) for line in lines[:2]] == [
            {"jsonrpc": "2.0", "result": "Running", "id": ident} for ident in (1, 2)
        ]
        assert [answer["id"] for answer in json.loads(lines[2])] == [3]
        assert lines[3:] == [b""]
        assert control.told == [("filter", "info")] * 2

    with_server(tmp_path, scenario)


def test_no_secret_in_an_error(tmp_path: Path) -> None:
    broken = list(KEY.secret)
    broken[40] ^= 1
    bad_file = tmp_path / "bad.json"
    bad_file.write_text(json.dumps(broken))

    async def scenario(client: AdminClient, control: Control) -> None:
        for method, key in (("setIdentityFromBytes", broken), ("setIdentity", str(bad_file))):
            with pytest.raises(AdminError, match="Failed to read identity keypair from") as raised:
                await client.acall(method, key, False)
            text = str(raised.value).replace(str(bad_file), "")
            assert not any(str(number) in text for number in KEY.secret if number > 9)
            assert "not repeated here" not in text  # nor was it there before the last look
        assert control.told == []

    with_server(tmp_path, scenario)


def test_an_unexpected_exception_goes_to_the_loop_and_not_to_the_client(tmp_path: Path) -> None:
    async def broken() -> None:
        raise ZeroDivisionError("a detail")

    async def run() -> None:
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
        async with AdminServer(admin_socket(tmp_path), {"broken": broken}):
            with pytest.raises(AdminError, match=r"^Internal error") as raised:
                await AdminClient(tmp_path).acall("broken")
        assert raised.value.code == -32603
        assert [type(problem) for problem in reported] == [ZeroDivisionError]

    asyncio.run(run())


def test_only_root_and_the_same_user_may_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Peer:
        def __init__(self, uid: int) -> None:
            self.uid = uid

        def getsockopt(self, *_: int) -> bytes:
            return struct.pack("3i", 1, self.uid, 1)

    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    allowed = {uid: admin._peer_is_allowed(Peer(uid)) for uid in (0, 4242, 4243)}  # type: ignore[arg-type]
    assert allowed == {0: True, 4242: True, 4243: False}
    monkeypatch.setattr(admin, "_peer_is_allowed", lambda _: False)

    async def scenario(client: AdminClient, control: Control) -> None:
        with pytest.raises(AdminError, match="Only root and the user"):
            await client.acall("setLogFilter", "x")
        assert control.told == []

    with_server(tmp_path, scenario)


def test_a_stale_socket_is_replaced_and_a_foreign_one_left_alone(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(admin_socket(tmp_path)))
    left.close()

    async def run() -> None:
        with pytest.raises(AdminUnavailable, match="connection refused"):
            await AdminClient(tmp_path).acall("pid")
        first = AdminServer(admin_socket(tmp_path), control_handlers(Control()))
        await first.start()
        assert await AdminClient(tmp_path).acall("pid") == os.getpid()
        async with AdminServer(admin_socket(tmp_path), control_handlers(Control())):
            await first.close()
            assert await AdminClient(tmp_path).acall("pid") == os.getpid()

    asyncio.run(run())
    assert list(tmp_path.iterdir()) == []


def test_what_a_client_says_when_nobody_answers(tmp_path: Path) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        with pytest.raises(AdminUnavailable) as raised:
            await AdminClient(tmp_path).acall("pid")
        assert str(raised.value).startswith(f"{tmp_path}/admin.rpc does not exist; is the validator running?")
        assert "--ledger" in str(raised.value)
        server = AdminServer(admin_socket(tmp_path), {"hang": hang})
        await server.start()
        with pytest.raises(AdminTimeout, match=r"no answer to hang within 0.05 s"):
            await AdminClient(tmp_path).acall("hang", timeout=0.05)
        pending = asyncio.create_task(AdminClient(tmp_path).acall("hang"))
        await until(lambda: len(server._connections) == 2)
        await asyncio.wait_for(server.close(), BOUND_S)
        with pytest.raises(AdminUnavailable, match="the validator ended before it answered hang"):
            await pending

    asyncio.run(run())


def test_a_ledger_deeper_than_a_socket_address(tmp_path: Path) -> None:
    ledger = tmp_path / ("d" * 80) / ("e" * 80)
    ledger.mkdir(parents=True)

    async def scenario(client: AdminClient, control: Control) -> None:
        assert await client.acall("pid") == os.getpid()

    with_server(ledger, scenario)
