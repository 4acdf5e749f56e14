"""A validator that only remembers what the admin RPC told it, served at a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from tower.errors import InvalidInput
from tower.keys import Keypair
from tower.validator.admin import AdminClient, AdminServer, admin_socket, control_handlers

KEY = Keypair.from_seed(bytes([9]) * 32)
BOUND_S = 10.0


class Control:
    """A validator that remembers what it was told."""

    def __init__(self) -> None:
        self.post_init = True
        self.told: list[tuple[Any, ...]] = []
        self.exited = asyncio.Event()
        self.may_adopt = asyncio.Event()
        self.may_adopt.set()

    def request_exit(self) -> None:
        self.exited.set()

    def rpc_address(self) -> str | None:
        return None

    def rpc_url(self) -> str:
        return "http://127.0.0.1:1"

    def set_log_filter(self, text: str) -> None:
        self.told.append(("filter", text))

    def start_time(self) -> float:
        return 1700000000.5

    def start_progress(self) -> str | Mapping[str, Any]:
        return "Running"

    def contact_info(self) -> Mapping[str, Any]:
        return {"id": KEY.address, "gossip": "127.0.0.1:8001"}

    def status(self) -> Mapping[str, Any]:
        return {"identity": KEY.address, "state": "voting"}

    async def add_authorized_voter(self, voter: Keypair) -> None:
        if ("voter", voter) in self.told:
            raise InvalidInput("Authorized voter already present")
        self.told.append(("voter", voter))

    async def remove_all_authorized_voters(self) -> None:
        self.told.clear()

    def identity_transition(self) -> Mapping[str, Any]:
        return {"state": "idle"}

    async def set_identity(self, identity: Keypair, require_tower: bool) -> None:
        self.told.append(("asked", identity))
        await self.may_adopt.wait()
        self.told.append(("adopted", identity, require_tower))


def with_server(ledger: Path, scenario: Callable[[AdminClient, Control], Awaitable[None]]) -> None:
    async def run() -> None:
        control = Control()
        async with AdminServer(admin_socket(ledger), control_handlers(control)):
            async with asyncio.timeout(BOUND_S):
                await scenario(AdminClient(ledger), control)
        assert not admin_socket(ledger).exists()

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not condition():
            await asyncio.sleep(0.005)


async def raw(ledger: Path, data: bytes) -> bytes:
    """Everything that the server says to `data`, until it or we have nothing more to say."""
    reader, writer = await asyncio.open_unix_connection(str(admin_socket(ledger)))
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer
