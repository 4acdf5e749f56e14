"""`tower inspect`: what a saved tower holds, for people and for programs. Reads; never writes.

The signature is checked against the identity named inside the file; with `--identity` it is said too whether that is
the identity that was asked for. A torn file is refused with its name and the byte offset.
"""

from __future__ import annotations

import hashlib
import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tower.errors import InvalidInput, WireError
from tower.keys import to_base58
from tower.types import Generation, Lockout, Tower

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["FOREIGN", "INVALID", "VALID", "describe", "print_table", "read_file", "read_tower"]

MAX_TOWER_BYTES = 1 << 20  # the largest real ones have a few kilobytes
VALID = "valid"
INVALID = "invalid"
FOREIGN = "for another identity"


def read_file(path: Path) -> bytes:
    """The bytes of a file that may be a tower; `-` is stdin. Raises `InvalidInput` that names it."""
    try:
        with open(path, "rb") if str(path) != "-" else nullcontext(sys.stdin.buffer) as file:
            data = file.read(MAX_TOWER_BYTES + 1)
    except OSError as problem:
        raise InvalidInput(f"{path}: cannot be read: {problem.strerror}; name a tower file") from None
    if len(data) > MAX_TOWER_BYTES:
        raise InvalidInput(f"{path}: larger than {MAX_TOWER_BYTES} bytes, no tower file")
    return data


def read_tower(path: Path, identity: bytes | None = None) -> dict[str, Any]:
    """The description of the tower file at `path`. Raises `InvalidInput` that names it."""
    data = read_file(path)
    return {"file": path.name, "sha256": hashlib.sha256(data).hexdigest(), **describe(data, path, identity)}


def describe(data: bytes, path: Path, identity: bytes | None = None) -> dict[str, Any]:
    """What is in `data`; `path` is only named in errors. `signature` is `VALID`, `INVALID` or `FOREIGN`."""
    from tower.wire import decode_saved_tower_unchecked

    try:
        tower, signed = decode_saved_tower_unchecked(data)
    except WireError as problem:
        raise InvalidInput(f"{path}: not a whole saved tower: {problem}") from None
    signature = INVALID if not signed else VALID if identity in (None, tower.identity) else FOREIGN
    return {"size": len(data), "signature": signature, **_fields(tower)}


def _fields(tower: Tower) -> dict[str, Any]:
    vote = tower.last_vote
    block_id = None if vote.block_id is None else vote.block_id.hex()
    kind = f"{vote.kind.value}(bare)" if tower.generation is Generation.BARE_1_7_14 else vote.kind.value
    return {
        "identity": to_base58(tower.identity),
        "layout": tower.generation.value,
        "votes": [list(vote) for vote in tower.votes],
        "root": tower.root,
        "threshold_depth": tower.threshold_depth,
        "threshold_size": tower.threshold_size if math.isfinite(tower.threshold_size) else None,  # JSON has no NaN
        "last_vote_kind": kind,
        "last_vote_hash": vote.hash.hex(),
        "last_vote_timestamp": vote.timestamp,
        "block_id": block_id,
        "last_timestamp": {"slot": tower.last_timestamp.slot, "timestamp": tower.last_timestamp.timestamp},
        "authorized_voters": len(tower.extras.authorized_voters),
        "epoch_credits": len(tower.extras.epoch_credits),
        "last_vote": {
            "kind": kind,
            "hash": vote.hash.hex(),
            "timestamp": vote.timestamp,
            "block_id": block_id,
            "slots": list(vote.slots),
        },
    }


def print_table(found: dict[str, Any], console: Console) -> None:
    """The same as a readable page: facts first, then the votes newest first as the stack has them."""
    from rich.table import Table
    from rich.text import Text

    last = found["last_vote"]
    stamp = found["last_timestamp"]
    facts = {
        "file": found["file"],
        "size": f"{found['size']} bytes, layout {found['layout']}",
        "identity": found["identity"],
        "signature": found["signature"],
        "root": _shown(found["root"]),
        "threshold": f"depth {found['threshold_depth']}, size {found['threshold_size']}",
        "last vote": f"{last['kind']}, {len(last['slots'])} slots, newest {_shown(last['slots'][-1:] or None)}",
        "  hash": last["hash"],
        "  timestamp": _shown(last["timestamp"]),
        "  block id": _shown(last["block_id"]),
        "last timestamp": f"slot {stamp['slot']}, {stamp['timestamp']}",
        "votes": str(len(found["votes"])),
    }
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(Text(name), Text(value, overflow="fold"))
    console.print(table)
    if found["votes"]:
        stack = Table("slot", "confirmation count", "locked out until")
        for slot, count in reversed(found["votes"]):
            stack.add_row(str(slot), str(count), str(Lockout(slot, count).last_locked_out_slot))
        console.print(stack)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)
