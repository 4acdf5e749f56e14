"""Partitions that were asked for: who is where, who is silent, and that the cluster finds together again."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from tests.localnet.served import QUIET, cli
from tests.localnet.support import OUR_ACCOUNT, OURS, cluster, genesis, hash_of, our_vote, vote
from tower.errors import InvalidInput
from tower.localnet.cluster import Cluster, Timekeeper
from tower.localnet.forks import MAJORITY, MINORITY, PartitionPlan, PartitionRequest
from tower.localnet.genesis import LocalnetConfig
from tower.localnet.server import Localnet
from tower.localnet.voters import LocalVoter, add_voters
from tower.types import Lockout

TEN = {hash_of(n): 10 for n in range(10)}


def plan(*texts: str, seed: int = 1, others: dict[bytes, int] = TEN, every: int = 0) -> PartitionPlan:
    requests = [PartitionRequest.parse(text) for text in texts]
    return PartitionPlan(seed, every, 6 if every else 0, others, OUR_ACCOUNT, 1, False, requests)


# ---- what is asked for


BAD = "1:2,1:2:3:4:5,,x:2:3,50:12:40:,50:12:nan,0:12:40,-3:12:40,50:1:40,50:12:0,50:12:60:40,50:12:-1:5,50:12:100"


@pytest.mark.parametrize("text", [*BAD.split(","), f"{1 << 40}:12:40"])
def test_what_cannot_be_asked_for_names_the_flag(text: str) -> None:
    with pytest.raises(InvalidInput, match="--partition") as caught:
        PartitionRequest.parse(text)
    assert "\n" not in str(caught.value)


def test_requests_that_do_not_fit_are_refused() -> None:
    for texts, fix in (
        (["50:12:40", "61:5:30"], "start the second at 62"),
        (["50:12:40", "+70:5:30"], "with \\+ for all, or for none"),
    ):
        with pytest.raises(InvalidInput, match=fix):
            plan(*texts)
    with pytest.raises(InvalidInput, match=r"3 other voters reach 32\.\d %, not 40 %; give more --voters"):
        plan("50:12:40", others={hash_of(n): 10 for n in range(3)})
    with pytest.raises(InvalidInput, match=r"--voters"):
        plan("50:12:60:39", others={hash_of(n): 10 for n in range(2)})
    with pytest.raises(InvalidInput, match="--rpc-on-minority"):
        LocalnetConfig(rpc_on_minority=True, partitions=(PartitionRequest(50, 12, 40),))


def test_the_command_line_refuses_in_one_line(tmp_path: Path) -> None:
    for asked in (["--partition", "50:12"], ["--voters", "3", "--partition", "50:12:40"]):
        done = cli("run", "--dir", str(tmp_path / "net"), "--rpc-port", "0", *asked)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.startswith("error: --partition 50:12")


# ---- who is where


def test_shares_are_met_and_the_order_is_one(rng: random.Random) -> None:
    seed = rng.randrange(1 << 32)
    for other, silent in ((40, 30), (30, 50), (0, 40), (20, 0)):
        made = plan(f"50:9:{other}:{silent}", f"70:9:0:{silent or 10}", seed=seed)
        cut, later = made.at(50), made.at(70)
        assert cut is not None
        assert later is not None
        assert (made.at(49), made.at(59), made.at(58)) == (None, None, cut)
        assert (len(cut.minority), len(cut.silent)) == (other // 10, silent // 10)
        assert not cut.minority & cut.silent
        assert OUR_ACCOUNT not in cut.minority | cut.silent
        assert (cut.other_share, cut.silent_share) == (other / 101, silent / 101)
        assert later.silent == cut.silent or not silent, "the same percentage must name the same voters"
        sides = [cut.side_of_slot(slot) for slot in range(50, 59)]
        assert sides in ([0, 1] * 4 + [0], [1, 0] * 4 + [1]) if other else set(sides) == {MAJORITY}
        assert plan(f"50:9:{other}:{silent}", f"70:9:0:{silent or 10}", seed=seed).at(50) == cut
    assert len({plan("50:9:40:30", seed=seed + n).at(50).minority for n in range(20)}) > 10  # type: ignore[union-attr]


def test_random_partitions_give_way() -> None:
    made = plan("83:10:40", every=40)
    assert [slot for slot in range(40, 140) if made.at(slot)] == [*range(40, 46), *range(83, 93), *range(120, 126)]


def test_a_relative_start_counts_from_our_first_vote() -> None:
    made = plan("+5:4:40", "+9:3:0:20")
    assert not any(made.at(slot) for slot in range(200))
    made.our_first_vote(100)
    made.our_first_vote(150)
    assert [slot for slot in range(200) if made.at(slot)] == list(range(105, 112))
    config = LocalnetConfig(fork_every=0, voters=10, partitions=(PartitionRequest.parse("+3:4:40"),))
    running = cluster(config)
    for _ in range(9):
        running.step()
    assert running.partition is None
    running.submit(our_vote(running, 8), "127.0.0.2")  # while slot 9 is the newest
    cut = [slot for slot in range(10, 20) if running.step() and running.partition is not None]
    assert cut == [12, 13, 14, 15]
    assert running.judge.ancestry.is_ancestor(12, 13) is False, "the sides did not build on their own tips"


# ---- the cluster with all its voters and ours, without a clock


def alive(seed: int, *texts: str) -> tuple[Cluster, LocalVoter]:
    """A cluster of ten equal voters and ours, at slot 0."""
    config = LocalnetConfig(fork_every=0, voters=10, seed=seed, partitions=tuple(map(PartitionRequest.parse, texts)))
    made, steps = genesis(config), count()
    running = Cluster(made, config, Timekeeper(lambda: next(steps), lambda: 1_700_000_000_000 + next(steps)))
    add_voters(running)
    ours = LocalVoter(running, replace(made.ours, voter=OURS), running.tree[0].for_voter())
    running.add_voter(OUR_ACCOUNT, ours.on_bank)
    return running, ours


def go_to(running: Cluster, slot: int) -> None:
    while running.slot < slot:
        running.step()


def sent(running: Cluster, account: bytes = OUR_ACCOUNT) -> list[int]:
    return [arrival.last_slot for arrival in running.judge.arrivals(account)]


def refusing(voter: LocalVoter) -> list[str]:
    return [check.name for check in voter.voter.decision.refusals] if voter.voter.decision else []


def found_together(running: Cluster, since: int) -> None:
    """Everybody votes for the newest bank with a known hash, what came after `since` is rooted, all was accepted."""
    assert running.views[MAJORITY].root > since
    assert running.judge.conflicts_total == 0
    assert running.counts["failed"] == 0
    newest = {state.last_voted_slot for state in running.rpc_view.tip.votes.values()}
    assert newest == {running.slot - 2}


def test_votes_that_landed_nowhere_when_the_cut_heals_still_decide(rng: random.Random) -> None:
    """Most have voted for a fork, and the cut heals before a block of it holds their votes: the other, older one weighs more.

    None of them may switch, and their votes cannot land there. Blocks go on where they are bound.
    """
    for seed in range(rng.randrange(1 << 30), 1 << 32):
        running, _ = alive(seed, "40:4:30")
        cut = running._plan.at(40)
        assert cut is not None
        if cut.first_side == MINORITY:
            break
    go_to(running, 44)
    assert running.partition is None
    most = [sent(running, account)[-1] for account in running._voters if account not in cut.minority]
    assert set(most) == {41}, "most have voted on their own side"
    go_to(running, 120)
    assert running.views[MAJORITY].on_chain(41)
    assert running.views[MAJORITY].root > 44
    assert running.judge.conflicts_total == 0
    assert {state.last_voted_slot for state in running.rpc_view.tip.votes.values()} == {running.slot - 2}


@pytest.mark.parametrize("named", ["the bank", "another hash"])
def test_a_vote_that_arrived_weighs_for_the_bank_that_it_names(named: str, rng: random.Random) -> None:
    for seed in range(rng.randrange(1 << 30), 1 << 32):
        config = LocalnetConfig(fork_every=0, voters=10, seed=seed, partitions=(PartitionRequest.parse("40:4:30"),))
        running = cluster(config)
        cut = running._plan.at(40)
        assert cut is not None
        if cut.first_side == MINORITY:
            break
    go_to(running, 43)
    voted = running.tree[41]
    bank_hash = voted.hash if named == "the bank" else hash_of("another")
    running.submit(vote([(41, 1)], bank_hash, running.tree[39].blockhash), "127.0.0.2")
    go_to(running, 44)
    # of two forks without a vote the one with the smaller slot is followed
    assert running.tree[44].parent_slot == (43 if named == "the bank" else 42)


def test_the_silent_vote_nowhere_and_come_back_to_the_heavier_fork(rng: random.Random) -> None:
    """30 % on the other side, 50 % silent, also after the healing: nobody switches before they are back, then all do."""
    running, ours = alive(rng.randrange(1 << 32), "40:14:30:50", "54:60:0:50")
    go_to(running, 113)
    assert running.partition is not None
    assert {max(sent(running, account)) for account in running.partition.silent} == {38}, "a silent voter voted"
    assert refusing(ours) == ["switch"]
    chain = set(running.rpc_view.chain())
    since = [slot for slot in sent(running) if slot >= 40]
    assert since, "it never voted on its own fork"
    assert not chain & set(since), "it left its fork without the right to"
    go_to(running, 190)
    assert min(slot for slot in sent(running) if slot > since[-1]) >= 113
    found_together(running, 113)


def test_forty_percent_on_the_other_side_are_enough_to_leave(rng: random.Random) -> None:
    running, ours = alive(rng.randrange(1 << 32), "40:14:40:30", "54:40:0:30")
    go_to(running, 55)
    lost = [slot for slot in sent(running) if slot >= 40]
    assert lost, "it never voted on its own fork"
    until = max(vote.last_locked_out_slot for vote in map(Lockout._make, ours.voter.votes.votes) if vote.slot in lost)
    go_to(running, 130)
    assert not set(lost) & set(running.rooted)
    left = min(slot for slot in sent(running) if slot > lost[-1])
    assert until < left < 94, "it left too early, or only when the silent were back"
    found_together(running, 94)


def test_threshold_and_recovery(rng: random.Random) -> None:
    """40 % are silent: nobody goes deeper than 8 votes that more than two thirds do not follow; then all go on."""
    running, ours = alive(rng.randrange(1 << 32), "40:60:0:40")
    refused: list[str] = []
    while running.slot < 99:
        running.step()
        refused += refusing(ours)
        for member in running.genesis.participants:
            deep = [vote for vote in running.rpc_view.tip.votes[member.vote_account].lockouts if vote.slot >= 40]
            assert len(deep) <= 8, f"{member.name} is {len(deep)} votes deep at slot {running.slot}"
    assert "threshold at depth 8" in refused
    go_to(running, 150)
    found_together(running, 99)


def test_the_log_says_what_was_reached() -> None:
    lines: list[str] = []
    config = replace(QUIET, voters=10, partitions=(PartitionRequest.parse("5:6:40:30"),))
    localnet = Localnet(genesis(config), config, log=lines.append)
    for _ in range(12):
        localnet._log_partition(localnet.cluster.step())
    assert "slot 5: cut until slot 11: other side 40.0 %, silent 30.0 %" in lines
    assert "slot 11: the cluster is whole again" in lines


def test_refused_votes_of_ours_are_counted() -> None:
    running = cluster()
    for _ in range(4):
        running.step()
    good = our_vote(running, 3)
    bad = our_vote(running, 3, [(2, 2), (3, 2)])  # confirmation counts must fall
    running.submit(bad, "127.0.0.2")
    running.submit(good, "127.0.0.2")
    running.step()
    assert (running.counts["failed"], running.counts["failed_ours"], running.counts["landed"]) == (1, 1, 1)
