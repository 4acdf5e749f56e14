"""The guide's chapter, typed block after block as it stands, on one machine: from set-up to the upgrade, and no vote conflicts.

Between the blocks the test does what the chapter's prose says happens meanwhile: a machine freezes, another dies, a service
manager waits until a node is up. What a "new version" is here: the same code, from another folder, under another number.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import ROOT, until
from tests.support.pages import Block, Desk, blocks, desk
from tower.keys import read_keypair_file
from tower.localnet.cli import fetch_report
from tower.localnet.demo_report import Votes
from tower.validator.admin import AdminClient, AdminError, AdminUnavailable
from tower.validator.config import Exit

GUIDE = ROOT / "docs" / "guide.md"
SLOT_MS = 150
THAWED = (Exit.LOST_FENCE, Exit.STORE_FAILED)  # the second if it was frozen in the middle of a write, for longer than its bound
UP_S = 40.0  # that a start may take: imports, catching up, the claim

# The lines of the operators' guide, as facts: what they type is what our chapter types.
LINES_OF_THE_GUIDE = """\
go install github.com/cloudflare/cfssl/cmd/cfssl@latest
PATH=$PATH:~/go/bin/
mkdir -p certs/
echo '{"CN":"etcd","hosts":["localhost", "127.0.0.1"],"key":{"algo":"rsa","size":2048}}' > certs/config.json
cfssl gencert -initca certs/config.json | cfssljson -bare certs/etcd-ca
cfssl gencert -ca certs/etcd-ca.pem -ca-key certs/etcd-ca-key.pem certs/config.json | cfssljson -bare certs/validator
cfssl gencert -ca certs/etcd-ca.pem -ca-key certs/etcd-ca-key.pem certs/config.json | cfssljson -bare certs/etcd
etcd --auto-compaction-retention 2 --auto-compaction-mode revision \\
--cert-file=certs/etcd.pem --key-file=certs/etcd-key.pem \\
--client-cert-auth \\
--trusted-ca-file=certs/etcd-ca.pem \\
--listen-client-urls=https://127.0.0.1:2379 \\
--advertise-client-urls=https://127.0.0.1:2379
curl --cacert certs/etcd-ca.pem https://127.0.0.1:2379/ --cert certs/validator.pem --key certs/validator-key.pem
openos-validator ... \\
--tower-storage etcd \\
--etcd-cacert-file certs/etcd-ca.pem \\
--etcd-cert-file certs/validator.pem \\
--etcd-key-file certs/validator-key.pem \\
--etcd-endpoint 127.0.0.1:2379 # <-- replace 127.0.0.1 with the actual IP address
openos-validator wait-for-restart-window --identity validator-keypair.json \\
&& openos-validator set-identity validator-keypair.json
"""
NOT_TYPED = 2  # of them: the two that download and install cfssl


def test_the_lines_of_the_operators_guide_are_in_the_chapter_verbatim() -> None:
    text = GUIDE.read_text()
    shown = {line.removeprefix("$ ") for line in text.splitlines()}
    assert [line for line in LINES_OF_THE_GUIDE.splitlines() if line not in shown] == []
    typed = {line for block in blocks(GUIDE) for line in block.text.splitlines()}
    assert [line for line in LINES_OF_THE_GUIDE.splitlines() if line not in typed] == LINES_OF_THE_GUIDE.splitlines()[:NOT_TYPED]


class Chapter:
    """The blocks of the chapter, to be typed one after the other; and what the cluster's judge has seen."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self._left = desk, blocks(GUIDE)
        url = next(new for old, new in desk.substitutions if "8899" in old)
        self.url = f"http://127.0.0.1:{url}"

    def type(self, machine: str, says: str) -> Block:
        """Type the next block, which is this one."""
        block = self._left.pop(0)
        assert (block.machine, says in block.text) == (machine, True), f"the next block is another: {block}"
        self.desk.type(block)
        return block

    @property
    def done(self) -> bool:
        return not self._left

    def votes(self) -> Votes:
        account = read_keypair_file(self.desk.folder / "operator" / "vote-account-keypair.json").address
        votes = Votes.of(fetch_report(self.url), account)
        assert votes.conflicts == 0
        return votes

    def wait_votes(self, more: int = 3) -> None:
        """More votes than there are now, from whomever; a store that knew too little makes them wait for 200 slots."""
        before = len(self.votes().arrivals)
        until(lambda: len(self.votes().arrivals) >= before + more, "votes arrive", UP_S)

    def ask(self, machine: str, method: str) -> Any:
        """What the validator there answers; `None` while it does not."""
        with contextlib.suppress(AdminError, AdminUnavailable):
            return AdminClient(self.desk.folder / machine / "ledger").call(method, timeout=5)
        return None

    def state(self, machine: str) -> dict[str, Any]:
        return self.ask(machine, "status") or {}

    def wait_standby(self, machine: str) -> None:
        def stands_by() -> bool:
            assert self.desk.running[machine].poll() is None, self.desk.log(machine)[-2000:]
            return self.state(machine).get("state") == "standby" and self.ask(machine, "startProgress") == "Running"

        until(stands_by, f"{machine} stands by", UP_S)

    def wait_owner(self, machine: str) -> None:
        """Until this machine votes, and its votes arrive."""

        def votes() -> bool:
            assert self.desk.running[machine].poll() is None, self.desk.log(machine)[-2000:]
            return bool(self.state(machine).get("voting"))

        until(votes, f"{machine} votes", UP_S)
        self.wait_votes()


@pytest.fixture
def chapter(tmp_path: Path) -> Iterator[Chapter]:
    with desk(tmp_path / "desk", GUIDE, slot_ms=SLOT_MS) as made:
        yield Chapter(made)


