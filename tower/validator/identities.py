"""Which identity this process has, and every way to another one: at start, by hand, by the spare's watch, and by losing it.

One change after another, whoever wants it. Each take-over is the same: the node is caught up, the vote account's node is the
identity, and then the vote thread looks, checks and claims.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from tower.errors import InvalidInput
from tower.events import Adopted, Halt, HaltReason
from tower.keys import Keypair, to_base58
from tower.store import Sighting
from tower.types import VoteAccountState
from tower.validator.catch_up import CATCH_UP_S, CatchUp
from tower.validator.config import Exit, ValidatorConfig
from tower.validator.guarded_store import Guard, unchanged
from tower.validator.hooks import Hooks, RoleChange
from tower.validator.logs import about
from tower.validator.transition import Change, Transitions
from tower.validator.vote_thread import DEMOTES, Lost, TakeOverFailed, VoteThread

__all__ = ["EXIT_OF", "Identities"]

log = logging.getLogger(__name__)

EXIT_OF = {
    HaltReason.RESIGNED: Exit.OK,
    HaltReason.REFUSED: Exit.REFUSED,
    HaltReason.LOST_FENCE: Exit.LOST_FENCE,
    HaltReason.STORE_FAILED: Exit.STORE_FAILED,
    HaltReason.TOWER_UNUSABLE: Exit.TOWER_UNUSABLE,
    HaltReason.INTERNAL: Exit.INTERNAL,
}

T = TypeVar("T")


class Identities:
    """`finish` ends the process with a status and a reason. Everything runs on the event loop.

    `votes` and `catch_up` are there once the process has started; until then an identity can neither be taken nor given up.
    """

    def __init__(
        self,
        config: ValidatorConfig,
        finish: Callable[[int, str], None],
        hooks: Hooks,
        adopted: Callable[[str], None] = lambda why: None,
    ) -> None:
        self._config = config
        self._finish = finish
        self._changing = asyncio.Lock()
        self._hooks = hooks
        self._adopted = adopted
        self.transitions = Transitions("" if config.vote_account is None else to_base58(config.vote_account))
        self.held: RoleChange | None = None  # the change by which an identity came here that is not given up yet
        self.votes: VoteThread | None = None
        self.catch_up: CatchUp | None = None
        self.on_lost: Callable[[Lost], None] = lambda lost: None
        self.on_changed_by_hand: Callable[[bool], None] = lambda gave_up: None  # whether that ended voting here

    # ---- what it is now (with `take`: tower.validator.spare.Node)

    @property
    def identity(self) -> Keypair:
        """Who votes or stands by."""
        return self._config.identity if self.votes is None else self.votes.identity

    @property
    def in_memory(self) -> bool:
        """Whether that is a keypair which was made up and ends with the process."""
        return self.votes is not None and self.votes.in_memory

    def voting(self) -> bool:
        return self.votes is not None and self.votes.voting()

    async def newest(self) -> tuple[int, VoteAccountState | None]:
        """The slot of our newest bank, and our vote account in it."""
        return await self.in_vote_thread(lambda votes: votes.newest())

    async def unfit(self, identity: Keypair) -> str:
        """Why this node could not vote as `identity` now, not caught up included; empty if it could."""
        reason = await self.in_vote_thread(lambda votes: votes.unfit(identity))
        missing = "" if reason else await self._caught_up().missing()
        return reason or (f"not caught up: {missing}" if missing else "")

    async def in_vote_thread(self, work: Callable[[VoteThread], T]) -> T:
        """The result of `work`, which runs in the vote thread. Raises `InvalidInput` where there is none yet."""
        votes = self.votes
        if votes is None:
            raise InvalidInput("Retry once validator start up is complete")
        return await asyncio.wrap_future(votes.call(lambda: work(votes)))

    def _caught_up(self) -> CatchUp:
        if self.catch_up is None:
            raise InvalidInput("Retry once validator start up is complete")
        return self.catch_up

    # ---- ways to another one

    async def begin(self, has_voters: bool) -> None:
        """At start, caught up: vote if the vote account's node is our identity, stand by otherwise."""
        config, own = self._config, self._config.identity
        if config.vote_account is None or not has_voters:
            log.info("voting is disabled: %s", "no vote account" if config.vote_account is None else "no voter key")
        elif not await self._is_node(own):
            log.info("the vote account's node is another identity: standing by as spare %s", own.address)
        elif config.failover.standby_at_start:
            await self.in_vote_thread(lambda votes: votes.stand_by(votes.spare_identity()))
            log.info("--standby-at-start: %s is not claimed; standing by as spare %s", own.address, self._described())
        else:
            await self._take_over(own, "start", config.require_tower)

    async def set(self, identity: Keypair, require_tower: bool) -> None:
        """Adopt `identity`: returns when the fence is held and the tower loaded, or, for a spare's, when voting ended.

        Giving an identity up needs nobody's consent. Taking one needs a node that is caught up, and the store.
        """
        log.info("set-identity: %s is asked for", identity.address, extra=about("asked", identity=identity.address))
        async with self._changing, self.transitions.change(self.identity.address, identity.address) as change:
            voted = self.voting()
            if voted and identity == self.identity:
                change.failed(f"nothing to change: this node votes as {identity.address} already")
                return
            if self._config.vote_account is None or not await self._is_node(identity):
                await self.in_vote_thread(lambda votes: votes.stand_by(identity))
                log.info("Identity set to %s: the vote account's node is another identity, standing by", identity.address)
                self._gave_up("set-identity")
            else:
                await self._caught_up().within(CATCH_UP_S)
                await self._take_over(identity, "set-identity", require_tower)
            self._changed(change)
            self.on_changed_by_hand(voted)

    async def take(
        self,
        identity: Keypair,
        why: str,
        *,
        require_tower: bool = False,
        guard: Guard | None = None,
        within_s: float = CATCH_UP_S,
    ) -> Adopted:
        """Adopt `identity`, the node of our vote account, once this node is caught up: that may take `within_s` seconds."""
        async with self._changing, self.transitions.change(self.identity.address, identity.address) as change:
            if self.voting():
                raise InvalidInput(f"this node votes as {self.identity.address} already")
            if not await self._is_node(identity):
                raise InvalidInput(f"the vote account's node is not {identity.address}")
            await self._caught_up().within(within_s)
            adopted = await self._take_over(identity, why, require_tower, guard)
            self._changed(change)
            return adopted

    async def take_as_planned(
        self, identity: Keypair, why: str, require_tower: bool, instance_revision: int, deadline_s: float
    ) -> Mapping[str, Any]:
        """As `take`, if the newest claim is still the one at `instance_revision`, and begun within `deadline_s`."""
        began = time.monotonic()
        same = unchanged(instance_revision)

        def guard(seen: Sighting) -> str:
            return "the deadline has passed" if time.monotonic() > began + deadline_s else same(seen)

        adopted = await self.take(identity, why, require_tower=require_tower, guard=guard, within_s=deadline_s)
        self.on_changed_by_hand(False)
        return {
            "fence": adopted.fence.revision,
            "lastVotedSlot": adopted.last_voted_slot,
            "votesFromSlot": adopted.votes_from_slot,
            "milliseconds": round((time.monotonic() - began) * 1000, 1),
        }

    async def rehearse(self, identity: Keypair, require_tower: bool) -> Mapping[str, Any]:
        """Everything that a take-over does before its claim. Raises what it would be refused with."""
        began = time.monotonic()
        reason = await self.unfit(identity)
        if reason:
            raise InvalidInput(reason)
        ledger = self._caught_up().ledger
        slot = await self.in_vote_thread(lambda votes: votes.rehearse(identity, require_tower, ledger))
        return {"lastVotedSlot": slot, "milliseconds": round((time.monotonic() - began) * 1000, 1)}

    def stopped(self, halt: Halt) -> None:
        """The identity that voted has stopped for good: the process ends, or it is a spare now."""
        lost = None if self.votes is None else self.votes.lost
        if lost is None or lost.halt is not halt or halt.reason not in DEMOTES:
            self._finish(EXIT_OF[halt.reason], halt.text)
            return
        log.error(
            "%s is given up: %s; standing by as spare %s", lost.identity.address, halt.text, self._described(),
            extra=about("demoted", identity=lost.identity.address, reason=halt.reason.name.lower()),
        )  # fmt: skip
        self._changed(self.transitions.begin(lost.identity.address, self.identity.address))
        self._gave_up(halt.text)
        self.on_lost(lost)

    # ---- how

    def _changed(self, change: Change) -> None:
        change.adopted(*((None, None) if self.votes is None else self.votes.given_up))

    async def _is_node(self, identity: Keypair) -> bool:
        """Whether the newest bank names `identity` as the node of our vote account."""
        _, own = await self.newest()
        return own is not None and own.node_pubkey == identity.pubkey

    async def _take_over(self, identity: Keypair, why: str, require_tower: bool, guard: Guard | None = None) -> Adopted:
        change = RoleChange("primary" if self.voting() else "standby", "primary", identity.address, why)
        await self._hooks.ask(change)
        began, ledger = time.monotonic(), self._caught_up().ledger
        try:
            adopted = await self.in_vote_thread(
                lambda votes: votes.take_over(identity, why, require_tower, ledger, guard)
            )
        except TakeOverFailed as failed:
            if why == "start" or failed.identity_lost:
                self._finish(EXIT_OF[failed.halt.reason], failed.halt.text)
            raise
        since = "never voted before" if adopted.last_voted_slot is None else f"last vote {adopted.last_voted_slot}"
        log.info(
            "Identity set to %s: fence %d held, tower loaded (%s), %.1f ms",
            identity.address, adopted.fence.revision, since, (time.monotonic() - began) * 1000,
            extra=about("adopted", identity=identity.address, fence=adopted.fence.revision, why=why),
        )  # fmt: skip
        self._adopted(why)
        self.held = replace(change, fence=adopted.fence.revision, last_voted_slot=adopted.last_voted_slot)
        self._hooks.tell(self.held)
        if adopted.votes_from_slot is not None:
            log.warning(
                "the store knew less than the chain: begun from what landed, no vote before slot %d", adopted.votes_from_slot
            )
        return adopted

    def given_up(self, after: str, why: str) -> RoleChange | None:
        """What it means that voting has ended here, if this process voted."""
        held, self.held = self.held, None
        if held is None:
            return None
        slot = None if self.votes is None else self.votes.newest_stored
        return RoleChange("primary", after, held.identity, why, held.fence, slot or held.last_voted_slot)

    def _gave_up(self, why: str) -> None:
        change = self.given_up("standby", why)
        if change is not None:
            self._hooks.tell(change)

    def _described(self) -> str:
        made_up = " (a fresh keypair in memory, gone when this process ends)" if self.in_memory else ""
        return self.identity.address + made_up
