"""A peer in a process of its own: a line of JSON to it, a line of JSON back.

It times its work itself, so the pipe is in no figure.
"""

from __future__ import annotations

import json
import select
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["Peer", "PeerFailed", "Turn"]

ANSWER_S_MAX = 60.0
END_S_MAX = 10.0


class PeerFailed(Exception):
    """One line, which names the peer, and what it wrote on its standard error."""


class Peer:
    """The process of `command`; it ends with its input. As a context manager it is gone after exit."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        self.name = Path(command[0]).name
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([str(part) for part in command], stdin=pipe, stdout=pipe, stderr=pipe)

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send one command and wait for its answer. Raises `PeerFailed`."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            process.stdin.write(json.dumps(command).encode() + b"\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], ANSWER_S_MAX)
        except BrokenPipeError:
            ready = [process.stdout]
        if not ready:
            raise PeerFailed(f"{self.name} did not answer in {ANSWER_S_MAX} s")
        line = process.stdout.readline()
        if not line:
            raise PeerFailed(f"{self.name} ended: {process.stderr.read().decode(errors='replace')[-2000:].strip()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(timeout=END_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


class Turn:
    """The turns of a peer: `command`, with the number of calls, is asked each time (`measure.Timed`)."""

    def __init__(self, peer: Peer, **command: Any) -> None:
        self._peer, self._command = peer, command
        self.calls = 0

    def take(self, calls: int) -> list[float]:
        self.calls += calls
        taken = self._peer.ask(**self._command, calls=calls)["nanoseconds"]
        if len(taken) != calls:
            raise PeerFailed(f"{self._peer.name} timed {len(taken)} calls in place of {calls}")
        return [nanoseconds / 1e9 for nanoseconds in taken]
