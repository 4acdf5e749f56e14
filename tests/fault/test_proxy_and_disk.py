"""The tools of the faults do what they say: links break in each of their ways, and a power cut takes what was not flushed."""

from __future__ import annotations

import doctest
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault import disk
from tests.fault.disk import image, load_disk
from tests.fault.faults import CATALOGUE
from tests.fault.proxy import Link, Net, process_of
from tests.fault.table import PAGE, Row, cells_of
from tests.support.etcd import wait_until
from tower.stores.file import FileStore

ROOT = Path(__file__).parents[2]


class Echo:
    """Says what it hears, and remembers it."""

    def __init__(self) -> None:
        self.heard = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint: tuple[str, int] = self._listener.getsockname()[:2]
        self._threads = [threading.Thread(target=self._accept)]
        self._sockets: list[socket.socket] = []
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            thread = threading.Thread(target=self._talk, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _talk(self, client: socket.socket) -> None:
        try:
            while data := client.recv(4096):
                self.heard += data
                client.sendall(data)
        except OSError:
            pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            each.close()
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.close()


@pytest.fixture
def net() -> Iterator[Net]:
    with Net() as made:
        yield made


def connect(link: Link, timeout: float = 5.0) -> socket.socket:
    return socket.create_connection(link.endpoint, timeout)


def test_a_link_passes_and_is_cut(net: Net, echo: Echo) -> None:
    link = net.link(echo.endpoint)
    with connect(link) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        net.set(link, "cut")
        with pytest.raises(ConnectionError):
            client.recv(100)
    with pytest.raises(ConnectionError), connect(link) as client:  # the reset may come before the call that connects is back
        client.recv(100)
    assert link.struck["cut"] == 1
    net.set(link, "pass")
    with connect(link) as client:
        client.sendall(b"again")
        assert client.recv(100) == b"again"
    assert link.carried == 20


@pytest.mark.parametrize("rule", ["hole", "deaf"])
def test_what_was_held_arrives_late(net: Net, echo: Echo, rule: str) -> None:
    link = net.link(echo.endpoint)
    with connect(link) as client:
        net.set(link, rule)
        client.sendall(b"late")
        wait_until(lambda: link.struck[rule], "the rule holds something")
        assert echo.heard == b""
        net.set(link, "pass")
        assert client.recv(100) == b"late"


def test_swallowed_answers_never_come_and_the_request_acted(net: Net, echo: Echo) -> None:
    link = net.link(echo.endpoint)
    with connect(link) as client:
        net.set(link, "mute")
        client.sendall(b"do it")
        wait_until(lambda: echo.heard == b"do it" and link.struck["mute"] > 1, "it was heard, and answered")
        net.set(link, "pass")
        with pytest.raises(ConnectionError):
            client.recv(100)


def test_a_doubled_and_a_torn_chunk(net: Net, echo: Echo) -> None:
    link = net.link(echo.endpoint)
    with connect(link) as client:
        net.set(link, "double")
        client.sendall(b"ab")
        wait_until(lambda: echo.heard == b"abab", "it was heard twice")
    echo.heard = b""
    with connect(link) as client:
        net.set(link, "torn")
        client.sendall(b"abcd")
        with pytest.raises(ConnectionError):
            client.recv(100)
    wait_until(lambda: echo.heard == b"ab", "half of it was heard")


def test_a_rule_for_one_caller(net: Net, echo: Echo) -> None:
    link = net.link(echo.endpoint, lambda port, to: "me" if process_of(port, to) == os.getpid() else "other")
    net.set(link, "cut", "other")
    with connect(link) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        net.set(link, "cut", "me")
        with pytest.raises(ConnectionError):
            client.recv(100)
    with pytest.raises(ValueError, match="no rule 'odd'"):
        net.set(link, "odd")


# ---- the power cut


WRITER = """
import sys
from pathlib import Path
from tests.fault.disk import record_disk
from tower.store import Kind, Owner
from tower.stores.file import FileStore
folder = Path(sys.argv[2])
store = FileStore(folder)
record_disk(Path(sys.argv[1]), folder)
mine = store.claim(store.look("me", 5), Owner("a", "start"), 5)
revision = 0
for number in range(4):
    done = store.begin_store(mine.fence, revision, b"tower %d" % number, 5).outcome(5)
    revision = done.record_revision
store.close()
"""


def test_whatever_moment_the_power_fails_a_confirmed_tower_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "towers"
    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(tmp_path / "log"), str(folder)], cwd=ROOT, timeout=60, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    changes = load_disk(tmp_path / "log")
    name, seen, lost_something = "tower-1_9-me.bin", [], 0
    for end in range(1, len(changes) + 1):
        left, lost = image(changes[:end])
        seen.append(left.get(name, b""))
        lost_something += lost > 0
        assert left.get(name) in (None, *(b"tower %d" % number for number in range(4)))
    changed = [each for at, each in enumerate(seen) if at == 0 or each != seen[at - 1]]
    assert changed == [b"", *(b"tower %d" % number for number in range(4))]
    assert lost_something > 10
    (tmp_path / "left").mkdir()
    for each, content in image(changes)[0].items():
        (tmp_path / "left" / each).write_bytes(content)
    store = FileStore(tmp_path / "left")
    assert store.look("me", 5).record == b"tower 3"
    store.close()


def test_a_store_that_does_not_flush_loses_its_tower(tmp_path: Path) -> None:
    folder = tmp_path / "towers"
    careless = "import os\nos.fsync = lambda handle: None\n" + WRITER
    subprocess.run([sys.executable, "-c", careless, str(tmp_path / "log"), str(folder)], cwd=ROOT, timeout=60, check=True)
    changes = [change for change in load_disk(tmp_path / "log") if change["change"] != "fsync"]
    assert len(changes) >= 20
    left, lost = image(changes)
    assert left == {}
    assert lost >= 20


def test_doctests() -> None:
    assert doctest.testmod(disk).failed == 0


# ---- the table


def test_the_table_shows_the_worst_strike_of_each_fault() -> None:
    rows = [Row("kill", 0.5, 2, 0.7, False, 0), Row("kill", 1.25, 1, 0.9, False, 0), Row("power cut", 2.0, 3, None, True, 0)]
    first, second = cells_of(rows)
    assert first == ["kill", CATALOGUE["kill"].what, "2", "1.2 s", "2", "0", "0.9 s", ""]
    assert second[:3] + second[6:7] == ["power cut", CATALOGUE["power cut"].what, "1", "never, started by hand"]


def test_the_page_has_its_marks() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("<!-- the table is made by the run: begin -->") == 1
    assert text.count("<!-- the table is made by the run: end -->") == 1
