"""One HTTP/2 connection to etcd, and the calls on it. The rules of the protocol are here; `_etcd_frames` has its bytes.

It waits in `wait_for` only, and starts no thread. What the server breaks of the protocol ends the connection, with one line
for every call on it, and never with a wait without end. Answers to calls that were given up are skipped.
"""

from __future__ import annotations

import select
import time
from dataclasses import dataclass

from tower.errors import WireError
from tower.stores import _etcd_frames as h2
from tower.stores._etcd_call import CLOSED, GONE, GONE_AT_ONCE, KEEPALIVE_TIMEOUT_S, CallFailed
from tower.stores._etcd_channel import Channel
from tower.stores._etcd_opening import explain_os, opening
from tower.stores._etcd_stream import Http2Call
from tower.stores._etcd_tls import Credentials

__all__ = ["Connection"]

READS_PAST_TIME = 200  # reads of the socket when time is up: what has arrived is not thrown away
WINDOW = 8 << 20  # that the server may send of one answer unasked; above the largest answer
WINDOW_ALL = 1 << 30  # and of all answers together
CALLS_MAX = 200  # at a time; a store has one or two
LAST_STREAM = (1 << 31) - 3
WAKE_S = 0.05  # how often a connection that is being opened looks whether it was closed meanwhile
EXPECTED_MAX_S = 30.0  # how long a stream is kept open for a call that does not come: longer than any pause between two votes
HEADER_BYTES_MAX = 1 << 16  # of one block over all its frames
MINE = (
    (h2.HEADER_TABLE_SIZE, 0), (h2.ENABLE_PUSH, 0), (h2.INITIAL_WINDOW_SIZE, WINDOW), (h2.MAX_FRAME_SIZE, h2.FRAME_BYTES_MAX),
)  # fmt: skip
GREETING = h2.PREFACE + h2.settings(MINE) + h2.window_update(0, WINDOW_ALL - h2.WINDOW_DEFAULT)
PING = b"tower..."
HEAD_BYTES, unpack_head = h2.HEAD_BYTES, h2.HEAD.unpack_from  # what `feed` asks for each frame
DATA, HEADERS, END_STREAM, END_HEADERS, WHOLE = h2.DATA, h2.HEADERS, h2.END_STREAM, h2.END_HEADERS, h2.END_STREAM | h2.END_HEADERS


@dataclass(frozen=True, slots=True)
class _Expected:
    """A stream that is open and has no request yet; `since` on the monotonic clock."""

    stream: int
    frames: h2.RequestFrames
    since: float


