"""One cluster for each module, on the embedded store and, where a test asks for it, on etcd; conflicts are always looked for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import World, run_world
from tests.support.etcd import run_etcd


@pytest.fixture(scope="module")
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of the module's clusters, which follows from the run's."""
    return random.Random(f"{request.config.option.seed} {request.node.nodeid}").randrange(1 << 32)


@pytest.fixture(scope="module")
def file_world(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Iterator[World]:
    with run_world(tmp_path_factory.mktemp("file"), "--fork-every", "0", seed=seed) as made:
        yield made


@pytest.fixture(scope="module")
def etcd_world(tmp_path_factory: pytest.TempPathFactory, certificates: Path, seed: int) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("on-etcd")
    with run_etcd(folder, certificates) as etcd, run_world(folder, "--fork-every", "0", seed=seed, etcd=etcd) as made:
        yield made


def watched(world: World) -> Iterator[World]:
    """`world` for one test: afterwards nothing conflicts and nothing is left running."""
    try:
        yield world
        world.assert_no_conflict()
    finally:
        world.end_validators()


@pytest.fixture
def on_file(file_world: World) -> Iterator[World]:
    yield from watched(file_world)


@pytest.fixture
def on_etcd(etcd_world: World) -> Iterator[World]:
    yield from watched(etcd_world)


@pytest.fixture(params=["file", "etcd"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Both stores, one after the other."""
    yield from watched(request.getfixturevalue(f"{request.param}_world"))
