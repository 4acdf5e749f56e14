"""The specification is run: a small model holds, a model without a guard fails as told, the proof stands on each guard.

`make spec` runs every model; here is what fits into every run of the tests. The checker is tested as well: what it must not
let pass is given to it.
"""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from spec import check
from tower.voter import VoterState

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "spec"
MODELS = {model.name: model for model in check.load_models()}
TOWER = (SPEC / "FencedTower.tla").read_text()
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="TLC needs Java, which is not on PATH")


def run(name: str) -> check.Found:
    found, output = check.run_model(MODELS[name], workers=2)
    assert found.error is None, output
    return found


@needs_java
def test_the_protocol_holds_in_the_smallest_model():
    found = run("failover")
    assert check.verdict(MODELS["failover"], found) is None
    assert found.states is not None
    assert found.states > 5000


@needs_java
def test_without_a_guard_two_votes_conflict():
    """The vote leaves on an unknown outcome, its tower never arrives, and the successor votes from the older tower."""
    found = run("release-on-unknown")
    assert check.verdict(MODELS["release-on-unknown"], found) is None
    assert found.violated == "NoConflictingRelease"
    assert found.actions.count("Unknown") == 2
    assert "StoreArrives" not in found.actions


@needs_java
def test_a_model_that_stands_still_is_noticed():
    assert check.verdict(MODELS["reach-handover"], run("reach-handover")) is None


def test_the_checker_refuses_what_differs():
    holds, fails = MODELS["failover"], MODELS["swept-tower"]
    states, steps = holds.expect["states"], fails.expect["steps"]
    right = check.Found(1.0, violated="NoConflictingRelease", actions=("Look",) * steps)
    assert check.verdict(holds, check.Found(1.0, states=states)) is None
    assert check.verdict(fails, right) is None
    assert "distinct states" in (check.verdict(holds, check.Found(1.0, states=states + 1)) or "")
    assert "is violated in" in (check.verdict(holds, right) or "")
    assert "had to be violated" in (check.verdict(fails, check.Found(1.0, states=states)) or "")
    assert check.verdict(fails, replace(right, violated="FencedWrites")) is not None
    assert check.verdict(fails, replace(right, actions=("Look",) * (steps + 1))) is not None
    for model in (holds, fails):  # a run that did not end did not pass
        assert check.verdict(model, check.read_output("killed in the middle", 1.0)) is not None


def test_every_guard_is_missing_in_a_model_that_must_fail():
    base = (SPEC / "MCFencedTower.cfg").read_text()
    safe = dict(re.findall(r"^  (\w+) = (.*)$", base, re.MULTILINE))
    guards = {name for name, value in safe.items() if value == "TRUE"} | {"InstanceCheck"}
    lacking: set[str] = set()
    for model in MODELS.values():
        missing = {name for name in guards & set(model.constants) if model.constants[name] != safe[name]}
        if model.expect["result"] == "holds":
            assert not missing or model.name.startswith("depth-"), model.name
        elif model.expect["result"] == "violates":
            assert missing, model.name
            lacking |= missing
    assert lacking == guards
    assert len(guards) == 10


def test_the_manifest_names_what_exists():
    promises = set(re.findall(r"^(\w+) ==", TOWER + (SPEC / "MCFencedTower.tla").read_text(), re.MULTILINE))
    assert len(MODELS) == len(check.load_models())
    for model in MODELS.values():
        assert model.says, model.name
        assert model.bounds, model.name
        assert set(model.checks) <= promises, model.name
        assert model.expect["seconds"] >= 1
        assert model.expect.get("states", model.expect.get("steps", 0)) > 0, f"{model.name} was never measured"


def test_promises_and_states_have_the_names_of_the_code():
    table = re.findall(r"^\| (S\d) (\w+) \|", (ROOT / "docs" / "safety.md").read_text(), re.MULTILINE)
    assert [row[0] for row in table] == [f"S{number}" for number in range(1, 8)]
    for _, promise in table:
        assert re.search(rf"^{promise} ==", TOWER, re.MULTILINE), promise
    states = re.search(r"^States == \{(.*?)\}", TOWER, re.MULTILINE | re.DOTALL)
    assert states is not None
    named = set(re.findall(r'^[^\\]*"(\w+)"', states.group(1), re.MULTILINE))
    assert named == {state.name.lower() for state in VoterState} - {"stopped"} | {"loading"}


def test_every_variable_constant_and_action_has_a_sentence():
    for path in ("FencedVoting.tla", "FencedTower.tla"):
        text = (SPEC / path).read_text()
        for block in re.findall(r"^(?:CONSTANTS?|VARIABLES)\n((?:  .*\n)+)", text, re.MULTILINE):
            assert all("\\*" in line for line in block.splitlines()), block
    following = TOWER.split("\nNext ==")[1].split("\nSpec ==")[0]
    actions = set(re.findall(r"\b([A-Z]\w+)(?:\(\w+(?:, \w+)?\))? *(?:\\/|\n|$)", following))
    assert {"Look", "Persist", "StoreArrives", "Sweep", "Crash"} <= actions
    for name in actions:
        assert re.search(rf"\\\*[^\n]*\n{name}\b[^\n]*==", TOWER), f"{name} has no sentence above it"


def test_doctests():
    assert doctest.testmod(check).failed == 0


def test_without_java_one_line_says_what_to_install():
    environment = {**os.environ, "PATH": str(ROOT / "spec")}
    command = [sys.executable, "-m", "spec.check", "--only", "failover"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "install" in done.stderr
    assert "java" in done.stderr


def test_a_jar_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("TLA2TOOLS_JAR", str(tmp_path / "none.jar"))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(check.CannotRun, match=r"TLA2TOOLS_JAR: .*none\.jar is not a file"):
        check.find_tools()


def test_the_document_shows_the_manifest_as_it_is():
    document = (ROOT / "docs" / "specification.md").read_text()
    assert check.table() in document
    story = document.split("### A story")[1].split("\n## ")[0]
    assert f"TLC needs {MODELS['no-tower-check'].expect['steps']} steps" in story


# --------------------------------------------------------------------------------------------------- without bounds


def test_the_invariant_is_inductive_and_safe():
    pytest.importorskip("z3", reason="the proof needs z3-solver")
    from spec.induction import prove, stuck
    from spec.steps import ACTIONS, GUARDS

    failures = prove(GUARDS)
    assert set(failures) == {"initiation", "safety", *(f"consecution of {name}" for name in ACTIONS)}
    assert {name: lines for name, lines in failures.items() if lines} == {}
    assert stuck(GUARDS) == []


@pytest.mark.parametrize(
    ("guard", "broken"),
    [
        ("InstanceCheck", "StoreArrives"),
        ("CompareTower", "StoreArrives"),
        ("AtomicClaim", "Claimed"),
        ("CommitBeforeRelease", "Persist"),
        ("HoldUnknown", "Unknown"),
        ("SettleBeforeDeciding", "Persist"),
        ("FencedBlocks", "Reserve"),
        ("CompareBlocks", "ReserveArrives"),
        ("KeepTower", "Sweep"),
    ],
)
def test_the_proof_fails_without(guard, broken):
    pytest.importorskip("z3", reason="the proof needs z3-solver")
    from spec.induction import prove
    from spec.steps import GUARDS

    lost = prove(set(GUARDS) - {guard})[f"consecution of {broken}"]
    assert [line for line in lost if "no answer" not in line]
