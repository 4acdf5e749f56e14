"""What the adapters share: the owner record as JSON, a callback that fires at most once, and a deadline.

Nothing here decides anything about a fence or a record.

>>> owner = Owner("primary", "start", host="h1", pid=7, at_ms=1700000000000, last_voted_slot=42)
>>> decode_owner(encode_owner(owner, bytes(8)), bytes(8)) == owner
True
>>> decode_owner(encode_owner(owner, bytes(8)), bytes([1]) * 8) is None  # somebody claimed since, and left no owner
True
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any

from tower.errors import InvalidInput
from tower.keys import from_base58
from tower.store import Owner

__all__ = [
    "CLOSE_WAIT",
    "Deadline",
    "LostOnce",
    "check_identity",
    "decode_owner",
    "encode_owner",
    "is_address",
    "owner_of",
    "owner_to",
]

CLOSE_WAIT = 5.0  # seconds that `close` waits for a thread of the adapter to end
IDENTITY = re.compile(r"[0-9A-Za-z]{1,64}")  # base58 fits; a separator of paths or keys does not


def check_identity(identity: str) -> str:
    """`identity` again; `InvalidInput` if it could reach outside its own keys or files."""
    if not IDENTITY.fullmatch(identity):
        raise InvalidInput(f"{identity!r} is not an identity: expected a base58 address")
    return identity


def is_address(text: str) -> bool:
    """Whether `text` is a base58 address: other names in a shared folder or etcd are not ours to list."""
    try:
        from_base58(text)
    except InvalidInput:
        return False
    return True


def owner_to(owner: Owner, instance: bytes) -> dict[str, Any]:
    """The JSON object of an owner; `instance` says to which claim it belongs."""
    return {
        "who": owner.who,
        "why": owner.why,
        "host": owner.host,
        "pid": owner.pid,
        "at_ms": owner.at_ms,
        "last_voted_slot": owner.last_voted_slot,
        "instance": instance.hex(),
    }


def owner_of(value: object) -> Owner | None:
    """The owner in a JSON object, `None` where it is not one of ours: it informs people and never decides."""
    if not isinstance(value, dict):
        return None
    slot = value.get("last_voted_slot")
    texts = [value.get(name) for name in ("who", "why", "host")]
    numbers = [value.get(name) for name in ("pid", "at_ms")]
    if any(not isinstance(text, str) for text in texts) or any(type(number) is not int for number in numbers):
        return None
    if slot is not None and type(slot) is not int:
        return None
    return Owner(value["who"], value["why"], value["host"], value["pid"], value["at_ms"], slot)


def encode_owner(owner: Owner, instance: bytes) -> bytes:
    """The bytes of the owner key and of a history entry."""
    return json.dumps(owner_to(owner, instance), separators=(",", ":")).encode()


def decode_owner(data: bytes | None, instance: bytes | None = None) -> Owner | None:
    """The owner in `data`; `None` where it is unreadable, or belongs to another claim than `instance`."""
    if data is None:
        return None
    try:
        value = json.loads(data)
    except ValueError:
        return None
    if instance is not None and (not isinstance(value, dict) or value.get("instance") != instance.hex()):
        return None
    return owner_of(value)


class Deadline:
    """The point `at` on the monotonic clock, `seconds` from now."""

    __slots__ = ("at",)

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self.at - time.monotonic())

    def passed(self) -> bool:
        return time.monotonic() >= self.at


class LostOnce:
    """Calls `on_lost` at most once, and never starts to after `close`.

    >>> heard, unheard = LostOnce(print), LostOnce(print)
    >>> heard.fire(7); heard.fire(8); unheard.close(); unheard.fire(9)
    7
    """

    def __init__(self, on_lost: Callable[[int], None]) -> None:
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._done = False

    def fire(self, revision: int) -> None:
        """Report the loss; without effect if it was reported, or the watch closed."""
        with self._lock:
            if self._done:
                return
            self._done = True
        self._on_lost(revision)

    def close(self) -> None:
        """From now on nothing is reported."""
        with self._lock:
            self._done = True

    @property
    def done(self) -> bool:
        """Whether the loss was reported, or the watch closed."""
        return self._done
