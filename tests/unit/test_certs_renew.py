"""Renewing: what stays and what changes, that keys are kept, and what a renewal leaves that dies at any step."""

from __future__ import annotations

import datetime
import fcntl
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.etcd import guide_shaped_certificates
from tower.errors import InvalidInput
from tower.validator import certs_renew
from tower.validator.cert_files import certificate_pem, load_certificates, load_key, same_key
from tower.validator.certs import Authority, make_certificates, sign
from tower.validator.certs_renew import find_certificate, renew

DAY = datetime.timedelta(days=1)


def certificate(path: Path) -> x509.Certificate:
    return load_certificates(path)[0]


def belongs(path: Path) -> bool:
    return same_key(certificate(path), load_key(path.with_name(path.name.replace(".pem", "-key.pem"))))


def extensions(of: x509.Certificate) -> dict[str, tuple[object, bool]]:
    """All but those that name a key."""
    keys = (x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier)
    return {str(each.oid): (each.value, each.critical) for each in of.extensions if not isinstance(each.value, keys)}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_certificates(tmp_path / "certs", members={"etcd-1": ["10.0.0.1"]}, days=100)
    return tmp_path / "certs"


@pytest.mark.parametrize("name", ["etcd-1", "validator"])
def test_the_same_for_a_new_time_with_a_new_key(folder: Path, name: str) -> None:
    path, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    old, old_files = certificate(path), contents(folder)
    done = renew(path, days=200)
    new = certificate(path)
    assert (new.subject, new.issuer, extensions(new)) == (old.subject, old.issuer, extensions(old))
    assert new.serial_number != old.serial_number
    assert not same_key(old, load_key(key))
    assert belongs(path)
    new.verify_directly_issued_by(certificate(folder / "etcd-ca.pem"))
    assert (new.not_valid_after_utc - new.not_valid_before_utc).days == 200
    assert key.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_mode & 0o777 == 0o644
    assert [backup.read_bytes() for backup in done.backups] == [old_files[path.name], old_files[key.name]]
    assert [backup.stat().st_mode & 0o777 for backup in done.backups] == [0o644, 0o600]
    assert all(re.fullmatch(rf"{name}(-key)?\.pem\.\d{{8}}T\d{{6}}Z", backup.name) for backup in done.backups)
    assert (done.new_key, done.not_after, done.notes) == (True, new.not_valid_after_utc, ())
    assert {*contents(folder)} == {*old_files, *(backup.name for backup in done.backups)}
    again = renew(path)  # within the same second or not: no backup replaces another
    assert (again.not_after - done.not_after).total_seconds() < 60  # as long as before
    assert len(contents(folder)) == len(old_files) + 4


def test_with_the_old_key_and_without_a_backup(folder: Path) -> None:
    path = folder / "etcd-1.pem"
    before = contents(folder)
    done = renew(path, keep_key=True, backup=False)
    after = contents(folder)
    assert {name for name in before if before[name] != after[name]} == {"etcd-1.pem"}
    assert set(after) == set(before)
    assert belongs(path)
    assert (done.new_key, done.backups) == (False, ())


def test_an_authority_keeps_its_key_and_what_it_signed_stays_valid(folder: Path) -> None:
    old = certificate(folder / "etcd-ca.pem")
    done = renew(folder / "etcd-ca.pem", days=7000)
    new = certificate(folder / "etcd-ca.pem")
    assert new.not_valid_after_utc - old.not_valid_after_utc > 3000 * DAY
    assert extensions(new) == extensions(old)
    assert not done.new_key
    for name in ("etcd-1", "validator"):
        certificate(folder / f"{name}.pem").verify_directly_issued_by(new)
    assert renew(folder / "etcd-1.pem", days=6000).notes == ()


def test_no_longer_than_the_authority(folder: Path) -> None:
    done = renew(folder / "validator.pem", days=7000)
    assert done.not_after == certificate(folder / "etcd-ca.pem").not_valid_after_utc
    assert "not longer valid than its authority; renew that too: openos-validator certs renew etcd-ca" in done.notes[0]


