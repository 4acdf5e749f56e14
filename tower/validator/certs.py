"""Makes the certificates of the guide: one authority, and a certificate each for the members of etcd and for validators.

File names are those of the guide. Unlike the guide's, the authority's name differs from the names in the certificates:
where they are equal, issuer equals subject and OpenSSL 3 (curl, Python) takes the server's certificate for a
self-signed one. etcd's and the validator's own TLS take both.

Keys are EC P-256 and not RSA as in the guide: made at once, small handshakes, and accepted by every tool in the guide.
A member's certificate also serves as a client's: etcd's own HTTP gateway calls etcd with it, and members of a cluster
prove themselves to each other with it.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tower.errors import InvalidInput
from tower.validator.cert_files import (
    CERT_MODE,
    KEY_MODE,
    PrivateKey,
    certificate_pem,
    key_of,
    key_pem,
    load_certificates,
    load_key,
    same_key,
    write_all,
)

__all__ = ["AUTHORITY", "DAYS", "FILE_NAMES", "Authority", "check_days", "make_certificates", "sign"]

DAYS, CA_DAYS = 1825, 3650  # an authority outlives what it signs, so that this can be renewed
DAYS_MAX = 7300
CLOCK_SKEW = datetime.timedelta(hours=1)  # a certificate is valid this long before it is made
AUTHORITY = "etcd-ca"
FILE_NAMES = ("etcd-ca.pem", "etcd-ca-key.pem", "etcd.pem", "etcd-key.pem", "validator.pem", "validator-key.pem")
HOST_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*")
FILE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
COUNT_MAX = 100  # certificates of one kind at a time


def _alternative_names(hosts: Iterable[str], flag: str) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            # Digits and dots alone would be an address that is none, and match nothing.
            if not HOST_NAME.fullmatch(host) or re.fullmatch(r"[0-9.]+", host):
                raise InvalidInput(f"{host!r} is no host name and no IP address; {flag} takes one of these") from None
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


def check_days(days: int, flag: str = "--days") -> int:
    """`days` again; `InvalidInput` if no certificate is valid for so long."""
    if not 1 <= days <= DAYS_MAX:
        raise InvalidInput(f"{days} days: {flag} takes 1 to {DAYS_MAX}")
    return days


class Authority:
    """A certificate with its key, by which others are signed."""

    def __init__(self, certificate: x509.Certificate, key: PrivateKey) -> None:
        self.certificate, self.key = certificate, key

    @classmethod
    def make(cls, name: str, days: int) -> Authority:
        """A new one with a new key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        extensions = [
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False),
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (_usage(authority=True), True),
        ]
        now = datetime.datetime.now(datetime.UTC)
        certificate = sign(subject, subject, key, key, now + datetime.timedelta(days=days), extensions)
        return cls(certificate, key)

    @classmethod
    def load(cls, folder: Path, *, expired: bool = False) -> Authority:
        """The one in `folder` with its key. Raises `InvalidInput`, also if it has expired, unless `expired` may be."""
        path = folder / f"{AUTHORITY}.pem"
        for part in (path, key_of(path)):
            if not part.exists():
                fix = "do this where the authority is kept, or name its folder with --ca-dir"
                raise InvalidInput(f"{part}: missing; new certificates need the authority and its key: {fix}")
        certificate, key = load_certificates(path)[0], load_key(key_of(path))
        if not same_key(certificate, key):
            raise InvalidInput(f"{key_of(path)}: does not belong to {path}; bring the pair together again from a backup")
        day = certificate.not_valid_after_utc
        if not expired and day < datetime.datetime.now(datetime.UTC):
            fix = f"renew it first: openos-validator certs renew {path}"
            raise InvalidInput(f"{path}: the authority expired on {day:%Y-%m-%d %H:%M} UTC; {fix}")
        return cls(certificate, key)

    def issue(
        self,
        subject: x509.Name,
        key: PrivateKey,
        not_after: datetime.datetime,
        extensions: Sequence[tuple[x509.ExtensionType, bool]],
    ) -> x509.Certificate:
        """A certificate by this authority, never longer valid than itself."""
        until = min(not_after, self.certificate.not_valid_after_utc)
        return sign(subject, self.certificate.subject, key, self.key, until, extensions)

    def identifier(self) -> x509.AuthorityKeyIdentifier:
        """What its certificates name it by, beside its subject."""
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())


