"""The log: lines for people or for machines, and a file that may be moved away."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tower.errors import InvalidInput
from tower.validator.logs import about, start_log


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """The handlers of other tests stay as they were."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    for handler in [handler for handler in root.handlers if handler not in before]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


def test_json_lines_have_the_fields_and_the_traceback(tmp_path: Path):
    file = tmp_path / "log"
    start_log(str(file), "json")
    log = logging.getLogger("tower.test")
    log.info("voted %d", 7, extra=about("vote", slot=7, message="kept"))
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("unexpected")
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    assert first.pop("at").endswith("Z")
    assert first == {"level": "INFO", "logger": "tower.test", "message": "voted 7", "event": "vote", "slot": 7}
    assert second["message"] == "unexpected"
    assert "ValueError: two\nlines" in second["traceback"]


def test_text_lines_are_for_people(tmp_path: Path):
    file = tmp_path / "log"
    start_log(str(file))
    logging.getLogger("tower.test").warning("voted %d", 7, extra=about("vote", slot=7))
    assert file.read_text().endswith("Z WARNING tower.test] voted 7\n")


def test_a_log_that_was_moved_away_is_opened_anew(tmp_path: Path):
    file = tmp_path / "log"
    start_log(str(file))
    logging.getLogger("tower.test").info("before")
    file.rename(tmp_path / "log.1")
    logging.getLogger("tower.test").info("after")
    assert "before" in (tmp_path / "log.1").read_text()
    assert file.read_text().endswith("after\n")


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path):
    with pytest.raises(InvalidInput, match=r"--log: cannot write .*: .*; choose another file"):
        start_log(str(tmp_path / "no" / "log"))