class Connection:
    """One life of a connection, from the first step of its opening to its end. One thread at a time, but for `wake`."""

    def __init__(self, host: str, port: int, credentials: Credentials, domain_name: str) -> None:
        self._domain_name = domain_name
        self.received = 0  # bytes; grows with every sign of life
        self._channel: Channel | None = None
        self._opening = opening(host, port, credentials, domain_name)
        self._awaited = (-1, 0, 0.0)  # what the opening waits for: descriptor, events, until when
        self._failure: CallFailed | None = None
        self._woken = False
        self._queue: list[Http2Call] = []  # to be sent once it is open
        self._calls: dict[int, Http2Call] = {}
        self._next_stream = 1
        self._expected: _Expected | None = None
        self._greeted = False  # the server's settings have come
        self._leaving = False  # the server takes no more calls
        self._pinged_at: float | None = None  # when a ping was sent that is not answered
        self._window = self._window_new = h2.WINDOW_DEFAULT  # what we may send: over all calls, and of a new one
        self._frame_max, self._calls_max = h2.FRAME_BYTES_MAX, CALLS_MAX
        self._taken = 0
        self._in = b""
        self._blocks = h2.HeaderBlocks()
        self._block: tuple[int, int, bytes] | None = None  # stream, flags and beginning of headers that go on
        self._step(None)

    def usable(self) -> bool:
        """Whether a new call has a chance here; takes in what came since the last one."""
        channel = self._channel
        if channel is not None:
            for _ in range(READS_PAST_TIME):
                if self._failure is not None or not channel.waiting():
                    break
                self._take_in(channel, 0)
        if self._failure is not None or self._leaving or self._next_stream > LAST_STREAM:
            return False
        if channel is None:
            return time.monotonic() < self._awaited[2]  # else it was begun long ago, and nobody went on with it
        return self._pinged_at is None or time.monotonic() - self._pinged_at < KEEPALIVE_TIMEOUT_S

    def submit(self, call: Http2Call) -> None:
        """Send the call's request, or keep it until the connection is open."""
        channel = self._channel
        if self._failure is not None:
            call.fail(self._failure)
        elif channel is None:
            self._queue.append(call)
        elif len(self._calls) >= self._calls_max:
            call.fail(CallFailed("too many calls are under way"))
        else:
            self._send(channel, call)

    def expect(self, frames: h2.RequestFrames) -> None:
        """Open the stream of a call that is likely to come next: the server has read its headers then, and waits.

        It takes the server longer to begin a call than to read a request, and that is off the request's way.
        """
        if self._expected is not None or not self._greeted or self._leaving or self._next_stream > LAST_STREAM:
            return
        if len(self._calls) + 1 < self._calls_max:  # one that does not fit beside the others would be refused
            self._expected = _Expected(self._next_stream, frames, time.monotonic())
            self._next_stream += 2
            self._write(h2.frame(h2.HEADERS, h2.END_HEADERS, self._expected.stream, frames.block))

    def wait_for(self, call: Http2Call, timeout: float) -> None:
        """Take in what comes until the call is settled, for at most `timeout` seconds."""
        until, left, past = time.monotonic() + timeout, timeout, 0
        while not call.settled:
            if left <= 0:
                left, past = 0, past + 1
            channel = self._channel
            more = self._go_on_opening(left) if channel is None else self._take_in(channel, left)
            if past and (not more or past > READS_PAST_TIME):
                return
            if not call.settled:
                left = until - time.monotonic()
                if channel is not None and more:
                    channel.expect(1)  # the rest of the answer, however small

    def cancel(self, call: Http2Call) -> None:
        """Forget the call. A server that has said nothing at all since it was sent gets no other; else it must answer a ping."""
        if call in self._queue:
            self._queue.remove(call)
        if self._calls.pop(call.id, None) is not None:
            self._leaving = self._leaving or call.heard == self.received
            self._write(h2.frame(h2.RST_STREAM, 0, call.id, h2.CANCEL.to_bytes(4)))
            self.ping()
        call.fail(CallFailed("given up"))

    def ping(self) -> None:
        """Ask for a sign of life, where none is awaited already."""
        if self._channel is not None and self._pinged_at is None:
            self._pinged_at = time.monotonic()
            self._write(h2.frame(h2.PING, 0, 0, PING))

    def fileno(self) -> int:
        if self._failure is not None:
            return -1
        return self._awaited[0] if self._channel is None else self._channel.plain.fileno()

    def wake(self) -> None:
        """From any thread: whoever waits here ends soon."""
        self._woken = True
        if self._channel is not None:
            self._channel.wake()

    def end(self, problem: CallFailed) -> None:
        """Close; every call on it fails with `problem`."""
        if self._failure is not None:
            return
        self._failure = problem
        self._opening.close()
        if self._channel is not None:
            self._channel.close()
        calls, self._calls, self._queue = [*self._calls.values(), *self._queue], {}, []
        for call in calls:
            call.fail(problem)

    # -- opening

    def _go_on_opening(self, left: float) -> bool:
        """Go on when what is awaited has come; false if it has not in `left` seconds."""
        descriptor, events, until = self._awaited
        poller = select.poll()
        poller.register(descriptor, events)
        give_up = time.monotonic() + left
        while not self._woken:
            now = time.monotonic()
            ready = bool(poller.poll(max(0.0, min(give_up - now, until - now, WAKE_S)) * 1000))
            now = time.monotonic()
            if ready or now >= until:
                self._step(ready)
                return True
            if now >= give_up:
                return False
        self.end(CallFailed(CLOSED, True))
        return True

    def _step(self, ready: bool | None) -> None:
        try:
            self._awaited = next(self._opening) if ready is None else self._opening.send(ready)
        except StopIteration as done:
            self._open(done.value)
        except CallFailed as problem:
            self.end(problem)
        except OSError as problem:  # of this machine, before there is a connection: no file handle is left, say
            self.end(CallFailed(*explain_os(problem, self._domain_name)))

    def _open(self, channel: Channel) -> None:
        self._channel = channel
        self._write(GREETING)
        calls, self._queue = self._queue, []
        for call in calls:
            self.submit(call)

    # -- out

    def _send(self, channel: Channel, call: Http2Call) -> None:
        stream, opened, size = self._next_stream, False, len(call.request) + h2.MESSAGE_PREFIX_BYTES
        if self._expected is not None and self._expected.frames is call.frames:
            stream, opened = self._opened(stream)
        if not opened:
            self._next_stream += 2
        call.id, call.heard = stream, self.received
        if not self._calls and call.frames.alike and stream > 1:  # with the first answer the server's settings come
            call.mark = channel.received
            channel.expect(call.frames.answer_bytes * 7 // 8 or 1)
        else:
            channel.expect(1)
        self._calls[stream] = call
        if size <= self._window and size <= self._window_new and size <= self._frame_max:
            self._window -= size
            call.window = self._window_new - size
            flags = 0 if call.stream else h2.END_STREAM
            pack = call.frames.pack_request if opened else call.frames.pack
            self._write(pack(stream, flags, call.request))
            return
        call.window, call.unsent = self._window_new, h2.message(call.request)
        if not opened:
            self._write(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, call.frames.block))
        self._send_more(call)

    def _opened(self, fresh: int) -> tuple[int, bool]:
        """The stream that was opened for the call that comes now, and true; `fresh` and false if it has become too old."""
        expected, self._expected = self._expected, None
        if expected is None:
            return fresh, False
        if time.monotonic() - expected.since < EXPECTED_MAX_S:
            return expected.stream, True
        self._write(h2.frame(h2.RST_STREAM, 0, expected.stream, h2.CANCEL.to_bytes(4)))
        return fresh, False

    def _send_more(self, call: Http2Call) -> None:
        """As much of what is left as the windows allow."""
        while call.unsent and (size := min(len(call.unsent), call.window, self._window, self._frame_max)) > 0:
            part, call.unsent = call.unsent[:size], call.unsent[size:]
            call.window -= size
            self._window -= size
            self._write(h2.frame(h2.DATA, 0 if call.unsent or call.stream else h2.END_STREAM, call.id, part))

    def _write(self, data: bytes) -> None:
        channel = self._channel
        if channel is None or self._failure is not None:
            return
        try:
            channel.write(data)
        except OSError as problem:
            while self._failure is None and self._take_in(channel, 0):  # what the server said before may tell why
                pass
            self._broken(*explain_os(problem, self._domain_name))

    def _broken(self, text: str, hopeless: bool = False) -> None:
        """End, for what the socket says. etcd looks at its list of revoked certificates only after the handshake."""
        self.end(CallFailed(GONE_AT_ONCE if text == GONE and not self._greeted else text, hopeless))

    # -- in

    def _take_in(self, channel: Channel, timeout: float) -> bool:
        """Act on what comes within `timeout` seconds; whether something came."""
        try:
            data = channel.read(timeout)
            if data is None:
                return False
            if data:
                self.received += len(data)
                self.feed(data)
                return True
            self._broken(*((CLOSED, True) if self._woken else (GONE, False)))
        except WireError as problem:
            self.end(CallFailed(f"answer not understood: {problem}"))
        except OSError as problem:
            self._broken(*explain_os(problem, self._domain_name))
        return True

    def feed(self, data: bytes) -> None:
        """Act on what the server says, however it is cut. `WireError` where it breaks the protocol."""
        if self._in:
            data = self._in + data
        at, size = 0, len(data)
        calls, known = self._calls, self._blocks.known
        while size - at >= HEAD_BYTES:
            length, flags, stream = unpack_head(data, at)
            kind, length = length & 0xFF, length >> 8
            if length > h2.FRAME_BYTES_MAX:
                raise WireError(at, f"a frame of {length} bytes" if self._greeted else "no HTTP/2 is spoken there")
            end = at + HEAD_BYTES + length
            if end > size:
                break
            payload = data[at + HEAD_BYTES : end]
            at = end
            if stream in calls and self._block is None:  # the usual: a whole block of headers that is known, plain data
                call = calls[stream]
                if kind == HEADERS and flags | END_STREAM == WHOLE and payload in known:
                    self._answered(call, known[payload], flags != END_HEADERS)
                    continue
                if kind == DATA and not flags and not call.stream:
                    self._taken += length
                    call.on_data(payload)
                    continue
            self._frame(kind, flags, stream & h2.WINDOW_MAX, payload)
            if self._failure is not None:
                return
        self._in = data[at:] if at < size else b""

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if not self._greeted and (kind != h2.SETTINGS or flags & h2.ACK):
            raise WireError(0, "it does not begin with its settings")
        if (self._block is not None) != (kind == h2.CONTINUATION):
            raise WireError(0, "headers that do not go on, or go on unasked")
        if kind == h2.DATA:
            self._data(flags, stream, payload)
        elif kind == h2.HEADERS:
            self._headers(stream, flags, h2.unpadded(kind, flags, payload))
        elif kind == h2.CONTINUATION and self._block is not None:
            begun, first_flags, block = self._block
            if stream != begun or len(block) + len(payload) > HEADER_BYTES_MAX:
                raise WireError(0, "headers that go on for another call, or without end")
            self._block = None
            self._headers(stream, first_flags | flags & h2.END_HEADERS, block + payload)
        else:
            self._control(kind, flags, stream, payload)

    def _call_of(self, stream: int) -> Http2Call | None:
        """The call that is meant; `None` for one that was given up."""
        if stream % 2 == 0 or stream >= self._next_stream:
            raise WireError(0, f"something about call {stream}, which was never made")
        if self._expected is not None and stream == self._expected.stream:
            self._expected = None  # whatever the server has to say there, it was not asked yet: the call will open its own
        return self._calls.get(stream)

    def _data(self, flags: int, stream: int, payload: bytes) -> None:
        call = self._call_of(stream)
        self._taken += len(payload)  # and, of the usual ones, in `feed`
        if self._taken > WINDOW_ALL // 2:
            self._write(h2.window_update(0, self._taken))
            self._taken = 0
        if call is None:
            return
        if call.stream:
            call.taken += len(payload)
            if call.taken > WINDOW // 2:
                self._write(h2.window_update(stream, call.taken))
                call.taken = 0
        call.on_data(payload if not flags & h2.PADDED else h2.unpadded(h2.DATA, flags, payload))
        if flags & h2.END_STREAM:
            del self._calls[stream]
            call.on_headers(h2.Headers({}), last=True)

    def _headers(self, stream: int, flags: int, block: bytes) -> None:
        call = self._call_of(stream)
        if not flags & h2.END_HEADERS:
            self._block = (stream, flags, block)
            return
        headers = self._blocks.read(block)
        if call is not None:
            self._answered(call, headers, bool(flags & h2.END_STREAM))

    def _answered(self, call: Http2Call, headers: h2.Headers, last: bool) -> None:
        if last:
            del self._calls[call.id]
            if call.mark >= 0 and self._channel is not None:
                call.frames.answered(self._channel.received - call.mark)
        try:
            call.on_headers(headers, last=last)
        except WireError as problem:
            call.fail(CallFailed(f"answer not understood: {problem}"))  # its message, not the connection's frames
            if not last:
                raise

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == h2.SETTINGS:
            self._settings(flags, stream, payload)
        elif kind == h2.WINDOW_UPDATE:
            self._window_update(stream, h2.number_of(payload, 4, "a window's size") & h2.WINDOW_MAX)
        elif kind == h2.PING:
            if len(payload) != len(PING) or stream:
                raise WireError(0, "a ping of another size, or on a call")
            if not flags & h2.ACK:
                self._write(h2.frame(h2.PING, h2.ACK, 0, payload))
            elif payload == PING:
                self._pinged_at = None
        elif kind == h2.RST_STREAM:
            code = h2.number_of(payload, 4, "an error's number")
            call = self._call_of(stream)
            if call is not None:
                del self._calls[stream]
                call.fail(CallFailed(f"it ended the call: {h2.code_name(code)}"))
        elif kind == h2.GOAWAY:
            if len(payload) < 8 or stream:
                raise WireError(0, "a farewell that ends early, or on a call")
            self._goaway(int.from_bytes(payload[:4]) & h2.WINDOW_MAX, int.from_bytes(payload[4:8]))
        elif kind == h2.PUSH_PROMISE:
            raise WireError(0, "a push, which was not allowed")

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream or (flags & h2.ACK and payload):
            raise WireError(0, "settings on a call, or in an acknowledgement")
        if flags & h2.ACK:
            return
        found = h2.settings_of(payload)
        self._greeted = True
        self._calls_max = min(CALLS_MAX, found.get(h2.MAX_CONCURRENT_STREAMS, self._calls_max))
        self._frame_max = found.get(h2.MAX_FRAME_SIZE, self._frame_max)
        more = found.get(h2.INITIAL_WINDOW_SIZE, self._window_new) - self._window_new
        self._window_new += more
        self._write(h2.frame(h2.SETTINGS, h2.ACK, 0))
        for call in list(self._calls.values()):
            call.window += more
            self._send_more(call)

    def _window_update(self, stream: int, more: int) -> None:
        if stream == 0:
            self._window += more
            for each in list(self._calls.values()):
                self._send_more(each)
            window = self._window
        elif (call := self._call_of(stream)) is not None:
            call.window += more
            self._send_more(call)
            window = call.window
        else:
            return
        if not more or window > h2.WINDOW_MAX:
            raise WireError(0, "a window of nothing, or of more than 31 bits")

    def _goaway(self, last: int, code: int) -> None:
        self._leaving = True
        why = CallFailed(f"it is ending the connection: {h2.code_name(code)}")
        for stream in [number for number in self._calls if number > last]:
            self._calls.pop(stream).fail(why)
        if code == h2.NO_ERROR:
            return  # the calls before will still be answered
        for call in list(self._calls.values()):
            call.fail(why)
        self._calls.clear()
