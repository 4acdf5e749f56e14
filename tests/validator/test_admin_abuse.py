"""Clients of the admin socket that are slow, greedy, broken or somebody else: the others are served, and memory stays bounded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.admin import BOUND_S, Control
from tests.support.live import admin_server
from tower.validator import admin
from tower.validator.admin import AdminClient, AdminServer, admin_socket, control_handlers
from tower.validator.admin_calls import MAX_BATCH
from tower.validator.admin_wire import MAX_REQUEST_BYTES

PID = b'{"jsonrpc":"2.0","method":"pid","params":[],"id":%d}'
NOBODY = 65534


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Path]:
    with admin_server(tmp_path, control_handlers(Control())):
        yield tmp_path


@contextlib.contextmanager
def client(ledger: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(admin_socket(ledger)))
        link.settimeout(BOUND_S)
        yield link


def read_all(link: socket.socket) -> bytes:
    """What is said until the other side hangs up."""
    said = bytearray()
    with contextlib.suppress(ConnectionResetError):  # it hung up with requests of ours unread
        while part := link.recv(1 << 16):
            said += part
    return bytes(said)


def test_a_request_may_come_byte_by_byte_and_many_in_one_packet(ledger: Path, rng: random.Random) -> None:
    stream = b"".join(PID % number + rng.choice([b"", b"\n", b" \r\n\t"]) for number in range(20))
    for size in (1, rng.randrange(2, 60), len(stream)):
        with client(ledger) as link:
            for start in range(0, len(stream), size):
                link.sendall(stream[start : start + size])
            link.shutdown(socket.SHUT_WR)
            answers = [json.loads(line) for line in read_all(link).splitlines()]
        assert [(answer["id"], answer["result"]) for answer in answers] == [(number, os.getpid()) for number in range(20)]


@pytest.mark.parametrize("entry", [b"1", b"[]", PID % 7])
def test_a_batch_has_an_end(ledger: Path, entry: bytes) -> None:
    for count, answered in ((MAX_BATCH, MAX_BATCH), (MAX_BATCH + 1, 1), (200_000 // (len(entry) + 1), 1)):
        with client(ledger) as link:
            link.sendall(b"[" + b",".join([entry] * count) + b"]")
            link.shutdown(socket.SHUT_WR)
            said = read_all(link)
        answer = json.loads(said)
        if answered == 1:
            text = f"Invalid request: a batch of more than {MAX_BATCH} requests"
            assert answer == {"jsonrpc": "2.0", "error": {"code": -32600, "message": text}, "id": None}
        else:
            assert len(answer) == answered


def test_the_longest_request_is_answered_and_one_byte_more_is_not(ledger: Path) -> None:
    head, tail = b'{"jsonrpc":"2.0","method":"setLogFilter","params":["', b'"],"id":1}'
    longest = head + b"x" * (MAX_REQUEST_BYTES - len(head) - len(tail)) + tail
    for request, ended in ((longest, {"result": None, "id": 1}), (longest[:60] + b"x" + longest[60:], None)):
        with client(ledger) as link:
            with contextlib.suppress(BrokenPipeError):
                link.sendall(request)
                link.shutdown(socket.SHUT_WR)
            answer = json.loads(read_all(link))
        if ended is not None:
            assert answer == {"jsonrpc": "2.0", **ended}
        else:
            text = f"Invalid request: longer than {MAX_REQUEST_BYTES} bytes"
            assert answer["error"] == {"code": -32600, "message": text}


def test_garbage_ends_the_connection_and_nothing_else(ledger: Path, rng: random.Random) -> None:
    for _ in range(50):
        garbage = bytes(rng.choice(b'{}[]",:\\ \n0azZ\xff\x00') for _ in range(rng.randrange(1, 400)))
        with client(ledger) as link:
            with contextlib.suppress(BrokenPipeError, OSError):
                link.sendall(garbage)
                link.shutdown(socket.SHUT_WR)
            answers = [json.loads(line) for line in read_all(link).splitlines()]
        errors = [one["error"]["code"] for answer in answers for one in (answer if isinstance(answer, list) else [answer])]
        assert set(errors) <= {-32700, -32600}
    assert AdminClient(ledger).call("pid") == os.getpid()


def test_more_connections_than_there_may_be_are_told_so(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "HALF_REQUEST_S", 1e6)
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(client(ledger)) for _ in range(admin.MAX_CONNECTIONS)]
        for link in links:
            link.sendall(b'{"jsonrpc":"2.0",')
        with client(ledger) as refused:
            answer = json.loads(read_all(refused))
        assert answer["error"] == {"code": -32600, "message": "Invalid request: 64 connections are open already"}
        for number, link in enumerate(links):  # those that were first can go on
            link.sendall(b'"method":"pid","id":%d}' % number)
            assert json.loads(link.makefile("rb").readline()) == {"jsonrpc": "2.0", "result": os.getpid(), "id": number}
    assert _served_again(ledger)


def _served_again(ledger: Path) -> bool:
    """Whether a client is served, once the server has noticed that others left."""
    for _ in range(1000):
        with client(ledger) as link:
            with contextlib.suppress(BrokenPipeError):
                link.sendall(PID % 1)
                link.shutdown(socket.SHUT_WR)
            if "result" in json.loads(read_all(link)):
                return True
    return False


def test_a_flood_of_half_requests_ends_by_itself(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "HALF_REQUEST_S", 0.05)
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(client(ledger)) for _ in range(admin.MAX_CONNECTIONS)]
        for link in links:
            with contextlib.suppress(BrokenPipeError):
                link.sendall(PID % 1 + b'{"jsonrpc":')
        for link in links:
            first, last = [json.loads(line) for line in read_all(link).splitlines()]
            assert first["result"] == os.getpid()
            assert last["error"] == {"code": -32600, "message": "Invalid request: not complete within 0.05 s"}
    assert _served_again(ledger)


def test_who_asks_nothing_is_let_go_without_a_word(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "IDLE_S", 0.05)
    with client(ledger) as link:
        link.sendall(b" \n")
        assert read_all(link) == b""


def _send_until_it_blocks(link: socket.socket, requests: int) -> int:
    """Send whole requests without reading answers; how many bytes of the stream went."""
    stream, sent = b"".join(PID % number for number in range(requests)), 0
    while sent < len(stream) and select.select([], [link], [], 0.2)[1]:
        sent += link.send(stream[sent : sent + 4096])
    return sent


def test_a_slow_reader_holds_up_nobody_and_gets_every_answer_in_the_end(ledger: Path) -> None:
    requests = 20_000
    with client(ledger) as link:
        stream = b"".join(PID % number for number in range(requests))
        sent = _send_until_it_blocks(link, requests)
        assert sent < len(stream)  # the server reads no more while its answers lie about
        assert AdminClient(ledger).call("pid") == os.getpid()
        said = bytearray()
        while len(stream) > sent or said.count(b"\n") < requests:
            readable, writable, _ = select.select([link], [link] if sent < len(stream) else [], [], BOUND_S)
            assert readable or writable
            if writable:
                sent += link.send(stream[sent : sent + 4096])
            if readable:
                said += link.recv(1 << 16)
    assert [json.loads(line)["id"] for line in said.splitlines()] == list(range(requests))


def test_who_never_reads_is_let_go(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "SEND_S", 0.05)
    with client(ledger) as link:
        with contextlib.suppress(BrokenPipeError):
            while True:  # ends when the server hangs up; else the socket's timeout ends it
                link.sendall(PID % 1)
        assert len(read_all(link)) < 1 << 20
    assert AdminClient(ledger).call("pid") == os.getpid()


def test_the_end_does_not_wait_for_who_does_not_read(tmp_path: Path) -> None:
    async def run() -> None:
        server = AdminServer(admin_socket(tmp_path), control_handlers(Control()))
        await server.start()
        with client(tmp_path) as link:
            await asyncio.to_thread(_send_until_it_blocks, link, 20_000)
            await asyncio.wait_for(server.close(), BOUND_S)

    asyncio.run(run())
    assert list(tmp_path.iterdir()) == []


AS_SOMEBODY_ELSE = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
link = socket.socket(socket.AF_UNIX)
try:
    link.connect(sys.argv[1])
    try:
        link.sendall(b'{"jsonrpc":"2.0","method":"exit","params":null,"id":0}')
    except BrokenPipeError:
        pass  # answered and hung up already
    while part := link.recv(4096):
        print(part.decode(), end="")
except PermissionError:
    print("denied")
except ConnectionResetError:
    pass  # hung up with our request unread
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_can_neither_connect_nor_ask() -> None:
    folder = Path(tempfile.mkdtemp(prefix="admin-"))
    try:
        folder.chmod(0o711)
        control = Control()
        with admin_server(folder, control_handlers(control)):
            command = [sys.executable, "-c", AS_SOMEBODY_ELSE, str(admin_socket(folder)), str(NOBODY)]
            first = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
            assert first.stdout == "denied\n"
            admin_socket(folder).chmod(0o666)  # even if somebody opened it
            second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
            text = "Only root and the user that runs the validator may ask"
            assert json.loads(second.stdout)["error"] == {"code": -32600, "message": text}
            assert not control.exited.is_set()
    finally:
        shutil.rmtree(folder)
