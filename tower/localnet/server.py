"""The process around a cluster: its slot clock, its sockets, and what it prints.

Everything runs in one asyncio thread. The clock is monotonic and never drifts: slot X ends at a fixed time after the
start, and where the machine was too slow, slots are skipped and the log says so; they never pile up.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from tower.errors import InvalidInput
from tower.keys import to_base58
from tower.localnet.bank import Bank
from tower.localnet.cluster import Cluster
from tower.localnet.forks import MINORITY
from tower.localnet.genesis import Genesis, LocalnetConfig
from tower.localnet.jsonrpc import Dispatcher
from tower.localnet.methods import RpcMethods
from tower.localnet.pubsub import PubSub
from tower.localnet.render import base58
from tower.localnet.voters import add_voters
from tower.validator.web_bounds import listen_bounded

__all__ = ["LOCALNET_FILE", "Localnet"]

LOCALNET_FILE = "localnet.json"
BODY_BYTES_MAX = 50 * 1024  # as on a real node
CONNECTIONS_MAX = 300  # of the RPC, and of PubSub, where no more than 256 may subscribe
PORT_ATTEMPTS_MAX = 50
BACKLOG = 128
ROOT_LOG_EVERY = 150  # slots
SHUTDOWN_S = 2.0


class _VotePort(asyncio.DatagramProtocol):
    """The UDP vote port. Whatever arrives goes to the cluster, which never raises for what it says."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._cluster.submit(data, addr[0])


