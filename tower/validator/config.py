"""What `openos-validator run` was told, checked and ready to use."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path

from tower.keys import Keypair

__all__ = ["EtcdConfig", "Exit", "ValidatorConfig"]


class Exit(enum.IntEnum):
    """Exit statuses of `openos-validator`, as documented in docs/operations.md."""

    OK = 0
    REFUSED = 1  # bad input, a precondition that does not hold, "not now"; one line says which and the fix
    USAGE = 2  # the command line could not be parsed
    LOST_FENCE = 10  # another instance has claimed the identity; this one stopped voting and ended
    STORE_FAILED = 11  # the tower store did not confirm a write within its bound; nothing unpersisted was sent
    TOWER_UNUSABLE = 12  # the stored tower cannot be used: torn, foreign, badly signed, malformed
    INTERNAL = 13  # an invariant did not hold: a bug; voting stopped first


@dataclass(frozen=True, slots=True)
class EtcdConfig:
    """Endpoints (`(host, port)`), TLS files (already read: PEM bytes) and the server name that they must prove."""

    endpoints: tuple[tuple[str, int], ...]
    ca_cert: bytes
    cert: bytes
    key: bytes
    domain_name: str = "localhost"


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
