"""The table of operators' mistakes is what the program says, and every row of it is a case of the tests of bad input."""

from __future__ import annotations

import re
from pathlib import Path

from tests.mistakes import PAGE, ROWS, page
from tower.validator.config import Exit


def test_the_table_is_what_the_program_says(tmp_path: Path) -> None:
    assert page(tmp_path) == PAGE.read_text(encoding="utf-8"), "python -m tests.mistakes --write"


def test_each_row_is_a_case_that_is_held_to_a_line_a_status_and_no_trace() -> None:
    assert len(ROWS) >= 25
    for row in ROWS:
        assert any(row.line == line for line, *_ in row.module.CASES), row.line  # type: ignore[attr-defined]
    statuses = re.findall(r"^\|.*?\| (\d+) \| `", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(statuses) == len(ROWS)
    assert set(map(int, statuses)) <= set(Exit)
