"""Carries a planned failover out, step by step, from the command line's side; `tower.validator.failover` says what follows.

The claim itself is never made here. The taker asks its own validator for it; the giver leaves an offer for a spare. Both are
bounded on the other side too: the validator claims nothing after the deadline, the spare nothing after the offer is withdrawn or
its last slot has passed. When the owner ends after it lost the fence its socket is gone; the store still says who owns.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from tower.errors import StoreError, StoreUnavailable, TowerError
from tower.store import Sighting
from tower.validator.failover import (
    UNDO,
    Claim,
    Result,
    Run,
    begin,
    drilled,
    failed,
    missed_slots,
    next_action,
    settled,
    succeeded,
)
from tower.validator.failover_plan import Facts, steps
from tower.validator.failover_read import LOOK_S, Options, Reader, Refused, ms_since
from tower.validator.handover import OFFER_NOTE, Offer, OfferState, decode_offer
from tower.wire import decode_saved_tower, to_current

__all__ = ["Failover", "Report"]

POLL_S = 0.05
ANSWER_S = 10.0  # that a validator may take beyond the deadline that it was given
SETTLE_S = 3.0  # after an offer is withdrawn, in which a claim that was under way would show
OFFER_SLOT_S = 0.1  # slots are longer: the offer's last slot only bounds one that nobody is left to withdraw
REBUILD_SLOT_S = 0.6  # slots are shorter, mostly: how long to wait for a first vote that waits for a slot


@dataclass(frozen=True, slots=True)
class Report:
    """How it ended. `problem` is the error of the step that failed first, where it was one."""

    run: Run
    facts: Facts
    after: Facts | None
    result: Result
    seconds: float
    problem: TowerError | None


class Failover:
    """One failover, or a drill of one. `show` is called with the new state whenever a step has ended."""

    def __init__(self, options: Options, show: Callable[[Run], None] = lambda run: None) -> None:
        self._options = options
        self._show = show
        self._reader = Reader(options)
        self._problem: TowerError | None = None
        self._result = Result()
        self._real = False
        self._offer: Offer | None = None  # while it stands
        self._votes_from: int | None = None
        self._began = 0.0  # when the step that claims began
        self._begun = False  # whether anything was written, or asked for that writes
        self._taker: tuple[str, int] = ("", 0)  # host and pid of the process that is to claim

    async def go(self, *, real: bool) -> Report:
        """Every step in turn; if not `real`, those that only read. Raises what keeps it from knowing its own role."""
        self._real, options, began = real, self._options, time.monotonic()
        try:
            await self._reader.who_am_i()
            facts, bounds = self._reader.facts, {"step_s": options.step_s, "window_s": options.window_s}
            run = begin(steps(facts.role, facts.identity, **bounds, skip_window=options.skip_window))
            while (action := next_action(run)) is not None:
                if run.step.writes and not real:
                    run = drilled(run)
                else:
                    run = await (self._undo(run) if action == UNDO else self._carry_out(run))
                self._show(run)
            after = await self._reader.reread() if run.claimed else None
        finally:
            await self._withdraw_quietly()
            await self._reader.close()
        return Report(run, self._reader.facts, after, self._result, time.monotonic() - began, self._problem)

    async def _carry_out(self, run: Run) -> Run:
        step, reader, began = run.step, self._reader, time.monotonic()
        if step.writes:
            self._began = began
        work = {
            "here": reader.here, "store": reader.look, "cluster": reader.cluster, "spare": reader.spare, "check": reader.check,
            "window": self._window, "take": self._take, "offer": self._make_offer, "vote": self._first_vote,
        }[step.key]  # fmt: skip
        bounds_itself = step.writes or step.key == "vote"  # its other side must have ended before it ends
        try:
            async with asyncio.timeout(None if bounds_itself else step.deadline_s):
                note = await work(step.deadline_s)
        except TimeoutError:
            return failed(run, f"not within {step.deadline_s:g} s", ms_since(began))
        except TowerError as problem:
            self._problem = self._problem or problem
            store = isinstance(problem, StoreUnavailable)
            return failed(run, str(problem), ms_since(began), store=store, begun=self._begun)
        against = {"here": reader.facts.unfit, "spare": reader.facts.no_spare}.get(step.key, "")
        return succeeded(run, note, ms_since(began), claimed=step.writes, doubtful=bool(against))

    async def _window(self, deadline_s: float) -> str:
        if self._real:
            return await self._reader.wait_for_window()
        verdict = await self._reader.window_now()
        return f"open now: {verdict.text}" if verdict.ready else f"a real run would wait: {verdict.text}"

    # ---- the steps that write

    async def _take(self, deadline_s: float) -> str:
        admin, options, fence = self._reader.admin, self._options, self._reader.facts.fence
        self._taker = (socket.gethostname(), int(await admin.acall("pid")))
        self._begun = True
        arguments = (options.keypair_path, "failover run", options.require_tower, fence, deadline_s)
        taken = await admin.acall("takeOver", *arguments, timeout=deadline_s + ANSWER_S)
        self._votes_from = taken["votesFromSlot"]
        self._result = replace(self._result, claimed_ms=ms_since(self._began), last_slot_before=taken["lastVotedSlot"])
        return f"fence {fence} -> {taken['fence']}, last vote of the old owner {taken['lastVotedSlot']}"

    async def _make_offer(self, deadline_s: float) -> str:
        reader, facts, spare = self._reader, self._reader.facts, self._reader.facts.spare
        if spare is None:
            raise Refused("there is nobody to ask")
        if (await reader.sighting()).instance_revision != facts.fence:
            raise Refused("another instance has claimed since this was planned")
        by_slot = await reader.rpc.get_slot() + math.ceil(deadline_s / OFFER_SLOT_S)
        offer = Offer(secrets.token_hex(8), facts.fence, by_slot, spare.id, facts.who, self._options.require_tower)
        self._taker, self._offer, self._begun = (spare.host, spare.pid), offer, True
        await self._put(offer)
        try:
            async with asyncio.timeout(deadline_s):
                taken = await self._answer_to(offer)
        except TimeoutError:
            raise Refused(f"{spare.who} did not take over within {deadline_s:g} s") from None
        self._offer, self._votes_from = None, taken.votes_from_slot
        return f"{spare.who} took over: fence {facts.fence} -> {taken.taken_fence}, last vote here {taken.last_voted_slot}"

    async def _answer_to(self, offer: Offer) -> Offer:
        """The spare's answer once its claim is in the store. Raises `Refused` with its refusal."""
        while True:
            seen = await self._reader.sighting()
            answer = decode_offer((await self._reader.notes()).get(OFFER_NOTE))
            mine = answer if answer is not None and answer.id == offer.id else None
            if seen.instance_revision != offer.fence:
                if self._result.claimed_ms is None:
                    self._result = replace(self._result, claimed_ms=ms_since(self._began))
                if mine is not None and mine.state is OfferState.TAKEN:
                    self._result = replace(self._result, last_slot_before=mine.last_voted_slot)
                    return mine
            elif mine is None:
                raise Refused("the offer was overwritten by somebody")
            elif mine.state is OfferState.REFUSED:
                raise Refused(f"the spare refused: {mine.reason}")
            await asyncio.sleep(POLL_S)

    async def _put(self, offer: Offer) -> None:
        identity = self._reader.facts.identity
        await self._reader.in_store(lambda store: store.put_note(identity, OFFER_NOTE, offer.encode(), LOOK_S))

    async def _undo(self, run: Run) -> Run:
        """Take back what was begun, and ask the store who has the identity now."""
        fence = self._reader.facts.fence
        try:
            if self._offer is not None:
                await self._put(replace(self._offer, state=OfferState.WITHDRAWN))
                self._offer = None
            seen = await self._newest_claim(fence, SETTLE_S if run.step.key == "offer" else 0.0)
        except StoreError as problem:
            self._problem = self._problem or problem
            return settled(run, Claim.UNKNOWN, f"who the owner is now, the store does not say: {problem}")
        owner = seen.owner
        if seen.instance_revision == fence:
            return settled(run, Claim.NONE, f"nothing was claimed, the fence is still {fence}")
        if owner is None or (owner.host, owner.pid) != self._taker:
            whom = "somebody who leaves no name" if owner is None else f"{owner.who} ({owner.why})"
            return settled(run, Claim.OTHER, f"the identity was claimed meanwhile by {whom}")
        if self._result.last_slot_before is None:
            self._result = replace(self._result, last_slot_before=owner.last_voted_slot)
        self._problem = None
        return settled(run, Claim.OURS, f"claimed all the same, by {owner.who}")

    async def _newest_claim(self, fence: int, wait_s: float) -> Sighting:
        """The store as it is when another claim than `fence` shows, or after `wait_s`."""
        until = time.monotonic() + wait_s
        while (seen := await self._reader.sighting()).instance_revision == fence and time.monotonic() < until:
            await asyncio.sleep(POLL_S)
        return seen

    async def _withdraw_quietly(self) -> None:
        """Interrupted in the middle: an offer must not outlive whoever made it."""
        if self._offer is None:
            return
        offer, self._offer = replace(self._offer, state=OfferState.WITHDRAWN), None
        try:
            await asyncio.shield(self._put(offer))
        except TowerError:
            return  # it ends with its last slot

    # ---- what it came to

    async def _first_vote(self, deadline_s: float) -> str:
        reader, before = self._reader, self._result.last_slot_before
        if self._votes_from is not None:
            deadline_s += max(0, self._votes_from - await reader.rpc.get_slot()) * REBUILD_SLOT_S
        until, after = time.monotonic() + deadline_s, -1 if before is None else before
        while True:
            seen = await reader.sighting()
            chain, landed = await reader.chain()
            if self._result.stored_ms is None and _last_stored(seen) > after:
                self._result = replace(self._result, stored_ms=ms_since(self._began))
            first, missed = missed_slots(chain, landed, after)
            if first is not None:
                known = before is not None and before >= min(chain, default=0)
                self._result = replace(
                    self._result, landed_ms=ms_since(self._began), first_slot_after=first, votes_missed=missed if known else None
                )
                return f"slot {first} voted for by the new owner"
            if time.monotonic() >= until:
                owner = seen.owner.who if seen.owner is not None else "the new owner"
                raise Refused(f"no vote by {owner} landed within {deadline_s:.0f} s; see its log and `openos-validator monitor`")
            await asyncio.sleep(POLL_S)


def _last_stored(seen: Sighting) -> int:
    """The last voted slot in the store, -1 for none."""
    if seen.record is None:
        return -1
    slot = to_current(decode_saved_tower(seen.record, seen.identity)).last_voted_slot
    return -1 if slot is None else slot
