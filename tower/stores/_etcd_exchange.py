"""One request over all endpoints: sent again with the same bytes until one answers, or time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from tower.errors import WireError
from tower.stores._common import Deadline
from tower.stores._etcd_call import CLOSED, NO_ANSWER, Call, CallFailed, Link

__all__ = ["Exchange", "Links"]

BACKOFF_FIRST, BACKOFF_MAX = 0.01, 0.2  # seconds between two rounds over all endpoints

T = TypeVar("T")


class Links:
    """All endpoints, and the one in use: the first that answers stays in use until it fails."""

    def __init__(self, links: Sequence[Link], attempt_timeout: float) -> None:
        self.all = tuple(links)
        self.attempt_timeout = attempt_timeout
        self.closed = False
        self._current = 0

    @property
    def current(self) -> Link:
        return self.all[self._current]

    def leave(self, link: Link) -> None:
        """Go on to the endpoint after `link`, which has failed."""
        if link is self.current:
            self._current = (self._current + 1) % len(self.all)

    def close(self) -> None:
        self.closed = True
        for link in self.all:
            link.close()


class Exchange(Generic[T]):
    """One request, sent again over all endpoints with the same bytes until one answers or `deadline` has passed.

    The first copy is on its way when the constructor returns. A copy without an answer may still take effect later, so
    a caller whose request changes something must be able to tell from a later answer what an earlier copy did.
    """

    __slots__ = (
        "_again_at", "_attempt_until", "_backoff", "_call", "_causes", "_cut_short", "_decode", "_hopeless", "_link", "_links",
        "_may_give_up", "_method", "_request", "_until", "over",
    )  # fmt: skip

    def __init__(
        self,
        links: Links,
        method: str,
        request: bytes,
        decode: Callable[[bytes], T],
        deadline: Deadline,
        *,
        may_give_up: bool = False,
    ) -> None:
        self._links, self._method, self._request, self._decode = links, method, request, decode
        self._until = deadline.at
        self._may_give_up = may_give_up  # where no endpoint can ever answer; only if nothing can have happened
        self._causes: dict[str, str] | None = None
        self._hopeless: set[str] = set()
        self._backoff = BACKOFF_FIRST
        self._again_at = 0.0
        self.over = False  # no answer can come any more
        self._begin()

    def _begin(self) -> None:
        links, now = self._links, time.monotonic()
        left, most = max(0.0, self._until - now), links.attempt_timeout
        self._cut_short = left < most
        timeout = left if left < most else most
        self._attempt_until = now + timeout
        self._link = link = links.current
        self._call: Call | None = link.begin(self._method, self._request, timeout)

    def fileno(self) -> int:
        """The socket at which the answer is expected; -1 while there is none."""
        return -1 if self._call is None else self._call.fileno()

    def result(self, wait: Deadline) -> T | None:
        """The answer; `None` if there was none before `wait` or the deadline had passed, or none can come."""
        while not self.over:
            call = self._call
            if call is None:
                if not self._begin_again(wait):
                    return None
                continue
            try:
                data = call.answer(max(0.0, min(wait.at, self._attempt_until) - time.monotonic()))
                if data is not None:
                    return self._decode(data)
                if time.monotonic() < self._attempt_until:
                    self._known_causes().setdefault(self._link.name, NO_ANSWER)
                    return None
                call.cancel()
                self._failed(NO_ANSWER, False)
            except CallFailed as problem:
                self._failed(problem.text, problem.hopeless)
            except WireError as problem:
                self._failed(f"answer not understood: {problem}", False)
            if wait.passed():
                return None
        return None

    def _known_causes(self) -> dict[str, str]:
        if self._causes is None:
            self._causes = {}
        return self._causes

    def _failed(self, text: str, hopeless: bool) -> None:
        name, links = self._link.name, self._links
        self._call = None
        causes = self._known_causes()
        if self._cut_short and text == NO_ANSWER:
            causes.setdefault(name, text)  # cut short by the end of time: says little
        else:
            causes[name] = text
        (self._hopeless.add if hopeless else self._hopeless.discard)(name)
        links.leave(self._link)
        everywhere = len(causes) == len(links.all)
        given_up = everywhere and self._may_give_up and len(self._hopeless) == len(links.all)
        self.over = given_up or links.closed or time.monotonic() >= self._until
        if everywhere:
            self._again_at = time.monotonic() + self._backoff
            self._backoff = min(2 * self._backoff, BACKOFF_MAX)

    def _begin_again(self, wait: Deadline) -> bool:
        """Send the next copy once its time has come; false if it has not before `wait`, or none is to be sent."""
        pause = self._again_at - time.monotonic()
        if pause > 0:
            time.sleep(max(0.0, min(pause, wait.left(), self._until - time.monotonic())))
        if self._links.closed or time.monotonic() >= self._until:
            self.over = True
            return False
        if time.monotonic() < self._again_at:
            return False
        self._begin()
        return True

    def cause(self) -> str:
        """Why there is no answer: every endpoint that was tried, with what it said last."""
        if self._links.closed:
            return CLOSED
        return "; ".join(f"etcd {name}: {text}" for name, text in self._known_causes().items())
