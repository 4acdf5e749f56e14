"""Our own way to etcd, where a server does what it should not, or may and seldom does."""

from __future__ import annotations

import errno
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyetcd import etcdrpc

from tests.support.etcd import Proxy, open_store, pems, wait_until
from tests.support.http2_server import OPENS, Peer, ScriptedServer, answer_frames
from tower.errors import StoreError, StoreUnavailable
from tower.localnet.etcd_server import EtcdServer
from tower.store import ABSENT, Claimed, Committed, Fence, Owner, Refused, Unknown
from tower.stores import _etcd_channel, _etcd_connection, _etcd_opening, _etcd_stream
from tower.stores import _etcd_frames as h2
from tower.stores._common import Deadline
from tower.stores.etcd import RECORD_BYTES_MAX, EtcdStore

T = 10.0
FENCE = Fence("1" * 32, 5, b"instance")
Script = Callable[[Peer], None]


def committed(revision: int) -> bytes:
    header = etcdrpc.ResponseHeader(cluster_id=1, member_id=2, revision=revision)
    put = etcdrpc.ResponseOp(response_put=etcdrpc.PutResponse(header=etcdrpc.ResponseHeader(revision=revision)))
    return etcdrpc.TxnResponse(header=header, succeeded=True, responses=[put]).SerializeToString()


@pytest.fixture
def play(certificates: Path) -> Iterator[Callable[..., EtcdStore]]:
    """A store on a server that plays a script, for each connection anew."""
    opened: list[Any] = []

    def start(script: Script, *, alpn: str = "h2", **arguments: Any) -> EtcdStore:
        server = ScriptedServer(certificates, script, alpn=alpn)
        store = EtcdStore([server.endpoint], **pems(certificates), transport="http2", **arguments)
        opened.append((store, server))
        return store

    yield start
    for store, server in opened:
        store.close()
        with server:
            pass


def write(store: EtcdStore, record: bytes = b"tower", timeout: float = T) -> Any:
    return store.begin_store(FENCE, 7, record, timeout).outcome(timeout)


def answering(peer: Peer) -> None:
    """What a server should do."""
    peer.greet()
    revision = 10 * (peer.number + 1)
    while True:
        stream, _ = peer.request()
        revision += 1
        peer.answer(stream, committed(revision))


def test_a_late_answer_is_not_taken_for_the_next_one(play: Callable[..., EtcdStore]) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        first, _ = peer.request()
        peer.send(h2.window_update(0, 1))  # it is alive
        peer.until(h2.RST_STREAM)  # the client has given up
        _, _, _, ping = peer.until(h2.PING)
        peer.send(h2.frame(h2.PING, h2.ACK, 0, ping))
        second, _ = peer.request()
        peer.send(*answer_frames(first, committed(66)), *answer_frames(second, committed(77)))
        peer.wait_for_end()

    store = play(script, attempt_timeout=0.3)
    assert write(store) == Committed(FENCE, 77, b"tower")


def test_an_announced_request_goes_on_the_stream_that_was_opened_for_it(play: Callable[..., EtcdStore]) -> None:
    """The server has the headers before there is a request; all others open their own streams meanwhile."""
    seen: list[list[tuple[int, int]]] = []
    opened = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        peer.answer(peer.request()[0], committed(70))
        assert peer.until(h2.HEADERS)[1:3] == (h2.END_HEADERS, 3)
        opened.set()
        for revision in (71, 72, 73):
            stream, _ = peer.request()
            seen.append([(kind, stream) for kind, _, stream, _ in peer.frames if stream])
            peer.frames.clear()
            peer.answer(stream, committed(revision))
        peer.wait_for_end()

    store = play(script)
    assert write(store) == Committed(FENCE, 70, b"tower")
    store.expect_store()
    store.expect_store()
    assert opened.wait(T)
    other = store._exchange(b"", (0, 0), Deadline(T))  # no store: it does not take the stream
    assert other.result(Deadline(T)).revision == 71
    assert write(store) == Committed(FENCE, 72, b"tower")
    assert write(store) == Committed(FENCE, 73, b"tower")
    headers_of_the_first = [(h2.HEADERS, 1), (h2.DATA, 1), (h2.HEADERS, 3)]
    assert seen[0] == [*headers_of_the_first, (h2.HEADERS, 5), (h2.DATA, 5)]
    assert seen[1:] == [[(h2.DATA, 3)], [(h2.HEADERS, 7), (h2.DATA, 7)]]


