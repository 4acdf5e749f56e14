"""The seed of each test's cluster, which follows from the run's."""

from __future__ import annotations

import random

import pytest


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    return random.Random(f"{request.config.option.seed} {request.node.nodeid}").randrange(1 << 32)
