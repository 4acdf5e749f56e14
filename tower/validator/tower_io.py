"""Towers between files and a store, with a refusal to go backwards.

`why_not_after` is the rule: may one tower take another's place? `bring_in` writes a tower from outside into a store, through
the same two doors as a voter: it claims the fence, which ends whoever held it, and then writes once under it. `take_out`
writes the stored bytes into a file.

**What two towers can tell.** A tower may follow the stored one if it could have grown out of it by legal votes: it is not
older, in last vote or root; every stored vote is still in it, or rooted, or had expired before the first newer vote; and it
holds no vote of the stored one's time that the stored one lacks. On which forks the slots are, towers do not say: the
voter asks the ledger for that at its start.

>>> from tower.types import LastVote, VoteKind
>>> stored = Tower(bytes(32), (Lockout(10, 2), Lockout(11, 1)), 5, LastVote(VoteKind.VOTE, (10, 11)))
>>> newer = Tower(bytes(32), (Lockout(10, 3), Lockout(11, 2), Lockout(12, 1)), 5, LastVote(VoteKind.VOTE, (12,)))
>>> why_not_after(stored, newer), why_not_after(newer, stored)
(None, 'its last vote 11 is older than the stored one, 12')
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tower.errors import InvalidInput, StoreError, StoreUnavailable, TowerError, UnusableTower
from tower.keys import Keypair, to_base58
from tower.lockout import require_well_formed
from tower.store import ABSENT, Claimed, Committed, Owner, Refusal, Refused, Sighting, Store
from tower.types import Generation, Lockout, Tower
from tower.wire import decode_saved_tower, encode_saved_tower, to_current

__all__ = [
    "UNUSABLE",
    "FenceTaken",
    "bring_in",
    "holder_text",
    "load_tower",
    "record_name",
    "summary",
    "take_out",
    "why_not_after",
]

UNUSABLE = "unusable"  # what is typed in place of a slot where the stored tower cannot be read
REPEAT_PAUSE_S = 0.05  # between two tries of a write whose outcome is unknown


class FenceTaken(TowerError):
    """Another instance claimed while a tower was being brought in; nothing was written."""


def load_tower(data: bytes, identity: bytes, where: str) -> Tower:
    """The tower in `data`, fit to be voted on as `identity`. Raises `UnusableTower` that begins with `where`."""
    try:
        tower = decode_saved_tower(data, identity)
        require_well_formed(tower)
    except TowerError as problem:
        raise UnusableTower(f"{where}: no usable tower of {to_base58(identity)}: {problem}") from None
    return tower


def summary(tower: Tower) -> str:
    """A tower in some words.

    >>> summary(Tower(bytes(32)))
    'no vote yet, root none, 0 votes'
    """
    last = "no vote yet" if tower.last_voted_slot is None else f"last vote {tower.last_voted_slot}"
    root = "none" if tower.root is None else tower.root
    return f"{last}, root {root}, {len(tower.lockouts)} vote{'s' if len(tower.lockouts) != 1 else ''}"


def record_name(identity: bytes) -> str:
    """The name under which current validators keep a tower."""
    return f"tower-1_9-{to_base58(identity)}.bin"


def why_not_after(stored: Tower, new: Tower) -> str | None:
    """Why `new` must not take the place of `stored`, `None` if it may; see the module's text."""
    old_last, new_last = stored.last_voted_slot, new.last_voted_slot
    if old_last is not None and (new_last is None or new_last < old_last):
        return f"its last vote {_shown(new_last)} is older than the stored one, {old_last}"
    if stored.root is not None and (new.root is None or new.root < stored.root):
        return f"its root {_shown(new.root)} is older than the stored one, {stored.root}"
    if old_last is None:
        return None
    if new_last == old_last and new.last_vote.hash != stored.last_vote.hash:
        return f"it votes for another block of slot {old_last} than the stored tower"
    if new_last == old_last and new.last_timestamp < stored.last_timestamp:
        return f"its last timestamp {new.last_timestamp.timestamp} is older than the stored one"
    before, after = dict(stored.votes), dict(new.votes)
    foreign = [slot for slot in after if slot <= old_last and slot not in before]
    if foreign:
        return f"it holds a vote for slot {foreign[0]}, which the stored tower does not"
    root = -1 if new.root is None else new.root
    first_newer = min((slot for slot in after if slot > old_last), default=None)
    for slot, count in stored.votes:
        until = Lockout(slot, count).last_locked_out_slot
        if slot in after and after[slot] < count:
            return f"its vote for slot {slot} has {after[slot]} confirmations, the stored one {count}"
        if slot not in after and slot > root and (first_newer is None or until >= first_newer):
            return f"the stored vote for slot {slot} binds until slot {until}, and is not in it"
    return None


