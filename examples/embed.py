"""Embeds the voter in a pipeline: frozen banks go in, signed votes whose tower is durable come out.

    python examples/embed.py            the towers are kept in a folder
    python examples/embed.py memory     ... or in memory; `tower.stores.etcd.EtcdStore` takes the same place

Two lives of one identity share the store. The second takes over, and from then on nothing leaves the first.
"""

import hashlib
import sys
import tempfile
import time

from tower import CommittedVote, ForkChoice, FrozenBank, Keypair, Runner, TowerVoteState, Voter, VoterConfig
from tower.events import BankFrozen, TakeOver
from tower.stores.file import FileStore
from tower.stores.memory import MemoryBackend, MemoryStore
from tower.types import Lockout, VoteAccountState

IDENTITY, VOTE_ACCOUNT = Keypair.generate(), Keypair.generate().pubkey


def replayed(slot: int) -> FrozenBank:
    """Stands for your replay stage: the bank of `slot`, with the vote accounts as they are in it."""
    landed = TowerVoteState()
    for voted in range(1, slot - 1):
        landed.process_vote(voted)
    own = VoteAccountState(IDENTITY.pubkey, ((0, IDENTITY.pubkey),), tuple(Lockout(*v) for v in landed.votes), landed.root)
    bank_hash = hashlib.sha256(b"bank %d" % slot).digest()
    return FrozenBank(slot, slot - 1 or None, bank_hash, bank_hash, 0, {VOTE_ACCOUNT: own}, {VOTE_ACCOUNT: 1_000})


def new_life(name: str, store: FileStore | MemoryStore) -> Runner:
    def send(vote: CommittedVote) -> None:  # the only values that ever arrive here are votes whose tower is durable
        print(f"{name}: vote for slot {vote.slot}, {len(vote.transaction)} bytes, tower at revision {vote.revision}")

    config = VoterConfig(IDENTITY.pubkey, VOTE_ACCOUNT, frozenset({IDENTITY.pubkey}))
    return Runner(Voter(config, ForkChoice(replayed(1))), store, IDENTITY, [IDENTITY], send, who=name)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        backend = MemoryBackend()
        stores = [MemoryStore(backend) if "memory" in sys.argv else FileStore(folder) for _ in range(2)]
        primary, spare = new_life("primary", stores[0]), new_life("spare", stores[1])
        primary.drive(TakeOver())  # look, claim, load the tower; a life that was not told to stands by
        for slot in range(2, 8):
            if slot == 5:
                spare.drive(TakeOver())
            for life in (primary, spare):
                life.drive(BankFrozen(replayed(slot), int(time.time())))
        print(f"primary: {primary.halted.text if primary.halted else 'still voting'}")
        for store in stores:
            store.close()


if __name__ == "__main__":
    main()
