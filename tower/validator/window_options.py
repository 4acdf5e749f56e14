"""The flags that say what a good moment for a restart or a failover is: the same for every command that waits for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["window_options"]

F = TypeVar("F", bound=Callable[..., Any])


def window_options(command: F) -> F:
    """Give a command `--min-idle-time`, `--max-delinquent-stake` and `--skip-new-snapshot-check`."""
    options = (
        click.option(
            "--min-idle-time",
            type=click.FloatRange(min=0),
            default=10,
            show_default=True,
            metavar="MINUTES",
            help="Wanted time without leader slots.",
        ),
        click.option(
            "--max-delinquent-stake",
            type=click.IntRange(1, 100),
            default=5,
            show_default=True,
            metavar="PERCENT",
            help="Delinquent stake at or above which now is no good moment.",
        ),
        click.option("--skip-new-snapshot-check", is_flag=True, help="Do not wait for a new snapshot, nor for delinquency."),
    )
    for option in reversed(options):
        command = option(command)
    return command
