"""Keys and addresses at the edge: keypair files as the field writes them, base58, and never a secret in a text.

A keypair file is a JSON array of 64 numbers: the 32-byte Ed25519 seed and the 32-byte public key. Between the file and the
signature the secret is in one object, on a locked page where the system allows it (`tower.secret_memory`).

>>> pair = Keypair.from_seed(bytes([7]) * 32)
>>> pair.pubkey.hex()[:16]
'ea4a6c63e29c520a'
>>> pair
Keypair(GmaDrppBC7P5ARKV8g3djiwP89vz1jLK23V2GBjuAEGB)
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NoReturn

from tower.errors import InvalidInput
from tower.secret_memory import keep, overwrite_if_last, seed_keypair, wipe

__all__ = ["Keypair", "as_keypair", "as_pubkey", "from_base58", "read_keypair_file", "to_base58", "write_keypair_file"]

SEED_BYTES = 32
SECRET_BYTES = 64
FILE_CHARS_MAX = 4096  # a keypair file has about 230
KEYPAIR_TEXT = re.compile(rb"\s*\[(?:\s*(?:0|[1-9][0-9]{0,2})\s*,){63}\s*(?:0|[1-9][0-9]{0,2})\s*\]\s*")
NUMBER = re.compile(rb"[0-9]+")


class Keypair:
    """An Ed25519 keypair in libsodium's form: `secret` is seed || public key, 64 bytes.

    It keeps a copy of its own, which is overwritten when the keypair goes. It cannot be pickled; copies are itself.
    Raises `InvalidInput` if the length is wrong or the public half does not belong to the seed.
    """

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes | bytearray) -> None:
        work = bytearray(secret)
        if len(work) != SECRET_BYTES:
            raise InvalidInput(f"a keypair has {SECRET_BYTES} bytes, not {len(work)}")
        seed = work[:SEED_BYTES]
        whole = seed_keypair(seed)
        matches = whole == work
        for each in (seed, whole):
            wipe(each)
        if not matches:
            wipe(work)
            raise InvalidInput("the public half of the keypair does not belong to its seed")
        self._secret = keep(work)

    def __del__(self) -> None:
        try:
            secret = self._secret
            del self._secret
        except AttributeError:  # it was never made
            return
        overwrite_if_last(secret)

    @classmethod
    def from_seed(cls, seed: bytes) -> Keypair:
        """The keypair of a 32-byte seed."""
        if len(seed) != SEED_BYTES:
            raise InvalidInput(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
        work = bytearray(seed)
        secret = seed_keypair(work)
        try:
            return cls(secret)
        finally:
            wipe(work)
            wipe(secret)

    @classmethod
    def generate(cls) -> Keypair:
        """A new random keypair from the operating system's randomness."""
        return cls.from_seed(os.urandom(SEED_BYTES))

    @property
    def secret(self) -> bytes:
        """The 64 secret bytes. For signing and for writing a keypair file; nothing else may see them."""
        return self._secret

    @property
    def pubkey(self) -> bytes:
        """The public key, 32 bytes."""
        return self._secret[SEED_BYTES:]

    @property
    def address(self) -> str:
        """The public key in base58, as operators know it."""
        return to_base58(self.pubkey)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keypair) and self._secret == other._secret

    def __hash__(self) -> int:
        return hash(self.pubkey)

    def __copy__(self) -> Keypair:
        return self

    def __deepcopy__(self, _: object) -> Keypair:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keypair is not pickled: its secret stays in this process")

    def __repr__(self) -> str:
        return f"Keypair({self.address})"


def to_base58(key: bytes) -> str:
    """The base58 address of 32 raw bytes."""
    from solders.pubkey import Pubkey  # takes longer to import than all else here, and a keypair file is read without it

    return str(Pubkey(key))