class _BlockPort(asyncio.DatagramProtocol):
    """The UDP port for block announcements (`--announced-blocks`)."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._cluster.announce(data, f"{addr[0]}:{addr[1]}")


class Localnet:
    """One running cluster. `start`, then `run` until cancelled, then `stop`."""

    def __init__(
        self,
        genesis: Genesis,
        config: LocalnetConfig,
        *,
        host: str = "127.0.0.1",
        rpc_port: int = 0,
        vote_port: int = 0,
        directory: Path | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.cluster = Cluster(genesis, config)
        self.voters = add_voters(self.cluster)
        self.pubsub = PubSub(self.cluster)
        self.cluster.listeners.append(self.pubsub)
        self.rpc_url = self.websocket_url = self.vote_address = self.block_address = ""
        self._config = config
        self._host = host
        self._rpc_port = rpc_port
        self._vote_port = vote_port
        self._directory = directory
        self._log = log
        self._runners: list[web.AppRunner] = []
        self._servers: list[asyncio.Server] = []
        self._vote_transport: asyncio.DatagramTransport | None = None
        self._block_transport: asyncio.DatagramTransport | None = None
        self._methods: RpcMethods | None = None
        self._lock: int | None = None
        self._our_source = ""
        self._last_partition: int | None = None
        self._conflicts_logged = self._duplicates_logged = 0
        self._root_logged = 0

    # ---- sockets

    async def start(self) -> None:
        """Open the ports, write `localnet.json`, and be ready to answer."""
        self._lock_directory()
        rpc_socket, pubsub_socket = _listen_on_pair(self._host, self._rpc_port)
        rpc_port = rpc_socket.getsockname()[1]
        try:
            loop = asyncio.get_running_loop()
            self._vote_transport, _ = await loop.create_datagram_endpoint(
                lambda: _VotePort(self.cluster), local_addr=(self._host, self._vote_port)
            )
        except OSError as problem:
            rpc_socket.close()
            pubsub_socket.close()
            raise InvalidInput(
                f"--vote-port {self._vote_port}: cannot be opened: {problem.strerror}; give another port, or 0"
            ) from None
        vote_port = self._vote_transport.get_extra_info("sockname")[1]
        self.rpc_url = f"http://{self._host}:{rpc_port}"
        self.websocket_url = f"ws://{self._host}:{rpc_port + 1}"
        self.vote_address = f"{self._host}:{vote_port}"
        if self._config.announced_blocks:
            self._block_transport, _ = await loop.create_datagram_endpoint(
                lambda: _BlockPort(self.cluster), local_addr=(self._host, 0)
            )
            self.block_address = f"{self._host}:{self._block_transport.get_extra_info('sockname')[1]}"
        self._methods = RpcMethods(self.cluster, self.vote_address, f"{self._host}:{rpc_port}", self.block_address)
        rpc = web.Application(client_max_size=BODY_BYTES_MAX)
        rpc.router.add_post("/", self._answer)
        rpc.router.add_get("/health", self._health)
        pubsub = web.Application()
        pubsub.router.add_get("/", self.pubsub.handle)
        for application, listening, stays in ((rpc, rpc_socket, False), (pubsub, pubsub_socket, True)):
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=SHUTDOWN_S)
            await runner.setup()
            self._servers.append(await listen_bounded(runner, listening, CONNECTIONS_MAX, evict=not stays))
            self._runners.append(runner)
        self._write_file()

    async def _answer(self, request: web.Request) -> web.Response:
        if self._methods is None:
            raise web.HTTPServiceUnavailable
        body = await request.read()
        answer = Dispatcher(self._methods.table(request.remote or "")).answer(body)
        return web.Response(text=answer or "", content_type="application/json")

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    def facts(self) -> dict[str, object]:
        """What `localnet.json` says."""
        genesis = self.cluster.genesis
        return {
            "rpc": self.rpc_url,
            "websocket": self.websocket_url,
            "vote": self.vote_address,
            "genesis_hash": base58(genesis.genesis_hash),
            "identity": to_base58(genesis.ours.identity),
            "vote_account": to_base58(genesis.ours.vote_account),
            "seed": self._config.seed,
            "slot_ms": self._config.slot_ms,
            "pid": os.getpid(),
        }

    def _lock_directory(self) -> None:
        """One folder belongs to one running cluster; the lock goes with the process."""
        if self._directory is None:
            return
        handle = os.open(self._directory, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise InvalidInput(f"--dir {self._directory}: another cluster runs there; stop it or give another") from None
        self._lock = handle

    def _write_file(self) -> None:
        if self._directory is None:
            return
        path = self._directory / LOCALNET_FILE
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(self.facts(), indent=2) + "\n", encoding="utf-8")
        fresh.replace(path)  # a reader sees the whole file or none

    async def stop(self) -> None:
        """Close every port and forget the file. Idempotent."""
        await self.pubsub.close()
        for server in self._servers:
            server.close()
        self._servers.clear()
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()
        if self._vote_transport is not None:
            self._vote_transport.close()
            self._vote_transport = None
        if self._block_transport is not None:
            self._block_transport.close()
            self._block_transport = None
        if self._directory is not None and self._lock is not None:
            (self._directory / LOCALNET_FILE).unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # ---- the slot clock

    async def run(self) -> None:
        """Slot after slot until cancelled."""
        slot_s = self._config.slot_ms / 1000
        start = time.monotonic()  # slot 1 begins here
        while True:
            due = 1 + int((time.monotonic() - start) / slot_s)
            following = self.cluster.slot + 1
            if due > following:
                self._log(f"slot {due}: too late for {due - following} slots from {following} on, they are skipped")
            bank = self.cluster.open_slot(max(due, following))
            self._log_partition(bank)
            # Even when late, let the sockets be read once before the slot ends.
            await asyncio.sleep(max(0.0, start + bank.slot * slot_s - time.monotonic()))
            self.cluster.end_slot()
            self._log_progress()

    def _log_partition(self, bank: Bank) -> None:
        partition = self.cluster.partition
        index = None if partition is None else partition.index
        if index == self._last_partition:
            return
        if self._last_partition is not None:
            self._log(f"slot {bank.slot}: the cluster is whole again")
        if partition is not None:
            names = {member.vote_account: member.name for member in self.cluster.genesis.participants}
            cut = ", ".join(sorted(names[account] for account in partition.minority)) or "nobody"
            ours = self.cluster.genesis.ours.vote_account
            rpc = ", and the RPC" if partition.side_of(ours) == MINORITY else ""
            who = f"; in the minority: {cut}{rpc}"
            if partition.asked_for:
                who = f": other side {100 * partition.other_share:.1f} %, silent {100 * partition.silent_share:.1f} %"
            self._log(f"slot {bank.slot}: cut until slot {partition.end}{who}")
        self._last_partition = index

    def _log_progress(self) -> None:
        judge, view = self.cluster.judge, self.cluster.rpc_view
        if judge.conflicts_total > self._conflicts_logged:
            self._conflicts_logged = judge.conflicts_total
            found = judge.conflicts[-1]
            self._log(
                f"slot {self.cluster.slot}: CONFLICT ({found.kind}, slot {found.slot}) on vote account "
                f"{to_base58(found.vote_account)}: votes for {found.older.last_slot} from {found.older.source} and "
                f"{found.newer.last_slot} from {found.newer.source}"
            )
        blocks = self.cluster.blocks
        if blocks.duplicates_total > self._duplicates_logged:
            self._duplicates_logged = blocks.duplicates_total
            two = blocks.duplicates[-1]
            sources = f"{two.first.source} and {two.second.source}"
            self._log(f"slot {self.cluster.slot}: TWO BLOCKS for slot {two.first.slot}: from {sources}")
        source = judge.last_source(self.cluster.genesis.ours.vote_account)
        if source != self._our_source:
            self._our_source = source
            self._log(f"slot {self.cluster.slot}: votes of our vote account come from {source}")
        if view.root >= self._root_logged + ROOT_LOG_EVERY:
            self._root_logged = view.root
            self._log(f"slot {self.cluster.slot}: root {view.root}, confirmed {view.confirmed}")


def _listen_on_pair(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Two listening sockets on `port` and `port + 1`; port 0 finds such a pair."""
    for _ in range(PORT_ATTEMPTS_MAX if port == 0 else 1):
        first = _bound(host, port)
        try:
            second = _bound(host, first.getsockname()[1] + 1)
        except (InvalidInput, OverflowError):
            first.close()
            if port:
                raise
            continue
        return first, second
    raise InvalidInput("--rpc-port 0: no two free ports side by side were found; give one")


def _bound(host: str, port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
        opened.listen(BACKLOG)
    except OSError as problem:
        opened.close()
        if problem.errno in (errno.EADDRINUSE, errno.EACCES):
            raise InvalidInput(
                f"--rpc-port: {host}:{port} cannot be opened: {problem.strerror}; the RPC needs this port and the "
                "next one: give another number, or 0"
            ) from None
        raise InvalidInput(f"--host {host}: cannot be used: {problem.strerror}; give an address of this machine") from None
    opened.setblocking(False)
    return opened
