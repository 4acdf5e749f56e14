"""Full-tower votes through the real program: it answers what `check_proposal` predicts, number and resulting stack."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st
from solders.litesvm import FeatureSet

from tests.oracle.strategies import Case, bank_hash, cases
from tests.support.litesvm import V1_14_11, V3, V4, VoteProgram, new_account
from tests.support.profiles import examples, timeout
from tower.errors import WireError
from tower.instructions import INSTRUCTION_TAGS, encode_vote_instruction
from tower.proposal import VoteError, apply_vote, check_proposal
from tower.types import BlockTimestamp, LastVote, Lockout, VoteKind
from tower.wire import decode_vote_instruction

pytestmark = timeout
PROGRAM = VoteProgram()
BAD_DATA = "InvalidInstructionData"


def ask(case: Case, data: bytes | None = None) -> int | str | None:
    PROGRAM.put(case.account)
    PROGRAM.on_bank(case.slot_hashes)
    return PROGRAM.send(data or encode_vote_instruction(case.vote, case.switch_proof))


def require_predicted(case: Case, answer: int | str | None, vote: LastVote) -> str:
    check = apply_vote if vote.kind is VoteKind.VOTE else check_proposal
    predicted = check(case.account, vote, case.slot_hashes)
    assert answer == predicted.error, f"{case}\nprogram {answer}, predicted {predicted}"
    account = PROGRAM.read()
    assert (account.lockouts, account.root) == (predicted.lockouts, predicted.root), case
    assert account.last_timestamp == predicted.last_timestamp, case
    return repr(predicted.error)


@examples(500, 20_000)
@given(cases())
def test_any_proposal_gets_the_predicted_answer(case):
    event(require_predicted(case, ask(case), case.vote))


def proposal(*lockouts, root=None, hash=None, timestamp=None):
    votes = tuple(Lockout(*lockout) for lockout in lockouts)
    slots = tuple(vote.slot for vote in votes)
    named = bank_hash(slots[-1] if slots else 0) if hash is None else hash
    return LastVote(VoteKind.VOTE_STATE_UPDATE, slots, votes, root, named, timestamp)


def account(*lockouts, root=None, last_timestamp=(0, 0)):
    votes = tuple(Lockout(*lockout) for lockout in lockouts)
    return new_account(lockouts=votes, root=root, last_timestamp=BlockTimestamp(*last_timestamp))


def ancestors(*slots):
    return [(slot, bank_hash(slot)) for slot in slots]


ON_CHAIN = account((10, 3), (11, 2), (12, 1), root=9)  # they bind until 18, 15 and 14
KNOWN = ancestors(*range(20, 7, -1))
NEXT = ((10, 4), (11, 3), (12, 2), (13, 1))
# error, account, proposal, SlotHashes: one case at least for each row of the two tables, in their order
ROWS = [
    (VoteError.EmptySlots, ON_CHAIN, proposal(root=9), KNOWN),
    (VoteError.VoteTooOld, ON_CHAIN, proposal((10, 3), (11, 2), (12, 1), root=9), KNOWN),
    (VoteError.SlotsMismatch, ON_CHAIN, proposal(*NEXT, root=9), []),
    (VoteError.VoteTooOld, ON_CHAIN, proposal(*NEXT, root=9), KNOWN[:5]),
    (None, ON_CHAIN, proposal(*NEXT, root=5), KNOWN),  # 5 cannot be checked: the account's 9 stays
    (None, ON_CHAIN, proposal((12, 2), (13, 1), root=11), ancestors(13, 12)),  # the account vouches for 11
    (VoteError.SlotsMismatch, ON_CHAIN, proposal(*NEXT, root=30), KNOWN),
    (VoteError.RootOnDifferentFork, ON_CHAIN, proposal((13, 1), root=11), ancestors(14, 13, 12, 10, 9)),
    (VoteError.SlotsMismatch, account(), proposal((19, 3), (20, 2), (20, 1)), KNOWN),  # no entry is left for it
    (VoteError.SlotsNotOrdered, account(), proposal((15, 3), (14, 2), (16, 1)), KNOWN),
    (None, account(), proposal((3, 4), (5, 3), (9, 2), (10, 1)), KNOWN),  # 3 and 5 are dropped
    (None, account((5, 2), (6, 1)), proposal((5, 4), (6, 3), (9, 2), (10, 1)), KNOWN),  # the account has them
    (VoteError.SlotsMismatch, account(), proposal((14, 2), (16, 1)), ancestors(16, 15, 13)),
    (VoteError.SlotHashMismatch, account(), proposal((15, 1), hash=bank_hash(14)), KNOWN),
    (VoteError.TooManyVotes, account(), proposal(*((9 + at, 32 - at) for at in range(32))), ancestors(*range(40, 7, -1))),
    (VoteError.RootRollBack, ON_CHAIN, proposal(*NEXT, root=8), KNOWN),
    (VoteError.RootRollBack, ON_CHAIN, proposal(*NEXT), KNOWN),
    (VoteError.ZeroConfirmations, account(), proposal((13, 0)), KNOWN),
    (VoteError.ConfirmationTooLarge, account(), proposal((13, 32)), KNOWN),
    (VoteError.SlotSmallerThanRoot, account(), proposal((12, 2), (13, 1), root=12), KNOWN),
    (None, account(), proposal((0, 2), (1, 1), root=0), ancestors(1, 0)),
    (VoteError.ConfirmationsNotOrdered, account(), proposal((12, 2), (13, 2)), KNOWN),
    (VoteError.NewVoteStateLockoutMismatch, account(), proposal((12, 2), (17, 1)), KNOWN),
    (None, account(), proposal((12, 2), (16, 1)), KNOWN),
    (VoteError.LockoutConflict, ON_CHAIN, proposal((10, 3), (15, 1), root=9), KNOWN),
    (None, ON_CHAIN, proposal((10, 3), (16, 1), root=9), KNOWN),
    (VoteError.ConfirmationRollBack, ON_CHAIN, proposal((10, 2), (13, 1), root=9), KNOWN),
    (VoteError.TimestampTooOld, account(last_timestamp=(12, 5)), proposal((13, 1), timestamp=4), KNOWN),
    (VoteError.TimestampTooOld, account(last_timestamp=(14, 5)), proposal((13, 1), timestamp=6), KNOWN),
    (VoteError.TimestampTooOld, account(last_timestamp=(13, 5)), proposal((13, 1), timestamp=6), KNOWN),
    (None, account(last_timestamp=(13, 5)), proposal((13, 1), timestamp=5), KNOWN),
    (None, account(last_timestamp=(0, 5)), proposal((0, 1), timestamp=7), ancestors(0)),
    (None, account(last_timestamp=(13, 5)), proposal((13, 1)), KNOWN),
]


@pytest.mark.parametrize(("error", "landed", "vote", "slot_hashes"), ROWS)
def test_each_row_of_the_tables(error, landed, vote, slot_hashes):
    case = Case(landed, slot_hashes, vote, None)
    assert check_proposal(landed, vote, slot_hashes).error == error
    require_predicted(case, ask(case), vote)


def test_every_error_of_a_vote_has_its_case():
    other = {5, 16, 18, 19, 20}  # of other instructions, of the legacy Vote, and the one that no input reaches
    assert {row[0] for row in ROWS} == {None, *(error for error in VoteError if error not in other)}


FULL = proposal(*NEXT, root=9, timestamp=1)
FORMS = [
    LastVote(VoteKind.VOTE, (13,), hash=bank_hash(13), timestamp=1),
    FULL,
    replace(FULL, kind=VoteKind.COMPACT_VOTE_STATE_UPDATE),
    replace(FULL, kind=VoteKind.TOWER_SYNC, block_id=b"b" * 32),
]


@pytest.mark.parametrize("vote", FORMS, ids=lambda vote: vote.kind.value)
@pytest.mark.parametrize("switch_proof", [None, bytes(32)], ids=["same-fork", "switch"])
def test_where_legacy_votes_are_deprecated_only_tower_sync_is_left(vote, switch_proof):
    newest = VoteProgram(FeatureSet.all_enabled())
    for program in (PROGRAM, newest):
        program.put(ON_CHAIN)
        program.on_bank(KNOWN)
    data = encode_vote_instruction(vote, switch_proof)
    assert PROGRAM.send(data) is None
    assert newest.send(data) == (None if vote.kind is VoteKind.TOWER_SYNC else BAD_DATA)


@pytest.mark.parametrize("vote", FORMS, ids=lambda vote: vote.kind.value)
def test_accounts_of_every_version_are_read_alike_and_written_as_the_newest(vote):
    results = set()
    for version in (V1_14_11, V3, V4):
        PROGRAM.put(replace(ON_CHAIN, epoch_credits=((0, 7, 3),)), version)
        PROGRAM.on_bank(KNOWN)
        assert PROGRAM.send(encode_vote_instruction(vote)) is None
        assert PROGRAM.data()[0] == V4
        results.add(PROGRAM.read())
    assert len(results) == 1
    assert results.pop().lockouts[-1] == Lockout(13, 1)


# ------------------------------------------------------------------------------------------------------ hostile bytes

VOTING_TAGS = {tag for pair in INSTRUCTION_TAGS.values() for tag in pair}


@st.composite
def damaged_instructions(draw):
    """A vote that fits `ON_CHAIN`, with up to three bytes changed, inserted or removed, its end cut off or extended."""
    vote = draw(st.sampled_from(FORMS))
    data = bytearray(encode_vote_instruction(vote, draw(st.sampled_from((None, bytes(32))))))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data) - 1))
        near = draw(st.sampled_from((0, 1, 2, 0x7F, 0x80, 0x81, 0xFF)) | st.integers(0, 255))
        kind = draw(st.integers(0, 3))
        data[at : at + (kind != 1)] = b"" if kind == 2 else bytes([near])
    tail = draw(st.sampled_from((b"", b"", b"\0", b"more")))
    return bytes(data[: draw(st.just(len(data)) | st.integers(4, len(data)))] if len(data) > 4 else data) + tail


def decoded(data: bytes) -> tuple[LastVote | None, WireError | None]:
    try:
        return decode_vote_instruction(data), None
    except WireError as problem:
        return None, problem


@examples(500, 20_000)
@given(damaged_instructions())
@example(encode_vote_instruction(FORMS[3])[:12] + b"\x80\x80\x04" + bytes(65))
def test_hostile_bytes_are_refused_where_the_program_refuses_them(data):
    """Where ours decodes, the program decodes the same vote; where ours does not, it answers InvalidInstructionData."""
    if len(data) < 4 or int.from_bytes(data[:4], "little") not in VOTING_TAGS:
        return
    case = Case(ON_CHAIN, KNOWN, FULL, None)
    answer = ask(case, data)
    vote, problem = decoded(data)
    if vote is None:
        assert answer == BAD_DATA, f"{data.hex()}: ours says {problem}, the program {answer}"
        event("refused")
    else:
        assert answer != BAD_DATA, f"{data.hex()}: ours reads {vote}"
        event(require_predicted(case, answer, vote))
