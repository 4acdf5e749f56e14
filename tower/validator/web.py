"""The metrics port: numbers for Prometheus, status codes for load balancers and monitors, a page for people. Read-only.

=============  ====================================================================================================
path           answer
=============  ====================================================================================================
/metrics       Prometheus's text format
/live          200: the process answers
/ready         200 once start-up is over and this node is caught up; 503 before
/primary       200 while this process holds the fence and votes, as far as it knows; 503 otherwise
/standby       200 while this process is up and does not vote; 503 otherwise
/              a page for people, which asks for itself again every two seconds
=============  ====================================================================================================

The status code is the whole answer; the body says the same as JSON. `/primary` is what this process believes: for the truth
ask the store (`openos-validator status`). Off unless `--metrics-address` is given. There is no secret in any answer, and no
authentication: bind it where only your monitoring can reach it.
"""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from tower.errors import InvalidInput
from tower.validator.metrics import CONTENT_TYPE, Metrics, role_of
from tower.validator.web_bounds import listen_bounded

__all__ = ["HEALTH_PATHS", "StatusServer", "health", "page"]

HEALTH_PATHS = ("/live", "/ready", "/primary", "/standby")
REFRESH_S = 2
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}
REQUEST_BYTES_MAX = 1024
CONNECTIONS_MAX = 64
CLOSE_S = 0.5

ROWS = (
    ("Identity", "identity"),
    ("Vote account", "voteAccount"),
    ("Tower storage", "towerStorage"),
    ("Start progress", "progress"),
    ("Voter", "state"),
    ("Fence (revision)", "fence"),
    ("Last vote stored", "lastVotedSlot"),
    ("Root", "rootSlot"),
    ("Cluster's newest slot", "processedSlot"),
    ("Cluster's root", "clusterRootSlot"),
    ("Votes sent", "sentVotes"),
    ("Last store, ms", "storeMilliseconds"),
    ("Why no vote now", "refusals"),
)


def health(path: str, status: Mapping[str, Any]) -> bool:
    """Whether `path` is answered with 200.

    >>> [health(path, {"progress": "Running", "voting": True}) for path in HEALTH_PATHS]
    [True, True, True, False]
    """
    role = role_of(status)
    return {"/live": True, "/ready": role != "starting", "/primary": role == "primary", "/standby": role == "standby"}[path]


def page(status: Mapping[str, Any]) -> str:
    """The page for people."""
    role = role_of(status)
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{_shown(status.get(key))}</td></tr>" for name, key in ROWS)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="{REFRESH_S}">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{role} - openos-validator</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 46rem; padding: 0 1rem; color: #1a1a1a; }}
h1 {{ font-size: 1.3rem; }}
.role {{ color: #fff; padding: .1rem .6rem; border-radius: .3rem; background: #6b7280; }}
.primary {{ background: #15803d; }} .standby {{ background: #1d4ed8; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .35rem .5rem; border-bottom: 1px solid #e5e7eb; vertical-align: top; }}
th {{ font-weight: 600; width: 14rem; }} td {{ font-family: ui-monospace, monospace; overflow-wrap: anywhere; }}
</style></head><body>
<h1>openos-validator <span class="role {role}">{role}</span></h1>
<table>{rows}</table>
<p>What this process believes. Who holds the fence is known by the store: <code>openos-validator status</code>.</p>
</body></html>
"""


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        value = ", ".join(str(one) for one in value)
    return "-" if value is None or value == "" else html.escape(str(value))


class StatusServer:
    """Serves the table above at `host:port`. `status` is the snapshot of the process."""

    def __init__(self, host: str, port: int, status: Callable[[], Mapping[str, Any]], metrics: Metrics) -> None:
        self._host, self._port = host, port
        self._status, self._metrics = status, metrics
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen. Raises `InvalidInput` if the address cannot be had."""
        app = web.Application(client_max_size=REQUEST_BYTES_MAX)
        app.router.add_get("/metrics", self._metrics_text)
        app.router.add_get("/", self._page)
        for path in HEALTH_PATHS:
            app.router.add_get(path, self._health)  # and HEAD, which aiohttp adds
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_S)
        await self._runner.setup()
        try:
            self._server = await listen_bounded(self._runner, (self._host, self._port), CONNECTIONS_MAX)
        except OSError as problem:
            await self.close()
            reason = problem.strerror or problem
            raise InvalidInput(f"--metrics-address: cannot listen at {self._host}:{self._port}: {reason}") from None
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _metrics_text(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={**HEADERS, "Content-Type": CONTENT_TYPE})

    async def _page(self, _: web.Request) -> web.Response:
        return web.Response(text=page(self._status()), content_type="text/html", headers=HEADERS)

    async def _health(self, request: web.Request) -> web.Response:
        status = self._status()
        good = health(request.path, status)
        body = json.dumps({"role": role_of(status), "progress": status.get("progress"), "identity": status.get("identity")})
        return web.Response(text=body + "\n", content_type="application/json", headers=HEADERS, status=200 if good else 503)
