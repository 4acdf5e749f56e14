"""The leader duty beside one life: the real leader and its runner, held back as the life is. See `lives`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.stateful.witness import Write
from tower.events import Adopted, Resign
from tower.leader import Declined, Leader, LeaderEvent, LeaderState, Reservation, Reserved
from tower.leader_runner import LeaderRunner
from tower.store import Committed, Fence, Kind, Outcome, Refused, Sighting, Unknown

if TYPE_CHECKING:
    from tests.stateful.lives import Life

__all__ = ["Away", "Duty"]


class Away(BaseException):
    """The call does not return for now."""


class Duty:
    """It begins when its life has adopted the identity, and ends with it at the latest."""

    def __init__(self, life: Life, store_timeout: float) -> None:
        self._life = life
        self.deadline = 0.0
        self.written: list[Write] = []  # what it did since it was last asked to do something
        self.reserved: list[Reserved] = []
        self.declined: list[Declined] = []
        self.answer: Outcome | None = None
        self.leader = Leader()
        self.runner = LeaderRunner(
            self.leader, self, store_timeout=store_timeout, on_reserved=self.reserved.append,
            on_declined=self.declined.append, clock=lambda: life.now, pause=life.pause,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"the leader of {self._life}"

    @property
    def windows(self) -> tuple[Reservation, ...]:
        return self.leader.reserved

    @property
    def loading(self) -> bool:
        return self.leader.state is LeaderState.LOADING

    @property
    def loaded(self) -> bool:
        return self.leader.state not in (LeaderState.STANDBY, LeaderState.LOADING, LeaderState.STOPPED)

    @property
    def stopped(self) -> bool:
        return self.leader.state is LeaderState.STOPPED

    def adopt(self, adopted: Adopted) -> None:
        """Its look is on its way, and not answered yet."""
        self.dispatch(adopted)

    def dispatch(self, event: LeaderEvent) -> None:
        self._forget()
        try:
            self.runner.dispatch(event)
        except Away:
            pass

    def settle(self, answer: Outcome | None) -> None:
        self._forget()
        self.answer = answer
        self.runner.settle()

    def _forget(self) -> None:
        for done in (self.written, self.reserved, self.declined):
            done.clear()

    def close(self) -> None:
        self.runner.tell(Resign("the life ends"))
        self.dispatch(Resign("the life ends"))
        self._life.witness.settled(self._name)

    @property
    def _name(self) -> str:
        return f"{self._life.number} leading"

    # ---- the store, as the leader's runner sees it

    def look(self, identity: str, timeout: float) -> Sighting:
        raise Away

    def begin_store(self, fence: Fence, expected_revision: int, record: bytes, timeout: float, kind: Kind) -> Duty:
        assert kind is Kind.BLOCKS
        write = Write(fence, expected_revision, record)
        self._life.witness.begun(self._name, write)
        self.written.append(write)
        return self

    def outcome(self, timeout: float) -> Outcome:
        answer, self.answer = self.answer, None
        if isinstance(answer, (Committed, Refused)):
            self._life.witness.settled(self._name)
        return answer or Unknown("no answer came in time")
