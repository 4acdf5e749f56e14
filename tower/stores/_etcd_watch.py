"""The watch on an identity's instance in etcd: a thread that says once that somebody else has claimed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from tower.errors import WireError
from tower.store import ABSENT, Fence
from tower.stores import _etcd_messages as pb
from tower.stores._common import CLOSE_WAIT, LostOnce
from tower.stores._etcd_call import CallFailed, Link, Session
from tower.stores._etcd_exchange import Links
from tower.stores._etcd_keys import Keys

__all__ = ["EtcdWatch"]

PAUSE_FIRST, PAUSE_MAX = 0.01, 1.0  # seconds before the next endpoint is watched


class EtcdWatch:
    """One thread that watches the instance on one endpoint, and goes on to the next when that one fails.

    Each time it first reads the instance and watches from that moment on, so no change is missed while no endpoint was
    watched, and none of the revisions that etcd has compacted away is needed.
    """

    def __init__(self, links: Links, fence: Fence, on_lost: Callable[[int], None]) -> None:
        self._links, self._fence = links, fence
        self._key = Keys(fence.identity).instance
        self.lost = LostOnce(on_lost)
        self._stop = threading.Event()
        self._session: Session | None = None
        self._thread = threading.Thread(target=self._run, name=f"tower-watch-{fence.identity}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pause, at = PAUSE_FIRST, self._links.all.index(self._links.current)
        while not self._stop.is_set():
            revision, watched = self._watch_on(self._links.all[at])
            if revision is not None:
                self.lost.fire(revision)
                return
            at = (at + 1) % len(self._links.all)
            pause = PAUSE_FIRST if watched else min(2 * pause, PAUSE_MAX)
            self._stop.wait(pause)

    def _watch_on(self, link: Link) -> tuple[int | None, bool]:
        """The revision of a foreign claim, or `None` when this endpoint's watch has ended; and whether it had begun."""
        watched = False
        self._session = session = link.session()
        try:
            # the next store says why an endpoint fails; here another one is tried
            with contextlib.suppress(CallFailed, WireError):
                now = pb.decode_range(session.call("range", pb.range_request(self._key), self._links.attempt_timeout))
                held = now.kvs[0] if now.kvs else None
                if held is None or (held.mod_revision, held.value) != (self._fence.revision, self._fence.instance):
                    return ABSENT if held is None else held.mod_revision, True
                if self._stop.is_set():
                    return None, watched
                for data in session.watch(pb.watch_create(self._key, now.revision + 1)):
                    answer = pb.decode_watch(data)
                    watched = watched or answer.created
                    if answer.changes:
                        return answer.changes[-1], watched
                    if answer.cancelled is not None:
                        break
            return None, watched
        finally:
            session.close()

    def close(self) -> None:
        """No callback starts after this; the thread ends."""
        self.lost.close()
        self._stop.set()
        session = self._session
        if session is not None:
            session.stop()
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_WAIT)
