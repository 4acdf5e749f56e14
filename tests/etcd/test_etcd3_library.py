"""The store's contract on `etcd3` 0.12.0, which needs an old protobuf and therefore an interpreter of its own.

    python3 -m venv VENV
    VENV/bin/pip install etcd3==0.12.0 protobuf==3.20.3 aiohttp click cryptography hpack hypothesis pynacl pytest \
        pytest-timeout rich solders
    TOWER_ETCD3_PYTHON=VENV/bin/python make test-etcd3

The project itself is not installed there: it is taken from this folder, and built for the same Python version.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tower.localnet.etcd_server import find_etcd

ROOT = Path(__file__).parents[2]
TESTS = ["tests/contract/test_store_contract.py", "tests/etcd/test_faults.py", "tests/etcd/test_tls.py"]
LIBRARY = "from tower.stores._etcd_link import LIBRARY; print(LIBRARY)"


@pytest.mark.timeout(300)
def test_the_contract_holds_on_etcd3(request: pytest.FixtureRequest) -> None:
    python = os.environ.get("TOWER_ETCD3_PYTHON")
    if not python:
        pytest.skip("TOWER_ETCD3_PYTHON names no interpreter with etcd3 0.12.0 and protobuf 3.20.3")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TOWER_ETCD": str(find_etcd())}
    run = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True, "timeout": 280}
    assert subprocess.run([python, "-c", LIBRARY], **run).stdout == "etcd3\n"  # type: ignore[call-overload]
    seed = f"--seed={request.config.option.seed}"
    its_own = "ignore:Call to deprecated create function:DeprecationWarning"  # etcd3's descriptors are that old
    pytest_arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", its_own, "-k", "grpc", seed, *TESTS]
    result = subprocess.run([python, *pytest_arguments], **run)  # type: ignore[call-overload]
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
