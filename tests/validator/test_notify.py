"""What systemd is told, and that its silence changes nothing."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tower.validator.notify import Notifier

LIMIT_S = 10


@pytest.mark.parametrize("abstract", [False, True])
def test_messages_arrive(tmp_path: Path, abstract: bool):
    name = f"@openos-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name[1:] if abstract else name)
        systemd.settimeout(LIMIT_S)
        notifier = Notifier({"NOTIFY_SOCKET": name})
        notifier.ready("primary,\nlast vote 7")
        notifier.status("x" * 1000)
        notifier.alive()
        notifier.stopping("exit requested")
        got = [systemd.recv(4096).decode() for _ in range(4)]
        notifier.close()
    assert got[0] == "READY=1\nSTATUS=primary, last vote 7"
    assert got[1] == "STATUS=" + "x" * 200
    assert got[2:] == ["WATCHDOG=1", "STOPPING=1\nSTATUS=exit requested"]


def test_nobody_listening_is_no_error(tmp_path: Path):
    for name in ("", "relative", str(tmp_path / "missing"), "@nobody-listens-here"):
        notifier = Notifier({"NOTIFY_SOCKET": name})
        notifier.ready("primary")
        notifier.close()
        notifier.close()


@pytest.mark.parametrize(
    ("micros", "pid", "seconds"),
    [("2500000", str(os.getpid()), 2.5), ("2500000", "1", None), ("", "", None), ("0", str(os.getpid()), None), ("x", "1", None)],
)
def test_the_watchdog_counts_only_for_this_process(micros: str, pid: str, seconds: float | None):
    assert Notifier({"WATCHDOG_USEC": micros, "WATCHDOG_PID": pid}).watchdog_s == seconds
