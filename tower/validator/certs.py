"""Makes the certificates of the guide: one authority, and a certificate each for etcd and for the validators.

File names are those of the guide. Unlike the guide's, the authority's name differs from the names in the certificates:
where they are equal, issuer equals subject and OpenSSL 3 (curl, Python) takes the server's certificate for a
self-signed one. etcd's and the validator's own TLS take both.

Keys are EC P-256 and not RSA as in the guide: made at once, small handshakes, and accepted by every tool in the guide.
The server's certificate also serves as a client's, because etcd's own HTTP gateway calls etcd with it.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tower.errors import InvalidInput

__all__ = ["DAYS", "FILE_NAMES", "make_certificates"]

DAYS = 1825
DAYS_MAX = 7300
CLOCK_SKEW = datetime.timedelta(hours=1)  # a certificate is valid this long before it is made
FILE_NAMES = ("etcd-ca.pem", "etcd-ca-key.pem", "etcd.pem", "etcd-key.pem", "validator.pem", "validator-key.pem")
HOST_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*")


def _alternative_names(hosts: Iterable[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            # Digits and dots alone would be an address that is none, and match nothing.
            if not HOST_NAME.fullmatch(host) or re.fullmatch(r"[0-9.]+", host):
                raise InvalidInput(f"{host!r} is no host name and no IP address; --host takes one of these") from None
            names.append(x509.DNSName(host))
    if not names:
        raise InvalidInput("no host: name at least one host or address under which etcd is reached")
    return names


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


class _Authority:
    def __init__(self, name: str, days: int) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        self._valid = (now - CLOCK_SKEW, now + datetime.timedelta(days=days))
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (
            self._builder(self._name, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._valid[0])
            .not_valid_after(self._valid[1])
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )

    def issue(
        self, name: str, usages: Sequence[x509.ObjectIdentifier], names: Sequence[x509.GeneralName]
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            self._builder(subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256()), key


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write_new(path: Path, data: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def make_certificates(
    directory: str | Path,
    *,
    hosts: Sequence[str] = ("localhost", "127.0.0.1"),
    days: int = DAYS,
    ca_name: str = "tower etcd CA",
    overwrite: bool = False,
) -> list[Path]:
    """Write `FILE_NAMES` into `directory` (created if its parent exists) and return their paths; keys have mode 0600.

    `hosts` are the names and addresses under which validators reach etcd. Raises `InvalidInput` that names the file or
    the argument; where a file exists already nothing is written, unless `overwrite`.
    """
    folder = Path(directory)
    if not 1 <= days <= DAYS_MAX:
        raise InvalidInput(f"{days} days: --days takes 1 to {DAYS_MAX}")
    if ca_name in ("etcd", "validator") or not 1 <= len(ca_name) <= 64:
        raise InvalidInput(f"{ca_name!r}: the authority needs a name of 1 to 64 characters other than etcd and validator")
    names = _alternative_names(hosts)
    paths = [folder / name for name in FILE_NAMES]
    for path in paths:
        if os.path.lexists(path) and not overwrite:
            raise InvalidInput(f"{path}: exists and is not overwritten; move it away or choose another folder")

    authority = _Authority(ca_name, days)
    server, client = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
    etcd, etcd_key = authority.issue("etcd", [server, client], names)
    validator, validator_key = authority.issue("validator", [client], [])
    contents = (
        _certificate_pem(authority.certificate),
        _key_pem(authority.key),
        _certificate_pem(etcd),
        _key_pem(etcd_key),
        _certificate_pem(validator),
        _key_pem(validator_key),
    )
    try:
        folder.mkdir(exist_ok=True)
        for path, content in zip(paths, contents, strict=True):
            if overwrite:
                path.unlink(missing_ok=True)
            _write_new(path, content, 0o600 if path.name.endswith("-key.pem") else 0o644)
    except OSError as problem:
        raise InvalidInput(f"{problem.filename}: cannot be written: {problem.strerror}") from None
    return paths
