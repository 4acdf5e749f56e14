"""What every store operation of every process was asked and answered, as lines of JSON that survive the process.

One file a process, two lines an operation: the first before the request leaves, the second after the answer came. A process
that is killed leaves the first alone, and an answer `Unknown` is none: such an operation may take effect at any later moment,
or never. Times are monotonic nanoseconds, one clock for all processes of a machine, which no jump of the wall clock moves.

=================  =====================================================================================================
`look`             answered `seen` with the revisions, the instance, its owner and digests of the records
`claim`            answered `claimed` (fence, record), `refused` or `unknown`
`store`            one record of a kind under a fence; `committed`, `refused` or `unknown`
`legacy-claim`     an older validator puts its instance without a comparison; `claimed`
`legacy-store`     it puts its tower where the instance has its value; `committed` or `refused`
=================  =====================================================================================================
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["FOREVER", "Operation", "Recorder", "digest", "load", "settle"]

FOREVER = 1 << 63  # the end of an operation that nobody heard of again
SETTLED = ("seen", "claimed", "committed", "refused")


def digest(record: bytes | None) -> str:
    """Names a record; the empty text where there is none."""
    return "" if record is None else hashlib.sha256(record).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. `end` is `FOREVER` and `answer` empty while its outcome is not known."""

    process: str
    number: int
    begin: int
    end: int
    identity: str
    name: str
    asked: Mapping[str, Any] = field(hash=False)
    answer: Mapping[str, Any] = field(hash=False, default_factory=dict)
    unknown_at: int | None = None  # when it was first told that nobody knows

    @property
    def outcome(self) -> str:
        return str(self.answer.get("outcome", "unknown"))

    @property
    def known(self) -> bool:
        return self.end != FOREVER

    @property
    def record(self) -> bytes | None:
        encoded = self.asked.get("record")
        return None if encoded is None else base64.b64decode(encoded)

    def __str__(self) -> str:
        asked = {name: value for name, value in self.asked.items() if name != "record"}
        return f"{self.process}#{self.number} {self.name} {asked} -> {dict(self.answer) or 'unknown'}"


class Recorder:
    """Appends the operations of one process to the file at `path`. Any thread may call it."""

    def __init__(self, path: Path, process: str) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._process = process
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def begins(self, name: str, identity: str, **asked: Any) -> int:
        """To be called right before the request; gives the operation's number."""
        with self._lock:
            number = next(self._numbers)
        self._write({"n": number, "process": self._process, "identity": identity, "op": name, "asked": asked})
        return number

    def ends(self, number: int, outcome: str, **answer: Any) -> None:
        """To be called right after the answer, before anything is made of it."""
        self._write({"n": number, "process": self._process, "answer": {"outcome": outcome, **answer}})

    def _write(self, line: dict[str, Any]) -> None:
        line["at"] = time.monotonic_ns()
        os.write(self._handle, json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        os.close(self._handle)


def settle(lines: Iterable[Mapping[str, Any]]) -> list[Operation]:
    """The operations in `lines`, by their beginning. A later answer to the same operation replaces an `unknown` one."""
    begun: dict[tuple[str, int], Mapping[str, Any]] = {}
    answered: dict[tuple[str, int], Mapping[str, Any]] = {}
    unknown: dict[tuple[str, int], int] = {}
    for line in lines:
        key = (line["process"], line["n"])
        if "op" in line:
            if key in begun:
                raise ValueError(f"operation {key} begins twice")
            begun[key] = line
        elif key not in begun:
            raise ValueError(f"operation {key} ends and never began")
        elif line["answer"]["outcome"] in SETTLED:
            answered[key] = line
        else:
            unknown.setdefault(key, line["at"])
    operations = []
    for key, line in begun.items():
        told = answered.get(key)
        end, answer = (FOREVER, {}) if told is None else (told["at"], told["answer"])
        if end < line["at"]:
            raise ValueError(f"operation {key} ends before it began")
        operations.append(
            Operation(*key, line["at"], end, line["identity"], line["op"], line["asked"], answer, unknown.get(key))
        )
    return sorted(operations, key=lambda operation: operation.begin)


def load(folder: Path) -> list[Operation]:
    """Every operation in the `history-*.jsonl` of a folder. A last line that a kill has cut is left out, no other."""
    lines: list[Mapping[str, Any]] = []
    for path in sorted(folder.glob("history-*.jsonl")):
        texts = path.read_bytes().split(b"\n")
        lines += [json.loads(text) for text in texts[:-1]]
    return settle(lines)
