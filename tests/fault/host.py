"""What a fault needs of the machine it runs on: mounts, limits, a clock that can be moved, certificates that run out.

`missing` says why a fault cannot be made here; such a fault is reported as not run, never as passed.
"""

from __future__ import annotations

import datetime
import os
import resource
import shutil
import struct
import subprocess
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = [
    "Clock",
    "bind_read_only",
    "client_certificate",
    "missing",
    "mount_small",
    "no_more_files",
    "no_more_memory",
    "restore_limit",
    "revocation_list",
    "unmount",
]

MIB = 1 << 20
STANDARD_HANDLES = 3


def missing(need: str) -> str:
    """Why what a fault needs is not here; empty where it is. `need`: `root` (mounts), `gcc` (the clock), or nothing."""
    if need == "root" and (os.geteuid() != 0 or shutil.which("mount") is None or shutil.which("unshare") is None):
        return "needs root, mount and unshare"
    if need == "gcc" and shutil.which("gcc") is None:
        return "needs gcc"
    return ""


# ---- disks


def mount_small(folder: Path, mib: int) -> None:
    """A file system of its own in memory at `folder`, so large."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "none", str(folder)], check=True)


def bind_read_only(folder: Path) -> None:
    """Whoever opens something in `folder` from now on finds it read-only."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)


def unmount(folder: Path) -> None:
    """Take the newest mount at `folder` away, whoever uses it."""
    subprocess.run(["umount", "-l", str(folder)], check=True)


# ---- limits


def no_more_files(pid: int) -> tuple[int, int]:
    """No new file or socket for a process; what it has stays open. Gives the limit before."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (STANDARD_HANDLES, before[1]))
    return before


def no_more_memory(pid: int) -> tuple[int, int]:
    """No new pages for a process. Gives the limit before."""
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (16 * MIB, before[1]))
    return before


def restore_limit(pid: int, which: int, before: tuple[int, int]) -> None:
    resource.prlimit(pid, which, before)


# ---- the wall clock


class Clock:
    """The wall clock of processes that are started with `environment`; `move` sets it so many seconds off."""

    def __init__(self, folder: Path) -> None:
        library, self._file = folder / "clock.so", folder / "clock-offset"
        source = Path(__file__).with_name("clock.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
        self._file.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(library), "FAULT_CLOCK": str(self._file)}

    def move(self, seconds: float) -> None:
        with open(self._file, "r+b") as target:
            target.write(struct.pack("<q", int(seconds * 1e9)))


# ---- certificates


def _authority(certs: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = x509.load_pem_x509_certificate((certs / "etcd-ca.pem").read_bytes())
    key = serialization.load_pem_private_key((certs / "etcd-ca-key.pem").read_bytes(), None)
    return certificate, key  # type: ignore[return-value]


def client_certificate(certs: Path, name: str, valid_s: float) -> int:
    """A client certificate `name` by the authority in `certs` that runs out in so many seconds; its serial number."""
    authority, key = _authority(certs)
    own = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(authority.subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(seconds=valid_s))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = own.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (certs / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (certs / f"{name}-key.pem").write_bytes(pem)
    (certs / f"{name}-key.pem").chmod(0o600)
    return certificate.serial_number


def revocation_list(certs: Path, *serials: int) -> Path:
    """The authority's list of revoked certificates, put in the place of the one before."""
    authority, key = _authority(certs)
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject)
    builder = builder.last_update(now - datetime.timedelta(minutes=5)).next_update(now + datetime.timedelta(days=1))
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(revoked)
    path = certs / "revoked.der"
    new = certs / "revoked.new"
    new.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER))
    new.rename(path)
    return path
