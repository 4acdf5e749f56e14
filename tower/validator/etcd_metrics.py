"""What a member of etcd says over HTTP: its metrics, its command line, its clock and its certificate. Reads only.

`/metrics` and `/debug/vars` are served on the same address as gRPC, unless `--listen-client-http-urls` moves them. They
know what the gRPC API does not: disk latencies, the last compaction, and before 3.6 the quota.

OpenSSL takes a server's certificate for self-signed where it has the same name as its authority, as the guide's commands
make them. In that case, and only then, the certificate is checked here: signed by the authority, valid, for the name.
Nothing is sent before that. Keys stay in memory: they reach OpenSSL through an anonymous file.

>>> found = parse_metrics('a_total 3\\nh_bucket{le="0.001"} 90\\nh_bucket{le="0.002"} 98\\nh_bucket{le="+Inf"} 100\\n')
>>> found["a_total"], quantile(found, "h", 0.5), quantile(found, "h", 0.99)
(3.0, 0.000556, 0.002)
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from tower.validator.config import EtcdConfig

__all__ = ["Scrape", "parse_metrics", "quantile", "scrape"]

ANSWER_BYTES_MAX = 16 << 20
SELF_SIGNED = 18  # what OpenSSL calls a certificate whose issuer has its own name
SAMPLES_MIN = 100  # for the slowest of a hundred


@dataclass(frozen=True, slots=True)
class Scrape:
    """What one member told. `None` where it did not, or its release does not know."""

    endpoint: str
    error: str | None = None  # why there are no metrics
    certificate_ends: datetime.datetime | None = None
    clock_offset: float | None = None  # seconds that its clock is ahead of ours, to half a second
    command: tuple[str, ...] | None = None  # its command line
    quota: int | None = None  # bytes
    revision: int | None = None
    compact_revision: int | None = None  # -1: nothing was ever compacted
    puts: float | None = None  # since it started
    uptime: float | None = None  # seconds, by our clock
    fsync_p99: float | None = None  # seconds, of its write-ahead log, since it started; after `SAMPLES_MIN` of them
    commit_p99: float | None = None  # the same of its database
    leader_changes: int | None = None  # since it started

    def flag(self, name: str) -> str | None:
        """The value of a flag on its command line, the last one given; `None` if that is not known or does not have it."""
        words = self.command or ()
        found = None
        for at, word in enumerate(words):
            key, separator, value = word.lstrip("-").partition("=")
            if word.startswith("-") and key == name:
                following = next((each for each in words[at + 1 : at + 2] if not each.startswith("-")), "true")
                found = value if separator else following
        return found


def scrape(config: EtcdConfig, address: tuple[str, int], timeout: float) -> Scrape:
    """Ask the member at `address`. Never raises for what it does: then `error` says what went wrong."""
    host, port = address
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        with _connected(config, address, timeout) as (connection, ends):
            began = time.time()
            date, status, body = _get(connection, "/metrics")
            offset = _clock_offset(date, began, time.time())
            if status != http.client.OK:
                text = f"its /metrics answers with HTTP {status}"
                return Scrape(name, error=text, certificate_ends=ends, clock_offset=offset)
            _, status, variables = _get(connection, "/debug/vars")
            command = _command(variables) if status == http.client.OK else None
    except (OSError, http.client.HTTPException, ValueError) as problem:
        return Scrape(name, error=_reason(problem))
    return _scrape(name, parse_metrics(body.decode("utf-8", "replace")), ends, offset, command)


def _scrape(
    name: str,
    found: Mapping[str, float],
    ends: datetime.datetime,
    offset: float | None,
    command: tuple[str, ...] | None,
) -> Scrape:
    def whole(key: str) -> int | None:
        return int(found[key]) if key in found else None

    started = found.get("process_start_time_seconds")
    return Scrape(
        endpoint=name,
        certificate_ends=ends,
        clock_offset=offset,
        command=command,
        quota=whole("etcd_server_quota_backend_bytes"),
        revision=whole("etcd_debugging_mvcc_current_revision"),
        compact_revision=whole("etcd_debugging_mvcc_compact_revision"),
        puts=found.get("etcd_mvcc_put_total", found.get("etcd_debugging_mvcc_put_total")),
        uptime=None if started is None else max(0.0, time.time() - started),
        fsync_p99=_p99(found, "etcd_disk_wal_fsync_duration_seconds"),
        commit_p99=_p99(found, "etcd_disk_backend_commit_duration_seconds"),
        leader_changes=whole("etcd_server_leader_changes_seen_total"),
    )


def _p99(found: Mapping[str, float], name: str) -> float | None:
    return quantile(found, name, 0.99) if found.get(f"{name}_count", 0) >= SAMPLES_MIN else None


# -- the text of metrics, pure


def parse_metrics(text: str) -> dict[str, float]:
    """Every sample in the Prometheus text format by its name with labels as written; what is none is left out."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name and not line.startswith("#"):
            with contextlib.suppress(ValueError):
                found[name] = float(value)
    return found


