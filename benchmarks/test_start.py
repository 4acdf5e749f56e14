"""How long a command of `openos-validator` takes until it has asked a running validator: a part of every planned failover.

Each case is a whole process, from its start to its end, beside an interpreter that does nothing. Nobody answers at the socket, so
what is measured ends where the request would leave. The bytecode is compiled, as an installation has it; an editable
installation, which looks for its modules with a finder, adds some milliseconds to every interpreter, the idle one included.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conftest import Bench
from benchmarks.machines import environment, program
from benchmarks.measure import interleaved
from tower.keys import Keypair, write_keypair_file

COMMAND_MS_MAX = 60.0
REFUSED = 1


@pytest.mark.timeout(300)
def test_start_of_a_command(bench: Bench, benchmark: Any, tmp_path: Path) -> None:
    write_keypair_file(tmp_path / "own.json", Keypair.from_seed(bench.seed.to_bytes(32, "big")))
    variables = environment(tmp_path)

    def process(*command: str, status: int = 0) -> Callable[[], object]:
        def run() -> None:
            done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, check=False)
            assert done.returncode == status, done.stderr

        return run

    ours = program()
    cases = {
        "an interpreter that does nothing": process(sys.executable, "-c", "pass"),
        "set-identity": process(*ours, "set-identity", "own.json", status=REFUSED),
        "contact-info": process(*ours, "contact-info", status=REFUSED),
        "exit --force": process(*ours, "exit", "--force", status=REFUSED),
        "run --help": process(*ours, "run", "--help"),
    }
    benchmark.pedantic(cases["set-identity"], rounds=1)
    taken = interleaved(cases, rounds=bench.rounds(40, 1))
    idle = taken.pop("an interpreter that does nothing")
    for name, sample in taken.items():
        bench.row("start of a command", name, sample, against="an interpreter that does nothing", other=idle)
    median = taken["set-identity"].median * 1000
    bench.figure("start of a command", "set-identity, until its request would leave", median, "ms", at_most=COMMAND_MS_MAX)
