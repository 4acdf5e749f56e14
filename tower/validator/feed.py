"""Follows the cluster over JSON-RPC and PubSub, and tells of frozen banks.

A bank's hash is not in the RPC; its child names it, in the SlotHashes sysvar. So for every frozen bank X that the server
tells of, this learns the hash of X's parent P, and only then is P a bank that can be voted for. What P knows of the vote
accounts was fetched when P was the newest bank itself, in one call together with SlotHashes, so that it is one bank's
view; where that call met another bank, P is given its parent's view, which is older and therefore the careful side.

`ClusterFeed` has no opinion and no tower. It gives `FrozenBank` values and roots to two callbacks, on the event loop, parents
before children.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

from tower.errors import TowerError, WireError
from tower.events import LedgerView
from tower.forkchoice import ForkChoice
from tower.keys import from_base58, to_base58
from tower.restore import SlotHistory
from tower.types import FrozenBank, VoteAccountState
from tower.validator.rpc import ClusterRpc, EpochInfo, RpcError, RpcUnreachable
from tower.wire import decode_slot_hashes, decode_vote_account

__all__ = ["SLOT_HASHES", "ClusterFeed", "FeedGap"]

log = logging.getLogger(__name__)

SLOT_HASHES = "SysvarS1otHashes111111111111111111111111111"
SLOT_HISTORY = "SysvarS1otHistory11111111111111111111111111"
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 1.0
CLOSE_S = 0.2  # for a connection to end in good order
CONNECT_S = 5.0  # for a PubSub connection to stand
SILENCE_S = 6.0  # without any message, while a bank comes every 400 ms: the connection is taken for dead
SLOT_HASHES_NAMED = 512  # ancestors that the sysvar names
VIEWS_MAX = 64  # banks whose vote accounts are kept: until their hash is known, and for their children
STAKES_EVERY_SLOTS = 256
ACCOUNTS_PER_CALL = 100
ENDS = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED)
MESSAGE_BYTES_MAX = 1 << 20
HEARTBEAT_S = 5.0

# What an answer can be worth nothing by; WireError and InvalidInput are ValueErrors.
NO_USABLE_ANSWER = (RpcError, RpcUnreachable, ValueError)

View = Mapping[bytes, VoteAccountState]


class FeedGap(TowerError):
    """More slots were missed than SlotHashes names: what was followed cannot be joined with what comes."""


class ClusterFeed:
    """One cluster, followed from now on. `start` gives the first tree; `run` then tells of every later bank."""

    def __init__(
        self,
        rpc: ClusterRpc,
        websocket_url: str,
        vote_account: bytes | None,
        on_bank: Callable[[FrozenBank], None],
        on_root: Callable[[int], None],
    ) -> None:
        self._rpc = rpc
        self._websocket_url = websocket_url
        self._vote_account = vote_account
        self._on_bank = on_bank
        self._on_root = on_root
        self._epoch: EpochInfo | None = None
        self._stakes: Mapping[bytes, int] = {}  # replaced whole, never changed: banks share it
        self._stakes_at = 0
        self._views: dict[int, View] = {}
        self._told_slots: dict[int, None] = {}  # slots of the banks that were told of, in the order of telling
        self._told_views: dict[int, View] = {}  # what the newest of them know of the vote accounts, for banks without a view
        self._blockhash = bytes(32)
        self._tasks: set[asyncio.Task[None]] = set()
        self._heard = 0  # messages from PubSub
        self.tip = 0  # the newest bank that the server told of; its own hash is not known yet

    def epoch_of(self, slot: int) -> int:
        """The epoch of `slot`, from the server's epoch length."""
        info = self._epoch
        return 0 if info is None else info.epoch + (slot - info.first_slot) // info.slots_in_epoch

    # ---- the first tree

    async def start(self) -> ForkChoice:
        """The tree of what the newest bank's SlotHashes names, and a first view of the vote accounts.

        Waits, with growing pauses, for a cluster whose first bank is not frozen yet, and for one that does not answer.
        """
        pause = RETRY_FIRST_S
        entries: list[tuple[int, bytes]] = []
        while not entries:
            try:
                await self._learn_stakes()
                named = await self._look_at_newest()
                entries = decode_slot_hashes(named) if named else []
            except NO_USABLE_ANSWER as problem:
                log.warning("the newest bank could not be looked at: %s", problem)
            if not entries:
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_MAX_S)
        oldest, *later = reversed(entries)
        forks = ForkChoice(self._frozen(oldest[0], None, oldest[1]))
        parent = oldest[0]
        for slot, bank_hash in later:
            forks.add(self._frozen(slot, parent, bank_hash))
            parent = slot
        return forks

    def _frozen(self, slot: int, parent: int | None, bank_hash: bytes) -> FrozenBank:
        view = self._views.pop(slot, None)
        if view is None and parent is not None:
            view = self._told_views.get(parent)
        bank = FrozenBank(
            slot, parent, bank_hash, self._blockhash, self.epoch_of(slot), view or {}, self._stakes
        )
        self._told_slots[slot], self._told_views[slot] = None, bank.votes
        if len(self._told_slots) > 2 * SLOT_HASHES_NAMED:
            del self._told_slots[next(iter(self._told_slots))]
        if len(self._told_views) > VIEWS_MAX:
            del self._told_views[next(iter(self._told_views))]
        return bank

    # ---- what the server knows now

    async def _learn_stakes(self) -> None:
        self._epoch = await self._rpc.get_epoch_info()
        accounts = await self._rpc.get_vote_accounts()
        stakes = {
            from_base58(account.vote_account): account.activated_stake
            for account in (*accounts.current, *accounts.delinquent)
        }
        if self._vote_account is not None:
            stakes.setdefault(self._vote_account, 0)
        self._stakes = stakes
        self._stakes_at = self._epoch.absolute_slot

    async def _look_at_newest(self) -> bytes:
        """One consistent view of the newest bank: its SlotHashes (returned as they are, empty where there are none) and its
        vote accounts (kept)."""
        self._blockhash = (await self._rpc.get_latest_blockhash()).blockhash
        accounts = sorted(self._stakes, key=lambda account: (account != self._vote_account, account))
        view: dict[bytes, VoteAccountState] = {}
        first_slot: int | None = None
        named = b""
        for start in range(0, len(accounts) or 1, ACCOUNTS_PER_CALL - 1):
            chunk = accounts[start : start + ACCOUNTS_PER_CALL - 1]
            slot, found = await self._rpc.get_multiple_accounts([from_base58(SLOT_HASHES), *chunk])
            if first_slot is None:
                first_slot = slot
                named = b"" if found[0] is None else found[0].data
            elif slot != first_slot:
                return named  # the server moved on in between: no consistent view this time
            for account, state in zip(chunk, found[1:], strict=True):
                if state is not None:
                    try:
                        view[account] = decode_vote_account(state.data)
                    except WireError as problem:  # a stranger's account that nobody can read counts for nothing
                        log.debug("vote account %s: %s", to_base58(account), problem)
        if first_slot is not None:
            self._views[first_slot] = view
            self.tip = max(self.tip, first_slot)
            for old in sorted(self._views)[:-VIEWS_MAX]:
                del self._views[old]
        return named

    async def ledger(self) -> LedgerView | None:
        """What the newest rooted bank remembers of old slots: it places a tower that was away for long.

        `None` where the server has none that can be read. Raises `RpcError` and `RpcUnreachable`.
        """
        _, account = await self._rpc.get_account_info(from_base58(SLOT_HISTORY), "finalized")
        try:
            history = None if account is None else SlotHistory.decode(account.data)
        except WireError as problem:
            log.warning("the cluster's SlotHistory cannot be read: %s", problem)
            return None
        return None if history is None else LedgerView(history.newest, history)

    # ---- following

    async def run(self) -> None:
        """Follow until cancelled; connections that break or fall silent are made again.

        Raises `FeedGap` if that took too long.
        """
        pause = RETRY_FIRST_S
        try:
            while True:
                heard = self._heard
                try:
                    await self._follow()
                    log.warning("the cluster's PubSub closed the connection")
                except TimeoutError:
                    log.warning("the cluster's PubSub %s is silent; connecting again", self._websocket_url)
                except (aiohttp.ClientError, OSError) as problem:
                    log.warning("no connection to the cluster's PubSub %s: %s", self._websocket_url, problem)
                pause = RETRY_FIRST_S if self._heard > heard else min(2 * pause, RETRY_MAX_S)
                await asyncio.sleep(pause)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self) -> None:
        """One connection, from its making to its end. Raises what broke it; `TimeoutError` where it was silence."""
        async with aiohttp.ClientSession() as session:
            async with asyncio.timeout(CONNECT_S):
                socket = await session.ws_connect(
                    self._websocket_url, heartbeat=HEARTBEAT_S, max_msg_size=MESSAGE_BYTES_MAX
                )
            try:
                await self._subscribe(socket)
                while (message := await socket.receive(SILENCE_S)).type not in ENDS:
                    self._told(message)
            finally:
                # A server that is gone would be waited for: the closing handshake is worth nothing to us.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_S):
                        await socket.close()

    async def _subscribe(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        options = {"encoding": "base64", "commitment": "processed"}
        for number, (method, params) in enumerate(
            (("accountSubscribe", [SLOT_HASHES, options]), ("rootSubscribe", [])), start=1
        ):
            await socket.send_json({"jsonrpc": "2.0", "id": number, "method": method, "params": params})

    def _told(self, message: aiohttp.WSMessage) -> None:
        """Take one message in. What is not understood is told and left out."""
        self._heard += 1
        try:
            news = _read_news(json.loads(message.data)) if message.type is aiohttp.WSMsgType.TEXT else None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as problem:
            log.warning("not understood, from the cluster's PubSub: %s: %s", type(problem).__name__, problem)
            return
        if isinstance(news, int):
            self._on_root(news)
        elif news is not None:
            self._bank_told(*news)

    def _bank_told(self, tip: int, entries: list[tuple[int, bytes]]) -> None:
        """Bank `tip` is frozen and names its ancestors: tell of those that were not told yet, oldest first."""
        self.tip = max(self.tip, tip)
        unknown = []
        for slot, bank_hash in entries:
            if slot in self._told_slots:
                break
            unknown.append((slot, bank_hash))
        else:
            if entries:
                raise FeedGap(f"the cluster went on to slot {tip} without us: more than {len(entries)} slots were missed")
        if unknown:
            parent = entries[len(unknown)][0]
            for slot, bank_hash in reversed(unknown):
                self._on_bank(self._frozen(slot, parent, bank_hash))
                parent = slot
        self._start_task(self._look())

    async def _look(self) -> None:
        try:
            await self._look_at_newest()
            if self.tip >= self._stakes_at + STAKES_EVERY_SLOTS:
                await self._learn_stakes()
        except NO_USABLE_ANSWER as problem:
            log.warning("the newest bank could not be looked at: %s", problem)

    def _start_task(self, work: Any) -> None:
        if len(self._tasks) >= VIEWS_MAX:
            work.close()  # the server is slower than the cluster: this bank gets its parent's view
            return
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _read_news(message: Any) -> int | tuple[int, list[tuple[int, bytes]]] | None:
    """A root, or a bank's slot with its SlotHashes; `None` for what is no news. Raises for what cannot be read."""
    method = message.get("method")
    if method == "rootNotification":
        return int(message["params"]["result"])
    if method == "accountNotification":
        result = message["params"]["result"]
        data = base64.b64decode(result["value"]["data"][0], validate=True)
        return int(result["context"]["slot"]), decode_slot_hashes(data)
    if "error" in message:
        log.warning("the cluster's PubSub refused a subscription: %s", message["error"])
    return None
