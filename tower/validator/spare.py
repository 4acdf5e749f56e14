"""What a spare does on its own: it watches an identity's owner, accepts hand-overs, and takes back what its store lost it.

A task on the process's event loop with a store connection of its own, so that it never holds the vote thread up. It does
something only while this process does not vote. All three occasions end in the one take-over there is (`Node.take`): look,
checks, claim under the fence, and only if the store is as it was when the occasion was seen.

=================  ============================================================================================================
occasion           what happens
=================  ============================================================================================================
`--auto-takeover`  the owner is silent in the store and behind on the chain for long enough (`tower.validator.auto`)
hand-over          the owner offers the identity to this spare by name (`tower.validator.handover`), paused or not
taking back        this process gave the identity up because *its store* failed, and when the store answers again nobody has
                   claimed since
=================  ============================================================================================================

**Pausing.** Automatic take-overs pause themselves when this machine loses the fence or gives the identity up by hand: somebody
took it for a reason, and two monitors that take it from each other help nobody. They stay so until `auto-takeover resume` or the
end of the process; what else is told across machines and restarts is in the store's history.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from tower.errors import InvalidInput, StoreError, TowerError
from tower.events import Adopted, HaltReason
from tower.keys import Keypair
from tower.store import ABSENT, NotingStore, Sighting
from tower.types import VoteAccountState
from tower.validator import auto
from tower.validator.config import FailoverConfig
from tower.validator.guarded_store import Guard, unchanged
from tower.validator.handover import (
    OFFER_NOTE,
    Beacon,
    Offer,
    OfferState,
    beacon_note,
    decode_offer,
    refusal,
)
from tower.validator.logs import about
from tower.validator.rpc import RpcError, RpcUnreachable
from tower.validator.vote_thread import Lost

__all__ = ["Node", "SpareWatch"]

log = logging.getLogger(__name__)

POLL_S = 0.5  # between two looks
LOOK_S = 2.0  # that one look may take
BEACON_S = 1.0
RETRY_FIRST_S, RETRY_MAX_S = 1.0, 30.0  # between two tries to take an identity back

T = TypeVar("T")


class Node(Protocol):
    """What the process lends to the watch."""

    def voting(self) -> bool: ...

    @property
    def identity(self) -> Keypair:
        """Who votes or stands by now."""

    async def newest(self) -> tuple[int, VoteAccountState | None]:
        """The slot of our newest bank, and our vote account in it."""

    async def unfit(self, identity: Keypair) -> str:
        """Why this node could not vote as `identity` now, not caught up included; empty if it could."""

    async def take(self, identity: Keypair, why: str, *, require_tower: bool = False, guard: Guard | None = None) -> Adopted:
        """Adopt `identity`: look, check, claim. Raises `TowerError`."""


class SpareWatch:
    """`open_store` opens a connection of the watch's own; `who` is this machine's name."""

    def __init__(self, config: FailoverConfig, node: Node, open_store: Callable[[], NotingStore], who: str) -> None:
        self._config = config
        self._node = node
        self._open_store = open_store
        self._store: NotingStore | None = None
        self._host = socket.gethostname()
        self.who = who or self._host
        self._id = secrets.token_hex(8)
        self._policy = auto.Policy(config.auto_after_s, config.auto_min_interval_s)
        self._memory = auto.Memory()
        self._decision: auto.Decision | None = None
        self._paused = ""
        self._automatic: tuple[int, int | None] = (-1, None)  # at this claim, when the last automatic one was
        self._take_back: Lost | None = None
        self._retry_at, self._retry_s = 0.0, RETRY_FIRST_S
        self._tip = 0
        self._beacon_at = float("-inf")
        self._told: set[str] = set()

    # ---- what the process tells

    @property
    def needed(self) -> bool:
        """Whether there is anything that this machine would ever do on its own."""
        return self._config.demote or self._config.watched is not None

    def lost(self, lost: Lost) -> None:
        """This process gave an identity up and is a spare now."""
        if lost.halt.reason is HaltReason.STORE_FAILED:
            self._take_back = lost
            self._retry_at, self._retry_s = time.monotonic() + RETRY_FIRST_S, RETRY_FIRST_S
        else:
            self._pause_if_on("another instance took the identity from this machine")

    def changed_by_hand(self, gave_up: bool) -> None:
        """The operator said which identity to have; `gave_up` if that ended voting here."""
        self._take_back = None
        if gave_up:
            self._pause_if_on("the identity was given up here by hand")

    # ---- what the operator asks

    def pause(self) -> None:
        self._need_auto()
        self._paused = "by the operator"
        log.info("automatic take-over: paused by the operator", extra=about("auto-takeover", state="paused"))

    def resume(self) -> None:
        """Count anew from now on."""
        self._need_auto()
        self._paused, self._memory = "", auto.Memory()
        log.info("automatic take-over: resumed", extra=about("auto-takeover", state="on"))

    def status(self) -> Mapping[str, Any]:
        watched, memory, decision = self._config.watched, self._memory, self._decision
        voting = self._node.voting()
        return {
            "state": self.auto_state,
            "identity": None if watched is None else watched.address,
            "pausedBecause": self._paused or None,
            "owner": voting,
            "acceptsHandover": watched is not None,
            "afterSeconds": self._config.auto_after_s if self._config.auto_takeover else None,
            "minIntervalSeconds": self._config.auto_min_interval_s if self._config.auto_takeover else None,
            "silentSeconds": None if voting or memory.silent_s is None else round(memory.silent_s, 1),
            "behindSlots": None if voting else memory.behind_slots,
            "reasons": list(decision.reasons) if decision is not None and not voting else [],
            "takesBack": None if self._take_back is None else self._take_back.identity.address,
        }

    @property
    def auto_state(self) -> str:
        """ "off", "on" or "paused"."""
        return "off" if self._config.auto_takeover is None else "paused" if self._paused else "on"

    def _need_auto(self) -> None:
        if self._config.auto_takeover is None:
            raise InvalidInput("automatic take-over is off; start the validator with --auto-takeover <KEYPAIR>")

    def _pause_if_on(self, why: str) -> None:
        if self._config.auto_takeover is not None:
            self._paused = self._paused or why
            log.warning(
                "automatic take-over: paused, because %s; `openos-validator auto-takeover resume` switches it on again",
                why, extra=about("auto-takeover", state="paused", why=why),
            )  # fmt: skip

    # ---- the loop

    async def run(self) -> None:
        """Watch until cancelled."""
        # Now, while it is there: a file store that is opened where its disk is gone makes an empty folder, and believes it.
        await self._ask("the tower store", lambda store: None)
        while True:
            if self._node.voting():
                self._memory, self._decision = auto.Memory(), None
            else:
                await self._tick()
            await asyncio.sleep(POLL_S)

    def close(self) -> None:
        """Give up the connection. The task must have ended."""
        if self._store is not None:
            self._store.close()

    async def _tick(self) -> None:
        if self._take_back is not None and time.monotonic() >= self._retry_at:
            await self._try_to_take_back(self._take_back)
        watched = self._config.watched
        if watched is None or self._node.voting():
            return
        sighting = await self._ask("looking at the owner", lambda store: store.look(watched.address, LOOK_S))
        self._tip, own = await self._node.newest()
        try:
            unfit = await self._node.unfit(watched)
        except (RpcError, RpcUnreachable) as problem:
            unfit = f"not caught up: {problem}"
        if sighting is not None:
            await self._signal(watched, unfit)
            await self._answer_offers(watched, sighting, unfit)
        if self._config.auto_takeover is not None and not self._node.voting():
            await self._watch_owner(watched, sighting, None if own is None else own.last_voted_slot, unfit)

    async def _ask(self, what: str, work: Callable[[NotingStore], T]) -> T | None:
        """What the store says, `None` if it says nothing in time. Told once each time that begins and ends."""
        try:
            if self._store is None:
                self._store = await asyncio.to_thread(self._open_store)
            answer = await asyncio.to_thread(work, self._store)
        except (StoreError, InvalidInput) as problem:
            if what not in self._told:
                log.warning("%s: %s", what, problem)
                self._told.add(what)
            return None
        if what in self._told:
            log.info("%s: the store answers again", what)
            self._told.discard(what)
        return answer

    async def _take(self, identity: Keypair, why: str, guard: Guard, *, require_tower: bool = False) -> Adopted | str:
        """What was adopted, or why nothing was. Either way the count begins anew."""
        log.warning("taking over %s (%s)", identity.address, why, extra=about("take-over", identity=identity.address, why=why))
        self._memory = auto.Memory()
        try:
            return await self._node.take(identity, why, require_tower=require_tower, guard=guard)
        except (TowerError, RpcError, RpcUnreachable) as problem:
            log.warning("%s was not taken over: %s", identity.address, problem)
            return str(problem)

    # ---- taking back

    async def _try_to_take_back(self, lost: Lost) -> None:
        identity = lost.identity
        seen = await self._ask("taking back", lambda store: store.look(identity.address, LOOK_S))
        if self._take_back is not lost:
            return  # the operator was quicker
        if seen is not None and seen.instance_revision not in (lost.fence, ABSENT):  # absent: that is not the store we knew
            self._take_back = None
            log.warning("%s was claimed by another instance meanwhile: standing by", identity.address)
            self._pause_if_on("another instance took the identity from this machine")
            return
        if seen is not None and seen.instance_revision == lost.fence:
            guard = unchanged(lost.fence, seen.record_revision)
            taken = await self._take(identity, f"the store is back, nobody claimed since fence {lost.fence}", guard)
            if isinstance(taken, Adopted):
                self._take_back = None
                return
        self._retry_s = min(2 * self._retry_s, RETRY_MAX_S)
        self._retry_at = time.monotonic() + self._retry_s

    # ---- hand-overs

    async def _signal(self, watched: Keypair, unfit: str) -> None:
        if time.monotonic() < self._beacon_at + BEACON_S:
            return
        self._beacon_at = time.monotonic()
        own = self._node.identity.address
        beacon = Beacon(self._id, self.who, self._host, os.getpid(), own, self._tip, unfit, self.auto_state)
        name = beacon_note(self.who, self._host)
        await self._ask("the spare's beacon", lambda store: store.put_note(watched.address, name, beacon.encode(), LOOK_S))

    async def _answer_offers(self, watched: Keypair, sighting: Sighting, unfit: str) -> None:
        notes = await self._ask("hand-over", lambda store: store.notes(watched.address, LOOK_S))
        offer = decode_offer((notes or {}).get(OFFER_NOTE))
        if offer is None or offer.to != self._id or offer.state is not OfferState.OFFERED:
            return
        fence = sighting.instance_revision
        reason = refusal(offer, spare=self._id, fence=fence, tip=self._tip) or unfit
        if not reason:
            taken = await self._take(
                watched, f"hand-over asked for by {offer.sender}", self._still_offered(watched, offer),
                require_tower=offer.require_tower,
            )  # fmt: skip
            if isinstance(taken, Adopted):
                answer = replace(
                    offer, state=OfferState.TAKEN, taken_fence=taken.fence.revision,
                    last_voted_slot=taken.last_voted_slot, votes_from_slot=taken.votes_from_slot,
                )  # fmt: skip
                await self._answer(watched, answer)
                return
            reason = taken
        log.info("hand-over refused: %s", reason)
        await self._answer(watched, replace(offer, state=OfferState.REFUSED, reason=reason))

    def _still_offered(self, watched: Keypair, offer: Offer) -> Guard:
        """Against a claim once the offer is withdrawn, late, or its owner is another: asked in the very look before the claim."""

        def guard(seen: Sighting) -> str:
            store = self._store
            now = None if store is None else decode_offer(store.notes(watched.address, LOOK_S).get(OFFER_NOTE))
            if now is None or now.id != offer.id:
                return "the offer is gone"
            return refusal(now, spare=self._id, fence=seen.instance_revision, tip=self._tip)

        return guard

    async def _answer(self, watched: Keypair, offer: Offer) -> None:
        await self._ask("hand-over", lambda store: store.put_note(watched.address, OFFER_NOTE, offer.encode(), LOOK_S))

    # ---- the owner that is gone

    async def _watch_owner(self, watched: Keypair, sighting: Sighting | None, landed: int | None, unfit: str) -> None:
        instance = None if sighting is None else sighting.instance_revision
        record = None if sighting is None else sighting.record_revision
        sample = auto.Sample(time.monotonic(), instance, record, self._tip, landed, unfit)
        self._memory = auto.observe(self._policy, self._memory, sample)
        self._decision = self._decide(None)
        if not self._decision.take or sighting is None:
            return
        if self._automatic[0] != sighting.instance_revision:
            history = await self._ask("the history", lambda store: store.history(watched.address, LOOK_S))
            if history is None:
                return
            moments = [claim.at_ms for claim in history if auto.is_automatic(claim.why)]
            self._automatic = (sighting.instance_revision, max(moments, default=None))
        self._decision = decision = self._decide(self._automatic[1])
        if decision.take:
            same = unchanged(sighting.instance_revision, sighting.record_revision)
            await self._take(watched, decision.why, lambda seen: f"paused {self._paused}" if self._paused else same(seen))

    def _decide(self, last_automatic_ms: int | None) -> auto.Decision:
        now_ms = int(time.time() * 1000)  # as in the history: only for how long ago that was
        return auto.decide(
            self._policy, self._memory, paused=self._paused, now_ms=now_ms, last_automatic_ms=last_automatic_ms
        )
