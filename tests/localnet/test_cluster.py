"""Banks, forks and votes: what lands where, on the real vote program, without a clock."""

from __future__ import annotations

import random

import pytest

from tests.localnet.support import OUR_ACCOUNT, OURS, cluster, hash_of, our_vote, vote
from tower.keys import Keypair
from tower.localnet import tree as tree_module
from tower.localnet.bank import Bank
from tower.localnet.cluster import Cluster
from tower.localnet.forks import MAJORITY, MINORITY
from tower.localnet.genesis import LocalnetConfig
from tower.localnet.intake import read_transaction
from tower.localnet.tree import BANKS_BEHIND_ROOT
from tower.localnet.voters import add_voters
from tower.types import FrozenBank

FORKED = LocalnetConfig(fork_every=10, fork_length=6, voters=3)


def steps(cluster: Cluster, to: int) -> None:
    while cluster.slot < to:
        cluster.step()


def last_voted(bank: Bank) -> int | None:
    return bank.votes[OUR_ACCOUNT].last_voted_slot


def test_a_child_names_its_parents_hash() -> None:
    made = cluster()
    steps(made, 600)
    bank = made.tree[600]
    assert [slot for slot, _ in bank.slot_hashes] == list(range(599, 599 - 512, -1))
    assert all(bytes(named) == made.tree[slot].hash for slot, named in bank.slot_hashes)
    assert len({made.tree[slot].hash for slot in range(1, 601)}) == 600


def test_a_vote_lands_through_the_real_vote_program_and_counts_once() -> None:
    made = cluster()
    steps(made, 3)
    raw = our_vote(made, 2)
    assert made.submit(raw, "127.0.0.2").problem is None
    made.submit(raw, "127.0.0.3")
    bank = made.step()
    assert last_voted(bank) == 2
    assert last_voted(made.tree[3]) is None
    assert bank.hash != made.tree[3].hash
    steps(made, 6)
    made.submit(raw, "127.0.0.2")
    made.step()
    assert made.counts["landed"] == 1
    assert made.counts["dropped_repeated"] == 2
    log = list(made.judge.arrivals(OUR_ACCOUNT))
    assert [(arrival.source, arrival.last_slot) for arrival in log] == [
        ("127.0.0.2", 2),
        ("127.0.0.3", 2),
        ("127.0.0.2", 2),
    ]
    assert log[0].landed == 4


def test_a_blockhash_lives_150_banks() -> None:
    made = cluster()
    steps(made, 2)
    young, old = made.tree[2], made.tree[1]
    steps(made, 151)
    made.submit(vote([(150, 1)], made.tree[150].hash, old.blockhash), "a")
    made.submit(vote([(149, 1)], made.tree[149].hash, young.blockhash), "a")
    bank = made.step()
    assert made.counts["dropped_blockhash"] == 1
    assert last_voted(bank) == 149


def test_the_vote_programs_refusals_are_kept_with_the_transaction() -> None:
    made = cluster()
    steps(made, 3)
    wrong = vote([(2, 1)], hash_of("wrong"), made.tree[2].blockhash)
    stranger = vote([(2, 1)], made.tree[2].hash, made.tree[2].blockhash, identity=Keypair.generate())
    made.submit(wrong, "a")
    made.submit(stranger, "a")
    bank = made.step()
    errors = {signature: executed.error for signature, executed in bank.executed.items()}
    assert errors[read_transaction(wrong).signature] == {"InstructionError": [0, {"Custom": 2}]}  # SlotHashMismatch
    assert errors[read_transaction(stranger).signature] == "AccountNotFound"
    assert last_voted(bank) is None
    assert made.counts["unauthorized"] == 1, "the judge must not take a stranger's vote for ours"
    assert len(list(made.judge.arrivals(OUR_ACCOUNT))) == 1, "a vote that fails is judged all the same"


def test_another_authorized_voter() -> None:
    voter = Keypair.generate()
    made = cluster(authorized_voter=voter.pubkey)
    steps(made, 3)
    bank = made.tree[2]
    made.submit(vote([(2, 1)], bank.hash, bank.blockhash), "not authorized")
    made.submit(vote([(2, 1)], bank.hash, bank.blockhash, voter=voter), "authorized")
    assert last_voted(made.step()) == 2
    assert [arrival.source for arrival in made.judge.arrivals(OUR_ACCOUNT)] == ["authorized"]


def test_each_side_has_its_own_banks_and_vote_accounts_until_it_heals() -> None:
    made = cluster(FORKED)
    steps(made, 15)
    cut = made.partition
    assert cut is not None
    sides = {side: [slot for slot in range(10, 16) if cut.side_of_slot(slot) == side] for side in (MAJORITY, MINORITY)}
    for side in (MAJORITY, MINORITY):
        banks = [made.tree[slot] for slot in sides[side]]
        assert [bank.parent_slot for bank in banks] == [9, *sides[side][:-1]]
        assert not made.views[side].slots & set(sides[1 - side])
    assert made.rpc_view is made.views[MAJORITY]
    made.step()
    assert made.partition is None
    for view in made.views:
        assert view.slots >= set(range(10, 17))


def test_one_vote_is_accepted_on_both_forks_separately() -> None:
    made = cluster(FORKED)
    steps(made, 9)
    common = made.tree[9]
    raw = vote([(9, 1)], common.hash, common.blockhash)
    intake = read_transaction(raw)
    made.enqueue(intake)  # the RPC's side: the majority
    made._pending[MINORITY].append(intake)
    steps(made, 13)  # two banks on each side
    assert made.counts["landed"] == 2
    assert made.counts["dropped_repeated"] == 0
    both = [made.views[side].tip for side in (MAJORITY, MINORITY)]
    assert [last_voted(bank) for bank in both] == [9, 9]
    # From here they part: a vote for a bank of the majority changes the majority's account only.
    own = made.tree[both[MAJORITY].parent_slot or 0]
    made.submit(vote([(9, 2), (own.slot, 1)], own.hash, own.blockhash), "a")
    steps(made, 15)
    assert last_voted(made.views[MAJORITY].tip) == own.slot
    assert last_voted(made.views[MINORITY].tip) == 9
    assert [last_voted(bank) for bank in both] == [9, 9], "a frozen bank changed"


