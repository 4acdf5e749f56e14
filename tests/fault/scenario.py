"""What a scenario is, and the steps that several of them share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fault.traffic import Machine, Stage, Strike, wait
from tower.validator.config import Exit

__all__ = ["SCENARIOS", "Scenario", "passes", "recovered", "restarted", "scenario", "serving_at", "take_over"]

Play = Callable[[Stage], None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A stage and what happens on it. `in_ci`: one of the third that CI plays; `needs`: see `tests.fault.host.missing`."""

    name: str
    play: Play
    in_ci: bool = False
    needs: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, *, in_ci: bool = False, needs: str = "", **options: Any) -> Callable[[Play], Play]:
    """Enter a function as a scenario; `options` go to its `Stage`."""

    def enter(play: Play) -> Play:
        SCENARIOS[name] = Scenario(name, play, in_ci, needs, options)
        return play

    return enter


def passes(seconds: float) -> None:
    """Let a fault last."""
    end = time.monotonic() + seconds
    wait(lambda: time.monotonic() >= end, "time passes", seconds + 10)


def take_over(spare: Machine, patience: float = 40.0) -> None:
    """`set-identity` at the spare, again until it is done: while etcd elects a leader it may be refused."""
    wait(lambda: spare.take(timeout=20), lambda: f"{spare.name} takes over: {spare.log[-600:]}", patience)


def restarted(stage: Stage, strike: Strike, machine: Machine, status: Exit = Exit.STORE_FAILED) -> None:
    """The owner must have ended with `status`; start it again, and wait until it votes."""
    ended = machine.ended()
    assert ended == status, f"{machine.name} ended with {ended}: {machine.log[-1500:]}"
    strike.restarted = True
    machine.start().wait_running()
    stage.flows(3, machine)


def recovered(stage: Stage, strike: Strike, machine: Machine) -> None:
    """Wait until the owner votes again; where it ended because the store was away for too long, start it again."""
    since = time.time_ns() // 1_000_000
    wait(lambda: not machine.running or len(stage.votes(since)) >= 3, f"{machine.name} votes again or ends", 40)
    if machine.running:
        stage.flows(2, machine)
    else:
        restarted(stage, strike, machine)


def serving_at(stage: Stage, machine: Machine) -> int:
    """The number of the member that the machine stores at: the one whose link carries something now."""
    before = [link.carried for link in machine.links]

    def busiest() -> int | None:
        grown = [link.carried - old for link, old in zip(machine.links, before, strict=True)]
        return grown.index(max(grown)) + 1 if max(grown) > 8000 else None

    return int(wait(busiest, f"{machine.name} stores somewhere")) - 1
