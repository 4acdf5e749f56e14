"""What a power cut leaves of a folder: every change that a process makes to it is written down, with every flush.

A cut may lose whatever was not flushed: bytes of a file written since its last fsync, names made, renamed or removed since the
last fsync of the folder. `image` builds the folder as the worst such cut leaves it: what was flushed and nothing else.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

__all__ = ["image", "load_disk", "record_disk"]


def record_disk(log: Path, folder: Path) -> None:
    """From now on every change of this process to the files in `folder` is a line in `log`, written after it took effect."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    real: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in ("write", "fsync", "rename", "open", "ftruncate")}
    folder = folder.absolute()

    def note(change: str, **facts: Any) -> None:
        line = {"at": time.monotonic_ns(), "change": change, **facts}
        real["write"](handle, json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def inode_in(descriptor: int) -> int | None:
        """The inode of an open file of the folder, or of the folder itself."""
        try:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:
            return None
        return os.fstat(descriptor).st_ino if path == folder or path.parent == folder else None

    def opened(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        descriptor: int = real["open"](path, flags, *rest, **more)
        if isinstance(path, (str, Path)) and Path(path).absolute().parent == folder and flags & (os.O_CREAT | os.O_TRUNC):
            cut = bool(flags & os.O_TRUNC)
            note("open", name=Path(path).name, inode=os.fstat(descriptor).st_ino, cut=cut)
        return descriptor

    def write(descriptor: int, data: Any) -> int:
        inode = inode_in(descriptor)
        at = 0 if inode is None else os.lseek(descriptor, 0, os.SEEK_CUR)
        done: int = real["write"](descriptor, data)
        if inode is not None:
            note("write", inode=inode, data=base64.b64encode(bytes(data)[:done]).decode(), offset=at)
        return done

    def ftruncate(descriptor: int, size: int) -> None:
        real["ftruncate"](descriptor, size)
        if (inode := inode_in(descriptor)) is not None:
            note("truncate", inode=inode, size=size)

    def fsync(descriptor: int) -> None:
        real["fsync"](descriptor)
        if (inode := inode_in(descriptor)) is not None:
            note("fsync", inode=inode)

    def rename(source: Any, target: Any, **more: Any) -> None:
        real["rename"](source, target, **more)
        if Path(target).absolute().parent == folder:
            note("rename", source=Path(source).name, target=Path(target).name)

    os.write, os.ftruncate, os.fsync, os.rename, os.open = write, ftruncate, fsync, rename, opened  # type: ignore[assignment]
    files = {each.name: each.stat().st_ino for each in folder.iterdir()}
    note("begin", folder=os.stat(folder).st_ino, files=files)


def load_disk(log: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last one that a kill has cut is left out."""
    return [json.loads(line) for line in log.read_bytes().split(b"\n")[:-1]]


NOTHING: Mapping[str, bytes] = MappingProxyType({})


def image(changes: Iterable[Mapping[str, Any]], before: Mapping[str, bytes] = NOTHING) -> tuple[dict[str, bytes], int]:
    """The files that a power cut after `changes` leaves at the least, and how many changes it takes away.

    `before` are the files that the folder held, all of them flushed, when the first change was made.
    """
    names: dict[str, int] = {}  # as programs see them
    durable_names: dict[str, int] = {}
    bytes_of: dict[int, bytearray] = {}
    durable_bytes: dict[int, bytes] = {}
    folder, lost = 0, 0
    for change in changes:
        match change["change"]:
            case "begin":
                folder = change["folder"]
                for name, inode in change["files"].items():
                    names[name] = durable_names[name] = inode
                    bytes_of[inode], durable_bytes[inode] = bytearray(before.get(name, b"")), before.get(name, b"")
            case "open":
                inode = change["inode"]
                if names.get(change["name"]) != inode:
                    names[change["name"]] = inode
                    bytes_of[inode] = bytearray()
                    durable_bytes[inode] = b""
                    lost += 1
                elif change["cut"] and bytes_of[inode]:
                    bytes_of[inode] = bytearray()
                    lost += 1
            case "write":
                content = bytes_of.setdefault(change["inode"], bytearray())
                data = base64.b64decode(change["data"])
                content[change["offset"] : change["offset"] + len(data)] = data
                lost += 1
            case "truncate":
                del bytes_of[change["inode"]][change["size"] :]
                lost += 1
            case "rename":
                names[change["target"]] = names.pop(change["source"])
                lost += 1
            case "fsync" if change["inode"] == folder:
                durable_names, lost = dict(names), 0
            case "fsync":
                durable_bytes[change["inode"]] = bytes(bytes_of.get(change["inode"], b""))
    return {name: durable_bytes.get(inode, b"") for name, inode in durable_names.items()}, lost