def test_an_announced_request_may_be_larger_than_the_window(play: Callable[..., EtcdStore]) -> None:
    record = bytes(1000)
    asked: list[tuple[int, bytes]] = []

    def script(peer: Peer) -> None:
        peer.greet((h2.INITIAL_WINDOW_SIZE, 100))
        for revision in (70, 71):
            body, flags = b"", 0
            while not flags & h2.END_STREAM:
                _, flags, stream, part = peer.until(h2.DATA)
                body += part
                peer.send(h2.window_update(stream, 100))
            asked.append((stream, body))
            peer.answer(stream, committed(revision))
        peer.wait_for_end()

    store = play(script)
    assert write(store, record).record_revision == 70
    store.expect_store()
    assert write(store, record).record_revision == 71
    assert [stream for stream, _ in asked] == [1, 3]
    assert asked[0][1] == asked[1][1]


@pytest.mark.parametrize("how", ["ended", "refused", "a status", "told to leave", "closed"])
def test_a_server_may_end_the_stream_of_an_announced_request(play: Callable[..., EtcdStore], how: str) -> None:
    ended = threading.Event()

    def script(peer: Peer) -> None:
        if peer.number:
            answering(peer)
        peer.greet()
        peer.answer(peer.request()[0], committed(70))
        stream = peer.until(h2.HEADERS)[2]
        match how:
            case "ended":
                peer.send(h2.frame(h2.RST_STREAM, 0, stream, bytes(4)))
            case "refused":
                peer.send(h2.frame(h2.RST_STREAM, 0, stream, h2.REFUSED_STREAM.to_bytes(4)))
            case "a status":
                peer.send(h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, status(14, "no")))
            case "told to leave":
                peer.send(h2.frame(h2.GOAWAY, 0, 0, (1).to_bytes(4) + bytes(4)))
            case _:
                peer.tls.close()
        ended.set()
        if how not in ("told to leave", "closed"):
            stream, _ = peer.request()
            assert stream == 5, "the stream that was ended is not used again"
            peer.answer(stream, committed(21))
        if how != "closed":
            peer.wait_for_end()

    store = play(script)
    assert write(store) == Committed(FENCE, 70, b"tower")
    store.expect_store()
    assert ended.wait(T)
    connection = store._links.current._connection
    wait_until(lambda: connection._channel.waiting(), "what the server says has arrived")
    pending = store.begin_store(FENCE, 7, b"tower", T)
    assert pending.outcome(T) == Committed(FENCE, 21, b"tower")
    assert pending._exchange.cause() == "", "no attempt was lost"


def test_a_stream_that_waited_for_too_long_is_left(play: Callable[..., EtcdStore], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_etcd_connection, "EXPECTED_MAX_S", 0.0)
    left: list[tuple[int, int, int, bytes]] = []

    def script(peer: Peer) -> None:
        peer.greet()
        peer.answer(peer.request()[0], committed(70))
        left.append(peer.until(h2.RST_STREAM))
        stream, _ = peer.request()
        assert stream == 5
        peer.answer(stream, committed(71))
        peer.wait_for_end()

    store = play(script)
    write(store)
    store.expect_store()
    assert write(store) == Committed(FENCE, 71, b"tower")
    assert left == [(h2.RST_STREAM, 0, 3, h2.CANCEL.to_bytes(4))]


def test_no_stream_is_opened_that_the_server_would_refuse(play: Callable[..., EtcdStore]) -> None:
    frames: list[tuple[int, int, int, bytes]] = []

    def script(peer: Peer) -> None:
        peer.greet((h2.MAX_CONCURRENT_STREAMS, 1))
        for revision in (70, 71, 72):
            stream, _ = peer.request()
            frames.extend(peer.frames)
            peer.frames.clear()
            peer.answer(stream, committed(revision))
        peer.wait_for_end()

    store = play(script)
    write(store)
    store.expect_store()
    store._exchange(b"", (0, 0), Deadline(T)).result(Deadline(T))  # no store: it would be the second stream at a time
    write(store)
    assert [(kind, stream) for kind, _, stream, _ in frames if stream] == [(1, 1), (0, 1), (1, 3), (0, 3), (1, 5), (0, 5)]


