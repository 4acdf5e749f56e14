"""The voter: its whole table, what it must find before a claim, and that nothing leaves without its commit."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.chain import (
    FENCE,
    IDENTITY,
    OTHER,
    PEER,
    UNIX_S,
    account,
    bank,
    new_voter,
    peer_votes,
    sighting,
)
from tower.events import (
    Adopted,
    BankFrozen,
    Claim,
    DeadlinePassed,
    FenceLost,
    Halt,
    HaltReason,
    LedgerView,
    Look,
    Looked,
    LookFailed,
    Persist,
    Release,
    Resign,
    RootAdvanced,
    Settle,
    StoreAnswered,
    TakeOver,
    VoteSeen,
)
from tower.forkchoice import ForkChoice
from tower.restore import HISTORY_SLOTS, SlotHistory
from tower.store import Claimed, Committed, Refusal, Refused, Unknown
from tower.types import BlockTimestamp, LastVote, Lockout, Tower, VoteKind
from tower.voter import (
    CLAIM_ATTEMPTS_MAX,
    MAX_VOTE_REFRESH_INTERVAL_S,
    REFRESH_VOTE_BLOCKHEIGHT,
    SLOT_HASHES_NAMED,
    TABLE,
    Voter,
    VoterState,
)
from tower.wire import encode_saved_tower

REFUSED = Refused(Refusal.FENCED, 7, 9)
COMMITTED = Committed(FENCE, 11, b"record")
EVENTS = {
    TakeOver: TakeOver(),
    Looked: Looked(sighting()),
    LookFailed: LookFailed("down"),
    StoreAnswered: StoreAnswered(Unknown("lost")),
    BankFrozen: BankFrozen(bank(1, 0), UNIX_S),
    RootAdvanced: RootAdvanced(0),
    VoteSeen: VoteSeen(PEER, 0, bank(0, None).bank_hash),
    FenceLost: FenceLost(99),
    DeadlinePassed: DeadlinePassed("late"),
    Resign: Resign("told"),
}


def freeze(slot, parent=None, **arguments):
    parent = slot - 1 if parent is None else parent
    return BankFrozen(bank(slot, parent, peer=peer_votes(max(0, slot - 1)), **arguments), UNIX_S + slot)


def ready(**config) -> Voter:
    voter = new_voter(**config)
    voter.handle(TakeOver())
    voter.handle(Looked(sighting()))
    voter.handle(StoreAnswered(Claimed(FENCE, 0, None)))
    assert voter.state is VoterState.PERSISTING  # the root bank itself can be voted for
    voter.handle(StoreAnswered(COMMITTED))
    assert voter.state is VoterState.READY
    return voter


def in_state(state: VoterState) -> Voter:
    match state:
        case VoterState.READY:
            return ready()
        case VoterState.STANDBY:
            return new_voter()
    voter = new_voter()
    voter.handle(TakeOver())
    if state is VoterState.LOOKING:
        return voter
    voter.handle(Looked(sighting()))
    if state is VoterState.CLAIMING:
        return voter
    voter.handle(StoreAnswered(Claimed(FENCE, 0, None)))
    if state is VoterState.UNRESOLVED:
        voter.handle(StoreAnswered(Unknown("lost")))
    elif state is VoterState.STOPPED:
        voter.handle(Resign("told"))
    assert voter.state is state
    return voter


def pair_name(value):
    return value.name if isinstance(value, VoterState) else value.__name__


@pytest.mark.parametrize(("state", "kind"), list(itertools.product(VoterState, EVENTS)), ids=pair_name)
def test_the_whole_table(state, kind):
    """Every pair of state and event: either it is in the table, or the voter stops as for a bug."""
    voter = in_state(state)
    assert voter.state is state
    effects = voter.handle(EVENTS[kind])
    assert not any(isinstance(effect, Release) for effect in effects)
    if state is VoterState.STOPPED:
        assert voter.state is VoterState.STOPPED
        assert not [effect for effect in effects if not isinstance(effect, Halt)]
    elif (state, kind) not in TABLE:
        assert voter.state is VoterState.STOPPED
        assert [effect.reason for effect in effects] == [HaltReason.INTERNAL]
    else:
        assert not [effect for effect in effects if isinstance(effect, Halt) and effect.reason is HaltReason.INTERNAL]


@given(st.lists(st.sampled_from(["bank", "commit", "refuse", "unknown", "lost", "late", "resign", "root"]), max_size=40))
def test_nothing_leaves_but_the_vote_whose_tower_was_committed(script):
    """S2 and S6 over any order of events: one write at a time, released only by its own commit, nothing after the end."""
    voter = ready()
    slot, in_flight, revision = 0, None, 100
    for step in script:
        before = voter.state
        match step:
            case "bank":
                slot += 1
                effects = voter.handle(freeze(slot))
            case "commit":
                revision += 1
                effects = voter.handle(StoreAnswered(Committed(FENCE, revision, b"")))
            case "refuse":
                effects = voter.handle(StoreAnswered(REFUSED))
            case "unknown":
                effects = voter.handle(StoreAnswered(Unknown("lost")))
            case "lost":
                effects = voter.handle(FenceLost(FENCE.revision + 1))
            case "late":
                effects = voter.handle(DeadlinePassed("late"))
            case "resign":
                effects = voter.handle(Resign("told"))
            case "root":
                effects = voter.handle(RootAdvanced(slot))
        for effect in effects:
            if isinstance(effect, Release):
                assert step == "commit"
                assert effect.vote is in_flight
                in_flight = None
            if isinstance(effect, Persist):
                assert in_flight is None
                assert before in (VoterState.READY, VoterState.PERSISTING, VoterState.UNRESOLVED)
                in_flight = effect.vote
            if isinstance(effect, Settle):
                assert in_flight is not None
        if before is VoterState.STOPPED:
            assert effects == []
            assert voter.state is VoterState.STOPPED
        if voter.state in (VoterState.PERSISTING, VoterState.UNRESOLVED):
            assert in_flight is not None


HOLDING = [VoterState.READY, VoterState.PERSISTING, VoterState.UNRESOLVED]


@pytest.mark.parametrize("state", HOLDING, ids=pair_name)
def test_a_lost_fence_stops_the_voter_wherever_it_holds_one(state):
    voter = in_state(state)
    (halt,) = voter.handle(FenceLost(FENCE.revision + 1))
    assert (halt.reason, voter.state) == (HaltReason.LOST_FENCE, VoterState.STOPPED)
    assert voter.handle(StoreAnswered(COMMITTED)) == []


def test_a_commit_that_is_not_ours_stops_the_voter():
    voter = in_state(VoterState.PERSISTING)
    other = replace(FENCE, revision=FENCE.revision + 1)
    (halt,) = voter.handle(StoreAnswered(Committed(other, 11, b"record")))
    assert (halt.reason, voter.state) == (HaltReason.INTERNAL, VoterState.STOPPED)


def saved(*slots, root=None, pair=IDENTITY, counts=None, **changes) -> bytes:
    counts = counts or range(len(slots), 0, -1)
    lockouts = tuple(Lockout(slot, count) for slot, count in zip(slots, counts, strict=True))
    vote = LastVote(VoteKind.TOWER_SYNC, tuple(slots), lockouts, root, b"h" * 32, UNIX_S, bytes(32))
    tower = Tower(pair.pubkey, lockouts, root, vote, BlockTimestamp(slots[-1], UNIX_S), **changes)
    return encode_saved_tower(tower, pair)


def look(record, **config):
    voter = new_voter(**config)
    assert voter.handle(TakeOver()) == [Look()]
    return voter, voter.handle(Looked(sighting(record, 5 if record else 0)))


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (saved(1, 2)[:-1], "torn"),
        (saved(1, 2, pair=OTHER), "not signed by"),
        (saved(1, 2, threshold_size=2.0), "malformed tower"),
        (b"", "ends early"),
    ],
    ids=["torn", "foreign", "malformed", "empty"],
)
def test_an_unusable_tower_is_found_before_the_claim(record, text):
    voter, effects = look(record)
    assert [type(effect) for effect in effects] == [Halt]
    assert effects[0].reason is HaltReason.TOWER_UNUSABLE
    assert text in effects[0].text
    assert voter.fence is None


@pytest.mark.parametrize(
    ("own", "config", "text"),
    [
        (account(node=OTHER.pubkey), {}, "another identity"),
        (account(voter=OTHER.pubkey), {}, "not loaded"),
        (account(), {"authorized_voters": frozenset()}, "not loaded"),
        (account(), {"vote_account": OTHER.pubkey}, "does not exist"),
        (account(), {"require_tower": True}, "--require-tower"),
    ],
)
def test_what_would_keep_us_from_voting_is_found_before_the_claim(own, config, text):
    _, effects = look(None, forks=ForkChoice(bank(0, None, own)), **config)
    assert [(effect.reason, text in effect.text) for effect in effects] == [(HaltReason.REFUSED, True)]


def test_a_fit_tower_is_claimed_with_its_last_slot_and_loaded():
    record = saved(1, 2)
    voter, effects = look(record)
    assert effects == [Claim(sighting(record, 5), 2)]
    effects = voter.handle(StoreAnswered(Claimed(FENCE, 5, record)))
    assert effects == [Adopted(FENCE, 2, None)]
    assert voter.votes.votes == [(1, 2), (2, 1)]


def test_the_tower_that_the_claim_brings_back_counts_not_the_one_that_was_seen():
    voter, _ = look(saved(1, 2))
    voter.handle(StoreAnswered(Claimed(FENCE, 6, saved(1, 2, 3))))
    assert voter.last_voted_slot == 3


def test_a_tower_that_went_bad_between_look_and_claim_stops_the_voter():
    voter, _ = look(saved(1, 2))
    effects = voter.handle(StoreAnswered(Claimed(FENCE, 6, b"garbage")))
    assert [effect.reason for effect in effects] == [HaltReason.TOWER_UNUSABLE]


def test_a_tower_that_is_gone_after_the_claim_stops_the_voter():
    voter, _ = look(saved(1, 2))
    effects = voter.handle(StoreAnswered(Claimed(FENCE, 0, None)))
    assert [(effect.reason, "is gone from the store" in effect.text) for effect in effects] == [(HaltReason.INTERNAL, True)]


def test_a_malformed_tower_is_not_stored():
    """S5: what landed is taken as the cluster tells it, so what is made of it is looked at before it is written."""
    voter = ready()
    voter.forks.add(bank(40, 0))
    # No votes leave this stack: 40 lies behind the lockout of 0, which ends at 8.
    (halt,) = voter.handle(BankFrozen(bank(41, 40, account([(0, 3), (40, 2)])), UNIX_S))
    assert (halt.reason, "about to store a malformed tower" in halt.text) == (HaltReason.INTERNAL, True)


def test_a_lost_race_looks_again_and_gives_up_after_a_bound():
    voter, _ = look(None)
    for _ in range(CLAIM_ATTEMPTS_MAX - 1):
        assert voter.handle(StoreAnswered(REFUSED)) == [Look()]
        assert [type(effect) for effect in voter.handle(Looked(sighting()))] == [Claim]
    effects = voter.handle(StoreAnswered(Unknown("lost")))
    assert [effect.reason for effect in effects] == [HaltReason.STORE_FAILED]


def test_without_a_tower_one_that_voted_is_rebuilt_and_waits():
    own = account([(40, 2), (41, 1)], root=9)
    forks = ForkChoice(bank(50, None, own))
    voter, _ = look(None, forks=forks, rebuild_wait_slots=3)
    effects = voter.handle(StoreAnswered(Claimed(FENCE, 0, None)))
    assert effects == [Adopted(FENCE, 41, 53)]
    assert (voter.votes.votes, voter.votes.root) == ([(40, 2), (41, 1)], 9)
    for slot in (51, 52):
        assert voter.handle(BankFrozen(bank(slot, slot - 1, own), UNIX_S)) == []
        assert [check.name for check in voter.decision.refusals if check.name == "waited"] == ["waited"]


def test_a_stored_tower_older_than_what_landed_is_not_trusted_alone():
    """A store restored from a backup: what landed since is adopted, what was sent and never landed has to be waited out."""
    own = account([(1, 3), (2, 2), (3, 1)], 0)
    voter, _ = look(saved(1, 2, root=0), forks=ForkChoice(bank(50, None, own)), rebuild_wait_slots=3)
    effects = voter.handle(StoreAnswered(Claimed(FENCE, 5, saved(1, 2, root=0))))
    assert effects == [Adopted(FENCE, 3, 53)]
    assert (voter.votes.votes, voter.votes.root) == ([(1, 3), (2, 2), (3, 1)], 0)
    assert voter.handle(BankFrozen(bank(52, 50, own), UNIX_S)) == []
    assert "waited" in {check.name for check in voter.decision.refusals}


def test_without_a_tower_one_that_never_voted_starts_at_once():
    voter, _ = look(None)
    effects = voter.handle(StoreAnswered(Claimed(FENCE, 0, None)))
    assert [type(effect) for effect in effects] == [Adopted, Persist]


def test_a_vote_says_what_it_should():
    voter = ready()
    (persist,) = voter.handle(freeze(1))
    vote = persist.vote
    assert (persist.fence, persist.expected_revision) == (FENCE, 11)
    assert (vote.slot, vote.bank_hash, vote.state.votes) == (1, bank(1, 0).bank_hash, [(0, 2), (1, 1)])
    assert (vote.timestamp, vote.last_timestamp) == (UNIX_S + 1, BlockTimestamp(1, UNIX_S + 1))
    assert (vote.voter, vote.switch_proof) == (IDENTITY.pubkey, None)


def test_a_clock_that_goes_back_gives_a_vote_without_timestamp():
    voter = ready()
    (persist,) = voter.handle(freeze(1))
    voter.handle(StoreAnswered(Committed(FENCE, 12, b"")))
    (later,) = voter.handle(BankFrozen(bank(2, 1), UNIX_S - 50))
    assert (later.vote.timestamp, later.vote.last_timestamp) == (None, persist.vote.last_timestamp)


def test_before_the_first_bank_there_is_no_clock_and_no_timestamp():
    """A tower that was never stored remembers none either: the vote must not say 1970."""
    voter, _ = look(None)
    _, persist = voter.handle(StoreAnswered(Claimed(FENCE, 0, None)))
    assert (persist.vote.timestamp, persist.vote.last_timestamp) == (None, BlockTimestamp(0, 0))


def test_banks_that_freeze_while_a_write_is_under_way_wait_and_then_the_best_is_voted():
    voter = ready()
    (first,) = voter.handle(freeze(1))
    for slot in (2, 3):
        assert voter.handle(freeze(slot)) == []
    assert voter.handle(StoreAnswered(Unknown("lost"))) == [Settle()]
    assert voter.handle(freeze(4)) == []
    release, persist = voter.handle(StoreAnswered(Committed(FENCE, 12, b"")))
    assert release.vote is first.vote
    assert (persist.vote.slot, persist.expected_revision) == (4, 12)


def test_roots_prune_the_tree():
    voter = ready()
    revision = 20
    for slot in range(1, 40):
        effects = voter.handle(freeze(slot))
        assert [type(effect) for effect in effects] == [Persist]
        revision += 1
        voter.handle(StoreAnswered(Committed(FENCE, revision, b"")))
    assert voter.votes.root == voter.forks.root == 8
    assert len(voter.forks) == 32


def test_a_fork_is_only_left_after_its_lockout_and_with_a_switch_proof():
    voter = ready()
    (persist,) = voter.handle(BankFrozen(bank(1, 0, fork="a"), UNIX_S))
    voter.handle(StoreAnswered(Committed(FENCE, 12, b"")))
    # The other fork, with all of the peer's stake on it: heavier at once, but 1 binds us until 3.
    assert voter.handle(BankFrozen(bank(2, 0, fork="b"), UNIX_S)) == []
    other = [(2, 2), (3, 1)]
    assert voter.handle(BankFrozen(bank(3, 2, peer=[(2, 1)], fork="b"), UNIX_S)) == []
    refusals = {check.name for check in voter.decision.refusals}
    assert refusals == {"lockout"}
    assert voter.decision.reset_slot == 3  # the proof is there: we would build on it, and only may not vote yet
    (persist,) = voter.handle(BankFrozen(bank(4, 3, peer=other, fork="b"), UNIX_S))
    assert (persist.vote.slot, persist.vote.switch_proof) == (4, bytes(32))
    assert persist.vote.state.votes == [(0, 2), (4, 1)]


def test_a_fork_is_not_left_without_a_switch_proof():
    voter = ready()
    voter.handle(BankFrozen(bank(5, 0, fork="a"), UNIX_S))
    voter.handle(StoreAnswered(Committed(FENCE, 12, b"")))
    assert voter.last_voted_slot == 5
    # As heavy as ours and with a smaller slot, so the fork choice prefers it; 5 binds until 7 only. Nobody voted on it.
    voter.handle(BankFrozen(bank(4, 0, fork="b"), UNIX_S))
    assert voter.handle(BankFrozen(bank(20, 4, fork="b"), UNIX_S)) == []
    (refusal,) = voter.decision.refusals
    assert (voter.decision.slot, refusal.name, refusal.observed, refusal.required) == (20, "switch", 0.0, 0.38)
    assert voter.decision.reset_slot == 5
    (persist,) = voter.handle(BankFrozen(bank(21, 20, peer=[(4, 5)], fork="b"), UNIX_S))
    assert (persist.vote.slot, persist.vote.switch_proof) == (21, bytes(32))


def test_votes_of_ours_that_landed_bind_us_though_the_tower_did_not_know_them():
    voter = ready()
    voter.handle(BankFrozen(bank(1, 0, account([(0, 3), (1, 2)], None)), UNIX_S))
    assert voter.decision.vote is None
    assert voter.votes.votes == [(0, 3), (1, 2)]


def test_a_deep_vote_that_nobody_followed_is_refused_by_the_threshold():
    voter = ready()
    revision = 20
    for slot in range(1, 8):  # the peer votes nothing
        assert [type(effect) for effect in voter.handle(BankFrozen(bank(slot, slot - 1), UNIX_S))] == [Persist]
        revision += 1
        voter.handle(StoreAnswered(Committed(FENCE, revision, b"")))
    assert voter.handle(BankFrozen(bank(8, 7), UNIX_S)) == []
    (refusal,) = voter.decision.refusals
    assert (refusal.name, refusal.required) == ("threshold at depth 8", 2 / 3)
    assert [warning.name for warning in voter.decision.warnings] == ["threshold at depth 4", "threshold at depth 5"]
    assert voter.handle(BankFrozen(bank(9, 8, peer=peer_votes(8)), UNIX_S)) != []


def test_a_removed_voter_key_stops_voting_and_not_the_voter():
    voter = ready()
    voter.config = new_voter(authorized_voters=frozenset()).config
    assert voter.handle(freeze(1)) == []
    assert [check.name for check in voter.decision.refusals] == ["can-sign"]


def test_an_echo_of_an_older_claim_is_no_loss():
    voter = ready()
    assert voter.handle(FenceLost(FENCE.revision)) == []
    (halt,) = voter.handle(FenceLost(FENCE.revision + 1))
    assert halt.reason is HaltReason.LOST_FENCE


def after_long(last_slot: int, rooted: set[int]) -> tuple[Voter, list]:
    """A take-over with a tower whose votes the tree (which begins at 1000) does not reach, and the ledger's history."""
    voter = new_voter(ForkChoice(bank(1000, None, account([(990, 2)], 1))))
    voter.handle(TakeOver(LedgerView(1000, SlotHistory.of({0, 1000, *rooted}, 1000))))
    record = saved(1, 2, last_slot, root=0, counts=(12, 11, 1))
    voter.handle(Looked(sighting(record, 5)))
    return voter, voter.handle(StoreAnswered(Claimed(FENCE, 5, record)))


