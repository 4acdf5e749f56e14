"""What `localnetReport` and `localnetChain` answer: the judge's findings and the heaviest chain, for our own tools.

Not part of the Solana RPC. Filters: `sinceMs` (arrivals at or after, in milliseconds since the cluster started) and
`fromSlot` (votes, blocks and chain slots at or above).
"""

from __future__ import annotations

from typing import Any

from tower.localnet.blocks import BlockArrival
from tower.localnet.cluster import Cluster
from tower.localnet.judge import Ballot, Conflict
from tower.localnet.render import base58, integer

__all__ = ["localnet_chain", "localnet_report"]


def _ballot_json(ballot: Ballot) -> dict[str, object]:
    return {
        "last_slot": ballot.last_slot,
        "root": ballot.root,
        "hash": base58(ballot.hash),
        "signature": base58(ballot.signature),
        "source": ballot.source,
        "lockouts": [list(entry) for entry in zip(ballot.slots, ballot.counts, strict=True)],
    }


def _conflict_json(conflict: Conflict) -> dict[str, object]:
    return {
        "vote_account": base58(conflict.vote_account),
        "kind": conflict.kind,
        "slot": conflict.slot,
        "older": _ballot_json(conflict.older),
        "newer": _ballot_json(conflict.newer),
    }


def _block_json(block: BlockArrival) -> dict[str, object]:
    source, _, port = block.source.rpartition(":")
    return {
        "slot": block.slot,
        "parent_slot": block.parent_slot,
        "leader": base58(block.leader),
        "source": source,
        "port": int(port),
        "at_ms": block.at_ms,
        "unix_ms": block.unix_ms,
        "filled": block.filled,
    }


def _filters(config: dict[str, Any]) -> tuple[int, int]:
    since, first = config.get("sinceMs"), config.get("fromSlot")
    return (0 if since is None else integer(since, "sinceMs"), 0 if first is None else integer(first, "fromSlot"))


def localnet_chain(cluster: Cluster, config: dict[str, Any]) -> dict[str, object]:
    """The heaviest chain of the RPC side, oldest first: what was rooted, then up to the tip."""
    _, first = _filters(config)
    view = cluster.rpc_view
    chain = list(cluster.rooted) + [slot for slot in view.chain() if slot > view.root]
    return {
        "chain": [slot for slot in chain if slot >= first],
        "slot": view.best,
        "confirmed": view.confirmed,
        "root": view.root,
        "now_ms": cluster.time.since_start_ms(),
    }


def localnet_report(cluster: Cluster, config: dict[str, Any]) -> dict[str, object]:
    """Everything that the judge knows, and the chain."""
    since, first = _filters(config)
    judge = cluster.judge
    votes = [
        {
            "vote_account": base58(vote_account),
            "source": arrival.source,
            "last_slot": arrival.last_slot,
            "hash": base58(arrival.hash),
            "signature": base58(arrival.signature),
            "at_ms": arrival.at_ms,
            "unix_ms": arrival.unix_ms,
            "landed": arrival.landed,
        }
        for vote_account in judge.accounts
        for arrival in judge.arrivals(vote_account)
        if arrival.at_ms >= since and arrival.last_slot >= first
    ]
    names = {base58(member.vote_account): member.name for member in cluster.genesis.participants}
    return {
        "conflicts": [_conflict_json(conflict) for conflict in judge.conflicts],
        "conflicts_total": judge.conflicts_total,
        "votes": votes,
        "names": names,
        "counts": {**cluster.counts, **judge.counts},
        "blocks": [
            _block_json(block) for block in cluster.blocks.arrivals() if block.at_ms >= since and block.slot >= first
        ],
        "duplicates": [
            {"first": _block_json(found.first), "second": _block_json(found.second)} for found in cluster.blocks.duplicates
        ],
        "duplicates_total": cluster.blocks.duplicates_total,
        "skipped": cluster.skipped,
        "announcements_refused": cluster.announcements_refused,
        **localnet_chain(cluster, config),
    }
