"""The doors of etcd and of our own client: who has no certificate, another authority's, or speaks in clear gets nothing."""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.etcd import open_store, pems, wait_until
from tower.errors import StoreUnavailable
from tower.localnet.etcd_server import EtcdServer, find_etcd, free_port
from tower.stores.etcd import EtcdStore
from tower.validator.certs import make_certificates

T = 10.0
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # the preface and empty SETTINGS
SECONDS = 5.0


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of another authority, of the same names."""
    folder = tmp_path_factory.mktemp("foreign") / "certs"
    make_certificates(folder)
    return folder


def short_lived(folder: Path, *, usage: x509.ObjectIdentifier, days: int) -> tuple[Path, Path]:
    """A pair by the authority in `folder`'s parent that ends `days` from now, of one extended key usage."""
    certs = folder.parent / "certs"
    authority = x509.load_pem_x509_certificate((certs / "etcd-ca.pem").read_bytes())
    signer = serialization.load_pem_private_key((certs / "etcd-ca-key.pem").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    built = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "validator")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - datetime.timedelta(days=30))
        .not_valid_after(end)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    folder.mkdir()
    (folder / "c.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    (folder / "k.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "c.pem", folder / "k.pem"


def context(certs: Path, cert: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=certs / "etcd-ca.pem")
    made.set_alpn_protocols(["h2"])
    if cert is not None:
        made.load_cert_chain(cert, key)
    return made


def first_words(server: EtcdServer, made: ssl.SSLContext) -> bytes:
    """What etcd says to a client's first words over TLS, empty where it hangs up. A refusal of the handshake is an error."""
    with socket.create_connection(server.endpoint, SECONDS) as link, made.wrap_socket(link, server_hostname="localhost") as tls:
        tls.sendall(HTTP2)
        return tls.recv(1024)


def test_a_client_of_the_authority_is_heard(etcd_server: EtcdServer, certificates: Path) -> None:
    """The counterpart of the refusals below: the same words, and an answer."""
    own = context(certificates, certificates / "validator.pem", certificates / "validator-key.pem")
    assert first_words(etcd_server, own)[3:4] == b"\4"  # SETTINGS


STRANGERS = ["no certificate", "another authority's", "signed by itself", "expired", "not valid yet", "a server's only"]


@pytest.mark.parametrize("who", STRANGERS)
def test_a_stranger_is_refused_before_it_is_heard(
    who: str, etcd_server: EtcdServer, certificates: Path, foreign: Path, tmp_path: Path
) -> None:
    shutil.copytree(certificates, tmp_path / "certs")
    client = ExtendedKeyUsageOID.CLIENT_AUTH
    pair: tuple[Path, Path] | None
    match who:
        case "no certificate":
            pair = None
        case "another authority's":
            pair = foreign / "validator.pem", foreign / "validator-key.pem"
        case "signed by itself":
            pair = foreign / "etcd-ca.pem", foreign / "etcd-ca-key.pem"
        case "expired":
            pair = short_lived(tmp_path / "pair", usage=client, days=-1)
        case "not valid yet":
            pair = short_lived(tmp_path / "pair", usage=client, days=60)
        case _:
            pair = short_lived(tmp_path / "pair", usage=ExtendedKeyUsageOID.SERVER_AUTH, days=10)
    made = context(certificates, *(pair or (None, None)))
    try:
        said = first_words(etcd_server, made)  # TLS 1.3 tells of a refused certificate with the first read
    except (ssl.SSLError, ConnectionError):
        said = b""
    assert said == b""


def test_old_versions_of_tls_are_refused(etcd_server: EtcdServer, certificates: Path) -> None:
    made = context(certificates, certificates / "validator.pem", certificates / "validator-key.pem")
    made.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # they are meant
        made.minimum_version = ssl.TLSVersion.TLSv1
        made.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        first_words(etcd_server, made)


IN_CLEAR = [HTTP2, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", bytes(64), b"\x16\x03\x01\xff\xff"]


@pytest.mark.parametrize("words", IN_CLEAR, ids=["http2", "http", "zeros", "half a handshake"])
def test_clear_text_and_garbage_get_no_data(words: bytes, etcd_server: EtcdServer, identity: str) -> None:
    with socket.create_connection(etcd_server.endpoint, SECONDS) as link:
        link.sendall(words)
        link.shutdown(socket.SHUT_WR)
        said = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while part := link.recv(4096):
                said += part
    # Go's HTTP server says in clear that TLS is wanted; everybody else is hung up on, maybe with an alert of TLS
    assert said == b"" or said[:1] == b"\x15" or b"Client sent an HTTP request to an HTTPS server" in said
    store = open_store(etcd_server)
    assert store.look(identity, T).instance_revision == 0
    store.close()


@contextlib.contextmanager
def listening(answer: ssl.SSLContext | None) -> Iterator[tuple[tuple[str, int], list[bytes]]]:
    """Somebody in the middle: takes connections, with TLS if `answer` is given, and keeps every byte that it can read."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    link, _ = listener.accept()
                    with contextlib.closing(link):
                        link.settimeout(SECONDS)
                        if answer is None:
                            heard.append(link.recv(4096))
                            continue
                        with answer.wrap_socket(link, server_side=True) as tls:
                            heard.append(b"TLS:" + tls.recv(4096))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[:2], heard
        finally:
            stop.set()
            with contextlib.suppress(OSError):
                socket.create_connection(listener.getsockname(), 1).close()
            thread.join(2 * SECONDS)


def test_our_client_tells_nothing_to_a_server_that_does_not_prove_itself(
    certificates: Path, foreign: Path, identity: str
) -> None:
    impostor = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    impostor.load_cert_chain(foreign / "etcd.pem", foreign / "etcd-key.pem")
    impostor.set_alpn_protocols(["h2"])
    with listening(impostor) as (endpoint, heard):
        store = EtcdStore([endpoint], **pems(certificates))
        with pytest.raises(StoreUnavailable, match=r"certificate verify failed.*--etcd-cacert-file"):
            store.look(identity, T)
        store.close()
    assert not any(each.startswith(b"TLS:") and len(each) > 4 for each in heard), heard


def test_our_client_tells_nothing_to_a_member_of_another_name(certificates: Path, tmp_path: Path, identity: str) -> None:
    """A machine with a certificate of the same authority for another name is not etcd."""
    certs = tmp_path / "certs"
    shutil.copytree(certificates, certs)
    make_certificates(certs, members={"other": ["other.example"]}, hosts=[], validators=[], keep_authority=True)
    impostor = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    impostor.load_cert_chain(certs / "other.pem", certs / "other-key.pem")
    impostor.set_alpn_protocols(["h2"])
    with listening(impostor) as (endpoint, heard):
        store = EtcdStore([endpoint], **pems(certs))
        with pytest.raises(StoreUnavailable, match="certificate is not for 'localhost'; check --etcd-domain-name"):
            store.look(identity, T)
        store.close()
    assert not any(each.startswith(b"TLS:") and len(each) > 4 for each in heard), heard


def test_our_client_speaks_nothing_but_tls(certificates: Path, identity: str) -> None:
    """To an etcd, or to somebody in its place, that listens in clear: the first thing on the wire is a TLS handshake."""
    with listening(None) as (endpoint, heard):
        store = EtcdStore([endpoint], **pems(certificates), attempt_timeout=0.5)
        with pytest.raises(StoreUnavailable):
            store.look(identity, 1.0)
        store.close()
    assert heard
    assert all(each[:2] == b"\x16\x03" for each in heard if each)
    assert not any(identity.encode() in each for each in heard)


def test_an_etcd_in_clear_is_not_written_to(certificates: Path, tmp_path: Path, identity: str) -> None:
    port, peer = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(find_etcd()), "--data-dir", str(tmp_path / "data"), "--log-level", "error"]
    command += ["--listen-client-urls", url, "--advertise-client-urls", url]
    command += ["--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"]
    command += ["--initial-cluster", f"default=http://127.0.0.1:{peer}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def up() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return True
            return False

        wait_until(up, "etcd listens in clear")
        store = EtcdStore([("127.0.0.1", port)], **pems(certificates))
        with pytest.raises(StoreUnavailable, match=f"etcd 127.0.0.1:{port}: "):
            store.look(identity, 2.0)
        store.close()
        done = subprocess.run(
            [sys.executable, "-m", "tower.validator.cli", "doctor", "--etcd-endpoint", f"127.0.0.1:{port}", "--timeout", "2",
             "--etcd-cacert-file", str(certificates / "etcd-ca.pem"), "--etcd-cert-file", str(certificates / "validator.pem"),
             "--etcd-key-file", str(certificates / "validator-key.pem"), "--output", "json"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        told = {each["check"]: each["level"] for each in json.loads(done.stdout)["findings"]}
        assert told["etcd-members"] == "fail"
    finally:
        process.kill()
        process.wait()
