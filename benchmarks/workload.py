"""One vote with 31 lockouts, and what its voter has in hand: the input of the benchmarks of bytes and of the instruction counts.

Twin by twin: `Voting(_fast)` and `Voting(_reference)` do the same work through the same lines, those of `tower.runner`.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from benchmarks.voters import Electorate, hash_of
from tower import _fast
from tower._tree import BankVotes, LatestVotes, LockedOut, Node
from tower.keys import Keypair
from tower.types import FrozenBank

__all__ = ["SHORT_BYTES", "SLOTS", "Voting", "calls_of", "hot_calls"]

SHORT_BYTES = 300  # of the signature that is the unit `sig`
FIRST_SLOT = 380_000_000  # slots of today: four bytes, and one PyLong digit
SLOTS = range(FIRST_SLOT + 32, FIRST_SLOT + 1032)
DEPTH, SIZE = 8, 2 / 3
VOTERS, TIP, SEED = 2000, 1000, 20261123  # of the bank whose voters are gone through
DEPTH_OF_TREE = 40


class Voting:
    """A voter that is about to vote for `slot` on a full stack, all votes in a row; every part of its way as a method."""

    def __init__(self, twin: ModuleType) -> None:
        self.twin: Any = twin
        self.identity = Keypair.from_seed(b"i" * 32)
        self.vote_account = Keypair.from_seed(b"a" * 32).pubkey
        self.blockhash, self.bank_hash, self.block_id = b"\x0b" * 32, b"\x11" * 32, b"\x22" * 32
        self.timestamp = 1_790_000_000
        self.slot = FIRST_SLOT + 32
        self.last_timestamp = (self.slot, self.timestamp)
        self.before = self.twin.TowerVoteState()
        self.before.process_votes(range(FIRST_SLOT, self.slot))
        self.state = self.voted()
        self.body = self.encode_body()
        self.record = self.encode_record()
        self.message = self.encode_message()
        self.tower, _, _ = self.twin.decode_saved_tower(self.record)
        self.secrets = [self.identity.secret]

    def voted(self) -> Any:
        """The stack with the new vote in it; the old one stays as it is."""
        state = self.before.copy()
        state.process_vote(self.slot)
        return state

    def encode_body(self) -> bytes:
        return self.twin.encode_vote_body(
            self.identity.pubkey, self.state, self.bank_hash, self.timestamp, self.block_id, self.last_timestamp, DEPTH, SIZE
        )

    def encode_record(self, state: Any = None) -> bytes:
        """As `Runner` does before a write begins."""
        return self.twin.encode_vote_record(
            self.identity.pubkey,
            self.identity.secret,
            state or self.state,
            self.bank_hash,
            self.timestamp,
            self.block_id,
            self.last_timestamp,
            DEPTH,
            SIZE,
        )

    def encode_message(self, state: Any = None) -> bytes:
        return self.twin.encode_vote_message(
            self.identity.pubkey,
            self.identity.pubkey,
            self.vote_account,
            self.blockhash,
            state or self.state,
            self.bank_hash,
            self.timestamp,
            self.block_id,
            None,
        )

    def vote(self) -> tuple[bytes, bytes]:
        """The whole way: take the vote in, encode and sign the tower, build and sign the transaction."""
        state = self.voted()
        record = self.encode_record(state)
        return record, self.twin.sign_transaction(self.encode_message(state), [self.identity.secret])

    def two_signatures(self) -> tuple[bytes, bytes]:
        """What no way of voting can do without: libsodium over the same bytes."""
        sign, secret = self.twin.sign, self.secrets[0]
        return sign(secret, self.body), sign(secret, self.message)


def calls_of(voting: Voting) -> dict[str, Callable[[], object]]:
    """The hot functions by name, each as a call without arguments of its own."""
    twin, pubkey = voting.twin, voting.identity.pubkey
    slots = array("Q", SLOTS)
    one_slot = voting.slot
    body = (pubkey, voting.state, voting.bank_hash, voting.timestamp, voting.block_id, voting.last_timestamp, DEPTH, SIZE)
    accounts = (pubkey, pubkey, voting.vote_account, voting.blockhash)
    vote = (voting.state, voting.bank_hash, voting.timestamp, voting.block_id, None)
    read, of_saved = twin.read_saved_tower, twin.TowerVoteState.of_saved
    record = (pubkey, voting.secrets[0], *body[1:])

    def process_vote() -> object:
        return voting.before.copy().process_vote(one_slot)

    def process_votes() -> object:
        return voting.before.copy().process_votes(slots)

    return {
        "copy, process_vote": process_vote,
        "copy, process_votes of 1,000": process_votes,
        "is_well_formed": voting.state.is_well_formed,
        "encode_vote_body": partial(twin.encode_vote_body, *body),
        "encode_vote_record": partial(twin.encode_vote_record, *record),
        "encode_vote_message": partial(twin.encode_vote_message, *accounts, *vote),
        "sign_transaction": partial(twin.sign_transaction, voting.message, voting.secrets),
        "read_saved_tower": partial(read, voting.record),
        "read_saved_tower, TowerVoteState.of_saved": lambda: of_saved(read(voting.record)),
        "decode_saved_tower": partial(twin.decode_saved_tower, voting.record),
        "encode_tower_body": partial(twin.encode_tower_body, voting.tower, voting.tower.generation),
    }


def hot_calls() -> dict[str, Callable[[], object]]:
    """What instructions are counted of: every compiled function on the way of a vote."""
    return {**calls_of(Voting(_fast)), **calls_over_voters()}


def calls_over_voters() -> dict[str, Callable[[], object]]:
    """The loops over a bank's 2,000 voters with 31 lockouts each: tallies, and the fold of their newest votes."""
    electorate = Electorate(VOTERS, random.Random(SEED))
    bank = electorate.bank(TIP, None, lambda: TIP - 1)
    node = Node(bank, None, bank.votes)
    none = BankVotes.of({}, {})
    tip: Node | None = None
    for slot in range(TIP - DEPTH_OF_TREE, TIP + 1):
        tip = Node(FrozenBank(slot, None, hash_of(slot)), tip, none)

    def locked_out() -> object:
        counted = LockedOut(bank.votes)
        bank.votes.locked_out(TIP, TIP - DEPTH_OF_TREE, tip, counted)  # all are on our fork: every lockout is looked at
        return counted.stake(bank.stakes)

    return {
        "newest_under, 2,000 voters": partial(bank.votes.newest_under, TIP),
        "locked_out, 2,000 voters": locked_out,
        "fold of 2,000 first votes": lambda: LatestVotes(lambda slot: None).fold(node),
    }