def test_an_old_tower_is_brought_in_line_with_the_ledger():
    voter, effects = after_long(900, rooted={1, 2, 900})
    assert effects == [Adopted(FENCE, None, None)]  # all of it is rooted: nothing binds any more
    assert (voter.votes.votes, voter.votes.root) == ([], 1000)
    (persist,) = voter.handle(BankFrozen(bank(1001, 1000), UNIX_S))
    assert persist.vote.state.votes == [(1001, 1)]


def test_votes_of_an_old_tower_on_a_lost_fork_still_bind():
    voter, effects = after_long(999, rooted={1, 2})
    assert effects == [Adopted(FENCE, 999, None)]
    assert (voter.votes.votes, voter.votes.root) == ([(999, 1)], 2)
    assert voter.handle(BankFrozen(bank(1001, 1000), UNIX_S)) == []
    assert {check.name for check in voter.decision.refusals} == {"switch", "lockout"}  # 999 binds until 1001
    (persist,) = voter.handle(BankFrozen(bank(1002, 1001, peer=[(1001, 1)]), UNIX_S))
    assert (persist.vote.state.votes, persist.vote.switch_proof) == ([(1002, 1)], bytes(32))


def test_votes_that_are_only_ahead_of_our_banks_need_no_adjusting():
    """A hand-over to a spare that has not seen the owner's newest bank yet: the tower is taken as it is."""
    voter = new_voter(ForkChoice(bank(1000, None), rooted=[998, 999]))
    voter.handle(TakeOver(LedgerView(990, SlotHistory.of({990}, 990))))
    record = saved(999, 1000, 1001)
    voter.handle(Looked(sighting(record, 5)))
    assert voter.handle(StoreAnswered(Claimed(FENCE, 5, record))) == [Adopted(FENCE, 1001, None)]
    assert voter.votes.votes == [(999, 3), (1000, 2), (1001, 1)]
    assert voter.handle(BankFrozen(bank(1001, 1000), UNIX_S)) == []
    (persist,) = voter.handle(BankFrozen(bank(1002, 1001), UNIX_S))
    assert persist.vote.state.votes == [(999, 4), (1000, 3), (1001, 2), (1002, 1)]


