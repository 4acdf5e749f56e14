"""The validator process: wires feed, vote thread, store, sender and admin RPC together, and ends them in order.

The order of a start is the order of the safety argument: first everything that can be refused is refused, then the store is
read (nothing written), then the cluster is followed until this node is caught up, and only then, if the vote account's node
is our identity, the identity is claimed. A spare stops before the claim and stands by.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tower.errors import InvalidInput, TowerError
from tower.events import BankFrozen, Halt, HaltReason, LedgerView, RootAdvanced
from tower.keys import Keypair, to_base58
from tower.store import Store
from tower.types import FrozenBank
from tower.validator.admin import AdminServer, admin_socket
from tower.validator.config import Exit, ValidatorConfig
from tower.validator.control import control_handlers
from tower.validator.feed import ClusterFeed
from tower.validator.ledger import LedgerLock
from tower.validator.preflight import check_vote_account
from tower.validator.rpc import ClusterRpc, RpcError, RpcUnreachable
from tower.validator.sender import VoteSender, learn_routes
from tower.validator.vote_thread import TakeOverFailed, VoteThread

__all__ = ["EXIT_OF", "ValidatorProcess", "open_store", "run"]

log = logging.getLogger(__name__)

EXIT_OF = {
    HaltReason.RESIGNED: Exit.OK,
    HaltReason.REFUSED: Exit.REFUSED,
    HaltReason.LOST_FENCE: Exit.LOST_FENCE,
    HaltReason.STORE_FAILED: Exit.STORE_FAILED,
    HaltReason.TOWER_UNUSABLE: Exit.TOWER_UNUSABLE,
    HaltReason.INTERNAL: Exit.INTERNAL,
}
CAUGHT_UP_SLOTS = 3  # how far the newest bank whose hash we know may be behind the cluster's newest: its child names it
POLL_S = 0.1
CATCH_UP_S = 60.0  # that `set-identity` may wait until this node is caught up; a start waits as long as it takes
TELL_EVERY_S = 5.0
RETRY_FIRST_S, RETRY_MAX_S = 0.1, 1.0
VOTES_END_S = 1.0  # that the vote thread may take to end: a store that hangs holds it up
CLOSE_S = 1.8  # how long an orderly end may take before the process ends anyway
ROUTES_EVERY_S = 30.0
LEDGER_SLOTS_MAX = 1024  # how old a slot history may be: what is newer, the tree of banks remembers

T = TypeVar("T")


def open_store(config: ValidatorConfig) -> Store:
    """The tower store that the flags name. Raises `InvalidInput` or `StoreError`."""
    if config.etcd is not None:
        from tower.stores.etcd import EtcdStore

        etcd = config.etcd
        return EtcdStore(
            etcd.endpoints, ca_cert=etcd.ca_cert, cert=etcd.cert, key=etcd.key, domain_name=etcd.domain_name
        )
    from tower.stores.file import FileStore

    return FileStore(config.tower_dir)


def run(config: ValidatorConfig, lock: LedgerLock) -> int:
    """Run the validator until it is told to end or must; the exit status. Raises `TowerError` for what is refused at start."""

    guards: list[threading.Timer] = []

    async def live() -> int:
        process = ValidatorProcess(config)
        try:
            return await process.run()
        finally:
            guards.extend(process.guards)

    with lock:
        try:
            return asyncio.run(live())
        finally:  # only now: the end of the loop waits for threads that may wait for a store
            for guard in guards:
                guard.cancel()


class ValidatorProcess:
    """One run of the process; implements `tower.validator.control.ValidatorControl`."""

    def __init__(self, config: ValidatorConfig) -> None:
        self._config = config
        self._identity = config.identity
        self._voters = config.authorized_voters
        self._started_at = time.time()
        self._progress = "Initializing"
        self._rpc = ClusterRpc(config.url)
        self._feed = ClusterFeed(self._rpc, config.websocket_url, config.vote_account, self._bank, self._root)
        self._sender: VoteSender | None = None
        self._store: Store | None = None
        self._votes: VoteThread | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._root_slot = 0
        self._routed = asyncio.Event()
        self._ledger: LedgerView | None = None  # read when it is needed and missing or old
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
        self._progress = "SearchingForRpcService"
        log.info("cluster %s, genesis hash %s", config.url, await self._rpc.get_genesis_hash())
        if config.vote_account is not None:
            await check_vote_account(self._rpc, config)
        # The store's first answer may take seconds (TLS, several endpoints); the loop stays free meanwhile.
        self._store = await asyncio.to_thread(open_store, config)
        sighting = await asyncio.to_thread(self._store.look, self._identity.address, config.store_timeout)
        stored = "a tower is stored" if sighting.record is not None else "no tower is stored"
        log.info("tower storage %s answers: %s for %s", config.tower_storage, stored, self._identity.address)

        self._progress = "LoadingLedger"
        forks = await self._feed.start()
        self._votes = VoteThread(config, self._store, forks, self._sender, self._halted)
        self._votes.start()
        self._spawn(self._feed.run(), "the cluster feed")
        self._spawn(self._keep_routes(), "the leader schedule")
        self._progress = "StartingServices"
        await self._catch_up()
        await self._vote_or_stand_by()
        self._progress = "Running"
        log.info("running as %s", self._identity.address)

    async def _catch_up(self) -> None:
        """Wait until our newest bank is about the cluster's, our vote account is seen in it, and votes know where to go.

        A cluster that does not answer is asked again: nothing is claimed meanwhile.
        """
        told, answered, pause = float("-inf"), True, POLL_S
        while True:
            slot, own = await self._in_vote_thread(lambda votes: votes.newest())
            try:
                newest = await self._rpc.get_slot()
                seen = (own is not None or self._config.vote_account is None) and self._routed.is_set()
                if seen and newest - slot <= CAUGHT_UP_SLOTS and await self._rpc.get_health():
                    if self._ledger is None or self._ledger.replayed_root + LEDGER_SLOTS_MAX < newest:
                        self._ledger = await self._feed.ledger()
                    log.info("caught up with the cluster: slot %d of %d", slot, newest)
                    return
                said, answers, pause = f"slot {slot} of {newest}", True, POLL_S
            except (RpcError, RpcUnreachable) as problem:
                said, answers, pause = str(problem), False, min(2 * pause, RETRY_MAX_S)
            if answers != answered or time.monotonic() >= told + TELL_EVERY_S:
                log.log(logging.INFO if answers else logging.WARNING, "catching up with the cluster: %s", said)
                told, answered = time.monotonic(), answers
            await asyncio.sleep(pause)

    async def _vote_or_stand_by(self) -> None:
        config = self._config
        if config.vote_account is None or not self._voters:
            log.info("voting is disabled: %s", "no vote account" if config.vote_account is None else "no voter key")
        elif not await self._is_node(self._identity):
            log.info("the vote account's node is another identity: standing by as spare %s", self._identity.address)
        else:
            await self._take_over(self._identity, "start", config.require_tower)

    async def _close(self, admin: AdminServer, starting: asyncio.Task[None]) -> None:
        # Whatever hangs below must not keep a process alive that has stopped voting.
        code = self._end.result() if self._end.done() and not self._end.cancelled() else Exit.REFUSED
        guard = threading.Timer(CLOSE_S, os._exit, (int(code),))
        guard.daemon = True
        guard.start()
        self.guards.append(guard)
        starting.cancel()
        await admin.close()
        if self._votes is not None:
            await asyncio.to_thread(self._votes.close, VOTES_END_S)
        elif self._store is not None:
            await asyncio.to_thread(self._store.close)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(starting, *self._tasks, return_exceptions=True)
        await self._rpc.close()
        if self._sender is not None:
            self._sender.close()

    def _finish(self, code: int, why: str) -> None:
        if not self._end.done():
            log.log(logging.INFO if code == Exit.OK else logging.ERROR, "ending: %s (exit status %d)", why, code)
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

    async def _in_vote_thread(self, work: Callable[[VoteThread], T]) -> T:
        votes = self._votes
        if votes is None:
            raise InvalidInput("Retry once validator start up is complete")
        return await asyncio.wrap_future(votes.call(lambda: work(votes)))

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
        """From the vote thread: the identity that voted has stopped for good, so the process ends."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(self._finish, EXIT_OF[halt.reason], halt.text)

    async def _is_node(self, identity: Keypair) -> bool:
        """Whether the newest bank names `identity` as the node of our vote account."""
        _, own = await self._in_vote_thread(lambda votes: votes.newest())
        return own is not None and own.node_pubkey == identity.pubkey

    async def _take_over(self, identity: Keypair, why: str, require_tower: bool) -> None:
        began, ledger = time.monotonic(), self._ledger
        try:
            adopted = await self._in_vote_thread(lambda votes: votes.take_over(identity, why, require_tower, ledger))
        except TakeOverFailed as failed:
            if why == "start" or failed.identity_lost:
                self._finish(EXIT_OF[failed.halt.reason], failed.halt.text)
            raise
        since = "never voted before" if adopted.last_voted_slot is None else f"last vote {adopted.last_voted_slot}"
        log.info(
            "Identity set to %s: fence %d held, tower loaded (%s), %.1f ms",
            identity.address, adopted.fence.revision, since, (time.monotonic() - began) * 1000,
        )  # fmt: skip
        if adopted.votes_from_slot is not None:
            log.warning(
                "the store knew less than the chain: begun from what landed, no vote before slot %d", adopted.votes_from_slot
            )

    # ---- where votes go

    async def _keep_routes(self) -> None:
        pause = RETRY_FIRST_S
        while True:
            try:
                routes = await learn_routes(self._rpc)
                if self._sender is not None:
                    self._sender.routes = routes
                self._routed.set()
                pause = RETRY_FIRST_S
                await asyncio.sleep(ROUTES_EVERY_S)
                continue
            except (RpcError, RpcUnreachable) as problem:
                log.warning("the leader schedule could not be learnt: %s", problem)
            pause = min(2 * pause, ROUTES_EVERY_S)
            await asyncio.sleep(pause)

    # ---- what the admin RPC asks for (tower.validator.control.ValidatorControl)

    @property
    def post_init(self) -> bool:
        return self._progress == "Running"

    def request_exit(self) -> None:
        self._finish(Exit.OK, "exit requested")

    def rpc_address(self) -> str | None:
        parts = urlsplit(self._config.url)
        return f"{parts.hostname}:{parts.port}" if parts.scheme == "http" and parts.port else None

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
            "id": self._identity.address,
            "tpu_vote": f"{host}:{port}",
            "rpc": self.rpc_address() or "0.0.0.0:0",
            "last_updated_timestamp": int(time.time() * 1000),
        }

    def status(self) -> Mapping[str, Any]:
        vote_account = self._config.vote_account
        votes = {} if self._votes is None else self._votes.status()
        return {
            "identity": self._identity.address,
            "voteAccount": None if vote_account is None else to_base58(vote_account),
            "processedSlot": self._feed.tip,
            "clusterRootSlot": self._root_slot,
            "sentVotes": 0 if self._sender is None else self._sender.sent,
            "towerStorage": self._config.tower_storage,
            **votes,
        }

    async def add_authorized_voter(self, voter: Keypair) -> None:
        if voter in self._voters:
            raise InvalidInput("Authorized voter already present")
        await self._set_voters((*self._voters, voter))

    async def remove_all_authorized_voters(self) -> None:
        await self._set_voters(())

    async def _set_voters(self, voters: tuple[Keypair, ...]) -> None:
        await self._in_vote_thread(lambda votes: votes.set_authorized_voters(voters))
        self._voters = voters

    async def set_identity(self, identity: Keypair, require_tower: bool) -> None:
        """Adopt `identity`: returns when the fence is held and the tower loaded, or, for a spare's, when voting ended.

        Giving an identity up needs nobody's consent. Taking one needs a node that is caught up, and the store.
        """
        if identity == self._identity and self.status()["voting"]:
            return
        if self._config.vote_account is None or not await self._is_node(identity):
            await self._in_vote_thread(lambda votes: votes.stand_by(identity))
            log.info("Identity set to %s: the vote account's node is another identity, standing by", identity.address)
        else:
            try:
                async with asyncio.timeout(CATCH_UP_S):
                    await self._catch_up()
            except TimeoutError:
                raise InvalidInput(
                    f"not caught up with the cluster within {CATCH_UP_S:g} s; nothing was claimed, see the validator's log"
                ) from None
            await self._take_over(identity, "set-identity", require_tower)
        self._identity = identity
