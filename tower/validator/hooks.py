"""An operator's own commands before and after a change of role.

`--hook-before` runs when this machine is about to take an identity over, before anything is claimed. It may refuse: if it
ends with another status than 0, or not within its time, nothing is claimed and whoever votes goes on. `--hook-after` runs when
the role has changed, in either direction, beside the voting; what it says counts for nothing. When the fence is lost voting
stops first, and only then somebody is told; where the process ends with it the hook outlives the process, and its output is lost.

No shell is involved. The environment says what happens:

==========================  ==========================================================================
OPENOS_ROLE_BEFORE          primary or standby
OPENOS_ROLE_AFTER           primary, standby, or stopped: the process ends
OPENOS_IDENTITY             address of the identity that is taken or was given up
OPENOS_WHY                  as in the history: start, set-identity, ...; or why voting stopped
OPENOS_FENCE                revision of the fence; empty where there is none
OPENOS_LAST_VOTED_SLOT      newest stored slot; empty where there is none
==========================  ==========================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from tower.errors import InvalidInput
from tower.validator.logs import about

__all__ = ["Hooks", "RoleChange", "parse_hook"]

log = logging.getLogger(__name__)

OUTPUT_BYTES_MAX = 4096  # of a hook's output that the log keeps
READ_BYTES = 65536
KILL_S = 1.0  # that a killed hook may take to be gone


@dataclass(frozen=True, slots=True)
class RoleChange:
    """What happens, or has happened."""

    before: str
    after: str
    identity: str
    why: str
    fence: int | None = None
    last_voted_slot: int | None = None

    def environment(self) -> dict[str, str]:
        """What the hook gets beside our own environment."""

        def shown(value: int | None) -> str:
            return "" if value is None else str(value)

        return {
            "OPENOS_ROLE_BEFORE": self.before,
            "OPENOS_ROLE_AFTER": self.after,
            "OPENOS_IDENTITY": self.identity,
            "OPENOS_WHY": self.why,
            "OPENOS_FENCE": shown(self.fence),
            "OPENOS_LAST_VOTED_SLOT": shown(self.last_voted_slot),
        }


def parse_hook(text: str | None, flag: str) -> tuple[str, ...]:
    """The words of a hook's command. Raises `InvalidInput` for what cannot be run.

    >>> parse_hook(None, "--hook-after"), parse_hook("true 'a b'", "--hook-after")[1:]
    ((), ('a b',))
    """
    if text is None:
        return ()
    try:
        words = shlex.split(text)
    except ValueError as problem:
        raise InvalidInput(f"{flag}: {text!r}: {problem}; write it as for a shell") from None
    if not words:
        raise InvalidInput(f"{flag}: no command; name a program, or leave the flag out")
    program = shutil.which(words[0])
    if program is None:
        raise InvalidInput(f"{flag}: {words[0]}: no program that can be run; check the path and its mode (chmod +x)")
    return (os.path.abspath(program), *words[1:])


class Hooks:
    """Runs the hooks. `count` is told the role and the outcome of each: "ok", "failed" or "timeout"."""

    def __init__(
        self,
        before: tuple[str, ...] = (),
        after: tuple[str, ...] = (),
        timeout: float = 5.0,
        count: Callable[[str, str], None] = lambda role, outcome: None,
    ) -> None:
        self._before, self._after, self._timeout, self._count = before, after, timeout, count
        self._running: set[asyncio.Task[str]] = set()

    async def ask(self, change: RoleChange) -> None:
        """Run the hook before a change. Raises `InvalidInput` if it refuses."""
        if not self._before:
            return
        outcome = await self._run("--hook-before", self._before, change)
        if outcome != "ok":
            said = f"did not end within {self._timeout:g} s" if outcome == "timeout" else "ended with an error"
            raise InvalidInput(f"--hook-before {said}; nothing was claimed, see the validator's log")

    def tell(self, change: RoleChange) -> None:
        """Begin the hook after a change; from the event loop. Does not wait."""
        if self._after:
            task = asyncio.get_running_loop().create_task(self._run("--hook-after", self._after, change))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def leave(self, change: RoleChange) -> None:
        """Begin the hook after the change that is this process's end, and leave it to itself: it may outlive the process."""
        if not self._after:
            return
        try:
            subprocess.Popen(
                self._after,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **change.environment()},
                start_new_session=True,
            )
        except OSError as problem:
            log.warning("--hook-after (%s): failed: %s", change.after, problem)

    async def close(self) -> None:
        """Let hooks that run come to their end, within their time."""
        if self._running:
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _run(self, flag: str, command: tuple[str, ...], change: RoleChange) -> str:
        outcome, said = await self._outcome(command, change)
        self._count(change.after, outcome)
        text = said.decode("utf-8", "replace").strip()
        fields = about("hook", hook=flag, outcome=outcome, role=change.after, output=text)
        level = logging.INFO if outcome == "ok" else logging.WARNING
        log.log(level, "%s (%s): %s%s", flag, change.after, outcome, f": {' '.join(text.split())}" if text else "", extra=fields)
        return outcome

    async def _outcome(self, command: tuple[str, ...], change: RoleChange) -> tuple[str, bytes]:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, **change.environment()},
                start_new_session=True,  # so that it can be ended with all that it started
            )
        except OSError as problem:
            return "failed", str(problem).encode()
        said = bytearray()
        try:
            async with asyncio.timeout(self._timeout):
                await _read(process, said)
                status = await process.wait()
        except TimeoutError:
            return "timeout", bytes(said)
        finally:
            await _end(process)
        if status == 0:
            return "ok", bytes(said)
        return "failed", bytes(said) + f"\n(exit status {status})".encode()


async def _read(process: asyncio.subprocess.Process, said: bytearray) -> None:
    """Read to the end; keep the beginning, so that a hook that talks a lot is not held up by us."""
    while process.stdout is not None and (data := await process.stdout.read(READ_BYTES)):
        said += data[: OUTPUT_BYTES_MAX - len(said)]


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), KILL_S)