def test_a_tower_that_cannot_be_of_this_ledger_is_refused_before_the_claim():
    voter = new_voter(ForkChoice(bank(1000, None)))
    voter.handle(TakeOver(LedgerView(1000, SlotHistory.of({2, 1000}, 1000))))
    (halt,) = voter.handle(Looked(sighting(saved(1, 2, root=0), 5)))
    assert (halt.reason, "not in the ledger" in halt.text) == (HaltReason.TOWER_UNUSABLE, True)


def test_a_tower_too_old_for_the_history_is_rebuilt_and_waits_or_refused():
    newest = HISTORY_SLOTS + 5_000
    for require_tower in (False, True):
        own = account([(newest - 10, 1)], newest - 20)
        voter = new_voter(ForkChoice(bank(newest, None, own)), require_tower=require_tower)
        voter.handle(TakeOver(LedgerView(newest, SlotHistory.of({newest}, newest))))
        (effect,) = voter.handle(Looked(sighting(saved(1, 2), 5)))
        if require_tower:
            assert (effect.reason, "--require-tower" in effect.text) == (HaltReason.TOWER_UNUSABLE, True)
            continue
        assert isinstance(effect, Claim)
        effects = voter.handle(StoreAnswered(Claimed(FENCE, 5, saved(1, 2))))
        assert effects == [Adopted(FENCE, newest - 10, newest + 200)]
        assert voter.votes.votes == [(newest - 10, 1)]