def set_up(chapter: Chapter) -> None:
    chapter.type("operator", "openos-localnet")
    chapter.desk.wait_for("operator", "ready: ")
    chapter.type("operator", "cp validator-keypair.json")


def one_etcd(chapter: Chapter) -> None:
    here = shutil.which("cfssl") is not None and shutil.which("cfssljson") is not None
    chapter.type("m1", "cfssl gencert")
    chapter.type("m1", "etcd --auto-compaction-retention 2")
    if here:
        chapter.desk.wait_for("m1", "ready to serve client requests|serving client traffic")
    chapter.type("m1", "curl ")
    if here:
        status = chapter.desk.typed[-1][1]
        assert (status, "404 page not found" in chapter.desk.said) in ((0, True), (60, False))
    chapter.type("m1", "openos-validator list")
    if here:
        chapter.desk.stop("m1")
    chapter.type("m1", "rm -r certs")


def three_etcds(chapter: Chapter) -> None:
    chapter.type("operator", "certs make")
    chapter.type("operator", "for m in m1 m2 m3")
    for machine in ("m1", "m2", "m3"):
        chapter.type(machine, f"--name {machine}")
    for machine in ("m1", "m2", "m3"):
        chapter.desk.wait_for(machine, "ready to serve client requests|serving client traffic")
    chapter.type("operator", "etcdctl endpoint health")
    assert chapter.desk.said.count("is healthy") == 3
    assert "404 page not found" in chapter.desk.said
    chapter.type("operator", "doctor")
    assert re.search(r"\bm3\b", chapter.desk.said)


def missed(votes: Votes) -> int:
    """Slots of the chain between the first and the last voted one without a vote of ours."""
    slots = [vote["last_slot"] for vote in votes.arrivals]
    return votes.missed(min(slots), max(slots))


@pytest.mark.timeout(300)
def test_the_chapter_typed_in_order(chapter: Chapter) -> None:
    desk = chapter.desk
    set_up(chapter)
    one_etcd(chapter)
    three_etcds(chapter)

    chapter.type("primary", "openos-validator ... ")
    chapter.wait_owner("primary")
    chapter.type("operator", "openos-validator status")
    assert "held" in desk.said
    chapter.type("secondary", "--no-check-vote-account")
    chapter.wait_standby("secondary")
    chapter.type("secondary", "contact-info")
    assert read_keypair_file(desk.folder / "secondary" / "secondary-validator-keypair.json").address in desk.said

    # by hand, and back
    chapter.type("secondary", "failover run")
    assert chapter.state("primary")["voting"] is True
    chapter.type("secondary", "wait-for-restart-window")
    desk.wait_end("primary", Exit.LOST_FENCE)
    chapter.wait_owner("secondary")
    chapter.type("operator", "history")
    assert "set-identity" in desk.said
    chapter.type("primary", "openos-validator ... ")
    chapter.wait_owner("primary")
    desk.wait_end("secondary", Exit.LOST_FENCE)
    chapter.type("secondary", "--no-check-vote-account")
    chapter.wait_standby("secondary")

    # by monitoring
    chapter.type("secondary", "take-over-if-stale.sh <<")
    assert chapter.state("secondary")["voting"] is False
    os.kill(desk.running["primary"].pid, signal.SIGSTOP)
    frozen = time.monotonic()
    until(lambda: time.monotonic() > frozen + 5.5, "the newest stored vote is older than four seconds", 10)
    chapter.type("secondary", "./take-over-if-stale.sh")
    chapter.wait_owner("secondary")
    os.kill(desk.running["primary"].pid, signal.SIGCONT)
    desk.wait_end("primary", *THAWED)

    # by the spare itself
    chapter.type("primary", "--auto-takeover validator-keypair.json")
    chapter.wait_standby("primary")
    chapter.type("primary", "auto-takeover status")
    desk.running["secondary"].kill()
    desk.running["secondary"].wait()
    chapter.wait_owner("primary")
    chapter.type("operator", "history")
    assert "auto-takeover: " in desk.said

    # the upgrade
    chapter.type("secondary", "--no-check-vote-account")
    chapter.wait_standby("secondary")
    before = len(chapter.votes().arrivals)
    chapter.type("primary", "ln -sfn versions/next current")
    assert desk.said == "openos-validator 0.1.0.post1\n"
    assert chapter.state("primary")["voting"] is True  # what runs is still the old one
    chapter.type("secondary", "wait-for-restart-window")
    desk.wait_end("primary", Exit.LOST_FENCE)
    chapter.wait_owner("secondary")
    chapter.type("primary", "openos-validator ... ")
    chapter.wait_owner("primary")
    desk.wait_end("secondary", Exit.LOST_FENCE)
    running = Path(f"/proc/{desk.running['primary'].pid}/environ").read_bytes().split(b"\0")
    assert f"PYTHONPATH={desk.folder}/primary/versions/next/lib".encode() in running
    chapter.type("secondary", "ln -sfn versions/next current")
    chapter.type("secondary", "--no-check-vote-account")
    chapter.wait_standby("secondary")
    chapter.wait_votes()
    assert chapter.done

    votes = chapter.votes()  # which has asserted that nothing conflicts
    upgrade = Votes(votes.arrivals[before - 1 :], votes.chain, votes.conflicts)
    print(f"votes: {len(votes.arrivals)}, conflicting: {votes.conflicts}")
    print(f"slots missed in the upgrade: {missed(upgrade)}, in the whole chapter: {missed(votes)}, of {len(votes.chain)}")
