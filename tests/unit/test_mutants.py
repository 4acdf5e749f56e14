"""The mutants themselves: each patch fits, says what it takes away, and names tests that exist; and the run tells the truth."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from mutants import run
from mutants.catalog import ROOT, BadMutant, load_mutants, misfit, read_mutant
from mutants.report import DOCUMENT, INTRODUCTION, Verdict, summary, table

MUTANTS = load_mutants()
EACH = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)


@cache
def names_in(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


@EACH
def test_it_fits_the_tree_at_one_place(mutant, tmp_path):
    assert misfit(mutant, ROOT) is None
    for name in mutant.files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    command = ["git", "apply", str(mutant.path)]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in mutant.files:
        assert (tmp_path / name).read_text() != (ROOT / name).read_text()
        if name.endswith(".py"):
            ast.parse((tmp_path / name).read_text())  # a guard that is gone, not a file that cannot be read


@EACH
def test_it_changes_the_product_and_names_tests_that_exist(mutant):
    assert all(name.startswith("tower/") for name in mutant.files)
    for test in mutant.tests:
        path, _, name = test.partition("::")
        assert name.partition("[")[0] in names_in(ROOT / path), test


def test_the_document_holds_every_mutant_as_it_is():
    text = DOCUMENT.read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| (\S+) \| (.*?) \| (.*?) \| \d+ \|$", text, re.MULTILINE)
    assert [row[:3] for row in rows] == [(mutant.name, mutant.breaks, mutant.without) for mutant in MUTANTS]
    assert not [row for row in rows if "survived" in row[3]]
    assert f"killed {len(rows)} of {len(rows)}, " in text
    assert text.startswith(INTRODUCTION.partition("{")[0])


PATCH = """\
Breaks: S3
Without: Somebody else writes.
Killed-by: tests/unit/test_lockout.py::test_nth_recent

--- a/tower/one.py
+++ b/tower/one.py
@@ -1,3 +1,3 @@
 first
-second
+changed
 third
"""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (PATCH.replace("Breaks: S3\n", ""), "no Breaks"),
        (PATCH.replace("Breaks:", "Break:"), "'Break: S3' is no header; they are Breaks, Without, Killed-by, May-time-out"),
        (PATCH.replace("writes.", "writes"), "one sentence"),
        (PATCH.partition("---")[0], "no unified diff"),
    ],
)
def test_a_patch_that_says_too_little_is_named(tmp_path, text, problem):
    path = tmp_path / "thin.patch"
    path.write_text(text)
    with pytest.raises(BadMutant, match=f"^thin.patch: .*{re.escape(problem)}"):
        read_mutant(path)


def test_a_hunk_must_fit_at_one_place(tmp_path):
    path = tmp_path / "some.patch"
    path.write_text(PATCH)
    mutant = read_mutant(path)
    assert (mutant.name, mutant.breaks, mutant.files, mutant.rebuilds) == ("some", "S3", ("tower/one.py",), False)
    (tmp_path / "tower").mkdir()
    assert misfit(mutant, tmp_path) == "tower/one.py is not there"
    whole = "first\nsecond\nthird\n"
    for content, said in ((f"zero\n{whole}", None), ("first\nsecond\n", "nowhere"), (whole * 2, "at 2 places")):
        (tmp_path / "tower" / "one.py").write_text(content)
        found = misfit(mutant, tmp_path)
        assert found is None if said is None else said in found


SMALL = "tests/unit/test_lockout.py::test_malformed_names_what_is_wrong"
OTHER = "tests/unit/test_lockout.py::test_nth_recent"
GUARD = "malformed-slots-rise"


def one(**changes):
    (mutant,) = [each for each in MUTANTS if each.name == GUARD]
    return replace(mutant, **changes)


@pytest.mark.parametrize(
    ("tests", "quick", "status", "said"),
    [
        ((SMALL,), (OTHER,), 0, "killed 1 of 1"),
        ((OTHER,), (SMALL,), 0, "(not named by the patch)"),
        ((OTHER,), (OTHER,), 1, "**survived**"),
        (("tests/unit/test_lockout.py::test_none",), (OTHER,), 2, "pytest could not run the tests"),
    ],
    ids=["killed", "killed by another test", "survived", "no such test"],
)
def test_a_run_says_what_became_of_a_mutant(tests, quick, status, said, monkeypatch, capsys):
    monkeypatch.setattr(run, "load_mutants", lambda: [one(tests=tests)])
    monkeypatch.setattr(run, "QUICK", quick)
    assert run.main(["--jobs", "1"]) == status
    told = capsys.readouterr()
    assert said in told.out + told.err


def test_a_patch_that_does_not_fit_ends_the_run_before_any_test(tmp_path, monkeypatch, capsys):
    path = tmp_path / "misfit.patch"
    path.write_text(PATCH)
    monkeypatch.setattr(run, "load_mutants", lambda: [read_mutant(path)])
    assert run.main([]) == 2
    assert "mutants: misfit: the patch does not fit the tree; bring misfit.patch up to date" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "nothing-like-it"], "--only nothing-like-it: no mutant has that name"),
        (["--write", "--sample", "3"], "--write needs all mutants"),
        (["--jobs", "0"], "--jobs and --sample take a number above 0"),
    ],
)
def test_what_cannot_be_asked_for(arguments, said, capsys):
    try:
        status = run.main(arguments)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert said in capsys.readouterr().err


def test_a_sample_is_drawn_from_the_seed(capsys):
    drawn = []
    for seed in (7, 7, 8):
        assert run.main(["--list", "--sample", "5", "--seed", str(seed)]) == 0
        drawn.append(capsys.readouterr().out.splitlines())
    assert len(drawn[0]) == 5
    assert drawn[0] == drawn[1] != drawn[2]


def test_running_out_of_time_counts_only_where_the_patch_says_so():
    killed = Verdict(one(), SMALL, True, False, 1.0)
    late = Verdict(one(), SMALL, True, True, 90.0)
    allowed = replace(late, mutant=one(may_time_out=True))
    assert [verdict.killed for verdict in (killed, late, allowed)] == [True, False, True]
    assert allowed.by() == f"timed out: `{SMALL}`"
    assert summary([killed, late, allowed], 92.0) == "killed 2 of 3, 92 s"
    assert len(table([killed, late, allowed])) == 5
