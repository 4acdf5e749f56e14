"""What a release is made by: an audit that does not take silence for a good answer, and a bill of materials that is looked at."""

from __future__ import annotations

import doctest
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

import release.audit
import release.build
from release.audit import CLEAN, UNKNOWN, VULNERABLE, verdict

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", [release.audit, release.build])
def test_doctests(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


FINE = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "CVE-2000-1", "fix_versions": ["3"]}, {"id": "X-2", "fix_versions": []}]}
SILENT = "not audited: no advisory service answered for any of the {} packages; this needs the network"
SKIPPED = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited: c (1)"}


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([FINE], CLEAN, "1 packages audited: no known vulnerability"),
        ([FINE, BAD, SKIPPED], VULNERABLE, "b 2: CVE-2000-1, mended in 3\nb 2: X-2, mended in no release yet"),
        ([SKIPPED, SKIPPED], UNKNOWN, SILENT.format(2)),
        ([FINE, SKIPPED], UNKNOWN, f"not audited: c: {SKIPPED['skip_reason']}"),
        ([], UNKNOWN, SILENT.format(0)),
    ],
)
def test_silence_is_no_good_answer(packages: list[dict[str, Any]], status: int, said: str) -> None:
    assert verdict({"dependencies": packages}) == (status, said.split("\n"))


@pytest.mark.parametrize(
    ("done", "said"),
    [
        (subprocess.CompletedProcess([], 1, "", "ConnectionError: no\n  route"), "not audited: ConnectionError: no route;"),
        (subprocess.CompletedProcess([], 1, "", ""), "not audited: pip-audit said nothing; this needs the network"),
    ],
)
def test_an_audit_that_cannot_ask_says_so(
    done: subprocess.CompletedProcess[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert release.audit.main() == UNKNOWN
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(said)
    assert printed.err.count("\n") == 1


def test_a_bill_that_leaves_something_out_is_not_released() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = ["Aiohttp", "click", "cryptography", "etcd_sdk.python", "grpcio", "hpack", "prometheus_client", "protobuf", "PyNaCl"]
    parts = [{"name": name, "version": "1", "purl": "pkg:pypi/x"} for name in [*names, "rich", "solders"]]
    bill = {"metadata": {"component": {"name": "tower", "version": project["version"]}}, "components": parts}
    direct = {one.split(">")[0].split("=")[0].strip() for one in project["dependencies"]}
    named = {part["name"].lower().replace("_", "-").replace(".", "-") for part in parts}
    assert release.build.missing(bill, project) == sorted(direct - named)
    del parts[-1]["purl"]
    assert "solders" in release.build.missing(bill, project)
    bill["metadata"] = {}
    assert release.build.missing(bill, project)[0] == "tower"


def test_what_is_compiled_is_in_the_source_archive() -> None:
    lines = (ROOT / "MANIFEST.in").read_text().splitlines()
    taken = next(line for line in lines if line.startswith("include tower/")).split()[1:]
    for path in (ROOT / "tower").rglob("*.p*[xid]"):
        name = str(path.relative_to(ROOT))
        assert any(Path(name).match(pattern) for pattern in taken), name


def test_what_the_audit_asks_about_is_pinned() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for group in (project["dependencies"], project["optional-dependencies"]["release"]):
        for each in group:
            assert each.split(">")[0].split("=")[0].strip().lower() in pinned, each
