"""The executable model is FencedTower.tla: the same names, the same number of states, the same shortest counterexamples.

All models that end within a second or two are explored in every run, all but the large ones with `TOWER_PROFILE=nightly`.
"""

from __future__ import annotations

import ast
import dataclasses
import doctest
import inspect
import re
from pathlib import Path

import pytest

from spec import check, explore, model, promises, values
from tests.support.profiles import NIGHTLY, PROFILE, timeout

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "spec"
TOWER = (SPEC / "FencedTower.tla").read_text()
MODELS = {each.name: each for each in check.load_models()}
# The formulas that speak of whole behaviours, and the tuple of the variables.
OF_BEHAVIOURS = {"vars", "Spec", "What"}
SLOW_STATES, SLOW_STEPS = 10_000, 16  # a model with more states, or a longer counterexample, takes some seconds
COMMENT = re.compile(r"\(\*.*?\*\)|\\\*.*?$", re.MULTILINE | re.DOTALL)


def definitions() -> dict[str, tuple[list[str], str]]:
    """Of every definition of the module, by name: its arguments, and its text without comments."""
    text = COMMENT.sub("", TOWER)
    parts = re.split(r"^(?=\w+(?:\([\w, ]*\))? ==)", text.split("VARIABLES")[1], flags=re.MULTILINE)[1:]
    found = {}
    for part in parts:
        head, body = part.split("==", 1)
        name, _, arguments = head.strip().rstrip(")").partition("(")
        found[name] = ([each.strip() for each in arguments.split(",") if each], body)
    return found


def functions() -> dict[str, inspect.Signature]:
    """The functions and sets of the executable model that carry a name of the TLA+."""
    return {
        name: inspect.signature(found)
        for module in (values, model, promises)
        for name, found in vars(module).items()
        if inspect.isfunction(found) and found.__module__ == module.__name__ and name[0].isupper()
    }


def test_every_definition_has_its_function_and_every_function_its_definition():
    sets = {name for name in ("States", "Voting") if isinstance(getattr(values, name), frozenset)}
    assert set(functions()) | sets == set(definitions()) - OF_BEHAVIOURS


def test_a_function_takes_what_its_definition_takes():
    """Beside constants and state: an answer or a request where the TLA+ says that there is one, the next state of a step."""
    for name, (arguments, body) in definitions().items():
        if name in OF_BEHAVIOURS | {"States", "Voting"}:
            continue
        taken = [each for each in functions()[name].parameters if each not in ("c", "s")]
        there_is = re.findall(r"\\E (\w) \\in (?:answers|sent) :", body)
        expected = arguments + there_is
        expected += ["after"] if name in ("MonotoneTower", "Refines") else []
        # `s` is the state here, so a slot is called one.
        assert [re.sub(r"^slot$", "s", each) for each in taken] == expected, name


def test_constants_variables_and_what_a_machine_knows_have_the_same_names_in_the_same_order():
    constants = re.findall(r"^  (\w+),? +\\\*", TOWER.split("VARIABLES")[0], re.MULTILINE)
    assert [field.name for field in dataclasses.fields(model.Constants)] == constants
    variables = re.search(r"^vars == <<(.*?)>>", TOWER, re.MULTILINE)
    assert variables is not None
    assert list(values.State._fields) == variables.group(1).split(", ")
    nothing = re.search(r"^Nothing == \[(.*?)\]", TOWER, re.MULTILINE | re.DOTALL)
    assert nothing is not None
    assert list(values.Node._fields) == re.findall(r"(\w+) \|->", nothing.group(1))
    assert set(re.findall(r'"(\w+)"', COMMENT.sub("", definitions()["States"][1]))) == values.States
    assert set(re.findall(r'"(\w+)"', definitions()["Voting"][1])) == values.Voting


def test_the_guards_are_as_the_smallest_model_has_them():
    protocol = explore.bounds_of(MODELS["failover"]).constants
    assert protocol == model.Constants(
        Lives=frozenset({1, 2}), Instances=frozenset({0, 1}), Slots=frozenset({1, 2})
    )  # so every guard that `Constants` sets by itself is the protocol's


def test_next_takes_every_action_that_the_module_takes():
    named = set(re.findall(r"\b([A-Z][A-Za-z]+)\b", definitions()["Next"][1])) - {"Nodes", "Slots", "BlockSlots"}
    listed = [model.OF_A_NODE, model.OF_AN_ANSWER, model.OF_A_BLOCK_SLOT, model.OF_A_REQUEST, model.OF_THE_WORLD]
    assert {action.__name__ for actions in listed for action in actions} | {"Persist"} == named


def test_the_promises_asked_are_those_of_the_smallest_model():
    asked = set(explore.bounds_of(MODELS["failover"]).checks)
    assert {each.__name__ for each in (*model.OF_EVERY_STATE, *model.OF_EVERY_STEP)} | {"TypeOK"} == asked


def is_quick(name: str) -> bool:
    expect = MODELS[name].expect
    if expect["result"] == "holds":
        return expect["states"] <= SLOW_STATES
    return expect["steps"] <= SLOW_STEPS


@timeout
@pytest.mark.parametrize(
    "name", [name for name in MODELS if not MODELS[name].large and (PROFILE == NIGHTLY or is_quick(name))]
)
def test_the_model_finds_what_tlc_finds(name):
    """Equal numbers of distinct states, and equally long counterexamples: what the manifest has from TLC."""
    found = explore.explore(explore.bounds_of(MODELS[name]))
    assert check.verdict(MODELS[name], found) is None, found


def test_enough_models_are_explored_in_every_run():
    quick = [MODELS[name].expect["result"] for name in MODELS if is_quick(name)]
    assert "holds" in quick
    assert quick.count("violates") >= 10
    assert quick.count("reaches") == 4


def test_a_missing_action_is_noticed(monkeypatch):
    """The counts do hold the model to the module: without the refresh there are fewer states."""
    monkeypatch.setattr(model, "OF_A_NODE", tuple(action for action in model.OF_A_NODE if action is not model.Refresh))
    problem = check.verdict(MODELS["failover"], explore.explore(explore.bounds_of(MODELS["failover"])))
    assert problem is not None
    assert "distinct states" in problem


def test_the_command_says_whether_all_is_as_expected(capsys):
    assert explore.main(["release-before-commit"]) == 0
    assert capsys.readouterr().out.startswith("ok   release-before-commit")
    with pytest.raises(SystemExit) as ended:
        explore.main(["none-such"])
    assert ended.value.code == 2


def test_doctests():
    for module in (model, explore):
        assert doctest.testmod(module).attempted
        assert doctest.testmod(module).failed == 0


def test_the_specification_imports_nothing_of_the_product():
    for path in SPEC.glob("*.py"):
        tree = ast.parse(path.read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not [name for name in names if name.split(".")[0] == "tower"], path.name
