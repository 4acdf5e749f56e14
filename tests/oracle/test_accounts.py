"""Damaged vote accounts: what the program reads, we read; we refuse nothing that it takes."""

from __future__ import annotations

from hypothesis import event, given
from hypothesis import strategies as st

from tests.oracle.strategies import bank_hash
from tests.support.litesvm import V1_14_11, V3, V4, VoteProgram, encode_vote_account, new_account
from tests.support.profiles import examples, timeout
from tower.errors import WireError
from tower.instructions import encode_vote_instruction
from tower.types import BlockTimestamp, LastVote, Lockout, VoteAccountState, VoteKind
from tower.wire import decode_vote_account

pytestmark = timeout
PROGRAM = VoteProgram()
ACCOUNT = new_account(
    lockouts=(Lockout(10, 3), Lockout(11, 2)), root=9, epoch_credits=((0, 50, 3),), last_timestamp=BlockTimestamp(11, 5)
)
TOWER = (Lockout(10, 4), Lockout(11, 3), Lockout(12, 1))
VOTE = encode_vote_instruction(
    LastVote(VoteKind.TOWER_SYNC, (10, 11, 12), TOWER, 9, bank_hash(12), block_id=bytes(32))
)
REFUSED = ("InvalidAccountData", "UninitializedAccount")  # the second where no authorized voter is left
KNOWN = [(slot, bank_hash(slot)) for slot in range(20, 7, -1)]


@st.composite
def damaged_accounts(draw: st.DrawFn) -> bytes:
    """Up to three bytes changed among those that hold something, and perhaps the end cut off."""
    written = encode_vote_account(ACCOUNT, draw(st.sampled_from((V4, V3, V1_14_11))), 1, draw(st.sampled_from((None, bytes(48)))))
    data = bytearray(written)
    used = len(written.rstrip(b"\0"))
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(4, used))] = draw(st.sampled_from((0, 1, 2, 255)) | st.integers(0, 255))
    return bytes(data[: draw(st.just(len(data)) | st.integers(4, used))])


def read(data: bytes) -> VoteAccountState | None:
    try:
        return decode_vote_account(data)
    except WireError:
        return None


@examples(300, 10_000)
@given(damaged_accounts())
def test_we_refuse_no_account_that_the_program_reads(data):
    PROGRAM.put_data(data)
    PROGRAM.on_bank(KNOWN)
    answer = PROGRAM.send(VOTE)
    ours = read(data)
    event(f"program: {answer if isinstance(answer, str) else 'reads it'}, ours: {'refuses it' if ours is None else 'reads it'}")
    # where ours reads it, a wrong voter, or none for the epoch, can still stop the program behind the reading
    assert ours is not None or answer in REFUSED, f"{data.rstrip(bytes(1)).hex()}: {answer}"
