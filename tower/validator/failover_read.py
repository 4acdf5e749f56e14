"""What a planned failover reads before it changes anything: this node, the tower store, the cluster, the spares.

The store is opened as the validator says that it opened it, because its flags are not typed again and because it must be the
same one. Every method is one step or a part of one; each returns what the operator reads. Nothing here writes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tower.errors import InvalidInput, StoreError, TowerError
from tower.keys import from_base58, read_keypair_file
from tower.lockout import require_well_formed
from tower.store import NotingStore, Sighting
from tower.validator import restart_window as window
from tower.validator.admin import AdminClient
from tower.validator.failover_plan import GIVER, TAKER, Facts, choose_spare, problems
from tower.validator.feed import SLOT_HASHES
from tower.validator.handover import decode_beacon, is_beacon
from tower.validator.rpc import ClusterRpc
from tower.validator.store_options import check_store, open_store
from tower.wire import decode_saved_tower, decode_slot_hashes, decode_vote_account, to_current

__all__ = ["Options", "Reader", "Refused", "ms_since"]

LOOK_S = 5.0
LOOKS, LOOK_PAUSE_S = 4, 0.35  # looks at the owner, to see whether its tower changes

T = TypeVar("T")


class Refused(TowerError):
    """A step cannot be done; the text says why."""


def ms_since(began: float) -> float:
    """Milliseconds since a moment of the monotonic clock."""
    return round((time.monotonic() - began) * 1000, 1)


@dataclass(frozen=True, slots=True)
class Options:
    """`keypair` is the identity's file: a taker needs it. `spare` is the machine that a giver asks. Deadlines in seconds."""

    ledger: Path
    keypair: str | None = None
    spare: str | None = None
    require_tower: bool = False
    skip_window: bool = False
    min_idle_minutes: float = window.DEFAULT_MIN_IDLE_MINUTES
    max_delinquent: int = window.DEFAULT_MAX_DELINQUENT_PERCENT
    skip_new_snapshot_check: bool = False
    step_s: float = 30.0
    window_s: float = 3600.0

    @property
    def keypair_path(self) -> str:
        return str(Path(str(self.keypair)).resolve())

    @property
    def policy(self) -> window.Policy:
        idle = window.slots_of_minutes(self.min_idle_minutes)
        # `own` is about the snapshots of the node that is restarted: here an identity moves
        return window.Policy(idle, self.max_delinquent, self.skip_new_snapshot_check, own=False)


