"""A small JSON-RPC client for the cluster: typed answers, a deadline on every call, and errors that fit on one line.

It decides nothing and repeats nothing: whoever calls knows whether an answer is still worth having. Shapes are checked
here, so that what comes out needs no second look: addresses are 32 raw bytes, account data is `bytes`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import aiohttp

from tower.errors import InvalidInput, TowerError
from tower.keys import from_base58, to_base58
from tower.validator.urls import parse_url, shown, websocket_url_for

__all__ = [
    "MAX_ACCOUNTS_PER_CALL",
    "Account",
    "Blockhash",
    "ClusterRpc",
    "EpochInfo",
    "RpcError",
    "RpcMalformed",
    "RpcUnreachable",
    "SignatureStatus",
    "SnapshotSlots",
    "VoteAccount",
    "VoteAccounts",
    "parse_url",
    "websocket_url_for",
]

DEFAULT_CALL_S = 10.0
MAX_ANSWER_BYTES = 256 << 20
READ_BYTES = 1 << 16
MAX_ACCOUNTS_PER_CALL = 100  # what RPC servers accept
MAX_TEXT = 200  # of a foreign error message that we repeat

METHOD_NOT_FOUND = -32601
NO_SNAPSHOT = -32008

T = TypeVar("T")


class RpcError(TowerError):
    """The server answered with an error: `code` and `message` as it sent them."""

    def __init__(self, code: int, message: str, where: str = "") -> None:
        super().__init__(f"{where}{message} (code {code})")
        self.code = code
        self.message = message


class RpcUnreachable(TowerError):
    """No usable answer came: refused, no such host, too late, or not JSON-RPC. Nothing follows about the request."""


class RpcMalformed(RpcUnreachable):
    """Something answered, but not in the shape of a Solana JSON-RPC server."""


class Account(NamedTuple):
    owner: bytes
    lamports: int
    data: bytes


class EpochInfo(NamedTuple):
    epoch: int
    slot_index: int
    slots_in_epoch: int
    absolute_slot: int

    @property
    def first_slot(self) -> int:
        return self.absolute_slot - self.slot_index


class VoteAccount(NamedTuple):
    vote_account: str
    node: str
    activated_stake: int
    last_vote: int
    root_slot: int


@dataclass(frozen=True, slots=True)
class VoteAccounts:
    """`delinquent` are those whose last vote is more than 128 slots old."""

    current: tuple[VoteAccount, ...]
    delinquent: tuple[VoteAccount, ...]


class Blockhash(NamedTuple):
    context_slot: int
    blockhash: bytes
    last_valid_block_height: int


class SignatureStatus(NamedTuple):
    slot: int
    err: Any
    confirmation_status: str | None


class SnapshotSlots(NamedTuple):
    full: int
    incremental: int | None


class ClusterRpc:
    """Calls to one JSON-RPC server. `flag` names in errors where the URL came from.

    Every method raises `RpcError` or `RpcUnreachable`. Use from one event loop; `close` it, or use `async with`.
    """

    def __init__(self, url: str, *, timeout: float = DEFAULT_CALL_S, flag: str = "--url") -> None:
        self.url = parse_url(url, flag)
        self.timeout = timeout
        self._where = f"{flag} {shown(url)}: "
        self._ids = itertools.count(1)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ClusterRpc:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def call(self, method: str, params: Sequence[Any] = (), *, timeout: float | None = None) -> Any:
        """One call, its `result` as it came."""
        if self._session is None:
            self._session = aiohttp.ClientSession()
        request = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": list(params)}
        bound = self.timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(bound):
                async with self._session.post(self.url, json=request) as response:
                    status, body = response.status, await _read_bounded(response)
        except TimeoutError:
            raise RpcUnreachable(f"{self._where}no answer to {method} within {bound:g} s") from None
        except aiohttp.ClientError as problem:
            raise RpcUnreachable(f"{self._where}{_connection_text(problem)}") from None
        except OverflowError:
            raise RpcMalformed(f"{self._where}the answer to {method} exceeds {MAX_ANSWER_BYTES} bytes") from None
        return self._result(method, request["id"], status, body)

    def _result(self, method: str, wanted: Any, status: int, body: bytes) -> Any:
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not ("result" in answer or "error" in answer):
            raise RpcMalformed(f"{self._where}does not speak JSON-RPC ({method}: HTTP {status}); is the URL right?")
        error = answer.get("error")
        if error is not None:
            if not isinstance(error, dict):
                error = {}
            code, text = error.get("code"), error.get("message")
            line = " ".join(str(text).split())[:MAX_TEXT]
            raise RpcError(code if isinstance(code, int) else 0, line, f"{self._where}{method}: ")
        if answer.get("id") != wanted:
            raise RpcMalformed(f"{self._where}the answer to {method} belongs to another request")
        return answer.get("result")

    def _malformed(self, method: str) -> RpcMalformed:
        return RpcMalformed(f"{self._where}{method} answered in an unexpected shape")

    def _typed(self, method: str, value: Any, kind: type[T]) -> T:
        # bool is an int to isinstance, and never what a slot is
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self._malformed(method)
        return value

    def _key(self, method: str, value: Any) -> bytes:
        try:
            return from_base58(self._typed(method, value, str))
        except InvalidInput:
            raise self._malformed(method) from None

    def _context(self, method: str, answer: Any) -> tuple[int, Any]:
        context = self._typed(method, self._typed(method, answer, dict).get("context"), dict)
        return self._typed(method, context.get("slot"), int), answer.get("value")

    def _account(self, method: str, value: Any) -> Account | None:
        if value is None:
            return None
        fields = self._typed(method, value, dict)
        data = self._typed(method, fields.get("data"), list)
        if len(data) != 2 or data[1] != "base64":
            raise self._malformed(method)
        try:
            raw = base64.b64decode(self._typed(method, data[0], str), validate=True)
        except (binascii.Error, ValueError):
            raise self._malformed(method) from None
        lamports = self._typed(method, fields.get("lamports"), int)
        return Account(self._key(method, fields.get("owner")), lamports, raw)

    async def get_health(self) -> bool:
        """Whether the node calls itself healthy. An RPC error means no; an unreachable one raises."""
        try:
            return bool(await self.call("getHealth") == "ok")
        except RpcError:
            return False

    async def get_slot(self, commitment: str = "processed") -> int:
        return self._typed("getSlot", await self.call("getSlot", [{"commitment": commitment}]), int)

    async def get_epoch_info(self, commitment: str = "processed") -> EpochInfo:
        name = "getEpochInfo"
        fields = self._typed(name, await self.call(name, [{"commitment": commitment}]), dict)
        found = (fields.get(key) for key in ("epoch", "slotIndex", "slotsInEpoch", "absoluteSlot"))
        return EpochInfo(*(self._typed(name, value, int) for value in found))

    async def get_leader_schedule(self, slot: int | None = None, identity: bytes | None = None) -> dict[str, list[int]] | None:
        """Slot indices within the epoch of `slot`, by leader; `None` if the node does not know that epoch yet."""
        name = "getLeaderSchedule"
        config: dict[str, Any] = {"commitment": "processed"}
        if identity is not None:
            config["identity"] = to_base58(identity)
        answer = await self.call(name, [slot, config])
        if answer is None:
            return None
        schedule = self._typed(name, answer, dict)
        for indices in schedule.values():
            for index in self._typed(name, indices, list):
                self._typed(name, index, int)
        return schedule

    async def get_vote_accounts(self, commitment: str = "processed") -> VoteAccounts:
        name = "getVoteAccounts"
        answer = self._typed(name, await self.call(name, [{"commitment": commitment}]), dict)

        def read(group: str) -> tuple[VoteAccount, ...]:
            rows = [self._typed(name, row, dict) for row in self._typed(name, answer.get(group), list)]
            return tuple(
                VoteAccount(
                    self._typed(name, row.get("votePubkey"), str),
                    self._typed(name, row.get("nodePubkey"), str),
                    self._typed(name, row.get("activatedStake"), int),
                    self._typed(name, row.get("lastVote"), int),
                    self._typed(name, row.get("rootSlot"), int),
                )
                for row in rows
            )

        return VoteAccounts(read("current"), read("delinquent"))

    async def get_account_info(self, address: bytes, commitment: str = "processed") -> tuple[int, Account | None]:
        """The context slot, and the account or `None` if there is none."""
        name = "getAccountInfo"
        config = {"encoding": "base64", "commitment": commitment}
        slot, value = self._context(name, await self.call(name, [to_base58(address), config]))
        return slot, self._account(name, value)

    async def get_multiple_accounts(
        self, addresses: Sequence[bytes], commitment: str = "processed"
    ) -> tuple[int, list[Account | None]]:
        """The context slot, and the accounts as they are in that one bank, in the order of `addresses`."""
        name = "getMultipleAccounts"
        if len(addresses) > MAX_ACCOUNTS_PER_CALL:
            raise InvalidInput(f"{name} takes at most {MAX_ACCOUNTS_PER_CALL} addresses, not {len(addresses)}")
        config = {"encoding": "base64", "commitment": commitment}
        answer = await self.call(name, [[to_base58(address) for address in addresses], config])
        slot, value = self._context(name, answer)
        accounts = [self._account(name, item) for item in self._typed(name, value, list)]
        if len(accounts) != len(addresses):
            raise self._malformed(name)
        return slot, accounts

    async def get_latest_blockhash(self, commitment: str = "processed") -> Blockhash:
        name = "getLatestBlockhash"
        slot, value = self._context(name, await self.call(name, [{"commitment": commitment}]))
        fields = self._typed(name, value, dict)
        height = self._typed(name, fields.get("lastValidBlockHeight"), int)
        return Blockhash(slot, self._key(name, fields.get("blockhash")), height)

    async def get_genesis_hash(self) -> str:
        return self._typed("getGenesisHash", await self.call("getGenesisHash"), str)

    async def get_cluster_nodes(self) -> list[dict[str, Any]]:
        name = "getClusterNodes"
        return [self._typed(name, row, dict) for row in self._typed(name, await self.call(name), list)]

    async def get_identity(self) -> bytes:
        name = "getIdentity"
        return self._key(name, self._typed(name, await self.call(name), dict).get("identity"))

    async def get_version(self) -> str:
        name = "getVersion"
        return self._typed(name, self._typed(name, await self.call(name), dict).get("solana-core"), str)

    async def get_balance(self, address: bytes, commitment: str = "processed") -> int:
        name = "getBalance"
        _, value = self._context(name, await self.call(name, [to_base58(address), {"commitment": commitment}]))
        return self._typed(name, value, int)

    async def get_signature_statuses(self, signatures: Sequence[str]) -> list[SignatureStatus | None]:
        """One entry per signature, `None` where the node has not seen it."""
        name = "getSignatureStatuses"
        _, value = self._context(name, await self.call(name, [list(signatures), {"searchTransactionHistory": False}]))
        found: list[SignatureStatus | None] = []
        for row in self._typed(name, value, list):
            if row is None:
                found.append(None)
                continue
            fields = self._typed(name, row, dict)
            slot = self._typed(name, fields.get("slot"), int)
            found.append(SignatureStatus(slot, fields.get("err"), fields.get("confirmationStatus")))
        if len(found) != len(signatures):
            raise self._malformed(name)
        return found

    async def send_transaction(self, transaction: bytes) -> str:
        """Hand one signed transaction in, without preflight and without the node repeating it; its signature."""
        config = {"encoding": "base64", "skipPreflight": True, "maxRetries": 0}
        encoded = base64.b64encode(transaction).decode("ascii")
        return self._typed("sendTransaction", await self.call("sendTransaction", [encoded, config]), str)

    async def get_highest_snapshot_slot(self) -> SnapshotSlots | None:
        """The newest snapshot of the node itself; `None` if it has none or does not make any."""
        name = "getHighestSnapshotSlot"
        try:
            fields = self._typed(name, await self.call(name), dict)
        except RpcError as problem:
            if problem.code in (NO_SNAPSHOT, METHOD_NOT_FOUND):
                return None
            raise
        incremental = fields.get("incremental")
        return SnapshotSlots(
            self._typed(name, fields.get("full"), int),
            None if incremental is None else self._typed(name, incremental, int),
        )


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_chunked(READ_BYTES):
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise OverflowError
        parts.append(part)
    return b"".join(parts)


def _connection_text(problem: aiohttp.ClientError) -> str:
    """What went wrong with a connection, on one line and with the fix."""
    if isinstance(problem, aiohttp.ClientConnectorCertificateError):
        return f"the server's certificate is not trusted: {problem.certificate_error}"
    if isinstance(problem, aiohttp.ClientConnectorError):
        cause = problem.os_error
        known = cause.errno is not None and cause.errno > 0
        text = os.strerror(cause.errno or 0) if known else str(cause.strerror or cause)
        return f"{' '.join(text.split()).lower()[:MAX_TEXT]}; is the cluster's RPC running?"
    text = " ".join(str(problem).split()) or type(problem).__name__
    return f"{text[:MAX_TEXT]}; is the cluster's RPC running?"
