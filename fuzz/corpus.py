"""Where a run begins: inputs that our own encoders make, and the tokens that mutations should know.

Everything is drawn from a random number generator, so a seed makes the same corpus again. Real tower files are taken too
where `TOWER_FIXTURES` names a folder of them; none is ever copied into the repository.

>>> seeds("etcd", random.Random(1)) == seeds("etcd", random.Random(1))
True
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

from pyetcd import etcdrpc

from fuzz import http2
from fuzz.targets import HISTORY_HEAD_BYTES, PAIR, VOTE_ACCOUNT
from tests.support.litesvm import V1_14_11, V3, V4, encode_vote_account
from tower import _fast, wire
from tower._bytes import Writer
from tower.instructions import encode_instruction_message, encode_vote_instruction
from tower.keys import Keypair
from tower.leader import Reservation, encode_reservation
from tower.lockout import TowerVoteState
from tower.restore import SlotHistory
from tower.types import (
    BlockTimestamp,
    Generation,
    LastVote,
    Lockout,
    Tower,
    VoteAccountState,
    VoteKind,
    VoteStateExtras,
)

__all__ = ["TOKENS", "compact_votes", "seeds"]

VOTER = Keypair.from_seed(b"v" * 32)
DEPTHS = (0, 1, 3, 8, 31)
NUMBERS = (0, 1, 30, 31, 32, 127, 128, 255, 0xFFFF, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1)
REAL_FILES_MAX = 64

METHODS = (
    "exit", "rpcAddress", "rpcUrl", "setLogFilter", "startTime", "startProgress", "addAuthorizedVoter",
    "addAuthorizedVoterFromBytes", "removeAllAuthorizedVoters", "setIdentity", "setIdentityFromBytes", "contactInfo", "pid",
    "status", "identityTransitionStatus", "listPlugins", "repairWhitelist",
)  # fmt: skip
_PARAMS: dict[str, list[object]] = {
    "setLogFilter": ["info"],
    "addAuthorizedVoter": [json.dumps(list(VOTER.secret))],
    "addAuthorizedVoterFromBytes": [list(VOTER.secret)],
    "setIdentity": [json.dumps(list(PAIR.secret)), True],
    "setIdentityFromBytes": [list(PAIR.secret), False],
}

_NUMBER_TOKENS = tuple(
    dict.fromkeys(number.to_bytes(8, "little")[:width] for number in NUMBERS for width in (1, 2, 4, 8))
)
_VARINT_TOKENS = (b"\x80\x00", b"\xff" * 9 + b"\x01", b"\xff" * 10, b"\xff\xff\x03", b"\xff\xff\x7f", b"\x80\x80\x00")
TOKENS: dict[str, tuple[bytes, ...]] = {
    "tower": _NUMBER_TOKENS + _VARINT_TOKENS,
    "instruction": _NUMBER_TOKENS + _VARINT_TOKENS + tuple(bytes([tag, 0, 0, 0]) for tag in range(17)),
    "transaction": (*_NUMBER_TOKENS, *_VARINT_TOKENS, wire.VOTE_PROGRAM_ID, PAIR.pubkey, VOTE_ACCOUNT),
    "account": _NUMBER_TOKENS,
    "sysvars": _NUMBER_TOKENS + _VARINT_TOKENS,
    "reservation": _NUMBER_TOKENS,
    "etcd": _VARINT_TOKENS + tuple(bytes([field << 3 | kind]) for field in (1, 2, 3, 4, 5, 6, 11) for kind in (0, 2)),
    "http2": http2.TOKENS,
    "admin": (
        *(f'"{method}"'.encode() for method in METHODS),
        *(token.encode() for token in ('"jsonrpc":"2.0"', '"id":', '"method":', '"params":', "[]", "{}", "null", "true")),
        *(token.encode() for token in ("NaN", "-Infinity", "1e999", "-1", "\\u0000", "\\ud800", '\\"', "[" * 64, ",", "\n")),
    ),
}


def _stack(rng: random.Random, depth: int) -> TowerVoteState:
    """A stack that legal votes left behind, some of them after forks."""
    state = TowerVoteState(root=rng.choice((None, 0, rng.randrange(1 << 40))))
    slot = state.root or 0
    for _ in range(depth + rng.randrange(4) if depth else 0):
        slot += rng.choice((1, 1, 1, 2, 5, 300))
        state.process_vote(slot)
    return state


def _vote(rng: random.Random, kind: VoteKind, state: TowerVoteState) -> LastVote:
    slots = tuple(slot for slot, _ in state.votes)
    timestamp = rng.choice((None, 1_700_000_000, -(2**63)))
    if kind is VoteKind.VOTE:
        return LastVote(kind, slots, (), None, rng.randbytes(32), timestamp)
    block_id = rng.randbytes(32) if kind is VoteKind.TOWER_SYNC else None
    lockouts = tuple(Lockout(*vote) for vote in state.votes)
    return LastVote(kind, slots, lockouts, state.root, rng.randbytes(32), timestamp, block_id)


def _towers(rng: random.Random) -> list[bytes]:
    found = []
    layouts = [(Generation.CURRENT, kind) for kind in VoteKind]
    layouts += [(Generation.ENUM_0, VoteKind.VOTE), (Generation.BARE_1_7_14, VoteKind.VOTE)]
    for generation, kind in layouts:
        for depth in DEPTHS:
            state = _stack(rng, depth)
            old = generation is not Generation.CURRENT and depth
            extras = VoteStateExtras(
                rng.randbytes(32) if old else bytes(32),
                rng.randbytes(32) if old else bytes(32),
                100 if old else 0,
                ((1, VOTER.pubkey), (2, PAIR.pubkey)) if old else (),
                rng.randbytes(1544) + b"\0" if old else None,
                ((1, 2, 1), (2, 9, 2)) if old else (),
                BlockTimestamp(7, 1_600_000_000) if old else BlockTimestamp(),
            )
            lockouts = tuple(Lockout(*vote) for vote in state.votes)
            stamp = BlockTimestamp(state.last_voted_slot or 0, 1_700_000_000)
            vote = _vote(rng, kind, state)
            tower = Tower(PAIR.pubkey, lockouts, state.root, vote, stamp, extras=extras, generation=generation)
            found.append(wire.encode_saved_tower(tower, PAIR, generation))
    folder = os.environ.get("TOWER_FIXTURES")
    files = sorted(Path(folder).glob("**/tower-*.bin"))[:REAL_FILES_MAX] if folder else []
    return found + [path.read_bytes() for path in files]


def _instructions(rng: random.Random) -> list[bytes]:
    proofs = (None, bytes(32))
    return [
        encode_vote_instruction(_vote(rng, kind, _stack(rng, depth)), proof)
        for kind in VoteKind
        for depth in DEPTHS
        for proof in proofs
    ]


def _transactions(rng: random.Random) -> list[bytes]:
    found = _instructions(rng)  # the target carries them
    for data in list(found):
        for voter in (PAIR, VOTER):
            message = encode_instruction_message(PAIR.pubkey, voter.pubkey, VOTE_ACCOUNT, rng.randbytes(32), data)
            found.append(_fast.sign_transaction(message, [PAIR.secret] if voter is PAIR else [PAIR.secret, VOTER.secret]))
    return found


def _accounts(rng: random.Random) -> list[bytes]:
    found = []
    for version in (V1_14_11, V3, V4):
        for depth in DEPTHS:
            state = _stack(rng, depth)
            voters = ((0, PAIR.pubkey), (9, VOTER.pubkey))[: 1 + depth % 2]
            lockouts = tuple(Lockout(*vote) for vote in state.votes)
            account = VoteAccountState(
                PAIR.pubkey, voters, lockouts, state.root, ((1, 16, 0), (2, 32, 16)), BlockTimestamp(9, 1_700_000_000)
            )
            bls_key = rng.randbytes(48) if version == V4 and depth % 2 else None
            found.append(encode_vote_account(account, version, bls_key=bls_key).rstrip(b"\0") + bytes(8))
    return found


def _sysvars(rng: random.Random) -> list[bytes]:
    found = []
    for count in (0, 1, 3, 16):
        out = Writer().u64(count)
        for slot in range(1000 + count, 1000, -1):
            out.u64(slot).raw(rng.randbytes(32))
        found.append(out.bytes())
    for depth in DEPTHS:
        state = _stack(rng, depth)
        newest = (state.last_voted_slot or 1) + rng.choice((-1, 0, 1, 500, 2**21))
        ends = SlotHistory.of((), max(newest, 0)).encode()
        stack = _fast.encode_compact_vote(state.votes, state.root, rng.randbytes(32), None, None)
        found.append(ends[:HISTORY_HEAD_BYTES] + ends[-16:] + stack)
    return found


def _reservations(rng: random.Random) -> list[bytes]:
    return [encode_reservation(Reservation(max(0, last - rng.randrange(8)), last, rng.randbytes(8))) for last in NUMBERS]


def _etcd(rng: random.Random) -> list[bytes]:
    header = etcdrpc.ResponseHeader(cluster_id=2**63, member_id=7, revision=300, raft_term=4)
    kv = {"key": b"k/tower", "create_revision": 3, "mod_revision": 299, "value": rng.randbytes(40)}
    one = etcdrpc.RangeResponse(header=header, kvs=[kv], count=1)
    many = etcdrpc.RangeResponse(header=header, kvs=[kv, kv, kv], count=9, more=True)
    found = [etcdrpc.RangeResponse(header=header), one, many]
    for succeeded in (True, False):
        for parts in ([], [one], [one, etcdrpc.RangeResponse()]):
            operations = [etcdrpc.ResponseOp(response_range=part) for part in parts]
            operations.append(etcdrpc.ResponseOp(response_put=etcdrpc.PutResponse(header=header)))
            found.append(etcdrpc.TxnResponse(header=header, succeeded=succeeded, responses=operations))
    watched = etcdrpc.WatchResponse(header=header, watch_id=1)
    watched.events.add(type="PUT", kv=kv)
    watched.events.add(type="DELETE", kv={"key": b"k", "mod_revision": 301})
    found += [etcdrpc.WatchResponse(header=header, created=True), watched]
    found += [etcdrpc.WatchResponse(canceled=True, cancel_reason="no leader"), etcdrpc.WatchResponse(compact_revision=7)]
    return [message.SerializeToString() for message in found]


def _requests(rng: random.Random) -> list[bytes]:
    calls = [
        {"jsonrpc": "2.0", "id": number, "method": method, "params": _PARAMS.get(method, [])}
        for number, method in enumerate(METHODS)
    ]
    found = [json.dumps(call).encode() for call in calls]
    plain = [call for call in calls if call["method"] not in _PARAMS]
    found.append(json.dumps(plain).encode())  # a batch
    found.append(b"\n".join(json.dumps(call).encode() for call in rng.sample(plain, 3)))  # one after the other
    found.append(b'{"jsonrpc":"2.0","method":"pid"} {"jsonrpc":"2.0","id":"}]\\"","method":"pid"}')  # a notification
    found.append(b'{"jsonrpc":"2.0","id":' + b"[" * 50 + b"]" * 50 + b',"method":"pid"}')
    return found


_MAKERS: dict[str, Callable[[random.Random], list[bytes]]] = {
    "tower": _towers,
    "instruction": _instructions,
    "transaction": _transactions,
    "account": _accounts,
    "sysvars": _sysvars,
    "reservation": _reservations,
    "etcd": _etcd,
    "http2": http2.seeds,
    "admin": _requests,
}


def seeds(target: str, rng: random.Random) -> list[bytes]:
    """The first inputs of `target`."""
    return _MAKERS[target](rng)


def compact_votes(rng: random.Random) -> list[bytes]:
    """Payloads of compact votes with a block id, for the native run."""
    found = []
    for depth in DEPTHS:
        vote = _vote(rng, VoteKind.TOWER_SYNC, _stack(rng, depth))
        found.append(_fast.encode_compact_vote(vote.lockouts, vote.root, vote.hash, vote.timestamp, vote.block_id))
    return found
