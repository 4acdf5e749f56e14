"""The generated C of the bytes: it compiles without a warning, narrowing and sign changes included."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wno-unused-parameter", "-Werror"]


@pytest.mark.parametrize("module", ["_fast", "_read", "_tree"])
def test_the_c_code_compiles_without_a_warning(module):
    source = ROOT / "tower" / f"{module}.c"
    if shutil.which("gcc") is None or not source.exists():
        pytest.skip(f"gcc or {source.name} is not there: build the extensions with `make setup`")
    include = f"-I{sysconfig.get_path('include')}"
    done = subprocess.run(
        ["gcc", "-std=c11", "-fsyntax-only", *WARNINGS, include, str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
