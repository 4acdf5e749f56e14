"""Asks whether a known vulnerability is in what CI installs: `pip-audit` over constraints.txt, and a plain word where it cannot.

pip-audit ends well where it found no advisory because it reached no service; that is not an audit, so it is told apart here.
Exit status 0: every pinned package was asked about and nothing is known. 1: something is, each with the release that mends it.
2: not, or not all of it, could be asked; this needs the network.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["main", "verdict"]

ROOT = Path(__file__).parents[1]
COMMAND = ("-r", "constraints.txt", "--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off")
TIMEOUT_S = 600
CLEAN, VULNERABLE, UNKNOWN = 0, 1, 2


def verdict(report: dict[str, Any]) -> tuple[int, list[str]]:
    """The exit status and the lines for what pip-audit said.

    >>> verdict({"dependencies": [{"name": "a", "version": "1", "vulns": []}]})
    (0, ['1 packages audited: no known vulnerability'])
    >>> verdict({"dependencies": [{"name": "a", "skip_reason": "Dependency not found"}]})
    (2, ['not audited: no advisory service answered for any of the 1 packages; this needs the network'])
    """
    packages = report.get("dependencies", [])
    skipped = [one for one in packages if "skip_reason" in one]
    lines = [
        f"{one['name']} {one['version']}: {found['id']}, mended in {', '.join(found.get('fix_versions') or ['no release yet'])}"
        for one in packages for found in one.get("vulns", [])
    ]  # fmt: skip
    if lines:
        return VULNERABLE, lines
    if len(skipped) == len(packages):
        why = "no advisory service answered for any of the"
        return UNKNOWN, [f"not audited: {why} {len(packages)} packages; this needs the network"]
    if skipped:
        return UNKNOWN, [f"not audited: {one['name']}: {one['skip_reason']}" for one in skipped]
    return CLEAN, [f"{len(packages)} packages audited: no known vulnerability"]


def main() -> int:
    """See the module's text."""
    try:
        command = [sys.executable, "-m", "pip_audit", *COMMAND]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        report = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        print(f"not audited: the advisory service took more than {TIMEOUT_S} s; this needs the network", file=sys.stderr)
        return UNKNOWN
    except ValueError:
        said = " ".join(done.stderr.split())[-300:] or "pip-audit said nothing"
        print(f"not audited: {said}; this needs the network", file=sys.stderr)
        return UNKNOWN
    status, lines = verdict(report)
    print("\n".join(lines), file=sys.stdout if status == CLEAN else sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
