"""Announced blocks: what the cluster takes, which slots it skips, and that its judge finds every slot with two."""

from __future__ import annotations

import asyncio
import json
import random
import struct

import pytest
from solders.keypair import Keypair as SoldersKeypair

from tests.localnet.served import cli, run, running, send_udp, until
from tests.localnet.support import OURS, cluster
from tower.keys import Keypair
from tower.localnet import blocks as blocks_module
from tower.localnet import cluster as cluster_module
from tower.localnet.blocks import BlockArrival, BlockJudge
from tower.localnet.cluster import Cluster
from tower.localnet.genesis import LocalnetConfig
from tower.validator.announcement import encode_announcement, read_announcement

ANNOUNCED = LocalnetConfig(fork_every=0, stake_share=0.3, announced_blocks=True, slots_in_epoch=512, voters=3)


def by_hand(slot: int, parent: int, leader: Keypair = OURS) -> bytes:
    """An announcement made by an encoder of its own."""
    body = b"\xffopenos-block-v1" + leader.pubkey + struct.pack("<QQ", slot, parent)
    return body + bytes(SoldersKeypair.from_bytes(leader.secret).sign_message(body))


def block(slot: int = 8, parent: int = 7, source: str = "127.0.0.2:9000") -> BlockArrival:
    return BlockArrival(slot, parent, OURS.pubkey, source, 0, 0, False)


def at_our_slot(made: Cluster) -> int:
    """Go on until a slot of ours is open."""
    while made.leader(made.slot + 1) != OURS.pubkey:
        made.step()
    return made.open_slot(made.slot + 1).slot


# ---- the packet


def test_the_packet_is_what_the_encoder_by_hand_makes() -> None:
    assert encode_announcement(8, 7, OURS) == by_hand(8, 7)


def test_no_other_bytes_are_an_announcement(rng: random.Random) -> None:
    good = by_hand(8, 7)
    assert read_announcement(good) is not None
    for _ in range(200):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        assert read_announcement(bytes(bad)) is None
    for length in range(len(good)):
        assert read_announcement(good[:length]) is None
    assert read_announcement(good + b"\0") is None
    assert read_announcement(rng.randbytes(len(good))) is None


# ---- the judge


def test_the_same_packet_again_is_nothing() -> None:
    judge = BlockJudge()
    for _ in range(3):
        judge.arrive(block())
    assert (judge.duplicates_total, len(list(judge.arrivals()))) == (0, 1)


@pytest.mark.parametrize("other", [block(parent=6), block(source="127.0.0.3:9000"), block(source="127.0.0.2:9001")])
def test_two_blocks_for_a_slot_are_a_duplicate_in_any_order(other: BlockArrival) -> None:
    for order in ((block(), other), (other, block())):
        judge = BlockJudge()
        for one in order:
            judge.arrive(block(slot=9))
            judge.arrive(one)
            judge.arrive(block(slot=10, source="127.0.0.3:9000"))
        assert [(found.first, found.second) for found in judge.duplicates] == [order]
        assert judge.duplicates_total == 1


def test_memory_is_bounded_and_every_duplicate_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_module, "SLOTS_MAX", 10)
    judge = BlockJudge()
    for port in range(30):
        judge.arrive(block(source=f"127.0.0.2:{port}"))
    assert (judge.duplicates_total, judge.over_limit) == (29, 30 - blocks_module.PER_SLOT_MAX)
    for slot in range(100, 150):
        judge.arrive(block(slot=slot))
    assert [arrival.slot for arrival in judge.arrivals()] == list(range(140, 150))


# ---- the cluster


def test_a_slot_of_ours_is_skipped_without_its_block_and_built_with_it() -> None:
    made = cluster(ANNOUNCED)
    skipped = at_our_slot(made)
    parent = made.rpc_view.best
    assert made.end_slot() is None
    assert (made.skipped, made.rpc_view.best, skipped in made.tree) == (1, parent, False)
    slot = at_our_slot(made)
    made.announce(by_hand(slot, made.rpc_view.best), "127.0.0.2:9000")
    bank = made.end_slot()
    assert bank is not None
    assert (bank.slot, bank.parent_slot, made.skipped) == (slot, parent, 1)
    (arrived,) = made.blocks.arrivals()
    assert (arrived.slot, arrived.source, arrived.filled) == (slot, "127.0.0.2:9000", True)


