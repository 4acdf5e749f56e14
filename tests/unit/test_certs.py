"""The certificates that we make: names, modes, purposes, what OpenSSL says, and that nothing is overwritten."""

from __future__ import annotations

import ipaddress
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
        assert (cert.not_valid_after_utc - cert.not_valid_before_utc).days == 30
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