def test_the_authority_may_be_elsewhere(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "safe"
    kept.mkdir()
    for name in ("etcd-ca.pem", "etcd-ca-key.pem"):
        (folder / name).rename(kept / name)
    with pytest.raises(InvalidInput, match=r"etcd-ca.pem: missing; .* name its folder with --ca-dir"):
        renew(folder / "validator.pem")
    renew(folder / "validator.pem", ca_dir=kept)
    certificate(folder / "validator.pem").verify_directly_issued_by(certificate(kept / "etcd-ca.pem"))


def test_certificates_of_the_guide_stay_of_their_kind(tmp_path: Path) -> None:
    folder = guide_shaped_certificates(tmp_path / "guide")
    old = certificate(folder / "etcd.pem")
    done = renew(folder / "etcd.pem")
    new = certificate(folder / "etcd.pem")
    key = load_key(folder / "etcd-key.pem")
    assert isinstance(key, rsa.RSAPrivateKey)
    assert key.key_size == 2048
    assert extensions(new) == extensions(old)
    with pytest.raises(x509.ExtensionNotFound):  # see what the module says of it
        new.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    assert any("others than its owner could use the old key" in note for note in done.notes)
    assert (folder / "etcd-key.pem").stat().st_mode & 0o777 == 0o600
    new.verify_directly_issued_by(certificate(folder / "etcd-ca.pem"))


class Died(BaseException):
    """What a SIGKILL would be."""


def dies(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """The `number`th call of `os.<name>` from now on does not happen, nor anything after it."""
    real: Callable[..., object] = getattr(os, name)
    calls = []

    def call(*arguments: object, **more: object) -> object:
        calls.append(arguments)
        if len(calls) >= number:
            raise Died
        return real(*arguments, **more)

    monkeypatch.setattr(os, name, call)


STEPS = [("fsync", n) for n in range(1, 7)] + [("replace", 1), ("replace", 2)]


@pytest.mark.parametrize(("name", "number"), STEPS, ids=[f"{name} {number}" for name, number in STEPS])
def test_a_death_at_any_step_leaves_a_pair_or_what_the_next_renewal_finishes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    path = folder / "etcd-1.pem"
    old = {name: data for name, data in contents(folder).items() if name.startswith("etcd-1")}
    with monkeypatch.context() as patch:
        dies(patch, name, number)
        with pytest.raises(Died):
            renew(path)
    half = (name, number) in (("replace", 2), ("replace", 3))
    assert belongs(path) is not half
    replaced = (name, number) == ("fsync", 6)  # only the names were not flushed yet
    if not half and not replaced:
        assert old == {name: (folder / name).read_bytes() for name in old}
    assert all(each.stat().st_mode & 0o077 == 0 for each in folder.iterdir() if "-key.pem" in each.name)

    prepared = certificate(folder / ".etcd-1.pem.new") if half else None
    done = renew(path)
    assert belongs(path)
    assert not [each for each in folder.iterdir() if each.name.startswith(".")]
    finished = [note for note in done.notes if "an earlier renewal had been interrupted" in note]
    assert len(finished) == half
    if prepared is not None:  # it was put into its place, and is what this renewal has a backup of
        assert certificate(done.backups[0]) == prepared


@pytest.mark.parametrize("fails", [1, 2, 3, 4])
def test_a_full_disk_replaces_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, fails: int) -> None:
    before = contents(folder)

    def full(path: Path, *_: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    real, calls = certs_renew.write_new, []

    def nth(path: Path, data: bytes, mode: int, owner: tuple[int, int] | None = None) -> None:
        calls.append(path)
        (full if len(calls) == fails else real)(path, data, mode, owner)

    monkeypatch.setattr(certs_renew, "write_new", nth)
    with pytest.raises(InvalidInput, match="No space left on device; nothing was renewed"):
        renew(folder / "etcd-1.pem")
    assert contents(folder) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_files_stay_their_owners(folder: Path) -> None:
    """etcd runs as a user of its own, and must be able to read what root has renewed."""
    for name in ("etcd-1.pem", "etcd-1-key.pem"):
        os.chown(folder / name, 12345, 12346)
    done = renew(folder / "etcd-1.pem")
    for path in (done.certificate, done.key, *done.backups):
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)


def test_two_renewals_at_once(folder: Path) -> None:
    before = contents(folder)
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(InvalidInput, match="another renewal is under way there"):
            renew(folder / "etcd-1.pem")
    finally:
        os.close(handle)
    assert contents(folder) == before


def unlink(folder: Path, name: str) -> None:
    (folder / name).unlink()


def swap_authority(folder: Path) -> None:
    other = folder.parent / "other"
    make_certificates(other)
    for name in ("etcd-ca.pem", "etcd-ca-key.pem"):
        (folder / name).write_bytes((other / name).read_bytes())


def lone_authority_key(folder: Path) -> None:
    (folder / "etcd-ca-key.pem").write_bytes((folder / "validator-key.pem").read_bytes())


def encrypted_authority_key(folder: Path) -> None:
    key = load_key(folder / "etcd-ca-key.pem")
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"word"))
    (folder / "etcd-ca-key.pem").write_bytes(key.private_bytes(*form))


