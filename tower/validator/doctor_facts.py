"""What the doctor looks at, as values: this machine's files, its cluster, its vote account, its etcd. No I/O here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tower.validator.certs_show import CertificateFacts
from tower.validator.etcd_metrics import Scrape
from tower.validator.etcd_probe import Latency
from tower.validator.etcd_survey import EtcdSurvey, MemberFacts

__all__ = [
    "CLOCK_WARN_S",
    "CLUSTER_CLOCK_WARN_S",
    "CertificateFiles",
    "ClockFacts",
    "EtcdFacts",
    "FolderFacts",
    "KeyFile",
    "RpcFacts",
    "TowerFacts",
    "VoteFacts",
    "name_of",
]

CLOCK_WARN_S = 2.0  # a server tells whole seconds
CLUSTER_CLOCK_WARN_S = 30.0  # the cluster's clock is an estimate of its voters, and stands still between blocks


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file with a secret: `flag` names it. `mode` is `None` where the file cannot be looked at; `error` says why."""

    flag: str
    path: str
    mode: int | None = None
    foreign_owner: bool = False  # it belongs to another user than the one who asks, and that one is not root
    error: str | None = None


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """The certificates of the etcd flags. `authority_key` is the authority's secret key, where it lies on this machine."""

    certificates: tuple[CertificateFacts, ...] = ()
    errors: tuple[str, ...] = ()
    authority_key: str | None = None


@dataclass(frozen=True, slots=True)
class RpcFacts:
    """The cluster's RPC at `url`; without `error` it answered."""

    url: str
    error: str | None = None
    healthy: bool | None = None
    version: str | None = None
    slot: int | None = None


@dataclass(frozen=True, slots=True)
class VoteFacts:
    """The vote account as one bank has it; addresses are base58. `error` says why it could not be read."""

    address: str
    error: str | None = None
    found: bool = False
    owner: str | None = None  # of the account, where that is not the vote program
    unreadable: str | None = None  # why its data is no vote account
    node: str | None = None
    epoch: int = 0
    voters: tuple[tuple[int, str], ...] = ()  # first epoch and voter, ascending
    balance: int | None = None  # lamports of the node, which pays for votes

    def voter(self) -> str | None:
        """Who may vote in this epoch."""
        return next((voter for first, voter in reversed(self.voters) if first <= self.epoch), None)


@dataclass(frozen=True, slots=True)
class TowerFacts:
    """What the store holds for `identity`."""

    identity: str
    where: str
    error: str | None = None  # the store did not answer
    unusable: str | None = None  # why the stored tower cannot be used
    last_voted_slot: int | None = None
    stored: bool = False
    holder: str | None = None  # who claimed last
    has_voted: bool | None = None  # whether the vote account has votes


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """A folder that the validator writes to, or the nearest one above it where it is yet to be made."""

    flag: str
    path: str
    writable: bool
    free: int  # bytes


@dataclass(frozen=True, slots=True)
class ClockFacts:
    """Another clock, and how many seconds it is ahead of ours."""

    source: str
    ahead: float
    limit: float = CLOCK_WARN_S


@dataclass(frozen=True, slots=True)
class EtcdFacts:
    """What was asked of etcd. `scrapes` are by endpoint as in the survey; `tls` are etcdctl's flags for TLS."""

    survey: EtcdSurvey
    scrapes: Mapping[str, Scrape] = field(default_factory=dict)
    reads: Latency | None = None
    writes: Latency | None = None  # None: not measured
    tls: str = ""
    unix_time: float = 0.0  # when it was asked
    opened: tuple[str, ...] | None = ()  # whose keys this certificate can list; None: roles keep them from it

    def ctl(self, command: str, endpoint: str | None = None) -> str:
        """An etcdctl command line, for one member or for all that answered."""
        where = endpoint or ",".join(member.endpoint for member in self.survey.answered) or "HOST:PORT"
        return " ".join(part for part in (f"etcdctl --endpoints={where}", self.tls, command) if part)

    @property
    def quota(self) -> int | None:
        """The smallest quota that a member told, in the API or in its metrics."""
        told = [self.survey.quota, *(scrape.quota for scrape in self.scrapes.values())]
        return min((quota for quota in told if quota), default=None)


def name_of(member: MemberFacts) -> str:
    """A member as people know it."""
    return f"{member.name} ({member.endpoint})" if member.name else member.endpoint
