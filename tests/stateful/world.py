"""What can happen in the world. Each method lets the real side act and has the model take the steps that this amounts to.

To be frozen is to be left out: nothing is done to a frozen machine, while everything else goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from spec import model, values
from spec.values import Message, Reply, State, Voting
from tests.stateful.chain import MINOR, UNIX_S
from tests.stateful.lives import Life
from tests.stateful.pair import INSTANCES, LEGACY, Differs, Pair, bytes_of, stack
from tower.events import (
    BankFrozen,
    DeadlinePassed,
    FenceLost,
    Looked,
    LookFailed,
    Resign,
    StoreAnswered,
    TakeOver,
)
from tower.store import ABSENT, Claimed, Committed, Fence, Outcome, Refusal, Refused, Unknown
from tower.types import FrozenBank
from tower.voter import VoterState

__all__ = ["World"]

STEPS_TO_SETTLE = 12  # look, claim, its arrival and answer, the same for a write, and some that are in the way
REFRESH_BLOCKS = 16  # blocks after which a vote that did not land is sent again
ARRIVES = {"claim": model.ClaimArrives, "store": model.StoreArrives, "reserve": model.ReserveArrives}
KINDS = {Claimed: "claimed", Committed: "committed", Refused: "refused"}


class World(Pair):
    """The pair, and everything that can be done to it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.frozen: set[int] = set()

    # ---- what there is to choose from

    def machines(self, states: Iterable[str], of: tuple[int, ...] = (*INSTANCES, *LEGACY)) -> list[int]:
        """The machines in one of these states, of those that are not frozen."""
        return [n for n in of if n not in self.frozen and self.s.node[n].state in states]

    def under_way(self) -> list[Message]:
        """What may still arrive, oldest first."""
        return [m for m in self.letters if m in self.s.sent]

    def answers(self) -> list[Reply]:
        """The answers that somebody who is awake waits for, oldest first."""
        return [a for a in self.replies if a in self.s.answers and a.to.node not in self.frozen]

    def untold(self, n: int) -> list[FrozenBank]:
        """Banks that this machine was not told of yet, and whose parent it knows."""
        known = self.known[n]
        return [bank for slot, bank in self.chain.banks.items() if slot not in known and bank.parent_slot in known]

    def landable(self) -> list[tuple[int, ...]]:
        """Towers whose newest vote was released and that everybody who votes has in theirs, shortest first.

        A life that does not know yet that it was replaced would adopt later ones from the chain. The model has no chain.
        """
        voting = [me.tower for me in self.s.node if me.state in Voting]
        return [tower for tower in sorted(self.s.released, key=len) if all(values.IsPrefix(tower, each) for each in voting)]

    # ---- the chain

    def grow(self, parent: int, gap: int, peers: tuple[bytes, ...] = (), landed: tuple[int, ...] = ()) -> FrozenBank:
        """A bank is frozen. Nobody was told yet."""
        bank = self.chain.grow(parent, gap, peers, landed)
        self.witness.judge.add_bank(bank.slot, parent)
        return bank

    def tell(self, n: int, bank: FrozenBank) -> None:
        """A machine is told of a bank: one that is ready may decide a vote on it."""
        self.known[n].add(bank.slot)
        self.lives[n].dispatch(BankFrozen(bank, UNIX_S + self.chain.newest))
        self._follow(n)

    def lose_weight(self, n: int) -> None:
        """The fork of a machine's last vote grows and is not followed; the other one is heavier, but no proof to switch.

        So there is nothing new to vote for, and the last vote, if it has not landed, is sent again.
        """
        last = values.Last(self.s.node[n].tower)
        parent = self.chain.banks[last].parent_slot
        if parent is None or last not in self.lives[n].voter.forks:
            return
        other = self.grow(parent, 1)
        banks = [other, self.grow(other.slot, 1, (MINOR,))]
        tip = self.lives[n].voter.forks.best_below(last)
        assert tip is not None
        for _ in range(REFRESH_BLOCKS):
            tip = self.grow(tip.slot, 1)
            banks.append(tip)
        for bank in banks:
            if bank.parent_slot in self.known[n]:
                self.tell(n, bank)

    # ---- a request, and its answer

    def arrive(self, m: Message) -> None:
        """A copy of a request reaches the store. Its answer waits for whoever still wants it."""
        letter, was = self.letters[m], self.s
        before = self.server.look()
        outcome = letter.arrive()
        after = self.server.look()
        self.witness.stored(letter.instance, before, after)
        self.step(ARRIVES[m.type], m)
        if self.s.store.revision != was.store.revision:
            real = {"claim": after.instance_revision, "store": after.record_revision, "reserve": after.blocks_revision}[m.type]
            if real <= self._revisions[was.store.revision]:
                raise Differs(f"the model's store has changed by {m}, the real one has not: {outcome}")
            self._revisions[self.s.store.revision] = real
        if not values.Awaited(was, m):
            return
        fitting = [a for a in self.s.answers if a.to == m and a.what.outcome == KINDS[type(outcome)]]
        fresh = [a for a in fitting if a not in was.answers] or fitting
        if not fresh:
            raise Differs(f"to {m} the store answers {outcome}, the model {[a.what for a in self.s.answers if a.to == m]}")
        self._same_answer(fresh[0], outcome)
        self.replies[fresh[0]] = outcome

    def _same_answer(self, a: Reply, outcome: Outcome | Claimed) -> None:
        what = a.what
        if isinstance(outcome, Committed):
            self._equal("a commit", outcome.record_revision, self._revision(what.revision))
        elif isinstance(outcome, Claimed) and a.to.node in INSTANCES:
            fence = outcome.fence
            self._equal(
                "a claim", (fence.revision, fence.instance, outcome.record_revision, self._tower(outcome.record)),
                (self._revisions[what.fence], bytes_of(a.to.value), self._revision(what.revision), stack(what.tower)),
            )  # fmt: skip

    def hear(self, a: Reply) -> None:
        """An answer reaches the life that waits for it."""
        n, real = a.to.node, self.replies[a]
        life = self.lives[n]
        if a.to.type == "reserve":
            self._hear_of_reservation(n, a)
        elif a.to.type == "store":
            assert not isinstance(real, Claimed)
            life.settle(real)
            if a.what.outcome == "refused":
                self._end(n, model.Refused, a)
            else:
                self._committed(n, a)
        elif n in LEGACY:
            self.step(model.Claimed, n, a)  # what came of the put is still to be read
        else:
            life.dispatch(StoreAnswered(real))
            if a.what.outcome == "refused":
                self._looks_again(n, model.Refused, a)
            else:
                self.step(model.Claimed, n, a)
                self._follow(n)

    def _hear_of_reservation(self, n: int, a: Reply) -> None:
        raise NotImplementedError

    def _committed(self, n: int, a: Reply) -> None:
        """The vote leaves, now or never: to die on the way is to die before the answer."""
        life = self.lives[n]
        if life.seen and life.seen[0].vote is not None:
            self._equal(f"the vote of {life}", life.seen[0].vote.slot, values.Last(self.s.node[n].pending))
            del life.seen[0]
            self.step(model.Committed, n, a)
        elif not life.died:
            raise Differs(f"{life} heard of its commit and released nothing: {life.runner.halted}")
        self._follow(n)

    def _looks_again(self, n: int, action: Callable[..., State | None], *arguments: Any) -> None:
        """A claim came to nothing: the same process looks again, which is a new life in the model; at last it gives up."""
        if not self.lives[n].seen:
            self._end(n, action, *arguments)
            return
        self.step(action, n, *arguments)
        self._follow(n)

    def hear_nothing(self, n: int) -> None:
        """No answer comes in time; whatever is under way stays under way."""
        life, me = self.lives[n], self.s.node[n]
        if n in LEGACY:
            if me.state == "claiming":
                self.crash(n)
            else:
                life.dispatch(DeadlinePassed("it sends each request once"))
                self._end(n, model.DeadlinePassed)
        elif me.state == "claiming":
            life.dispatch(StoreAnswered(Unknown("no answer came in time")))
            self._looks_again(n, model.DeadlinePassed)
        else:
            life.settle(None)
            if life.now >= life.deadline:
                self._end(n, model.DeadlinePassed)
                return
            if me.state == "persisting":
                self.step(model.Unknown, n)
            repeated = bool(life.seen) or life.died
            self._follow(n)
            if not repeated:
                raise Differs(f"{life} does not repeat its write: {life.runner.halted}")

    def pass_deadline(self, n: int) -> None:
        """The time that a vote may wait is over."""
        self.lives[n].now = max(self.lives[n].now, self.lives[n].deadline)
        self.hear_nothing(n)

    # ---- a life

    def take_over(self, n: int) -> None:
        """By order, or at a start: look. An older validator claims at once."""
        self.lives[n].dispatch(TakeOver())
        self._follow(n)

    def hear_look(self, n: int) -> None:
        """What was looked at reaches the life, which claims."""
        life = self.lives[n]
        assert life.sighting is not None
        life.dispatch(Looked(life.sighting))
        self._follow(n)

    def hear_no_look(self, n: int) -> None:
        """The look is not answered: the life ends. The model has no name for that; it is as if by order."""
        self.lives[n].dispatch(LookFailed("no answer came in time"))
        self._end(n, model.Resign)

    def load(self, n: int) -> None:
        """An older validator reads what came of its claim; if its bytes are no longer there, that is its end."""
        now = self.server.look()
        if now.instance != bytes_of(self.s.node[n].value):
            assert model.Load(self.c, self.s, n) is None
            self.crash(n)
            return
        fence = Fence(now.identity, now.instance_revision, now.instance or b"")
        self.lives[n].dispatch(StoreAnswered(Claimed(fence, now.record_revision, now.record)))
        self.step(model.Load, n)
        self._follow(n)

    def crash(self, n: int) -> None:
        """The process is killed."""
        self._end(n, model.Crash)

    def resign(self, n: int) -> None:
        """The life is told to end."""
        self.lives[n].dispatch(Resign("told to"))
        self._end(n, model.Resign)

    def doom(self, n: int, point: str) -> None:
        """The process will be killed when it gets there."""
        self.lives[n].dies_at = point

    def freeze(self, n: int) -> None:
        self.frozen.add(n)

    def thaw(self, n: int, seconds: float) -> None:
        """It goes on as if nothing had been; its clock has gone on, too."""
        self.frozen.discard(n)
        self.lives[n].now += seconds

    # ---- the watch

    def fence_lost(self) -> list[int]:
        """The machines whose fence is lost, whether they know it or not."""
        voting = self.machines(Voting, INSTANCES)
        return [n for n in voting if self.s.node[n].fence != self.s.store.instance.revision]

    def hear_watch(self, n: int) -> None:
        """The watch tells, now or long after."""
        seen = self.server.heard(self.lives[n].lost)
        self.lives[n].dispatch(FenceLost(seen))
        self._end(n, model.FenceLost)

    def hear_echo(self, n: int) -> None:
        """The watch tells of a claim that was before ours, or of our own: nothing happens."""
        fence = self.lives[n].voter.fence
        assert fence is not None
        for seen in (fence.revision - 1, fence.revision):
            self.lives[n].dispatch(FenceLost(seen))
            self._follow(n)

    # ---- those who have ended

    def haunt(self, n: int) -> None:
        """Whatever was under way reaches a life that was told to end: nothing comes of it."""
        ghost: Life = self.ghosts[n]
        fence = ghost.voter.fence or Fence(ghost.runner._identity.address, 1, bytes(8))
        for event in (
            StoreAnswered(Committed(fence, 1, b"")), StoreAnswered(Claimed(fence, ABSENT, None)),
            StoreAnswered(Refused(Refusal.FENCED, 1, 2)), StoreAnswered(Unknown("?")),
            BankFrozen(self.chain.banks[self.chain.newest], UNIX_S), FenceLost(1 << 40), DeadlinePassed("?"), LookFailed("?"),
        ):  # fmt: skip
            ghost.dispatch(event)
            if ghost.seen or ghost.voter.state is not VoterState.STOPPED:
                raise Differs(f"{ghost} had ended, and did {ghost.seen} on {event}")

    # ---- the usual way

    def settle(self, n: int) -> None:
        """Let all go well for one machine, until it waits for nothing any more."""
        for _ in range(STEPS_TO_SETTLE):
            me = self.s.node[n]
            heard = [a for a in self.answers() if a.to.node == n]
            if heard:
                self.hear(heard[0])
            elif me.state == "looking":
                self.hear_look(n)
            elif me.state == "loading":
                self.load(n)
            elif me.state in {"claiming", "persisting", "unresolved"}:
                request = values.ClaimRequest if me.state == "claiming" else values.StoreRequest
                if request(self.s, n) not in self.s.sent:
                    return  # an older validator's, that has arrived: it hears no answer, or has heard it
                self.arrive(request(self.s, n))
            else:
                return
            self.compare()