def two_in_one(folder: Path) -> None:
    with open(folder / "etcd-1.pem", "ab") as file:
        file.write((folder / "validator.pem").read_bytes())


@pytest.mark.parametrize(
    ("spoil", "arguments", "expected"),
    [
        (lambda folder: unlink(folder, "etcd-1.pem"), {}, r"etcd-1.pem: missing; name a certificate whose key"),
        (lambda folder: unlink(folder, "etcd-1-key.pem"), {}, r"etcd-1-key.pem: missing; name a certificate whose key"),
        (lambda folder: unlink(folder, "etcd-ca-key.pem"), {}, r"etcd-ca-key.pem: missing; new certificates need"),
        (lambda folder: (folder / "etcd-1.pem").write_text("no"), {}, r"etcd-1.pem: holds no PEM certificate"),
        (two_in_one, {}, r"etcd-1.pem: holds 2 certificates; renew files with one"),
        (swap_authority, {}, r"etcd-1.pem: is not by the authority in .*etcd-ca.pem; name the folder of its own with --ca-dir"),
        (lone_authority_key, {}, r"etcd-ca-key.pem: does not belong to .*etcd-ca.pem; bring the pair together"),
        (encrypted_authority_key, {}, r"etcd-ca-key.pem: is encrypted; "),
        (lambda folder: None, {"days": 0}, r"0 days: --days takes 1 to 7300"),
        (lambda folder: (folder / "etcd-1-key.pem").write_bytes((folder / "validator-key.pem").read_bytes()),
         {"keep_key": True}, r"etcd-1-key.pem: does not belong to .*etcd-1.pem; renew it with a new key"),
    ],
    ids=["certificate", "key", "authority key", "no PEM", "two", "other authority", "lone", "encrypted", "days", "mismatch"],
)  # fmt: skip
def test_what_cannot_be_renewed_is_named_and_left(
    folder: Path, spoil: Callable[[Path], object], arguments: dict[str, int], expected: str
) -> None:
    spoil(folder)
    before = contents(folder)
    with pytest.raises(InvalidInput, match=expected):
        renew(folder / "etcd-1.pem", **arguments)  # type: ignore[arg-type]
    assert contents(folder) == before


def test_an_expired_authority_signs_nothing_and_can_be_renewed(folder: Path) -> None:
    authority = Authority.load(folder)
    subject = authority.certificate.subject
    basics = [(x509.BasicConstraints(ca=True, path_length=0), True)]
    ended = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=1)
    expired = sign(subject, subject, authority.key, authority.key, ended, basics)
    (folder / "etcd-ca.pem").write_bytes(certificate_pem(expired))
    before = contents(folder)
    with pytest.raises(InvalidInput, match=r"authority expired on .*; renew it first: openos-validator certs renew .*etcd-ca"):
        renew(folder / "etcd-1.pem")
    assert contents(folder) == before
    renew(folder / "etcd-ca.pem", days=3000)
    assert renew(folder / "etcd-1.pem").notes == ()
    certificate(folder / "etcd-1.pem").verify_directly_issued_by(certificate(folder / "etcd-ca.pem"))


def test_names_and_paths(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    certs = Path("certs")
    assert find_certificate("etcd-1", certs) == certs / "etcd-1.pem"
    assert find_certificate("etcd-1.pem", certs) == certs / "etcd-1.pem"
    assert find_certificate("certs/validator.pem", Path("elsewhere")) == Path("certs/validator.pem")
    monkeypatch.chdir(folder)
    assert find_certificate("etcd-1.pem", certs) == Path("etcd-1.pem")
