"""Votes made by hand for the cluster's tests: an encoder of its own, so that no product code vouches for itself."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair as SoldersKeypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import Transaction

from tower.keys import Keypair
from tower.localnet.cluster import Cluster, Timekeeper
from tower.localnet.genesis import Genesis, LocalnetConfig, make_genesis

VOTE_PROGRAM = Pubkey.from_string("Vote111111111111111111111111111111111111111")
OURS = Keypair.from_seed(b"our identity in the tests".ljust(32))
OUR_ACCOUNT = Keypair.from_seed(b"our vote account in the tests".ljust(32)).pubkey


def tower_sync(lockouts: Sequence[tuple[int, int]], root: int | None, bank_hash: bytes, timestamp: int | None) -> bytes:
    """The data of a TowerSync instruction."""
    data = struct.pack("<IQ", 14, 2**64 - 1 if root is None else root) + bytes([len(lockouts)])
    previous = root or 0
    for slot, confirmations in lockouts:
        offset, previous = slot - previous, slot
        while offset >= 128:
            data += bytes([offset & 127 | 128])
            offset >>= 7
        data += bytes([offset, confirmations])
    stamp = b"\0" if timestamp is None else b"\1" + struct.pack("<q", timestamp)
    return data + bank_hash + stamp + bytes(32)


def vote(
    lockouts: Sequence[tuple[int, int]],
    bank_hash: bytes,
    blockhash: bytes,
    *,
    root: int | None = None,
    timestamp: int | None = None,
    identity: Keypair = OURS,
    voter: Keypair | None = None,
    vote_account: bytes = OUR_ACCOUNT,
) -> bytes:
    """A signed vote transaction."""
    signer = SoldersKeypair.from_bytes((voter or identity).secret)
    payer = SoldersKeypair.from_bytes(identity.secret)
    metas = [AccountMeta(Pubkey(vote_account), False, True), AccountMeta(signer.pubkey(), True, False)]
    instruction = Instruction(VOTE_PROGRAM, tower_sync(lockouts, root, bank_hash, timestamp), metas)
    recent = Hash(blockhash)
    message = Message.new_with_blockhash([instruction], payer.pubkey(), recent)
    signers = [payer] if voter is None else [payer, signer]
    return bytes(Transaction(signers, message, recent))


def genesis(config: LocalnetConfig, authorized_voter: bytes | None = None) -> Genesis:
    return make_genesis(config, OURS.pubkey, OUR_ACCOUNT, authorized_voter=authorized_voter)


def cluster(config: LocalnetConfig | None = None, authorized_voter: bytes | None = None) -> Cluster:
    """A cluster without a clock, at slot 0: `step` moves it."""
    config = config or LocalnetConfig(fork_every=0)
    return Cluster(genesis(config, authorized_voter), config, Timekeeper(lambda: 1000, lambda: 1_700_000_000_000))


def our_vote(cluster: Cluster, slot: int, lockouts: Sequence[tuple[int, int]] | None = None) -> bytes:
    """Our vote for the bank of `slot`, alone in its tower, with that bank's blockhash."""
    bank = cluster.tree[slot]
    return vote(lockouts or [(slot, 1)], bank.hash, bank.blockhash)


def hash_of(text: object) -> bytes:
    return hashlib.sha256(str(text).encode()).digest()
