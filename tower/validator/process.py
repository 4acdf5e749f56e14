"""The validator process: wires feed, vote thread, store, sender and admin RPC together, and ends them in order.

The order of a start is the order of the safety argument: first everything that can be refused is refused, then the store is
read (nothing written), then the cluster is followed until this node is caught up, and only then, if the vote account's node
is our identity, the identity is claimed. A spare stops before the claim and stands by.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Coroutine, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tower.errors import InvalidInput, TowerError
from tower.events import BankFrozen, Halt, RootAdvanced
from tower.keys import Keypair, to_base58
from tower.store import Store
from tower.types import FrozenBank
from tower.validator.admin import AdminServer, admin_socket
from tower.validator.catch_up import CatchUp
from tower.validator.config import Exit, ValidatorConfig
from tower.validator.control import control_handlers
from tower.validator.feed import ClusterFeed
from tower.validator.identities import Identities
from tower.validator.leader_duty import LeaderDuty, follow_slots
from tower.validator.ledger import LedgerLock
from tower.validator.preflight import check_vote_account, voting_identity
from tower.validator.rpc import ClusterRpc, RpcError, RpcUnreachable
from tower.validator.sender import VoteSender, learn_routes
from tower.validator.spare import SpareWatch
from tower.validator.store_options import open_store
from tower.validator.surroundings import Surroundings
from tower.validator.urls import socket_address
from tower.validator.vote_thread import VoteThread

__all__ = ["ValidatorProcess", "run"]

log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.1
VOTES_END_S = 1.0  # that the vote thread may take to end: a store that hangs holds it up
CLOSE_S = 1.8  # how long an orderly end may take before the process ends anyway
ROUTES_EVERY_S = 30.0
# How long a thread that wants to run may have to wait for one that does not stop: the interpreter's 5 ms are many times a fenced
# store, and the vote thread would meet them whenever the store answers while the loop decodes what the cluster says.
THREAD_SWITCH_S = 0.0001


def run(config: ValidatorConfig, lock: LedgerLock) -> int:
    """Run the validator until it is told to end or must; the exit status. Raises `TowerError` for what is refused at start."""

    guards: list[threading.Timer] = []

    async def live() -> int:
        process = ValidatorProcess(config)
        try:
            return await process.run()
        finally:
            guards.extend(process.guards)

    sys.setswitchinterval(THREAD_SWITCH_S)
    with lock:
        try:
            return asyncio.run(live())
        finally:  # only now: the end of the loop waits for threads that may wait for a store
            for guard in guards:
                guard.cancel()


def _version() -> str:
    try:
        return version("tower")
    except PackageNotFoundError:
        return ""


class ValidatorProcess:
    """One run of the process; implements `tower.validator.control.ValidatorControl`."""

    def __init__(self, config: ValidatorConfig) -> None:
        self._config = config
        self._voters = config.authorized_voters
        self._started_at = time.time()
        self._progress = "Initializing"
        self._why = "the process ends"
        self._rpc = ClusterRpc(config.url)
        self._feed = ClusterFeed(self._rpc, config.websocket_url, config.vote_account, self._bank, self._root)
        self._sender: VoteSender | None = None
        self._store: Store | None = None
        self._votes: VoteThread | None = None
        self._around = Surroundings(config, self._seen, _version())
        self._identities = Identities(config, self._finish, self._around.hooks, self._around.metrics.adopted)
        self._leading = LeaderDuty(config.bind_address, lambda: open_store(config), config.store_timeout, config.leader_duty)
        self._tasks: list[asyncio.Task[None]] = []
        self._root_slot = 0
        self._routed = asyncio.Event()
        self.spare = SpareWatch(config.failover, self._identities, lambda: open_store(config), config.who)
        self._identities.on_lost, self._identities.on_changed_by_hand = self.spare.lost, self.spare.changed_by_hand
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[int] = self._loop.create_future()
        self.guards: list[threading.Timer] = []  # end the process should its orderly end hang; the caller cancels them

    # ---- the life of the process

    async def run(self) -> int:
        """See `run` of the module."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._finish, Exit.OK, f"{signal.Signals(number).name} received")
        admin = AdminServer(admin_socket(self._config.ledger), control_handlers(self))
        starting = self._loop.create_task(self._start(admin))
        try:
            first: list[asyncio.Future[Any]] = [starting, self._end]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not self._end.done():
                self._started(starting)
            return await self._end
        finally:
            await self._close(admin, starting)

    def _started(self, starting: asyncio.Task[None]) -> None:
        """Start-up is over. Raises the `TowerError` that it was refused with."""
        problem = starting.exception()
        if isinstance(problem, TowerError):
            raise problem
        if problem is not None:
            log.error("start-up met what it does not know", exc_info=problem)
            self._finish(Exit.INTERNAL, f"{type(problem).__name__}: {problem}")

    async def _start(self, admin: AdminServer) -> None:
        """Refuse what can be refused, catch up, and only then claim."""
        config = self._config
        self._sender = VoteSender(config.bind_address)
        await admin.start()
        await self._around.start()
        self._progress = "SearchingForRpcService"
        log.info("cluster %s, genesis hash %s", config.url, await self._rpc.get_genesis_hash())
        if config.vote_account is not None:
            await check_vote_account(self._rpc, config)
        # The store's first answer may take seconds (TLS, several endpoints); the loop stays free meanwhile.
        self._store = await asyncio.to_thread(open_store, config)
        whose = await voting_identity(self._rpc, config)  # a spare's certificate may open this one's keys and not its own
        sighting = await asyncio.to_thread(self._store.look, whose, config.store_timeout)
        stored = "a tower is stored" if sighting.record is not None else "no tower is stored"
        log.info("tower storage %s answers: %s for %s", config.tower_storage, stored, whose)

        # Everything is imported and open: what exists by now stays, and no later collection looks at it again. A whole one takes
        # about as long as thirty fenced writes, and a vote may meet it.
        gc.freeze()
        self._progress = "LoadingLedger"
        forks = await self._feed.start()
        self._votes = VoteThread(config, self._store, forks, self._sender, self._halted, self._around.metrics, self._leading)
        self._votes.start()
        catch_up = CatchUp(self._rpc, self._feed, config.vote_account, self._identities.newest, self._routed)
        self._identities.votes, self._identities.catch_up = self._votes, catch_up
        self._spawn(self._feed.run(), "the cluster feed")
        self._spawn(self._keep_routes(), "the leader schedule")
        self._spawn(self._follow_slots(), "the cluster's slots")
        self._progress = "StartingServices"
        await catch_up.wait()
        await self._identities.begin(bool(self._voters))
        self._progress = "Running"
        if self.spare.needed:
            self._spawn(self.spare.run(), "the spare's watch")
        log.info("running as %s", self._identities.identity.address)
        self._spawn(self._around.run(lambda: self._identities.in_vote_thread(lambda votes: None)), "telling systemd")

    async def _close(self, admin: AdminServer, starting: asyncio.Task[None]) -> None:
        # Whatever hangs below must not keep a process alive that has stopped voting.
        code = self._end.result() if self._end.done() and not self._end.cancelled() else Exit.REFUSED
        guard = threading.Timer(CLOSE_S, os._exit, (int(code),))
        guard.daemon = True
        guard.start()
        self.guards.append(guard)
        starting.cancel()
        await admin.close()
        self._leading.end(self._why)
        if self._votes is not None:
            await asyncio.to_thread(self._votes.close, VOTES_END_S)
        elif self._store is not None:
            await asyncio.to_thread(self._store.close)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(starting, *self._tasks, return_exceptions=True)
        await self._around.close(self._identities.given_up("stopped", self._why))
        await asyncio.to_thread(self.spare.close)
        await self._rpc.close()
        if self._sender is not None:
            self._sender.close()

    def _finish(self, code: int, why: str) -> None:
        if not self._end.done():
            log.log(logging.INFO if code == Exit.OK else logging.ERROR, "ending: %s (exit status %d)", why, code)
            self._why = why
            self._around.stopping(why)
            self._end.set_result(int(code))

    def _spawn(self, work: Coroutine[Any, Any, None], what: str) -> None:
        """Run `work` beside the rest; if it ends with an error, so does the process."""

        async def watched() -> None:
            try:
                await work
            except TowerError as problem:
                log.error("%s: %s", what, problem)
                self._finish(Exit.REFUSED, str(problem))
            except Exception as problem:  # told in full, and the end: nothing goes on after the unexpected
                log.exception("%s met what it does not know", what)
                self._finish(Exit.INTERNAL, f"{type(problem).__name__}: {problem}")

        self._tasks.append(self._loop.create_task(watched()))

    # ---- between the loop and the vote thread

    def _bank(self, bank: FrozenBank) -> None:
        if self._sender is not None:
            self._sender.tip = self._feed.tip
        if self._votes is not None:
            self._votes.post(BankFrozen(bank, int(time.time())))

    def _root(self, slot: int) -> None:
        self._root_slot = slot
        if self._votes is not None:
            self._votes.post(RootAdvanced(slot))

    def _halted(self, halt: Halt) -> None:
        """From the vote thread: the identity that voted has stopped for good, so the process ends, or is a spare now."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(self._identities.stopped, halt)

    # ---- where votes go

    async def _keep_routes(self) -> None:
        pause = RETRY_FIRST_S
        while True:
            try:
                routes = await learn_routes(self._rpc)
                if self._sender is not None:
                    self._sender.routes = routes
                self._leading.routes = routes
                self._routed.set()
                pause = RETRY_FIRST_S
                await asyncio.sleep(ROUTES_EVERY_S)
                continue
            except (RpcError, RpcUnreachable) as problem:
                log.warning("the leader schedule could not be learnt: %s", problem)
            pause = min(2 * pause, ROUTES_EVERY_S)
            await asyncio.sleep(pause)

    async def _follow_slots(self) -> None:
        """Tell the leader duty when slots begin, on a cluster that takes blocks."""
        await self._routed.wait()
        if self._config.leader_duty and self._leading.routes.blocks is not None:
            await follow_slots(self._config.websocket_url, self._leading.slot_begins)

    # ---- what the admin RPC asks for (tower.validator.control.ValidatorControl)

    @property
    def post_init(self) -> bool:
        return self._progress == "Running"

    def request_exit(self) -> None:
        self._finish(Exit.OK, "exit requested")

    def rpc_address(self) -> str | None:
        return socket_address(self._config.url)

    def rpc_url(self) -> str:
        return self._config.url

    def set_log_filter(self, text: str) -> None:
        level = logging.getLevelNamesMapping().get(text.upper())
        if level is None:
            raise InvalidInput(f"log filter {text!r}: use one of debug, info, warn, error")
        logging.getLogger("tower").setLevel(level)

    def start_time(self) -> float:
        return self._started_at

    def start_progress(self) -> str:
        return self._progress

    def contact_info(self) -> Mapping[str, Any]:
        host, port = self._sender.address if self._sender is not None else ("0.0.0.0", 0)
        return {
            "id": self._identities.identity.address,
            "tpu_vote": f"{host}:{port}",
            "rpc": self.rpc_address() or "0.0.0.0:0",
            "last_updated_timestamp": int(time.time() * 1000),
            "id_in_memory": self._identities.in_memory,
        }

    def status(self) -> Mapping[str, Any]:
        vote_account = self._config.vote_account
        votes = {} if self._votes is None else self._votes.status()
        return {
            "identity": self._identities.identity.address,
            "voteAccount": None if vote_account is None else to_base58(vote_account),
            "processedSlot": self._feed.tip,
            "clusterRootSlot": self._root_slot,
            "sentVotes": 0 if self._sender is None else self._sender.sent,
            "towerStorage": self._config.tower_storage,
            "who": self.spare.who,
            "autoTakeover": self.spare.auto_state,
            "announcedBlocks": self._leading.announced,
            **votes,
        }

    def identity_transition(self) -> Mapping[str, Any]:
        return self._identities.transitions.status(self._identities.identity.address)

    def _seen(self) -> Mapping[str, Any]:
        """What monitors and people see."""
        return {"progress": self._progress, **self.status()}

    async def add_authorized_voter(self, voter: Keypair) -> None:
        if voter in self._voters:
            raise InvalidInput("Authorized voter already present")
        await self._set_voters((*self._voters, voter))

    async def remove_all_authorized_voters(self) -> None:
        await self._set_voters(())

    async def _set_voters(self, voters: tuple[Keypair, ...]) -> None:
        await self._identities.in_vote_thread(lambda votes: votes.set_authorized_voters(voters))
        self._voters = voters

    async def set_identity(self, identity: Keypair, require_tower: bool) -> None:
        await self._identities.set(identity, require_tower)

    async def take_over(
        self, identity: Keypair, why: str, require_tower: bool, instance_revision: int, deadline_s: float
    ) -> Mapping[str, Any]:
        return await self._identities.take_as_planned(identity, why, require_tower, instance_revision, deadline_s)

    async def rehearse_take_over(self, identity: Keypair, require_tower: bool) -> Mapping[str, Any]:
        return await self._identities.rehearse(identity, require_tower)

    def tower_storage(self) -> Mapping[str, Any]:
        return self._config.store_flags
