"""The validator's log: lines for people, or one JSON object per line for machines.

A log file may be moved away while the process runs (logrotate): the next line opens a new one. What a line is about is
in it as fields too (`log.info("voted 7", extra=about("vote", slot=7))`): the JSON form shows them, the text form leaves
them to its words.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from logging.handlers import WatchedFileHandler
from typing import Any

from tower.errors import InvalidInput

__all__ = ["JsonFormatter", "about", "start_log"]

TEXT_FORMAT = "[%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s] %(message)s"
FIELDS = "about"


def about(event: str, **fields: Any) -> Mapping[str, Any]:
    """What a log line is about, for `extra=`.

    >>> about("vote", slot=7)
    {'about': {'event': 'vote', 'slot': 7}}
    """
    return {FIELDS: {"event": event, **fields}}


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `at` (UTC, milliseconds), `level`, `logger`, `message`, then the fields of `about`.

    >>> record = logging.makeLogRecord({"name": "tower", "levelname": "INFO", "msg": "voted %d", "args": (7,),
    ...                                 "created": 1700000000.25, "msecs": 250.0, **about("vote", slot=7)})
    >>> print(JsonFormatter().format(record))
    {"at": "2023-11-14T22:13:20.250Z", "level": "INFO", "logger": "tower", "message": "voted 7", "event": "vote", "slot": 7}
    """

    def format(self, record: logging.LogRecord) -> str:
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "at": f"{second}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in getattr(record, FIELDS, {}).items():
            line.setdefault(name, value)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def start_log(target: str, form: str = "text") -> None:
    """Log to `target`, a file or "-" for stderr, as "text" or "json". Raises `InvalidInput` if the file cannot be written."""
    handler: logging.Handler = logging.StreamHandler()
    if target != "-":
        try:
            handler = WatchedFileHandler(target, encoding="utf-8")
        except OSError as problem:
            raise InvalidInput(f"--log: cannot write {target}: {problem.strerror}; choose another file") from None
    formatter: logging.Formatter = JsonFormatter()
    if form == "text":
        formatter = logging.Formatter(TEXT_FORMAT, "%Y-%m-%dT%H:%M:%S")
        formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