def quantile(found: Mapping[str, float], name: str, share: float) -> float | None:
    """So much of a histogram lies below this, in its unit; linear within a bucket. `None` where it has no sample.

    In the last bucket, which has no end, it is where that one begins.
    """
    mark = f'{name}_bucket{{le="'
    buckets = sorted((float(key[len(mark) : -2]), count) for key, count in found.items() if key.startswith(mark))
    if not buckets or buckets[-1][1] <= 0:
        return None
    wanted, below, start = share * buckets[-1][1], 0.0, 0.0
    for end, count in buckets:
        if count >= wanted:
            if end == float("inf"):
                return start
            part = (wanted - below) / (count - below) if count > below else 1.0
            return round(start + (end - start) * part, 6)
        below, start = count, end
    return start


def _command(data: bytes) -> tuple[str, ...] | None:
    """The command line in the answer of `/debug/vars`."""
    try:
        words = json.loads(data).get("cmdline")
    except (ValueError, AttributeError):
        return None
    return tuple(map(str, words)) if isinstance(words, list) else None


def _clock_offset(date: str | None, began: float, ended: float) -> float | None:
    if date is None:
        return None
    try:
        told = email.utils.parsedate_to_datetime(date).timestamp() + 0.5  # it tells whole seconds
    except ValueError:
        return None
    return told - (began + ended) / 2


# -- the connection


def _reason(problem: Exception) -> str:
    if isinstance(problem, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {problem.verify_message}"
    if isinstance(problem, TimeoutError):
        return "no answer in time"
    if isinstance(problem, OSError) and problem.strerror and problem.errno and problem.errno > 0:
        return problem.strerror.lower()
    return " ".join(str(problem).split()) or type(problem).__name__


@contextlib.contextmanager
def _connected(
    config: EtcdConfig, address: tuple[str, int], timeout: float
) -> Iterator[tuple[http.client.HTTPConnection, datetime.datetime]]:
    """An HTTP connection to a server that has proved itself, and when its certificate ends."""
    try:
        secure = _handshake(config, address, timeout, verify=True)
    except ssl.SSLCertVerificationError as problem:
        if problem.verify_code != SELF_SIGNED:
            raise
        secure = _handshake(config, address, timeout, verify=False)
    with secure:
        certificate = x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")
        if secure.context.verify_mode == ssl.CERT_NONE:
            _check_ourselves(certificate, config)
        connection = http.client.HTTPConnection(address[0], address[1], timeout=timeout)
        connection.sock = secure
        yield connection, certificate.not_valid_after_utc


def _handshake(config: EtcdConfig, address: tuple[str, int], timeout: float, *, verify: bool) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=config.ca_cert.decode("ascii", "replace"))
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    file = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
    try:
        os.write(file, config.cert.rstrip() + b"\n" + config.key)
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
    raw = socket.create_connection(address, timeout=timeout)
    try:
        return context.wrap_socket(raw, server_hostname=config.domain_name)
    except BaseException:
        raw.close()
        raise


def _check_ourselves(certificate: x509.Certificate, config: EtcdConfig) -> None:
    """As OpenSSL would, had the certificate another name than its authority. Raises `ValueError`."""
    now = datetime.datetime.now(datetime.UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise ValueError("certificate verify failed: it has expired or is not valid yet")
    if not _signed_by_one(certificate, x509.load_pem_x509_certificates(config.ca_cert)):
        raise ValueError("certificate verify failed: it is not by the authority in use")
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    proven = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    if config.domain_name.lower() not in (name.lower() for name in proven):
        raise ValueError(f"certificate verify failed: it is not for {config.domain_name!r}")


def _signed_by_one(certificate: x509.Certificate, authorities: Sequence[x509.Certificate]) -> bool:
    for authority in authorities:
        with contextlib.suppress(ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            certificate.verify_directly_issued_by(authority)
            return True
    return False


def _get(connection: http.client.HTTPConnection, path: str) -> tuple[str | None, int, bytes]:
    """The date header, the status and the body."""
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read(ANSWER_BYTES_MAX + 1)
    if len(body) > ANSWER_BYTES_MAX:
        raise ValueError(f"its {path} is larger than {ANSWER_BYTES_MAX} bytes")
    return response.getheader("Date"), response.status, body
