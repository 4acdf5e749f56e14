"""Fixtures for every test: the run's seed, one etcd for the session, stores on it that are closed afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.etcd import open_store, run_etcd
from tower.keys import to_base58
from tower.localnet.etcd_server import EtcdServer
from tower.stores.etcd import EtcdStore
from tower.validator.certs import make_certificates


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="seed of every random test; printed at the top of each run")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.option.seed is None:
        config.option.seed = random.SystemRandom().randrange(1 << 32)
    if getattr(config.option, "hypothesis_seed", None) is None:
        config.option.hypothesis_seed = config.option.seed


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.option.seed} (again with --seed {config.option.seed})"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that depend on the run's seed and the test's name only."""
    seed = f"{request.config.option.seed} {request.node.nodeid}"
    print(f"seed: {request.config.option.seed}")
    return random.Random(seed)


@pytest.fixture
def identity() -> str:
    """A fresh identity, so that tests can share one server."""
    return to_base58(random.SystemRandom().randbytes(32))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of certificates as `make_certificates` makes them."""
    folder = tmp_path_factory.mktemp("tls") / "certs"
    make_certificates(folder)
    return folder


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[EtcdServer]:
    """One real etcd with mutual TLS for the whole session. Do not stop or pause it: start your own for that."""
    with run_etcd(tmp_path_factory.mktemp("etcd"), certificates) as server:
        yield server


@pytest.fixture
def etcd_store(etcd_server: EtcdServer) -> Iterator[Callable[..., EtcdStore]]:
    """Opens stores on the session's etcd and closes them after the test."""
    opened: list[EtcdStore] = []

    def open_one(**arguments: Any) -> EtcdStore:
        opened.append(open_store(etcd_server, **arguments))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()
