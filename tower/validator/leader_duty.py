"""The leader duty: reserves our identity's leader windows under the fence, and announces a block when a reserved slot begins.

Beside the voting, never on its way: each life (one adopted identity) has a thread, a store object and a UDP socket of its own.
The vote thread only says that a vote was stored, which is a lock and a comparison. What may be produced, and why that is safe
whatever the clock does, is `tower.leader_runner`'s and stands there; this decides *when* it is asked.

*Reserve*: one window of the schedule at a time, `RESERVE_AHEAD_SLOTS` before it begins, and not before the first vote of this
life has left. That vote is for the cluster: who cannot vote shall not lead. The clients in use wait until a vote of theirs is
rooted, which is all that protects them from a second producer; here the reservation does, so nothing is waited for.

*Announce*: when the cluster says that a slot of ours has begun, if `may_produce` says so in that moment. Asking and sending are
under the lock that `end` and `lost` take: once they have returned, nothing more leaves.

Only a cluster that names a block port (`openos-localnet --announced-blocks`) is led; on any other one nothing is begun and
nothing is reserved.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence

import aiohttp

from tower.errors import InvalidInput, StoreError
from tower.events import Adopted, FenceLost, Resign
from tower.keys import Keypair
from tower.leader import Declined, Leader, LeaderState, Reserve, Reserved, Stop, StopReason
from tower.leader_runner import LeaderRunner
from tower.store import Store
from tower.validator.announcement import encode_announcement
from tower.validator.logs import about
from tower.validator.sender import VoteRoutes

__all__ = ["LeaderDuty", "follow_slots", "next_window"]

log = logging.getLogger(__name__)

WINDOW_SLOTS = 4  # that a leader has in a row, aligned within the epoch
RESERVE_AHEAD_SLOTS = 8
DUTY_S = 2.0  # how old the newest confirmed write may be when a block is produced
SILENCE_S = 6.0  # without a slot: the connection is taken for dead
CLOSE_S = 0.2  # for a connection to end in good order
RETRY_S = 0.5
ENDS = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)


def next_window(leaders: Sequence[str], first_slot: int, identity: str, after: int) -> tuple[int, int] | None:
    """First and last slot of `identity`'s next window above the slot `after`; where that is inside one, its rest.

    `leaders` are those of the slots from `first_slot` on, which begins an epoch.

    >>> leaders = ["a"] * 4 + ["b"] * 8 + ["a"] * 4
    >>> [next_window(leaders, 100, "b", after) for after in (99, 103, 105, 107, 111)]
    [(104, 107), (104, 107), (106, 107), (108, 111), None]
    """
    index = max(0, after + 1 - first_slot)
    while index < len(leaders) and leaders[index] != identity:
        index += 1
    if index >= len(leaders):
        return None
    last = index
    while (last + 1) % WINDOW_SLOTS and last + 1 < len(leaders) and leaders[last + 1] == identity:
        last += 1
    return first_slot + index, first_slot + last


class LeaderDuty:
    """The duty of whichever life votes now; at most one. Everything may be called from any thread and waits for nothing.

    `routes` is replaced from outside, whole. `open_store` opens a store for a life to itself.
    """

    def __init__(self, bind_address: str, open_store: Callable[[], Store], store_timeout: float, enabled: bool = True) -> None:
        self.routes = VoteRoutes()
        self.announced = 0
        self._bind_address = bind_address
        self._open_store = open_store
        self._store_timeout = store_timeout
        self._enabled = enabled
        self._life: _Life | None = None

    def begin(self, identity: Keypair, adopted: Adopted) -> None:
        """`identity` was adopted. The life before has been ended."""
        if not self._enabled or self.routes.blocks is None:
            return
        self._life = _Life(self, identity, adopted)
        self._life.thread.start()

    def voted(self, began: float) -> None:
        """A vote of this life has left; its write began at `began` on the monotonic clock."""
        life = self._life
        if life is not None:
            life.voted(began)

    def slot_begins(self, slot: int, parent: int) -> None:
        """The cluster says that the bank of `slot` was begun on the one of `parent`."""
        life = self._life
        if life is not None:
            life.slot_begins(slot, parent)

    def lost(self, identity: Keypair, seen: int) -> None:
        """The watch of `identity` saw a claim at revision `seen`."""
        life = self._life
        if life is not None and life.identity == identity:
            life.tell(FenceLost(seen))

    def end(self, reason: str) -> None:
        """The identity is given up, or its voter has stopped. When this returns, no block leaves any more."""
        life, self._life = self._life, None
        if life is not None:
            life.tell(Resign(reason))

    # ---- for the life

    def open_store(self) -> Store:
        return self._open_store()

    def open_socket(self) -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in self._bind_address else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            made.bind((self._bind_address, 0))
        except OSError:
            made.close()
            raise
        made.setblocking(False)
        return made

    @property
    def store_timeout(self) -> float:
        return self._store_timeout


class _Life:
    """One life: its thread, and what others tell it."""

    def __init__(self, duty: LeaderDuty, identity: Keypair, adopted: Adopted) -> None:
        self.identity = identity
        self._duty = duty
        self._adopted = adopted
        self._lock = threading.Lock()  # held for a moment: while a block leaves, and to end the duty
        self._runner: LeaderRunner | None = None
        self._resigned = False
        self._voted_at: float | None = None
        self._begun: tuple[int, int] | None = None  # the newest slot that has begun, and its parent
        self._asked = self._announced = -1  # the newest slot that was asked for, and announced
        self._asked_at = 0.0
        self._inbox: queue.SimpleQueue[FenceLost | Resign | None] = queue.SimpleQueue()  # None: look at what is new
        self.thread = threading.Thread(target=self._run, name="leader", daemon=True)

    # ---- from any thread

    def voted(self, began: float) -> None:
        with self._lock:
            first, self._voted_at = self._voted_at is None, began
            if self._runner is not None:
                self._runner.confirmed(began)
        if first:
            self._inbox.put(None)

    def slot_begins(self, slot: int, parent: int) -> None:
        with self._lock:
            if self._begun is not None and slot <= self._begun[0]:
                return  # what a partition kept from us
            self._begun = (slot, parent)
        self._inbox.put(None)

    def tell(self, event: FenceLost | Resign) -> None:
        with self._lock:
            self._resigned = self._resigned or isinstance(event, Resign)
            if self._runner is not None:
                self._runner.tell(event)
        self._inbox.put(event)

    # ---- in the thread

    def _run(self) -> None:
        try:
            with contextlib.closing(self._duty.open_store()) as store, self._duty.open_socket() as blocks:
                self._live(store, blocks)
        except (InvalidInput, StoreError, OSError) as problem:
            log.warning("no leader duty for %s: %s", self.identity.address, problem)
        except Exception:  # the duty ends, told in full; votes go on, they have a thread of their own
            log.exception("the leader thread met what it does not know")

    def _live(self, store: Store, blocks: socket.socket) -> None:
        runner = LeaderRunner(
            Leader(), store,
            store_timeout=self._duty.store_timeout, duty_timeout=DUTY_S,
            on_reserved=self._reserved, on_declined=_declined, on_stop=self._stopped,
        )  # fmt: skip
        runner.dispatch(self._adopted)
        with self._lock:
            self._runner = runner
            if self._voted_at is not None:
                runner.confirmed(self._voted_at)
        while runner.stopped is None:
            event = self._inbox.get()
            if event is not None:
                runner.dispatch(event)
            self._announce(runner, blocks)
            self._reserve(runner)

    def _announce(self, runner: LeaderRunner, blocks: socket.socket) -> None:
        begun, routes = self._begun, self._duty.routes
        if begun is None or routes.blocks is None or begun[0] <= self._announced:
            return
        slot, parent = begun
        if routes.leader(slot) != self.identity.address:
            return
        packet, problem = encode_announcement(slot, parent, self.identity), ""
        with self._lock:
            may = not self._resigned and runner.may_produce(slot)
            if may:
                self._announced = slot
                problem = _send(blocks, packet, routes.blocks)
        if may and problem:
            log.warning("block %d was not sent to %s:%d: %s", slot, *routes.blocks, problem)
        elif may:
            self._duty.announced += 1
            log.info("block %d on %d announced", slot, parent, extra=about("block", slot=slot, parent=parent))
        else:
            why = "the store confirmed nothing lately" if runner.leader.holds(slot) else "it is not reserved here"
            log.info("no block for slot %d: %s", slot, why, extra=about("no-block", slot=slot, why=why))

    def _reserve(self, runner: LeaderRunner) -> None:
        begun, routes = self._begun, self._duty.routes
        if begun is None or self._voted_at is None or runner.leader.state is not LeaderState.READY:
            return
        window = next_window(routes.leaders, routes.first_slot, self.identity.address, max(begun[0], self._asked))
        if window is not None and window[0] <= begun[0] + RESERVE_AHEAD_SLOTS:
            self._asked = window[1]
            self._asked_at = time.monotonic()
            runner.drive(Reserve(*window))

    def _reserved(self, reserved: Reserved) -> None:
        ms = (time.monotonic() - self._asked_at) * 1000
        log.info(
            "slots %d to %d reserved for our blocks in %.1f ms", reserved.first, reserved.last, ms,
            extra=about("reserved", first=reserved.first, last=reserved.last, store_ms=round(ms, 3)),
        )  # fmt: skip

    def _stopped(self, stop: Stop) -> None:
        level = logging.INFO if stop.reason is StopReason.RESIGNED else logging.WARNING
        log.log(
            level, "the leader duty of %s has ended: %s", self.identity.address, stop.text,
            extra=about("duty-ended", identity=self.identity.address, reason=stop.reason.value),
        )  # fmt: skip


def _send(blocks: socket.socket, packet: bytes, to: tuple[str, int]) -> str:
    """Never waits; why the packet could not leave, empty if it did."""
    try:
        blocks.sendto(packet, to)
    except OSError as problem:
        return str(problem)
    return ""


def _declined(declined: Declined) -> None:
    log.info("slots %d to %d are not led here: %s", declined.first, declined.last, declined.reason)


async def follow_slots(websocket_url: str, begins: Callable[[int, int], None]) -> None:
    """Tell of every slot that begins and of its parent, until cancelled. A connection that breaks or is silent is made again."""
    subscribe = {"jsonrpc": "2.0", "id": 1, "method": "slotSubscribe", "params": []}
    while True:
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with (
                aiohttp.ClientSession() as session,
                asyncio.timeout(SILENCE_S) as silence,
                session.ws_connect(websocket_url, timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S)) as connection,
            ):
                await connection.send_json(subscribe)
                loop = asyncio.get_running_loop()
                while (message := await connection.receive()).type not in ENDS:
                    silence.reschedule(loop.time() + SILENCE_S)
                    if message.type is aiohttp.WSMsgType.TEXT:
                        _tell_slot(message, begins)
        await asyncio.sleep(RETRY_S)


def _tell_slot(message: aiohttp.WSMessage, begins: Callable[[int, int], None]) -> None:
    try:
        news = message.json()
        if news.get("method") != "slotNotification":
            return
        slot, parent = (int(news["params"]["result"][name]) for name in ("slot", "parent"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as problem:
        log.warning("not understood, of the cluster's slots: %s: %s", type(problem).__name__, problem)
        return
    begins(slot, parent)
