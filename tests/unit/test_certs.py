"""The certificates that we make: names, modes, purposes, what OpenSSL says, and that nothing is overwritten."""

from __future__ import annotations

import errno
import ipaddress
import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tower.errors import InvalidInput
from tower.validator.certs import FILE_NAMES, make_certificates


def common_name(name: x509.Name) -> str:
    return str(name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def test_six_files_that_belong_together(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    paths = make_certificates(folder, hosts=["etcd-1.example.org", "10.0.0.7", "::1"], days=30)
    assert [path.name for path in paths] == list(FILE_NAMES)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILE_NAMES)
    modes = {path.name: path.stat().st_mode & 0o777 for path in paths}
    assert {name for name, mode in modes.items() if mode == 0o600} == {n for n in FILE_NAMES if n.endswith("-key.pem")}

    read = {path.name: path.read_bytes() for path in paths}
    certs = {name: x509.load_pem_x509_certificate(read[f"{name}.pem"]) for name in ("etcd-ca", "etcd", "validator")}
    for name, cert in certs.items():
        key = serialization.load_pem_private_key(read[f"{name}-key.pem"], password=None)
        assert key.public_key() == cert.public_key()
        cert.verify_directly_issued_by(certs["etcd-ca"])
        assert common_name(cert.subject) == ("tower etcd CA" if name == "etcd-ca" else name)
        assert (cert.not_valid_after_utc - cert.not_valid_before_utc).days == (3650 if name == "etcd-ca" else 30)
    usages = {
        name: set(certs[name].extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) for name in ("etcd", "validator")
    }
    server, client = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
    assert usages == {"etcd": {server, client}, "validator": {client}}
    names = certs["etcd"].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["etcd-1.example.org"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("10.0.0.7"),
        ipaddress.ip_address("::1"),
    ]
    context = ssl.create_default_context(cafile=folder / "etcd-ca.pem")
    context.load_cert_chain(folder / "validator.pem", folder / "validator-key.pem")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not on PATH")
def test_openssl_accepts_them_at_its_strictest(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    for name, purpose in (("etcd", "sslserver"), ("etcd", "sslclient"), ("validator", "sslclient")):
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", str(tmp_path / "etcd-ca.pem")]
        result = subprocess.run([*command, str(tmp_path / f"{name}.pem")], capture_output=True, text=True, timeout=30)
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", FILE_NAMES)
def test_nothing_is_overwritten_and_nothing_written_beside_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(InvalidInput, match=f"{name}: exists"):
        make_certificates(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"
    make_certificates(tmp_path, overwrite=True)
    assert "BEGIN" in (tmp_path / name).read_text()
    assert (tmp_path / name).stat().st_mode & 0o777 == (0o600 if "key" in name else 0o644)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"hosts": ["etcd host"]}, "--host"),
        ({"hosts": ["10.0.0.300"]}, "--host"),
        ({"hosts": ["10.0.0.1:2379"]}, "--host"),
        ({"hosts": []}, "no host"),
        ({"days": 0}, "--days"),
        ({"days": 100_000}, "--days"),
        ({"days": 30, "ca_days": 29}, "--ca-days"),
        ({"ca_days": 100_000}, "--ca-days"),
        ({"members": {"etcd-1": ["etcd host"]}}, "--member"),
        ({"members": {"../etcd": []}}, "--member"),
        ({"members": {"etcd-key": []}}, "--member"),
        ({"members": {"etcd-ca": []}}, "--member"),
        ({"members": {f"m{n}": [] for n in range(101)}}, "--member"),
        ({"members": {}, "validators": [], "keep_authority": True}, "--keep-ca: nothing to add"),
        ({"validators": ["a.pem"]}, "--validator"),
        ({"validators": ["v", "v"]}, "named twice"),
        ({"members": {"v": []}, "validators": ["v"]}, "named twice"),
        ({"validators": ["tower etcd CA"]}, "--validator"),
        ({"validators": ["v"], "ca_name": "v"}, "authority"),
        ({"ca_name": "etcd"}, "authority"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_written(tmp_path: Path, arguments: dict[str, object], names: str) -> None:
    with pytest.raises(InvalidInput, match=names):
        make_certificates(tmp_path / "certs", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "certs").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=f"{tmp_path / 'no' / 'where'}: cannot be written"):
        make_certificates(tmp_path / "no" / "where")


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def alternatives(path: Path) -> set[str]:
    try:
        names = load(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}


def test_members_have_their_own_hosts_and_the_common_ones(tmp_path: Path) -> None:
    members = {"etcd-1": ["10.0.0.1"], "etcd-2": ["10.0.0.2", "etcd-2.example", "localhost"], "etcd-3": []}
    paths = make_certificates(tmp_path, members=members, validators=["primary", "secondary"], days=10, ca_days=20)
    names = ["etcd-ca", *members, "primary", "secondary"]
    assert [path.name for path in paths] == [f"{name}{end}" for name in names for end in (".pem", "-key.pem")]
    common = {"localhost", "127.0.0.1"}
    assert {name: alternatives(tmp_path / f"{name}.pem") for name in names[1:]} == {
        "etcd-1": {"10.0.0.1", *common},
        "etcd-2": {"10.0.0.2", "etcd-2.example", *common},
        "etcd-3": common,
        "primary": set(),
        "secondary": set(),
    }
    for name in names[1:]:
        certificate = load(tmp_path / f"{name}.pem")
        assert common_name(certificate.subject) == name
        certificate.verify_directly_issued_by(load(tmp_path / "etcd-ca.pem"))
        assert (tmp_path / f"{name}-key.pem").stat().st_mode & 0o777 == 0o600


def test_more_of_them_by_the_same_authority(tmp_path: Path) -> None:
    make_certificates(tmp_path, ca_days=100, days=50)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    make_certificates(tmp_path, members={"etcd-4": ["10.0.0.4"]}, validators=["third"], days=1825, keep_authority=True)
    assert before == {name: (tmp_path / name).read_bytes() for name in before}
    authority = load(tmp_path / "etcd-ca.pem")
    for name in ("etcd-4", "third"):
        certificate = load(tmp_path / f"{name}.pem")
        certificate.verify_directly_issued_by(authority)
        assert certificate.not_valid_after_utc == authority.not_valid_after_utc  # never longer than what proves it
    with pytest.raises(InvalidInput, match=r"third.pem: exists and is not overwritten; --keep-ca to add"):
        make_certificates(tmp_path, members={"etcd-5": []}, validators=["third"], keep_authority=True)
    assert not (tmp_path / "etcd-5.pem").exists()
    (tmp_path / "etcd-ca-key.pem").unlink()
    with pytest.raises(InvalidInput, match=r"etcd-ca-key.pem: missing; new certificates need the authority and its key"):
        make_certificates(tmp_path, members={"etcd-5": []}, validators=[], keep_authority=True)


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_key_is_never_anyone_elses(tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at when the file has just been created: a mode set later would leave a moment."""
    seen: dict[str, int] = {}
    create = os.open

    def watched(path: object, flags: int, mode: int = 0o777, **more: object) -> int:
        handle = create(path, flags, mode, **more)  # type: ignore[arg-type]
        if flags & os.O_CREAT:
            seen[Path(str(path)).name] = os.fstat(handle).st_mode & 0o777
        return handle

    monkeypatch.setattr(os, "open", watched)
    before = os.umask(umask)
    try:
        make_certificates(tmp_path)
        make_certificates(tmp_path, overwrite=True)
    finally:
        os.umask(before)
    keys = {name: mode for name, mode in seen.items() if "-key.pem" in name}
    assert len(keys) == 6  # three new ones, and three that were prepared beside them
    assert set(keys.values()) == {0o600}
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {name: 0o600 if "-key" in name else 0o644 for name in FILE_NAMES}


def test_what_cannot_be_written_whole_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "etcd-key.pem"))
        flush(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InvalidInput, match=r"etcd-key.pem: cannot be written: No space left on device"):
        make_certificates(tmp_path)
    assert list(tmp_path.iterdir()) == []
