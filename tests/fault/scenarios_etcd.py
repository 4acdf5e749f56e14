"""Faults of etcd itself: its members, their disks, its quota, its history, certificates, and older validators on its keys."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import grpc

from tests.fault.etcd_calls import Member
from tests.fault.host import client_certificate, mount_small, revocation_list, unmount
from tests.fault.legacy import DIED
from tests.fault.scenario import passes, restarted, scenario, take_over
from tests.fault.traffic import FORKS, Machine, Stage, wait
from tower.localnet.etcd_server import EtcdServer
from tower.validator.config import Exit

__all__: list[str] = []

MIB = 1 << 20
SMALL_MIB = 160  # etcd lays its log out in pieces of 64 MiB


def _gone(member: EtcdServer) -> bool:
    return member._process is not None and member._process.poll() is not None


@scenario("members killed", in_ci=True)
def members_killed(stage: Stage) -> None:
    owner, _ = stage.pair()
    for _ in range(2):
        leader = stage.leader()
        follower = next(each for each in stage.members if each is not leader)
        for fault, member in (("member killed", follower), ("leader killed", leader)):
            with stage.strike(fault) as strike:
                member.kill()
                strike.proof["answers nothing"] = not _answers(stage, member)
                stage.flows(4, owner)
                member.start()
            stage.flows(2, owner)
    with stage.strike("two members killed") as strike:
        second = stage.leader()
        first = next(each for each in stage.members if each is not second)
        first.kill()
        second.kill()
        strike.proof["nothing leaves"] = owner.ended() == Exit.STORE_FAILED
        first.begin()
        second.begin()
        first.wait_ready()
        second.wait_ready()
        restarted(stage, strike, owner)


@scenario("members frozen")
def members_frozen(stage: Stage) -> None:
    owner, _ = stage.pair()
    for fault, lead in (("member frozen", False), ("leader frozen", True), ("member frozen", False)):
        leader = stage.leader()
        member = leader if lead else next(each for each in stage.members if each is not leader)
        with stage.strike(fault) as strike:
            member.pause()
            strike.proof["answers nothing"] = not _answers(stage, member)
            passes(2.0)
            member.resume()
            stage.flows(4, owner)


@scenario("history and files of etcd tidied")
def tidied(stage: Stage) -> None:
    owner, _ = stage.pair()
    with stage.strike("compaction") as strike:
        compacted = 0
        for _ in range(6):
            stage.flows(2, owner)
            stage.api(stage.leader()).compact(stage.witnessed)
            compacted += 1
        strike.proof["compacted"] = compacted == 6
        strike.proof["the history is gone"] = _is_compacted(stage)
    for member in (*stage.members, stage.leader()):
        with stage.strike("defragmentation") as strike:
            before = time.monotonic()
            stage.api(member).defragment()
            strike.proof["done"] = time.monotonic() >= before
            stage.flows(2, owner)


def _is_compacted(stage: Stage) -> bool:
    """Whether the store has forgotten how it was at its first revision."""
    try:
        stage.api(stage.leader()).read_at(b"none", 1)
    except grpc.RpcError as problem:
        return "compacted" in (problem.details() or "")
    return False


@scenario("quota used up", etcd_flags=(f"--quota-backend-bytes={6 * MIB}",))
def quota(stage: Stage) -> None:
    owner, _ = stage.pair()
    with stage.strike("quota alarm") as strike:
        leader = stage.leader()
        api = stage.api(leader)
        refused = ""
        for number in range(200):
            try:
                api.put(b"filler/%d" % (number % 4), bytes([number]) * 400_000)
            except grpc.RpcError as problem:
                refused = problem.details() or ""
                break
        strike.proof["etcd refuses writes"] = "database space exceeded" in refused
        strike.proof["an alarm stands"] = api.alarms() > 0
        status = owner.ended()
        assert status == Exit.STORE_FAILED, owner.log[-800:]
        strike.proof["the owner says why"] = "its disk quota is used up" in owner.log
        api.compact(api.revision())
        for member in stage.members:
            stage.api(member).defragment()
        for member in stage.members:
            api.disarm(stage.api(member).status()["member"])
        wait(lambda: api.alarms() == 0, "no alarm stands")
        restarted(stage, strike, owner)
        stage.flows(4, owner)


def _mount_members(stage: Stage) -> None:
    for member in stage.members:
        mount_small(member.data_dir, SMALL_MIB)
        stage.stack.callback(unmount, member.data_dir)


def _fill(folder: Path) -> None:
    """Take every byte that is left, again and again until none is."""
    with open(folder / "filler", "ab", buffering=0) as sink:
        for size in (MIB, 4096, 1):
            try:
                while True:
                    sink.write(bytes(size))
            except OSError:
                continue


@scenario("disks of etcd", needs="root", before=_mount_members)
def disks(stage: Stage) -> None:
    owner, _ = stage.pair()
    with stage.strike("disk full, leader") as strike:
        leader = stage.leader()
        api = stage.api(next(each for each in stage.members if each is not leader))
        _fill(leader.data_dir)
        strike.proof["no byte is left"] = shutil.disk_usage(leader.data_dir).free == 0
        for number in range(60):  # its log is laid out ahead, its data base is not
            if _gone(leader):
                break
            try:
                api.put(b"filler/%d" % number, bytes([number]) * 200_000, 5.0)
            except grpc.RpcError:
                continue  # in an election
        wait(lambda: _gone(leader), "the member on the full disk ends", 40)
        log = leader.log_path.read_text("utf-8", "replace")
        strike.proof["it says why"] = "no space left on device" in log
        stage.flows(4, owner)
        leader.terminate()
        (leader.data_dir / "filler").unlink()
        leader.start()
        stage.flows(2, owner)
    with stage.strike("disk read-only, member") as strike:
        member = next(each for each in stage.members if each is not stage.leader())
        member.kill()
        subprocess.run(["mount", "-o", "remount,ro", str(member.data_dir)], check=True)
        member.begin()
        wait(lambda: _gone(member), "it does not come up")
        strike.proof["it says why"] = "read-only file system" in member.log_path.read_text("utf-8", "replace")
        stage.flows(4, owner)
        member.terminate()
        subprocess.run(["mount", "-o", "remount,rw", str(member.data_dir)], check=True)
        member.start()
        stage.flows(2, owner)


@scenario("old backup of a member")
def backup(stage: Stage) -> None:
    owner, spare = stage.pair()
    member = next(each for each in stage.members if each is not stage.leader())
    member.kill()
    old, then = stage.folder / "backup", stage.api(stage.leader()).revision()
    shutil.copytree(member.data_dir, old)
    member.start()
    stage.flows(6, owner)
    with stage.strike("old backup of a member") as strike:
        behind = stage.api(stage.leader()).revision()
        member.kill()
        shutil.rmtree(member.data_dir)
        shutil.copytree(old, member.data_dir)
        member.begin()
        strike.proof["it is from before"] = behind >= then + 5
        stage.flows(4, owner)
        # It catches up, or its own consistency check ends it: both leave the others in charge of what is true.
        wait(lambda: _gone(member) or _answers(stage, member), "it catches up or ends", 30)
        strike.proof["caught up or ended"] = True
        strike.proof["how"] = "ended by its check" if _gone(member) else "caught up"
        take_over(spare)
        stage.flows(4, spare)


def _answers(stage: Stage, member: EtcdServer) -> bool:
    try:
        return stage.api(member).revision(1.0) > 0
    except grpc.RpcError:
        return False


# ---- certificates


def _no_one_revoked(stage: Stage) -> None:
    revocation_list(stage.certs)


def _certificate_flags(stage: Stage, name: str) -> tuple[str, ...]:
    return ("--etcd-cert-file", str(stage.certs / f"{name}.pem"), "--etcd-key-file", str(stage.certs / f"{name}-key.pem"))


def _refused(stage: Stage, name: str) -> bool:
    """Whether a member refuses a client with this certificate."""
    pems = {"cert": (stage.certs / f"{name}.pem").read_bytes(), "key": (stage.certs / f"{name}-key.pem").read_bytes()}
    client = Member(stage.members[0].endpoint, stage.certs, **pems)
    try:
        client.revision(2.0)
    except grpc.RpcError:
        return True
    finally:
        client.close()
    return False


def _break(stage: Stage, machine: Machine) -> None:
    for link in machine.links:
        stage.net.set(link, "cut")
        stage.net.set(link, "pass")


@scenario("certificates that run out", before=_no_one_revoked, crl=True)
def certificates(stage: Stage) -> None:
    serial = client_certificate(stage.certs, "short", 20.0)
    valid_until = time.time() + 20
    owner = stage.machine("primary", *_certificate_flags(stage, "short")).start()
    owner.wait_running()
    stage.flows(4, owner)
    assert time.time() < valid_until, "it took too long to start: this run says nothing"
    wait(lambda: time.time() > valid_until + 1.5, "it runs out", 40)
    with stage.strike("certificate expired") as strike:
        stage.flows(3, owner)  # an open connection goes on
        _break(stage, owner)
        status = owner.ended()
        assert status == Exit.STORE_FAILED, owner.log[-800:]
        strike.proof["the owner says why"] = "refused our certificate" in owner.log
        new = client_certificate(stage.certs, "new", 86_400.0)
        owner.more += _certificate_flags(stage, "new")
        restarted(stage, strike, owner)
    with stage.strike("certificate revoked") as strike:
        revocation_list(stage.certs, serial, new)
        stage.flows(3, owner)
        _break(stage, owner)
        status = owner.ended()
        assert status == Exit.STORE_FAILED, owner.log[-800:]
        strike.proof["the owner names what it may be"] = "is not revoked" in owner.log
        strike.proof["members refuse this one alone"] = _refused(stage, "new") and not _refused(stage, "validator")
        client_certificate(stage.certs, "third", 86_400.0)
        owner.more += _certificate_flags(stage, "third")
        restarted(stage, strike, owner)


# ---- validators of the older kind


@scenario("an older validator on the same keys", in_ci=True, flags=FORKS)
def legacy(stage: Stage) -> None:
    owner = stage.machine("primary").start()
    owner.wait_running()
    stage.flows(4, owner)
    older = stage.machine("older", "--require-tower", "--no-leader-duty", FAULT_LEGACY=str(stage.certs))
    with stage.strike("legacy takes over") as strike:
        older.start()
        strike.proof["the owner lost the fence"] = owner.ended() == Exit.LOST_FENCE
        older.wait_running()
        stage.flows(6, older)
    with stage.strike("taken from legacy") as strike:
        owner.start().wait_running()
        strike.proof["the older one ended at its next write"] = older.ended() == DIED
        stage.flows(6, owner)
    with stage.strike("legacy takes over") as strike:
        older.start()
        strike.proof["the owner lost the fence"] = owner.ended() == Exit.LOST_FENCE
        older.wait_running()
        stage.flows(4, older)


