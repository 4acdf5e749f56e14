"""The feed against a PubSub server that talks nonsense, hangs up, and falls silent."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from tests.support.litesvm import encode_vote_account, new_account
from tower.keys import Keypair
from tower.types import FrozenBank
from tower.validator import feed as feed_module
from tower.validator.feed import SLOT_HASHES, ClusterFeed, FeedGap
from tower.validator.rpc import Account, Blockhash, EpochInfo, RpcUnreachable, VoteAccount, VoteAccounts

PATIENCE_S = 10.0
STRANGER = Keypair.from_seed(b"s" * 32).address


def named(slot: int) -> bytes:
    return hashlib.sha256(str(slot).encode()).digest()


def slot_hashes(newest: int, oldest: int = 0) -> bytes:
    """What the sysvar of the bank after `newest` holds."""
    slots = range(newest, oldest - 1, -1)
    return struct.pack("<Q", len(slots)) + b"".join(slot.to_bytes(8, "little") + named(slot) for slot in slots)


def bank_news(slot: int, oldest: int = 0) -> dict[str, Any]:
    data = [base64.b64encode(slot_hashes(slot - 1, oldest)).decode(), "base64"]
    result = {"context": {"slot": slot}, "value": {"data": data}}
    return {"jsonrpc": "2.0", "method": "accountNotification", "params": {"result": result, "subscription": 1}}


class Rpc:
    """A cluster that stands at slot 5, with one vote account that nobody can decode; unreachable `failures` times."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures

    async def get_epoch_info(self) -> EpochInfo:
        if self.failures:
            self.failures -= 1
            raise RpcUnreachable("not now")
        return EpochInfo(0, 5, 1000, 5)

    async def get_vote_accounts(self) -> VoteAccounts:
        return VoteAccounts((VoteAccount(STRANGER, STRANGER, 7, 0, 0),), ())

    async def get_latest_blockhash(self) -> Blockhash:
        return Blockhash(5, bytes(32), 5)

    async def get_multiple_accounts(self, addresses: list[bytes]) -> tuple[int, list[Account | None]]:
        return 5, [Account(bytes(32), 1, slot_hashes(4)), Account(bytes(32), 1, b"no vote account")]


class Pubsub:
    """Serves each connection with the next of `scripts`; the last one serves all that follow."""

    def __init__(self, *scripts: Callable[[web.WebSocketResponse], Awaitable[None]]) -> None:
        self._scripts = list(scripts)
        self.connections = 0
        self.asked: list[Any] = []

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.asked += [await socket.receive_json() for _ in range(2)]
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        await script(socket)
        return socket


