"""Makes the images of the documents from a real run: `python docs/make_images.py` writes docs/images/*.svg.

Three etcd members, a local cluster, a primary and a secondary; the identity moves twice, once from a frozen primary. Then the
page of `watch` and the lines of `history` are taken as the commands show them, and those of a planned failover, first as a
drill and then in earnest. About a minute.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
import threading
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ["COLUMNS"] = "132"  # of the commands' output

from tests.support.cluster import World, run_world  # noqa: E402
from tests.support.etcd import etcd_flags, pems, run_etcd_cluster  # noqa: E402
from tower.localnet.etcd_server import EtcdCluster  # noqa: E402
from tower.validator.certs import make_certificates  # noqa: E402
from tower.validator.config import EtcdConfig  # noqa: E402
from tower.validator.looking import Limits, Observation, claims_of, describe  # noqa: E402
from tower.validator.looking_text import watch_page  # noqa: E402
from tower.validator.observing import Observer  # noqa: E402
from tower.validator.store_options import StoreConfig, open_store  # noqa: E402

IMAGES = ROOT / "docs" / "images"
WIDTH = 132
LOOKS, LOOK_EVERY_S = 30, 0.25
FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # names a font on somebody's server: the viewer's own will do


def play(world: World, cluster: EtcdCluster) -> Path:
    """A primary, a secondary, two failovers; the folder of the machine that votes now."""
    primary, secondary = world.validator("127.0.0.2"), world.validator("127.0.0.3", spare=True)
    for machine, name in ((primary, "primary"), (secondary, "secondary")):
        machine.more = ["--who", name]
        machine.endpoints = [f"{host}:{port}" for host, port in cluster.endpoints]
    primary.start().wait_running().wait_vote(more_than=5)
    secondary.start().wait_running()
    primary.freeze()
    secondary.set_identity()
    secondary.wait_vote(more_than=5)
    primary.thaw()
    primary.wait_exit(10)
    primary.start().wait_running().wait_vote(more_than=40)
    return primary.folder


def look(world: World, cluster: EtcdCluster, folder: Path) -> tuple[Observation, list[float | None]]:
    """Looks as `watch` does, for as long as its line of latencies is worth seeing."""
    files = pems(cluster.certs_dir)
    config = StoreConfig(
        "etcd", folder, EtcdConfig(tuple(cluster.endpoints), files["ca_cert"], files["cert"], files["key"])
    )
    store = open_store(config)
    latencies: list[float | None] = []
    try:
        observer = Observer(store, config, ledger=folder / "ledger", url=world.url)
        while True:
            seen = observer.observe()
            latencies.append(seen.identities[0].look_s * 1000)
            if len(latencies) == LOOKS:
                return seen, latencies
            threading.Event().wait(LOOK_EVERY_S)
    finally:
        store.close()


def fail_over(world: World) -> str:
    """A drill on the secondary, and the failover itself: what was typed and what it said."""
    secondary = world.validators[1].start().wait_running()
    said = []
    for more in ([], ["--not-a-drill"]):
        typed = ["failover", "run", "--identity", "validator-keypair.json", "--now", *more]
        done = secondary.command(*typed)
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(f"$ openos-validator {' '.join(typed)}\n{done.stdout}")
    secondary.wait_vote()
    return "\n".join(said)


def save(console: Console, name: str, title: str) -> None:
    IMAGES.mkdir(exist_ok=True)
    svg = FONT_FACE.sub("", console.export_svg(title=title, unique_id=name))
    (IMAGES / f"{name}.svg").write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")
    print(IMAGES / f"{name}.svg")


def main() -> None:
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        make_certificates(folder / "certs")
        with (
            run_etcd_cluster(folder, folder / "certs") as cluster,
            run_world(folder, "--fork-every", "0", seed=1, slot_ms=200, etcd=cluster) as world,
        ):
            machine = play(world, cluster)
            seen, latencies = look(world, cluster, machine)
            world.assert_no_conflict()
            history = world.validators[0].command("history", *etcd_flags(cluster)).stdout
            failover = fail_over(world)
            world.assert_no_conflict()
    events = [row for each in seen.identities for row in claims_of(each.sighting, each.claims)]
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(watch_page(describe(seen, Limits()), events, latencies))
    save(console, "watch", "openos-validator watch")
    console.print(Text(history.rstrip("\n"), no_wrap=True))
    save(console, "history", "openos-validator history")
    console.print(Text(failover.rstrip("\n"), no_wrap=True))
    save(console, "failover-run", "openos-validator failover run")


if __name__ == "__main__":
    main()