def _shown(value: int | None) -> str:
    return "none" if value is None else str(value)


def holder_text(sighting: Sighting) -> str:
    """Who holds the fence, in words.

    >>> holder_text(Sighting("me", 3, bytes(8), 0, None, Owner("primary", "start", "h1", 7)))
    'primary (host h1, pid 7, fence 3, by start)'
    """
    owner = sighting.owner
    if owner is None:
        return f"a validator that leaves no name (fence {sighting.instance_revision})"
    return f"{owner.who} (host {owner.host or '-'}, pid {owner.pid}, fence {sighting.instance_revision}, by {owner.why})"


# ------------------------------------------------------------------------------------------------- into a store


@dataclass(frozen=True, slots=True)
class _Stored:
    """What a store held at one moment: its tower, or why there is none to compare with."""

    tower: Tower | None
    problem: str | None

    @property
    def name(self) -> str:
        """What an operator types to say that this very tower shall be replaced."""
        return UNUSABLE if self.tower is None else str(self.tower.last_voted_slot)

    @property
    def text(self) -> str:
        return self.problem or "" if self.tower is None else summary(self.tower)


def _stored(record: bytes | None, pair: Keypair) -> _Stored | None:
    if record is None:
        return None
    try:
        return _Stored(load_tower(record, pair.pubkey, "the store"), None)
    except UnusableTower as problem:
        return _Stored(None, str(problem))


def _objection(stored: _Stored | None, new: Tower, replace: str | None) -> str | None:
    """Why `new` must not be written over what is stored, where the operator said `replace` of it."""
    if stored is None:
        reason = None
    elif stored.tower is None:
        reason = f"the stored tower cannot be compared with it: {stored.problem}"
    else:
        reason = why_not_after(stored.tower, new)
    if replace is None:
        return reason
    if stored is None or reason is None:
        return "--replace-stored has no use here, for nothing would go back; leave it out"
    if replace != stored.name:
        return f"--replace-stored {replace} does not name the stored tower, which is: {stored.text}"
    return None


def bring_in(
    store: Store,
    pair: Keypair,
    record: bytes,
    where: str,
    *,
    take_fence: bool = False,
    replace: str | None = None,
    dry_run: bool = False,
    who: str = "",
    timeout: float,
    tell: Callable[[str], None],
    before_claim: Callable[[], None] = lambda: None,
    wait: Callable[[], None] = lambda: None,
    wall_ms: Callable[[], int] = lambda: int(time.time() * 1000),
) -> None:
    """Write the tower in `record` (read from `where`) into `store` under a fence of our own. `tell` gets a line a step.

    Every reason to refuse is found before the claim, for that ends whoever votes; `before_claim` may still raise one.
    `replace` names a stored tower that shall be gone back from; then `wait` runs between the claim and the write, for as
    long as a vote that was sent could still land.

    Raises `UnusableTower` for the tower in `record`, `InvalidInput` for what is refused, `FenceTaken`, `StoreUnavailable`.
    """
    new = load_tower(record, pair.pubkey, where)
    if new.generation is not Generation.CURRENT:
        record = encode_saved_tower(to_current(new), pair)
    sighting = store.look(pair.address, timeout)
    if sighting.record == record:
        tell(f"already stored, nothing to do: {summary(new)}")
        return
    stored = _stored(sighting.record, pair)
    objection = _objection(stored, new, replace)
    if objection is not None:
        raise InvalidInput(f"{where}: not imported, nothing was changed: {objection}")
    held = sighting.instance_revision != ABSENT
    if held and not take_fence:
        raise InvalidInput(
            f"{where}: not imported, nothing was changed: the fence of {pair.address} is held by {holder_text(sighting)}; "
            "an import ends whoever votes under it. End that validator, then add --take-fence"
        )
    tell(f"{where}: {summary(new)}; stored: {'nothing' if stored is None else stored.text}")
    if dry_run:
        tell("dry run: nothing was changed" + (f"; the fence would be taken from {holder_text(sighting)}" if held else ""))
        return
    before_claim()
    if held:
        tell(f"TAKING THE FENCE of {pair.address} from {holder_text(sighting)}: if it votes, it stops now")
    last = None if stored is None or stored.tower is None else stored.tower.last_voted_slot
    owner = Owner.of_this_process("import", at_ms=wall_ms(), who=who, last_voted_slot=last)
    claimed = _claimed(store, sighting, owner, timeout)
    if claimed.record_revision != sighting.record_revision:  # whoever held it went on until the claim
        objection = _objection(_stored(claimed.record, pair), new, replace)
        if objection is not None:
            raise InvalidInput(
                f"{where}: not imported, the stored tower was left as it is: it moved on before the fence was taken, and now "
                f"{objection}. Nobody votes until a validator claims the fence"
            )
    if replace is not None:
        wait()
    _write(store, claimed, record, timeout)
    tell(f"stored under fence {claimed.fence.revision}: {summary(new)}")


