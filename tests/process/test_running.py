"""A validator as an operator runs it: a configuration file, a metrics port, systemd listening, hooks, a log for machines."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.process.conftest import watched
from tests.support.cluster import PATIENCE_S, Validator, World, until
from tower.validator.config import Exit


@pytest.fixture
def world(file_world: World) -> Iterator[World]:
    yield from watched(file_world)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def monitored(machine: Validator) -> str:
    """Give it a metrics port; where that is."""
    port = free_port()
    machine.more += ["--metrics-address", f"127.0.0.1:{port}"]
    return f"http://127.0.0.1:{port}"


def get(url: str) -> tuple[int, str]:
    """Status and text; 0 where nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()
    except urllib.error.URLError:
        return 0, ""


def sample(url: str, name: str, **labels: str) -> float:
    """One sample of the metrics; 0 where it is not there yet."""
    families = text_string_to_metric_families(get(f"{url}/metrics")[1])
    found = [
        one.value for family in families for one in family.samples
        if one.name == name and labels.items() <= one.labels.items()
    ]  # fmt: skip
    return found[0] if found else 0.0


def hook(machine: Validator, name: str, text: str) -> list[str]:
    """A hook in the machine's folder."""
    file = machine.folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return [f"--hook-{name}", f"{file} now"]


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.timeout(120)
def test_health_metrics_and_hooks_follow_a_failover(world: World) -> None:
    told = 'echo "$1 $OPENOS_ROLE_BEFORE $OPENOS_ROLE_AFTER $OPENOS_IDENTITY ${OPENOS_FENCE:+fenced} $OPENOS_WHY" >> %s'
    primary, spare = world.validator("127.0.0.2"), world.validator("127.0.0.3", spare=True)
    for machine in (primary, spare):
        machine.more += hook(machine, "after", told % (machine.folder / "told"))
    first, second = monitored(primary), monitored(spare)
    primary.more += ["--on-lost-lock", "demote"]
    primary.start().wait_running().wait_vote(more_than=2)
    spare.start().wait_running()
    assert [get(first + path)[0] for path in ("/live", "/ready", "/primary", "/standby")] == [200, 200, 200, 503]
    assert [get(second + path)[0] for path in ("/live", "/ready", "/primary", "/standby")] == [200, 200, 503, 200]
    assert sample(first, "tower_votes_released_total") >= 3
    assert sample(first, "tower_store_seconds_count") >= 3
    fence = sample(first, "tower_fence_revision")
    assert primary.folder.name not in get(first)[1]
    assert "primary" in get(first)[1]

    spare.set_identity()
    spare.wait_vote()
    until(lambda: get(first + "/standby")[0] == 200, "the old primary says that it stands by")
    assert get(first + "/primary")[0] == 503
    assert get(second + "/primary")[0] == 200
    assert sample(second, "tower_fence_revision") > fence
    assert sample(second, "tower_takeovers_total", why="set-identity") == 1
    assert sample(first, "tower_voting_stopped_total", reason="lost the fence") == 1
    until(lambda: len(lines(primary.folder / "told")) == 2 and lines(spare.folder / "told"), "the hooks ran")
    me = world.identity.address
    began, lost = lines(primary.folder / "told")
    assert began == f"now standby primary {me} fenced start"
    assert lost.startswith(f"now primary standby {me} fenced ")
    assert lines(spare.folder / "told") == [f"now standby primary {me} fenced set-identity"]
    until(lambda: sample(first, "tower_hooks_total", role="standby", outcome="ok") == 1, "the hook is counted")

    spare.process.terminate()
    spare.wait_exit(Exit.OK)
    until(lambda: len(lines(spare.folder / "told")) == 2, "the hook of the end ran")
    assert lines(spare.folder / "told")[1] == f"now primary stopped {me} fenced SIGTERM received"


@pytest.mark.timeout(120)
def test_a_hook_before_can_refuse_and_the_owner_goes_on(world: World) -> None:
    primary = world.validator("127.0.0.2").start().wait_running()
    primary.wait_vote()
    spare = world.validator("127.0.0.3", spare=True)
    spare.more += [*hook(spare, "before", "echo not in the maintenance window; exit 1"), "--hook-timeout", "3"]
    spare.start().wait_running()
    owner = world.owner()
    done = spare.command("set-identity", "validator-keypair.json")
    assert done.returncode == Exit.REFUSED
    assert "--hook-before ended with an error; nothing was claimed" in done.stderr
    assert "not in the maintenance window (exit status 1)" in spare.log
    assert world.owner() == owner
    primary.wait_vote()
    assert spare.running


@pytest.mark.timeout(120)
def test_systemd_is_told_and_the_log_is_for_machines(world: World) -> None:
    machine = world.validator("127.0.0.2")
    config = machine.folder / "validator.toml"
    config.write_text('log-format = "json"\nwho = "from-the-file"\n')
    machine.more += ["--config", str(config)]
    path = machine.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(PATIENCE_S)
        machine.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "3000000"}
        machine.start()
        ready = systemd.recv(4096).decode()
        assert ready == f"READY=1\nSTATUS=primary {world.identity.address}" or ready.startswith("READY=1\nSTATUS=primary ")
        assert machine.progress() == "Running"
        for wanted in ("WATCHDOG=1", "last vote", "WATCHDOG=1"):
            until(lambda wanted=wanted: wanted in systemd.recv(4096).decode(), f"systemd hears {wanted}")
        machine.process.terminate()
        until(lambda: "STOPPING=1\nSTATUS=SIGTERM received" in systemd.recv(4096).decode(), "systemd hears the end")
    machine.wait_exit(Exit.OK)
    parsed: list[dict[str, Any]] = [json.loads(line) for line in machine.log.splitlines()]
    votes = [line for line in parsed if line.get("event") == "vote"]
    assert votes
    assert all(line["slot"] > 0 and line["store_ms"] > 0 for line in votes)
    assert [line["why"] for line in parsed if line.get("event") == "adopted"] == ["start"]
    assert world.owner().who == "from-the-file"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed: the status page is not looked at")
@pytest.mark.timeout(120)
def test_the_status_page_in_a_browser(world: World, tmp_path: Path) -> None:
    machine = world.validator("127.0.0.2")
    url = monitored(machine)
    machine.start().wait_running().wait_vote()
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom", url],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert '<span class="role primary">primary</span>' in done.stdout, done.stderr
    assert world.identity.address in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--metrics-address", "9465"], "--metrics-address: '9465' is not host:port; write it like 127.0.0.1:9465"),
        (["--hook-after", "no-such-hook"], "--hook-after: no-such-hook: no program that can be run; check the path and its mode"),
        (["--hook-timeout", "3"], "--hook-timeout: has no effect without --hook-before or --hook-after"),
        (["--hook-after", "true", "--hook-timeout", "0"], "--hook-timeout: give seconds above 0 and up to 60"),
    ],
)
def test_bad_flags_are_one_line(world: World, flags: list[str], message: str) -> None:
    machine = world.validator("127.0.0.2")
    done = machine.command(*machine.flags, *flags)
    assert done.returncode == Exit.REFUSED
    assert done.stderr.startswith(f"Error: {message}")
    assert done.stderr.count("\n") == 1
    assert not (machine.folder / "ledger").exists()
