"""What the validator counts and measures, for Prometheus.

Counters are told as things happen (`voted`, `halted`, ...), from any thread. Gauges are read from the process's own status when
somebody scrapes, so they cost nothing in between. Every series is listed in docs/monitoring.md, and a test holds the list to
this file.

Nothing is counted on the way of a vote before it has left.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cryptography import x509
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from tower.validator.config import EtcdConfig

__all__ = ["CONTENT_TYPE", "ROLES", "Metrics", "certificate_expiry", "role_of"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ROLES = ("starting", "standby", "primary")
# from a fast local disk to the default bound of a store
STORE_BUCKETS_S = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0)
# how the history's "why" begins, and what it is counted as
WHYS = {
    "start": "start",
    "set-identity": "set-identity",
    "auto-takeover": "auto-takeover",
    "failover": "failover",
    "hand-over": "hand-over",
    "the store is back": "taken-back",
}
PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

# gauge, the name of its value in the process's status, its help
SLOTS = (
    ("tower_last_voted_slot", "lastVotedSlot", "Newest slot of the tower that is durable"),
    ("tower_root_slot", "rootSlot", "Root of that tower"),
    ("tower_processed_slot", "processedSlot", "Newest slot of the cluster that this node has seen"),
    ("tower_cluster_root_slot", "clusterRootSlot", "Newest slot that the cluster rooted"),
    ("tower_fence_revision", "fence", "Revision at which this process holds the fence; absent without it"),
)


def role_of(status: Mapping[str, Any]) -> str:
    """One of `ROLES`: what this process is to its cluster.

    >>> role_of({"progress": "LoadingLedger"}), role_of({"progress": "Running", "voting": True}), role_of({"progress": "Running"})
    ('starting', 'primary', 'standby')
    """
    if status.get("voting"):
        return "primary"
    return "standby" if status.get("progress") == "Running" else "starting"


def certificate_expiry(config: EtcdConfig) -> dict[str, float]:
    """When each certificate for etcd ends, in seconds since 1970: the authority's and our own; the first to end of several."""
    ends = {}
    for name, data in (("etcd-ca", config.ca_cert), ("validator", config.cert)):
        found = [x509.load_pem_x509_certificate(pem).not_valid_after_utc for pem in PEM.findall(data)]
        if found:
            ends[name] = min(found).astimezone(datetime.UTC).timestamp()
    return ends


class Metrics:
    """The process's metrics. `status` gives the snapshot that the admin RPC gives, and the start progress with it."""

    def __init__(self, status: Callable[[], Mapping[str, Any]], etcd: EtcdConfig | None = None, version: str = "") -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody looks at
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_Status(status, {} if etcd is None else certificate_expiry(etcd), version))
        self._votes = Counter("tower_votes_released", "Votes that left, after their tower was durable", registry=self.registry)
        self._refreshes = Counter("tower_votes_refreshed", "Votes that left again with a fresh blockhash", registry=self.registry)
        self._store = Histogram(
            "tower_store_seconds",
            "From the start of a vote's write to the store's commit, repetitions included",
            buckets=STORE_BUCKETS_S,
            registry=self.registry,
        )
        self._takeovers = Counter("tower_takeovers", "Identities adopted, by why", ["why"], registry=self.registry)
        self._stops = Counter("tower_voting_stopped", "Times that voting stopped, by reason", ["reason"], registry=self.registry)
        self._hooks = Counter("tower_hooks", "Hooks that ran, by role and outcome", ["role", "outcome"], registry=self.registry)

    def voted(self, store_s: float, again: bool) -> None:
        """A vote left; `store_s` is how long its write took."""
        (self._refreshes if again else self._votes).inc()
        self._store.observe(store_s)

    def adopted(self, why: str) -> None:
        """An identity was adopted. `why` is counted by its kind: the rest of it is for people, and without bound."""
        kind = next((kind for start, kind in WHYS.items() if why.startswith(start)), "other")
        self._takeovers.labels(kind).inc()

    def stopped(self, reason: str) -> None:
        """Voting stopped."""
        self._stops.labels(reason).inc()

    def hook(self, role: str, outcome: str) -> None:
        """A hook ended: "ok", "failed" or "timeout"."""
        self._hooks.labels(role, outcome).inc()

    def text(self) -> bytes:
        """The exposition, in Prometheus's text format."""
        return bytes(generate_latest(self.registry))


class _Status(Collector):
    def __init__(self, status: Callable[[], Mapping[str, Any]], expiry: Mapping[str, float], version: str) -> None:
        self._status, self._expiry, self._version = status, expiry, version

    def describe(self) -> Iterator[Metric]:
        return iter(())  # the process is not asked for its status before it is up

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        yield InfoMetricFamily(
            "tower_validator",
            "Who this process is",
            {
                "identity": str(status.get("identity") or ""),
                "vote_account": str(status.get("voteAccount") or ""),
                "tower_storage": str(status.get("towerStorage") or ""),
                "version": self._version,
            },
        )
        # the vote account is what two machines have in common: the spare's identity is another one
        account = str(status.get("voteAccount") or "")
        role = GaugeMetricFamily("tower_role", "1 for the role that this process has now", labels=["role", "vote_account"])
        for name in ROLES:
            role.add_metric([name, account], float(role_of(status) == name))
        yield role
        for name, key, text in SLOTS:
            if status.get(key) is not None:
                yield GaugeMetricFamily(name, text, float(status[key]))
        if self._expiry:
            ends = GaugeMetricFamily(
                "tower_certificate_expiry_seconds", "When a certificate for etcd ends, since 1970", labels=["certificate"]
            )
            for certificate, end in self._expiry.items():
                ends.add_metric([certificate], end)
            yield ends
