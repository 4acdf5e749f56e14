"""Where the checks decide: cuts with chosen stakes, and towers that the ledger does not know, with the real processes.

In every one of them the judge sees no conflict, and the vote program refuses not one vote of anybody.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import World, run_world, until
from tests.support.scenarios import (
    TOWER_SYNC,
    TOWER_SYNC_SWITCH,
    assert_all_accepted,
    chain,
    cuts,
    instruction_tag,
    put_tower,
    stored_tower,
    towers_of,
    wait_cut,
    wait_refusal,
    with_stack,
)
from tower.lockout import TowerVoteState
from tower.validator.config import Exit

VOTERS = ("--fork-every", "0", "--voters", "10")  # a tenth of the stake each
SWITCH, LOCKOUT = "locked out on other forks than the last vote", "on another fork binds until"
THRESHOLD, DEPTH = "8 deep; more than 0.667 must", 8
SLOT_HASHES_NAMED = 512
AHEAD = 600  # slots: more than a start takes

pytestmark = pytest.mark.timeout(120)


def test_it_leaves_its_fork_where_40_percent_are_on_the_other(tmp_path: Path, seed: int) -> None:
    """30 % stay silent until long after: the 40 % alone let it go, and its lockouts hold it until then."""
    asked = ["--partition", "+14:14:40:30", "--partition", "+28:150:0:30"]
    with run_world(tmp_path, *VOTERS, *asked, seed=seed, slot_ms=100) as world:
        machine = world.validator().start().wait_running()
        cut, silence = wait_cut(world, 0), wait_cut(world, 1)
        assert (cut.other_percent, cut.silent_percent) == (pytest.approx(40, abs=1), pytest.approx(30, abs=1))
        until(lambda: world.votes()[-1]["last_slot"] >= silence.start, "it votes on the other fork", 40)
        machine.wait_vote(more_than=3)
        votes, known = world.votes(), chain(world)
        lost = [vote["last_slot"] for vote in votes if vote["last_slot"] not in known]
        assert lost, "it never voted on the fork that lost"
        first = next(number for number, vote in enumerate(votes) if vote["last_slot"] > lost[-1])
        switched = votes[first]
        assert switched["last_slot"] < silence.end, "the silent were needed"
        before = towers_of(votes)[first - 1]
        binding = max(slot + (1 << count) for slot, count in before.votes if slot in lost)
        assert binding < switched["last_slot"], "it left before its lockouts had expired"
        assert instruction_tag(world, switched) == TOWER_SYNC_SWITCH
        assert instruction_tag(world, votes[first + 1]) == TOWER_SYNC
        assert instruction_tag(world, votes[0]) == TOWER_SYNC
        assert_all_accepted(world)


def test_it_stays_where_30_percent_are_on_the_other_until_there_are_more(tmp_path: Path, seed: int) -> None:
    asked = ["--partition", "+14:14:30:50", "--partition", "+28:110:0:50"]
    with run_world(tmp_path, *VOTERS, *asked, seed=seed, slot_ms=100) as world:
        machine = world.validator().start().wait_running()
        cut, silence = wait_cut(world, 0), wait_cut(world, 1)
        assert (cut.other_percent, silence.silent_percent) == (pytest.approx(30, abs=1), pytest.approx(50, abs=1))
        said = wait_refusal(machine, lambda said: len(said) == 1 and SWITCH in said[0], "only the switch is refused")
        assert 0.25 < float(said[0].split(" ", 1)[0]) <= 0.38
        assert world.slot() < silence.end
        until(lambda: world.votes()[-1]["last_slot"] >= silence.end, "it votes on the other fork", 40)
        machine.wait_vote(more_than=3)
        votes, known = world.votes(), chain(world)
        lost = [vote["last_slot"] for vote in votes if vote["last_slot"] not in known]
        assert lost, "it never voted on the fork that lost"
        after = [vote for vote in votes if vote["last_slot"] > lost[0] and vote["last_slot"] in known]
        assert after[0]["last_slot"] >= silence.end, "it left while it had no right to"
        assert instruction_tag(world, after[0]) == TOWER_SYNC_SWITCH
        assert_all_accepted(world)


def test_it_goes_no_deeper_than_the_others_follow(tmp_path: Path, seed: int) -> None:
    """40 % are silent: nothing can be confirmed, so nobody may bind himself deeper. All go on when they come back."""
    with run_world(tmp_path, *VOTERS, "--partition", "+20:70:0:40", seed=seed, slot_ms=100) as world:
        machine = world.validator().start().wait_running()
        silence = wait_cut(world, 0)
        assert silence.silent_percent == pytest.approx(40, abs=1)
        said = wait_refusal(machine, lambda said: len(said) == 1 and THRESHOLD in said[0], "the threshold is not met")
        assert 0.55 < float(said[0].split(" ", 1)[0]) < 0.65
        assert world.slot() < silence.end
        until(lambda: (machine.status().get("rootSlot") or 0) >= silence.end, "its own root passes the silence", 60)
        until(lambda: world.report()["root"] >= silence.end, "the cluster's root passes the silence")
        votes = world.votes()
        for vote, tower in zip(votes, towers_of(votes), strict=True):
            if silence.start <= vote["last_slot"] < silence.end:
                deep = [slot for slot, _ in tower.votes if slot >= silence.start]
                assert len(deep) <= DEPTH, f"{len(deep)} votes deep while 40 % were silent: {tower}"
        assert_all_accepted(world)


# ---- a tower that the ledger does not know


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Iterator[World]:
    """A fast cluster in which one fork has lost."""
    folder, asked = tmp_path_factory.mktemp("forked"), ["--fork-every", "0", "--partition", "20:12:33"]
    with run_world(folder, *asked, seed=seed, slot_ms=25) as made:
        yield made


@pytest.fixture
def world(forked: World) -> Iterator[World]:
    """That cluster after a validator has voted until it had a root, and ended in good order."""
    machine = forked.validator().start().wait_running()
    end = wait_cut(forked, 0).end
    until(lambda: (machine.status().get("rootSlot") or 0) > end, "it has a root of its own", 40)
    machine.process.terminate()
    machine.wait_exit(Exit.OK)
    try:
        yield forked
        assert_all_accepted(forked)
    finally:
        forked.end_validators()


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_foreign_tower_is_refused_and_nothing_claimed(world: World) -> None:
    """A vote for a slot of the lost fork below one of the chain: no history of this cluster has both."""
    machine, mine, cut = world.validators[0], world.tower_file.read_bytes(), cuts(world)[0]
    known = chain(world)
    lost = max(slot for slot in range(cut.start, cut.end) if slot not in known)
    found = min(slot for slot in known if slot > lost)
    put_tower(world, with_stack(stored_tower(world), [(lost, 9), (found, 8)], None))
    before, began, seen = everything(world.towers), time.time_ns() // 1_000_000, len(machine.log)
    machine.start().wait_exit(Exit.TOWER_UNUSABLE, 40)
    last = machine.log[seen:].splitlines()[-1]
    assert f"the stored tower of {world.identity.address} is unusable" in last
    assert f"slot {lost} lies below {found} in the tower, but not in the ledger" in last
    assert everything(world.towers) == before, "something was claimed or stored"
    assert world.votes(since_ms=began) == []
    world.tower_file.write_bytes(mine)
    machine.start().wait_running().wait_vote()  # with its own again it votes, so it was the tower


def test_a_tower_of_the_future_waits_until_it_is_passed(world: World) -> None:
    """Its last vote is ahead of the cluster: whoever wrote it has seen more than we have."""
    machine, tower = world.validators[0], stored_tower(world)
    state, ahead = TowerVoteState(tower.lockouts, tower.root), world.slot() + AHEAD
    state.process_vote(ahead)
    put_tower(world, with_stack(tower, state.votes, state.root))
    began = time.time_ns() // 1_000_000
    machine.start().wait_running()
    wanted = f"is not newer than the last vote {ahead}"
    wait_refusal(machine, lambda said: any(wanted in reason for reason in said), "voting is suspended")
    assert world.slot() < ahead
    until(lambda: world.votes(since_ms=began), "it votes again", 40)
    machine.wait_vote(more_than=40)
    votes = world.votes(since_ms=began)
    assert min(vote["last_slot"] for vote in votes) > ahead
    assert all(vote["landed"] is not None for vote in votes[:20])


def test_a_tower_older_than_the_tree_is_adjusted(world: World) -> None:
    """It was away for longer than SlotHashes reach; the SlotHistory says that all its votes are rooted by now."""
    machine, tower = world.validators[0], stored_tower(world)
    last = tower.last_voted_slot or 0

    def banks_since() -> int:  # slots are skipped where the machine is slow: banks are what SlotHashes counts
        return len(world.call("localnetChain", {"fromSlot": last + 1})["chain"])

    until(lambda: banks_since() > SLOT_HASHES_NAMED + 90, "the cluster goes on without it", 60)
    began, seen = time.time_ns() // 1_000_000, len(machine.log)
    machine.start().wait_running().wait_vote(more_than=20)
    votes = world.votes(since_ms=began)
    assert all(vote["landed"] is not None for vote in votes[:15])
    assert stored_tower(world).root > last
    assert "no vote before slot" not in machine.log[seen:], "it waited as if its tower were lost"
