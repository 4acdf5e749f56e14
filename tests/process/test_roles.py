"""Two machines that share an identity, each with a certificate of its own, on an etcd with roles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.conftest import watched
from tests.support.cluster import Validator, World, run_world
from tests.support.etcd import run_etcd
from tower.validator.certs import make_certificates
from tower.validator.config import Exit


@pytest.fixture
def world(tmp_path: Path, seed: int) -> Iterator[World]:
    make_certificates(tmp_path / "certs", validators=("primary", "secondary", "root", "validator"))
    with (
        run_etcd(tmp_path, tmp_path / "certs") as etcd,
        run_world(tmp_path, "--fork-every", "0", seed=seed, etcd=etcd) as made,
    ):
        yield from watched(made)


def with_certificate(machine: Validator, name: str) -> list[str]:
    assert machine.world.etcd is not None
    certs = machine.world.etcd.certs_dir
    return ["--etcd-cert-file", str(certs / f"{name}.pem"), "--etcd-key-file", str(certs / f"{name}-key.pem")]


@pytest.mark.timeout(120)
def test_a_failover_under_roles_and_a_machine_that_is_locked_out(world: World) -> None:
    primary, spare = world.validator("127.0.0.2"), world.validator("127.0.0.3", spare=True)
    primary.more += [*with_certificate(primary, "primary"), "--store-timeout", "1"]
    spare.more += [*with_certificate(spare, "secondary"), "--store-timeout", "1"]
    assert world.etcd is not None
    etcd = ["--etcd-endpoint", "{}:{}".format(*world.etcd.endpoint)]
    etcd += ["--etcd-cacert-file", str(world.etcd.certs_dir / "etcd-ca.pem"), *with_certificate(primary, "root")]

    def access(*words: str) -> None:
        done = primary.command("access", *words, *etcd)
        assert done.returncode == 0, done.stderr

    access("grant", "validator-keypair.json", "--user", "primary", "--user", "secondary")
    access("enable")
    primary.start().wait_running().wait_vote(more_than=2)
    spare.start().wait_running()
    spare.set_identity()
    spare.wait_vote(more_than=2)
    primary.wait_exit(Exit.LOST_FENCE)  # the watch works under a role, too
    access("revoke", "secondary")
    spare.wait_exit(Exit.STORE_FAILED)  # its next write is refused, and nothing unpersisted leaves
    assert "permission denied" in spare.log
