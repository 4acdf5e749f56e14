"""Every runbook, played on real processes: the trouble is made here, what is typed against it stands on the page.

One scene for all of them, set up by the guide's own blocks: a cluster, three members of etcd, a primary, a spare. What no
operator would type is added to the lines: a small quota, so that it can be filled. Where etcdutl is older than 3.5.10 (and
without `TOWER_ETCDUTL`), the restore is played without `--bump-revision`, as the page says.
"""

from __future__ import annotations

import datetime
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.process.test_guide import GUIDE, THAWED, Chapter
from tests.support.cluster import ROOT, until
from tests.support.pages import Block, Desk, blocks, desk
from tower.keys import read_keypair_file
from tower.validator.cert_files import certificate_pem, load_certificates, load_key
from tower.validator.config import Exit

PAGE = ROOT / "docs" / "runbooks.md"
SLOT_MS = 80
QUOTA = 16 << 20
MEMBERS = ("m1", "m2", "m3")
WAITS = r"the store knew less than the chain: begun from what landed, no vote before slot \d+"
SERVES = "ready to serve client requests|serving client traffic"
RUNBOOKS = [
    "Etcd down", "Member lost", "Quota full", "Certificate expired", "Both validators claim to be primary", "Tower missing",
    "Restore of a backup",
]  # fmt: skip
played: set[str] = set()

pytestmark = pytest.mark.timeout(180)


class Scene(Chapter):
    """The guide's machines, and one runbook after the other."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.lines = {
            **{each: self._line(each, f"--name {each}") for each in MEMBERS},
            "primary": self._line("primary", "openos-validator ... "),
            "secondary": self._line("secondary", "--no-check-vote-account"),
        }
        self._left: list[Block] = []

    @staticmethod
    def _line(machine: str, says: str) -> Block:
        return next(block for block in blocks(GUIDE) if block.machine == machine and says in block.text)

    def set_up(self) -> None:
        for section in ("A cluster to try it on", "Certificates", "Three members of etcd"):
            for block in blocks(GUIDE, section):
                if block.status is None or block.machine in MEMBERS:
                    continue
                if "etcdctl endpoint health" in block.text:
                    self.start_members()
                self.desk.type(block)
                if block.stays_open:
                    self.desk.wait_for(block.machine, "ready: ")
        self.start("secondary")
        self.start("primary")

    def open(self, section: str) -> None:
        """Begin a runbook, with everything in order."""
        assert not self._left, self._left[0]
        played.add(section)
        self.in_order()
        self._left = blocks(PAGE, section)

    def in_order(self) -> None:
        """All members serve, the primary votes, the secondary stands by."""
        self.start_members()
        if not self.runs("primary"):
            self.start("primary")
        self.wait_owner("primary")
        until(lambda: not self.runs("secondary") or self.state("secondary").get("state") == "standby", "the secondary has ended")
        if not self.runs("secondary"):
            self.start("secondary")
        self.wait_standby("secondary")

    def runs(self, machine: str) -> bool:
        process = self.desk.running.get(machine)
        return process is not None and process.poll() is None

    def start(self, machine: str) -> None:
        """Start it with its line, as the page says."""
        self.desk.running.pop(machine, None)
        self.desk.type(self.lines[machine])

    def start_members(self, *machines: str) -> None:
        """Those that do not run; a member answers only when most of them do."""
        begun = [each for each in machines or MEMBERS if not self.runs(each)]
        for each in begun:
            self.start(each)
        for each in begun:
            self.desk.wait_for(each, SERVES)

    def kill(self, *machines: str) -> None:
        for each in machines:
            self.desk.running[each].kill()
            self.desk.running[each].wait()

    def end(self, machine: str) -> None:
        """As a service manager ends it."""
        self.desk.running[machine].terminate()
        self.desk.wait_end(machine, Exit.OK)

    def sent(self, machine: str) -> list[int]:
        """Slots of the votes that the process there has released, by its log."""
        return [int(slot) for slot in re.findall(r" voted (\d+) ", self.desk.log(machine))]

    def tool(self, *command: str, stdin: bytes = b"") -> str:
        """etcd's tool, for the trouble; not what the page types."""
        line = ["bash", "-c", '. ./etcdctl.env && exec "$@"', "-", *command]
        environment = self.desk.environment("operator")
        done = subprocess.run(
            line, cwd=self.desk.folder / "operator", env=environment, input=stdin, capture_output=True, timeout=30, check=False
        )
        return (done.stdout + done.stderr).decode()

    @property
    def identity(self) -> str:
        return read_keypair_file(self.desk.folder / "operator" / "validator-keypair.json").address


