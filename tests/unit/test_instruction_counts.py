"""The check of the instruction counts itself: a growth that was planted is found, and what cannot be compared is said."""

from __future__ import annotations

import doctest
import json
import shutil

import pytest

from benchmarks import instructions
from benchmarks.instructions import CannotCount, Count, compare, instructions_by_object, toolchain
from benchmarks.workload import hot_calls

KEPT = json.loads(instructions.FILE.read_text())


def planted(monkeypatch, tmp_path, factor, **tools):
    """A file of counts that are `factor` of those written down."""
    counts = {name: {**count, "ours": int(count["ours"] * factor)} for name, count in KEPT["instructions"].items()}
    path = tmp_path / "instructions.json"
    path.write_text(json.dumps({"toolchain": {**toolchain(), **tools}, "instructions": counts}))
    monkeypatch.setattr(instructions, "FILE", path)


def counted(monkeypatch):
    """Stands in for valgrind: everything costs what is written down in the tree."""
    found = {name: Count(**count) for name, count in KEPT["instructions"].items()}
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(instructions, "toolchain", lambda: KEPT["toolchain"])
    monkeypatch.setattr(instructions, "count_calls", lambda names: ((name, found[name]) for name in names))


def test_every_hot_function_has_its_count():
    assert list(KEPT["instructions"]) == list(hot_calls())
    assert all(count["ours"] > 0 for count in KEPT["instructions"].values())
    assert {name for name, count in KEPT["instructions"].items() if count["libsodium"]} == {
        "encode_vote_record", "sign_transaction"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "problems"), [(1000, 0), (900, 0), (1050, 0), (1051, 1), (2000, 1)], ids=lambda value: str(value)
)
def test_more_than_five_percent_is_a_problem(ours, problems):
    found = compare({"f": Count(1000, 7)}, {"f": Count(ours, 9_000)}, 0.05)
    assert len(found) == problems
    assert all(f"f: {ours:,} instructions" in line and "1,000 written down; at most 5%" in line for line in found)


def test_a_function_that_is_not_written_down_is_a_problem():
    assert compare({}, {"f": Count(1, 0)}, 0.05) == ["f: 1 instructions, and none are written down: --write"]


@pytest.mark.parametrize(("factor", "status"), [(1, 0), (0.97, 0), (0.9, 1)])
def test_the_check_with_the_same_tools(monkeypatch, tmp_path, capsys, factor, status):
    counted(monkeypatch)
    planted(monkeypatch, tmp_path, factor, **KEPT["toolchain"])
    assert instructions.main(["--check"]) == status
    told = capsys.readouterr().out
    assert told.count("written down; at most 5%") == (len(KEPT["instructions"]) if status else 0)
    assert "other tools" not in told


@pytest.mark.parametrize(("factor", "status"), [(0.9, 0), (0.7, 1)])
def test_the_check_with_other_tools_says_so_and_allows_more(monkeypatch, tmp_path, capsys, factor, status):
    counted(monkeypatch)
    planted(monkeypatch, tmp_path, factor, **{**KEPT["toolchain"], "compiler": "gcc 1.2.3"})
    assert instructions.main(["--check"]) == status
    told = capsys.readouterr().out
    assert f"counted with other tools (gcc 1.2.3 there, {KEPT['toolchain']['compiler']} here)" in told
    assert ("written down; at most 25%" in told) == bool(status)


def test_a_function_that_is_gone_is_a_problem_of_a_whole_check(monkeypatch, tmp_path, capsys):
    counted(monkeypatch)
    names = list(KEPT["instructions"])
    monkeypatch.setattr(instructions, "hot_calls", lambda: dict.fromkeys(names[1:]))
    assert instructions.main(["--check"]) == 1
    assert f"{names[0]}: is written down, and no longer counted" in capsys.readouterr().out
    assert instructions.main(["--check", "--only", names[1]]) == 0


def test_writing_and_checking_again(monkeypatch, tmp_path, capsys):
    counted(monkeypatch)
    monkeypatch.setattr(instructions, "FILE", tmp_path / "instructions.json")
    assert instructions.main(["--check"]) == 1
    assert "none are written down" in capsys.readouterr().out
    assert instructions.main(["--write"]) == 0
    assert instructions.main(["--check"]) == 0
    with pytest.raises(SystemExit):
        instructions.main(["--write", "--only", "sign_transaction"])


def test_without_valgrind_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert instructions.main(["--check"]) == 0
    assert capsys.readouterr().out == "instructions: skipped, valgrind is not on PATH (Debian: apt-get install valgrind)\n"


def test_a_format_that_is_not_understood_is_no_count(monkeypatch, capsys):
    with pytest.raises(CannotCount, match="could be read"):
        instructions_by_object("ob=(1) a.so\n1 5\ntotals: 6\n")
    with pytest.raises(CannotCount, match="cannot be read"):
        instructions_by_object("ob=a.so\n1 5\ntotals: 5\n")


def test_a_planted_growth_is_found_by_counting(monkeypatch, tmp_path, capsys):
    """The whole way: valgrind counts, and a function that was written down as a tenth cheaper has grown."""
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not on PATH (Debian: apt-get install valgrind)")
    (_, now), *_ = instructions.count_calls(["encode_vote_message"])
    assert (now.libsodium, now.ours > 100) == (0, True)
    monkeypatch.setattr(instructions, "count_calls", lambda names: iter([("encode_vote_message", now)]))
    for factor, status in ((1.0, 0), (0.9, 1)):
        counts = {"encode_vote_message": {"ours": round(now.ours * factor), "libsodium": 0}}
        path = tmp_path / "instructions.json"
        path.write_text(json.dumps({"toolchain": toolchain(), "instructions": counts}))
        monkeypatch.setattr(instructions, "FILE", path)
        assert instructions.main(["--check", "--only", "encode_vote_message"]) == status
    assert "encode_vote_message: " in capsys.readouterr().out


def test_doctests():
    result = doctest.testmod(instructions)
    assert (result.attempted > 0, result.failed) == (True, 0)
