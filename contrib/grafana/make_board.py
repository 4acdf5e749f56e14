"""Writes tower.json, the Grafana board: `python contrib/grafana/make_board.py`. Edit this file, not the JSON.

A board in JSON is long and repeats itself; what differs from panel to panel is said here once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WIDTH = 24
SOURCE = {"type": "prometheus", "uid": "${source}"}


def target(expr: str, legend: str = "{{instance}}") -> dict[str, Any]:
    return {"datasource": SOURCE, "expr": expr, "legendFormat": legend, "refId": "A"}


def panel(
    kind: str, title: str, text: str, width: int, targets: list[dict[str, Any]], unit: str = "", **more: Any
) -> dict[str, Any]:
    named = [{**one, "refId": chr(ord("A") + number)} for number, one in enumerate(targets)]
    return {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": SOURCE,
        "targets": named,
        "gridPos": {"w": width, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit, **more.pop("defaults", {})}, "overrides": []},
        **more,
    }


ROLE = {
    "mappings": [
        {"type": "value", "options": {"0": {"text": "standby", "color": "blue"}, "1": {"text": "primary", "color": "green"}}}
    ]
}
DAYS = {
    "thresholds": {
        "mode": "absolute",
        "steps": [{"color": "red", "value": None}, {"color": "orange", "value": 14}, {"color": "green", "value": 30}],
    }
}

PANELS = [
    panel(
        "state-timeline",
        "Who votes",
        "1 while a process holds the fence, as far as it knows",
        24,
        [target('tower_role{role="primary"}')],
        defaults=ROLE,
    ),
    panel(
        "timeseries",
        "Votes behind the cluster",
        "Newest slot of the cluster less the newest stored vote",
        12,
        [target("tower_processed_slot - on(instance) tower_last_voted_slot")],
        "short",
    ),
    panel(
        "timeseries",
        "Votes a second",
        "Votes that left, and votes that left again",
        12,
        [target("rate(tower_votes_released_total[1m])"), target("rate(tower_votes_refreshed_total[1m])", "{{instance}} again")],
        "short",
    ),
    panel(
        "timeseries",
        "A vote's wait for its store",
        "From the start of the write to the commit; a slot is 400 ms",
        12,
        [
            target(
                f"histogram_quantile({q}, sum by (instance, le) (rate(tower_store_seconds_bucket[1m])))", "{{instance}} p" + name
            )
            for q, name in (("0.5", "50"), ("0.99", "99"))
        ],
        "s",
    ),
    panel(
        "heatmap",
        "The same, every vote",
        "How many votes waited how long",
        12,
        [{**target("sum by (le) (increase(tower_store_seconds_bucket[1m]))", "{{le}}"), "format": "heatmap"}],
        "s",
    ),
    panel(
        "timeseries", "Fence", "Revision of the claim: each step up is a take-over", 8, [target("tower_fence_revision")], "none"
    ),
    panel(
        "timeseries",
        "Take-overs and stops",
        "In the last five minutes",
        8,
        [
            target("increase(tower_takeovers_total[5m])", "{{instance}} took over: {{why}}"),
            target("increase(tower_voting_stopped_total[5m])", "{{instance}} stopped: {{reason}}"),
        ],
        "short",
    ),
    panel(
        "stat",
        "Days left of certificates",
        "The first to end of each file",
        8,
        [target("(tower_certificate_expiry_seconds - time()) / 86400", "{{instance}} {{certificate}}")],
        "d",
        defaults=DAYS,
    ),
    panel(
        "timeseries",
        "etcd: quota used",
        "At 1 every write is refused, and no vote leaves",
        8,
        [target("etcd_mvcc_db_total_size_in_bytes / etcd_server_quota_backend_bytes")],
        "percentunit",
    ),
    panel(
        "timeseries",
        "etcd: disk sync p99",
        "Every vote waits for it; 10 ms is slow",
        8,
        [target("histogram_quantile(0.99, sum by (instance, le) (rate(etcd_disk_wal_fsync_duration_seconds_bucket[1m])))")],
        "s",
    ),
    panel(
        "timeseries",
        "etcd: leader changes",
        "Votes are held for about a second at each",
        8,
        [target("increase(etcd_server_leader_changes_seen_total[5m])")],
        "short",
    ),
    panel(
        "timeseries",
        "Memory",
        "Of the validator's process",
        12,
        [target("process_resident_memory_bytes and on(instance) tower_validator_info")],
        "bytes",
    ),
    panel(
        "timeseries",
        "Slots",
        "The cluster's newest and rooted, our stored vote and root",
        12,
        [
            target(name, "{{instance}} " + name.removeprefix("tower_"))
            for name in ("tower_processed_slot", "tower_last_voted_slot", "tower_cluster_root_slot", "tower_root_slot")
        ],
        "none",
    ),
]


def board() -> dict[str, Any]:
    """The whole board; panels stand in rows, left to right."""
    x = y = 0
    for number, one in enumerate(PANELS):
        place = one["gridPos"]
        if x + place["w"] > WIDTH:
            x, y = 0, y + place["h"]
        place["x"], place["y"], one["id"] = x, y, number + 1
        x += place["w"]
    return {
        "title": "openos-validator",
        "uid": "openos-validator",
        "tags": ["solana", "etcd"],
        "schemaVersion": 39,
        "version": 1,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "templating": {"list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]},
        "annotations": {"list": [{
            "name": "Take-overs", "enable": True, "iconColor": "green", "datasource": SOURCE,
            "expr": "increase(tower_takeovers_total[15s]) > 0", "titleFormat": "{{instance}} took over", "textFormat": "{{why}}",
        }]},
        "panels": PANELS,
    }  # fmt: skip


if __name__ == "__main__":
    Path(__file__).with_name("tower.json").write_text(json.dumps(board(), indent=2) + "\n")
