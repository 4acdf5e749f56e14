"""The flags of `run` that say how a machine is watched and told: the metrics port and the hooks, and their checks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tower.errors import InvalidInput
from tower.validator.config import RunningConfig
from tower.validator.hooks import parse_hook

if TYPE_CHECKING:
    from tower.validator.preflight import RunOptions

__all__ = ["check_running", "running_options"]

HOOK_TIMEOUT_S_MAX = 60.0
DEFAULTS = RunningConfig()

F = TypeVar("F", bound=Callable[..., Any])


def running_options(command: F) -> F:
    """Give `run` its flags for metrics and hooks."""
    options = (
        click.option(
            "--metrics-address",
            metavar="HOST:PORT",
            help="Metrics, health and a status page are served here. Default: nowhere.",
        ),
        click.option(
            "--hook-before", metavar="COMMAND", help="Runs before an identity is taken over, and may refuse it."
        ),
        click.option("--hook-after", metavar="COMMAND", help="Runs after a change of role."),
        click.option(
            "--hook-timeout",
            type=float,
            metavar="SECONDS",
            help=f"How long a hook may take.  [default: {DEFAULTS.hook_timeout_s:g}]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def check_running(options: RunOptions) -> RunningConfig:
    """The flags, checked. Raises `InvalidInput` that names the flag and the fix."""
    from tower.validator.preflight import parse_endpoint

    address, timeout = options.metrics_address, options.hook_timeout
    before, after = parse_hook(options.hook_before, "--hook-before"), parse_hook(options.hook_after, "--hook-after")
    if timeout is not None and not (before or after):
        raise InvalidInput("--hook-timeout: has no effect without --hook-before or --hook-after")
    if timeout is not None and not (math.isfinite(timeout) and 0 < timeout <= HOOK_TIMEOUT_S_MAX):
        raise InvalidInput(f"--hook-timeout: give seconds above 0 and up to {HOOK_TIMEOUT_S_MAX:g}")
    return RunningConfig(
        metrics_address=None if address is None else parse_endpoint(address, "--metrics-address", example="127.0.0.1:9465"),
        hook_before=before,
        hook_after=after,
        hook_timeout_s=DEFAULTS.hook_timeout_s if timeout is None else timeout,
    )