def sign(
    subject: x509.Name,
    issuer: x509.Name,
    key: PrivateKey,
    by: PrivateKey,
    not_after: datetime.datetime,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    """A certificate for `key`, signed with `by`, valid from an hour ago on."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime.now(datetime.UTC) - CLOCK_SKEW)
        .not_valid_after(not_after)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    edwards = isinstance(by, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey))  # these bring their own hash
    return builder.sign(by, None if edwards else hashes.SHA256())


def _leaf(
    authority: Authority, name: str, days: int, names: Sequence[x509.GeneralName]
) -> tuple[x509.Certificate, PrivateKey]:
    """A member's certificate, or a validator's, which has no alternative names."""
    key = ec.generate_private_key(ec.SECP256R1())
    server, client = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (authority.identifier(), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(authority=False), True),
        (x509.ExtendedKeyUsage([server, client] if names else [client]), False),
    ]
    if names:
        extensions.append((x509.SubjectAlternativeName(names), False))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    return authority.issue(subject, key, until, extensions), key


def _check_names(members: Mapping[str, object], validators: Sequence[str], ca_name: str) -> None:
    for flag, names in (("--member", list(members)), ("--validator", list(validators))):
        if len(names) > COUNT_MAX:
            raise InvalidInput(f"{flag}: at most {COUNT_MAX} at a time")
        for name in names:
            if not FILE_NAME.fullmatch(name) or name.endswith(("-key", ".pem")) or name == AUTHORITY:
                rule = f"up to 64 letters, digits, '.', '_' and '-', not ending in -key or .pem, and not {AUTHORITY}"
                raise InvalidInput(f"{flag}: {name!r} cannot name certificate files; take {rule}")
    every = [*members, *validators]
    twice = next((name for name in every if every.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput(f"{twice!r} is named twice; each certificate has files of its own")
    if ca_name in every or not 1 <= len(ca_name) <= 64:
        raise InvalidInput(f"{ca_name!r}: the authority needs a name of 1 to 64 characters that no certificate has")


def make_certificates(
    directory: str | Path,
    *,
    hosts: Sequence[str] = ("localhost", "127.0.0.1"),
    members: Mapping[str, Sequence[str]] | None = None,
    validators: Sequence[str] = ("validator",),
    days: int = DAYS,
    ca_days: int | None = None,
    ca_name: str = "tower etcd CA",
    overwrite: bool = False,
    keep_authority: bool = False,
) -> list[Path]:
    """Write an authority and certificates with their keys into `directory` and return the paths; keys have mode 0600.

    The directory is created if its parent exists. `members` are the members of etcd by name, each with names and
    addresses of its own; `hosts` are those that all have. Without `members` there is one, `etcd`: then the files are
    `FILE_NAMES`. Certificates are valid for `days`, the authority for `ca_days` (default: `CA_DAYS`, or `days` if that is
    more). With `keep_authority` the one in `directory` signs.

    Raises `InvalidInput` that names the file or the argument; where a file exists already nothing is written, unless
    `overwrite`.
    """
    folder = Path(directory)
    ca_days = max(check_days(days), CA_DAYS) if ca_days is None else check_days(ca_days, "--ca-days")
    if ca_days < days:
        raise InvalidInput(f"--ca-days: {ca_days} is less than --days {days}; nothing outlives its authority")
    validators = list(validators)
    _check_names({"etcd": ()} if members is None else members, validators, ca_name)
    if members is None:
        named = {"etcd": _alternative_names(hosts, "--host")}
    else:
        named = {name: _alternative_names([*own, *hosts], "--member") for name, own in members.items()}
    if keep_authority and not named and not validators:
        raise InvalidInput("--keep-ca: nothing to add; name what with --member or --validator")
    names = [*([] if keep_authority else [AUTHORITY]), *named, *validators]
    for path in (path for name in names for path in (folder / f"{name}.pem", key_of(folder / f"{name}.pem"))):
        if os.path.lexists(path) and not overwrite:
            fix = "--keep-ca to add to what is there, --force to replace it, or another --dir"
            raise InvalidInput(f"{path}: exists and is not overwritten; {fix}")

    authority = Authority.load(folder) if keep_authority else Authority.make(ca_name, ca_days)
    made = [] if keep_authority else [(AUTHORITY, authority.certificate, authority.key)]
    made += [(name, *_leaf(authority, name, days, alternatives)) for name, alternatives in named.items()]
    made += [(name, *_leaf(authority, name, days, [])) for name in validators]
    files: list[tuple[Path, bytes, int]] = []
    for name, certificate, key in made:
        path = folder / f"{name}.pem"
        files += [(path, certificate_pem(certificate), CERT_MODE), (key_of(path), key_pem(key), KEY_MODE)]
    try:
        folder.mkdir(exist_ok=True)
        write_all(files, overwrite=overwrite)
    except OSError as problem:
        raise InvalidInput(f"{problem.filename}: cannot be written: {problem.strerror}") from None
    return [path for path, _, _ in files]
