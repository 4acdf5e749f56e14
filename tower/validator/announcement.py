"""A block as the local cluster knows it: its leader's signed word that it produced one, in one UDP packet.

What stands for the block of a real validator in every test of S7: whoever may announce a slot might have produced a block for it.

>>> from tower.keys import Keypair
>>> leader = Keypair.from_seed(bytes(32))
>>> read_announcement(encode_announcement(8, 7, leader)) == Announcement(8, 7, leader.pubkey)
True
>>> read_announcement(b"not an announcement") is None
True
"""

from __future__ import annotations

from dataclasses import dataclass

from tower import _fast
from tower._bytes import Reader, Writer
from tower.keys import Keypair

__all__ = ["ANNOUNCEMENT_BYTES", "Announcement", "encode_announcement", "read_announcement"]

# No transaction, saved tower or gossip message begins like this, so the signature is worth nothing as theirs.
MAGIC = b"\xffopenos-block-v1"
SIGNED_BYTES = len(MAGIC) + 32 + 8 + 8
ANNOUNCEMENT_BYTES = SIGNED_BYTES + 64


@dataclass(frozen=True, slots=True)
class Announcement:
    """The leader with the key `identity` (32 bytes) produced a block for `slot` on top of the one of `parent_slot`."""

    slot: int
    parent_slot: int
    identity: bytes


def encode_announcement(slot: int, parent_slot: int, leader: Keypair) -> bytes:
    """The packet: magic, identity, slot and parent slot (u64, little endian), and the identity's signature of all that."""
    body = Writer().raw(MAGIC).raw(leader.pubkey).u64(slot).u64(parent_slot).bytes()
    return body + _fast.sign(leader.secret, body)


def read_announcement(raw: bytes) -> Announcement | None:
    """What a packet announces; `None` if it is no announcement or its signature does not verify."""
    if len(raw) != ANNOUNCEMENT_BYTES or not raw.startswith(MAGIC):
        return None
    reader = Reader(raw, len(MAGIC))
    identity, slot, parent_slot = reader.take(32), reader.u64(), reader.u64()
    if not _fast.verify(identity, raw[:SIGNED_BYTES], raw[SIGNED_BYTES:]):
        return None
    return Announcement(slot, parent_slot, identity)
