"""What can happen to the leader duty. In the model it is a part of the life, so whatever stops the leader ends the process here.

A window of slots is one slot of the model, its last: that is the mark.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spec import model, values
from spec.values import Reply, State
from tests.stateful.duties import Duty
from tests.stateful.lives import STORE_TIMEOUT
from tests.stateful.pair import INSTANCES, Differs, Letter
from tests.stateful.servers import TIMEOUT
from tests.stateful.witness import Write
from tests.stateful.world import World
from tower.events import DeadlinePassed, FenceLost, Looked, LookFailed, Resign, StoreAnswered
from tower.leader import Reserve, decode_reservation
from tower.store import Claimed, Committed, Kind, Refused, Unknown

__all__ = ["LeadingWorld"]


class LeadingWorld(World):
    """The world, and the leaders in it."""

    def leaders(self, fit: Callable[[Duty], bool]) -> list[int]:
        """The machines whose leader is fit for something, of those that are not frozen."""
        return [n for n in self.machines(values.Voting, INSTANCES) if fit(self.lives[n].duty)]

    def _stopped(self, n: int, action: Callable[..., State | None], *arguments: Any) -> None:
        """The leader has stopped, and with it its process."""
        if not self.lives[n].duty.stopped:
            raise Differs(f"{action.__name__} found {self.lives[n].duty} {self.lives[n].duty.leader.state.name}")
        self.lives[n].dispatch(Resign("its leader has stopped"))
        self._end(n, action, *arguments)

    def read_mark(self, n: int) -> None:
        """The leader's look reaches the store and is answered: it finds its mark, or that the fence is lost."""
        duty = self.lives[n].duty
        duty.dispatch(Looked(self.server.look()))
        if self.s.node[n].fence != self.s.store.instance.revision:
            self._stopped(n, model.FenceLost)
        elif not duty.loaded:
            raise Differs(f"{duty} has read its mark: {duty.runner.stopped}")

    def fail_to_read_mark(self, n: int) -> None:
        """It is not answered. The model has no name for that; it is as if by order."""
        self.lives[n].duty.dispatch(LookFailed("no answer came in time"))
        self._stopped(n, model.Resign)

    def reserve(self, n: int, first: int, last: int) -> None:
        """A window is to be led: what is above the mark is asked for, and nothing if nothing is."""
        life, me = self.lives[n], self.s.node[n]
        duty = life.duty
        duty.dispatch(Reserve(first, last))
        asks = duty.loaded and me.reserving == 0 and last > me.mark
        self._equal(f"whether {duty} asks for {first} to {last}", bool(duty.written), asks)
        if not asks:
            return
        (write,) = duty.written
        self.step(model.Reserve, n, last)
        message = values.ReserveRequest(self.s, n)
        asked = decode_reservation(write.record)
        self._equal(
            f"the reservation of {duty}",
            (write.fence.revision, write.expected, asked.first, asked.last),
            (self._revisions[message.fence], self._revision(message.expected), max(first, me.mark + 1), message.slot),
        )
        duty.deadline = life.now + STORE_TIMEOUT
        self.letters[message] = Letter(write.fence.instance, self._reservation(n, write))

    def _reservation(self, n: int, write: Write) -> Callable[[], Committed | Refused]:
        adapter = self.server.adapter(n)

        def arrive() -> Committed | Refused:
            pending = adapter.begin_store(write.fence, write.expected, write.record, TIMEOUT, Kind.BLOCKS)
            outcome = pending.outcome(TIMEOUT)
            assert not isinstance(outcome, Unknown), outcome.cause
            return outcome

        return arrive

    def _hear_of_reservation(self, n: int, a: Reply) -> None:
        life, real = self.lives[n], self.replies[a]
        duty, slot = life.duty, self.s.node[n].reserving
        assert not isinstance(real, Claimed)
        duty.settle(real)
        if a.what.outcome == "refused":
            self._stopped(n, model.Refused, a)
            return
        if [reserved.last for reserved in duty.reserved] != [slot]:
            raise Differs(f"{duty} heard that slot {slot} is its own, and took {duty.reserved}")
        (reserved,) = duty.reserved
        self.witness.reserved(life.number, reserved.first, reserved.last)
        self.step(model.Produce, n, a)

    def hear_nothing_of_reservation(self, n: int) -> None:
        """No answer comes in time: the leader repeats its request, until its time is over."""
        life = self.lives[n]
        duty, record = life.duty, [m for m in self.letters if m == values.ReserveRequest(self.s, n)]
        duty.settle(None)
        if life.now >= duty.deadline:
            self._stopped(n, model.Resign)  # its time is not the vote's, and the model has a name for that one only
        elif not duty.written or not record:
            raise Differs(f"{duty} does not repeat its request")

    def pass_leaders_deadline(self, n: int) -> None:
        """The time that a reservation may take is over."""
        self.lives[n].now = max(self.lives[n].now, self.lives[n].duty.deadline)
        self.hear_nothing_of_reservation(n)

    def hear_leaders_watch(self, n: int) -> None:
        """The watch tells the leader, before it tells the voter."""
        duty = self.lives[n].duty
        duty.runner.tell(FenceLost(self.server.heard(self.lives[n].lost)))
        if any(duty.runner.may_produce(window.last) for window in duty.windows):
            raise Differs(f"{duty} was told that the fence is lost, and goes on")
        duty.dispatch(Reserve(1 << 40, 1 << 40))
        self._stopped(n, model.FenceLost)

    def settle(self, n: int) -> None:
        """For once all goes well, for the voter and then for its leader."""
        super().settle(n)
        if n in self.leaders(lambda duty: duty.loading):
            self.read_mark(n)
        if n in self.leaders(lambda duty: duty.runner.in_flight):
            request = values.ReserveRequest(self.s, n)
            if not any(a.to == request for a in self.answers()):
                self.arrive(request)
            self.hear(next(a for a in self.answers() if a.to == request))

    def haunt(self, n: int) -> None:
        super().haunt(n)
        duty, fence = self.ghosts[n].duty, self.ghosts[n].voter.fence
        slot = max((block.slot for block in self.s.produced), default=1)
        late = [StoreAnswered(Committed(fence, 1, b""))] if fence else []
        late += [StoreAnswered(Unknown("?")), Looked(self.server.look()), DeadlinePassed("?"), FenceLost(1 << 40)]
        for event in (*late, Reserve(slot, slot)):
            duty.dispatch(event)
            if not duty.stopped or duty.written or duty.windows or duty.runner.may_produce(slot):
                raise Differs(f"{duty} had ended, and did {duty.written} on {event}")
