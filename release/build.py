"""Builds a release into dist/: source archive, wheel, a software bill of materials of what the wheel installs, and checksums.

The bill (CycloneDX, JSON) is made from an environment that holds the wheel and its dependencies at the versions of
constraints.txt, and nothing else, so no tool of ours is in it. It is looked at before it counts: it must name the package itself
and each of its direct dependencies with version and package URL. Needs the package index, as every install does.

What the bill cannot see is compiled into the wheels that it lists: libsodium in pynacl, gRPC's core and BoringSSL in grpcio,
OpenSSL in cryptography, LiteSVM in solders.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path
from typing import Any

__all__ = ["main", "missing"]

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
PIP = ("-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", "constraints.txt")


def missing(bill: dict[str, Any], project: dict[str, Any]) -> list[str]:
    """What the bill lacks of `project`, the table of pyproject.toml.

    >>> own = {"component": {"name": "p", "version": "1"}}
    >>> bill = {"metadata": own, "components": [{"name": "A_b", "version": "2", "purl": "x"}]}
    >>> missing(bill, {"name": "p", "version": "1", "dependencies": ["a-b>=1", "c"]})
    ['c']
    """
    subject = bill.get("metadata", {}).get("component", {})
    lacking = [] if (subject.get("name"), subject.get("version")) == (project["name"], project["version"]) else [project["name"]]
    whole = {_normal(one["name"]) for one in bill.get("components", []) if one.get("version") and one.get("purl")}
    wanted = [re.split(r"[<>=!~;\s\[]", each, maxsplit=1)[0] for each in project["dependencies"]]
    return lacking + [name for name in wanted if _normal(name) not in whole]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], cwd=ROOT, check=True)


def main() -> int:
    """Make all four; 1 with a line where something fails."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stem = f"{project['name']}-{project['version']}"
    for old in DIST.glob(f"{stem}*"):
        old.unlink()
    try:
        _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST, ".")
        (wheel,) = DIST.glob(f"{stem}-*.whl")
        bill = DIST / f"{stem}.cdx.json"
        with tempfile.TemporaryDirectory() as folder:
            venv.create(folder, with_pip=True)
            python = Path(folder) / "bin" / "python"
            _run(python, *PIP, wheel)
            _run(python, "-m", "pip", "uninstall", "-q", "-y", "--disable-pip-version-check", "pip", "setuptools")
            options = ("--pyproject", "pyproject.toml", "--mc-type", "library", "--output-reproducible", "--of", "JSON")
            _run(sys.executable, "-m", "cyclonedx_py", "environment", *options, "-o", bill, python)
    except (subprocess.CalledProcessError, ValueError) as problem:
        print(f"not released: {problem}", file=sys.stderr)
        return 1
    lacking = missing(json.loads(bill.read_text()), project)
    if lacking:
        print(f"not released: {bill.name} does not name {', '.join(lacking)}", file=sys.stderr)
        return 1
    files = sorted(path for path in DIST.glob(f"{stem}*") if path.is_file())
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (DIST / "SHA256SUMS").write_text(sums)
    print(sums, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
