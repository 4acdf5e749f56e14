"""The tower store in a folder: the default of the validator, and the store of one machine.

Decides how calls meet the disk: all of its I/O happens in one daemon thread of the store, so that the caller can sign
while a tower is written, and a disk that hangs cannot hold a caller beyond its timeout. What the files are and how they
change is `tower.stores._folder`.

An error in the middle of a write is `Unknown`, even where the write cannot have happened: one rule, and repeating the
write settles it.

>>> import tempfile
>>> folder = tempfile.TemporaryDirectory()
>>> store = FileStore(folder.name)
>>> mine = store.claim(store.look("me", 1), Owner("a", "start"), 1)
>>> written = store.begin_store(mine.fence, mine.record_revision, b"tower 1", 1).outcome(1)
>>> store.look("me", 1).record_revision == written.record_revision
True
>>> store.close(); folder.cleanup()
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import TypeVar

from tower.errors import StoreError, StoreUnavailable
from tower.store import ABSENT, INSTANCE_BYTES, Claimed, Fence, Kind, Outcome, Owner, Refused, Sighting, Unknown
from tower.stores._common import CLOSE_WAIT, Deadline, LostOnce, check_identity
from tower.stores._folder import Folder, checked_folder, content_revision, strerror
from tower.stores._notes import check_note, read_notes, write_note

__all__ = ["FileStore", "content_revision"]

WATCH_POLL = 0.005  # seconds between two looks of a watch at the fence file
GRACE = 0.05  # seconds after its deadline that the I/O thread has to say what it waited for
JOBS_MAX = 64  # operations that may wait for the disk; more than one waits only where the disk hangs

T = TypeVar("T")


class _FilePending:
    def __init__(self, future: Future[Outcome]) -> None:
        self._future = future

    def outcome(self, timeout: float) -> Outcome:
        try:
            return self._future.result(timeout)
        except FutureTimeout:
            return Unknown("the disk has not confirmed the write in time")
        except OSError as problem:
            return Unknown(strerror(problem))
        except StoreError as problem:
            return Unknown(str(problem))


class _FileWatch:
    """Looks at the fence file's status every `WATCH_POLL` seconds, and reads it only when it has changed."""

    def __init__(self, folder: Folder, fence: Fence, on_lost: Callable[[int], None]) -> None:
        self._folder = folder
        self._fence = fence
        self._path = folder.fence_path(fence.identity)
        self.lost = LostOnce(on_lost)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"tower-watch-{fence.identity}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        before: tuple[int, int, int] | None = None
        while not self._stop.is_set():
            try:
                status = os.stat(self._path)
                now = (status.st_ino, status.st_mtime_ns, status.st_size)
                if now != before:
                    held = self._folder.read_fence(self._path)
                    before = now
                    if (held.revision, held.instance) != (self._fence.revision, self._fence.instance):
                        self.lost.fire(held.revision)
                        return
            except FileNotFoundError:
                self.lost.fire(ABSENT)
                return
            except (OSError, StoreError):
                before = None  # unreadable now: only a hint is delayed, the next store says what is wrong
            self._stop.wait(WATCH_POLL)

    def close(self) -> None:
        self.lost.close()
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_WAIT)


class FileStore:
    """The store in `directory`; implements `tower.store.Store`.

    Creates the folder if its parent exists. Raises `InvalidInput` that names it if it cannot be used.
    """

    def __init__(self, directory: str | Path, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._folder = Folder(checked_folder(directory))
        self._random_bytes = random_bytes
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(JOBS_MAX)
        self._thread: threading.Thread | None = None
        self._closed = False
        self._watches: list[_FileWatch] = []

    @property
    def directory(self) -> Path:
        return self._folder.path

    def look(self, identity: str, timeout: float) -> Sighting:
        deadline = Deadline(timeout)
        return self._wait(lambda: self._folder.look(check_identity(identity), deadline), deadline)

    def claim(self, sighting: Sighting, owner: Owner, timeout: float) -> Claimed | Refused | Unknown:
        deadline = Deadline(timeout)
        identity, instance = check_identity(sighting.identity), self._random_bytes(INSTANCE_BYTES)
        seen = sighting.instance_revision
        future = self._submit(lambda: self._folder.claim(identity, seen, instance, owner, deadline))
        try:
            return future.result(deadline.left() + GRACE)
        except FutureTimeout:
            return Unknown(f"{self.directory}: the disk has not confirmed the claim in time")
        except OSError as problem:
            return Unknown(strerror(problem))
        except StoreUnavailable as problem:
            return Unknown(str(problem))

    def begin_store(
        self, fence: Fence, expected_revision: int, record: bytes, timeout: float, kind: Kind = Kind.TOWER
    ) -> _FilePending:
        deadline, record = Deadline(timeout), bytes(record)
        check_identity(fence.identity)
        return _FilePending(self._submit(lambda: self._folder.store(fence, expected_revision, record, deadline, kind)))

    def expect_store(self) -> None:
        """Nothing could be prepared."""

    def watch(self, fence: Fence, on_lost: Callable[[int], None]) -> _FileWatch:
        if self._closed:
            raise StoreError(f"{self.directory}: the store is closed")
        check_identity(fence.identity)
        watch = _FileWatch(self._folder, fence, on_lost)
        self._watches = [other for other in self._watches if not other.lost.done]
        self._watches.append(watch)
        return watch

    def history(self, identity: str, timeout: float) -> list[Owner]:
        deadline = Deadline(timeout)
        return self._wait(lambda: self._folder.history(check_identity(identity), deadline), deadline)

    def identities(self, timeout: float) -> list[str]:
        return self._wait(self._folder.identities, Deadline(timeout))

    def put_note(self, identity: str, name: str, note: bytes, timeout: float) -> None:
        check_note(name, note)
        self._wait(lambda: write_note(self.directory, check_identity(identity), name, bytes(note)), Deadline(timeout))

    def notes(self, identity: str, timeout: float) -> dict[str, bytes]:
        return self._wait(lambda: read_notes(self.directory, check_identity(identity)), Deadline(timeout))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        watches, self._watches = self._watches, []
        for watch in watches:
            watch.close()
        if self._thread is not None:
            with contextlib.suppress(queue.Full):  # the disk hangs: the thread is a daemon and ends with the process
                self._jobs.put_nowait(None)
                self._thread.join(CLOSE_WAIT)

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        """Have `work` done in the I/O thread. What keeps it from being queued ends in the future as well."""
        future: Future[T] = Future()

        def job() -> None:
            try:
                future.set_result(work())
            except BaseException as problem:  # handed to the thread that waits, which raises it
                future.set_exception(problem)

        if self._closed:
            future.set_exception(StoreError(f"{self.directory}: the store is closed"))
            return future
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tower-file-store", daemon=True)
            self._thread.start()
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            future.set_exception(StoreUnavailable(f"{self.directory}: the disk hangs, {JOBS_MAX} operations wait"))
        return future

    def _wait(self, work: Callable[[], T], deadline: Deadline) -> T:
        try:
            return self._submit(work).result(deadline.left() + GRACE)
        except FutureTimeout:
            raise StoreUnavailable(f"{self.directory}: the disk did not answer in time") from None
        except OSError as problem:
            raise StoreError(f"{strerror(problem)}; the tower store needs this folder, see --tower") from problem

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
