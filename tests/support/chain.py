"""A small chain of banks and one voter on it, for tests of voter and runner: no network, no clock."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from tower.forkchoice import ForkChoice
from tower.keys import Keypair
from tower.lockout import TowerVoteState
from tower.store import Fence, Sighting
from tower.types import FrozenBank, Lockout, VoteAccountState
from tower.voter import Voter, VoterConfig

IDENTITY = Keypair.from_seed(b"i" * 32)
OTHER = Keypair.from_seed(b"o" * 32)
VOTE_ACCOUNT = Keypair.from_seed(b"a" * 32).pubkey
PEER = Keypair.from_seed(b"p" * 32).pubkey
UNIX_S = 1_700_000_000


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def account(
    votes: Iterable[tuple[int, int]] = (), root: int | None = None, node: bytes = IDENTITY.pubkey, voter: bytes | None = None
) -> VoteAccountState:
    lockouts = tuple(Lockout(*vote) for vote in votes)
    return VoteAccountState(node, ((0, voter or IDENTITY.pubkey),), lockouts, root)


def bank(
    slot: int,
    parent: int | None,
    own: VoteAccountState | None = None,
    peer: Iterable[tuple[int, int]] = (),
    fork: str = "",
    peer_stake: int = 1_000,
    leader: bytes | None = None,
) -> FrozenBank:
    """A bank with our account (10 lamports of stake) and one peer's."""
    votes = {VOTE_ACCOUNT: own or account(), PEER: account(peer, node=PEER)}
    stakes = {VOTE_ACCOUNT: 10, PEER: peer_stake}
    return FrozenBank(slot, parent, digest(f"{fork}{slot}"), digest(f"hash {slot}"), 0, votes, stakes, leader=leader)


def peer_votes(upto: int) -> list[tuple[int, int]]:
    """The stack of a peer that voted for every slot up to `upto`."""
    state = TowerVoteState()
    for slot in range(1, upto + 1):
        state.process_vote(slot)
    return state.votes


def new_voter(forks: ForkChoice | None = None, **config: object) -> Voter:
    arguments = {
        "identity": IDENTITY.pubkey,
        "vote_account": VOTE_ACCOUNT,
        "authorized_voters": frozenset({IDENTITY.pubkey}),
        **config,
    }
    return Voter(VoterConfig(**arguments), forks or ForkChoice(bank(0, None)))


def sighting(record: bytes | None = None, record_revision: int = 0) -> Sighting:
    return Sighting(IDENTITY.address, 0, None, record_revision, record)


FENCE = Fence(IDENTITY.address, 7, b"instance")
