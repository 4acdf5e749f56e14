"""A Tower BFT voter that can run twice and never votes twice.

Before a vote leaves, the tower that contains it is durable in a store, written in a transaction that only the current owner
can win. The pieces, from the inside out: `TowerVoteState` (the lockouts), `tower.wire` (bytes), `ForkChoice` and `tower.checks`
(may we vote for this bank?), `Voter` (a state machine without I/O), `Runner` (persists, then releases), and the stores in
`tower.stores`. docs/architecture.md walks one vote through them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tower._fast import TowerVoteState
    from tower._tree import BankVotes
    from tower.errors import InvalidSignature, TowerError, WireError, WrongTower
    from tower.forkchoice import ForkChoice
    from tower.keys import Keypair
    from tower.runner import CommittedVote, Runner
    from tower.types import FrozenBank, Tower
    from tower.voter import Voter, VoterConfig

__all__ = [
    "BankVotes",
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

# Imported when they are asked for: a command line that talks to a running validator needs none of them, and starts sooner.
_HOMES = {
    "BankVotes": "_tree",
    "CommittedVote": "runner",
    "ForkChoice": "forkchoice",
    "FrozenBank": "types",
    "InvalidSignature": "errors",
    "Keypair": "keys",
    "Runner": "runner",
    "Tower": "types",
    "TowerError": "errors",
    "TowerVoteState": "_fast",
    "Voter": "voter",
    "VoterConfig": "voter",
    "WireError": "errors",
    "WrongTower": "errors",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"tower.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
