"""One of the pinned scenarios in every run, and two faults of a soak; all of them by `python -m tests.fault.run`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.fault import run, soak, table
from tests.fault.faults import CATALOGUE
from tests.fault.host import missing
from tests.fault.scenario import SCENARIOS
from tests.fault.soak import play_round

QUICK = "cut off and taken over"


def test_a_scenario(tmp_path: Path, seed: int) -> None:
    result = run.play(SCENARIOS[QUICK], tmp_path / "run", seed)
    assert result.verdict is not None
    assert result.verdict.passed, f"seed {seed}: {result.verdict}"
    assert len(result.rows) == 4
    assert result.verdict.counts["claim: claimed"] >= 6
    assert not (tmp_path / "run").exists()


def test_about_a_third_is_for_ci() -> None:
    marked = sum(each.in_ci for each in SCENARIOS.values())
    assert len(SCENARIOS) / 4 < marked <= len(SCENARIOS) / 2


def test_every_fault_of_the_catalogue_is_made_somewhere() -> None:
    source = "".join(path.read_text() for path in Path(__file__).parent.glob("scenarios_*.py"))
    dynamic = {f"link {rule}" for rule in ("cut", "hole", "deaf", "mute", "slow", "double", "torn")}
    dynamic |= {f"all links {rule}" for rule in ("cut", "hole")}
    assert [name for name in CATALOGUE if f'"{name}"' not in source and name not in dynamic] == []


def test_what_a_fault_needs_and_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing("") == ""
    assert missing("gcc") == "needs gcc"
    result = run.play(SCENARIOS["clocks that jump"], tmp_path / "run", 1)
    assert result.verdict is None
    assert result.skipped == "needs gcc"


def test_an_unknown_scenario_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["no such thing"]) == 2
    assert capsys.readouterr().err == "Error: no scenario 'no such thing'; --list names them\n"


def test_a_round_of_the_soak(tmp_path: Path, seed: int) -> None:
    counts, wrong = play_round(tmp_path / "round", seed, count=2)
    assert wrong == [], f"seed {seed}: {wrong}"
    assert counts["rounds"] == 1
    assert sum(number for name, number in counts.items() if name.startswith("fault: ")) == 2
    assert counts["conflicts"] == counts["double blocks"] == 0


@pytest.mark.parametrize(("status", "good"), [(10, True), (11, True), (-9, True), (13, False), (0, False)])
def test_a_soak_looks_at_how_the_owner_ended(monkeypatch: pytest.MonkeyPatch, status: int, good: bool) -> None:
    """One that ended by itself, in a way that no vote asks for, is no round that passed."""
    monkeypatch.setattr(soak, "take_over", lambda machine: None)
    owner, spare = Mock(running=False, log=""), Mock()
    owner.process.returncode = status
    played = soak.Soak.__new__(soak.Soak)
    played.stage, played.failovers, played.owner, played.spare = Mock(), 0, owner, spare
    if good:
        played.change()
        assert (played.owner, played.spare, played.failovers) == (spare, owner, 1)
    else:
        with pytest.raises(AssertionError, match=f"ended with {status}"):
            played.change()


def test_a_soak_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seeds: list[int] = []
    wrong: list[str] = []

    def played(folder: Path, seed: int) -> tuple[Counter[str], list[str]]:
        assert folder.is_absolute(), "processes with another working directory write there"
        seeds.append(seed)
        return Counter({"rounds": 1, "failovers": 3, "longest silence, ms": 100 * len(seeds)}), wrong

    monkeypatch.setattr(soak, "play_round", played)
    monkeypatch.chdir(tmp_path.parent)
    command = ["--folder", tmp_path.name, "--minutes", "1", "--rounds", "2", "--seed", "7"]
    assert soak.main(command) == 0
    assert soak.main(command[:-2]) == 0
    told = json.loads((tmp_path / "soak.json").read_text())
    assert list(told["commits"].values()) == [4]
    del told["commits"]  # as an earlier release left it
    (tmp_path / "soak.json").write_text(json.dumps(told))
    page = tmp_path / "faults.md"
    page.write_text(f"before\n{table.SOAK_BEGIN}\nold\n{table.SOAK_END}\nafter\n")
    monkeypatch.setattr(table, "PAGE", page)
    assert soak.main([*command, "--write"]) == 0
    text = page.read_text()
    assert text.startswith(f"before\n{table.SOAK_BEGIN}\n")
    assert text.endswith(f"\n{table.SOAK_END}\nafter\n")
    assert "old" not in text
    assert "6 rounds" in text
    assert "**18 failovers, conflicts 0, double blocks 0.**" in text
    assert "| longest time without a vote | 0.6 s |" in text
    assert (told["seed"], told["round"], told["counts"]["failovers"]) == (7, 4, 12)
    assert told["counts"]["longest silence, ms"] == 400
    assert len(set(seeds)) == 6
    wrong.append("S3: something")
    assert soak.main(command) == 1
    assert "python -m tests.fault.judge" in capsys.readouterr().out
