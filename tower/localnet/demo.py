"""The demo: the operator's guide, played on this machine with the real parts.

Certificates, an etcd with the guide's flags (or a shared folder), a cluster with the real vote program, a primary and a
secondary; then a planned failover, the primary's return, a take-over from a frozen primary, and a store that goes away. The
cluster's judge sees every vote that arrives and is the one who says whether any two conflict. Each machine votes from an
address of its own, so the judge also knows who voted.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from tower.errors import InvalidInput, StoreError
from tower.keys import read_keypair_file
from tower.localnet.cli import fetch_report
from tower.localnet.demo_cast import DemoFailed, Machine, program, shown, wait_until
from tower.localnet.demo_report import Ledger, Phase, Votes, print_result, ranges
from tower.localnet.etcd_server import EtcdServer, find_etcd, free_port
from tower.validator.certs import make_certificates
from tower.validator.config import Exit
from tower.wire import decode_saved_tower

__all__ = ["Demo"]

MARKER = ".demo"  # in a folder that the demo made and may make anew
START_S = 60.0
VOTE_S = 30.0
WINDOW_S = 90.0
END_S = 20.0
REPORT_POLL_S = 0.1
WATCHED_SLOTS = 8  # how long a phase looks on after its failover
GUIDE_PORT = 2379


class Demo:
    """One run in `folder`, on `store` ("etcd" or "file"). `run` gives the exit status: 0 only if all expectations held.

    With `trace` both validators write what they do into their folders, for `spec.replay`.
    """

    def __init__(self, folder: Path, store: str, slot_ms: int, seed: str, console: Console, trace: bool = False) -> None:
        self._trace = trace
        self._folder = folder.resolve()
        self._store = store
        self._slot_ms = slot_ms
        self._seed = seed
        self._console = console
        self._began = time.monotonic()
        self._ledger = Ledger()
        self._taken_at = 0  # when the machine that votes now took over, Unix milliseconds
        self._localnet: subprocess.Popen[bytes] | None = None
        self._etcd: EtcdServer | None = None
        self._url = ""
        self._vote_account = ""
        self._identity = ""
        self._primary = Machine("primary", self._folder / "primary", "127.0.0.2")
        self._secondary = Machine("secondary", self._folder / "secondary", "127.0.0.3")

    # ---- telling

    def _say(self, text: str, style: str = "") -> None:
        stamp = f"{time.monotonic() - self._began:6.1f} s  "
        self._console.print(stamp + text, style=style, highlight=False, markup=False, soft_wrap=True)

    def _title(self, text: str) -> None:
        self._console.print()
        self._say(text, "bold")

    def _typed(self, where: str, command: str) -> None:
        self._say(f"{where}$ {command}", "cyan")

    def _expect(self, what: str, holds: bool) -> None:
        self._ledger.expect(what, holds)
        self._say(f"{'ok ' if holds else 'NOT'}  {what}", "green" if holds else "bold red")

    # ---- the play

    def run(self) -> int:
        """Play it all; whatever happens, nothing that was started is left behind."""
        self._prepare_folder()
        try:
            self._set_up()
            self._planned_failover()
            self._primary_returns()
            self._frozen_primary()
            self._store_goes_away()
        except DemoFailed as problem:
            self._ledger.expect(str(problem), False)
            for machine in (self._primary, self._secondary):
                self._console.print(f"\n{machine.name}, end of its log:\n{machine.log_tail()}", highlight=False, markup=False)
        finally:
            self._end_all()
        self._console.print()
        print_result(self._console, self._ledger, time.monotonic() - self._began)
        self._say(f"logs and files: {self._folder}")
        return 1 if self._ledger.broken else 0

    def _prepare_folder(self) -> None:
        if self._folder.exists():
            if not (self._folder / MARKER).exists() and any(self._folder.iterdir()):
                raise InvalidInput(f"--dir {self._folder}: not empty and not made by the demo; name another folder")
            shutil.rmtree(self._folder)
        self._folder.mkdir(parents=True)
        (self._folder / MARKER).write_text("made by openos-localnet demo, and made anew by it\n")

    def _set_up(self) -> None:
        self._title(f"Setup on the {self._store} store")
        if self._store == "etcd":
            self._start_etcd()
        else:
            (self._folder / "towers").mkdir()
            self._say("the towers are kept in one folder that both validators reach: towers/")
        self._start_cluster()
        for machine, keys in (
            (self._primary, ("validator", "vote-account")),
            (self._secondary, ("validator", "vote-account", "secondary-validator")),
        ):
            machine.folder.mkdir()
            for name in keys:
                shutil.copy(self._folder / "cluster" / f"{name}-keypair.json", machine.folder)
            if self._store == "etcd":
                (machine.folder / "certs").mkdir()
                for name in ("etcd-ca.pem", "validator.pem", "validator-key.pem"):
                    shutil.copy(self._folder / "certs" / name, machine.folder / "certs")
        for machine in (self._secondary, self._primary):
            self._start(machine)
        self._wait_vote(self._primary, 0)
        first = self._votes().from_address(self._primary.address)[0]
        self._say(f"the primary votes, from slot {first['last_slot']} on; the secondary stands by")

    def _start_etcd(self) -> None:
        certs = self._folder / "certs"
        self._typed("", "openos-validator certs make --dir certs")
        make_certificates(certs)
        binary = find_etcd()
        try:
            self._etcd = self._etcd_at(binary, GUIDE_PORT)
            self._etcd.start()
        except StoreError as problem:
            if "cannot listen" not in str(problem):
                raise
            self._say(f"{problem}; taking a free port instead")
            self._etcd = self._etcd_at(binary, free_port())
            self._etcd.start()
        self._typed("", self._short(shown(self._etcd.guide_command)))
        self._typed("", self._short(shown(self._etcd.curl_command)))
        status = self._etcd.curl_status()
        self._expect(f"etcd's check answers {status}, as the guide says", status == 404)

    def _etcd_at(self, binary: Path, port: int) -> EtcdServer:
        return EtcdServer(binary, self._folder / "etcd-data", self._folder / "certs", port)

    def _start_cluster(self) -> None:
        command = ["run", "--dir", str(self._folder / "cluster"), "--rpc-port", "0"]
        command += ["--slot-ms", str(self._slot_ms), "--seed", self._seed, "--announced-blocks"]
        self._typed("", self._short(shown(["openos-localnet", *command])))
        log_path = self._folder / "cluster.log"
        with open(log_path, "wb") as log:
            self._localnet = subprocess.Popen(
                [*program("openos-localnet"), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(lambda: "\nready: " in log_path.read_text() or not self._localnet_runs(), START_S, "the cluster is ready")
        lines = log_path.read_text().splitlines()
        ready = next((line for line in lines if line.startswith("ready: ")), None)
        if ready is None:
            raise DemoFailed(f"the cluster did not start: {' '.join(lines[-3:])}")
        self._url = ready.split()[2]
        self._identity = read_keypair_file(self._folder / "cluster" / "validator-keypair.json").address
        self._vote_account = read_keypair_file(self._folder / "cluster" / "vote-account-keypair.json").address
        self._say(f"cluster at {self._url}: {lines[0]}; forks on purpose, five other voters, the real vote program")
        self._say(f"validator {self._identity}, vote account {self._vote_account}")

    def _localnet_runs(self) -> bool:
        return self._localnet is not None and self._localnet.poll() is None

    def _start(self, machine: Machine) -> None:
        identity = "validator-keypair.json" if machine is self._primary else "secondary-validator-keypair.json"
        arguments = ["--identity", identity, "--vote-account", "vote-account-keypair.json", "--ledger", "ledger"]
        arguments += ["--url", self._url, "--bind-address", machine.address]
        if machine is self._secondary:
            arguments += ["--no-check-vote-account", "--authorized-voter", "validator-keypair.json"]
        if self._etcd is not None:
            arguments += ["--tower-storage", "etcd", "--etcd-cacert-file", "certs/etcd-ca.pem"]
            arguments += ["--etcd-cert-file", "certs/validator.pem", "--etcd-key-file", "certs/validator-key.pem"]
            arguments += ["--etcd-endpoint", "{}:{}".format(*self._etcd.endpoint)]
        else:
            arguments += ["--tower-storage", "file", "--tower", "../towers"]
        if self._trace:
            arguments += ["--trace", "trace.ndjson"]
        if machine.starts == 0:
            self._typed(machine.name, shown(["openos-validator", *arguments]))
        else:
            self._typed(machine.name, "openos-validator ... (the same command line as before)")
        machine.start(arguments)

    # ---- the four phases

    def _planned_failover(self) -> None:
        phase = self._phase("1 planned failover", self._primary, self._secondary)
        self._wait_running(self._secondary)
        self._typed("secondary", "openos-validator wait-for-restart-window --identity validator-keypair.json \\")
        self._typed("secondary", "    && openos-validator set-identity validator-keypair.json")
        window = ["wait-for-restart-window", "--identity", "validator-keypair.json"]
        status = self._secondary.command(window, WINDOW_S, lambda line: self._say(f"    {line}") if line else None)
        self._expect("wait-for-restart-window found its window (exit status 0)", status == 0)
        self._hand_over(phase, self._primary, self._secondary)
        self._expect(f"at most 1 slot was missed: {phase.missed}", phase.missed is not None and phase.missed <= 1)

    def _primary_returns(self) -> None:
        phase = self._phase("2 the primary returns", self._secondary, self._primary)
        began = time.time_ns() // 1_000_000
        self._start(self._primary)
        self._follow(phase, self._secondary, self._primary, began)
        self._start(self._secondary)
        self._wait_running(self._secondary)
        self._look_on()
        took_back = self._votes().from_address(self._secondary.address, began)
        after_restart = [vote for vote in took_back if vote["unix_ms"] > began + (phase.ended_ms or 0)]
        self._expect("the secondary, restarted as itself, stands by: the cycle is broken", not after_restart)
        self._expect("the primary goes on voting", self._primary.running and self._secondary.running)
        self._close_phase(phase, self._primary)

    def _frozen_primary(self) -> None:
        phase = self._phase("3 frozen primary", self._primary, self._secondary)
        self._typed("primary", f"kill -STOP {self._primary.pid}")
        self._primary.freeze()
        self._typed("secondary", "openos-validator set-identity validator-keypair.json")
        self._hand_over(phase, self._primary, self._secondary, frozen=True)

    def _store_goes_away(self) -> None:
        phase = self._phase("4 the store is stopped", self._secondary, None)
        if self._etcd is not None:
            self._typed("", f"kill {self._etcd.pid}    # etcd")
            stopped = time.time_ns() // 1_000_000
            self._etcd.terminate()
        else:
            self._typed("", "mv towers towers-gone")
            stopped = time.time_ns() // 1_000_000
            (self._folder / "towers").rename(self._folder / "towers-gone")
        self._wait_ended(self._secondary, Exit.STORE_FAILED)
        phase.ended_ms = time.time_ns() // 1_000_000 - stopped
        self._look_on(4)
        sent = max(vote["last_slot"] for vote in self._votes().arrivals)
        stored = self._stored_slot()
        self._expect(f"no vote left without its tower: last sent {sent}, last stored {stored}", sent <= stored)
        self._close_phase(phase, None)

    # ---- what the phases share

    def _phase(self, title: str, giver: Machine, taker: Machine | None) -> Phase:
        self._title(f"Phase {title}")
        phase = Phase(title, giver.name, taker=taker.name if taker else "")
        phase.giver_slots = ranges(self._votes().from_address(giver.address, self._taken_at))
        self._ledger.phases.append(phase)
        return phase

    def _hand_over(self, phase: Phase, giver: Machine, taker: Machine, frozen: bool = False) -> None:
        """`set-identity` on the taker, and what it must bring about."""
        began = time.time_ns() // 1_000_000
        status = taker.command(["set-identity", "validator-keypair.json"], VOTE_S, lambda line: self._say(f"    {line}"))
        took = time.time_ns() // 1_000_000 - began
        self._expect(f"set-identity answered after the adoption, {took} ms (exit status 0)", status == 0)
        self._follow(phase, giver, taker, began, frozen)
        if not frozen:
            self._look_on()
        self._close_phase(phase, taker)

    def _follow(self, phase: Phase, giver: Machine, taker: Machine, began: int, frozen: bool = False) -> None:
        """From the event at `began` to the taker's first vote and the giver's end."""
        if not frozen:
            self._wait_ended(giver, Exit.LOST_FENCE)
            phase.ended_ms = time.time_ns() // 1_000_000 - began
        self._wait_vote(taker, began)
        votes = self._votes()
        first = votes.from_address(taker.address, began)[0]
        last = votes.from_address(giver.address)[-1]
        phase.first_vote_ms = first["unix_ms"] - began
        phase.giver_slots = ranges(votes.from_address(giver.address, self._taken_at))
        self._say(f"the {giver.name} voted up to slot {last['last_slot']}, the {taker.name} from {first['last_slot']} on")
        if frozen:
            self._look_on()
            self._typed(giver.name, f"kill -CONT {giver.pid}    # thawed, it believes that it is still the owner")
            thawed = time.time_ns() // 1_000_000
            giver.thaw()
            self._wait_ended(giver, Exit.LOST_FENCE)
            phase.ended_ms, phase.ended_from = time.time_ns() // 1_000_000 - thawed, "*"
            self._look_on(4)
        phase.missed = self._votes().missed(last["last_slot"], first["last_slot"])
        self._taken_at = began

    def _close_phase(self, phase: Phase, taker: Machine | None) -> None:
        votes = self._votes()
        if taker is not None:
            phase.taker_slots = ranges(votes.from_address(taker.address, self._taken_at))
        phase.conflicts = votes.conflicts - sum(earlier.conflicts for earlier in self._ledger.phases if earlier is not phase)
        self._expect("no conflicting votes at the cluster's door", votes.conflicts == 0)
        self._judge_blocks()

    def _judge_blocks(self) -> None:
        report = fetch_report(self._url)
        blocks, two = report["blocks"], report["duplicates_total"]
        by = ", ".join(
            f"{machine.name} {sum(block['source'] == machine.address for block in blocks)}"
            for machine in (self._primary, self._secondary)
        )
        self._expect(f"blocks announced so far: {by}; slots with two: {two}", two == 0)

    def _wait_vote(self, machine: Machine, since_ms: int) -> None:
        def voted() -> bool:
            return bool(self._votes().from_address(machine.address, since_ms))

        wait_until(voted, VOTE_S, f"the first vote of the {machine.name}", REPORT_POLL_S)

    def _wait_ended(self, machine: Machine, status: Exit) -> None:
        wait_until(lambda: not machine.running, END_S, f"the {machine.name} ends")
        self._say(f"    {machine.log_tail(1).partition('] ')[2] or machine.log_tail(1)}")
        ended = machine.exit_status
        self._expect(f"the {machine.name} ended with exit status {ended} ({status.name.lower()})", ended == status)

    def _wait_running(self, machine: Machine) -> None:
        def running() -> bool:
            return "running as" in machine.log_path.read_text().rsplit("cluster http", 1)[-1] or not machine.running

        wait_until(running, START_S, f"the {machine.name} is running")

    def _look_on(self, slots: int = WATCHED_SLOTS) -> None:
        """Let the cluster go on for some slots."""
        start = int(fetch_report(self._url)["slot"])
        bound = 30 + slots * self._slot_ms / 1000 * 3
        what = f"the cluster goes on for {slots} slots"
        wait_until(lambda: int(fetch_report(self._url)["slot"]) >= start + slots, bound, what, REPORT_POLL_S)

    def _votes(self) -> Votes:
        return Votes.of(fetch_report(self._url), self._vote_account)

    def _stored_slot(self) -> int:
        """The last voted slot of the tower in the store, read back from it."""
        record: bytes | None
        if self._etcd is not None:
            from tower.stores.etcd import EtcdStore

            self._etcd.start()
            certs = self._folder / "certs"
            ca, cert, key = ((certs / f"{name}.pem").read_bytes() for name in ("etcd-ca", "validator", "validator-key"))
            store = EtcdStore([self._etcd.endpoint], ca_cert=ca, cert=cert, key=key)
            try:
                record = store.look(self._identity, START_S).record
            finally:
                store.close()
        else:
            record = (self._folder / "towers-gone" / f"tower-1_9-{self._identity}.bin").read_bytes()
        if record is None:
            raise DemoFailed("no tower is in the store")
        return decode_saved_tower(record, self._identity).last_voted_slot or 0

    def _short(self, text: str) -> str:
        """Paths inside the demo's folder as they look from there, the interpreter's folder left out."""
        return text.replace(f"{self._folder}/", "").replace(f"{Path(sys.executable).parent}/", "")

    def _end_all(self) -> None:
        for end in (self._primary.end, self._secondary.end, self._end_cluster, self._end_etcd):
            end()

    def _end_cluster(self) -> None:
        if self._localnet is None:
            return
        self._localnet.terminate()
        try:
            self._localnet.wait(END_S)
        except subprocess.TimeoutExpired:
            self._localnet.kill()
            self._localnet.wait()

    def _end_etcd(self) -> None:
        if self._etcd is not None:
            self._etcd.terminate()