@asynccontextmanager
async def following(pubsub: Pubsub, rpc: Rpc | None = None) -> Any:
    app = web.Application()
    app.router.add_get("/", pubsub._serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    banks: list[FrozenBank] = []
    roots: list[int] = []
    url = f"ws://127.0.0.1:{runner.addresses[0][1]}"
    made = ClusterFeed(rpc or Rpc(), url, None, banks.append, roots.append)  # type: ignore[arg-type]
    forks = await made.start()
    task = asyncio.create_task(made.run())
    try:
        yield forks, banks, roots, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await runner.cleanup()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def stay(socket: web.WebSocketResponse) -> None:
    await socket.receive()


NONSENSE = [
    "no json", "[]", "5", "null", '"text"', "[" * 3000, '{"method": "accountNotification"}',
    '{"method": "accountNotification", "params": {"result": {"value": null, "context": {"slot": 6}}}}',
    '{"method": "accountNotification", "params": {"result": {"value": {"data": []}, "context": {"slot": 6}}}}',
    '{"method": "accountNotification", "params": {"result": {"value": {"data": ["?"]}, "context": {"slot": 6}}}}',
    '{"method": "accountNotification", "params": {"result": {"value": {"data": ["AAAA"]}, "context": {"slot": 6}}}}',
    '{"method": "rootNotification", "params": {"result": "x"}}', '{"method": "rootNotification", "params": []}',
    '{"error": {"code": -32601, "message": "no such method"}, "id": 1}', '{"result": 1, "id": 2}',
]  # fmt: skip


def test_nonsense_is_left_out_and_what_follows_is_heard() -> None:
    async def talk(socket: web.WebSocketResponse) -> None:
        for text in NONSENSE:
            await socket.send_str(text)
        await socket.send_bytes(b"\x00\xff")
        await socket.send_json(bank_news(7))
        await socket.send_json({"method": "rootNotification", "params": {"result": 3}})
        await stay(socket)

    async def scenario() -> None:
        pubsub = Pubsub(talk)
        async with following(pubsub) as (forks, banks, roots, _):
            await until(lambda: bool(roots))
            assert forks.best().slot == 4
            assert [(bank.slot, bank.parent_slot, bank.bank_hash) for bank in banks] == [
                (5, 4, named(5)), (6, 5, named(6)),
            ]  # fmt: skip
            assert roots == [3]
            assert pubsub.connections == 1
            assert [asked["method"] for asked in pubsub.asked] == ["accountSubscribe", "rootSubscribe"]
            assert pubsub.asked[0]["params"][0] == SLOT_HASHES

    asyncio.run(scenario())


def test_connections_that_end_or_fall_silent_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "SILENCE_S", 0.2)

    async def hang_up(socket: web.WebSocketResponse) -> None:
        await socket.send_json(bank_news(6))

    async def resumed(socket: web.WebSocketResponse) -> None:
        await socket.send_json(bank_news(9))
        await stay(socket)

    async def scenario() -> None:
        pubsub = Pubsub(hang_up, stay, resumed)
        async with following(pubsub) as (_, banks, _, _):
            await until(lambda: len(banks) == 4)
            assert [bank.slot for bank in banks] == [5, 6, 7, 8]
            assert [bank.parent_slot for bank in banks] == [4, 5, 6, 7]

    asyncio.run(scenario())


def test_a_gap_that_cannot_be_joined_is_an_error() -> None:
    async def jump(socket: web.WebSocketResponse) -> None:
        await socket.send_json(bank_news(1000, oldest=488))
        await stay(socket)

    async def scenario() -> None:
        async with following(Pubsub(jump)) as (_, banks, _, task):
            with pytest.raises(FeedGap, match="went on to slot 1000 without us: more than 512 slots"):
                await asyncio.wait_for(asyncio.shield(task), PATIENCE_S)
            assert banks == []

    asyncio.run(scenario())


def test_a_start_waits_for_a_cluster_that_does_not_answer() -> None:
    async def scenario() -> None:
        rpc = Rpc(failures=2)
        async with following(Pubsub(stay), rpc) as (forks, *_):
            assert (rpc.failures, forks.best().slot) == (0, 4)

    asyncio.run(scenario())


class BusyRpc(Rpc):
    """Names more vote accounts than fit into one call; if it `moves`, each call meets a newer bank than the one before."""

    accounts = tuple(Keypair.from_seed(number.to_bytes(32, "big")).address for number in range(120))

    def __init__(self, moves: bool) -> None:
        super().__init__()
        self.moves = moves
        self.calls = 0

    async def get_vote_accounts(self) -> VoteAccounts:
        return VoteAccounts(tuple(VoteAccount(address, STRANGER, 7, 0, 0) for address in self.accounts), ())

    async def get_multiple_accounts(self, addresses: list[bytes]) -> tuple[int, list[Account | None]]:
        slot = 5 + self.calls * self.moves
        self.calls += 1
        state = encode_vote_account(new_account())
        return slot, [Account(bytes(32), 1, slot_hashes(4)), *[Account(bytes(32), 1, state)] * (len(addresses) - 1)]


@pytest.mark.parametrize("moves", [False, True], ids=["one bank", "two banks"])
def test_vote_accounts_of_two_banks_are_no_view(moves: bool) -> None:
    async def talk(socket: web.WebSocketResponse) -> None:
        await socket.send_json(bank_news(6))
        await stay(socket)

    async def scenario() -> None:
        async with following(Pubsub(talk), BusyRpc(moves)) as (_, banks, _, _):
            await until(lambda: bool(banks))
            assert [(bank.slot, len(bank.votes)) for bank in banks] == [(5, 0 if moves else 120)]

    asyncio.run(scenario())
