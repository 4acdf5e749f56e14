"""Secret bytes in memory: kept out of swap and core dumps where the system lets us, and overwritten when they are done with.

libsodium does it (`sodium_mlock`, `sodium_memzero`). A secret is a `bytes` object on Python's heap, because that is what is
signed with, so the page it lies on is locked and left out of core dumps, together with its neighbours there. Pages stay
locked until the process ends: a lock knows no owner, and the neighbour may be another secret. What cannot be done, and
who can still read a secret, is in SECURITY.md.

>>> work = bytearray(b"secret")
>>> wipe(work); work
bytearray(b'\\x00\\x00\\x00\\x00\\x00\\x00')
"""

from __future__ import annotations

import mmap
import sys

import nacl.bindings  # which initialises libsodium
from nacl._sodium import ffi, lib

__all__ = ["PAGES_MAX", "keep", "locked_pages", "overwrite_if_last", "seed_keypair", "wipe"]

PAGES_MAX = 64  # locked at most: a validator has a handful of keys, and each page divides a mapping of the process
SEED_BYTES, SECRET_BYTES = nacl.bindings.crypto_sign_SEEDBYTES, nacl.bindings.crypto_sign_SECRETKEYBYTES
PUBLIC_BYTES = nacl.bindings.crypto_sign_PUBLICKEYBYTES

_pages: set[int] = set()  # addresses of those that are locked


def wipe(buffer: bytearray) -> None:
    """Overwrite all of `buffer` with zeros, in a way that is not optimised away."""
    if buffer:
        lib.sodium_memzero(ffi.from_buffer(buffer), len(buffer))


def keep(work: bytearray) -> bytes:
    """The bytes of `work` as an object of its own on a locked page, where one can be had. `work` is wiped."""
    secret = bytes(work)
    wipe(work)
    first, last = _address(secret), _address(secret) + len(secret) - 1
    for page in range(first // mmap.PAGESIZE, last // mmap.PAGESIZE + 1):
        _lock(page * mmap.PAGESIZE)
    return secret


def locked_pages() -> int:
    """How many pages are locked; 0 also where the system does not let us."""
    return len(_pages)


def seed_keypair(seed: bytearray) -> bytearray:
    """seed || public key of a 32-byte seed, for the caller to wipe; no other copy of it is left."""
    public, secret = bytearray(PUBLIC_BYTES), bytearray(SECRET_BYTES)
    lib.crypto_sign_seed_keypair(ffi.from_buffer(public), ffi.from_buffer(secret), ffi.from_buffer(seed))
    return secret


def overwrite_if_last(secret: bytes) -> bool:
    """Overwrite `secret` if nobody but the caller's one local name refers to it; whether that was so.

    For the end of the object that owns it. Whoever else still has the object signs with it, so it is left alone then.
    """
    if _references(secret) > _references_alone:
        return False
    lib.sodium_memzero(ffi.cast("void *", _address(secret)), len(secret))
    return True


def _lock(page: int) -> None:
    # Fails where RLIMIT_MEMLOCK is used up or the system has no such call: the secret then is an ordinary object.
    if page not in _pages and len(_pages) < PAGES_MAX and lib.sodium_mlock(ffi.cast("void *", page), mmap.PAGESIZE) == 0:
        _pages.add(page)


def _address(secret: bytes) -> int:
    return int(ffi.cast("uintptr_t", ffi.from_buffer(secret)))


def _references(secret: bytes) -> int:
    return sys.getrefcount(secret)


def _measure() -> int:
    """What `_references` says in `overwrite_if_last` of an object that one local name refers to, in this Python."""

    def as_there(secret: bytes) -> int:
        return _references(secret)

    alone = bytes(bytearray(SECRET_BYTES))
    return as_there(alone)


_references_alone = _measure()
