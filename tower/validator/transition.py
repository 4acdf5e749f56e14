"""The newest change of identity as an observation: the answer of the admin method `identityTransitionStatus`.

Its shape is the one proposed for the validators in use, where `setIdentity` answers before the change is adopted. Here it answers
afterwards, so the observation is for those who did not ask: of a change by the spare's watch, or by losing the fence.

>>> seen = Transitions("VoteAccount")
>>> seen.begin("A", "B").adopted(12, 3)
>>> [seen.status("B")[key] for key in ("sequence", "state", "fromIdentity", "toIdentity", "fromIdentityLastSubmittedVoteSlot")]
[1, 'complete', 'A', 'B', 12]
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tower.errors import TowerError

__all__ = ["Change", "Transitions"]

VERSION = 1  # of what the fields mean


class Change:
    """One change of identity while it goes on, and what became of it."""

    def __init__(self, from_identity: str, to_identity: str) -> None:
        self.from_identity = from_identity
        self.to_identity = to_identity
        self.state = "transitioning"
        self.last_submitted: int | None = None
        self.root: int | None = None
        self.error: str | None = None

    def adopted(self, last_submitted: int | None, root: int | None) -> None:
        """The new identity is adopted and the old one sends no more: the newest slot that the old one sent a vote for in its
        last life here, and the root of its tower; `None` where there was none."""
        self.state, self.last_submitted, self.root = "complete", last_submitted, root

    def failed(self, error: str) -> None:
        self.state, self.error = "failed", error


class Transitions:
    """The changes of one process; only the newest is kept."""

    def __init__(self, vote_account: str) -> None:
        self._vote_account = vote_account
        self._instance = secrets.token_hex(8)
        self._sequence = 0
        self._newest: Change | None = None

    def begin(self, from_identity: str, to_identity: str) -> Change:
        """A change begins."""
        self._sequence += 1
        self._newest = Change(from_identity, to_identity)
        return self._newest

    @asynccontextmanager
    async def change(self, from_identity: str, to_identity: str) -> AsyncIterator[Change]:
        """While a change goes on, which has failed unless `Change.adopted` is called. Errors pass through."""
        change = self.begin(from_identity, to_identity)
        try:
            yield change
        except TowerError as problem:
            change.failed(str(problem))
            raise
        finally:
            if change.state == "transitioning":
                change.failed("it ended before the new identity was adopted")

    def status(self, current_identity: str) -> dict[str, Any]:
        """The newest change; `idle` before the first."""
        newest = self._newest
        if newest is None:
            newest, state, vote_account = Change(current_identity, current_identity), "idle", ""
        else:
            state, vote_account = newest.state, self._vote_account
        return {
            "version": VERSION,
            "processInstanceId": self._instance,
            "sequence": self._sequence,
            "state": state,
            "consensus": "unknown" if state == "idle" else "tower",
            "currentIdentity": current_identity,
            "fromIdentity": newest.from_identity,
            "toIdentity": newest.to_identity,
            "voteAccount": vote_account,
            "fromIdentityLastSubmittedVoteSlot": newest.last_submitted,
            "towerRootSlot": newest.root,
            "error": newest.error,
        }
