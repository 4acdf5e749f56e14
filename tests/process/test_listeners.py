"""Load and garbage at every listener of real processes: each stays up, answers the next good request, and votes go on.

The local cluster's RPC, PubSub, UDP vote port and block port; the validator's admin socket and status port. What is thrown is
bounded in number and size, and drawn from the seed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.process.conftest import watched
from tests.support.cluster import PATIENCE_S, Validator, World, run_world, until
from tower.localnet.etcd_server import free_port
from tower.localnet.pubsub import MESSAGE_BYTES_MAX
from tower.localnet.server import BODY_BYTES_MAX, CONNECTIONS_MAX
from tower.validator import admin, web

Address = tuple[str, int] | str
LOADS = 120  # connections of one kind of garbage
PACKETS = 5000
DESCRIPTORS = 256  # of the validator in these tests: below what a flood without a bound would take
UPGRADE = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
UPGRADE += b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Iterator[tuple[World, Validator, str]]:
    """A cluster that takes blocks, and a validator that votes on it all the while, with a status port and few descriptors."""
    folder = tmp_path_factory.mktemp("listeners")
    with run_world(folder, "--fork-every", "0", "--announced-blocks", seed=seed) as world:
        machine, port = world.validator("127.0.0.2"), free_port()
        machine.more += ["--metrics-address", f"127.0.0.1:{port}"]
        machine.start().wait_running().wait_vote()
        resource.prlimit(machine.process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        yield from ((each, machine, f"http://127.0.0.1:{port}") for each in watched(world))


def connect(address: Address) -> socket.socket:
    link = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    link.settimeout(PATIENCE_S)
    try:
        link.connect(address)
    except OSError:
        link.close()
        raise
    return link


def throw(address: Address, words: bytes) -> None:
    """Say it, and hang up without listening."""
    with contextlib.suppress(OSError), connect(address) as link:
        link.sendall(words)


def garbage(rng: random.Random) -> list[bytes]:
    """Kinds of things that are no request: noise, halves, headers without an end, sizes that are none."""
    noise = [rng.randbytes(rng.randrange(1, 2000)) for _ in range(20)]
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 43\r\n\r\n"
    request += b'{"jsonrpc":"2.0","id":1,"method":"getSlot"}'
    halves = [request[: rng.randrange(1, len(request))] for _ in range(20)]
    heads = [
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (number, b"y" * 200) for number in range(400)),
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n" + b"[" * 100_000,
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"", b"\0" * 50_000, b"[" * 60_000, b"{}" * 5000,
        UPGRADE + b"\x81\xff" + b"\xff" * 8, UPGRADE + b"\x8f\x00", UPGRADE + rng.randbytes(500),
        UPGRADE + b"\x81\x7f" + (MESSAGE_BYTES_MAX + 1).to_bytes(8, "big") + bytes(1000),
    ]  # fmt: skip
    return [*noise, *halves, *heads]


def post(url: str, body: bytes) -> tuple[int, bytes]:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()


def get(url: str) -> int:
    """The status; 0 where it is hung up on."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return int(answer.status)
    except (urllib.error.URLError, ConnectionError):
        return 0


def rpc_answers(world: World) -> bool:
    with contextlib.suppress(OSError):
        return world.slot() > 0
    return False


