"""The same on a real etcd with mutual TLS: its transactions, its watch, and an older validator's requests as bytes.

A request that is held back is one that the adapter has not been given yet; a copy is the adapter called again with equal
arguments. Each example has a fresh identity, and so keys of its own. The adapters stay connected.
"""

from __future__ import annotations

import os
from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.stateful.machine import Fenced
from tests.stateful.pair import INSTANCES, LEGACY
from tests.stateful.servers import EtcdSide
from tests.support.profiles import examples, timeout
from tower.keys import Keypair


@timeout
def test_the_real_side_does_what_the_model_does(etcd_store, request):
    print(f"seed: {request.config.option.seed}")
    adapters = [etcd_store() for _ in (*INSTANCES, *LEGACY, "what is stored")]
    counts: Counter[str] = Counter()

    class OnEtcd(Fenced):
        def make_identity(self):
            return Keypair.from_seed(os.urandom(32))

        def make_server(self, identity):
            return EtcdSide(identity, adapters)

        def teardown(self):
            super().teardown()
            counts.update(self.world.counts)
            counts["votes sent"] += len(self.world.witness.sent)
            counts["examples"] += 1

    options = settings(
        examples(25, 1000), stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
    )
    run_state_machine_as_test(OnEtcd, settings=options)
    for name, count in sorted(counts.items()):
        print(f"  {name:<16} {count}")
    assert counts["examples"] >= 25
