"""Roles in a real etcd: one validator's certificate opens neither the keys of another's, nor is it shut out of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.etcd import open_store, run_etcd
from tower.errors import StoreUnavailable
from tower.keys import Keypair, write_keypair_file
from tower.localnet.etcd_server import EtcdServer
from tower.store import Claimed, Committed, Fence, Kind, Owner, Unknown
from tower.stores.etcd import EtcdStore
from tower.validator.certs import make_certificates

T = 10.0
USERS = ("a-primary", "a-secondary", "b-primary", "root", "validator")  # the last one gets no role


@dataclass
class Shared:
    """An etcd that two validators share, with authentication on."""

    server: EtcdServer
    a: Keypair
    b: Keypair
    folder: Path

    def store(self, user: str) -> EtcdStore:
        certs = self.server.certs_dir
        cert, key = (certs / f"{user}.pem").read_bytes(), (certs / f"{user}-key.pem").read_bytes()
        return open_store(self.server, cert=cert, key=key)

    def flags(self, user: str) -> list[str]:
        certs = self.server.certs_dir
        host, port = self.server.endpoint
        return [
            "--etcd-endpoint", f"{host}:{port}", "--etcd-cacert-file", str(certs / "etcd-ca.pem"),
            "--etcd-cert-file", str(certs / f"{user}.pem"), "--etcd-key-file", str(certs / f"{user}-key.pem"),
        ]  # fmt: skip

    def command(self, user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`openos-validator` as the one typed it whose certificate `user` is."""
        line = [sys.executable, "-m", "tower.validator.cli", *arguments, *self.flags(user)]
        return subprocess.run(line, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False)

    def done(self, user: str, *arguments: str) -> list[str]:
        """The same, which must succeed; its lines."""
        done = self.command(user, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    folder = tmp_path_factory.mktemp("roles")
    named = [part for user in USERS for part in ("--validator", user)]
    made = subprocess.run(
        [sys.executable, "-m", "tower.validator.cli", "certs", "make", *named],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with run_etcd(folder, folder / "certs") as server:
        found = Shared(server, Keypair.generate(), Keypair.generate(), folder)
        for name, pair in (("a", found.a), ("b", found.b)):
            write_keypair_file(folder / f"{name}.json", pair)
            store = found.store(f"{name}-primary")  # an etcd in use: both have a tower when the doors are closed
            claimed = store.claim(store.look(pair.address, T), Owner(f"{name}-primary", "start"), T)
            assert isinstance(claimed, Claimed)
            assert isinstance(store.begin_store(claimed.fence, 0, name.encode(), T).outcome(T), Committed)
            store.close()
        found.done("validator", "access", "grant", found.a.address, "--user", "a-primary", "--user", "a-secondary")
        found.done("validator", "access", "grant", "b.json", "--user", "b-primary")
        found.done("root", "access", "enable")
        yield found


DENIED = "does not permit this: etcdserver: permission denied; check --etcd-cert-file"


def test_the_owner_of_a_role_does_everything_with_its_own_identity(shared: Shared) -> None:
    primary, secondary = shared.store("a-primary"), shared.store("a-secondary")
    seen = secondary.look(shared.a.address, T)
    assert seen.record is not None
    claimed = primary.claim(seen, Owner("a-primary", "again"), T)
    assert isinstance(claimed, Claimed)
    lost = threading.Event()
    watch = primary.watch(claimed.fence, lambda revision: lost.set())
    stored = primary.begin_store(claimed.fence, claimed.record_revision, b"tower", T).outcome(T)
    assert isinstance(stored, Committed)
    blocks = primary.begin_store(claimed.fence, 0, b"blocks", T, Kind.BLOCKS).outcome(T)
    assert isinstance(blocks, Committed)
    primary.put_note(shared.a.address, "spare", b"{}", T)
    assert secondary.notes(shared.a.address, T) == {"spare": b"{}"}
    taken = secondary.claim(secondary.look(shared.a.address, T), Owner("a-secondary", "set-identity"), T)
    assert isinstance(taken, Claimed)
    assert lost.wait(T), "the watch tells the old owner"
    assert [owner.who for owner in primary.history(shared.a.address, T)][-2:] == ["a-primary", "a-secondary"]
    watch.close()
    for store in (primary, secondary):
        store.close()


@pytest.mark.parametrize("user", ["b-primary", "validator", "etcd"])
def test_nobody_else_reads_or_writes_it(user: str, shared: Shared) -> None:
    """Also not by the other validator, nor with a member's certificate, which etcd's own gateway shows."""
    address = shared.a.address
    owner, other = shared.store("a-primary"), shared.store(user)
    before = owner.look(address, T)
    known = owner.history(address, T), owner.notes(address, T)
    assert before.instance is not None
    fence = Fence(address, before.instance_revision, before.instance)  # whatever else is known of it
    for read in (other.look, other.history, other.notes):
        with pytest.raises(StoreUnavailable, match=DENIED):
            read(address, T)
    with pytest.raises(StoreUnavailable, match=DENIED):
        other.identities(T)
    with pytest.raises(StoreUnavailable, match=DENIED):
        other.put_note(address, "handover", b"{}", 0.3)
    claimed = other.claim(before, Owner("thief", "theft"), 0.3)
    assert isinstance(claimed, Unknown)
    assert DENIED in claimed.cause
    for kind, revision in ((Kind.TOWER, before.record_revision), (Kind.BLOCKS, before.blocks_revision)):
        stored = other.begin_store(fence, revision, b"forged", 0.3, kind).outcome(0.3)
        assert isinstance(stored, Unknown)
        assert DENIED in stored.cause
    lost = threading.Event()
    watch = other.watch(fence, lambda revision: lost.set())
    assert owner.look(address, T) == before
    assert (owner.history(address, T), owner.notes(address, T)) == known
    watch.close()
    assert not lost.is_set()
    for store in (owner, other):
        store.close()


def test_the_commands_of_a_validator_work_or_say_why_not(shared: Shared) -> None:
    own, of_b = shared.a.address, shared.b.address
    storage = ("--tower-storage", "etcd")
    rows = json.loads("\n".join(shared.done("a-primary", "history", own, "--output", "json", *storage)))
    assert rows[0]["who"] == "a-primary"
    seen = shared.command("a-primary", "watch", own, "--count", "1", *storage)
    assert seen.returncode == 0
    assert "a-" in seen.stdout
    for line in (("status", of_b), ("history", of_b), ("list",), ("watch", of_b, "--count", "1")):
        denied = shared.command("a-primary", *line, *storage)
        assert denied.returncode == 11, denied.stdout
        assert denied.stderr.endswith(f"{DENIED}\n")
        assert denied.stderr.count("\n") == 1
    listed = json.loads("\n".join(shared.done("root", "list", "--output", "json", *storage)))
    assert {row["identity"] for row in listed} == {own, of_b}


def test_the_doctor_sees_that_roles_are_on_and_works_under_one(shared: Shared) -> None:
    done = shared.command("a-secondary", "doctor", "--output", "json", "--measure-writes")
    findings: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    levels = {(each["check"], each["level"]): each["found"] for each in findings}
    assert levels["etcd-roles", "ok"] == "this certificate opens only what its roles name"
    assert ("etcd-read-latency", "ok") in levels
    assert ("etcd-write-latency", "ok") in levels
    assert not {check for check, level in levels if level == "fail"} - {"etcd-version"}
    as_root = json.loads(shared.command("root", "doctor", "--output", "json").stdout)["findings"]
    (warned,) = (each for each in as_root if each["check"] == "etcd-roles")
    assert (warned["level"], warned["found"]) == ("warn", "this certificate opens the keys of 2 identities")


def test_only_root_sees_and_changes_roles(shared: Shared) -> None:
    lines = shared.done("root", "access", "show")
    assert lines[0] == "authentication is on"
    assert f"{shared.a.address}: a-primary, a-secondary" in lines
    document = json.loads("\n".join(shared.done("root", "access", "show", "--output", "json")))
    assert document["identities"] == {shared.a.address: ["a-primary", "a-secondary"], shared.b.address: ["b-primary"]}
    for user in ("a-primary", "validator"):
        for line in (("show",), ("grant", shared.a.address, "--user", user), ("disable",), ("revoke", "b-primary")):
            refused = shared.command(user, "access", *line)
            assert refused.returncode == 1
            # which question is the first that only root may ask depends on the release
            only_root = r"does not permit (AuthStatus|UserList); only the user root may ask or change this once it is on"
            assert re.search(only_root, refused.stderr)
            assert refused.stderr.count("\n") == 1
    assert shared.done("root", "access", "show") == lines


def test_a_dry_run_changes_nothing_and_a_second_run_does_nothing(shared: Shared) -> None:
    lines = shared.done("root", "access", "show")
    grant = ("access", "grant", shared.b.address, "--user", "b-secondary")
    role = f"tower-{shared.b.address}"
    words = ["make the user b-secondary, without a password", "give the role to b-secondary"]
    assert shared.done("root", *grant, "--dry-run") == [f"would {each}" for each in words]
    assert shared.done("root", "access", "revoke", "b-primary", "--dry-run") == ["would remove the user b-primary"]
    assert shared.done("root", "access", "disable", "--dry-run") == ["would switch authentication off"]
    assert shared.done("root", "access", "show") == lines
    assert shared.done("root", *grant) == words
    assert shared.done("root", *grant) == ["nothing to do: it is so already"]
    assert f"user b-secondary: {role}" in shared.done("root", "access", "show")
    assert shared.done("root", "access", "revoke", "b-secondary") == ["remove the user b-secondary"]
    assert shared.done("root", "access", "show") == lines


def test_a_certificate_whose_user_is_removed_opens_nothing_at_once(shared: Shared) -> None:
    make_certificates(shared.server.certs_dir, members={}, validators=("leaving",), keep_authority=True)
    shared.done("root", "access", "grant", shared.b.address, "--user", "leaving")
    store = shared.store("leaving")
    assert store.look(shared.b.address, T).record == b"b"
    shared.done("root", "access", "revoke", "leaving")
    with pytest.raises(StoreUnavailable, match=DENIED):
        store.look(shared.b.address, T)  # on the connection that was open all the while
    store.close()


def test_without_root_it_is_not_switched_on_and_an_owner_is_not_shut_out(tmp_path: Path) -> None:
    make_certificates(tmp_path / "certs", validators=USERS)
    with run_etcd(tmp_path, tmp_path / "certs") as server:
        own = Shared(server, Keypair.generate(), Keypair.generate(), tmp_path)
        store = own.store("validator")
        assert isinstance(store.claim(store.look(own.a.address, T), Owner("x", "start"), T), Claimed)
        as_validator = own.command("validator", "access", "enable")
        assert as_validator.returncode == 1
        assert "the certificate in use is 'validator''s; once authentication is on, root alone" in as_validator.stderr
        ungranted = own.command("root", "access", "enable")
        assert ungranted.returncode == 1
        assert f"nobody has the role of {own.a.address}: whoever votes with it would be shut out" in ungranted.stderr
        assert own.done("root", "access", "show") == [
            "authentication is off: every client certificate of the authority may do everything; access enable"
        ]
        assert store.look(own.a.address, T).instance_revision > 0
        store.close()
