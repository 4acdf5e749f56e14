"""Parameters in, JSON shapes out: what the RPC methods and the subscriptions have in common.

Shapes, defaults and error texts follow the RPC of the validators on the cluster; `jsonParsed` is refused, not imitated.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from solders.account import Account
from solders.pubkey import Pubkey
from solders.signature import Signature

from tower.localnet.bank import Bank
from tower.localnet.jsonrpc import INVALID_PARAMS, INVALID_REQUEST, RpcError

__all__ = [
    "API_VERSION",
    "COMMITMENTS",
    "account_json",
    "base58",
    "commitment_of",
    "config_of",
    "encoding_of",
    "integer",
    "packet_of",
    "param",
    "pubkey_of",
    "signature_of",
    "with_context",
]

API_VERSION = "2.2.14"  # the release whose RPC shapes are followed
COMMITMENTS = ("processed", "confirmed", "finalized")
ENCODINGS = ("binary", "base58", "base64")
BASE58_BYTES_MAX = 128
RENT_EPOCH = 2**64 - 1

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS = {letter: value for value, letter in enumerate(_ALPHABET)}
_BASE58_TEXT_MAX = 1700  # letters of the longest packet


def base58(data: bytes) -> str:
    """Base58 of bytes of any length.

    >>> base58(bytes(32)), base58(b"tower")
    ('11111111111111111111111111111111', 'E8uv1rq')
    """
    number = int.from_bytes(data, "big")
    letters = []
    while number:
        number, digit = divmod(number, 58)
        letters.append(_ALPHABET[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(letters))


def _from_base58(text: str) -> bytes:
    number = 0
    for letter in text:
        if letter not in _DIGITS:
            raise ValueError("not base58")
        number = number * 58 + _DIGITS[letter]
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def param(params: list[Any], index: int, default: object = None) -> Any:
    return params[index] if len(params) > index else default


def config_of(params: list[Any], index: int) -> dict[str, Any]:
    """The configuration object at `index`, empty if it is missing or null."""
    value = param(params, index)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RpcError(INVALID_PARAMS, f"Invalid params: expected an object at position {index}.")
    return value


def integer(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise RpcError(INVALID_PARAMS, f"Invalid params: {what} must be an unsigned integer.")
    return value


def pubkey_of(value: object) -> Pubkey:
    if not isinstance(value, str):
        raise RpcError(INVALID_PARAMS, "Invalid params: expected an address as a base58 string.")
    try:
        return Pubkey.from_string(value)
    except ValueError:
        raise RpcError(INVALID_PARAMS, "Invalid param: Invalid") from None


def signature_of(value: object) -> bytes:
    if not isinstance(value, str):
        raise RpcError(INVALID_PARAMS, "Invalid params: expected a signature as a base58 string.")
    try:
        return bytes(Signature.from_string(value))
    except ValueError:
        raise RpcError(INVALID_PARAMS, "Invalid param: Invalid") from None


def commitment_of(config: dict[str, Any], key: str = "commitment") -> str:
    value = config.get(key) or "finalized"
    if value not in COMMITMENTS:
        raise RpcError(INVALID_PARAMS, f"Invalid params: unknown commitment, expected one of {', '.join(COMMITMENTS)}.")
    return str(value)


def encoding_of(config: dict[str, Any], default: str) -> str:
    value = config.get("encoding") or default
    if value not in ENCODINGS:
        raise RpcError(INVALID_PARAMS, "Invalid params: this cluster encodes accounts as base64 or base58 only.")
    return str(value)


def with_context(bank: Bank, value: object) -> dict[str, object]:
    return {"context": {"apiVersion": API_VERSION, "slot": bank.slot}, "value": value}


def account_json(account: Account | None, config: dict[str, Any], default_encoding: str = "binary") -> object:
    """An account as `getAccountInfo` writes it; `None` for one that does not exist."""
    if account is None:
        return None
    encoding = encoding_of(config, default_encoding)
    data = bytes(account.data)
    space = len(data)
    part = config.get("dataSlice")
    if part is not None:
        if not isinstance(part, dict):
            raise RpcError(INVALID_PARAMS, "Invalid params: dataSlice must be an object with offset and length.")
        offset = integer(part.get("offset"), "dataSlice.offset")
        data = data[offset : offset + integer(part.get("length"), "dataSlice.length")]
    if encoding != "base64" and len(data) > BASE58_BYTES_MAX:
        raise RpcError(
            INVALID_REQUEST,
            "Encoded binary (base 58) data should be less than 128 bytes, please use Base64 encoding.",
        )
    encoded: object = [base64.b64encode(data).decode(), "base64"]
    if encoding != "base64":
        encoded = base58(data) if encoding == "binary" else [base58(data), "base58"]
    return {
        "data": encoded,
        "executable": account.executable,
        "lamports": account.lamports,
        "owner": str(account.owner),
        "rentEpoch": RENT_EPOCH,
        "space": space,
    }


def packet_of(value: object, encoding: str) -> bytes:
    """The bytes of a transaction given as text."""
    if not isinstance(value, str):
        raise RpcError(INVALID_PARAMS, "Invalid params: expected an encoded transaction.")
    try:
        if encoding == "base64":
            return base64.b64decode(value, validate=True)
        if encoding == "base58":
            if len(value) > _BASE58_TEXT_MAX:
                raise RpcError(INVALID_PARAMS, f"base58 encoded transaction too large: {len(value)} bytes")
            return _from_base58(value)
    except (ValueError, binascii.Error):
        raise RpcError(INVALID_PARAMS, f"invalid {encoding} encoding") from None
    raise RpcError(INVALID_PARAMS, f"unsupported encoding: {encoding}. Supported encodings: base58, base64")