@pytest.mark.parametrize("record", [None, saved(1, 2)], ids=["no tower", "a tower too old to be placed"])
def test_an_account_that_holds_nothing_but_a_root_has_voted_all_the_same(record):
    """What landed is rooted and says nothing of what was sent since: it has to be waited out."""
    newest = HISTORY_SLOTS + 5_000
    voter = new_voter(ForkChoice(bank(newest, None, account([], newest - 20))))
    voter.handle(TakeOver(LedgerView(newest, SlotHistory.of({newest}, newest))))
    revision = 5 if record else 0
    (effect,) = voter.handle(Looked(sighting(record, revision)))
    assert isinstance(effect, Claim)
    assert voter.handle(StoreAnswered(Claimed(FENCE, revision, record))) == [Adopted(FENCE, None, newest + 200)]
    assert "waited" in {check.name for check in voter.decision.refusals}


def test_a_tower_of_the_future_suspends_voting_until_its_last_vote():
    voter = new_voter(ForkChoice(bank(1000, None)))
    voter.handle(TakeOver(LedgerView(1000, SlotHistory.of({1000}, 1000))))
    record = saved(1010, 1011, root=1005)
    voter.handle(Looked(sighting(record, 5)))
    voter.handle(StoreAnswered(Claimed(FENCE, 5, record)))
    assert (voter.votes.root, voter.decision.vote) == (1005, None)
    assert "suspended" in " ".join(check.reason for check in voter.decision.refusals)


