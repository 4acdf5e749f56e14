"""Who can read the key files that the validator was given: what is wrong is a warning at start, and a failure in the doctor.

A start is not refused for it: the key is known to whoever read it by then, and a primary that does not come back costs votes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from shlex import quote
from typing import Any

__all__ = ["readable_by_others"]

FLAGS = ("identity", "authorized_voters", "unstaked_identity", "auto_takeover", "accept_handover", "etcd_key_file")
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def readable_by_others(flags: Mapping[str, Any]) -> list[str]:
    """A line for each key file among the `flags` of `run` that its group or everybody may use, with the fix."""
    found: dict[Any, str] = {}  # a file may be named by several flags
    for flag, path in _paths(flags):
        try:
            mode = stat.S_IMODE(os.stat(path).st_mode)
        except (OSError, ValueError):  # gone since it was read
            continue
        if mode & OTHERS:
            who = "everybody" if mode & stat.S_IRWXO else "its group"
            name = "--" + flag.replace("_", "-").removesuffix("s")
            fix = f"type: chmod 600 {quote(str(path))}"
            found.setdefault(path, f"{name}: {path}: mode {mode:04o} lets {who} use the key; {fix}")
    return list(found.values())


def _paths(flags: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for flag in FLAGS:
        value = flags.get(flag)
        for path in (value,) if isinstance(value, str) else value or ():
            yield flag, path
