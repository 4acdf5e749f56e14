"""A Tower BFT voter that can run twice and never votes twice.

Before a vote leaves, the tower that contains it is durable in a store, written in a transaction that only the current owner
can win. The pieces, from the inside out: `TowerVoteState` (the lockouts), `tower.wire` (bytes), `ForkChoice` and `tower.checks`
(may we vote for this bank?), `Voter` (a state machine without I/O), `Runner` (persists, then releases), and the stores in
`tower.stores`. docs/architecture.md walks one vote through them.
"""

from tower._fast import TowerVoteState
from tower.errors import InvalidSignature, TowerError, WireError, WrongTower
from tower.forkchoice import ForkChoice
from tower.keys import Keypair
from tower.runner import CommittedVote, Runner
from tower.types import FrozenBank, Tower
from tower.voter import Voter, VoterConfig

__all__ = [
    "CommittedVote",
    "ForkChoice",
    "FrozenBank",
    "InvalidSignature",
    "Keypair",
    "Runner",
    "Tower",
    "TowerError",
    "TowerVoteState",
    "Voter",
    "VoterConfig",
    "WireError",
    "WrongTower",
]
