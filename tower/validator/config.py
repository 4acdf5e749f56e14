"""What `openos-validator run` was told, checked and ready to use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tower.keys import Keypair
from tower.validator.exits import Exit

__all__ = ["EtcdConfig", "Exit", "FailoverConfig", "RunningConfig", "ValidatorConfig"]


@dataclass(frozen=True, slots=True)
class EtcdConfig:
    """Endpoints (`(host, port)`), TLS files (already read: PEM bytes) and the server name that they must prove."""

    endpoints: tuple[tuple[str, int], ...]
    ca_cert: bytes
    cert: bytes
    key: bytes
    domain_name: str = "localhost"


@dataclass(frozen=True, slots=True)
class FailoverConfig:
    """What this machine does on its own where an identity changes hands; without flags nothing but to end."""

    demote: bool = False  # on a lost fence or a store that failed: go on as a spare, in place of ending
    unstaked_identity: Keypair | None = None  # the spare's identity; None: one of its own or a fresh one in memory
    standby_at_start: bool = False  # do not claim at start, even if the vote account's node is our identity
    auto_takeover: Keypair | None = None  # the identity that is taken over when its owner is gone
    auto_after_s: float = 30.0  # how long it must be silent in the store and behind on the chain, both
    auto_min_interval_s: float = 600.0  # between two automatic take-overs of it, by whomever
    accept_handover: Keypair | None = None  # the identity that is taken when its owner hands it over

    @property
    def watched(self) -> Keypair | None:
        """The identity whose owner this machine watches while it is a spare."""
        return self.auto_takeover or self.accept_handover


@dataclass(frozen=True, slots=True)
class RunningConfig:
    """How this machine is watched, and whom it tells."""

    metrics_address: tuple[str, int] | None = None  # of the port with metrics, health and the status page; None: none
    hook_before: tuple[str, ...] = ()  # command with arguments, absolute; empty: none
    hook_after: tuple[str, ...] = ()
    hook_timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class ValidatorConfig:
    """Everything the process needs; files are read and checked before one is built (`tower.validator.preflight`)."""

    identity: Keypair
    vote_account: bytes | None  # 32 bytes; None: voting disabled
    authorized_voters: tuple[Keypair, ...]
    ledger: Path
    url: str  # JSON-RPC of the cluster, http(s)://host:port
    websocket_url: str  # its PubSub
    tower_storage: str = "file"  # "file" or "etcd"
    tower_dir: Path = field(default_factory=Path)  # file storage only
    etcd: EtcdConfig | None = None
    check_vote_account: bool = True
    require_tower: bool = False
    bind_address: str = "0.0.0.0"  # source address of the votes that are sent
    who: str = ""  # name for owner records and history; empty: the host name
    store_timeout: float = 5.0  # seconds that a vote may wait for its tower to be confirmed, over all retries
    rebuild_wait_slots: int = 200  # slots to wait before the first vote on a tower rebuilt from the vote account
    trace: Path | None = None  # where to append what the voter does, for spec.replay; None: nowhere
    failover: FailoverConfig = field(default_factory=FailoverConfig)
    leader_duty: bool = True  # reserve and announce blocks, where the cluster takes announcements
    running: RunningConfig = field(default_factory=RunningConfig)
    store_flags: Mapping[str, Any] = field(default_factory=dict)  # how to open the same store again; names no secret
