"""A Tower BFT voter that can run twice and never votes twice: so far the core, its bytes and its rules."""

from tower._fast import TowerVoteState
from tower.errors import InvalidSignature, TowerError, WireError, WrongTower
from tower.forkchoice import ForkChoice
from tower.keys import Keypair
from tower.types import FrozenBank, Tower

__all__ = [
    "ForkChoice",
    "FrozenBank",
    "InvalidSignature",
    "Keypair",
    "Tower",
    "TowerError",
    "TowerVoteState",
    "WireError",
    "WrongTower",
]
