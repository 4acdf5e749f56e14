"""One run: a local cluster, a store behind links that can be broken, machines that vote, and the evidence of it all.

A `Stage` is set up whole, is struck (`strike`), and ends with its evidence in its folder. Every wait has its bound; one that is
over ends the run as a failed one, never as a pass.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fault.etcd_calls import Member, Witness
from tests.fault.proxy import Link, Net, process_of
from tests.support.cluster import ENVIRONMENT, PATIENCE_S, Validator, World, run_world, until
from tower.localnet.etcd_server import EtcdCluster, EtcdServer, find_etcd, free_ports
from tower.validator.admin import AdminClient, AdminError, AdminUnavailable
from tower.validator.certs import make_certificates

__all__ = ["FLAGS", "FORKS", "SLOT_MS", "Machine", "Stage", "Strike", "wait"]

SLOT_MS = 200
FLAGS = ("--fork-every", "0", "--announced-blocks", "--stake-share", "0.3")
# Where the owner is never away for long. A fork is longer than two windows of ours, and those are rare: where all slots of a
# side are skipped, its votes land nowhere, and then nobody may switch.
FORKS = ("--fork-every", "40", "--fork-length", "12", "--announced-blocks", "--stake-share", "0.15")
POLL_S = 0.1
MEMBERS = 3
VOTES_WANTED = 10


def wait(condition: Callable[[], Any], what: str | Callable[[], str], timeout: float = 30.0) -> Any:
    """The first true value of `condition()`, asked a few times a second."""

    def asked() -> Any:
        value = condition()
        if not value:
            time.sleep(POLL_S)
        return value

    return until(asked, what, timeout)


@dataclass(slots=True)
class Strike:
    """One fault that was made. `proof` says how it is known that it struck; all of it must be true."""

    fault: str
    at_unix_ms: int
    until_unix_ms: int = 0
    proof: dict[str, Any] = field(default_factory=dict)
    restarted: bool = False  # the voter ended, as it must, and was started again by hand


@dataclass
class Machine(Validator):
    """A validator whose store operations are recorded, and whose way to each member of etcd is a link of its own."""

    name: str = ""
    links: list[Link] = field(default_factory=list)
    wrapper: list[str] = field(default_factory=list)  # what the interpreter is started through

    @property
    def carried(self) -> int:
        """Bytes that went over its links, both ways."""
        return sum(link.carried for link in self.links)

    def start(self) -> Machine:
        assert not self.running
        with open(self.folder / "validator.log", "ab") as log:
            self._process = subprocess.Popen(
                [*self.wrapper, sys.executable, "-m", "tests.fault.instance", *self.flags],
                cwd=self.folder, env={**ENVIRONMENT, **self.environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    def wait_running(self, timeout: float = 60.0) -> Machine:
        super().wait_running(timeout)
        return self

    def take(self, own: bool = False, timeout: float = PATIENCE_S) -> bool:
        """`set-identity` without the start of a command; whether it was done."""
        keypair = str(self.folder / ("own.json" if own else "validator-keypair.json"))
        try:
            AdminClient(self.folder / "ledger").call("setIdentity", keypair, False, timeout=timeout)
        except (AdminError, AdminUnavailable):
            return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGSTOP, and wait until it stands still."""
        self.process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self.process.pid}/stat")
        until(lambda: stat.read_text().rpartition(") ")[2][0] in "Tt", "it stands still")

    def ended(self) -> int:
        """Wait for its end; its status."""
        wait(lambda: not self.running, lambda: f"{self.name} ends: {self.log[-800:]}", 60)
        return int(self.process.returncode)