def test_votes_reach_only_banks_of_their_side() -> None:
    config = LocalnetConfig(fork_every=10, fork_length=6, voters=3, rpc_on_minority=True, stake_share=0.1)
    made = cluster(config)
    steps(made, 9)
    made.open_slot(10)
    cut = made.partition
    assert cut is not None
    assert made.rpc_view is made.views[MINORITY]
    common = made.tree[9]
    made.submit(vote([(9, 1)], common.hash, common.blockhash), "a")
    made.freeze()
    steps(made, 15)
    assert last_voted(made.views[MINORITY].tip) == 9
    assert last_voted(made.views[MAJORITY].tip) is None


class Heard:
    """A listener that writes down what the RPC side sees."""

    def __init__(self) -> None:
        self.frozen: list[int] = []
        self.slots: list[int] = []
        self.roots: list[int] = []

    def on_slot(self, bank: Bank, root: int) -> None:
        self.slots.append(bank.slot)

    def on_frozen(self, bank: Bank) -> None:
        self.frozen.append(bank.slot)

    def on_commitment(self, confirmed: int, root: int) -> None:
        assert confirmed >= root

    def on_root(self, slot: int) -> None:
        self.roots.append(slot)


@pytest.mark.parametrize("rpc_on_minority", [False, True])
def test_everybody_hears_of_every_bank_once_and_of_parents_first(rng: random.Random, rpc_on_minority: bool) -> None:
    seed = rng.randrange(1 << 32)
    config = LocalnetConfig(fork_every=12, fork_length=6, voters=5, seed=seed, rpc_on_minority=rpc_on_minority)
    made = cluster(config)
    heard = Heard()
    made.listeners.append(heard)
    told: dict[bytes, list[FrozenBank]] = {member.vote_account: [] for member in made.genesis.participants}
    for account, banks in told.items():
        made.add_voter(account, banks.append)
    while made.slot < 120:
        made.open_slot(made.slot + rng.choice((1, 1, 1, 2, 9)))  # a slow machine skips slots
        made.freeze()
    while made.partition is not None:
        made.step()
    known = sorted(set(range(made.slot + 1)) & made.views[MAJORITY].slots)
    assert sorted(heard.frozen) == known[1:]
    assert sorted(heard.slots) == known[1:]
    has_child = {made.tree[slot].parent_slot for slot in known}
    for named in told.values():
        slots = [bank.slot for bank in named]
        assert sorted(slots) == [slot for slot in known if slot in has_child]
        seen: set[int] = set()
        for bank in named:
            assert bank.parent_slot is None or bank.parent_slot in seen
            assert bank.bank_hash == made.tree[bank.slot].hash
            seen.add(bank.slot)


def test_the_real_core_votes_through_forks_roots_and_never_conflicts(rng: random.Random) -> None:
    seed = rng.randrange(1 << 32)
    print(f"cluster seed {seed}")
    config = LocalnetConfig(fork_every=20, fork_length=6, voters=5, seed=seed)
    made = cluster(config)
    heard = Heard()
    made.listeners.append(heard)
    voters = add_voters(made)
    side_votes = 0
    while made.slot < 190:
        bank = made.step()
        side_votes += bank.side == MINORITY and len(bank.executed)
    assert side_votes > 0, "the minority never voted on its own branch"
    assert made.judge.conflicts_total == 0
    view = made.rpc_view
    assert view.root >= 190 - 32 - 12
    assert view.root <= view.confirmed <= view.best
    assert view.confirmed >= 190 - 4
    assert heard.roots == [slot for slot in made.rooted if slot]
    assert heard.roots == [slot for slot in view.chain() if 0 < slot <= view.root]
    for voter in voters:
        assert (voter.voter.last_voted_slot or 0) >= 188
    # No fork below the root is kept.
    assert all(slot in set(view.chain()) for slot in range(1, view.root) if slot in made.tree)


def test_banks_are_forgotten_behind_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, "UNROOTED_MAX", 100)
    made = cluster()
    raw = b""
    for _ in range(900):
        bank = made.step()
        if bank.slot == 50:
            raw = our_vote(made, 49)
            made.submit(raw, "a")
    assert len(made.tree) <= BANKS_BEHIND_ROOT + 102
    assert made.rpc_view.root >= 800
    assert 51 not in made.tree
    assert made.where(read_transaction(raw).signature) is None
    assert not made._signatures


def test_what_is_no_vote_disturbs_nothing(rng: random.Random) -> None:
    made = cluster()
    steps(made, 3)
    good = our_vote(made, 2)
    for _ in range(300):
        torn = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            torn[rng.randrange(len(torn))] = rng.randrange(256)
        assert made.submit(bytes(torn), "x").signature != OURS.pubkey
        made.submit(rng.randbytes(rng.randrange(0, 1500)), "x")
        made.submit(good[: rng.randrange(len(good))], "x")
        made.submit(good + rng.randbytes(3), "x")
    made.submit(good, "127.0.0.2")
    bank = made.step()
    assert last_voted(bank) == 2
    assert made.counts["invalid_signature"] > 0
    assert made.counts["undecodable"] > 300
    assert {arrival.source for arrival in made.judge.arrivals(OUR_ACCOUNT)} <= {"127.0.0.2", "x"}
    assert made.judge.conflicts_total == 0
