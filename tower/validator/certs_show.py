"""What is in certificate files: for whom, by whom, until when, and whether the key beside it is its own and kept.

Reads; never writes. `problems` are what makes a certificate unusable or soon will, each with its fix.
"""

from __future__ import annotations

import datetime
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from tower.errors import InvalidInput
from tower.validator.cert_files import key_of, load_certificates, load_key, same_key
from tower.validator.certs import AUTHORITY

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["WARN_DAYS", "CertificateFacts", "Problem", "describe", "print_table", "read_certificates", "read_pair"]

WARN_DAYS = 30
DAY_S = 86_400
FILES_MAX = 1000  # in one folder


class Problem(NamedTuple):
    """What makes a certificate unusable, or soon will, or its key known; and what to do."""

    kind: str  # "expired", "early", "soon", "key mode", "key unreadable" or "key mismatch"
    text: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.text}; {self.fix}" if self.fix else self.text


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """One certificate and, where there is one, the key that lies beside it."""

    file: str
    subject: str
    issuer: str
    names: tuple[str, ...]  # alternative names: what etcd is reached under
    authority: bool
    not_before: datetime.datetime
    not_after: datetime.datetime
    days_left: int  # whole days; below 0 once it has expired
    by_own_authority: bool | None  # signed by the etcd-ca.pem of the same folder; None: there is none
    key_file: str | None
    key_mode: str | None  # like "0600"
    key_matches: bool | None  # None: there is no key, or it could not be read
    problems: tuple[Problem, ...]


def read_certificates(paths: Sequence[Path], now: datetime.datetime, warn_days: int) -> list[CertificateFacts]:
    """Those in the files and folders named. Raises `InvalidInput` for a file or folder without a certificate."""
    found: list[CertificateFacts] = []
    for path in paths:
        if not path.is_dir():
            found += read_pair(path, None, now, warn_days)
            continue
        files = sorted(path.glob("*.pem"))
        if len(files) > FILES_MAX:
            raise InvalidInput(f"{path}: more than {FILES_MAX} PEM files; name those to look at")
        shown = [fact for file in files if not _holds_key_only(file) for fact in read_pair(file, None, now, warn_days)]
        if not shown:
            raise InvalidInput(f"{path}: no certificate there; make some: openos-validator certs make --dir {path}")
        found += shown
    return found


def _holds_key_only(path: Path) -> bool:
    return path.name.endswith("-key.pem") and path.with_name(path.name.removesuffix("-key.pem") + ".pem").exists()


def read_pair(path: Path, key_path: Path | None, now: datetime.datetime, warn_days: int) -> list[CertificateFacts]:
    """Every certificate in the file `path`; `key_path` is the first one's key (default: the file beside it)."""
    certificates = load_certificates(path)
    beside = key_of(path) if key_path is None else key_path
    key = beside if key_path is not None or beside.exists() else None
    of_file = [_facts(path, certificates[0], key, now, warn_days)]
    return of_file + [_facts(path, each, None, now, warn_days) for each in certificates[1:]]


def _facts(
    path: Path, certificate: x509.Certificate, key_path: Path | None, now: datetime.datetime, warn_days: int
) -> CertificateFacts:
    authority = _is_authority(certificate)
    days_left = int((certificate.not_valid_after_utc - now).total_seconds() // DAY_S)
    problems = [_time_problem(path, certificate, now, days_left, warn_days)]
    mode, matches = None, None
    if key_path is not None:
        mode, matches, key_problems = _key(path, certificate, key_path)
        problems += key_problems
    return CertificateFacts(
        file=str(path),
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        names=_names(certificate),
        authority=authority,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        days_left=days_left,
        by_own_authority=_by_authority_beside(path, certificate),
        key_file=None if key_path is None else str(key_path),
        key_mode=mode,
        key_matches=matches,
        problems=tuple(problem for problem in problems if problem is not None),
    )


def _time_problem(
    path: Path, certificate: x509.Certificate, now: datetime.datetime, days_left: int, warn_days: int
) -> Problem | None:
    fix = f"renew it: openos-validator certs renew {quote(str(path))}"
    until = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if certificate.not_valid_after_utc < now:
        return Problem("expired", f"{path}: expired on {until}", fix)
    if certificate.not_valid_before_utc > now:
        since = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        return Problem("early", f"{path}: not valid before {since}", "check this machine's clock")
    if days_left < warn_days:
        return Problem("soon", f"{path}: expires on {until}, in {days_left} days", fix)
    return None


def _key(path: Path, certificate: x509.Certificate, key_path: Path) -> tuple[str | None, bool | None, list[Problem]]:
    try:
        mode = stat.S_IMODE(key_path.stat().st_mode)
    except OSError as problem:
        return None, None, [Problem("key unreadable", f"{key_path}: cannot be read: {problem.strerror}")]
    problems = []
    if mode & 0o077:
        fix = f"type: chmod 600 {quote(str(key_path))}"
        problems.append(Problem("key mode", f"{key_path}: mode {mode:04o} lets others use the key", fix))
    try:
        matches = same_key(certificate, load_key(key_path))
    except InvalidInput as problem:
        return f"{mode:04o}", None, [*problems, Problem("key unreadable", str(problem))]
    except (ValueError, UnsupportedAlgorithm):
        return f"{mode:04o}", None, [*problems, Problem("key unreadable", f"{path}: has a key that TLS does not use")]
    if not matches:
        fix = f"renew the pair: openos-validator certs renew {quote(str(path))}"
        problems.append(Problem("key mismatch", f"{key_path}: does not belong to {path}", fix))
    return f"{mode:04o}", matches, problems


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = found.get_values_for_type(x509.IPAddress)
    return (*found.get_values_for_type(x509.DNSName), *(str(address) for address in addresses))


def _by_authority_beside(path: Path, certificate: x509.Certificate) -> bool | None:
    try:
        authority = load_certificates(path.with_name(f"{AUTHORITY}.pem"))[0]
    except InvalidInput:
        return None
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def describe(facts: CertificateFacts) -> dict[str, Any]:
    """The same for JSON; times are ISO 8601 in UTC."""
    times = {"not_before": facts.not_before.isoformat(), "not_after": facts.not_after.isoformat()}
    return asdict(facts) | times | {"problems": [problem._asdict() for problem in facts.problems]}


def print_table(found: Sequence[CertificateFacts], console: Console) -> None:
    """One row a certificate."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table("file", "for", "by", "valid", "key", box=box.SIMPLE_HEAD, pad_edge=False)
    for facts in found:
        cells = [
            facts.file,
            "\n".join([_short(facts.subject), *facts.names]),
            _short(facts.issuer),
            f"{facts.not_before:%Y-%m-%d}\n{facts.not_after:%Y-%m-%d}\n{_left(facts.days_left)}",
            _key_text(facts),
        ]
        style = "red" if facts.problems else ""
        table.add_row(*(Text(cell, overflow="fold") for cell in cells), style=style)
    console.print(table)


def _short(name: str) -> str:
    """A name of nothing but a common name without its `CN=`."""
    return name[3:] if name.startswith("CN=") and "," not in name else name


def _left(days: int) -> str:
    return f"{days} days left" if days >= 0 else "expired"


def _key_text(facts: CertificateFacts) -> str:
    if facts.key_file is None:
        return "none here"
    matches = {True: "matches", False: "does not match", None: "unreadable"}[facts.key_matches]
    return f"{facts.key_mode or '-'}\n{matches}"