def stuck_at_one() -> Voter:
    """A voter that voted 0 and 1, of which only 0 landed. 1 is its own block, and nobody has seen it: no newer vote."""
    voter = ready()
    first = BankFrozen(bank(1, 0, account([(0, 1)]), leader=IDENTITY.pubkey), UNIX_S + 1)
    assert [type(effect) for effect in voter.handle(first)] == [Persist]
    voter.handle(StoreAnswered(Committed(FENCE, 20, b"")))
    return voter


def later(slot: int, seconds: int = 0, own=None) -> BankFrozen:
    return BankFrozen(bank(slot, slot - 1, own or account([(0, 1)])), UNIX_S + (seconds or slot))


def test_a_vote_that_does_not_land_is_sent_again_as_it_was():
    voter = stuck_at_one()
    cast = voter.votes
    again = 1 + REFRESH_VOTE_BLOCKHEIGHT
    for slot in range(2, again):
        assert voter.handle(later(slot)) == []
        assert {check.name for check in voter.decision.refusals} == {"propagation"}
    (persist,) = voter.handle(later(again))
    vote = persist.vote
    assert (vote.slot, vote.state, vote.bank_hash, vote.switch_proof) == (1, cast, bank(1, 0).bank_hash, None)
    assert (vote.timestamp, vote.last_timestamp) == (UNIX_S + 2, BlockTimestamp(1, UNIX_S + 2))
    assert vote.blockhash == bank(again, 0).last_blockhash
    assert persist.expected_revision == 20  # through the same door: fenced, and stored before it is sent
    (release,) = voter.handle(StoreAnswered(Committed(FENCE, 99, b"")))
    assert release.vote is vote
    assert voter.votes == cast
    # and not again before it is old again
    for slot in range(again + 1, again + REFRESH_VOTE_BLOCKHEIGHT):
        assert voter.handle(later(slot)) == []
    assert [type(effect) for effect in voter.handle(later(again + REFRESH_VOTE_BLOCKHEIGHT))] == [Persist]