def _claimed(store: Store, sighting: Sighting, owner: Owner, timeout: float) -> Claimed:
    outcome = store.claim(sighting, owner, timeout)
    if isinstance(outcome, Refused):
        raise FenceTaken(f"another instance claimed at this very moment (fence {outcome.seen}); nothing was written")
    if not isinstance(outcome, Claimed):
        raise StoreUnavailable(f"the claim was not confirmed within {timeout:g} s, no tower was written: {outcome.cause}")
    return outcome


def _write(store: Store, claimed: Claimed, record: bytes, timeout: float) -> None:
    """Write once; an unknown outcome is settled by the same write again, within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        left = max(0.0, deadline - time.monotonic())
        outcome = store.begin_store(claimed.fence, claimed.record_revision, record, left).outcome(left)
        if isinstance(outcome, Committed):
            return
        if isinstance(outcome, Refused):
            if outcome.reason is Refusal.FENCED:
                raise FenceTaken(f"another instance has claimed since (fence {outcome.seen}); nothing was written")
            raise StoreError("the stored tower was changed by hand meanwhile; nothing was written, begin again")
        if time.monotonic() >= deadline:
            text = f"the store did not confirm the tower within {timeout:g} s, it may be written or not; repeat the command"
            raise StoreUnavailable(f"{text}: {outcome.cause}")
        time.sleep(min(REPEAT_PAUSE_S, left))


# ------------------------------------------------------------------------------------------------- out of a store


def take_out(record: bytes, identity: bytes, target: Path, *, force: bool) -> Path:
    """Write `record` byte for byte to `target`, or under its current name into the folder `target`; the path written.

    Never overwrites without `force`, and never a newer tower of `identity` at all. Raises `InvalidInput`.
    """
    path = target / record_name(identity) if target.is_dir() else target
    if path.name == record_name(identity) and path.with_name(f"fence-{to_base58(identity)}.json").exists():
        raise InvalidInput(f"{path}: belongs to the tower store in that folder; openos-validator tower import writes there")
    try:
        if force and path.exists():
            _refuse_older(path, record, identity)
        _put_file(path, record, force)
    except FileExistsError:
        raise InvalidInput(f"{path}: exists and is not overwritten; choose another name, or add --force") from None
    except OSError as problem:
        raise InvalidInput(f"{path}: cannot be written: {problem.strerror}; choose another place") from None
    return path


def _refuse_older(path: Path, record: bytes, identity: bytes) -> None:
    try:
        there = load_tower(path.read_bytes(), identity, str(path))
        reason = why_not_after(there, load_tower(record, identity, "the stored tower"))
    except UnusableTower:
        return  # what is there is no tower that could be lost
    if reason is not None:
        raise InvalidInput(f"{path}: the tower in it would be lost, for of the stored one: {reason}; choose another name")


def _put_file(path: Path, data: bytes, force: bool) -> None:
    """The whole file or none, durable; `FileExistsError` if it is there and `force` is not set."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(fresh, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if force:
            os.replace(fresh, path)
        else:
            os.link(fresh, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
