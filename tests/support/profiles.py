"""How many examples the property tests try: `TOWER_PROFILE=ci` (the default) or `nightly`.

Examples are drawn from the run's seed, which the test header prints; `--seed` draws the same ones again.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

NIGHTLY = "nightly"
PROFILE = os.environ.get("TOWER_PROFILE", "ci")
if PROFILE not in ("ci", NIGHTLY):
    raise pytest.UsageError(f"TOWER_PROFILE={PROFILE}: choose ci or nightly")

# pytest-timeout for a module of property tests
timeout = pytest.mark.timeout(3600 if PROFILE == NIGHTLY else 120)


def examples(n_ci: int, n_nightly: int) -> settings:
    """Decorator: so many examples in each profile, no deadline for a single one, and its blob printed if it fails."""
    return settings(
        max_examples=n_nightly if PROFILE == NIGHTLY else n_ci,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