def test_an_answer_that_comes_in_two_pieces_wakes_once(play: Callable[..., EtcdStore], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first piece is less than is worth waking for, and so is the second; together they are all there is."""
    monkeypatch.setattr(_etcd_channel, "SLICE_S", T)
    waiting, reads = threading.get_native_id(), 0

    def asleep() -> bool:
        return Path(f"/proc/self/task/{waiting}/stat").read_text().rpartition(")")[2].split()[0] == "S"

    def script(peer: Peer) -> None:
        peer.greet()
        for revision in (70, 71):
            peer.answer(peer.request()[0], committed(revision))
        stream, _ = peer.request()
        answer = b"".join(answer_frames(stream, committed(72)))
        peer.send(answer[: len(answer) // 2])
        wait_until(asleep, "the client waits for the rest")
        peer.send(answer[len(answer) // 2 :])
        peer.wait_for_end()

    read = _etcd_channel.Channel.read

    def counted(channel: _etcd_channel.Channel, timeout: float) -> bytes | None:
        nonlocal reads
        reads += 1
        return read(channel, timeout)

    store = play(script)
    write(store)
    write(store)  # from here on it is known how large an answer is
    pending = store.begin_store(FENCE, 7, b"tower", T)
    monkeypatch.setattr(_etcd_channel.Channel, "read", counted)
    assert pending.outcome(T) == Committed(FENCE, 72, b"tower")
    assert reads == 1


class _Poor:
    """The socket module on a machine without file handles, or threads, for the first few that are asked for."""

    def __init__(self, fails: int) -> None:
        self.fails = fails

    def __getattr__(self, name: str) -> Any:
        if name in ("socket", "socketpair") and self.fails:
            self.fails -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return getattr(socket, name)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_without_file_handles_an_attempt_fails_and_the_next_goes_on(
    play: Callable[..., EtcdStore], monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    store = play(answering)
    store._links.current.host = host
    monkeypatch.setattr(_etcd_opening, "socket", _Poor(3))
    pending = store.begin_store(FENCE, 7, b"tower", T)
    assert pending.outcome(T) == Committed(FENCE, 11, b"tower")
    assert "no file handle is left here; raise LimitNOFILE (ulimit -n)" in pending._exchange.cause()


def test_without_threads_a_name_is_looked_up_later(play: Callable[..., EtcdStore], monkeypatch: pytest.MonkeyPatch) -> None:
    store = play(answering)
    store._links.current.host = "localhost"
    start, fails = threading.Thread.start, [True, True]

    def refused(thread: threading.Thread) -> None:
        if thread.name == "tower-resolve" and fails:
            fails.pop()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    pending = store.begin_store(FENCE, 7, b"tower", T)
    assert pending.outcome(T) == Committed(FENCE, 11, b"tower")
    assert "its host name cannot be looked up: can't start new thread" in pending._exchange.cause()


def test_answers_in_another_order_reach_their_calls(play: Callable[..., EtcdStore]) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        streams = [peer.request()[0] for _ in range(3)]
        for index in (2, 0, 1):
            peer.answer(streams[index], committed(70 + index))
        peer.wait_for_end()

    store = play(script)
    pendings = [store.begin_store(FENCE, 7, b"tower", T) for _ in range(3)]
    assert [pending.outcome(T).record_revision for pending in pendings] == [70, 71, 72]


@pytest.mark.parametrize("how", ["each byte alone", "padded", "continued", "other frames between", "small settings"])
def test_an_answer_may_come_in_any_shape(play: Callable[..., EtcdStore], how: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet(*([(h2.INITIAL_WINDOW_SIZE, 10), (h2.MAX_CONCURRENT_STREAMS, 1)] if how == "small settings" else []))
        if how == "small settings":
            for _ in range(60):
                peer.send(h2.window_update(1, 10))
        stream, _ = peer.request()
        opens, data, ends = answer_frames(stream, committed(70))
        match how:
            case "each byte alone":
                for byte in opens + data + ends:
                    peer.send(bytes([byte]))
            case "padded":
                body = h2.message(committed(70))
                flags = h2.END_HEADERS | h2.PADDED | h2.PRIORITISED
                opens = h2.frame(h2.HEADERS, flags, stream, b"\3" + bytes(5) + OPENS + bytes(3))
                peer.send(opens, h2.frame(h2.DATA, h2.PADDED, stream, b"\2" + body + bytes(2)), ends)
            case "continued":
                parts = h2.frame(h2.HEADERS, 0, stream, OPENS[:3]), h2.frame(h2.CONTINUATION, 0, stream, OPENS[3:9])
                peer.send(*parts, h2.frame(h2.CONTINUATION, h2.END_HEADERS, stream, OPENS[9:]), data, ends)
            case "other frames between":
                early = h2.frame(h2.HEADERS, h2.END_HEADERS, stream, b"\x08\x03103")
                unknown = h2.frame(0xEE, 0, stream, b"?")
                peer.send(h2.window_update(0, 9), early, opens, h2.frame(h2.PRIORITY, 0, stream, bytes(5)), unknown, data)
                peer.send(h2.frame(h2.PING, 0, 0, b"are you?"))
                assert peer.until(h2.PING, h2.ACK)[3] == b"are you?"
                peer.send(ends)
            case _:
                peer.send(opens, data, ends)
        peer.wait_for_end()

    assert write(play(script)) == Committed(FENCE, 70, b"tower")


GARBAGE = {
    "no HTTP/2": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a frame too long": h2.settings([]) + b"\xff\xff\xff" + bytes(6),
    "settings cut": h2.frame(h2.SETTINGS, 0, 0, bytes(5)),
    "a window of too much": h2.settings([]) + h2.window_update(0, h2.WINDOW_MAX),
    "a window of nothing": h2.settings([]) + h2.window_update(0, 0),
    "a call never made": h2.settings([]) + h2.frame(h2.DATA, 0, 99, b"x"),
    "a call of the server": h2.settings([]) + h2.frame(h2.HEADERS, h2.END_HEADERS, 2, OPENS),
    "data before headers": h2.settings([]) + h2.frame(h2.DATA, 0, 1, b"x"),
    "headers of a table": h2.settings([]) + h2.frame(h2.HEADERS, h2.END_HEADERS, 1, b"\xbe"),
    "headers cut": h2.settings([]) + h2.frame(h2.HEADERS, h2.END_HEADERS, 1, OPENS[:-1]),
    "headers interrupted": h2.settings([]) + h2.frame(h2.HEADERS, 0, 1, OPENS) + h2.frame(h2.PING, 0, 0, bytes(8)),
    "headers without end": h2.settings([]) + h2.frame(h2.HEADERS, 0, 1, OPENS) + h2.frame(h2.CONTINUATION, 0, 1, bytes(9999)) * 7,
    "a push": h2.settings([]) + h2.frame(h2.PUSH_PROMISE, 0, 1, bytes(4)),
    "padding alone": h2.settings([]) + h2.frame(h2.HEADERS, h2.END_HEADERS | h2.PADDED, 1, b"\xff"),
    "two headers": h2.settings([]) + h2.frame(h2.HEADERS, h2.END_HEADERS, 1, OPENS) * 2,
}


@pytest.mark.parametrize("what", GARBAGE)
def test_what_is_no_http2_ends_in_one_error_and_a_new_connection(play: Callable[..., EtcdStore], what: str) -> None:
    def script(peer: Peer) -> None:
        if peer.number:
            answering(peer)
        peer.send(GARBAGE[what])
        peer.wait_for_end()

    store = play(script)
    pending = store.begin_store(FENCE, 7, b"tower", T)
    assert pending.outcome(T) == Committed(FENCE, 21, b"tower")
    assert "answer not understood: " in pending._exchange.cause()


def status(number: int, text: str = "") -> bytes:
    block = OPENS + b"\x00\x0bgrpc-status" + bytes([len(str(number))]) + str(number).encode()
    return block + b"\x00\x0cgrpc-message" + bytes([len(text)]) + text.encode()


REFUSALS = {
    "status 16": (status(16, "no%20token"), "it wants a user's login: no token; check --etcd-cert-file"),
    "status 7": (status(7, "denied"), "it does not permit this: denied; check --etcd-cert-file"),
    "status 12": (status(12, "unknown service"), "no etcd of version 3 there: unknown service; check --etcd-endpoint"),
    "status 14": (status(14, "etcdserver: no leader%0a"), "UNAVAILABLE: etcdserver: no leader "),
    "status 8": (status(8, "etcdserver: mvcc: database space exceeded"), "its disk quota is used up; compact"),
    "status 99": (status(99), "UNKNOWN: "),
    "404": (b"\x8d", "no etcd of version 3 there: HTTP status 404; check --etcd-endpoint"),
    "no gRPC": (b"\x88", "no etcd of version 3 there: its answer is no gRPC"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_an_error_is_never_an_outcome_and_says_what_it_means(play: Callable[..., EtcdStore], what: str) -> None:
    block, meaning = REFUSALS[what]

    def script(peer: Peer) -> None:
        peer.greet()
        while True:
            stream, _ = peer.request()
            peer.send(h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, block))

    store = play(script)
    outcome = write(store, timeout=0.3)
    assert isinstance(outcome, Unknown)
    assert meaning in outcome.cause
    assert "\n" not in outcome.cause


def test_a_farewell_and_an_ended_call_are_repeated(play: Callable[..., EtcdStore]) -> None:
    def script(peer: Peer) -> None:
        if peer.number == 2:
            answering(peer)
        peer.greet()
        stream, _ = peer.request()
        if peer.number == 0:
            peer.send(h2.frame(h2.RST_STREAM, 0, stream, h2.REFUSED_STREAM.to_bytes(4)))
            stream, _ = peer.request()
        peer.send(h2.frame(h2.GOAWAY, 0, 0, bytes(8)))  # none of the calls will be answered
        peer.wait_for_end()

    assert write(play(script)) == Committed(FENCE, 31, b"tower")


def test_calls_before_a_farewell_are_still_answered(play: Callable[..., EtcdStore]) -> None:
    def script(peer: Peer) -> None:
        if peer.number:
            answering(peer)
        peer.greet()
        stream, _ = peer.request()
        peer.send(h2.frame(h2.GOAWAY, 0, 0, stream.to_bytes(4) + bytes(4)), *answer_frames(stream, committed(70)))
        peer.wait_for_end()

    store = play(script)
    assert write(store) == Committed(FENCE, 70, b"tower")
    assert write(store) == Committed(FENCE, 21, b"tower")  # on a new connection


def test_a_connection_that_was_closed_while_idle_is_opened_before_the_write(play: Callable[..., EtcdStore]) -> None:
    closed = threading.Event()
    requests: list[int] = []

    def script(peer: Peer) -> None:
        peer.greet()
        while True:
            stream, _ = peer.request()
            requests.append(peer.number)
            peer.answer(stream, committed(70 + peer.number))
            if peer.number == 0:
                closed.set()
                return

    store = play(script)
    assert write(store).record_revision == 70
    assert closed.wait(T)
    connection = store._links.current._connection
    wait_until(lambda: not connection.usable(), "the end arrives")
    pending = store.begin_store(FENCE, 7, b"tower", T)
    assert pending.outcome(T).record_revision == 71
    assert pending._exchange._causes is None  # no attempt was lost on the dead connection
    assert requests == [0, 1]


def test_a_server_that_falls_silent_is_left_for_a_new_connection(play: Callable[..., EtcdStore]) -> None:
    def script(peer: Peer) -> None:
        if peer.number:
            answering(peer)
        peer.greet()
        stream, _ = peer.request()
        peer.answer(stream, committed(70))
        peer.wait_for_end()

    store = play(script, attempt_timeout=0.2)
    assert write(store).record_revision == 70
    assert write(store) == Committed(FENCE, 21, b"tower")


def test_a_silent_server_is_unknown_in_time(play: Callable[..., EtcdStore]) -> None:
    store = play(lambda peer: peer.wait_for_end())
    began = time.monotonic()
    assert isinstance(write(store, timeout=0.3), Unknown)
    with pytest.raises(StoreUnavailable, match="no answer in time; check that it is running"):
        store.look("1" * 32, 0.3)
    assert time.monotonic() - began < 5  # a bound, far from what it takes


def test_another_protocol_is_named(play: Callable[..., EtcdStore]) -> None:
    store = play(lambda peer: peer.wait_for_end(), alpn="http/1.1")
    with pytest.raises(StoreUnavailable, match="no HTTP/2 spoken there; check --etcd-endpoint"):
        store.look("1" * 32, T)


def test_close_from_another_thread_wakes_who_waits(play: Callable[..., EtcdStore]) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.request()
        peer.wait_for_end()

    store = play(script, attempt_timeout=60.0)
    outcomes: list[Any] = []
    thread = threading.Thread(target=lambda: outcomes.append(write(store, timeout=60.0)))
    thread.start()
    wait_until(lambda: (c := store._links.current._connection) is not None and c._calls, "the write is under way")
    store.close()
    thread.join(T)
    assert outcomes == [Unknown("the store is closed")]
    assert isinstance(write(store), Unknown)
    with pytest.raises(StoreError, match="the store is closed"):
        store.look("1" * 32, T)


def test_an_answer_without_end_is_refused(play: Callable[..., EtcdStore], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_etcd_stream, "MESSAGE_BYTES_MAX", 50_000)

    def script(peer: Peer) -> None:
        peer.greet()
        stream, _ = peer.request()
        peer.send(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, OPENS))
        while True:
            peer.send(h2.frame(h2.DATA, 0, stream, bytes(16000)))

    outcome = write(play(script), timeout=0.5)
    assert isinstance(outcome, Unknown)
    assert "an answer of more than 50000 bytes" in outcome.cause


# -- with a real etcd


@pytest.fixture
def store(etcd_store: Callable[..., EtcdStore]) -> EtcdStore:
    return etcd_store(transport="http2")


def claim(store: EtcdStore, identity: str) -> Fence:
    claimed = store.claim(store.look(identity, T), Owner("primary", "start", at_ms=1), T)
    assert isinstance(claimed, Claimed), claimed
    return claimed.fence


def test_the_largest_record_goes_both_ways(store: EtcdStore, identity: str) -> None:
    fence, record = claim(store, identity), bytes(range(256)) * (RECORD_BYTES_MAX // 256)
    revision = ABSENT
    for _ in range(3):  # more than the windows hold at the start
        outcome = store.begin_store(fence, revision, record, T).outcome(T)
        assert isinstance(outcome, Committed)
        revision = outcome.record_revision
        assert store.look(identity, T).record == record


def test_one_thread_drives_many_stores(etcd_store: Callable[..., EtcdStore], identity: str) -> None:
    stores = [etcd_store(transport="http2") for _ in range(8)]
    fence, revision = claim(stores[0], identity), ABSENT
    for store in stores:
        store.look(identity, T)
    pendings = {index: store.begin_store(fence, revision, b"one", T) for index, store in enumerate(stores)}
    outcomes = {}
    deadline = time.monotonic() + T
    while pendings:
        assert time.monotonic() < deadline
        poller = select.poll()
        for pending in pendings.values():
            assert pending.fileno() >= 0
            poller.register(pending.fileno(), select.POLLIN)
        poller.poll(50)
        for index in [index for index, pending in pendings.items() if pending.ready()]:
            outcomes[index] = pendings.pop(index).outcome(0)
    assert set(map(type, outcomes.values())) == {Committed}  # the same write eight times
    assert len({outcome.record_revision for outcome in outcomes.values()}) == 1


def test_ready_goes_on_to_a_connection_that_must_be_opened(etcd_server: EtcdServer, identity: str) -> None:
    with Proxy(etcd_server.endpoint) as proxy:
        store = open_store(etcd_server, endpoints=[proxy.endpoint], transport="http2")
        fence = claim(store, identity)
        proxy.cut()
        pending = store.begin_store(fence, ABSENT, b"tower", T)
        wait_until(pending.ready, "the write is repeated on a new connection")
        assert isinstance(pending.outcome(0), Committed)
        late = store.begin_store(fence, ABSENT, b"other", T)
        wait_until(late.ready, "the conflict is answered")
        assert isinstance(late.outcome(0), Refused)
        store.close()


def test_no_pending_is_ready_without_an_answer_before_its_time(play: Callable[..., EtcdStore]) -> None:
    store = play(lambda peer: (peer.greet(), peer.wait_for_end()))
    pending = store.begin_store(FENCE, 7, b"tower", 0.2)
    assert not pending.ready()
    wait_until(pending.ready, "the write's own time has passed")
    assert isinstance(pending.outcome(0), Unknown)
