"""`monitor`: what a running validator is doing, line by line, until it ends.

Everything comes from the admin socket and from the JSON-RPC that the validator looks at; what one of them does not
answer is shown as "-". Watching changes nothing in the validator.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tower.keys import from_base58
from tower.validator.admin import AdminClient, AdminError, AdminTimeout, AdminUnavailable
from tower.validator.restart_window import find_cluster
from tower.validator.rpc import ClusterRpc, RpcError, RpcUnreachable

__all__ = ["POLL_S", "monitor", "progress_text"]

POLL_S = 2.0
START_POLL_S = 0.5
ANSWER_S = 5.0
LAMPORTS_PER_SOL = 10**9


def progress_text(progress: Any) -> str:
    """Start progress in words.

    >>> progress_text({"ProcessingLedger": {"slot": 5, "max_slot": 9}}), progress_text("Running")
    ('ProcessingLedger (slot 5, max_slot 9)', 'Running')
    """
    if isinstance(progress, Mapping):
        parts = []
        for name, details in progress.items():
            inner = ", ".join(f"{key} {value}" for key, value in details.items()) if isinstance(details, Mapping) else ""
            parts.append(f"{name} ({inner})" if inner else str(name))
        return "; ".join(parts)
    return str(progress)


async def monitor(
    ledger: Path,
    line: Callable[[str], None],
    live: Callable[[str], None],
    *,
    poll_s: float = POLL_S,
) -> None:
    """Watch the validator of `ledger` until it ends. `line` prints for good, `live` may overwrite what it showed last.

    Raises `AdminUnavailable` if there is no validator at the beginning.
    """
    admin = AdminClient(ledger, timeout=ANSWER_S)
    with contextlib.suppress(AdminTimeout):  # it is there; whether it answers is seen below
        await admin.acall("startProgress")
    line(f"Ledger location: {ledger}")
    while True:
        try:
            await _await_running(admin, live)
            where = await find_cluster(ledger, timeout=ANSWER_S)
            async with ClusterRpc(where.url, timeout=ANSWER_S) as rpc:
                await _watch(admin, rpc, line, live, poll_s)
        except AdminTimeout:
            live(f"The validator has not answered for {ANSWER_S:g} s")
        except AdminUnavailable:
            line("The validator has ended")
            return


async def _await_running(admin: AdminClient, live: Callable[[str], None]) -> None:
    shown = None
    while (progress := await admin.acall("startProgress")) != "Running":
        if progress != shown:
            live(progress_text(progress))
            shown = progress
        await asyncio.sleep(START_POLL_S)


async def _watch(
    admin: AdminClient, rpc: ClusterRpc, line: Callable[[str], None], live: Callable[[str], None], poll_s: float
) -> None:
    started = await admin.acall("startTime")
    info = await admin.acall("contactInfo")
    identity = str(info["id"])
    line(f"Identity: {identity}")
    genesis, version = await _or_none(rpc.get_genesis_hash()), await _or_none(rpc.get_version())
    line(f"Genesis Hash: {_shown(genesis)}")
    line(f"Version: {_shown(version)}")
    line(f"Shred Version: {info['shred_version']}")
    for name, key in (("Gossip Address", "gossip"), ("TPU Address", "tpu"), ("TPU Votes Address", "tpu_vote")):
        if not str(info[key]).startswith("0.0.0.0:0"):
            line(f"{name}: {info[key]}")
    line(f"JSON RPC URL: {rpc.url}")
    while True:
        status = await _status(admin)
        if str(status.get("identity")) != identity:
            identity = str(status.get("identity"))
            line(f"Identity: {identity}")
        live(await _status_line(started, status, rpc, identity))
        await asyncio.sleep(poll_s)


async def _status(admin: AdminClient) -> Mapping[str, Any]:
    try:
        return dict(await admin.acall("status"))
    except AdminError:  # a validator of another make knows no such method
        return {"identity": (await admin.acall("contactInfo"))["id"]}


async def _status_line(started: Mapping[str, int], status: Mapping[str, Any], rpc: ClusterRpc, identity: str) -> str:
    # how long ago a wall-clock moment was, for people only
    uptime = max(0, int(time.time() - started["secs_since_epoch"]))
    hours, rest = divmod(uptime, 3600)
    healthy, processed, confirmed, finalized, snapshot, balance = await asyncio.gather(
        _or_none(rpc.get_health()),
        _or_none(rpc.get_slot("processed")),
        _or_none(rpc.get_slot("confirmed")),
        _or_none(rpc.get_slot("finalized")),
        _or_none(rpc.get_highest_snapshot_slot()),
        _or_none(rpc.get_balance(from_base58(identity))),
    )
    health = {None: "unreachable", True: "healthy", False: "unhealthy"}[healthy]
    full, incremental = snapshot or (None, None)
    sol = "-" if balance is None else f"{balance / LAMPORTS_PER_SOL:.9f}"
    return (
        f"{hours:02}:{rest // 60:02}:{rest % 60:02} | {health} | {status.get('state', '-')} | "
        f"Processed Slot: {_shown(processed)} | Confirmed Slot: {_shown(confirmed)} | "
        f"Finalized Slot: {_shown(finalized)} | Full Snapshot Slot: {_shown(full)} | "
        f"Incremental Snapshot Slot: {_shown(incremental)} | Last Vote: {_shown(status.get('lastVotedSlot'))} | "
        f"Root: {_shown(status.get('rootSlot'))} | Balance: {sol} SOL"
    )


async def _or_none(asked: Any) -> Any:
    try:
        return await asked
    except (RpcError, RpcUnreachable):
        return None


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)
