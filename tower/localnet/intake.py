"""Reads what arrives at the vote port: raw bytes to a checked transaction and the votes in it.

It decides whether bytes are a legacy transaction, whether its signatures verify, and which votes it carries. It does
not judge them (`judge`) and does not execute them (`runtime`). Nothing that arrives can raise: the answer says what it
is.

>>> read_transaction(b"not a transaction").problem
'not a transaction'
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from solders.transaction import SanitizeError, Transaction

from tower import wire
from tower.errors import TowerError
from tower.localnet.bank import VOTE_PROGRAM
from tower.localnet.judge import Ballot
from tower.types import Lockout

__all__ = ["PACKET_BYTES_MAX", "Intake", "read_ballots", "read_transaction"]

PACKET_BYTES_MAX = 1232
# Instructions of the vote program that vote: Vote, VoteSwitch, UpdateVoteState(Switch), CompactUpdateVoteState(Switch),
# TowerSync(Switch). All others (authorize, withdraw, ...) are executed and not judged.
VOTING_TAGS = frozenset({2, 6, 8, 9, 12, 13, 14, 15})


@dataclass(frozen=True, slots=True)
class Intake:
    """What arrived. `problem` is `None` for a transaction that may be executed; `signed`: all signatures verify."""

    raw: bytes
    problem: str | None = None
    transaction: Transaction | None = None
    signed: bool = False

    @property
    def signature(self) -> bytes:
        """The first signature, which names the transaction."""
        return bytes(self.transaction.signatures[0]) if self.transaction else b""


def read_transaction(raw: bytes) -> Intake:
    """Decode and verify one packet."""
    if len(raw) > PACKET_BYTES_MAX:
        return Intake(raw, f"longer than {PACKET_BYTES_MAX} bytes")
    try:
        transaction = Transaction.from_bytes(raw)
        if bytes(transaction) != raw:
            return Intake(raw, "not a transaction")
        transaction.sanitize()
    except (ValueError, SanitizeError):
        return Intake(raw, "not a transaction")
    message = transaction.message
    if not transaction.signatures or len(transaction.signatures) != message.header.num_required_signatures:
        return Intake(raw, "wrong number of signatures", transaction)
    if not all(transaction.verify_with_results()):
        return Intake(raw, "a signature does not verify", transaction)
    keys = message.account_keys
    if not message.instructions or any(keys[ix.program_id_index] != VOTE_PROGRAM for ix in message.instructions):
        return Intake(raw, "not a transaction of the vote program", transaction, True)
    return Intake(raw, None, transaction, True)


def read_ballots(transaction: Transaction, source: str) -> tuple[list[tuple[bytes, frozenset[bytes], Ballot]], int]:
    """`(vote account, signers, ballot)` for each vote in a sound transaction, and how many could not be decoded."""
    message = transaction.message
    keys = [bytes(key) for key in message.account_keys]
    signers = frozenset(keys[: message.header.num_required_signatures])
    signature = bytes(transaction.signatures[0])
    found = []
    unreadable = 0
    for instruction in message.instructions:
        data = bytes(instruction.data)
        accounts = bytes(instruction.accounts)
        if len(data) < 4 or int.from_bytes(data[:4], "little") not in VOTING_TAGS or not accounts:
            continue
        try:
            vote = wire.decode_vote_instruction(data)
        except TowerError:
            unreadable += 1
            continue
        # A plain Vote names slots only; what it certainly claims is one confirmation each.
        lockouts = vote.lockouts or tuple(Lockout(slot, 1) for slot in vote.slots)
        slots = [slot for slot, _ in lockouts]
        if not slots or any(later <= earlier for earlier, later in pairwise(slots)):
            unreadable += 1
            continue
        found.append((keys[accounts[0]], signers, Ballot.of(lockouts, vote.root, vote.hash, signature, source)))
    return found, unreadable
