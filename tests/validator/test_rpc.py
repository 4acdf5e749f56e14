"""The JSON-RPC client: what it asks, how it reads answers, and what it says when there is no usable one."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.live import RpcServer
from tower.errors import InvalidInput, TowerError
from tower.keys import Keypair
from tower.validator.rpc import Account, ClusterRpc, RpcError, RpcMalformed, RpcUnreachable, SnapshotSlots
from tower.validator.urls import websocket_url_for

KEY = Keypair.from_seed(bytes([5]) * 32)
SOME = {"owner": KEY.address, "lamports": 7, "data": [base64.b64encode(b"abc").decode(), "base64"], "executable": False}


def ask(results: dict[str, Any], call: Callable[[ClusterRpc], Awaitable[Any]], **more: Any) -> tuple[Any, RpcServer]:
    async def run() -> tuple[Any, RpcServer]:
        async with RpcServer(results) as server, ClusterRpc(server.url, **more) as rpc:
            return await call(rpc), server

    return asyncio.run(run())


def test_accounts_come_in_order_with_their_bank() -> None:
    answer = {"context": {"slot": 9}, "value": [SOME, None]}
    found, server = ask({"getMultipleAccounts": answer}, lambda rpc: rpc.get_multiple_accounts([KEY.pubkey, bytes(32)]))
    assert found == (9, [Account(KEY.pubkey, 7, b"abc"), None])
    addresses, config = server.calls[0][1]
    assert addresses == [KEY.address, "1" * 32]
    assert config == {"encoding": "base64", "commitment": "processed"}
    with pytest.raises(InvalidInput, match="at most 100"):
        ask({}, lambda rpc: rpc.get_multiple_accounts([KEY.pubkey] * 101))


@pytest.mark.parametrize(
    ("method", "answer", "call"),
    [
        ("getSlot", True, lambda rpc: rpc.get_slot()),
        ("getSlot", "5", lambda rpc: rpc.get_slot()),
        ("getEpochInfo", {"epoch": 1}, lambda rpc: rpc.get_epoch_info()),
        ("getIdentity", {"identity": "0OIl"}, lambda rpc: rpc.get_identity()),
        ("getAccountInfo", {"value": None}, lambda rpc: rpc.get_account_info(KEY.pubkey)),
        (
            "getAccountInfo",
            {"context": {"slot": 1}, "value": {**SOME, "data": ["!", "base64"]}},
            lambda rpc: rpc.get_account_info(KEY.pubkey),
        ),
        (
            "getMultipleAccounts",
            {"context": {"slot": 1}, "value": [None]},
            lambda rpc: rpc.get_multiple_accounts([KEY.pubkey] * 2),
        ),
        ("getLeaderSchedule", {"a": ["x"]}, lambda rpc: rpc.get_leader_schedule()),
        ("getVoteAccounts", {"current": []}, lambda rpc: rpc.get_vote_accounts()),
        ("getSignatureStatuses", {"context": {"slot": 1}, "value": []}, lambda rpc: rpc.get_signature_statuses(["a"])),
    ],
)
def test_an_answer_of_another_shape(method: str, answer: Any, call: Callable[[ClusterRpc], Awaitable[Any]]) -> None:
    with pytest.raises(RpcMalformed, match=f"{method} answered in an unexpected shape"):
        ask({method: answer}, call)


def test_errors_of_the_server() -> None:
    with pytest.raises(RpcError, match=r"^--url http://127.0.0.1:\d+: getSlot: two lines \(code -5\)$") as raised:
        ask({"getSlot": Exception("two\nlines", -5)}, lambda rpc: rpc.get_slot())
    assert (raised.value.code, raised.value.message) == (-5, "two lines")
    assert ask({"getHealth": Exception("behind", -32005)}, lambda rpc: rpc.get_health())[0] is False
    assert ask({"getHealth": "ok"}, lambda rpc: rpc.get_health())[0] is True
    for problem in (Exception("No snapshot", -32008), Exception("Method not found", -32601)):
        assert ask({"getHighestSnapshotSlot": problem}, lambda rpc: rpc.get_highest_snapshot_slot())[0] is None
    answer = {"full": 5, "incremental": None}
    assert ask({"getHighestSnapshotSlot": answer}, lambda rpc: rpc.get_highest_snapshot_slot())[0] == SnapshotSlots(5, None)


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_nobody_there() -> None:
    url = f"http://user:word@127.0.0.1:{_closed_port()}/token"

    async def run() -> None:
        async with ClusterRpc(url) as rpc:
            await rpc.get_slot()

    with pytest.raises(RpcUnreachable, match=r"^--url http://127.0.0.1:\d+: connection refused; is the cluster's RPC "):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (None, "no answer to getSlot within 0.2 s"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n<htm>", r"does not speak JSON-RPC \(getSlot: HTTP 404\)"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n{"id":7777,"result":5}'[:-1], "does not speak JSON-RPC"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n{"id":7777,"result":5}', "belongs to another request"),
        (b"", "is the cluster's RPC running"),
        (b"garbage\r\n\r\n", "is the cluster's RPC running"),
    ],
)
def test_something_else_there(said: bytes | None, line: str) -> None:
    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        if said is not None:
            writer.write(said)
        else:
            await reader.read()
        writer.close()
        await writer.wait_closed()
        served.set()

    async def run() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with ClusterRpc(f"http://127.0.0.1:{port}", timeout=0.2 if said is None else 10) as rpc:
                try:
                    await rpc.get_slot()
                finally:
                    await rpc.close()
                    await served.wait()

    with pytest.raises(TowerError, match=line) as raised:
        asyncio.run(run())
    assert isinstance(raised.value, RpcUnreachable)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "derived"),
    [
        ("http://127.0.0.1:8899", "ws://127.0.0.1:8900/"),
        ("https://user:word@[::1]:10/a?b=1", "wss://user:word@[::1]:11/a?b=1"),
        ("http://localhost", "ws://localhost/"),
    ],
)
def test_the_pubsub_url(url: str, derived: str) -> None:
    assert websocket_url_for(url) == derived


@pytest.mark.parametrize("url", ["", "127.0.0.1:8899", "ws://a:1", "http://", "http://a:0", "http://a:99999", "http://[1"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"^--url: .* is no http\(s\) URL"):
        websocket_url_for(url)
