"""Everything around the voting that is told what happens, and that may ask: metrics, the status port, systemd, hooks.

None of it can hold a vote up or stop one. The one exception is meant: `--hook-before` may refuse a take-over before
anything is claimed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tower.validator.config import ValidatorConfig
from tower.validator.hooks import Hooks, RoleChange
from tower.validator.metrics import Metrics, role_of
from tower.validator.notify import Notifier
from tower.validator.web import StatusServer

__all__ = ["Surroundings"]

STATUS_EVERY_S = 1.0
PINGS_A_WATCHDOG = 3  # signs of life in systemd's time


class Surroundings:
    """`status` is the process's snapshot, start progress included. Everything but `metrics` belongs to the event loop."""

    def __init__(self, config: ValidatorConfig, status: Callable[[], Mapping[str, Any]], version: str) -> None:
        running = config.running
        self._status = status
        self.metrics = Metrics(status, config.etcd, version)
        self.hooks = Hooks(running.hook_before, running.hook_after, running.hook_timeout_s, self.metrics.hook)
        self._notifier = Notifier()
        self._server: StatusServer | None = None
        if running.metrics_address is not None:
            self._server = StatusServer(*running.metrics_address, status, self.metrics)

    async def start(self) -> None:
        """Open the status port. Raises `InvalidInput` if it cannot be had."""
        if self._server is not None:
            await self._server.start()

    async def run(self, answers: Callable[[], Awaitable[object]]) -> None:
        """Tell systemd that start-up is over, and then that we live, for as long as `answers` returns. Until cancelled."""
        self._notifier.ready(self._line())
        watchdog = self._notifier.watchdog_s
        pause = min(STATUS_EVERY_S, watchdog / PINGS_A_WATCHDOG if watchdog is not None else STATUS_EVERY_S)
        while True:
            if watchdog is not None:
                # A vote thread that does not answer is not alive, whatever this loop does: systemd's time runs out then.
                await answers()
                self._notifier.alive()
            self._notifier.status(self._line())
            await asyncio.sleep(pause)

    def stopping(self, why: str) -> None:
        """The process begins to end."""
        self._notifier.stopping(why)

    async def close(self, change: RoleChange | None) -> None:
        """`change` is what the end of the process means to the identity that voted, if one did."""
        if change is not None:
            self.hooks.leave(change)
        if self._server is not None:
            with contextlib.suppress(OSError):
                await self._server.close()
        self._notifier.close()

    def _line(self) -> str:
        status = self._status()
        role, slot = role_of(status), status.get("lastVotedSlot")
        return f"{role} {status.get('identity')}" + (f", last vote {slot}" if slot is not None else "")
