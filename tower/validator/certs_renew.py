"""Renews a certificate where it lies: the same subject, names and key usage, by the same authority, for a new time.

The pair is replaced like this, under a lock on the folder: the old pair is copied beside itself under a dated name; the
new certificate and the new key are written whole under hidden names and flushed; the key is renamed into its place; the
certificate is renamed into its place. Each rename is atomic, the two together are not: no file system renames two files
in one step. A process that dies between them leaves the new key with the old certificate, and etcd refuses new
connections with such a pair; the new certificate then still lies under its hidden name, and the next `renew` of that
file puts it into its place before it does anything else. With the old key kept, only the certificate is replaced, in one
step.

An authority is renewed with its own key, so that what it has signed stays valid.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

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
    stage,
    sync_folder,
    write_new,
)
from tower.validator.certs import AUTHORITY, DAYS_MAX, Authority, check_days, sign

__all__ = ["Renewed", "find_certificate", "renew"]

RSA_BITS_MIN, RSA_BITS_MAX = 2048, 8192
BACKUPS_MAX = 100  # of one file within one second


@dataclass(frozen=True, slots=True)
class Renewed:
    """What a renewal did. `notes` are lines that the operator should read."""

    certificate: Path
    key: Path
    not_after: datetime.datetime
    new_key: bool
    backups: tuple[Path, ...]
    notes: tuple[str, ...]


def find_certificate(name: str, directory: Path) -> Path:
    """The certificate file that `name` means: a path, or a name as `certs make` took it, in `directory`."""
    if os.sep in name or (name.endswith(".pem") and Path(name).exists()):
        return Path(name)
    return directory / f"{name.removesuffix('.pem')}.pem"


def renew(
    path: Path, *, days: int | None = None, ca_dir: Path | None = None, keep_key: bool = False, backup: bool = True
) -> Renewed:
    """Renew the certificate in `path`, whose key lies beside it.

    It is valid for `days` from now (default: as long as the old one was), never longer than its authority, which is in
    `ca_dir` (default: the same folder). Raises `InvalidInput`; then nothing was renewed.
    """
    if days is not None:
        check_days(days)
    for part in (path, key_of(path)):
        if not part.is_file():
            raise InvalidInput(f"{part}: missing; name a certificate whose key lies beside it, like certs/etcd.pem")
    try:
        with _locked(path.parent):
            notes = _finish_interrupted(path)
            certificate, key = _next_pair(path, days, ca_dir or path.parent, keep_key, notes)
            if key is not None and key_of(path).stat().st_mode & 0o077:
                notes.append(f"{key_of(path)}: others than its owner could use the old key; the new one has mode 0600")
            backups = _replace(path, certificate_pem(certificate), None if key is None else key_pem(key), backup)
    except OSError as problem:
        where = problem.filename or path
        raise InvalidInput(f"{where}: cannot be written: {problem.strerror}; nothing was renewed") from None
    return Renewed(path, key_of(path), certificate.not_valid_after_utc, key is not None, tuple(backups), tuple(notes))


def _next_pair(
    path: Path, days: int | None, ca_dir: Path, keep_key: bool, notes: list[str]
) -> tuple[x509.Certificate, PrivateKey | None]:
    """The new certificate, and its key if that is a new one."""
    certificates = load_certificates(path)
    old = certificates[0]
    if len(certificates) > 1:
        raise InvalidInput(f"{path}: holds {len(certificates)} certificates; renew files with one")
    is_authority = _is_authority(old)
    key = load_key(key_of(path)) if keep_key or is_authority else _new_key_like(path, old)
    if (keep_key or is_authority) and not same_key(old, key):
        raise InvalidInput(f"{key_of(path)}: does not belong to {path}; renew it with a new key")
    lifetime = (old.not_valid_after_utc - old.not_valid_before_utc).days
    wanted = days if days is not None else min(max(lifetime, 1), DAYS_MAX)
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=wanted)
    if is_authority:
        if old.subject != old.issuer:
            raise InvalidInput(f"{path}: an authority under another one; only that one can renew it")
        return sign(old.subject, old.issuer, key, key, until, _extensions(old, key, Authority(old, key))), None
    authority = Authority.load(ca_dir)
    try:
        old.verify_directly_issued_by(authority.certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        whose = ca_dir / f"{AUTHORITY}.pem"
        raise InvalidInput(f"{path}: is not by the authority in {whose}; name the folder of its own with --ca-dir") from None
    new = authority.issue(old.subject, key, until, _extensions(old, key, authority))
    if new.not_valid_after_utc < until - datetime.timedelta(minutes=1):
        notes.append(
            f"{path}: not longer valid than its authority; renew that too: openos-validator certs renew {AUTHORITY}"
        )
    return new, None if keep_key else key


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _new_key_like(path: Path, old: x509.Certificate) -> PrivateKey:
    """A new key of the kind that the old certificate has."""
    public = old.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        return rsa.generate_private_key(public_exponent=65537, key_size=min(max(public.key_size, RSA_BITS_MIN), RSA_BITS_MAX))
    if isinstance(public, ec.EllipticCurvePublicKey):
        return ec.generate_private_key(public.curve)
    raise InvalidInput(f"{path}: has a key of a kind that is not made here; keep it with --same-key")


def _extensions(old: x509.Certificate, key: PrivateKey, authority: Authority) -> list[tuple[x509.ExtensionType, bool]]:
    """Those of the old certificate; what names keys is made anew where it was there.

    One of the guide's commands may have no authority key identifier, and must not get one: its subject equals its issuer,
    and Go would take it for its own authority's.
    """
    found: list[tuple[x509.ExtensionType, bool]] = []
    for extension in old.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectKeyIdentifier):
            value = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        elif isinstance(value, x509.AuthorityKeyIdentifier):
            value = authority.identifier()
        found.append((value, extension.critical))
    return found


# -- files


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidInput(f"{folder}: another renewal is under way there; wait for its end") from None
        yield
    finally:
        os.close(handle)


def _finish_interrupted(path: Path) -> list[str]:
    """Complete or clear away what a renewal that died has left; notes of what was done."""
    certificate, key_path = stage(path), key_of(path)
    notes = []
    if certificate.is_file() and not stage(key_path).exists():
        with contextlib.suppress(InvalidInput):
            key = load_key(key_path)
            if same_key(load_certificates(certificate)[0], key) and not same_key(load_certificates(path)[0], key):
                os.replace(certificate, path)
                sync_folder(path.parent)
                notes.append(f"{path}: an earlier renewal had been interrupted; its certificate was put into its place")
    for left in (certificate, stage(key_path)):
        left.unlink(missing_ok=True)
    return notes


def _replace(path: Path, certificate: bytes, key: bytes | None, backup: bool) -> list[Path]:
    """Put the new content into place; the backups that were made."""
    parts = [(key_of(path), key, KEY_MODE)] if key is not None else []  # the key first: see the module's text
    files = [*parts, (path, certificate, CERT_MODE)]
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    staged: list[Path] = []
    backups: list[Path] = []
    try:
        for target, _, mode in reversed(files) if backup else ():
            backups.append(_back_up(target, stamp, mode))
        for target, data, mode in reversed(files):
            old = target.stat()
            write_new(stage(target), data or b"", mode, (old.st_uid, old.st_gid))  # etcd may run as a user of its own
            staged.append(stage(target))
        sync_folder(path.parent)
    except (OSError, InvalidInput):
        for each in (*staged, *backups):
            each.unlink(missing_ok=True)
        raise
    for target, _, _ in files:
        os.replace(stage(target), target)
    sync_folder(path.parent)
    return backups


def _back_up(path: Path, stamp: str, mode: int) -> Path:
    """A copy of `path` beside it; the name ends so that no `*.pem` finds it."""
    old = path.stat()
    data = path.read_bytes()
    for number in range(BACKUPS_MAX):
        copy = path.with_name(f"{path.name}.{stamp}" + (f"-{number}" if number else ""))
        try:
            write_new(copy, data, mode, (old.st_uid, old.st_gid))
        except FileExistsError:
            continue
        shutil.copystat(path, copy)
        os.chmod(copy, mode)
        return copy
    raise InvalidInput(f"{path}: {BACKUPS_MAX} backups of this second are there already; try again")
