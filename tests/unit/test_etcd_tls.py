"""Whom the store believes to be etcd, where the guide's certificates give authority and leaf one name; and where keys are not."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.etcd import USAGES, pems
from tests.support.http2_server import Peer, ScriptedServer
from tower.errors import StoreUnavailable
from tower.stores import _etcd_tls
from tower.stores._etcd_call import REFUSED_OURS, CallFailed
from tower.stores._etcd_link import explain
from tower.stores.etcd import EtcdStore

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
T = 10.0


class _Refused(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:1.2.3.4:5: Unwrap failed (TSI_DATA_CORRUPTED)"


def test_what_grpc_makes_of_a_refused_certificate_is_said_in_words() -> None:
    """etcd built with a newer Go refuses it after the handshake, and gRPC does not say that this was an alert."""
    assert explain(_Refused(), "localhost") == (REFUSED_OURS, False)


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Issuer:
    """An authority, by default of the guide's shape: what it signs has its own name."""

    def __init__(
        self, subject: str = "etcd", *, until: datetime.datetime = NOW + DAY, ca: bool = True, may_sign: bool = True
    ) -> None:
        self.subject, self.key = name(subject), ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(self.key, until).add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        flags = dict.fromkeys(USAGES, False) | {"digital_signature": not may_sign, "key_cert_sign": may_sign}
        usage = x509.KeyUsage(**flags)
        self.certificate = builder.add_extension(usage, critical=True).sign(self.key, hashes.SHA256())

    def _builder(self, key: Any, until: datetime.datetime, subject: str | None = None) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(self.subject if subject is None else name(subject))
            .issuer_name(self.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 3 * DAY)
            .not_valid_after(until)
        )

    def leaf(
        self,
        subject: str | None = None,
        *,
        until: datetime.datetime = NOW + DAY,
        dns: str = "localhost",
        use: x509.ObjectIdentifier = SERVER,
    ) -> tuple[x509.Certificate, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            self._builder(key, until, subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(dns)]), critical=False)
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return builder.sign(self.key, hashes.SHA256()), private

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def refusal(leaf: x509.Certificate, *authorities: Issuer) -> str:
    with pytest.raises(CallFailed) as problem:
        _etcd_tls.vouch(der(leaf), b"".join(each.pem for each in authorities))
    assert problem.value.hopeless
    return problem.value.text


def test_an_authority_vouches_for_what_it_signed_until_it_expires() -> None:
    ours, other = Issuer(), Issuer()
    leaf, _ = ours.leaf()
    for file in (ours.pem, other.pem + ours.pem):
        assert _etcd_tls.vouch(der(leaf), file) == ours.certificate.not_valid_after_utc


def test_the_name_of_the_authority_is_not_its_signature() -> None:
    ours, impostor = Issuer(), Issuer()
    leaf, _ = impostor.leaf()
    assert refusal(leaf, ours) == _etcd_tls.WRONG_AUTHORITY
    assert refusal(impostor.certificate, ours) == _etcd_tls.WRONG_AUTHORITY


def test_an_authority_that_has_expired_vouches_for_nothing() -> None:
    old = Issuer(until=NOW - DAY)
    assert refusal(old.leaf()[0], old) == _etcd_tls.EXPIRED


def test_what_is_no_authority_vouches_for_nothing() -> None:
    for issuer in (Issuer(ca=False), Issuer(may_sign=False), Issuer("elsewhere")):
        leaf, _ = issuer.leaf()
        assert refusal(leaf, Issuer() if issuer.subject != name("etcd") else issuer) == _etcd_tls.WRONG_AUTHORITY


MISTAKES = {
    "impostor": "certificate verify failed: it is not by the authority in use; check --etcd-cacert-file",
    "expired": "certificate verify failed: it has expired; make new certificates",
    "expired authority": "certificate verify failed: it has expired; make new certificates",
    "name": "its certificate is not for 'localhost'; check --etcd-domain-name",
    "client's": "certificate verify failed: it is not by the authority in use; check --etcd-cacert-file",
}


@pytest.mark.parametrize("mistake", ["none", *MISTAKES])
def test_a_server_with_the_authority_s_name_is_checked_like_any_other(mistake: str, certificates: Path, tmp_path: Path) -> None:
    ours = Issuer(until=NOW - DAY) if mistake == "expired authority" else Issuer()
    arguments: dict[str, Any] = {
        "expired": {"until": NOW - DAY}, "name": {"dns": "etcd.example.org"}, "client's": {"use": CLIENT},
    }.get(mistake, {})  # fmt: skip
    leaf, private = (Issuer() if mistake == "impostor" else ours).leaf(**arguments)
    client = Issuer("authority")
    shown, client_key = client.leaf("validator", use=CLIENT)
    (tmp_path / "etcd.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "etcd-key.pem").write_bytes(private)
    (tmp_path / "etcd-ca.pem").write_bytes(client.pem)
    asked: list[int] = []

    def script(peer: Peer) -> None:
        peer.greet()
        asked.append(peer.request()[0])

    with ScriptedServer(tmp_path, script) as server:
        pair = {"cert": shown.public_bytes(serialization.Encoding.PEM), "key": client_key}
        store = EtcdStore([server.endpoint], ca_cert=ours.pem, **pair, transport="http2")
        if mistake == "none":
            with pytest.raises(StoreUnavailable, match="closed the connection"):
                store.look("1" * 32, 0.5)  # the script says no more
        else:
            with pytest.raises(StoreUnavailable) as problem:
                store.look("1" * 32, T)
            assert str(problem.value).endswith(MISTAKES[mistake])
        store.close()
    assert bool(asked) is (mistake == "none")  # not a byte of a request before the server has proved who it is


def test_keys_are_nowhere_on_a_disk_nor_in_a_text(
    certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = pems(certificates)
    loaded: list[str] = []
    load = ssl.SSLContext.load_cert_chain

    def watched(context: ssl.SSLContext, certfile: Any, **arguments: Any) -> None:
        loaded.append(Path(certfile).resolve().as_posix())
        load(context, certfile, **arguments)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watched)
    credentials = _etcd_tls.Credentials(**files)
    assert credentials.context() is credentials.context()
    assert loaded
    assert all(path.startswith("/memfd:") for path in loaded)
    assert repr(credentials) == str(credentials) == "Credentials(...)"


def test_a_key_with_a_password_is_refused_and_asks_no_terminal(certificates: Path) -> None:
    files = pems(certificates)
    key = serialization.load_pem_private_key(files["key"], None)
    locked = serialization.BestAvailableEncryption(b"secret")
    files["key"] = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    with pytest.raises(CallFailed, match="check --etcd-cert-file and --etcd-key-file"):
        _etcd_tls.Credentials(**files).context()
    with pytest.raises(CallFailed, match="check --etcd-cacert-file"):
        _etcd_tls.Credentials(**pems(certificates) | {"ca_cert": b"-----BEGIN NOTHING-----"}).context()
