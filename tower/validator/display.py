"""How the commands show themselves: a status that overwrites itself on a terminal, plain lines everywhere else."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

__all__ = ["contact_info_text", "status_display"]

Show = Callable[[str], None]

CONTACT_NAMES = (
    ("Identity", "id"),
    ("Gossip", "gossip"),
    ("TVU", "tvu"),
    ("TVU QUIC", "tvu_quic"),
    ("TPU", "tpu"),
    ("TPU Forwards", "tpu_forwards"),
    ("TPU Votes", "tpu_vote"),
    ("RPC", "rpc"),
    ("RPC Pubsub", "rpc_pubsub"),
    ("Serve Repair", "serve_repair"),
    ("Last Updated Timestamp", "last_updated_timestamp"),
    ("Shred Version", "shred_version"),
)


def contact_info_text(info: dict[str, Any], output: str | None = None) -> str:
    """Contact info as lines, or as JSON (`output` "json" or "json-compact").

    >>> print(contact_info_text({"id": "Node1", "gossip": "127.0.0.1:8001"}, "json-compact"))
    {"id":"Node1","gossip":"127.0.0.1:8001"}
    """
    if output == "json":
        return json.dumps(info, indent=2)
    if output == "json-compact":
        return json.dumps(info, separators=(",", ":"))
    lines = [f"{name}: {info.get(key, '-')}" for name, key in CONTACT_NAMES]
    if info.get("id_in_memory"):
        lines.insert(1, "Identity Kept: in memory only, gone when the validator ends")
    return "\n".join(lines)


@contextmanager
def status_display() -> Iterator[tuple[Show, Show]]:
    """Two ways to print: for good, and a status that the next one overwrites.

    Away from a terminal both are plain lines, flushed at once, so that a log or a pipe shows progress.
    """
    if not sys.stdout.isatty():

        def plain(text: str) -> None:
            click.echo(text)
            sys.stdout.flush()

        yield plain, plain
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    with console.status("") as status:
        yield lambda text: console.print(Text(text)), lambda text: status.update(Text(text))