class Stage:
    """See the module. `store` is `etcd` (three members, mutual TLS) or `file`."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        seed: int,
        store: str = "etcd",
        etcd_flags: Sequence[str] = (),
        member_flags: Callable[[int], Sequence[str]] = lambda number: (),
        peer_links: bool = False,
        before: Callable[[Stage], None] = lambda stage: None,
        crl: bool = False,
        flags: Sequence[str] = FLAGS,
    ) -> None:
        self.folder, self.name, self.seed, self.store = folder, name, seed, store
        self.strikes: list[Strike] = []
        self.machines: list[Machine] = []
        self.peer_links: dict[str, Link] = {}
        self.etcd: EtcdCluster | None = None
        self.problem = ""
        self._etcd_flags, self._member_flags, self._with_peer_links, self._flags = etcd_flags, member_flags, peer_links, flags
        self._before = before
        if crl:  # members read the list of revoked certificates at each new connection
            self._etcd_flags = [*etcd_flags, f"--client-crl-file={folder.absolute() / 'certs' / 'revoked.der'}"]
        self._witness: Witness | None = None
        self.stack = contextlib.ExitStack()  # what is to be undone at the end
        self._calls: dict[str, Member] = {}

    # ---- beginning and end

    def __enter__(self) -> Stage:
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            self.net = stack.enter_context(Net())
            if self.store == "etcd":
                self.certs = self.folder / "certs"
                make_certificates(self.certs)
                self.etcd = self._cluster()
            self.stack = stack
            self._before(self)
            if self.etcd is not None:
                stack.enter_context(self.etcd)
            world_folder = self.folder / "world"
            world_folder.mkdir()
            started = run_world(world_folder, *self._flags, seed=self.seed, slot_ms=SLOT_MS, etcd=self.etcd)  # type: ignore[arg-type]
            self.world: World = stack.enter_context(started)
            if self.etcd is not None:
                path = self.folder / "changes.jsonl"
                self._witness = Witness(self.etcd.members, self.certs, self.world.identity.address, path)
                stack.callback(self._witness.close)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: object) -> None:
        try:
            if value is not None:
                self.problem = f"{type(value).__name__}: {value}"[:2000]
            self._write_evidence()
        finally:
            for member in self._calls.values():
                member.close()
            self.stack.close()

    def _cluster(self) -> EtcdCluster:
        """Three members; where asked for, each hears the others over a link that knows who calls."""
        cluster = EtcdCluster(find_etcd(), self.folder, self.certs, MEMBERS, flags=self._etcd_flags)
        members, listen = [], free_ports(MEMBERS)
        names = [member.name for member in cluster.members]
        peers = {}
        for name, port in zip(names, listen, strict=True):
            if self._with_peer_links:
                self.peer_links[name] = self.net.link(("127.0.0.1", port), self._caller)
                port = self.peer_links[name].endpoint[1]
            peers[name] = f"https://127.0.0.1:{port}"
        for number, (old, port) in enumerate(zip(cluster.members, listen, strict=True)):
            flags = [*self._etcd_flags, *self._member_flags(number)]
            if self._with_peer_links:
                flags.append(f"--listen-peer-urls=https://127.0.0.1:{port}")
            members.append(
                EtcdServer(old.binary, old.data_dir, self.certs, old.port, name=old.name, flags=flags, peers=peers)
            )
        cluster.members = tuple(members)
        return cluster

    def _caller(self, port: int, to: int) -> str:
        """The name of the member that calls from `port`; empty where it has hung up."""
        pid = process_of(port, to)
        return next((each.name for each in self.members if each._process is not None and each.pid == pid), "")

    def _write_evidence(self) -> None:
        """Everything that the judge needs, also where the run failed."""
        gaps: list[tuple[int, int]] = []
        for machine in self.machines:
            machine.end()
        if self._witness is not None:
            if not self.problem:
                self._witness.finish()
            gaps = self._witness.gaps
        report = self.world.report()
        (self.folder / "report.json").write_text(json.dumps(report))
        run = {
            "name": self.name,
            "seed": self.seed,
            "store": self.store,
            "identity": self.world.identity.address,
            "vote_account": self.world.vote_account,
            "unix_minus_monotonic_ns": time.time_ns() - time.monotonic_ns(),
            "votes_wanted": VOTES_WANTED,
            "strikes": [dataclasses.asdict(strike) for strike in self.strikes],
            "gaps": gaps,
            "problem": self.problem,
        }
        (self.folder / "run.json").write_text(json.dumps(run, indent=1))

    # ---- what stands on it

    @property
    def members(self) -> tuple[EtcdServer, ...]:
        assert self.etcd is not None
        return self.etcd.members

    @property
    def witnessed(self) -> int:
        """The newest revision that the witness has seen: nothing up to it is needed any more."""
        assert self._witness is not None
        return self._witness.reached

    def api(self, member: EtcdServer) -> Member:
        """A direct connection to a member."""
        if member.name not in self._calls:
            self._calls[member.name] = Member(member.endpoint, self.certs)
        return self._calls[member.name]

    def leader(self) -> EtcdServer:
        """The member that leads, as it says itself."""
        import grpc

        def found() -> EtcdServer | None:
            for member in self.members:
                with contextlib.suppress(grpc.RpcError):
                    status = self.api(member).status(1.0)
                    if status["leader"] == status["member"] != 0:
                        return member
            return None

        leader: EtcdServer = wait(found, "etcd has a leader")
        return leader

    def machine(self, name: str, *more: str, spare: bool = False, **environment: str) -> Machine:
        """A machine, not started: its folder, its address (which its votes tell it by) and its links."""
        number = len(self.machines) + 2
        made = self.world.validator(f"127.0.0.{number}", spare=spare)
        self.world.validators.remove(made)
        facts = {each.name: getattr(made, each.name) for each in dataclasses.fields(Validator) if each.init}
        machine = Machine(**facts, name=name)
        machine.more = ["--who", name, "--store-timeout", "5", *more]
        machine.environment = {
            "FAULT_HISTORY": str(self.folder / f"history-{name}.jsonl"),
            "FAULT_NAME": name,
            "FAULT_COPIES": str(self.copies),
            **environment,
        }
        if self.etcd is not None:
            machine.links = [self.net.link(member.endpoint) for member in self.members]
            machine.endpoints = ["{}:{}".format(*link.endpoint) for link in machine.links]
        self.world.validators.append(machine)
        self.machines.append(machine)
        return machine

    @property
    def copies(self) -> Path:
        """The switch of late copies."""
        return self.folder / "copies-on"

    # ---- traffic

    def votes(self, since_unix_ms: int = 0, address: str | None = None) -> list[dict[str, Any]]:
        """Arrived votes of the identity since a moment, by arrival; only the newest part of the report is asked for."""
        now = time.time_ns() // 1_000_000
        chain = self.world.call("localnetChain", {"fromSlot": 1 << 60})
        since = max(0, chain["now_ms"] - (now - since_unix_ms) - 50)
        report = self.world.call("localnetReport", {"sinceMs": since, "fromSlot": 0})
        account = self.world.vote_account
        found = [vote for vote in report["votes"] if vote["vote_account"] == account and vote["unix_ms"] >= since_unix_ms]
        return sorted((vote for vote in found if address in (None, vote["source"])), key=lambda vote: int(vote["at_ms"]))

    def flows(self, count: int = 4, machine: Machine | None = None, timeout: float = 40.0) -> None:
        """Wait until so many more votes have arrived, from `machine` where one is named."""
        since = time.time_ns() // 1_000_000
        address = None if machine is None else machine.address

        def arrived() -> bool:
            return len(self.votes(since, address)) >= count

        def told() -> str:
            logs = "; ".join(f"{each.name} ({'runs' if each.running else 'ended'}): {each.log[-300:]}" for each in self.machines)
            return f"{count} more votes{'' if machine is None else ' from ' + machine.name}: {logs}"

        wait(arrived, told, timeout)

    def quiet(self, seconds: float) -> int:
        """Let so much time pass, and say how many votes arrived in it; not a wait for anything that could come sooner."""
        since = time.time_ns() // 1_000_000
        deadline = time.monotonic() + seconds
        until(lambda: time.monotonic() >= deadline, "time passes", seconds + 5)
        return len(self.votes(since))

    @contextlib.contextmanager
    def strike(self, fault: str) -> Iterator[Strike]:
        """The body makes the fault, ends it, waits until votes flow again, and fills in the proof."""
        made = Strike(fault, time.time_ns() // 1_000_000)
        self.strikes.append(made)
        yield made
        made.until_unix_ms = time.time_ns() // 1_000_000

    def pair(self, *more: str, primary_env: dict[str, str] | None = None) -> tuple[Machine, Machine]:
        """A primary that votes, and a spare that stands by."""
        primary = self.machine("primary", *more, **(primary_env or {})).start()
        spare = self.machine("spare", *more, spare=True).start()
        assert isinstance(primary, Machine)
        assert isinstance(spare, Machine)
        primary.wait_running()
        spare.wait_running()
        self.flows(4, primary)
        return primary, spare
