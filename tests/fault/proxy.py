"""A network of TCP links that can be broken in every shape. One thread carries all of them.

A `Link` listens on a port of its own and forwards to one target. Its rule is looked up for each chunk, so that a connection that
is open changes with it. Rules:

==============  ========================================================================================================
`pass`          as it should be
`cut`           what is open is reset; new connections are reset at once
`hole`          nothing arrives, both ways; when the rule ends it arrives late, as packets that are sent again do
`deaf`          the same for what the client says; what the server says arrives
`mute`          what the server says is swallowed for good; what the client says arrives
`slow`          each chunk waits `delay_s`
`double`        each chunk is sent twice
`torn`          half of a chunk is sent, then the connection is reset
==============  ========================================================================================================

A link between members is asked who calls: the process at the other end of a connection is found in /proc, and a rule may hold for
connections of one process only. Every rule counts what it did, so that a fault can show that it struck.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

__all__ = ["RULES", "Link", "Net", "process_of"]

RULES = ("pass", "cut", "hole", "deaf", "mute", "slow", "double", "torn")
CHUNK = 65536
START_S = 5.0
HELD_S = 0.02  # between two looks whether what is held may go on


def process_of(port: int, to: int) -> int | None:
    """The process of this user, or any where we are root, whose TCP socket leads from this port of loopback to that one."""
    inode = None
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[1:3] == [f"0100007F:{port:04X}", f"0100007F:{to:04X}"] and words[9] != "0":
            inode = words[9]
    if inode is None:
        return None
    wanted = f"socket:[{inode}]"
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                for handle in (folder / "fd").iterdir():
                    with contextlib.suppress(OSError):  # closed meanwhile
                        if os.readlink(handle) == wanted:
                            return int(folder.name)
    return None


class Link:
    """One listening port that leads to `target`. Set `rule` at any time; then `apply` it to what is open."""

    def __init__(self, target: tuple[str, int], who: Callable[[int, int], str] | None = None) -> None:
        self.target = target
        self.rule = "pass"
        self.rules_of: dict[str, str] = {}  # for connections of one caller, as `who` names them
        self.delay_s = 0.2
        self.struck: Counter[str] = Counter()  # what each rule did
        self.carried = 0  # bytes that came in, from either side
        self.endpoint: tuple[str, int] = ("", 0)
        self._who = who
        self._open: dict[asyncio.StreamWriter, tuple[str, asyncio.StreamWriter]] = {}

    def rule_of(self, caller: str) -> str:
        return self.rules_of.get(caller, self.rule)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until an end closes it, or the network ends."""
        with contextlib.suppress(asyncio.CancelledError):  # a task of asyncio's streams may not end as cancelled
            await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caller = ""
        if self._who is not None:
            ends = [writer.get_extra_info(name)[1] for name in ("peername", "sockname")]
            caller = await asyncio.to_thread(self._who, *ends)
        if self.rule_of(caller) == "cut" or (self._who is not None and not caller):
            # a caller without a name has hung up already, or will call again
            self.struck["cut"] += 1
            _reset(writer)
            return
        try:
            there, to = await asyncio.open_connection(*self.target)
        except OSError:
            _reset(writer)
            return
        self._open[writer] = (caller, to)
        try:
            ways = (self._pump(reader, to, writer, caller, True), self._pump(there, writer, to, caller, False))
            await asyncio.wait([asyncio.create_task(way) for way in ways], return_when=asyncio.ALL_COMPLETED)
        finally:
            self._open.pop(writer, None)
            for each in (writer, to):
                each.close()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, back: asyncio.StreamWriter, caller: str, forth: bool
    ) -> None:
        try:
            while data := await source.read(CHUNK):
                self.carried += len(data)
                rule = self.rule_of(caller)
                if rule != "pass":
                    self.struck[rule] += 1
                while rule == "hole" or (rule == "deaf" and forth):
                    await asyncio.sleep(HELD_S)
                    rule = self.rule_of(caller)
                if rule == "mute" and not forth:
                    continue
                if rule == "slow":
                    await asyncio.sleep(self.delay_s)
                if rule == "torn":
                    sink.write(data[: len(data) // 2])
                    await sink.drain()
                    break
                sink.write(data + data if rule == "double" else data)
                await sink.drain()
            else:
                if sink.can_write_eof() and self.rule_of(caller) == "pass":
                    sink.close()
                return
        except OSError:
            pass
        _reset(sink)
        _reset(back)

    def reset(self, caller: str | None = None) -> None:
        """Break every open connection, or those of one caller; in the loop's thread."""
        for writer, (known, to) in list(self._open.items()):
            if caller is None or known == caller:
                self.struck["reset"] += 1
                _reset(writer)
                _reset(to)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close it with a RST."""
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Net:
    """All links of a run, carried by one thread; a context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self.links: list[Link] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="net", daemon=True)

    def __enter__(self) -> Net:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            for server in self._servers:
                server.close()
            for link in self.links:
                link.reset()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(START_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_S)
        self._loop.close()

    def link(
        self, target: tuple[str, int], who: Callable[[int, int], str] | None = None, at: tuple[str, int] = ("127.0.0.1", 0)
    ) -> Link:
        """A new link from `at` to `target`.

        `who` names the caller by the two ports of its connection, where rules depend on it.
        """
        link = Link(target, who)

        async def listen() -> None:
            server = await asyncio.start_server(link.serve, *at, limit=CHUNK)
            self._servers.append(server)
            link.endpoint = server.sockets[0].getsockname()[:2]

        asyncio.run_coroutine_threadsafe(listen(), self._loop).result(START_S)
        self.links.append(link)
        return link

    def set(self, link: Link, rule: str, caller: str | None = None) -> None:
        """Let `rule` hold for a link, or for one caller's connections; a `cut` resets what is open, `pass` a broken stream."""
        if rule not in RULES:
            raise ValueError(f"no rule {rule!r}: one of {', '.join(RULES)}")

        def change() -> None:
            before = link.rule if caller is None else link.rule_of(caller)
            if caller is None:
                link.rule = rule
                link.rules_of.clear()
            else:
                link.rules_of[caller] = rule
            if rule == "cut" or (rule == "pass" and before == "mute"):
                link.reset(caller)  # bytes are missing in the middle of what was open: it cannot go on

        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (change(), done.set()))
        if not done.wait(START_S):
            raise RuntimeError("the network's thread does not answer")
