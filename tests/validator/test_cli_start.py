"""What a command imports before it asks a running validator: its start is a part of every planned failover."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tower.keys import Keypair, write_keypair_file

# each of them takes longer to import than a failover's own way inside the process
HEAVY = {"aiohttp", "asyncio", "cryptography", "dataclasses", "google", "grpc", "prometheus_client", "rich", "solders"}
PROBE = """
import json, sys
from tower.validator.cli import main
status = main(sys.argv[1:])
print(json.dumps([status, sorted(name for name in sys.modules if "." not in name)]))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("set-identity", "own.json"),
        ("exit", "--force"),
        ("contact-info",),
        ("set-log-filter", "info"),
        ("authorized-voter", "remove-all"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_command_that_only_asks_imports_nothing_heavy(arguments: tuple[str, ...], tmp_path: Path) -> None:
    write_keypair_file(tmp_path / "own.json", Keypair.generate())
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments, "--ledger", str(tmp_path)],
        cwd=tmp_path, env={"PYTHONPATH": str(Path(__file__).parents[2])}, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    status, modules = json.loads(done.stdout.splitlines()[-1])
    assert status == 1, "nobody answers there"
    assert "does not exist; is the validator running?" in done.stderr
    assert not HEAVY & set(modules)
