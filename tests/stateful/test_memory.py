"""The model beside the real voter, runner, leader and memory store, whatever hypothesis can think of.

It prints how often each action of the specification happened. A failure prints the steps that lead to it, and a blob that
repeats them; `--seed` repeats the whole run. The nightly run plays in batches, each with the seed after the last one's, for
hypothesis remembers what it has played.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.stateful.machine import Fenced
from tests.support.profiles import NIGHTLY, PROFILE, examples, timeout

BATCHES = 10 if PROFILE == NIGHTLY else 1


@timeout
@pytest.mark.parametrize("batch", range(BATCHES))
def test_the_real_side_does_what_the_model_does(request, batch):
    first = request.config.option.seed + batch
    print(f"seed: {first}")
    counts: Counter[str] = Counter()

    class Counted(Fenced):
        def teardown(self):
            super().teardown()
            counts.update(self.world.counts)
            counts["votes sent"] += len(self.world.witness.sent)
            counts["examples"] += 1

    run_state_machine_as_test(seed(first)(Counted), settings=settings(examples(150, 2000), stateful_step_count=50))
    for name, count in sorted(counts.items()):
        print(f"  {name:<16} {count}")
    assert counts["examples"] >= 150
