"""The cluster's own voters: everybody's core (`tower.voter`, `tower.runner`), in process, on a store in memory.

Each is fed the banks that its side can know, in the order in which they become known, and sends its transactions into
the cluster's inbox. It decides nothing itself. One that the cluster keeps silent takes banks into its tree and does not
think about them: when it may vote again it begins with the newest.
"""

from __future__ import annotations

import contextlib

from tower.errors import InvalidInput, InvariantViolation
from tower.events import BankFrozen, TakeOver
from tower.forkchoice import ForkChoice
from tower.localnet.cluster import Cluster
from tower.localnet.genesis import Participant
from tower.runner import CommittedVote, Runner
from tower.stores.memory import MemoryBackend, MemoryStore
from tower.types import FrozenBank
from tower.voter import Voter, VoterConfig, VoterState

__all__ = ["LocalVoter", "add_voters"]


class LocalVoter:
    """One participant that votes. Starts with the first bank after genesis: nobody votes for genesis."""

    def __init__(self, cluster: Cluster, member: Participant, first: FrozenBank) -> None:
        if member.voter is None:
            raise InvariantViolation(f"{member.name} has no key here and cannot vote")
        self._cluster = cluster
        self._member = member
        config = VoterConfig(member.identity, member.vote_account, frozenset({member.authorized_voter}))
        self.voter = Voter(config, ForkChoice(first))
        self.runner = Runner(
            self.voter,
            MemoryStore(MemoryBackend()),
            member.voter,
            [member.voter],
            self._send,
            who=member.name,
        )

    def _send(self, vote: CommittedVote) -> None:
        self._cluster.submit(vote.transaction, self._member.name, self._member.vote_account)

    def on_bank(self, bank: FrozenBank) -> None:
        """A bank became known: think, persist, vote."""
        if bank.parent_slot is None:
            return
        if self._cluster.is_silent(self._member.vote_account):
            with contextlib.suppress(InvalidInput):  # below its root, or off its tree
                self.voter.forks.add(bank)
            return
        self.runner.drive(BankFrozen(bank, self._cluster.time.unix_ms() // 1000))
        if self.voter.state is VoterState.STANDBY:
            self.runner.drive(TakeOver())
        halted = self.runner.halted
        if halted is not None:
            raise InvariantViolation(f"{self._member.name} stopped: {halted.reason.value}: {halted.text}")


def add_voters(cluster: Cluster) -> list[LocalVoter]:
    """Let every participant that the cluster has a key for vote."""
    first = cluster.tree[cluster.rpc_view.best].for_voter()
    voters = []
    for member in cluster.genesis.participants:
        if member.voter is not None:
            voter = LocalVoter(cluster, member, first)
            cluster.add_voter(member.vote_account, voter.on_bank)
            voters.append(voter)
    return voters