def from_base58(address: str) -> bytes:
    """The 32 raw bytes of a base58 address; `InvalidInput` if it is none."""
    from solders.pubkey import Pubkey

    try:
        return bytes(Pubkey.from_string(address))
    except ValueError as problem:
        raise InvalidInput(f"{address!r} is not a base58 address of 32 bytes") from problem


def as_pubkey(key: Any) -> bytes:
    """32 raw bytes from whatever the caller has: bytes, a base58 string, a `Keypair`, or solders' `Pubkey`."""
    if isinstance(key, str):
        return from_base58(key)
    if isinstance(key, Keypair):
        return key.pubkey
    raw = bytes(key) if isinstance(key, (bytes, bytearray, memoryview)) or hasattr(key, "__bytes__") else b""
    if len(raw) != 32:
        raise InvalidInput("a public key is 32 bytes, a base58 string or a Pubkey")
    return raw


def as_keypair(key: Any) -> Keypair:
    """A `Keypair` from whatever the caller has: one of ours, 64 bytes, or solders' `Keypair`."""
    if isinstance(key, Keypair):
        return key
    if isinstance(key, (bytes, bytearray, memoryview)) or hasattr(key, "__bytes__"):
        return Keypair(bytes(key))
    raise InvalidInput("a keypair is a tower.Keypair, 64 bytes or a solders Keypair")


def parse_keypair(text: str) -> Keypair:
    """The keypair in the text of a keypair file; `InvalidInput` says what is wrong, without quoting any of it."""
    try:
        numbers = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInput("not a keypair file: expected a JSON array of 64 numbers") from None
    if not isinstance(numbers, list) or any(type(n) is not int or not 0 <= n <= 255 for n in numbers):
        raise InvalidInput("not a keypair file: expected a JSON array of 64 numbers from 0 to 255")
    if len(numbers) != SECRET_BYTES:
        raise InvalidInput(f"not a keypair file: expected {SECRET_BYTES} numbers, found {len(numbers)}")
    return Keypair(bytes(numbers))


def _parse(data: bytearray) -> Keypair:
    """As `parse_keypair`, for what a file holds; a keypair in the usual form is read without a copy of it in a text."""
    if KEYPAIR_TEXT.fullmatch(data) is None:
        return parse_keypair(data.decode("ascii"))
    numbers = bytearray(SECRET_BYTES)
    try:
        for index, number in enumerate(NUMBER.finditer(data)):
            if int(number[0]) > 255:
                return parse_keypair(data.decode("ascii"))
            numbers[index] = int(number[0])
        return Keypair(numbers)
    finally:
        wipe(numbers)


def read_keypair_file(path: str | Path) -> Keypair:
    """Read a keypair file. Raises `InvalidInput` that names the file, what is wrong and the fix."""
    data = bytearray(FILE_CHARS_MAX)
    try:
        try:
            if not Path(path).is_file():
                raise InvalidInput(f"{path}: {'not a file' if Path(path).exists() else 'no such keypair file'}")
            with open(path, "rb", buffering=0) as file:
                size = file.readinto(data)
        except OSError as problem:
            raise InvalidInput(f"{path}: cannot be read: {problem.strerror}") from None
        except InvalidInput:
            raise
        except ValueError:  # a NUL or a lone surrogate in it
            raise InvalidInput("the path of the keypair file is no path") from None
        whole = data[:size]
        try:
            return _parse(whole)
        except UnicodeDecodeError:
            raise InvalidInput(f"{path}: not a keypair file: expected a JSON array of 64 numbers") from None
        except InvalidInput as problem:
            raise InvalidInput(f"{path}: {problem}") from None
        finally:
            wipe(whole)
    finally:
        wipe(data)


def write_keypair_file(path: str | Path, keypair: Keypair) -> None:
    """Write a keypair file, mode 0600. Never overwrites: raises `InvalidInput` if the file exists."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InvalidInput(f"{path}: exists; keypair files are never overwritten, choose another name") from None
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(json.dumps(list(keypair.secret), separators=(",", ":")))