def test_a_refresh_waits_for_its_seconds_and_never_follows_a_landing():
    voter = stuck_at_one()
    for slot in range(2, 40):
        assert voter.handle(later(slot, seconds=MAX_VOTE_REFRESH_INTERVAL_S)) == []
    assert voter.handle(later(40, own=account([(0, 2), (1, 1)]))) == []


def test_a_refresh_is_refused_without_the_fence():
    voter = stuck_at_one()
    for slot in range(2, 2 + REFRESH_VOTE_BLOCKHEIGHT):
        voter.handle(later(slot))
    assert voter.state is VoterState.PERSISTING
    (halt,) = voter.handle(StoreAnswered(REFUSED))
    assert halt.reason is HaltReason.LOST_FENCE


def test_far_from_the_root_blocks_are_vote_only():
    voter = ready()
    voter.handle(BankFrozen(bank(400, 0), UNIX_S))
    assert not voter.decision.vote_only
    voter.handle(StoreAnswered(Committed(FENCE, 30, b"")))
    voter.handle(BankFrozen(bank(401, 400), UNIX_S))
    assert voter.decision.vote_only


def test_where_the_last_vote_can_no_longer_land_the_own_fork_is_voted_on():
    """Our fork is the lighter one, we may not leave it, and our last vote is too old to land: vote on, on our own fork."""
    landed = account([(0, 1)])
    lighter = {"fork": "ours", "peer_stake": 20}
    forks = ForkChoice(bank(0, None, landed, peer_stake=20))
    voter = new_voter(forks)
    voter.handle(TakeOver())
    record = saved(0, 1)
    voter.handle(Looked(sighting(record, 5)))
    forks.add(bank(1, 0, landed, **lighter))
    voter.handle(StoreAnswered(Claimed(FENCE, 5, record)))
    assert (voter.state, voter.last_voted_slot) == (VoterState.READY, 1)
    voter._unix_s = UNIX_S  # too early for a refresh
    voter._last_cast = None
    forks.add(bank(2, 0, landed, peer=[], fork="theirs", peer_stake=20))
    parent = 1
    for slot in range(10, 11 + SLOT_HASHES_NAMED):
        forks.add(bank(slot, parent, landed, **lighter))
        parent = slot
    # a third of the stake votes on the other fork: heavier than ours (nothing of ours lands), too little to switch
    theirs = bank(900, 2, landed, fork="theirs", peer_stake=20)
    votes = {**theirs.votes, b"third": account([(2, 12)])}
    forks.add(replace(theirs, votes=votes, stakes={**theirs.stakes, b"third": 10}))
    assert forks.best().slot == 900
    (persist,) = voter.handle(BankFrozen(bank(parent + 1, parent, landed, **lighter), UNIX_S))
    assert (persist.vote.slot, persist.vote.switch_proof) == (parent + 1, None)
