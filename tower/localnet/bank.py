"""One bank: slot, parent, accounts, votes executed, and the hashes that name it.

It decides what a bank's hash covers, what its SlotHashes and Clock say, and which blockhashes are young enough. It does
not execute anything (`runtime`) and knows nothing of forks (`tree`).

A bank's SlotHashes name its ancestors, newest first: the first entry is its *parent* with the parent's hash. That is
how a bank's hash becomes known to a voter: from its child.

>>> first = Bank.first(bytes(32), {}, {}, 0)
>>> child = Bank.child(first, 1, unix_timestamp=0, slots_in_epoch=32)
>>> child.slot_hashes[0][0], bytes(child.slot_hashes[0][1]) == first.hash
(0, True)
>>> child.freeze(b"what ran"), child.frozen
(None, True)
>>> sysvar_slot_hashes(child)[:16].hex()
'01000000000000000000000000000000'
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from solders.account import Account
from solders.clock import Clock
from solders.hash import Hash
from solders.pubkey import Pubkey

from tower.errors import InvariantViolation
from tower.types import FrozenBank, VoteAccountState

__all__ = [
    "BLOCKHASH_AGE_MAX",
    "CLOCK_SYSVAR",
    "SLOT_HASHES_MAX",
    "SLOT_HASHES_SYSVAR",
    "SLOT_HISTORY_SYSVAR",
    "SYSTEM_PROGRAM",
    "SYSVAR_OWNER",
    "VOTE_PROGRAM",
    "Bank",
    "Executed",
    "sysvar_clock",
    "sysvar_slot_hashes",
]

SLOT_HASHES_MAX = 512
BLOCKHASH_AGE_MAX = 150
SLOT_HASHES_BYTES = 8 + 40 * SLOT_HASHES_MAX

VOTE_PROGRAM = Pubkey.from_string("Vote111111111111111111111111111111111111111")
SLOT_HASHES_SYSVAR = Pubkey.from_string("SysvarS1otHashes111111111111111111111111111")
CLOCK_SYSVAR = Pubkey.from_string("SysvarC1ock11111111111111111111111111111111")
SLOT_HISTORY_SYSVAR = Pubkey.from_string("SysvarS1otHistory11111111111111111111111111")
SYSVAR_OWNER = Pubkey.from_string("Sysvar1111111111111111111111111111111111111")
SYSTEM_PROGRAM = Pubkey.from_string("11111111111111111111111111111111")


@dataclass(frozen=True, slots=True)
class Executed:
    """A transaction that a bank holds. `error` is `None` for success, else the error as the RPC's JSON has it."""

    signature: bytes
    raw: bytes
    error: object | None
    fee: int
    logs: tuple[str, ...]
    keys: tuple[bytes, ...]
    balances_before: tuple[int, ...]
    balances_after: tuple[int, ...]


