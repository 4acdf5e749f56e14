"""The tower store: typed records of an identity, and a fence around every write of them.

A store keeps, for each identity, an *instance* (who may write) and one *record* of each `Kind`: the saved tower, and the
newest reservation of block slots. It does not know what is in a record. Three adapters exist, `tower.stores.memory`,
`.file` and `.etcd`; one contract suite holds them to what is written here.

**The fence.** A `claim` replaces the instance by fresh random bytes, and the revision at which the store did so is the
`Fence`: larger than every fence before it, for every identity, in that store. From that moment no write under an older
fence commits (S3). Not a clock, not a lease, not a name.

**A store write** commits only if *both* hold inside one atomic step: the instance is still at my fence's revision, and the
record of the same kind is still at the revision that I saw last. The second comparison is what makes a late or repeated copy
of an earlier write harmless (S4, S7). The kinds have one fence and nothing else in common: a write of one neither changes nor
compares the revision of another.

**Three outcomes, never a boolean.** What each lets you conclude:

===========  =====================================================================================================
Committed    the record is durable, and it is this one. The only value from which a vote can be released (S2)
Refused      it did not commit and never will. `reason` says whether the fence was lost or the record had moved
Unknown      it may or may not have committed, and may *still* commit later. Nothing follows but: settle it, by
             repeating the *same* write (S6). `begin_store` with equal arguments is that repetition
===========  =====================================================================================================

**Repeating a write** is safe and tells what happened: if an earlier copy had committed, the record at the store holds
exactly these bytes and the adapter answers `Committed`; if not, this copy tries again under the same two comparisons.

**Deadlines** are seconds on the monotonic clock. Every call returns within its `timeout` plus scheduling delay.
"""

from __future__ import annotations

import enum
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = [
    "ABSENT",
    "INSTANCE_BYTES",
    "Claimed",
    "Committed",
    "Fence",
    "Kind",
    "ListingStore",
    "NotingStore",
    "Outcome",
    "Owner",
    "Pending",
    "Refusal",
    "Refused",
    "Sighting",
    "Store",
    "Unknown",
    "Watch",
]

INSTANCE_BYTES = 8
ABSENT = 0  # the revision of a key that does not exist


class Kind(enum.Enum):
    """What a record is. The value names it at the store: etcd's key, the file."""

    TOWER = "tower"
    BLOCKS = "blocks"  # the newest reservation of block slots, see `tower.leader`


@dataclass(frozen=True, slots=True)
class Owner:
    """Who claims, and why: kept beside the instance and in the history. Never part of the fence."""

    who: str  # what the operator calls this machine, or its host name
    why: str  # "start", "set-identity", ...
    host: str = ""
    pid: int = 0
    at_ms: int = 0  # wall clock, milliseconds since 1970; for people only
    last_voted_slot: int | None = None  # of the tower as it was seen before the claim

    @classmethod
    def of_this_process(cls, why: str, *, at_ms: int, who: str = "", last_voted_slot: int | None = None) -> Owner:
        """The owner record of the calling process; `at_ms` comes from the caller's clock."""
        host = socket.gethostname()
        return cls(who or host, why, host, os.getpid(), at_ms, last_voted_slot)


@dataclass(frozen=True, slots=True)
class Sighting:
    """The keys of one identity as read at one moment, with no effect on them.

    Revisions are `ABSENT` (0) where there is none. `instance_revision` orders claims; `record_revision` (of the tower) and
    `blocks_revision` are only ever compared for equality. `owner` is who claimed last, `None` if unknown (a legacy validator
    leaves no owner).
    """

    identity: str
    instance_revision: int
    instance: bytes | None
    record_revision: int
    record: bytes | None
    owner: Owner | None = None
    blocks_revision: int = ABSENT
    blocks: bytes | None = None


@dataclass(frozen=True, slots=True)
class Fence:
    """The right to write the records of `identity`, until someone claims after `revision`."""

    identity: str  # base58
    revision: int
    instance: bytes


