"""The PubSub server: subscriptions over WebSocket, fed by the cluster as it goes.

Notified, as over a real node: every bank created on the RPC side (`slotSubscribe`), accounts of *every* frozen bank
visible there, whichever fork it is on (`accountSubscribe` at processed; the context's slot names the bank),
transactions reaching a commitment (`signatureSubscribe`, once), and roots (`rootSubscribe`).

A subscriber that does not read is cut off once `QUEUE_MAX` messages wait for it: it can subscribe anew, and what it
would miss by silent dropping it could not notice.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from itertools import count
from typing import Any

from aiohttp import WSMsgType, web
from solders.account import Account
from solders.pubkey import Pubkey

from tower.localnet.bank import CLOCK_SYSVAR, SLOT_HASHES_SYSVAR, Bank
from tower.localnet.cluster import Cluster
from tower.localnet.jsonrpc import INVALID_PARAMS, Dispatcher, Method, RpcError
from tower.localnet.render import (
    account_json,
    commitment_of,
    config_of,
    encoding_of,
    integer,
    param,
    pubkey_of,
    signature_of,
    with_context,
)

__all__ = ["QUEUE_MAX", "PubSub"]

QUEUE_MAX = 1024  # messages that may wait for one subscriber
SUBSCRIPTIONS_MAX = 1000  # per connection
CONNECTIONS_MAX = 256
MESSAGE_BYTES_MAX = 64 * 1024
TOO_SLOW = 1013
SYSVARS = frozenset({SLOT_HASHES_SYSVAR, CLOCK_SYSVAR})


@dataclass(slots=True)
class _Subscription:
    kind: str
    commitment: str = "finalized"
    address: Pubkey | None = None
    signature: bytes = b""
    config: dict[str, Any] | None = None
    last: Account | None = None  # what was sent last, for commitments that move in jumps


class _Connection:
    """One WebSocket: its subscriptions, and the queue of what it was not sent yet."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket
        self.subscriptions: dict[int, _Subscription] = {}
        self.queue: asyncio.Queue[str] = asyncio.Queue(QUEUE_MAX)
        self.too_slow = asyncio.Event()

    def push(self, text: str) -> None:
        try:
            self.queue.put_nowait(text)
        except asyncio.QueueFull:
            self.too_slow.set()

    async def send_all(self) -> None:
        """Send what is queued until the connection ends or falls too far behind."""
        slow = asyncio.create_task(self.too_slow.wait())
        sender = asyncio.create_task(self._send())
        try:
            await asyncio.wait({slow, sender}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (slow, sender):
                task.cancel()
            await asyncio.gather(slow, sender, return_exceptions=True)

    async def _send(self) -> None:
        while not self.socket.closed:
            await self.socket.send_str(await self.queue.get())


class PubSub:
    """A `cluster.Listener` that serves subscribers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._connections: set[_Connection] = set()
        self._ids = count(1)
        self.cut_off = 0  # subscribers that were too slow

    # ---- the connection

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one WebSocket until it closes."""
        if len(self._connections) >= CONNECTIONS_MAX:
            raise web.HTTPServiceUnavailable(text=f"more than {CONNECTIONS_MAX} subscribers")
        socket = web.WebSocketResponse(max_msg_size=MESSAGE_BYTES_MAX, heartbeat=30)
        await socket.prepare(request)
        connection = _Connection(socket)
        self._connections.add(connection)
        reader = asyncio.create_task(self._read(connection))
        sender = asyncio.create_task(connection.send_all())
        try:
            await asyncio.wait({reader, sender}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._connections.discard(connection)
            for task in (reader, sender):
                task.cancel()
            await asyncio.gather(reader, sender, return_exceptions=True)
        if connection.too_slow.is_set():
            self.cut_off += 1
            # A peer that does not read does not answer a close frame either: end the transport.
            await socket.close(code=TOO_SLOW, message=b"too slow", drain=False)
            if request.transport is not None:
                request.transport.abort()
        else:
            await socket.close()
        return socket

    async def close(self) -> None:
        """End every connection."""
        for connection in tuple(self._connections):
            await connection.socket.close()

    async def _read(self, connection: _Connection) -> None:
        dispatcher = Dispatcher(self._table(connection))
        async for message in connection.socket:
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                break
            answer = dispatcher.answer(message.data)
            if answer is not None:
                connection.push(answer)
            self._settle_signatures(connection)

    # ---- subscribing

    def _table(self, connection: _Connection) -> dict[str, Method]:
        def add(subscription: _Subscription) -> int:
            if len(connection.subscriptions) >= SUBSCRIPTIONS_MAX:
                raise RpcError(INVALID_PARAMS, f"more than {SUBSCRIPTIONS_MAX} subscriptions on one connection")
            number = next(self._ids)
            connection.subscriptions[number] = subscription
            return number

        def account(params: list[Any]) -> int:
            address, config = pubkey_of(param(params, 0)), config_of(params, 1)
            encoding_of(config, "binary")
            return add(_Subscription("account", commitment_of(config), address, config=config))

        def signature(params: list[Any]) -> int:
            config = config_of(params, 1)
            return add(_Subscription("signature", commitment_of(config), signature=signature_of(param(params, 0))))

        def remove(params: list[Any]) -> bool:
            if connection.subscriptions.pop(integer(param(params, 0), "subscription"), None) is None:
                raise RpcError(INVALID_PARAMS, "Invalid subscription id.")
            return True

        table: dict[str, Method] = {
            "slotSubscribe": lambda params: add(_Subscription("slot")),
            "rootSubscribe": lambda params: add(_Subscription("root")),
            "accountSubscribe": account,
            "signatureSubscribe": signature,
        }
        for kind in ("slot", "root", "account", "signature"):
            table[f"{kind}Unsubscribe"] = remove
        return table

    # ---- what the cluster tells

    def on_slot(self, bank: Bank, root: int) -> None:
        self._tell_all("slot", {"slot": bank.slot, "parent": bank.parent_slot, "root": root})

    def on_frozen(self, bank: Bank) -> None:
        for connection in self._connections:
            for number, subscription in tuple(connection.subscriptions.items()):
                address = subscription.address
                if subscription.kind != "account" or subscription.commitment != "processed" or address is None:
                    continue
                if address in SYSVARS or address in bank.changed:
                    self._tell_account(connection, number, subscription, bank)
            self._settle_signatures(connection)

    def on_commitment(self, confirmed: int, root: int) -> None:
        banks = {"confirmed": self._cluster.tree[confirmed], "finalized": self._cluster.tree[root]}
        for connection in self._connections:
            for number, subscription in tuple(connection.subscriptions.items()):
                if subscription.kind == "account" and subscription.commitment in banks:
                    self._tell_account(connection, number, subscription, banks[subscription.commitment])
            self._settle_signatures(connection)

    def on_root(self, slot: int) -> None:
        self._tell_all("root", slot)

    def _tell_all(self, kind: str, result: object) -> None:
        for connection in self._connections:
            for number, subscription in connection.subscriptions.items():
                if subscription.kind == kind:
                    self._push(connection, kind, number, result)

    def _tell_account(self, connection: _Connection, number: int, subscription: _Subscription, bank: Bank) -> None:
        address = subscription.address
        if address is None:
            return
        account = bank.account(address, self._cluster.config.slots_in_epoch)
        if subscription.commitment != "processed":
            if account == subscription.last:
                return
            subscription.last = account
        try:
            value = account_json(account, subscription.config or {})
        except RpcError:
            return  # too long for base58: as over a real node, such a subscription stays silent
        self._push(connection, "account", number, with_context(bank, value))

    def _settle_signatures(self, connection: _Connection) -> None:
        """A signature is told once, and its subscription is over."""
        view = self._cluster.rpc_view
        limits = {"processed": view.best, "confirmed": view.confirmed, "finalized": view.root}
        for number, subscription in tuple(connection.subscriptions.items()):
            if subscription.kind != "signature":
                continue
            found = self._cluster.where(subscription.signature)
            if found is not None and found[0].slot <= limits[subscription.commitment]:
                del connection.subscriptions[number]
                self._push(connection, "signature", number, with_context(found[0], {"err": found[1].error}))

    @staticmethod
    def _push(connection: _Connection, kind: str, number: int, result: object) -> None:
        notification = {
            "jsonrpc": "2.0",
            "method": f"{kind}Notification",
            "params": {"result": result, "subscription": number},
        }
        connection.push(json.dumps(notification, separators=(",", ":")))
