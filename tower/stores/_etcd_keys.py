"""The names of an identity's keys in etcd; see `tower.stores.etcd` for what is under them."""

from __future__ import annotations

from tower.store import Kind
from tower.stores._common import check_identity, is_address

__all__ = ["Keys", "identity_of"]


class Keys:
    """The keys of one identity."""

    def __init__(self, identity: str) -> None:
        prefix = check_identity(identity).encode() + b"/"
        self.instance, self.owner = prefix + b"instance", prefix + b"owner"
        self.records = {kind: prefix + kind.value.encode() for kind in Kind}
        self.history, self.history_end = prefix + b"history/", prefix + b"history0"  # "0" follows "/"
        self.notes, self.notes_end = prefix + b"note/", prefix + b"note0"

    def history_of(self, at_ms: int, instance: bytes) -> bytes:
        return self.history + f"{max(at_ms, 0):020d}-{instance.hex()}".encode()


def identity_of(key: bytes) -> str | None:
    """Whose key this is; `None` for one that is not ours.

    >>> identity_of(b"11111111111111111111111111111111/tower"), identity_of(b"other/tower")
    ('11111111111111111111111111111111', None)
    """
    name, slash, rest = key.partition(b"/")
    ours = rest in (b"instance", b"tower", b"owner", b"blocks") or rest.startswith(b"history/")
    address = name.decode("ascii", "replace")
    return address if slash and ours and is_address(address) else None
