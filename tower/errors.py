"""Every error that `tower` raises, in families by who must act.

A refusal to vote is not an error: it is a value (`tower.checks`). A write that the store did not accept is not an error
either: it is an outcome (`tower.store`). What is left, is here.

>>> issubclass(WireError, TowerError) and issubclass(WireError, ValueError)
True
>>> str(WireError(76, "the data ends early: 8 bytes wanted, 3 left"))
'at byte 76: the data ends early: 8 bytes wanted, 3 left'
"""

from __future__ import annotations

__all__ = [
    "InvalidInput",
    "InvalidSignature",
    "InvariantViolation",
    "SigningError",
    "StoreError",
    "StoreUnavailable",
    "TowerError",
    "TowerInconsistent",
    "TowerTooOld",
    "UnusableTower",
    "WireError",
    "WrongTower",
]


class TowerError(Exception):
    """Root of the family: catching it catches everything that `tower` raises on purpose."""


class InvalidInput(TowerError, ValueError):
    """The caller passed something of the wrong shape or range; the text names it and the fix."""


class WireError(InvalidInput):
    """Bytes that are not what they claim to be.

    `offset` is the position in the input at which reading stopped, `reason` what was wrong there.
    """

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"at byte {offset}: {reason}")
        self.offset = offset
        self.reason = reason


class InvalidSignature(TowerError):
    """A saved tower whose signature is not by the identity it was read for.

    As in the clients on the cluster this is checked first, so the tower of another node ends here, not in `WrongTower`.
    """


class WrongTower(TowerError):
    """A tower that names another node than the key it is read for or signed with. Both are base58 addresses."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"the tower belongs to {found}, not to {expected}")
        self.expected = expected
        self.found = found


class TowerTooOld(TowerError):
    """The last vote of a stored tower is older than the ledger's slot history reaches, so it cannot be placed."""

    def __init__(self, last_voted_slot: int, oldest_slot: int) -> None:
        super().__init__(f"the tower's last vote {last_voted_slot} is older than the slot history, which begins at {oldest_slot}")
        self.last_voted_slot = last_voted_slot
        self.oldest_slot = oldest_slot


class UnusableTower(TowerError):
    """A saved tower that nobody may vote on: torn, foreign, badly signed or malformed. The text says where it is and why."""


class TowerInconsistent(TowerError):
    """A stored tower and the ledger cannot both be true: another cluster's tower, or a damaged ledger."""


class SigningError(TowerError):
    """libsodium refused to sign: the key is missing or unusable."""


class StoreError(TowerError):
    """The tower store cannot be used as it is set up; the operator must act."""


class StoreUnavailable(StoreError):
    """The tower store did not answer within its bound. Nothing follows about what it did meanwhile."""


class InvariantViolation(TowerError):
    """We have a bug, or the stored tower was tampered with. Always stops the voter; never caught below the runner."""
