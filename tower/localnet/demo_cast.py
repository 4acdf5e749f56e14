"""The demo's cast: two machines that run `openos-validator`, and the commands that an operator types on them.

A machine here is a folder (its working directory, with `ledger/` inside), a loopback address of its own from which its
votes come, and a log. Only processes started here are ever signalled, by pid; all of them are ended at the end.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tower.errors import TowerError

__all__ = ["DemoFailed", "Machine", "program", "shown", "wait_until"]

POLL_S = 0.005
END_S = 5.0
OUTPUT_BYTES_MAX = 1 << 16

_pause = threading.Event()  # never set: its wait is a pause that a signal can end


class DemoFailed(TowerError):
    """Something that the demo expects did not happen within its bound."""


def wait_until(condition: Callable[[], bool], timeout: float, what: str, poll: float = POLL_S) -> None:
    """Poll `condition` every `poll` seconds until it holds. Raises `DemoFailed` naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            raise DemoFailed(f"not within {timeout:g} s: {what}")
        _pause.wait(poll)


def program(name: str) -> list[str]:
    """How to start one of our own programs: the script beside the interpreter, or its module."""
    beside = Path(sys.executable).with_name(name)
    module = {"openos-validator": "tower.validator.cli", "openos-localnet": "tower.localnet.cli"}[name]
    return [str(beside)] if beside.exists() else [sys.executable, "-m", module]


def shown(arguments: Sequence[str]) -> str:
    """The command as a person would type it."""
    return shlex.join(arguments)


@dataclass
class Machine:
    """One validator machine: `name`, working directory, and the address that its votes come from."""

    name: str
    folder: Path
    address: str
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    starts: int = field(default=0, init=False)

    @property
    def log_path(self) -> Path:
        return self.folder / "validator.log"

    def start(self, arguments: Sequence[str]) -> None:
        """Start `openos-validator` with `arguments`; its output goes to the log."""
        if self.running:
            raise DemoFailed(f"the {self.name} is running already")
        self.starts += 1
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(
                [*program("openos-validator"), *arguments],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process that was started last; 0 before the first."""
        return 0 if self._process is None else self._process.pid

    @property
    def exit_status(self) -> int | None:
        """The exit status of the last process here, `None` while it runs."""
        return None if self._process is None else self._process.poll()

    def command(self, arguments: Sequence[str], timeout: float, tell: Callable[[str], None]) -> int:
        """Run `openos-validator` with `arguments` here as an operator would; its lines go to `tell`."""
        process = subprocess.Popen(
            [*program("openos-validator"), *arguments],
            cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        late = threading.Timer(timeout, process.kill)
        late.start()
        try:
            if process.stdout is not None:
                for line in process.stdout:
                    tell(line.rstrip())
            return process.wait()
        finally:
            late.cancel()
            process.kill()
            process.wait()

    def ask(self, *arguments: str) -> bool:
        """Whether a quick command succeeds, its output thrown away."""
        return self.command(arguments, END_S, lambda line: None) == 0

    def freeze(self) -> None:
        """SIGSTOP: the whole process stands still, in the middle of whatever it does."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            raise DemoFailed(f"the {self.name} is not running")
        os.kill(self._process.pid, number)

    def end(self) -> None:
        """End the process, frozen or not. Idempotent."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log_tail(self, lines: int = 8) -> str:
        """The last lines of the log, for when something went wrong."""
        if not self.log_path.exists():
            return "(no log)"
        return "\n".join(self.log_path.read_text("utf-8", "replace")[-OUTPUT_BYTES_MAX:].splitlines()[-lines:])
