"""Telling systemd how we are: ready, alive, stopping (sd_notify(3)).

A unit of `Type=notify` counts as started when READY arrives, which is when this node is caught up and, if it shall vote, votes.
With `WatchdogSec=` systemd restarts a process that has not said WATCHDOG for that long; it is said only while the vote thread
answers, so a process that hangs is found although its event loop lives.

Without NOTIFY_SOCKET nothing happens. Nothing here raises: systemd not listening is no reason to stop voting.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

__all__ = ["Notifier"]

STATUS_CHARS_MAX = 200


class Notifier:
    """Sends to the socket that `environment` names.

    >>> Notifier({}).watchdog_s is None
    True
    >>> Notifier({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}).watchdog_s
    30.0
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._address: str | None = None
        if path[:1] in ("/", "@"):
            self._address = "\0" + path[1:] if path[0] == "@" else path  # "@": an abstract socket
        self._socket: socket.socket | None = None
        self.watchdog_s = _watchdog_s(environment)

    def ready(self, status: str) -> None:
        """Start-up is over."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={_line(status)}")

    def alive(self) -> None:
        """The watchdog's sign of life."""
        self._send("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        """The process ends, by its own will."""
        self._send(f"STOPPING=1\nSTATUS={_line(status)}")

    def close(self) -> None:
        """Give the socket back. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        with contextlib.suppress(OSError):
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)
            self._socket.sendto(message.encode(), self._address)


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Seconds after which systemd gives us up, if it watches this process."""
    try:
        micros = int(environment.get("WATCHDOG_USEC", ""))
        watched = int(environment.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return micros / 1e6 if micros > 0 and watched == os.getpid() else None


def _line(text: str) -> str:
    return " ".join(text.split())[:STATUS_CHARS_MAX]
