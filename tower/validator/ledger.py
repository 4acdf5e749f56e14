"""The ledger folder belongs to one process at a time; this is the lock that says so.

The lock is `flock` on `<ledger>/ledger.lock`: it ends with the process, however that ends, and the file stays. It keeps
two processes of one machine apart. It is no fence: across machines only the tower store is (`tower.store`).
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from tower.errors import InvalidInput

__all__ = ["LOCK_NAME", "LedgerLock", "lock_ledger"]

LOCK_NAME = "ledger.lock"


class LedgerLock:
    """A held lock on a ledger folder. `close` gives it up; so does the end of the process."""

    def __init__(self, ledger: Path, descriptor: int) -> None:
        self.ledger = ledger
        self._descriptor: int | None = descriptor

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> LedgerLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LedgerLock({str(self.ledger)!r}, {'held' if self._descriptor is not None else 'given up'})"


def lock_ledger(ledger: Path) -> LedgerLock:
    """Create the folder if it is missing and lock it. Raises `InvalidInput` if another process holds it."""
    try:
        ledger.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InvalidInput(f"--ledger: {ledger} is not a folder; name one, or a path that can become one") from None
    except OSError as problem:
        raise InvalidInput(f"--ledger: cannot create {ledger}: {problem.strerror}; choose another folder") from None
    try:
        descriptor = os.open(ledger / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as problem:
        raise InvalidInput(f"--ledger: cannot write in {ledger}: {problem.strerror}; choose another folder") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise InvalidInput(
            f"Unable to lock {ledger} directory. Check if another validator is running, or choose another --ledger"
        ) from None
    return LedgerLock(ledger, descriptor)