def tells_slots(world: World) -> bool:
    """Whether a new subscriber hears of a slot."""
    parts = urlsplit(world.websocket)
    with contextlib.suppress(OSError), connect((str(parts.hostname), parts.port or 0)) as link:
        text = b'{"jsonrpc":"2.0","id":1,"method":"slotSubscribe"}'
        link.sendall(UPGRADE + bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
        said = b""
        while b"slotNotification" not in said and (part := link.recv(4096)):
            said += part
        return b"slotNotification" in said
    return False


def votes_go_on(world: World, machine: Validator) -> None:
    assert machine.running, machine.log[-2000:]
    machine.wait_vote(more_than=1)


def where(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return str(parts.hostname), parts.port or 0


Stage = tuple[World, Validator, str]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("listener", ["RPC", "PubSub", "status port", "admin socket"])
def test_garbage_and_the_next_good_request(listener: str, stage: Stage, rng: random.Random) -> None:
    world, machine, status = stage
    addresses: dict[str, Address] = {
        "RPC": where(world.url), "PubSub": where(world.websocket), "status port": where(status),
        "admin socket": str(machine.socket),
    }  # fmt: skip
    good: dict[str, Callable[[], bool]] = {
        "RPC": lambda: rpc_answers(world), "PubSub": lambda: tells_slots(world),
        "status port": lambda: get(f"{status}/live") == 200, "admin socket": lambda: machine.progress() == "Running",
    }  # fmt: skip
    kinds = garbage(rng)
    for number in range(LOADS):
        throw(addresses[listener], kinds[number % len(kinds)])
    until(good[listener], f"the {listener} answers again")
    votes_go_on(world, machine)


@pytest.mark.timeout(120)
def test_packets_of_noise_at_the_udp_ports(stage: Stage, rng: random.Random) -> None:
    world, machine, _ = stage
    facts = json.loads((world.folder / "cluster" / "localnet.json").read_text())
    nodes = world.call("getClusterNodes")
    ports = {facts["vote"], *(value for node in nodes for key, value in node.items() if "lock" in key and value)}
    assert ports - {facts["vote"]}, "the block port is among them"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for target in sorted(ports):
            host, _, port = target.rpartition(":")
            for number in range(PACKETS):
                size = rng.choice((0, 1, 100, 500, 1232, 1233, 9000))
                with contextlib.suppress(OSError):  # the system's own buffer is full
                    sender.sendto(rng.randbytes(size) if number % 3 else bytes([1]) + bytes(size), (host, int(port)))
    until(lambda: rpc_answers(world), "the cluster goes on")
    votes_go_on(world, machine)


@pytest.mark.timeout(120)
def test_idle_connections_have_a_bound_and_an_end(stage: Stage) -> None:
    """More than there may be: whoever is above the bound is hung up on, the votes' own sockets are never short, and it ends."""
    world, machine, status = stage
    for address, bound, good in (
        (where(status), web.CONNECTIONS_MAX, lambda: get(f"{status}/live") == 200),
        (where(world.url), CONNECTIONS_MAX, lambda: rpc_answers(world)),
    ):
        with contextlib.ExitStack() as stack:
            for _ in range(bound + DESCRIPTORS):
                with contextlib.suppress(OSError):
                    stack.enter_context(connect(address))
            assert len(list(Path(f"/proc/{machine.process.pid}/fd").iterdir())) < DESCRIPTORS - 20
            if address == where(status):
                votes_go_on(world, machine)
            until(good, "an old connection makes way")  # while all of them are still open
        until(good, "it answers when they are gone")
        votes_go_on(world, machine)


@pytest.mark.timeout(120)
def test_the_admin_socket_keeps_its_bound_and_votes_go_on(stage: Stage) -> None:
    world, machine, _ = stage
    with contextlib.ExitStack() as stack:
        for _ in range(admin.MAX_CONNECTIONS):
            link = stack.enter_context(connect(str(machine.socket)))
            link.sendall(b'{"jsonrpc":"2.0",')
        with connect(str(machine.socket)) as one_more:
            said = one_more.recv(4096)
        assert b"connections are open already" in said
        votes_go_on(world, machine)
    until(lambda: machine.progress() == "Running", "it answers when they are gone")


@pytest.mark.timeout(60)
def test_a_body_has_a_bound(stage: Stage) -> None:
    world, machine, status = stage
    fits = b'{"jsonrpc":"2.0","id":1,"method":"getSlot"}'
    assert post(world.url, fits.ljust(BODY_BYTES_MAX))[0] == 200
    assert post(world.url, fits.ljust(BODY_BYTES_MAX + 1))[0] == 413
    deep = b'{"jsonrpc":"2.0","id":1,"method":"getSlot","params":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
    assert b"-32700" in post(world.url, deep)[1]
    many = b"[" + b",".join([fits] * 101) + b"]"
    assert b"Too many requests in a batch" in post(world.url, many)[1]
    assert post(f"{status}/live", b"x" * 100)[0] == 405
    assert get(f"{status}/metrics") == 200
    votes_go_on(world, machine)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_admin_socket_of_a_running_validator_is_its_owners_alone(stage: Stage) -> None:
    _, machine, _ = stage
    assert machine.socket.stat().st_mode & 0o777 == 0o600
    code = "import os, socket, sys\nlink = socket.socket(socket.AF_UNIX)\nos.fchdir(int(sys.argv[1]))\n"
    code += "os.setgid(65534); os.setuid(65534)\n"
    code += "try:\n    link.connect('admin.rpc')\nexcept PermissionError:\n    print('denied')\n"
    folder = os.open(machine.socket.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        command = [sys.executable, "-c", code, str(folder)]
        done = subprocess.run(command, pass_fds=[folder], capture_output=True, text=True, timeout=60, check=False)
    finally:
        os.close(folder)
    assert done.stdout == "denied\n", done.stderr
