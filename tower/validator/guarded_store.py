"""A store through which an identity is only taken as long as nothing speaks against it: for what was decided earlier.

Between the moment in which somebody decides (a monitor, an operator who reads a plan, an owner who makes an offer) and the
claim, the owner may have come back or changed. The guard judges the very reading that the claim then compares itself with, so of
two who decide at once only the first succeeds.
"""

from __future__ import annotations

from collections.abc import Callable

from tower.errors import StoreError
from tower.store import Claimed, Fence, Kind, Owner, Pending, Refused, Sighting, Store, Unknown, Watch

__all__ = ["Guard", "GuardedStore", "unchanged"]

Guard = Callable[[Sighting], str]  # what speaks against a claim on this reading; empty: nothing


class GuardedStore:
    """`store`, whose `look` raises `StoreError` with what `guard` has against a claim. Everything else is handed on."""

    def __init__(self, store: Store, guard: Guard) -> None:
        self._store = store
        self._guard = guard

    def look(self, identity: str, timeout: float) -> Sighting:
        seen = self._store.look(identity, timeout)
        reason = self._guard(seen)
        if reason:
            raise StoreError(f"nothing was claimed: {reason}")
        return seen

    def claim(self, sighting: Sighting, owner: Owner, timeout: float) -> Claimed | Refused | Unknown:
        return self._store.claim(sighting, owner, timeout)

    def begin_store(
        self, fence: Fence, expected_revision: int, record: bytes, timeout: float, kind: Kind = Kind.TOWER
    ) -> Pending:
        return self._store.begin_store(fence, expected_revision, record, timeout, kind)

    def expect_store(self) -> None:
        self._store.expect_store()

    def watch(self, fence: Fence, on_lost: Callable[[int], None]) -> Watch:
        return self._store.watch(fence, on_lost)

    def history(self, identity: str, timeout: float) -> list[Owner]:
        return self._store.history(identity, timeout)

    def close(self) -> None:
        self._store.close()


def unchanged(instance_revision: int, record_revision: int | None = None) -> Guard:
    """Against a claim if somebody has claimed since, or, where it is given, if the record is another."""

    def guard(seen: Sighting) -> str:
        if seen.instance_revision != instance_revision:
            return f"another instance has claimed since (revision {seen.instance_revision}, seen before {instance_revision})"
        if record_revision is not None and seen.record_revision != record_revision:
            return "the owner has stored a vote since"
        return ""

    return guard