@dataclass(frozen=True, slots=True)
class Claimed:
    """The claim committed: the fence is ours, and this is the tower as it was in that same step."""

    fence: Fence
    record_revision: int
    record: bytes | None


@dataclass(frozen=True, slots=True)
class Committed:
    """`record` is durable in the store under `fence`; `record_revision` is what the next write of its kind must expect."""

    fence: Fence
    record_revision: int
    record: bytes


class Refusal(enum.Enum):
    """Why a write or claim did not commit."""

    FENCED = "another instance has claimed since"
    CONFLICT = "the record is not the one that was seen last"


@dataclass(frozen=True, slots=True)
class Refused:
    """The write did not commit and never will. `mine` and `seen` are the two revisions that differ."""

    reason: Refusal
    mine: int
    seen: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """The write may or may not have happened, or may still happen. Nothing follows from this but: look again."""

    cause: str


Outcome = Committed | Refused | Unknown


class Pending(Protocol):
    """A store write that is under way."""

    def outcome(self, timeout: float) -> Outcome:
        """Wait at most `timeout` seconds. Running out of time is `Unknown`, not an error."""


class Watch(Protocol):
    """A running watch; `close` stops it and returns once no further callback can start."""

    def close(self) -> None: ...


@runtime_checkable
class Store(Protocol):
    """What an adapter must do. Calls come from one thread per store object, but for `watch` callbacks and `close`."""

    def look(self, identity: str, timeout: float) -> Sighting:
        """Read the keys at one moment (linearizable), changing nothing.

        Raises `StoreUnavailable` if no answer came in time on any endpoint, `StoreError` if the store is unusable.
        """

    def claim(self, sighting: Sighting, owner: Owner, timeout: float) -> Claimed | Refused | Unknown:
        """One atomic step: if the instance is still at `sighting.instance_revision`, replace it by fresh random bytes,
        write owner and history entry beside it, and read the tower.

        `Refused(FENCED)`: somebody else claimed since the sighting; look again. `Unknown`: look again too; if the
        sighting then shows the caller's bytes, the adapter has already answered `Claimed` (it settles its own lost
        answers within `timeout`).
        """

    def begin_store(
        self, fence: Fence, expected_revision: int, record: bytes, timeout: float, kind: Kind = Kind.TOWER
    ) -> Pending:
        """Start the fenced write of the record of `kind` and return at once; the caller works on while it is under way.

        Never raises for what the store does: that is the outcome's. Calling it again with equal arguments repeats the
        same write.
        """

    def expect_store(self) -> None:
        """A write of a record is likely to come next: prepare what can be prepared, so that it takes less time then.

        Changes nothing at the store and never raises. A write that was not announced is as good as one that was.
        """

    def watch(self, fence: Fence, on_lost: Callable[[int], None]) -> Watch:
        """Call `on_lost(revision)` once, from a thread of the adapter, soon after somebody else claims.

        A hint to stop early, never proof of ownership: the next store decides.
        """

    def history(self, identity: str, timeout: float) -> list[Owner]:
        """Every claim of `identity`, oldest first."""

    def close(self) -> None:
        """Give up connections and threads. Idempotent."""


class ListingStore(Store, Protocol):
    """A store that can also say whom it knows: for people who look at it. A voter needs none of this."""

    def identities(self, timeout: float) -> list[str]:
        """Every identity that has a key or file here, sorted, changing nothing. Raises as `Store.look` does."""


class NotingStore(ListingStore, Protocol):
    """A store in which machines can leave each other notes beside an identity's keys. A voter needs none of this.

    No fence guards a note: it informs people and gives an occasion to look, and no promise rests on what is in one.
    """

    def put_note(self, identity: str, name: str, note: bytes, timeout: float) -> None:
        """Replace the note `name` (lower-case letters, digits, hyphens; at most 4096 bytes of content).

        Raises as `Store.look` does; then it may be there or not, and may be put again.
        """

    def notes(self, identity: str, timeout: float) -> dict[str, bytes]:
        """Every note of `identity` by its name, changing nothing. Raises as `Store.look` does."""
