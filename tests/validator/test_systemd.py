"""The units: systemd accepts them, and what they say about this program is so."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tower.validator.cli_run import run
from tower.validator.config import Exit

UNITS = Path(__file__).parents[2] / "contrib" / "systemd"
NAMES = sorted(path.name for path in UNITS.glob("*.service"))
VALIDATORS = [name for name in NAMES if name.startswith("openos-validator")]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", NAMES)
def test_systemd_accepts_the_unit(tmp_path: Path, name: str):
    text = (UNITS / name).read_text()
    unit = tmp_path / name
    # the programs are the only thing that is not on this machine
    unit.write_text(re.sub(r"/usr/local/bin/\S+", shutil.which("true") or "/bin/true", text))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", VALIDATORS)
def test_a_unit_breaks_the_restart_cycle(name: str):
    """What must be tried again is; what cannot get better is not."""
    settings = dict(re.findall(r"^(\w+)=(.*)$", (UNITS / name).read_text(), re.MULTILINE))
    stops = {int(status) for status in settings["RestartPreventExitStatus"].split()}
    assert settings["Restart"] == "always"
    assert stops == {Exit.USAGE, Exit.TOWER_UNUSABLE, Exit.INTERNAL}
    assert not stops & {Exit.LOST_FENCE, Exit.STORE_FAILED, Exit.REFUSED}
    assert settings["Type"] == "notify"
    words = settings["ExecStart"].split()
    assert words[1] == run.name
    assert all(word in {name for option in run.params for name in option.opts} for word in words if word.startswith("--"))