@dataclass(slots=True, eq=False)
class Bank:
    """One bank. Made by `first` or `child`; changes until `freeze`, and never after it."""

    slot: int
    parent_slot: int | None
    parent_hash: bytes
    height: int
    epoch: int
    unix_timestamp: int
    slot_hashes: tuple[tuple[int, Hash], ...]
    recent_blockhashes: tuple[bytes, ...]  # newest first, the parent's at the front
    accounts: dict[Pubkey, Account]  # vote accounts and payers
    votes: dict[bytes, VoteAccountState]
    stakes: Mapping[bytes, int]
    side: int = 0
    changed: set[Pubkey] = field(default_factory=set)  # accounts that differ from the parent's
    executed: dict[bytes, Executed] = field(default_factory=dict)
    transaction_count: int = 0
    hash: bytes = b""
    blockhash: bytes = b""

    @classmethod
    def first(
        cls,
        genesis_hash: bytes,
        accounts: Mapping[Pubkey, Account],
        votes: Mapping[bytes, VoteAccountState],
        unix_timestamp: int,
        stakes: Mapping[bytes, int] | None = None,
    ) -> Bank:
        """The frozen bank of slot 0; its blockhash is the genesis hash."""
        bank = cls(
            slot=0,
            parent_slot=None,
            parent_hash=bytes(32),
            height=0,
            epoch=0,
            unix_timestamp=unix_timestamp,
            slot_hashes=(),
            recent_blockhashes=(),
            accounts=dict(accounts),
            votes=dict(votes),
            stakes=dict(stakes or {}),
        )
        bank.freeze(genesis_hash)
        bank.blockhash = genesis_hash
        return bank

    @classmethod
    def child(cls, parent: Bank, slot: int, *, unix_timestamp: int, slots_in_epoch: int, side: int = 0) -> Bank:
        """An open bank for `slot` on top of `parent`, with the parent's accounts."""
        if not parent.frozen or slot <= parent.slot:
            raise InvariantViolation(f"bank {slot} cannot be built on bank {parent.slot}")
        entry = (parent.slot, Hash(parent.hash))
        return cls(
            slot=slot,
            parent_slot=parent.slot,
            parent_hash=parent.hash,
            height=parent.height + 1,
            epoch=slot // slots_in_epoch,
            unix_timestamp=max(unix_timestamp, parent.unix_timestamp),
            slot_hashes=(entry, *parent.slot_hashes[: SLOT_HASHES_MAX - 1]),
            recent_blockhashes=(parent.blockhash, *parent.recent_blockhashes[: BLOCKHASH_AGE_MAX - 1]),
            accounts=dict(parent.accounts),
            votes=dict(parent.votes),
            stakes=parent.stakes,
            side=side,
            transaction_count=parent.transaction_count,
        )

    @property
    def frozen(self) -> bool:
        return bool(self.hash)

    def clock(self, slots_in_epoch: int) -> Clock:
        """The Clock sysvar that this bank's transactions see."""
        return Clock(self.slot, 0, self.epoch, self.slot // slots_in_epoch + 1, self.unix_timestamp)

    def freeze(self, entropy: bytes = b"") -> None:
        """Close the bank and name it. The hash covers parent, slot, vote accounts and blockhash."""
        if self.frozen:
            raise InvariantViolation(f"bank {self.slot} is frozen twice")
        ticks = hashlib.sha256(b"blockhash" + self.parent_hash + self.slot.to_bytes(8, "little") + entropy)
        for signature in self.executed:
            ticks.update(signature)
        self.blockhash = ticks.digest()
        digest = hashlib.sha256(self.parent_hash + self.slot.to_bytes(8, "little"))
        for address in sorted(self.votes):
            account = self.accounts.get(Pubkey(address))
            digest.update(address + (bytes(account.data) if account else b""))
        digest.update(self.blockhash)
        self.hash = digest.digest()

    def strip(self) -> None:
        """Keep only what is asked of a bank behind the root: its place, its hash, its transactions."""
        self.accounts, self.votes = {}, {}
        self.slot_hashes, self.recent_blockhashes = (), ()

    def for_voter(self) -> FrozenBank:
        """What a voter is told of this bank."""
        if not self.frozen:
            raise InvariantViolation(f"bank {self.slot} is not frozen")
        return FrozenBank(
            slot=self.slot,
            parent_slot=self.parent_slot,
            bank_hash=self.hash,
            last_blockhash=self.blockhash,
            epoch=self.epoch,
            votes=self.votes,
            stakes=self.stakes,
        )

    def account(self, address: Pubkey, slots_in_epoch: int) -> Account | None:
        """An account as of this bank, the two sysvars included."""
        if address == SLOT_HASHES_SYSVAR:
            return Account(143_487_360, sysvar_slot_hashes(self), SYSVAR_OWNER)
        if address == CLOCK_SYSVAR:
            return Account(1_169_280, sysvar_clock(self, slots_in_epoch), SYSVAR_OWNER)
        return self.accounts.get(address)


def sysvar_slot_hashes(bank: Bank) -> bytes:
    """The SlotHashes account: u64 count, then (slot u64, hash) newest first, padded to its fixed size."""
    parts = [struct.pack("<Q", len(bank.slot_hashes))]
    for slot, named in bank.slot_hashes:
        parts.append(slot.to_bytes(8, "little"))
        parts.append(bytes(named))
    return b"".join(parts).ljust(SLOT_HASHES_BYTES, b"\0")


def sysvar_clock(bank: Bank, slots_in_epoch: int) -> bytes:
    """The Clock account: slot, epoch start, epoch, leader schedule epoch, unix time."""
    clock = bank.clock(slots_in_epoch)
    return struct.pack(
        "<QqQQq",
        clock.slot,
        clock.epoch_start_timestamp,
        clock.epoch,
        clock.leader_schedule_epoch,
        clock.unix_timestamp,
    )
