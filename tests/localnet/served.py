"""A served cluster in the test's own process, and clients of its sockets and its command line."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from solders.pubkey import Pubkey

from tests.localnet.support import OUR_ACCOUNT, genesis
from tower.localnet.genesis import LocalnetConfig
from tower.localnet.server import Localnet

SLOT_HISTORY = "SysvarS1otHistory11111111111111111111111111"
SLOT_HASHES = "SysvarS1otHashes111111111111111111111111111"
CLOCK = "SysvarC1ock11111111111111111111111111111111"
VOTE_PROGRAM = "Vote111111111111111111111111111111111111111"
ACCOUNT = str(Pubkey(OUR_ACCOUNT))
PROCESSED = {"commitment": "processed", "encoding": "base64"}
PATIENCE_S = 15.0
CLI = (sys.executable, "-m", "tower.localnet.cli")
QUIET = LocalnetConfig(slot_ms=20, voters=3, fork_every=0)


class Client:
    """A JSON-RPC client that asserts the envelope."""

    def __init__(self, session: aiohttp.ClientSession, localnet: Localnet) -> None:
        self.session = session
        self.localnet = localnet

    async def post(self, body: str | bytes) -> Any:
        async with self.session.post(self.localnet.rpc_url, data=body) as response:
            return json.loads(await response.text() or "null")

    async def call(self, method: str, *params: object) -> Any:
        answer = await self.post(json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}))
        assert (answer["jsonrpc"], answer["id"]) == ("2.0", 7)
        return answer["result"] if "result" in answer else answer["error"]


@asynccontextmanager
async def running(config: LocalnetConfig, clock: bool = True) -> AsyncIterator[Client]:
    localnet = Localnet(genesis(config), config)
    await localnet.start()
    ticking = asyncio.create_task(localnet.run()) if clock else None
    try:
        async with aiohttp.ClientSession() as session:
            yield Client(session, localnet)
    finally:
        if ticking is not None:
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)
        await localnet.stop()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await asyncio.sleep(0.005)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`openos-localnet` to its end."""
    return subprocess.run([*CLI, *arguments], capture_output=True, text=True, timeout=4 * PATIENCE_S)


def send_udp(address: str, data: bytes, source: str = "127.0.0.1") -> None:
    host, port = address.split(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((source, 0))
        sender.sendto(data, (host, int(port)))
