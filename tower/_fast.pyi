from collections.abc import Iterable, Sequence, Set
from typing import final

from tower._read import SavedTower, decode_compact_vote, decode_saved_tower, read_saved_tower
from tower.types import Generation, Tower

__all__ = [
    "SavedTower",
    "TowerVoteState",
    "decode_compact_vote",
    "decode_saved_tower",
    "encode_compact_vote",
    "encode_saved_tower",
    "encode_tower_body",
    "encode_vote_body",
    "encode_vote_message",
    "encode_vote_record",
    "read_saved_tower",
    "sign",
    "sign_transaction",
    "verify",
]

@final
class TowerVoteState:
    root: int | None
    def __init__(self, votes: Iterable[tuple[int, int]] = (), root: int | None = None) -> None: ...
    @staticmethod
    def of_saved(saved: SavedTower) -> TowerVoteState: ...
    @property
    def votes(self) -> list[tuple[int, int]]: ...
    @property
    def last_voted_slot(self) -> int | None: ...
    def __len__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    def copy(self) -> TowerVoteState: ...
    def process_vote(self, slot: int) -> int | None: ...
    def process_votes(self, slots: Iterable[int]) -> int: ...
    def nth_recent(self, depth: int) -> tuple[int, int] | None: ...
    def is_recent(self, slot: int) -> bool: ...
    def is_well_formed(self) -> bool: ...
    def is_locked_out(self, slot: int, ancestors: Set[int]) -> bool: ...

def sign(secret: bytes, message: bytes) -> bytes: ...
def verify(pubkey: bytes, message: bytes, signature: bytes) -> bool: ...
def encode_tower_body(tower: Tower, generation: Generation) -> bytes: ...
def encode_saved_tower(tower: Tower, secret: bytes, generation: Generation) -> bytes: ...
def encode_vote_body(
    identity: bytes,
    state: TowerVoteState,
    bank_hash: bytes,
    timestamp: int | None,
    block_id: bytes,
    last_timestamp: tuple[int, int],
    threshold_depth: int,
    threshold_size: float,
) -> bytes: ...
def encode_vote_record(
    identity: bytes,
    secret: bytes,
    state: TowerVoteState,
    bank_hash: bytes,
    timestamp: int | None,
    block_id: bytes,
    last_timestamp: tuple[int, int],
    threshold_depth: int,
    threshold_size: float,
) -> bytes: ...
def encode_compact_vote(
    lockouts: Iterable[tuple[int, int]], root: int | None, hash: bytes, timestamp: int | None, block_id: bytes | None
) -> bytes: ...
def encode_vote_message(
    identity: bytes,
    voter: bytes,
    vote_account: bytes,
    blockhash: bytes,
    state: TowerVoteState,
    bank_hash: bytes,
    timestamp: int | None,
    block_id: bytes,
    switch_proof: bytes | None,
) -> bytes: ...
def sign_transaction(message: bytes, secrets: Sequence[bytes]) -> bytes: ...
