"""PEM files as this program writes them: a key is nobody else's from its first byte on, and a file changes in one step.

A key lies beside its certificate: `etcd.pem` and `etcd-key.pem`. New files are created with their final mode, or staged
under another name in the same folder, flushed to disk and renamed, so that no reader ever sees a part of one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from tower.errors import InvalidInput

__all__ = [
    "CERT_MODE",
    "KEY_MODE",
    "PrivateKey",
    "certificate_pem",
    "key_of",
    "key_pem",
    "load_certificates",
    "load_key",
    "same_key",
    "stage",
    "sync_folder",
    "write_all",
    "write_new",
]

KEY_MODE, CERT_MODE = 0o600, 0o644
SIZE_MAX = 1 << 20

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


def key_of(certificate: Path) -> Path:
    """Where the key of a certificate lies: `etcd-key.pem` beside `etcd.pem`."""
    return certificate.with_name(f"{certificate.name.removesuffix('.pem')}-key.pem")


def certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(SIZE_MAX + 1)
    except OSError as problem:
        raise InvalidInput(f"{path}: cannot be read: {problem.strerror}") from None
    if len(data) > SIZE_MAX:
        raise InvalidInput(f"{path}: larger than {SIZE_MAX} bytes, no PEM file")
    return data


def load_certificates(path: Path) -> list[x509.Certificate]:
    """Every certificate in a PEM file, at least one. Raises `InvalidInput` that names it."""
    data = _read(path)
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise InvalidInput(f"{path}: holds no PEM certificate") from None


def load_key(path: Path) -> PrivateKey:
    """The private key in a PEM file without a passphrase. Raises `InvalidInput` that names it."""
    data = _read(path)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError:
        raise InvalidInput(f"{path}: is encrypted; etcd and the validator take keys without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidInput(f"{path}: holds no PEM private key") from None
    if not isinstance(key, PrivateKey):
        raise InvalidInput(f"{path}: holds a key of a kind that TLS does not use")
    return key


def same_key(certificate: x509.Certificate, key: PrivateKey) -> bool:
    """Whether the certificate is for this key."""
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return certificate.public_key().public_bytes(*form) == key.public_key().public_bytes(*form)


def write_new(path: Path, data: bytes, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Create `path` with its final mode and flush it; it must not exist. `owner` is user and group id. Raises `OSError`."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)  # exactly, whatever the umask left of it
            if owner is not None and owner != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), *owner)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def stage(path: Path) -> Path:
    """The name under which the next content of `path` is prepared: hidden, in the same folder."""
    return path.with_name(f".{path.name}.new")


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_all(files: Sequence[tuple[Path, bytes, int]], *, overwrite: bool) -> None:
    """Write a set of files, each `(path, content, mode)`, all or, where something fails, none. Raises `OSError`.

    With `overwrite` each is replaced in one step, and what fails after the first leaves a mixture.
    """
    written: list[Path] = []
    try:
        for path, data, mode in files:
            target = stage(path) if overwrite else path
            if overwrite:
                target.unlink(missing_ok=True)
            write_new(target, data, mode)
            written.append(target)
        if overwrite:
            for path, _, _ in files:
                os.replace(stage(path), path)
        sync_folder(files[0][0].parent)
    except OSError:
        for path in written:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        raise
