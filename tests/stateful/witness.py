"""The judge of the real side. It knows nothing of the model: it sees what was sent, what the store holds, and who asks it what.

S1  the local cluster's judge, over every transaction that left
S2  a vote that left says what a tower said that the store had held by then
S3  a tower changes only by a write of whoever claimed last
S4  the stored tower does not go back, and does not contradict the one before
S5  every tower that the store held is well formed
S6  a life begins no other write of a kind while the outcome of one is open
S7  no slot is in the confirmed reservations of two lives, and the stored mark only rises
"""

from __future__ import annotations

from dataclasses import dataclass

from solders.transaction import Transaction

from tests.support.chain import VOTE_ACCOUNT
from tower.errors import TowerError
from tower.keys import Keypair
from tower.leader import decode_reservation
from tower.localnet.judge import Ballot, Judge, conflict_between
from tower.lockout import require_well_formed
from tower.store import Fence, Sighting
from tower.types import Tower
from tower.wire import decode_saved_tower, decode_vote_instruction

__all__ = ["Broken", "Witness", "Write"]


class Broken(AssertionError):
    """A promise does not hold on the real side; the text begins with its id."""


@dataclass(frozen=True, slots=True)
class Write:
    """What a life asked the store to write."""

    fence: Fence
    expected: int
    record: bytes


def said_by(tower: Tower) -> Ballot:
    """The newest vote of a tower, as a ballot."""
    last = tower.last_vote
    return Ballot.of([(vote.slot, vote.confirmation_count) for vote in last.lockouts], last.root, last.hash, b"", "store")


class Witness:
    """Raises `Broken` as soon as it sees a promise broken."""

    def __init__(self, identity: Keypair) -> None:
        self.judge = Judge()
        self.sent: list[Ballot] = []
        self._identity = identity
        self._stored: list[Ballot] = []
        self._open: dict[str, Write] = {}  # by life and kind
        self._led_by: dict[int, int] = {}  # by slot, the life that it is reserved for

    def left(self, source: str, transaction: bytes) -> None:
        """A vote left a machine."""
        parsed = Transaction.from_bytes(transaction)
        cast = decode_vote_instruction(bytes(parsed.message.instructions[0].data))
        lockouts = [(vote.slot, vote.confirmation_count) for vote in cast.lockouts]
        ballot = Ballot.of(lockouts, cast.root, cast.hash, transaction[1:65], source)
        self.sent.append(ballot)
        if not any(ballot.says_the_same(stored) for stored in self._stored):
            raise Broken(f"S2: a vote for {ballot.last_slot} left {source}, and the store never held its tower")
        self.judge.see(VOTE_ACCOUNT, ballot)
        for conflict in self.judge.conflicts:
            one, other = (f"{each.last_slot} from {each.source}" for each in (conflict.older, conflict.newer))
            raise Broken(f"S1: the votes for {one} and {other} conflict ({conflict.kind} at slot {conflict.slot})")

    def stored(self, writer: bytes, before: Sighting, after: Sighting) -> None:
        """A request of whoever claimed as `writer` reached the store, which held `before` and holds `after`."""
        tower_moved = (before.record_revision, before.record) != (after.record_revision, after.record)
        mark_moved = (before.blocks_revision, before.blocks) != (after.blocks_revision, after.blocks)
        if (tower_moved or mark_moved) and before.instance != writer:
            raise Broken("S3: the store was written by one who had been replaced")
        if mark_moved:
            self._marked(before.blocks, after.blocks)
        if not tower_moved:
            return
        if after.record is None:
            raise Broken("S4: the stored tower is gone")
        try:
            tower = decode_saved_tower(after.record, self._identity)
            require_well_formed(tower)
        except TowerError as problem:
            raise Broken(f"S5: {problem}") from problem
        now = said_by(tower)
        if self._stored:
            last = self._stored[-1]
            conflict = conflict_between(last, now, self.judge.ancestry)
            if now.last_slot < last.last_slot or conflict is not None:
                raise Broken(f"S4: the tower that ends at {last.last_slot} was replaced by one that ends at {now.last_slot}")
        self._stored.append(now)

    @staticmethod
    def _marked(before: bytes | None, after: bytes | None) -> None:
        was, now = (0 if record is None else decode_reservation(record).last for record in (before, after))
        if now < was:
            raise Broken(f"S7: the mark went back from {was} to {now}")

    def reserved(self, life: int, first: int, last: int) -> None:
        """A life was told that these slots are its own: it may produce a block in each, now or whenever it wakes up."""
        for slot in range(first, last + 1):
            if self._led_by.setdefault(slot, life) != life:
                raise Broken(f"S7: slot {slot} was reserved for another life before")

    def begun(self, life: str, write: Write) -> None:
        """A life gives a write to its store."""
        if self._open.setdefault(life, write) != write:
            raise Broken("S6: another write was begun while the outcome of one was open")

    def settled(self, life: str) -> None:
        """The outcome of the life's write is known to it, or the life has ended."""
        self._open.pop(life, None)
