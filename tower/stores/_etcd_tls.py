"""TLS towards etcd: whom we believe, how we prove ourselves, and what goes wrong with it in an operator's words.

**What is checked** of a server: that a certificate in --etcd-cacert-file stands behind its own, over as many steps as it
takes; that all of them are valid now and the server's is one for servers; and that it names --etcd-domain-name. As with Go and
gRPC, any certificate in that file counts as the authority, self-signed or not.

**One name for all.** The guide's commands give authority and leaves one subject, so that a leaf looks as if it had issued
itself, and OpenSSL 3 rejects it as self-signed before it looks at the authority. For that finding alone, and for that shape
alone, `vouch` asks the question that OpenSSL did not: did an authority of the file, valid now, sign it with its key? If so
OpenSSL is told to take exactly this certificate for trusted, and the handshake is done again, in which it checks the rest:
dates, purpose, name, possession of the key. Nothing is sent before that has passed.

Certificates and keys stay in memory: OpenSSL reads them from a file without a name that no disk ever sees.
"""

from __future__ import annotations

import datetime
import os
import ssl

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from tower.errors import InvalidInput
from tower.stores._etcd_call import EXPIRED, NO_PAIR, NO_TLS, REFUSED_OURS, WRONG_AUTHORITY, WRONG_NAME, CallFailed

__all__ = ["SELF_SIGNED", "Credentials", "check_pem", "explain_tls"]

SELF_SIGNED = 18  # OpenSSL: the server's certificate is self-signed, and not one of ours
NOT_YET, HAS_EXPIRED, WRONG_HOST, WRONG_ADDRESS = 9, 10, 62, 64
NO_HTTP2 = "no HTTP/2 spoken there; check --etcd-endpoint"
NO_MEMFD = "keys can be kept off the disk on Linux only; set TOWER_ETCD_TRANSPORT=grpc"


def check_pem(ca_cert: bytes, cert: bytes, key: bytes) -> None:
    """`InvalidInput` names the flag of what is no PEM."""
    pems = {"--etcd-cacert-file": ca_cert, "--etcd-cert-file": cert, "--etcd-key-file": key}
    for flag, data in pems.items():
        if b"-----BEGIN " not in data:
            raise InvalidInput(f"{flag}: no PEM file: it has no line -----BEGIN ...-----")


class Credentials:
    """The PEM bytes of a store, and the contexts that OpenSSL makes of them; shared by the links of one store."""

    def __init__(self, ca_cert: bytes, cert: bytes, key: bytes) -> None:
        check_pem(ca_cert, cert, key)
        self._ca_cert, self._cert, self._key = ca_cert, cert, key
        self._context: ssl.SSLContext | None = None
        self._vouched: ssl.SSLContext | None = None  # with every leaf that was vouched for
        self._vouched_until = datetime.datetime.max.replace(tzinfo=datetime.UTC)

    def __repr__(self) -> str:
        return "Credentials(...)"

    def context(self) -> ssl.SSLContext:
        """What a handshake is done with. Raises `CallFailed` for files of which OpenSSL cannot make one."""
        if self._vouched is not None:
            if datetime.datetime.now(datetime.UTC) <= self._vouched_until:
                return self._vouched
            self._vouched = None
        if self._context is None:
            self._context = self._make_context(check=True)
        return self._context

    def unchecked(self) -> ssl.SSLContext:
        """The same without a check of the server: to see its certificate, and for nothing else."""
        return self._make_context(check=False)

    def vouched(self, leaf: bytes) -> ssl.SSLContext:
        """A context that takes the certificate `leaf` (DER) for trusted, after `vouch` has found that it may."""
        until = vouch(leaf, self._ca_cert)
        if self._vouched is None:
            self._vouched, self._vouched_until = self._make_context(check=True), until
        self._vouched.load_verify_locations(cadata=leaf)
        self._vouched_until = min(self._vouched_until, until)
        return self._vouched

    def _make_context(self, *, check: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if not check:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        try:
            context.load_verify_locations(cadata=self._ca_cert.decode("ascii", "replace"))
        except (ssl.SSLError, ValueError):
            raise CallFailed("no certificate in it can be read; check --etcd-cacert-file", True) from None
        _load_pair(context, self._cert, self._key)
        return context


def _load_pair(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    """Give the context our certificate and key, which the `ssl` module takes from files only."""
    if not hasattr(os, "memfd_create"):
        raise CallFailed(NO_MEMFD, True)
    with open(os.memfd_create("tower-etcd", os.MFD_CLOEXEC), "wb", buffering=0) as nameless:
        nameless.write(cert.rstrip() + b"\n" + key)
        try:
            context.load_cert_chain(f"/proc/self/fd/{nameless.fileno()}", password=b"")  # b"": do not ask a terminal
        except (ssl.SSLError, ValueError):
            raise CallFailed(NO_PAIR, True) from None
        except OSError:
            raise CallFailed("/proc is not mounted; mount it, or set TOWER_ETCD_TRANSPORT=grpc", True) from None
        finally:
            nameless.seek(0)
            nameless.write(bytes(len(cert) + len(key) + 1))


def vouch(leaf: bytes, ca_cert: bytes) -> datetime.datetime:
    """Until when the authority in the PEM `ca_cert` is valid that signed the DER `leaf`, which has its very name.

    Raises `CallFailed` where there is none.
    """
    try:
        shown = x509.load_der_x509_certificate(leaf)
        authorities = x509.load_pem_x509_certificates(ca_cert)
    except ValueError:
        raise CallFailed(WRONG_AUTHORITY, True) from None
    now, expired = datetime.datetime.now(datetime.UTC), False
    for authority in authorities:
        if shown.subject != authority.subject or not _may_sign(authority):
            continue
        try:
            shown.verify_directly_issued_by(authority)
        except (InvalidSignature, ValueError, TypeError):
            continue
        if authority.not_valid_before_utc <= now <= authority.not_valid_after_utc:
            return authority.not_valid_after_utc
        expired = True
    raise CallFailed(EXPIRED if expired else WRONG_AUTHORITY, True)


def _may_sign(authority: x509.Certificate) -> bool:
    """Whether it is an authority by its own words."""
    try:
        constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    try:
        usage = authority.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return constraints.ca
    return constraints.ca and usage.key_cert_sign


def explain_tls(problem: ssl.SSLError, domain_name: str) -> tuple[str, bool]:
    """What an error of TLS means, with the fix where there is one; and whether trying again cannot help."""
    if isinstance(problem, ssl.SSLCertVerificationError):
        if problem.verify_code in (WRONG_HOST, WRONG_ADDRESS):
            return WRONG_NAME.format(domain=domain_name), True
        if problem.verify_code == NOT_YET:
            return "certificate verify failed: it is not valid yet; check the clocks", True
        return EXPIRED if problem.verify_code == HAS_EXPIRED else WRONG_AUTHORITY, True
    reason = problem.reason or ""
    if "ALERT_NO_APPLICATION_PROTOCOL" in reason:
        return NO_HTTP2, True
    if "ALERT" in reason:
        return REFUSED_OURS, True
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
        return NO_TLS, True
    return f"TLS failed: {reason or problem}", False
