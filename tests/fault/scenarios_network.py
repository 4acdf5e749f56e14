"""Faults of the network: between an instance and the members, between the members, and of the name that leads to them."""

from __future__ import annotations

import shlex
import time

from tests.fault.history import Recorder
from tests.fault.proxy import Link
from tests.fault.recorded_store import RecordedStore
from tests.fault.scenario import passes, recovered, restarted, scenario, serving_at, take_over
from tests.fault.traffic import FORKS, Machine, Stage, wait
from tests.support.cluster import PATIENCE_S
from tower.store import Claimed, Owner
from tower.validator.config import Exit

__all__: list[str] = []

THAWED = (Exit.LOST_FENCE, Exit.STORE_FAILED)


def claim_only(stage: Stage) -> Claimed:
    """Claim as a machine does that dies right after; written down as any other operation."""
    recorder = Recorder(stage.folder / "history-claimer.jsonl", "claimer")
    store = RecordedStore(stage.world.open_store(), recorder, "main")
    try:
        sighting = store.look(stage.world.identity.address, PATIENCE_S)
        claimed = store.claim(sighting, Owner.of_this_process("start", at_ms=time.time_ns() // 1_000_000), PATIENCE_S)
        assert isinstance(claimed, Claimed), claimed
        return claimed
    finally:
        store.close()
        recorder.close()


def _broken(stage: Stage, machine: Machine, fault: str, rule: str, links: list[Link], seconds: float) -> None:
    """Break `links` for so long; the owner goes on, or ends as it must and is started again."""
    with stage.strike(fault) as strike:
        for link in links:
            link.struck.clear()
            stage.net.set(link, rule)
        passes(seconds)
        strike.proof["struck"] = sum(link.struck[rule] + (link.struck["reset"] if rule == "cut" else 0) for link in links)
        for link in links:
            stage.net.set(link, "pass")
        recovered(stage, strike, machine)


@scenario("links of the owner", in_ci=True)
def links(stage: Stage) -> None:
    owner, _ = stage.pair()
    for rule in ("cut", "hole", "deaf"):
        in_use = owner.links[serving_at(stage, owner)]
        _broken(stage, owner, f"link {rule}", rule, [in_use], 3.0)
    for link in owner.links:
        link.delay_s = 0.1
    for rule in ("mute", "slow", "double", "torn"):
        _broken(stage, owner, f"link {rule}", rule, owner.links, 2.0)
    for rule in ("cut", "hole"):
        _broken(stage, owner, f"all links {rule}", rule, owner.links, 2.0 if rule == "cut" else 3.0)


@scenario("cut off and taken over", in_ci=True, flags=FORKS)
def cut_off(stage: Stage) -> None:
    owner, spare = stage.pair()
    with stage.strike("cut off, claimed by one that dies") as strike:
        for link in owner.links:
            stage.net.set(link, "hole")
        wait(lambda: sum(link.struck["hole"] for link in owner.links) >= 2, "a write of the owner is held")
        claimed = claim_only(stage)
        before = len(stage.votes(0, owner.address))
        for link in owner.links:
            stage.net.set(link, "pass")  # the first that etcd hears now is the held write, on the tower as it is
        strike.proof["the owner lost the fence"] = owner.ended() == Exit.LOST_FENCE
        strike.proof["no vote left after the claim"] = len(stage.votes(0, owner.address)) == before
        strike.proof["the tower is as the claim found it"] = stage.world.look().record_revision == claimed.record_revision
        strike.restarted = True
        owner.start().wait_running()
        stage.flows(3, owner)
    for rule in ("hole", "deaf", "mute"):
        with stage.strike("cut off, taken over") as strike:
            for link in owner.links:
                link.struck.clear()
                stage.net.set(link, rule)
            take_over(spare)
            stage.flows(3, spare)
            for link in owner.links:
                stage.net.set(link, "pass")
            status = owner.ended()
            assert status in THAWED, f"{status}: {owner.log[-1000:]}"
            strike.proof["struck"] = sum(link.struck[rule] for link in owner.links)
            stage.flows(2, spare)
        owner.spare = True
        owner.start().wait_running()
        owner, spare = spare, owner


@scenario("members apart", peer_links=True)
def apart(stage: Stage) -> None:
    owner, _ = stage.pair()

    def between(pairs: list[tuple[str, str]], fault: str, seconds: float, rule: str = "hole") -> None:
        with stage.strike(fault) as strike:
            for _, link in stage.peer_links.items():
                link.struck.clear()
            for caller, called in pairs:
                stage.net.set(stage.peer_links[called], rule, caller)
            passes(seconds)
            strike.proof["struck"] = sum(link.struck[rule] + link.struck["reset"] for link in stage.peer_links.values())
            for link in stage.peer_links.values():
                stage.net.set(link, "pass")
            recovered(stage, strike, owner)

    names = [member.name for member in stage.members]
    for rule in ("hole", "cut"):
        leader = stage.leader().name
        others = [name for name in names if name != leader]
        both = [(leader, other) for other in others] + [(other, leader) for other in others]
        between(both, "leader cut off", 4.0, rule)
    leader = stage.leader().name
    others = [name for name in names if name != leader]
    # Members hear each other over the connections that they open: those of the leader are cut, and those to it stay.
    between([(leader, other) for other in others], "leader deaf to peers", 4.0, "cut")
    leader = stage.leader().name
    others = [name for name in names if name != leader]
    between([(others[0], others[1]), (others[1], others[0])], "two members apart", 4.0)
    between([(a, b) for a in names for b in names if a != b], "members all apart", 2.0, "cut")


@scenario("a name that moves", needs="root")
def name_moves(stage: Stage) -> None:
    hosts = stage.folder / "hosts"
    name = "etcd.fault.test"

    def lead_to(address: str) -> None:
        hosts.write_text(f"127.0.0.1 localhost\n{address} {name}\n")  # in place: it is mounted

    lead_to("127.0.0.1")
    member = stage.leader()
    old = stage.net.link(member.endpoint)
    new = stage.net.link(member.endpoint, at=("127.0.0.99", old.endpoint[1]))
    owner = stage.machine("primary")
    owner.wrapper = ["unshare", "-m", "sh", "-c", f'mount --bind {shlex.quote(str(hosts))} /etc/hosts && exec "$@"', "sh"]
    owner.endpoints = [f"{name}:{old.endpoint[1]}"]
    owner.start().wait_running()
    stage.flows(4, owner)
    with stage.strike("name moves") as strike:
        lead_to("127.0.0.99")
        stage.flows(2, owner)
        stage.net.set(old, "cut")
        if not _goes_on(stage, owner):
            restarted(stage, strike, owner)
        stage.flows(3, owner)
        strike.proof["the old address is left"] = old.struck["reset"]
        strike.proof["the new one is used"] = new.carried


def _goes_on(stage: Stage, machine: Machine) -> bool:
    """Whether it votes within the time that a vote may wait."""
    for _ in range(8):
        if not machine.running:
            return False
        if stage.quiet(1.0) > 1:
            return True
    return machine.running
