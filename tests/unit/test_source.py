"""The house rules that a machine can check: lint, types, imports one way, doctests, and the public names."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tower

ROOT = Path(__file__).parents[2]
MODULES = sorted(module.name for module in pkgutil.walk_packages(tower.__path__, "tower."))
CORE = {"errors", "types", "_bytes", "_fast", "_read", "_reference", "keys", "secret_memory", "store"}  # values and bytes
CORE |= {"_tree", "_reference_tree"}  # loops over many voters
CORE |= {"lockout", "forkchoice", "checks", "restore", "wire", "proposal", "instructions", "credits"}  # rules
CORE |= {"events", "voter", "leader"}
# what a layer may import from the package, itself aside: design, section "The house"
LAYERS = {
    "stores": {"errors", "types", "store", "keys", "stores"},
    "trace": CORE,
    "runner": CORE | {"trace"},
    "leader_runner": CORE,
    "validator": CORE | {"runner", "trace", "leader_runner", "stores", "validator"},
    "localnet": CORE | {"runner", "trace", "leader_runner", "stores", "validator", "localnet"},
}


def imports_of(module: str) -> set[str]:
    """The modules of the package that a module's source names in imports, without the `tower.`."""
    path = ROOT / (module.replace(".", "/") + ".py")
    path = path if path.exists() else ROOT / module.replace(".", "/") / "__init__.py"
    if not path.exists():
        return set()
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "tower":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("tower."):
                found.add(node.module.removeprefix("tower."))
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("tower.") for alias in node.names if alias.name.startswith("tower.")}
    return found


@pytest.mark.parametrize("module", [name for name in MODULES if name not in ("tower._fast", "tower._read", "tower._tree")])
def test_imports_point_one_way(module):
    layer = module.split(".")[1]
    allowed = CORE if layer in CORE else LAYERS[layer]
    wrong = {name for name in imports_of(module) if name.split(".")[0] not in allowed}
    assert not wrong, f"{module} must not import {wrong}"


def test_the_core_does_no_input_or_output():
    for module in sorted(CORE - {"_fast", "_read", "_tree", "keys", "store"}):  # keys read files, owner records name the host
        tree = ast.parse((ROOT / "tower" / f"{module}.py").read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        assert not names & {"time", "os", "socket", "asyncio", "threading", "random", "logging", "subprocess"}, module


@pytest.mark.parametrize("module", MODULES)
def test_doctests(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.failed == 0


def test_public_names_exist_and_are_sorted():
    for name in MODULES:
        module = importlib.import_module(name)
        names = getattr(module, "__all__", None)
        if names is None:
            continue
        assert len(set(names)) == len(names)
        assert all(hasattr(module, public) for public in names), name
    assert set(tower.__all__) <= set(dir(tower))


def test_the_sender_is_handed_votes_by_the_runner_alone():
    """One release path: nothing but the runner builds a CommittedVote."""
    for path in (ROOT / "tower").rglob("*.py"):
        if path.name != "runner.py":
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            assert not [call for call in calls if getattr(call.func, "id", "") == "CommittedVote"], path


def test_guards_are_not_asserts():
    for path in (ROOT / "tower").rglob("*.py"):
        assert not [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)], path


def test_pyright_agrees_with_the_types_that_embedders_see():
    if shutil.which("node") is None:
        pytest.skip("pyright needs node, which is not on PATH")
    files = ["tower/_fast.pyi", "tower/__init__.py", "tower/runner.py", "tower/voter.py", "tower/wire.py", "examples/embed.py"]
    done = subprocess.run([sys.executable, "-m", "pyright", *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


STUBTEST = ["mypy.stubtest", "--mypy-config-file", "pyproject.toml", "tower._fast", "tower._read", "tower._tree"]
TYPE_CHECKS = [["ruff", "check", "."], ["mypy"], STUBTEST]


@pytest.mark.parametrize("command", TYPE_CHECKS, ids=lambda command: command[0])
def test_lint_and_types(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