def bumps(folder: Path) -> bool:
    """Whether the etcdutl at hand knows --bump-revision."""
    command = [str(folder / "tools" / "etcdutl"), "snapshot", "restore", "--help"]
    return "--bump-revision" in subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout


@pytest.fixture(scope="module")
def whole_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    small = (r"--auto-compaction-mode revision", f"--auto-compaction-mode revision --quota-backend-bytes {QUOTA}")
    with desk(tmp_path_factory.mktemp("runbooks") / "desk", GUIDE, slot_ms=SLOT_MS, substitutions=[small]) as made:
        if not bumps(made.folder):
            made.substitutions.append((r" --bump-revision \d+ --mark-compacted", ""))
        scene = Scene(made)
        scene.set_up()
        yield scene


@pytest.fixture
def scene(whole_scene: Scene) -> Iterator[Scene]:
    yield whole_scene
    left, whole_scene._left = whole_scene._left, []
    assert not left, "not all of the runbook was typed"
    assert whole_scene.votes().conflicts == 0


def test_etcd_down(scene: Scene) -> None:
    scene.open("Etcd down")
    scene.kill("m2", "m3")
    scene.desk.wait_end("primary", Exit.STORE_FAILED)
    assert "ending: the store did not confirm the tower within 5 s: " in scene.desk.log("primary")
    scene.type("operator", "status")
    assert "the store does not answer" in scene.desk.said
    assert re.search(r"m1 .*3\.\d+\.\d+", scene.desk.said)
    scene.start_members("m2", "m3")
    scene.type("operator", "endpoint health")
    assert scene.desk.said.count("is healthy") == 3
    scene.start("primary")
    scene.wait_owner("primary")
    scene.type("operator", "status")


def test_member_lost(scene: Scene) -> None:
    scene.open("Member lost")
    scene.kill("m3")
    scene.wait_votes()  # two of three are enough
    scene.type("operator", "status")
    assert "PROBLEM: etcd m3 (" in scene.desk.said
    scene.type("operator", "member remove")
    scene.type("m3", "rm -rf")
    scene.desk.running.pop("m3")
    scene.type("m3", "--initial-cluster-state existing")
    scene.desk.wait_for("m3", SERVES)
    scene.wait_votes()
    scene.type("operator", "endpoint health")
    assert scene.desk.said.count("is healthy") == 3


def test_quota_full(scene: Scene) -> None:
    scene.open("Quota full")
    for number in range(2 * QUOTA >> 20):
        if "database space exceeded" in scene.tool("etcdctl", "put", f"other/{number}", stdin=os.urandom(1 << 20)):
            break
    scene.desk.wait_end("primary", Exit.STORE_FAILED)
    assert "its disk quota is used up" in scene.desk.log("primary")
    scene.type("operator", "status")
    assert scene.desk.typed[-1][1] in (Exit.UNHEALTHY, Exit.STORE_FAILED)
    assert "etcd has raised an alarm: " in scene.desk.said
    scene.type("operator", "alarm disarm")
    assert f"{scene.identity}/tower" in scene.desk.said
    scene.start("primary")
    scene.wait_owner("primary")
    scene.type("operator", "status")


def expire(certificate: Path, authority: Path) -> None:
    """Put a certificate that ended an hour ago in its place: same key, same names, same authority."""
    old, ca = load_certificates(certificate)[0], load_certificates(authority)[0]
    key = load_key(authority.with_name("etcd-ca-key.pem"))
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder().subject_name(old.subject).issuer_name(ca.subject).public_key(old.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=365)).not_valid_after(now - datetime.timedelta(hours=1))
    )  # fmt: skip
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    certificate.write_bytes(certificate_pem(builder.sign(key, hashes.SHA256())))


