"""Sends committed votes: UDP to the vote ports of the next leaders, as the clients on the cluster do.

Best effort, never blocking, called from the vote thread. What it takes is a `CommittedVote`, a value that exists only after
its tower is durable. Who leads when is learnt from the cluster and refreshed by the process; where no leader's address
is known, every known vote port gets the vote.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tower.errors import InvalidInput
from tower.runner import CommittedVote
from tower.validator.rpc import ClusterRpc

__all__ = ["LEADERS_AHEAD", "VoteRoutes", "VoteSender", "learn_routes"]

log = logging.getLogger(__name__)

LEADERS_AHEAD = 3  # votes go to the leaders of this many slots after the tip
FALLBACK_PORTS_MAX = 8

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class VoteRoutes:
    """Vote ports by leader, and the leader of each slot of an epoch from `first_slot` on."""

    ports: Mapping[str, Address] = field(default_factory=dict)
    first_slot: int = 0
    leaders: Sequence[str] = ()
    blocks: Address | None = None  # where the local cluster takes block announcements; no other cluster has such a port

    def leader(self, slot: int) -> str:
        """Who leads `slot`; empty where that is not known."""
        index = slot - self.first_slot
        return self.leaders[index] if 0 <= index < len(self.leaders) else ""

    def targets(self, tip: int) -> list[Address]:
        """Where a vote goes that is sent while `tip` is the newest slot: no address twice."""
        found: dict[Address, None] = {}
        for slot in range(tip, tip + LEADERS_AHEAD):
            leader = self.leader(slot)
            if leader in self.ports:
                found[self.ports[leader]] = None
        if not found:
            found.update(dict.fromkeys(list(self.ports.values())[:FALLBACK_PORTS_MAX]))
        return list(found)


async def learn_routes(rpc: ClusterRpc) -> VoteRoutes:
    """Vote ports and this epoch's leaders, as the cluster tells them; with a block port the next epoch's too.

    Raises `RpcError` and `RpcUnreachable`.
    """
    ports, blocks = {}, None
    for node in await rpc.get_cluster_nodes():
        address = parse_address(node.get("tpuVote"))
        if address is not None and isinstance(node.get("pubkey"), str):
            ports[node["pubkey"]] = address
        blocks = blocks or parse_address(node.get("localnetBlocks"))
    info = await rpc.get_epoch_info()
    leaders: list[str] = []
    # Who leads is asked for what comes next too: a window at the beginning of an epoch is reserved before the end of this one.
    for ahead in range(1 if blocks is None else 2):
        of_epoch = [""] * info.slots_in_epoch
        for leader, slots in (await rpc.get_leader_schedule(info.absolute_slot + ahead * info.slots_in_epoch) or {}).items():
            for slot in slots:
                if 0 <= slot < len(of_epoch):
                    of_epoch[slot] = leader
        leaders += of_epoch
    return VoteRoutes(ports, info.first_slot, leaders, blocks)


def parse_address(text: object) -> Address | None:
    """The host and port of `text`; `None` for a node without a vote port, and for what is no address.

    >>> parse_address("127.0.0.1:8000"), parse_address("[::1]:8000"), parse_address(None), parse_address("a:b")
    (('127.0.0.1', 8000), ('::1', 8000), None, None)
    """
    try:
        parts = urlsplit(f"udp://{text}")
        return (parts.hostname, parts.port) if isinstance(text, str) and parts.hostname and parts.port else None
    except ValueError:
        return None


class VoteSender:
    """A UDP socket bound to `bind_address`. `routes` and `tip` are replaced from outside, whole; `sent` counts votes."""

    def __init__(self, bind_address: str) -> None:
        family = socket.AF_INET6 if ":" in bind_address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._socket.bind((bind_address, 0))
        except OSError as problem:
            self._socket.close()
            raise InvalidInput(
                f"--bind-address {bind_address}: {problem.strerror}; name an address of this machine"
            ) from None
        self._socket.setblocking(False)
        self.routes = VoteRoutes()
        self.tip = 0
        self.sent = 0

    @property
    def address(self) -> Address:
        """The local address and port that votes come from."""
        host, port = self._socket.getsockname()[:2]
        return host, port

    def __call__(self, vote: CommittedVote) -> None:
        """Send the vote to the next leaders. A packet that cannot leave is logged: the next vote carries this one along."""
        targets = self.routes.targets(max(self.tip, vote.slot) + 1)
        if not targets:
            log.warning("vote for slot %d not sent: no vote port of any leader is known", vote.slot)
        left = 0
        for target in targets:
            try:
                self._socket.sendto(vote.transaction, target)
                left += 1
            except OSError as problem:
                log.warning("vote for slot %d not sent to %s:%d: %s", vote.slot, *target, problem)
        self.sent += bool(left)

    def close(self) -> None:
        self._socket.close()