class Reader:
    """Reads, and keeps in `facts` what it has read. `close` it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.admin = AdminClient(options.ledger)
        self.facts = Facts(TAKER, "", "", "", "", 0)
        self._status: dict[str, Any] = {}
        self._store: NotingStore | None = None
        self._rpc: ClusterRpc | None = None

    async def close(self) -> None:
        if self._rpc is not None:
            await self._rpc.close()
        if self._store is not None:
            await asyncio.to_thread(self._store.close)

    async def who_am_i(self) -> None:
        """The role of this node follows from what it is: who votes gives, who stands by takes. Raises where it has none."""
        self._status = status = await self.admin.acall("status")
        if await self.admin.acall("startProgress") != "Running":
            raise Refused("the validator has not started yet; try again when it runs")
        keypair = self.options.keypair
        named = None if keypair is None else await asyncio.to_thread(read_keypair_file, keypair)
        account, node = status.get("voteAccount"), str(status.get("identity"))
        if not isinstance(account, str):
            raise Refused("the validator runs without --vote-account: it can neither give nor take")
        if status.get("voting"):
            if named is not None and named.address != node:
                raise InvalidInput(f"--identity: this node votes as {node}, it cannot take {named.address} too")
            identity, role = node, GIVER
        elif named is None:
            raise InvalidInput("this node is a spare: name the identity to take with --identity <KEYPAIR>")
        else:
            identity, role = named.address, TAKER
        who = str(status.get("who", ""))
        self.facts = Facts(role, identity, account, node, who, int(status.get("processedSlot") or 0))

    # ---- the steps

    async def here(self, deadline_s: float) -> str:
        if self.facts.role == GIVER:
            return f"fence {self._status.get('fence')} held, last vote {self._status.get('lastVotedSlot')}"
        arguments = (self.options.keypair_path, self.options.require_tower)
        try:
            done = await self.admin.acall("rehearseTakeOver", *arguments, timeout=deadline_s)
        except TowerError as problem:
            self.facts = replace(self.facts, unfit=str(problem))
            return f"not fit: {problem}"
        return f"rehearsed up to the claim in {done['milliseconds']:.0f} ms, last stored vote {done['lastVotedSlot']}"

    async def look(self, deadline_s: float) -> str:
        flags = dict(await self.admin.acall("towerStorage"))
        flags["etcd_endpoints"] = tuple(flags["etcd_endpoints"])
        config = check_store(self.options.ledger, **flags)
        self._store = await asyncio.to_thread(open_store, config)
        first = seen = await self.sighting()
        times: list[float] = []
        for _ in range(LOOKS):
            await asyncio.sleep(min(LOOK_PAUSE_S, deadline_s / 10) if times else 0)
            began = time.monotonic()
            seen = await self.sighting()
            times.append(ms_since(began))
            if seen.record_revision != first.record_revision:
                break
        self._learn(seen, active=seen.record_revision != first.record_revision, look_ms=min(times))
        if self.facts.role == GIVER and seen.instance_revision != self._status.get("fence"):
            raise Refused(f"the newest claim is {seen.instance_revision}, this node holds {self._status.get('fence')}")
        what = "no tower is stored" if seen.record is None else f"tower of {len(seen.record)} bytes, signature valid"
        return f"{', '.join(config.places)}: {what}, one look {self.facts.look_ms:.1f} ms"

    def _learn(self, seen: Sighting, *, active: bool, look_ms: float) -> None:
        """Take a reading of the store into the facts. Raises what is wrong with a stored tower."""
        slot = root = None
        if seen.record is not None:
            tower = to_current(decode_saved_tower(seen.record, seen.identity))
            require_well_formed(tower)
            slot, root = tower.last_voted_slot, tower.root
        self.facts = replace(
            self.facts, fence=seen.instance_revision, owner=seen.owner, stored_slot=slot, stored_root=root,
            tower_bytes=len(seen.record or b""), owner_active=active, look_ms=look_ms,
        )  # fmt: skip

    async def cluster(self, deadline_s: float) -> str:
        where = await window.find_cluster(self.options.ledger)
        self._rpc = rpc = self._rpc or ClusterRpc(where.url, flag="the validator's RPC")
        epoch, healthy = await rpc.get_epoch_info(), await rpc.get_health()
        schedule = await rpc.get_leader_schedule(epoch.first_slot, from_base58(self.facts.identity))
        leads = [epoch.first_slot + index for index in (schedule or {}).get(self.facts.identity, [])]
        _, landed = await self.chain()
        status = await self.admin.acall("status")
        self.facts = replace(
            self.facts, slot=epoch.absolute_slot, healthy=healthy, epoch=epoch.epoch,
            epoch_slots_left=epoch.slots_in_epoch - epoch.slot_index, node_slot=int(status.get("processedSlot") or 0),
            next_leader_slot=min((slot for slot in leads if slot >= epoch.absolute_slot), default=None),
            landed=max(landed, default=None),
        )  # fmt: skip
        return f"slot {epoch.absolute_slot} of epoch {epoch.epoch}, the account is {self.facts.behind} slots behind"

    async def spare(self, deadline_s: float) -> str:
        notes = await self.notes()
        beacons = [found for name, note in notes.items() if is_beacon(name) and (found := decode_beacon(note)) is not None]
        spare, problem = choose_spare(beacons, self.facts.slot, self.options.spare)
        self.facts = replace(self.facts, spare=spare, no_spare=problem)
        if spare is None or problem:
            return problem
        return f"{spare.who} on {spare.host}, at slot {spare.slot}"

    async def check(self, deadline_s: float) -> str:
        if not self.options.skip_window:
            self.facts = replace(self.facts, window=(await self.window_now()).text)
        found = problems(self.facts)
        if found:
            raise Refused("; ".join(found))
        return "nothing does"

    async def window_now(self) -> window.Verdict:
        """What `wait-for-restart-window` would say at this moment."""
        try:
            seen = await window.observe(self.rpc, from_base58(self.facts.identity), None)
            return window.decide(self.options.policy, seen, window.Memory())[0]
        except window.NoRestartWindow as problem:
            return window.Verdict(False, str(problem))

    async def wait_for_window(self) -> str:
        verdict = await window.wait(self.rpc, from_base58(self.facts.identity), self.options.policy, lambda line: None)
        return verdict.text

    # ---- parts of steps

    @property
    def rpc(self) -> ClusterRpc:
        if self._rpc is None:
            raise InvalidInput("the cluster's RPC is not known yet")
        return self._rpc

    async def in_store(self, work: Callable[[NotingStore], T]) -> T:
        store = self._store
        if store is None:
            raise StoreError("the store is not open yet")
        return await asyncio.to_thread(work, store)

    async def sighting(self) -> Sighting:
        return await self.in_store(lambda store: store.look(self.facts.identity, LOOK_S))

    async def notes(self) -> dict[str, bytes]:
        return await self.in_store(lambda store: store.notes(self.facts.identity, LOOK_S))

    async def chain(self) -> tuple[list[int], list[int]]:
        """Slots with a block, and slots voted for by our account, both as the newest bank has them."""
        addresses = [from_base58(SLOT_HASHES), from_base58(self.facts.vote_account)]
        _, (hashes, account) = await self.rpc.get_multiple_accounts(addresses)
        if hashes is None or account is None:
            raise Refused("the cluster's RPC knows neither SlotHashes nor the vote account")
        votes = decode_vote_account(account.data).lockouts
        return [slot for slot, _ in decode_slot_hashes(hashes.data)], [vote.slot for vote in votes]

    async def reread(self) -> Facts | None:
        """The facts once more, at the end; `None` where they cannot be read any more."""
        before = self.facts
        try:
            node = str((await self.admin.acall("status", timeout=LOOK_S)).get("identity"))
        except TowerError:
            node = "ended"
        try:
            epoch = await self.rpc.get_epoch_info()
            _, landed = await self.chain()
            self._learn(await self.sighting(), active=True, look_ms=before.look_ms)
            return replace(
                self.facts, node=node, slot=epoch.absolute_slot, epoch=epoch.epoch, landed=max(landed, default=None),
                epoch_slots_left=epoch.slots_in_epoch - epoch.slot_index,
            )  # fmt: skip
        except TowerError:
            return None
        finally:
            self.facts = before
