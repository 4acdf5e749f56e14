"""Real etcd for tests: servers, certificates of the guide's very shape, a proxy that loses answers, a bounded wait."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tower.localnet.etcd_server import EtcdCluster, EtcdServer, find_etcd, free_port
from tower.stores.etcd import EtcdStore

POLL = 0.002
CONNECTIONS_MAX = 64


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 10.0) -> Any:
    """Wait until `condition()` is true and return it; fail with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() >= deadline:
            pytest.fail(f"not in {timeout} s: {what}")
        time.sleep(POLL)
    return value


@contextlib.contextmanager
def run_etcd(directory: Path, certs: Path, *, flags: Sequence[str] = ()) -> Iterator[EtcdServer]:
    """One etcd with mutual TLS on a free port; its data and log are in `directory`. `flags` are added to the guide's."""
    with EtcdServer(find_etcd(), directory / "etcd-data", certs, free_port(), flags=flags) as server:
        yield server


@contextlib.contextmanager
def run_etcd_cluster(directory: Path, certs: Path, count: int = 3, *, flags: Sequence[str] = ()) -> Iterator[EtcdCluster]:
    """So many etcd members with mutual TLS, also between each other, on free ports; data and logs are in `directory`."""
    with EtcdCluster(find_etcd(), directory, certs, count, flags=flags) as cluster:
        yield cluster


def pems(certs: Path, *, ca: Path | None = None) -> dict[str, Any]:
    """The certificate arguments of `EtcdStore`."""
    return {
        "ca_cert": ((ca or certs) / "etcd-ca.pem").read_bytes(),
        "cert": (certs / "validator.pem").read_bytes(),
        "key": (certs / "validator-key.pem").read_bytes(),
    }


def open_store(
    server: EtcdServer | EtcdCluster, *, endpoints: list[tuple[str, int]] | None = None, **arguments: Any
) -> EtcdStore:
    """A store on `server`, all members of a cluster, with its certificates; `endpoints` may lead through proxies."""
    own = server.endpoints if isinstance(server, EtcdCluster) else [server.endpoint]
    return EtcdStore(endpoints or own, **{**pems(server.certs_dir), **arguments})


def etcd_flags(server: EtcdServer | EtcdCluster) -> list[str]:
    """The flags that name `server` to a command of `openos-validator`."""
    endpoints = server.endpoints if isinstance(server, EtcdCluster) else [server.endpoint]
    flags = ["--tower-storage", "etcd", *(part for host, port in endpoints for part in ("--etcd-endpoint", f"{host}:{port}"))]
    names = {"--etcd-cacert-file": "etcd-ca", "--etcd-cert-file": "validator", "--etcd-key-file": "validator-key"}
    return [*flags, *(part for flag, name in names.items() for part in (flag, str(server.certs_dir / f"{name}.pem")))]


# -- certificates as the guide's cfssl commands make them

GUIDE_CONFIG = {"CN": "etcd", "hosts": ["localhost", "127.0.0.1"], "key": {"algo": "rsa", "size": 2048}}
GUIDE_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "etcd")])


USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _key_usage(**given: bool) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: given.get(name, False) for name in USAGES})


def guide_shaped_certificates(directory: Path) -> Path:
    """Certificates of the guide's shape: RSA 2048, CN `etcd` for authority and leaves, so issuer equals subject."""
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    ca_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def make(key: rsa.RSAPrivateKey, *, authority: bool) -> x509.Certificate:
        public = key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(GUIDE_NAME)
            .issuer_name(GUIDE_NAME)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=365))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )
        if authority:
            usage = _key_usage(key_cert_sign=True, crl_sign=True)
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        else:
            usage = _key_usage(digital_signature=True, key_encipherment=True)
            both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            # No authority key identifier: where subject equals issuer, Go takes the certificate for its own issuer's.
            builder = (
                builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
                .add_extension(x509.ExtendedKeyUsage(both), critical=False)
                .add_extension(x509.SubjectAlternativeName(names), critical=False)
            )
        return builder.add_extension(usage, critical=True).sign(ca_key, hashes.SHA256())

    for name in ("etcd-ca", "etcd", "validator"):
        authority = name == "etcd-ca"
        key = ca_key if authority else rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = make(key, authority=authority).public_bytes(serialization.Encoding.PEM)
        (directory / f"{name}.pem").write_bytes(pem)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        (directory / f"{name}-key.pem").write_bytes(private)
    return directory


def cfssl_certificates(directory: Path) -> Path:
    """Certificates made by the guide's own commands; skips the test where cfssl is not on PATH."""
    if shutil.which("cfssl") is None or shutil.which("cfssljson") is None:
        pytest.skip("cfssl and cfssljson are not on PATH (Debian: golang-cfssl)")
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "config.json"
    config.write_text(json.dumps(GUIDE_CONFIG), encoding="ascii")
    by_authority = ["-ca", str(directory / "etcd-ca.pem"), "-ca-key", str(directory / "etcd-ca-key.pem")]
    for name, how in (("etcd-ca", ["-initca"]), ("validator", by_authority), ("etcd", by_authority)):
        made = subprocess.run(["cfssl", "gencert", *how, str(config)], capture_output=True, check=True, timeout=60)
        subprocess.run(
            ["cfssljson", "-bare", str(directory / name)], input=made.stdout, capture_output=True, check=True, timeout=60
        )
    return directory


# -- a network that can be broken


class Proxy:
    """Forwards TCP connections to `target`. It can lose what comes back, cut what is open, and stop listening."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._swallow = threading.Event()
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint: tuple[str, int] = self._listener.getsockname()[:2]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        for _ in range(CONNECTIONS_MAX):
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._pairs.append((client, server))
                self._sockets += [client, server]
            for source, sink, back in ((client, server, False), (server, client, True)):
                thread = threading.Thread(target=self._pump, args=(source, sink, back), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, back: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not (back and self._swallow.is_set()):
                    sink.sendall(data)
        self._shut(source, sink)

    @staticmethod
    def _shut(*sockets: socket.socket) -> None:
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def lose_answers(self) -> None:
        """From now on nothing that the server says arrives."""
        self._swallow.set()

    def cut(self) -> None:
        """Close every connection; new ones work as they should."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            self._shut(*pair)
        self._swallow.clear()

    def close(self) -> None:
        """Close everything and refuse new connections."""
        self._shut(self._listener)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)
        for each in self._sockets:
            each.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
