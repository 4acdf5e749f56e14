"""Makes docs/images/board.png and status-page.png from a real run: `python docs/make_board_images.py`, about three minutes.

Needs Debian's `prometheus` and `chromium`, and matplotlib (the extra `images`). Three etcd members, a local cluster, a primary
and a secondary with metrics ports, a Prometheus that scrapes all five; the identity moves three times. Then every query of
contrib/grafana/tower.json is put to Prometheus, and must give data. The picture is drawn from those answers, without Grafana.
"""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib as mpl

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
mpl.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

from tests.support.cluster import Validator, World, end, run_world, until  # noqa: E402
from tests.support.etcd import run_etcd_cluster  # noqa: E402
from tower.localnet.etcd_server import EtcdCluster  # noqa: E402
from tower.validator.certs import make_certificates  # noqa: E402

IMAGES = ROOT / "docs" / "images"
BOARD = ROOT / "contrib" / "grafana" / "tower.json"
PHASE_S = 25
COLUMNS = 3
ZERO_IS_FINE = {"Take-overs and stops", "etcd: leader changes"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def scrapes(folder: Path, machines: dict[str, int], cluster: EtcdCluster) -> Path:
    """A configuration for Prometheus; machines and members get short names in place of addresses."""
    certs = cluster.certs_dir

    def named(ports: dict[str, str]) -> list[dict[str, Any]]:
        return [{"targets": [address], "labels": {"instance": name}} for name, address in ports.items()]

    members = {f"etcd-{number}": f"{host}:{port}" for number, (host, port) in enumerate(cluster.endpoints, 1)}
    tls = {"ca_file": str(certs / "etcd-ca.pem"), "cert_file": str(certs / "validator.pem"),
           "key_file": str(certs / "validator-key.pem"), "server_name": "localhost"}  # fmt: skip
    jobs = [
        {"job_name": "validators", "static_configs": named({name: f"127.0.0.1:{port}" for name, port in machines.items()})},
        {"job_name": "etcd", "scheme": "https", "tls_config": tls, "static_configs": named(members)},
    ]
    file = folder / "prometheus.yml"  # JSON is YAML
    file.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    return file


def play(world: World, primary: Validator, secondary: Validator) -> None:
    """Three failovers: by hand, back again, and from a frozen primary."""
    pause = threading.Event()
    primary.start().wait_running().wait_vote(more_than=3)
    secondary.start().wait_running()
    pause.wait(PHASE_S)
    secondary.set_identity()
    pause.wait(PHASE_S)
    primary.set_identity()
    pause.wait(PHASE_S)
    primary.freeze()
    secondary.set_identity()
    pause.wait(PHASE_S)
    primary.thaw()
    pause.wait(PHASE_S / 2)
    world.assert_no_conflict()


def ask(url: str, expr: str, start: float, stop: float) -> list[dict[str, Any]]:
    query = urllib.parse.urlencode({"query": expr, "start": start, "end": stop, "step": 1})
    with urllib.request.urlopen(f"{url}/api/v1/query_range?{query}", timeout=30) as answer:
        result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return result


def legend(form: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        form = form.replace("{{" + name + "}}", value)
    return form


def draw(board: dict[str, Any], url: str, start: float, stop: float) -> None:
    panels = board["panels"]
    rows = math.ceil(len(panels) / COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(16, 3 * rows), layout="constrained")
    for panel, axis in zip(panels, axes.flat, strict=False):
        shown = 0
        for target in panel["targets"]:
            for series in ask(url, target["expr"], start, stop):
                points = [(float(at) - start, float(value)) for at, value in series["values"]]
                step = "post" if panel["type"] == "state-timeline" else "default"
                axis.plot(*zip(*points, strict=True), label=legend(target["legendFormat"], series["metric"]),
                          drawstyle="steps-post" if step == "post" else "default", linewidth=1.2)  # fmt: skip
                shown += 1
        if not shown and panel["title"] not in ZERO_IS_FINE:
            raise SystemExit(f"no data for the panel {panel['title']!r}")
        axis.set_title(panel["title"], fontsize=10, loc="left")
        axis.tick_params(labelsize=7)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if 0 < shown <= 6:
            axis.legend(fontsize=6, loc="best")
    for axis in list(axes.flat)[len(panels):]:
        axis.axis("off")
    figure.savefig(IMAGES / "board.png", dpi=80)
    print(IMAGES / "board.png")


def screenshot(url: str, folder: Path) -> None:
    subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=800,680",
         f"--user-data-dir={folder / 'browser'}", f"--screenshot={IMAGES / 'status-page.png'}", url],
        check=True, timeout=120, capture_output=True,
    )  # fmt: skip
    print(IMAGES / "status-page.png")


def main() -> None:
    for program in ("prometheus", "chromium"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is not installed: apt-get install {program}")
    IMAGES.mkdir(exist_ok=True)
    board = json.loads(BOARD.read_text())
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        make_certificates(folder / "certs")
        with (
            run_etcd_cluster(folder, folder / "certs") as cluster,
            run_world(folder, "--fork-every", "0", seed=1, slot_ms=400, etcd=cluster) as world,
        ):
            primary, secondary = world.validator("127.0.0.2"), world.validator("127.0.0.3", spare=True)
            ports = {"primary": free_port(), "secondary": free_port()}
            for machine, (name, port) in zip((primary, secondary), ports.items(), strict=True):
                machine.more = ["--who", name, "--metrics-address", f"127.0.0.1:{port}", "--on-lost-lock", "demote"]
                machine.endpoints = [f"{host}:{number}" for host, number in cluster.endpoints]
            own = free_port()
            url = f"http://127.0.0.1:{own}"
            scraper = subprocess.Popen(
                ["prometheus", f"--config.file={scrapes(folder, ports, cluster)}", f"--storage.tsdb.path={folder / 'tsdb'}",
                 f"--web.listen-address=127.0.0.1:{own}", "--log.level=error"],
            )  # fmt: skip
            try:
                start = time.time()
                play(world, primary, secondary)
                stop = time.time()
                until(lambda: ask(url, "tower_role", start, stop), "Prometheus has data")
                draw(board, url, start, stop)
                screenshot(f"http://127.0.0.1:{ports['secondary']}/", folder)
            finally:
                end(scraper)


if __name__ == "__main__":
    main()
