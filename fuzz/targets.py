"""What must hold for any bytes whatever: one function for each door through which foreign bytes enter.

A target returns whether the bytes were accepted. Nothing but a `TowerError` may come out of the code under test, and the
target takes that for an answer; what else comes out, and every broken rule (`Finding`), ends the run. Beside that rule:

===========  =============================================================================================
target       rules
===========  =============================================================================================
tower        `_fast` and `_reference` agree, errors and offsets included; what is read encodes to the same
             signed bytes; a well-formed tower loads, and comes back from the current layout
instruction  the twins agree on compact votes; what is read encodes to the same bytes
transaction  the vote port answers for every packet; what it executes is signed; one voting instruction is one
             ballot or one that cannot be read
account      padding changes nothing; what landed can be adopted or is refused
sysvars      slot hashes encode to the same bytes; a slot history too, and restoring over it is sound
reservation  what is read encodes to the same bytes; a leader that loads it asks for nothing below its mark
etcd         an accepted range answer says what protobuf says
http2        `fuzz.http2`: cut into other pieces the same bytes do the same; what is kept stays small
admin        every answer is one line of strict JSON-RPC, never an internal error; requests are the same
             however the stream is cut, and never longer than the bound
===========  =============================================================================================

>>> TARGETS["instruction"](bytes([14, 0, 0, 0]))
False
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from google.protobuf.message import DecodeError
from pyetcd import etcdrpc

from fuzz.http2 import http2_said
from tower import _fast, _reference, wire
from tower._bytes import Writer
from tower.errors import InvalidInput, TowerError, WireError
from tower.events import Adopted, Looked
from tower.instructions import TRANSACTION_BYTES_MAX, encode_instruction_message, encode_vote_instruction
from tower.keys import Keypair, parse_keypair
from tower.leader import Leader, LeaderState, PutReservation, Reserve, decode_reservation, encode_reservation
from tower.localnet import intake
from tower.lockout import TowerVoteState, adopt, malformed, require_well_formed
from tower.restore import HISTORY_SLOTS, SlotHistory, adjust
from tower.store import Fence, Sighting
from tower.stores import _etcd_messages as messages
from tower.validator import control
from tower.validator.admin import AdminServer
from tower.validator.admin_wire import INTERNAL_ERROR, AdminError, RequestSplitter
from tower.validator.inspect import describe

__all__ = ["MAX_BYTES", "PAIR", "TARGETS", "VOTE_ACCOUNT", "Finding", "agreed", "attempt"]

PAIR = Keypair.from_seed(b"f" * 32)
VOTE_ACCOUNT = Keypair.from_seed(b"a" * 32).pubkey
TWINS = (_fast, _reference)
FENCE = Fence(PAIR.address, 7, b"instance")
NAMED = Path("tower.bin")  # only for error texts
SPLITTER_BYTES_MAX = 256  # small, so that short inputs reach it
HISTORY_HEAD_BYTES, HISTORY_TAIL_BYTES = 9, 16  # of a slot history, around its bits
PADDING = bytes(7)


class Finding(Exception):
    """A rule that some input broke."""


def require(holds: bool, rule: str) -> None:
    if not holds:
        raise Finding(rule)


def attempt(call: Callable[..., Any], *arguments: Any) -> tuple[Any, TowerError | None]:
    """`(result, None)` or `(None, the TowerError)`; everything else passes through and is a crash."""
    try:
        return call(*arguments), None
    except TowerError as problem:
        return None, problem


def agreed(name: str, *arguments: Any) -> tuple[Any, TowerError | None]:
    """The outcome of the function `name` of both twins, after it was found to be the same."""
    fast, fast_problem = attempt(getattr(_fast, name), *arguments)
    slow, slow_problem = attempt(getattr(_reference, name), *arguments)
    require(type(fast_problem) is type(slow_problem), f"{name}: {fast_problem!r} against {slow_problem!r}")
    require(str(fast_problem) == str(slow_problem), f"{name}: {fast_problem} against {slow_problem}")
    offsets = [getattr(problem, "offset", None) for problem in (fast_problem, slow_problem)]
    require(offsets[0] == offsets[1], f"{name}: offsets {offsets}")
    # repr, for a threshold that is NaN does not equal itself
    require(fast == slow or repr(fast) == repr(slow), f"{name}: the twins read different values")
    return fast, fast_problem


def saved_tower(data: bytes) -> bool:
    read, problem = agreed("decode_saved_tower", data)
    _, refused = attempt(wire.decode_saved_tower, data, read[0].identity if read else PAIR.pubkey)
    description, described = attempt(describe, data, NAMED)
    if problem is not None:
        require(isinstance(problem, WireError), f"{problem!r} has no offset")
        require(0 <= getattr(problem, "offset", -1) <= len(data), f"{problem!r} points outside the data")
        require(refused is not None and described is not None, "bytes that cannot be read were accepted")
        return False
    json.dumps(description)
    found, signature, body_at = read
    for twin in TWINS:
        saved = twin.read_saved_tower(data)
        require((saved.signature, saved.body_at, saved.generation) == (signature, body_at, found.generation), "another layout")
        told = (saved.identity, saved.root, saved.last_voted_slot)
        require(told == (found.identity, found.root, found.last_voted_slot), "tells something else than it holds")
        attempt(twin.TowerVoteState.of_saved, saved)
        require(twin.encode_tower_body(found, found.generation) == data[body_at:], "encodes to other bytes")
    if attempt(require_well_formed, found)[1] is None:
        TowerVoteState(found.votes, found.root)
        ours = replace(wire.to_current(found), identity=PAIR.pubkey)
        again = wire.decode_saved_tower(wire.encode_saved_tower(ours, PAIR), PAIR)
        require(again == ours, "the current layout reads back as another tower")
    return True


def vote_instruction(data: bytes) -> bool:
    for offset, with_block_id in ((0, True), (0, False), (4, True), (len(data), False)):
        if offset <= len(data):
            agreed("decode_compact_vote", data, offset, with_block_id)
    vote, problem = attempt(wire.decode_vote_instruction, data)
    if problem is not None:
        require(isinstance(problem, WireError), f"{problem!r} has no offset")
        return False
    plain, too_long = attempt(encode_vote_instruction, vote)
    if too_long is None:  # else it is longer than a packet, which the reader does not mind
        require(plain[4:] == data[4 : len(plain)], "encodes to other bytes")
    else:
        require(len(data) > TRANSACTION_BYTES_MAX, f"does not encode: {too_long}")
    return True


def vote_transaction(data: bytes) -> bool:
    carried = _carry(data)
    arrived = intake.read_transaction(data)
    if arrived.transaction is None:
        require(arrived.problem is not None, "accepted without a transaction")
        return carried
    require(len(arrived.signature) == 64, "the transaction has no name")
    require(arrived.problem is not None or arrived.signed, "executed without a signature")
    # Also where no signature verifies, which is so after almost every mutation: what stands behind that door must hold.
    ballots, unreadable = intake.read_ballots(arrived.transaction, "fuzz")
    require(unreadable >= 0 and all(len(account) == 32 for account, _, _ in ballots), "a ballot without an account")
    return arrived.problem is None


def _carry(data: bytes) -> bool:
    """The same bytes as the data of one instruction in a sound transaction: few mutations keep a transaction sound."""
    message, _ = attempt(encode_instruction_message, PAIR.pubkey, PAIR.pubkey, VOTE_ACCOUNT, bytes(32), data)
    if message is None:
        return False
    arrived = intake.read_transaction(_fast.sign_transaction(message, [PAIR.secret]))
    if arrived.problem is not None or arrived.transaction is None:
        raise Finding(f"a sound transaction: {arrived.problem}")
    ballots, unreadable = intake.read_ballots(arrived.transaction, "fuzz")
    require(len(ballots) + unreadable == 1, "one instruction was counted as more or less")
    require(all(account == VOTE_ACCOUNT for account, _, _ in ballots), "a ballot for another account")
    return bool(ballots)


def vote_account(data: bytes) -> bool:
    account, problem = attempt(wire.decode_vote_account, data)
    if problem is not None:
        require(isinstance(problem, WireError), f"{problem!r} has no offset")
        return False
    require(wire.decode_vote_account(data + PADDING) == account, "padding changes what is read")
    for epoch in (0, 1, 2**64 - 1):
        voter = account.authorized_voter(epoch)
        require(voter is None or len(voter) == 32, "an authorized voter of another length")
    mine = TowerVoteState([(5, 2), (6, 1)], 4)
    adopted, _ = attempt(adopt, mine, account.lockouts, account.root)
    if malformed(account.lockouts, account.root) is None:
        require(adopted is not None, "a well-formed account cannot be adopted")
        require(malformed(adopted.votes, adopted.root) is None, "adopting left a malformed stack")
    return True


def sysvars(data: bytes) -> bool:
    entries, _ = attempt(wire.decode_slot_hashes, data)
    if entries is not None:
        out = Writer().u64(len(entries))
        for slot, bank_hash in entries:
            out.u64(slot).raw(bank_hash)
        require(data.startswith(out.bytes()), "slot hashes encode to other bytes")
    attempt(SlotHistory.decode, data)
    # A history has 131,097 bytes: the short input is its ends and every other bit, what is left is a stack to restore.
    tail_at = HISTORY_HEAD_BYTES + HISTORY_TAIL_BYTES
    whole = data[:HISTORY_HEAD_BYTES] + b"\x55" * (HISTORY_SLOTS // 8) + data[HISTORY_HEAD_BYTES:tail_at]
    history, _ = attempt(SlotHistory.decode, whole)
    if history is None:
        return entries is not None
    require(history.encode() == whole, "a slot history encodes to other bytes")
    stack, _ = attempt(_fast.decode_compact_vote, data, min(tail_at, len(data)), False)
    if stack is not None and malformed(stack[0].lockouts, stack[0].root) is None:
        left, _ = attempt(adjust, list(stack[0].lockouts), stack[0].root, history.newest & ~1, history)
        if left is not None:
            require(malformed(left.votes, left.root) is None, f"restoring left a malformed stack: {left}")
    return True


def reservation(data: bytes) -> bool:
    found, problem = attempt(decode_reservation, data)
    leader = Leader()
    leader.handle(Adopted(FENCE, None, None))
    leader.handle(Looked(Sighting(FENCE.identity, FENCE.revision, FENCE.instance, 0, None, None, 9, data)))
    if problem is not None:
        require(isinstance(problem, WireError), f"{problem!r} has no offset")
        require(leader.state is LeaderState.STOPPED, "a leader began from a record that cannot be read")
        return False
    require(encode_reservation(found) == data, "encodes to other bytes")
    above = min(found.last + 1, 2**64 - 1)
    for effect in leader.handle(Reserve(max(0, above - 8), above)):
        asked = decode_reservation(effect.record) if isinstance(effect, PutReservation) else None
        require(asked is None or asked.first > found.last, "a slot was asked for that was reserved before")
    return True


def etcd_answer(data: bytes) -> bool:
    answer, _ = attempt(messages.decode_range, data)
    watched, _ = attempt(messages.decode_watch, data)
    written = [attempt(messages.decode_txn, data, (reads, reads))[0] for reads in (0, 1, 2)]
    require(sum(txn is not None for txn in written) <= 1, "one answer, two numbers of reads")
    if answer is not None:
        try:
            theirs = etcdrpc.RangeResponse.FromString(data)
        except DecodeError:
            return True  # protobuf wants UTF-8 and small field numbers, which say nothing to us
        require(answer.revision == theirs.header.revision, "another revision than protobuf reads")
        require(answer.more == theirs.more, "another end than protobuf reads")
        kvs = [(kv.key, kv.create_revision, kv.mod_revision, kv.value) for kv in theirs.kvs]
        require([tuple(kv) for kv in answer.kvs] == kvs, "other keys than protobuf reads")
    return answer is not None or watched is not None or any(written)


def http2(data: bytes) -> bool:
    try:
        return http2_said(data)
    except AssertionError as broken:
        raise Finding(str(broken)) from broken


class _Validator:
    """A validator that does nothing that it is told."""

    post_init = True

    def request_exit(self) -> None: ...

    def rpc_address(self) -> str | None:
        return None

    def rpc_url(self) -> str:
        return "http://127.0.0.1:1"

    def set_log_filter(self, text: str) -> None: ...

    def start_time(self) -> float:
        return 1_700_000_000.5

    def start_progress(self) -> str:
        return "Running"

    def contact_info(self) -> Mapping[str, Any]:
        return {"id": PAIR.address}

    def identity_transition(self) -> Mapping[str, Any]:
        return {"state": "idle"}

    def status(self) -> Mapping[str, Any]:
        return {"identity": PAIR.address}

    async def add_authorized_voter(self, voter: Keypair) -> None: ...

    async def remove_all_authorized_voters(self) -> None: ...

    async def set_identity(self, identity: Keypair, require_tower: bool) -> None:
        raise InvalidInput("not now")


class _Line:
    """The far end of a connection: takes answers, and is the same user."""

    def __init__(self) -> None:
        self.said = bytearray()

    def get_extra_info(self, name: str) -> _Line:
        return self

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        return struct.pack("3i", os.getpid(), os.geteuid(), os.getegid())

    def write(self, data: bytes) -> None:
        self.said += data

    def close(self) -> None: ...

    async def drain(self) -> None: ...

    async def wait_closed(self) -> None: ...


@functools.cache
def _event_loop() -> asyncio.AbstractEventLoop:
    runner = asyncio.Runner()
    atexit.register(runner.close)
    return runner.get_loop()


def _keypair_in(text: str | Path) -> Keypair:
    """Stands in for the reading of a keypair file: a fuzzer must not open what it thinks of. The text is the content."""
    return parse_keypair(str(text))


def _requests(chunks: list[bytes]) -> tuple[list[bytes], str | None]:
    splitter = RequestSplitter(SPLITTER_BYTES_MAX)
    found: list[bytes] = []
    try:
        for chunk in chunks:
            found.extend(splitter.feed(chunk))
    except AdminError as problem:
        return found, str(problem)
    return found, None


def _check_answer(answer: Any) -> None:
    for one in answer if isinstance(answer, list) else [answer]:
        require(isinstance(one, dict) and one.get("jsonrpc") == "2.0" and "id" in one, f"no JSON-RPC: {one}")
        require(("result" in one) is not ("error" in one), f"not one of result and error: {one}")
        require(one.get("error", {}).get("code") != INTERNAL_ERROR, f"an internal error: {one}")


def _no_json(constant: str) -> Any:
    raise Finding(f"{constant} in an answer is not JSON")


def admin_rpc(data: bytes) -> bool:
    cut = len(data) // 2
    requests, refused = _requests([data])
    require(_requests([data[:cut], data[cut:]]) == (requests, refused), "where the stream is cut decides what is read")
    require(all(len(request) <= SPLITTER_BYTES_MAX for request in requests), "a request longer than the bound")

    loop, line, unexpected = _event_loop(), _Line(), []
    loop.set_exception_handler(lambda _, context: unexpected.append(context))
    reader = asyncio.StreamReader(loop=loop)
    reader.feed_data(data)
    reader.feed_eof()
    with patch.object(control, "read_keypair_file", _keypair_in):
        server = AdminServer(NAMED, control.control_handlers(_Validator()))
        loop.run_until_complete(server._serve(reader, line))  # type: ignore[arg-type]
    if unexpected:
        raise Finding(str(unexpected[0].get("message"))) from unexpected[0].get("exception")
    require(not line.said or line.said.endswith(b"\n"), "an answer without an end")
    answers = [json.loads(text, parse_constant=_no_json) for text in bytes(line.said).splitlines()]
    for answer in answers:
        _check_answer(answer)
    return any(isinstance(answer, dict) and "result" in answer for answer in answers)


TARGETS: dict[str, Callable[[bytes], bool]] = {
    "tower": saved_tower,
    "instruction": vote_instruction,
    "transaction": vote_transaction,
    "account": vote_account,
    "sysvars": sysvars,
    "reservation": reservation,
    "etcd": etcd_answer,
    "http2": http2,
    "admin": admin_rpc,
}
MAX_BYTES = {  # of an input, in a guided run
    "tower": 4096,
    "instruction": 1500,
    "transaction": 1300,
    "account": 4096,
    "sysvars": 1024,
    "reservation": 64,
    "etcd": 1024,
    "http2": 1024,
    "admin": 1024,
}