def test_a_block_that_is_late_or_on_another_parent_fills_no_slot_and_is_judged() -> None:
    made = cluster(ANNOUNCED)
    late = at_our_slot(made)
    parent = made.rpc_view.best
    assert made.end_slot() is None
    made.announce(by_hand(late, parent), "127.0.0.2:9000")
    slot = at_our_slot(made)
    made.announce(by_hand(slot, slot - 2 if made.rpc_view.best != slot - 2 else slot - 3), "127.0.0.2:9000")
    assert made.end_slot() is None
    made.announce(by_hand(late, parent), "127.0.0.3:9000")
    assert [arrival.filled for arrival in made.blocks.arrivals()] == [False, False, False]
    assert (made.blocks.duplicates_total, made.skipped) == (1, 2)


def test_only_the_slot_s_leader_may_announce_it_and_only_near_the_tip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "HORIZON_SLOTS", 40)
    made = cluster(ANNOUNCED)
    slot = at_our_slot(made)
    parent = made.rpc_view.best
    other = next(member for member in made.genesis.participants if member.voter is not None)
    assert other.voter is not None
    far = next(later for later in range(slot + 5, slot + 500) if made.leader(later) == OURS.pubkey)
    packets = [b"", by_hand(slot, parent, other.voter), by_hand(far, parent), by_hand(2**64 - 1, parent)]
    packets.append(by_hand(slot, parent)[:-1] + b"\0")
    for raw in packets:
        made.announce(raw, "127.0.0.2:9000")
    assert made.announcements_refused == len(packets)
    assert list(made.blocks.arrivals()) == []
    assert made.end_slot() is None
    while made.slot < slot + 40:
        made.step()
    made.announce(by_hand(slot, parent), "127.0.0.2:9000")
    assert len(list(made.blocks.arrivals())) == 1
    made.step()
    made.announce(by_hand(slot, parent), "127.0.0.2:9000")
    assert made.announcements_refused == len(packets) + 1


def test_in_a_partition_our_leader_builds_on_our_side() -> None:
    config = LocalnetConfig(
        fork_every=8, fork_length=6, stake_share=0.3, announced_blocks=True, voters=3, rpc_on_minority=True
    )
    made = cluster(config)
    ours = 0
    while made.slot < 400:
        bank = made.open_slot(made.slot + 1)
        if made.leader(bank.slot) == OURS.pubkey and made.partition is not None:
            ours += 1
            assert bank.parent_slot == made.rpc_view.best
            made.announce(by_hand(bank.slot, bank.parent_slot), "127.0.0.2:9000")
        made.end_slot()
    assert ours > 5, "too few slots of ours lie in a partition"
    assert all(arrival.filled for arrival in made.blocks.arrivals())


def test_without_the_flag_every_slot_has_its_bank() -> None:
    made = cluster(LocalnetConfig(fork_every=0, stake_share=0.3, voters=3))
    slot = at_our_slot(made)
    bank = made.end_slot()
    assert bank is not None
    assert (bank.slot, made.skipped) == (slot, 0)


# ---- served


def test_the_block_port_and_the_report() -> None:
    config = LocalnetConfig(slot_ms=20, voters=3, fork_every=0, stake_share=0.3, announced_blocks=True)

    async def scenario() -> None:
        async with running(config) as client:
            made = client.localnet.cluster
            (node, *others) = await client.call("getClusterNodes")
            assert not any("localnetBlocks" in other for other in others)
            port = node["localnetBlocks"]

            async def ours() -> bool:
                return made.slot > 4 and made.leader(made.slot) == OURS.pubkey

            await until(ours)
            slot = made.slot
            for source in ("127.0.0.2", "127.0.0.3"):
                send_udp(port, by_hand(slot, slot - 1), source)
            send_udp(port, b"garbage")

            async def judged() -> bool:
                return made.blocks.duplicates_total == 1 and made.announcements_refused == 1

            await until(judged)
            report = await client.call("localnetReport")
            assert [(found["slot"], found["source"]) for found in report["blocks"]] == [(slot, "127.0.0.2"), (slot, "127.0.0.3")]
            assert report["duplicates"][0]["second"]["source"] == "127.0.0.3"
            assert (report["duplicates_total"], report["conflicts_total"]) == (1, 0)
            done = await asyncio.to_thread(cli, "report", "--url", client.localnet.rpc_url)
            assert done.returncode == 1
            assert f"two blocks for slot {slot}: from 127.0.0.2 and 127.0.0.3" in done.stdout
            assert "slots with two 1" in done.stdout

    run(scenario)


def test_a_cluster_without_announced_blocks_names_no_port() -> None:
    async def scenario() -> None:
        async with running(LocalnetConfig(slot_ms=20, voters=3, fork_every=0)) as client:
            assert "localnetBlocks" not in json.dumps(await client.call("getClusterNodes"))
            report = await client.call("localnetReport")
            assert (report["blocks"], report["skipped"], report["duplicates_total"]) == ([], 0, 0)

    run(scenario)
