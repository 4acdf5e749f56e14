"""Whether this node knows what the cluster knows: asked before every claim, and by whoever watches an owner."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from tower.errors import InvalidInput
from tower.events import LedgerView
from tower.types import VoteAccountState
from tower.validator.feed import ClusterFeed
from tower.validator.rpc import ClusterRpc, RpcError, RpcUnreachable

__all__ = ["CATCH_UP_S", "CatchUp"]

log = logging.getLogger(__name__)

CAUGHT_UP_SLOTS = 3  # how far the newest bank whose hash we know may be behind the cluster's newest: its child names it
CATCH_UP_S = 60.0  # that a take-over may wait until this node is caught up; a start waits as long as it takes
POLL_S, RETRY_MAX_S = 0.1, 1.0
TELL_EVERY_S = 5.0
LEDGER_SLOTS_MAX = 1024  # how old a slot history may be: what is newer, the tree of banks remembers

Newest = Callable[[], Awaitable[tuple[int, VoteAccountState | None]]]


class CatchUp:
    """`newest` gives our newest bank's slot and our vote account in it; `routed` is set once votes know where to go."""

    def __init__(
        self, rpc: ClusterRpc, feed: ClusterFeed, vote_account: bytes | None, newest: Newest, routed: asyncio.Event
    ) -> None:
        self._rpc = rpc
        self._feed = feed
        self._vote_account = vote_account
        self._newest = newest
        self._routed = routed
        self.slot = 0  # of the cluster, when it was asked last
        self.ledger: LedgerView | None = None  # read when this node is caught up and it is missing or old

    async def missing(self) -> str:
        """What is missing to be caught up; empty if nothing is. Raises `RpcError` and `RpcUnreachable`."""
        (slot, own), newest, healthy = await asyncio.gather(self._newest(), self._rpc.get_slot(), self._rpc.get_health())
        self.slot = newest
        if own is None and self._vote_account is not None:
            return f"slot {slot} of {newest}, the vote account is not seen yet"
        if not self._routed.is_set():
            return f"slot {slot} of {newest}, the leader schedule is not known yet"
        if newest - slot > CAUGHT_UP_SLOTS:
            return f"slot {slot} of {newest}"
        return "" if healthy else f"slot {slot} of {newest}, the cluster's RPC is unhealthy"

    async def wait(self) -> None:
        """Wait until our newest bank is about the cluster's, our vote account is seen in it, and votes know where to go.

        A cluster that does not answer is asked again: nothing is claimed meanwhile.
        """
        told, answered, pause = float("-inf"), True, POLL_S
        while True:
            try:
                said, answers, pause = await self.missing(), True, POLL_S
                if not said:
                    if self.ledger is None or self.ledger.replayed_root + LEDGER_SLOTS_MAX < self.slot:
                        self.ledger = await self._feed.ledger()
                    log.info("caught up with the cluster: slot %d", self.slot)
                    return
            except (RpcError, RpcUnreachable) as problem:
                said, answers, pause = str(problem), False, min(2 * pause, RETRY_MAX_S)
            if answers != answered or time.monotonic() >= told + TELL_EVERY_S:
                log.log(logging.INFO if answers else logging.WARNING, "catching up with the cluster: %s", said)
                told, answered = time.monotonic(), answers
            await asyncio.sleep(pause)

    async def within(self, seconds: float) -> None:
        """`wait`, but at most so long; then `InvalidInput`."""
        try:
            async with asyncio.timeout(seconds):
                await self.wait()
        except TimeoutError:
            raise InvalidInput(
                f"not caught up with the cluster within {seconds:g} s; nothing was claimed, see the validator's log"
            ) from None