def test_certificate_expired(scene: Scene) -> None:
    scene.open("Certificate expired")
    certs, machines = scene.desk.folder / "operator" / "certs", scene.desk.folder
    for name in ("validator", "m1"):
        expire(certs / f"{name}.pem", certs / "etcd-ca.pem")
    (machines / "m1" / "certs" / "etcd.pem").write_bytes((certs / "m1.pem").read_bytes())
    for machine in ("primary", "secondary"):
        (machines / machine / "certs" / "validator.pem").write_bytes((certs / "validator.pem").read_bytes())
    scene.wait_votes()  # what is connected stays connected
    for machine in ("primary", "secondary"):
        scene.end(machine)
    scene.start("primary")
    scene.desk.wait_end("primary", Exit.REFUSED)
    assert "--etcd-cert-file: certs/validator.pem expired on " in scene.desk.log("primary")
    scene.type("operator", "certs show")
    scene.type("operator", "certs renew")
    scene.start("secondary")
    scene.wait_standby("secondary")
    scene.start("primary")
    scene.wait_owner("primary")
    scene.type("operator", "certs show")


def test_both_claim_to_be_primary(scene: Scene) -> None:
    scene.open("Both validators claim to be primary")
    os.kill(scene.desk.running["primary"].pid, signal.SIGSTOP)  # what it last said of itself: it votes
    scene.type("operator", "history")
    assert "holder:    primary " in scene.desk.said
    scene.type("secondary", "set-identity")
    assert scene.state("secondary")["voting"] is True
    os.kill(scene.desk.running["primary"].pid, signal.SIGCONT)
    scene.desk.wait_end("primary", *THAWED)
    scene.wait_owner("secondary")
    scene.type("operator", "status")
    assert "holder:    secondary " in scene.desk.said


def test_tower_missing(scene: Scene) -> None:
    scene.open("Tower missing")
    *_, export = scene._left
    scene.end("primary")
    scene.desk.type(export)  # the last block of the page comes first in time: how one gets a last tower
    scene._left.remove(export)
    scene.tool("etcdctl", "del", "--prefix", f"{scene.identity}/")
    scene.type("operator", "status")
    scene.start("primary")
    assert "no tower is stored for " in scene.desk.wait_for("primary", "no tower is stored for .*")
    scene.desk.wait_for("primary", WAITS)
    assert scene.sent("primary") == []
    scene.end("primary")
    scene.type("operator", "tower import")
    scene.start("primary")
    scene.wait_owner("primary")
    scene.type("operator", "status")


def test_restore_of_a_backup(scene: Scene) -> None:
    scene.open("Restore of a backup")
    print(f"etcdutl knows --bump-revision: {bumps(scene.desk.folder)}")
    scene.type("operator", "snapshot save")
    before = int(scene.state("primary")["fence"])
    # a claim that the backup does not know, of an owner that then freezes: it is the one to be afraid of
    taken = blocks(PAGE, "Both validators claim to be primary")[-2]
    scene.desk.type(taken)
    scene.desk.wait_end("primary", Exit.LOST_FENCE)
    scene.wait_owner("secondary")
    stale = int(scene.state("secondary")["fence"])
    os.kill(scene.desk.running["secondary"].pid, signal.SIGSTOP)
    frozen_at = len(scene.sent("secondary"))
    scene.kill(*MEMBERS)
    for member in MEMBERS:
        scene.desk.running.pop(member)
        scene.type(member, "snapshot restore")
    scene.start_members()
    scene.type("operator", "etcdctl del")
    scene.type("operator", "status")
    assert "no vote is stored yet" in scene.desk.said
    scene.start("primary")
    scene.desk.wait_for("primary", WAITS)
    fence = int(scene.state("primary")["fence"])
    os.kill(scene.desk.running["secondary"].pid, signal.SIGCONT)
    scene.desk.wait_end("secondary", *THAWED)
    # one vote may be on its way at the freeze, or its confirmation by the lost store lie unread in the frozen process
    assert len(scene.sent("secondary")) <= frozen_at + 1
    assert scene.sent("primary") == []  # it waits
    scene.wait_owner("primary")
    assert fence > before + (1_000_000_000 if bumps(scene.desk.folder) else 0)
    scene.type("operator", "history")
    print(f"fence in the backup {before}, of the frozen one {stale}, after the restore {fence}")


def test_every_runbook_is_played() -> None:
    headings = re.findall(r"^## (.+)$", PAGE.read_text(), re.MULTILINE)
    assert headings == RUNBOOKS
    assert played == set(RUNBOOKS) or not played, "run the whole module"


def test_the_alerts_that_the_page_names_exist() -> None:
    alerts = set(re.findall(r"alert: (\w+)", (ROOT / "contrib" / "prometheus" / "alerts.yml").read_text()))
    named = set(re.findall(r"\b(?:Tower|Etcd)[A-Z]\w+", PAGE.read_text()))
    assert len(named) >= 6
    assert named <= alerts
