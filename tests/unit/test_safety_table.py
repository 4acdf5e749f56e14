"""docs/safety.md against the tree: every name in its tables exists, and every guard that can be taken away has its row."""

from __future__ import annotations

import ast
import json
import pkgutil
import re
from fnmatch import filter as matching
from pathlib import Path

import pytest

from mutants.catalog import load_mutants

ROOT = Path(__file__).parents[2]
COLUMNS = ["sentence", "TLA+", "enforced in", "tests", "taken away by"]
NOTHING = "—"
NAME = re.compile(r"`([^`]+)`")
TLA = (ROOT / "spec" / "FencedTower.tla").read_text()
MODELS = json.loads((ROOT / "spec" / "manifest.json").read_text())["models"]
MUST_FAIL = {model["name"] for model in MODELS if model["expect"]["result"] == "violates"}
MUTANTS = {mutant.name: mutant for mutant in load_mutants()}


def read_tables() -> list[list[dict[str, str]]]:
    """The two tables, promises and rules, as rows of cells by column."""
    tables = []
    for block in re.findall(r"(?:^\|.*\n)+", (ROOT / "docs" / "safety.md").read_text(), re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in block.splitlines()]
        tables.append([dict(zip(head, row, strict=True)) for row in rows])
    return tables


PROMISES, RULES = read_tables()
ROWS = {next(iter(row.values())).partition(" ")[0]: row for row in [*PROMISES, *RULES]}
EACH = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)


def taken_away(row: dict[str, str], what: str) -> list[str]:
    """The names after `mutants` or `models` in a row's last cell."""
    parts = re.findall(rf"(?:^|; ){what}s? ((?:`[^`]+`(?:, )?)+)", row["taken away by"])
    return [name for part in parts for name in NAME.findall(part)]


def mutants_of(row: dict[str, str]) -> list[str]:
    found = []
    for pattern in taken_away(row, "mutant"):
        names = matching(MUTANTS, pattern)
        assert names, f"no mutant is called {pattern}"
        found += names
    return found


def test_every_promise_has_its_row_and_every_row_all_columns():
    assert list(ROWS)[:7] == [f"S{number}" for number in range(1, 8)]
    for table, first in ((PROMISES, "id"), (RULES, "rule")):
        for row in table:
            assert list(row) == [first, *COLUMNS]
            assert all(row.values()), row
    for row in PROMISES:
        assert NOTHING not in row.values(), row["id"]
        assert row["TLA+"] == f"`{row['id'].split()[1]}`"


@EACH
def test_tla_names_are_defined_in_the_specification(row):
    for name in NAME.findall(row["TLA+"]):
        assert re.search(rf"^{name} ==", TLA, re.MULTILINE), name


@EACH
def test_code_names_can_be_imported(row):
    names = NAME.findall(row["enforced in"])
    assert names or row["enforced in"] == NOTHING
    for name in names:
        assert pkgutil.resolve_name(name) is not None, name


@EACH
def test_tests_are_in_their_files(row):
    named = [name for name in NAME.findall(row["tests"]) if "::" in name]
    assert named
    for test in named:
        path, _, name = test.partition("::")
        there = {node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)}
        assert name in there, test


@EACH
def test_what_takes_a_guard_away_exists_and_says_the_same_row(row):
    mutants, models = mutants_of(row), taken_away(row, "model")
    assert mutants or models
    assert len(set(mutants)) == len(mutants), "a mutant is named twice"
    here = next(key for key, other in ROWS.items() if other is row)
    assert {MUTANTS[name].breaks for name in mutants} <= {here}
    assert set(models) <= MUST_FAIL
    every = len(NAME.findall(row["taken away by"]))
    assert every == len(taken_away(row, "mutant")) + len(models), "a name that is neither a mutant's nor a model's"


def test_every_mutant_and_every_model_that_must_fail_has_one_row():
    mutants = [name for row in ROWS.values() for name in mutants_of(row)]
    models = [name for row in ROWS.values() for name in taken_away(row, "model")]
    assert sorted(mutants) == sorted(MUTANTS)
    assert sorted(models) == sorted(MUST_FAIL)
