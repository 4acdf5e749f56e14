"""Keeps the process's memory to itself: no core dump, and nobody without privileges reads it.

`PR_SET_DUMPABLE` (prctl(2)) is what counts: it stops core dumps also where a program takes them (`core_pattern` with a pipe, as
systemd-coredump), for which the limit does not count, and it keeps other processes of the same user from attaching to this one
(ptrace(2)) and from reading /proc/PID/mem. Root still can. A program that this process starts, a hook, begins as usual again.
"""

from __future__ import annotations

import ctypes
import resource
import sys

__all__ = ["forbid_dumps"]

PR_SET_DUMPABLE = 4


def forbid_dumps() -> bool:
    """From now on this process leaves no core dump; whether the system agreed to all of it."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except (OSError, ValueError):
        return False
    if not sys.platform.startswith("linux"):
        return True
    failed: int = ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    return not failed
