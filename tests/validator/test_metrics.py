"""The metrics port: what it says is the process's state, and its status codes are the whole answer."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tower.errors import InvalidInput
from tower.validator.certs import make_certificates
from tower.validator.config import EtcdConfig
from tower.validator.metrics import Metrics, certificate_expiry
from tower.validator.web import HEALTH_PATHS, StatusServer, page

ROOT = Path(__file__).parents[2]
PRIMARY = {
    "identity": "Me", "voteAccount": "V", "towerStorage": "etcd", "progress": "Running", "voting": True, "state": "ready",
    "fence": 12, "lastVotedSlot": 40, "rootSlot": 9, "processedSlot": 42, "clusterRootSlot": 10, "sentVotes": 3,
    "storeMilliseconds": 0.6, "refusals": [],
}  # fmt: skip
STANDBY = {**PRIMARY, "voting": False, "state": "standby", "fence": None, "lastVotedSlot": None, "rootSlot": None}
STARTING = {**STANDBY, "progress": "LoadingLedger"}


def series(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by its name and labels."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


@pytest.mark.parametrize(("status", "role"), [(PRIMARY, "primary"), (STANDBY, "standby"), (STARTING, "starting")])
def test_gauges_are_the_status_at_the_scrape(status: dict[str, Any], role: str):
    now = dict(status)
    metrics = Metrics(lambda: now)
    got = series(metrics)
    assert {labels[0][1] for (name, labels), value in got.items() if name == "tower_role" and value} == {role}
    assert got["tower_processed_slot", ()] == 42
    assert ("tower_fence_revision", ()) in got or status["fence"] is None
    now["processedSlot"] = 43
    assert series(metrics)["tower_processed_slot", ()] == 43


def test_what_happened_is_counted_from_any_thread():
    metrics = Metrics(lambda: PRIMARY)
    threads = [threading.Thread(target=lambda: [metrics.voted(0.003, False) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    metrics.voted(0.003, True)
    metrics.adopted("auto-takeover: silent for 12 s")
    metrics.stopped("lost the fence")
    metrics.hook("primary", "failed")
    got = series(metrics)
    assert got["tower_votes_released_total", ()] == 2000
    assert got["tower_votes_refreshed_total", ()] == 1
    assert got["tower_store_seconds_bucket", (("le", "0.002"),)] == 0
    assert got["tower_store_seconds_bucket", (("le", "0.004"),)] == 2001
    assert got["tower_takeovers_total", (("why", "auto-takeover"),)] == 1
    assert got["tower_voting_stopped_total", (("reason", "lost the fence"),)] == 1
    assert got["tower_hooks_total", (("outcome", "failed"), ("role", "primary"))] == 1


def test_every_series_is_in_the_documentation(tmp_path: Path):
    config = etcd_config(tmp_path)
    metrics = Metrics(lambda: PRIMARY, config)
    for name in ("adopted", "stopped"):
        getattr(metrics, name)("x")
    metrics.hook("primary", "ok")
    families = {family.name for family in text_string_to_metric_families(metrics.text().decode())}
    ours = {name for name in families if name.startswith("tower_")}
    text = (ROOT / "docs" / "monitoring.md").read_text()
    missing = [name for name in sorted(ours) if f"`{name}" not in text]
    assert not missing
    assert len(ours) >= 12
    for file in ("contrib/prometheus/alerts.yml", "contrib/grafana/tower.json"):
        used = {word for word in _words((ROOT / file).read_text()) if word.startswith("tower_")}
        known = {name for name, _ in series(metrics)}
        assert used
        assert used <= known, f"{file} asks for series that do not exist: {sorted(used - known)}"


def _words(text: str) -> set[str]:
    import re

    return set(re.findall(r"\btower_[a-z_]+", text))


def etcd_config(folder: Path, days: int = 30) -> EtcdConfig:
    make_certificates(folder, hosts=("localhost",), days=days)
    ca, cert, key = ((folder / name).read_bytes() for name in ("etcd-ca.pem", "validator.pem", "validator-key.pem"))
    return EtcdConfig((("localhost", 2379),), ca, cert, key)


def test_the_ends_of_certificates(tmp_path: Path):
    config = etcd_config(tmp_path)
    expiry = certificate_expiry(config)
    assert set(expiry) == {"etcd-ca", "validator"}
    got = series(Metrics(lambda: PRIMARY, config))
    assert got["tower_certificate_expiry_seconds", (("certificate", "validator"),)] == expiry["validator"]


@asynccontextmanager
async def served(status: dict[str, Any]) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    server = StatusServer("127.0.0.1", 0, lambda: status, Metrics(lambda: status))
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield session, f"http://127.0.0.1:{server.port}"
    finally:
        await server.close()


@pytest.mark.parametrize(
    ("status", "good"),
    [(PRIMARY, {"/live", "/ready", "/primary"}), (STANDBY, {"/live", "/ready", "/standby"}), (STARTING, {"/live"})],
)
def test_health_answers_by_status_code(status: dict[str, Any], good: set[str]):
    async def ask() -> dict[str, tuple[int, int]]:
        async with served(status) as (session, url):
            found = {}
            for path in HEALTH_PATHS:
                async with session.get(url + path) as got, session.head(url + path) as head:
                    found[path] = (got.status, head.status)
            return found

    found = asyncio.run(ask())
    assert found == {path: (200, 200) if path in good else (503, 503) for path in HEALTH_PATHS}


def test_the_port_is_read_only_and_tells_no_more_than_asked():
    async def ask() -> list[int]:
        async with served(PRIMARY) as (session, url):
            codes = []
            asked = (("POST", "/primary"), ("PUT", "/"), ("DELETE", "/metrics"), ("GET", "/etc/passwd"), ("GET", "/../x"))
            for method, path in asked:
                async with session.request(method, url + path, data=b"x" * 4096 if method != "GET" else None) as got:
                    codes.append(got.status)
            async with session.get(url + "/metrics") as got:
                assert got.content_type == "text/plain"
                assert "tower_role" in await got.text()
            async with session.get(url + "/") as got:
                assert got.headers["Content-Security-Policy"].startswith("default-src 'none'")
                assert "primary" in await got.text()
            return codes

    assert asyncio.run(ask()) == [405, 405, 405, 404, 404]


def test_garbage_and_half_requests_leave_it_answering():
    async def ask() -> int:
        async with served(PRIMARY) as (session, url):
            port = int(url.rsplit(":", 1)[1])
            long = b"GET /" + b"a" * 100_000 + b"\r\n\r\n"
            for data in (b"\x16\x03\x01garbage\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", long, b"GE"):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(data)
                writer.close()
            async with session.get(url + "/live") as got:
                return got.status

    assert asyncio.run(ask()) == 200


def test_the_page_escapes_what_it_shows():
    shown = page({**PRIMARY, "refusals": ["locked out", "<script>"], "identity": "<b>"})
    assert "<script>" not in shown
    assert "locked out, &lt;script&gt;" in shown
    assert "<b>" not in shown


def test_an_address_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = StatusServer("127.0.0.1", port, lambda: PRIMARY, Metrics(lambda: PRIMARY))
        with pytest.raises(InvalidInput, match=f"--metrics-address: cannot listen at 127.0.0.1:{port}: "):
            asyncio.run(server.start())


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian's package prometheus)")
def test_promtool_accepts_rules_and_exposition():
    folder = ROOT / "contrib" / "prometheus"
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(["promtool", *command], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    metrics = Metrics(lambda: PRIMARY)
    metrics.voted(0.001, False)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics.text(), capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
