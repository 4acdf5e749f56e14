"""One life on one machine: the real voter and runner, on a store between which and the real one every call can be held back.

A look and a claim are calls that block. Here they leave the runner by `Away`, a `BaseException` that nothing in it handles, and
what they came to is given to it later as the event that it would have made of it. So anything may happen in between, in one
thread. A write has two halves in the store's protocol already: `begin_store` notes the request, and `outcome` says whatever
the world has let come back by then, or that nothing did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.stateful.duties import Away, Duty
from tests.stateful.witness import Witness, Write
from tests.support.chain import VOTE_ACCOUNT
from tower.events import Adopted, Event
from tower.forkchoice import ForkChoice
from tower.keys import Keypair
from tower.runner import CommittedVote, Runner
from tower.store import (
    ABSENT,
    Claimed,
    Committed,
    Fence,
    Kind,
    Outcome,
    Owner,
    Refused,
    Sighting,
    Store,
    Unknown,
    Watch,
)
from tower.voter import Voter, VoterConfig

__all__ = ["POINTS", "STORE_TIMEOUT", "Life", "Seen"]

STORE_TIMEOUT = 5.0
POINTS = ("before claim", "after claim", "before write", "after write", "before send", "after send")


class Died(BaseException):
    """The process was killed in the middle of what it did."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Something that a life did: "look", "claim", "write" or "send"."""

    what: str
    sighting: Sighting | None = None  # what a claim was made of
    owner: Owner | None = None
    write: Write | None = None
    vote: CommittedVote | None = None


class Life:
    """The process of one machine from its start to its end. A spare is one that was not told to take over yet."""

    def __init__(
        self,
        number: int,
        machine: int,
        legacy: bool,
        forks: ForkChoice,
        identity: Keypair,
        store: Store,
        witness: Witness,
        make_voter: Callable[[VoterConfig, ForkChoice], Voter],
        make_runner: Callable[..., Runner],
    ) -> None:
        self.number, self.machine, self.legacy = number, machine, legacy
        self.now = 0.0  # its clock, in seconds
        self.deadline = 0.0  # of its newest write
        self.dies_at: str | None = None
        self.died = False
        self.seen: list[Seen] = []  # what it did since it was last asked to do something
        self.answer: Outcome | None = None  # what the write in flight is told next
        self.lost: list[int] = []  # what its watch has said
        self.sighting: Sighting | None = None  # what its look has read, and was not told yet
        self.witness = witness
        self._store = store
        self._adopted: Adopted | None = None
        self.duty = Duty(self, STORE_TIMEOUT)
        config = VoterConfig(identity.pubkey, VOTE_ACCOUNT, frozenset({identity.pubkey}), rebuild_wait_slots=5)
        self.voter = make_voter(config, forks)
        self.runner = make_runner(
            self.voter, self, identity, [identity], self._send, who=str(machine), store_timeout=STORE_TIMEOUT,
            on_adopted=self._adopts, on_fence_lost=None if legacy else self.lost.append,
            clock=lambda: self.now, pause=self.pause, wall_ms=lambda: 0,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"{'legacy machine' if self.legacy else 'machine'} {self.machine}"

    def dispatch(self, event: Event) -> None:
        """Let the runner take the event in, as far as it gets."""
        self._run(lambda: self.runner.dispatch(event))

    def settle(self, answer: Outcome | None) -> None:
        """Let the runner ask what became of its write; `None`: nothing was heard."""
        self.answer = answer
        self._run(self.runner.settle)

    def _run(self, act: Callable[[], None]) -> None:
        self.seen = []
        try:
            act()
        except Away:
            pass
        except Died:
            self.died = True
        adopted, self._adopted = self._adopted, None
        if adopted is not None and not self.legacy and not self.died:
            self.duty.adopt(adopted)

    def _adopts(self, adopted: Adopted) -> None:
        self._adopted = adopted

    def close(self) -> None:
        """The process ends; so does its watch."""
        self.runner.close()
        self.witness.settled(str(self.number))
        self.duty.close()

    def pause(self, seconds: float) -> None:
        self.now += seconds

    def _reach(self, point: str) -> None:
        if self.dies_at == point:
            raise Died

    def _send(self, vote: CommittedVote) -> None:
        self._reach("before send")
        self.witness.left(repr(self), vote.transaction)
        self.seen.append(Seen("send", vote=vote))
        self._reach("after send")

    # ---- the store, as the runner sees it

    def look(self, identity: str, timeout: float) -> Sighting:
        if self.legacy:
            return Sighting(identity, ABSENT, None, ABSENT, None)  # an older validator does not look
        self.sighting = self._store.look(identity, timeout)
        self.seen.append(Seen("look"))
        raise Away

    def claim(self, sighting: Sighting, owner: Owner, timeout: float) -> Claimed | Refused | Unknown:
        self._reach("before claim")
        self.seen.append(Seen("claim", sighting, owner))
        self._reach("after claim")
        raise Away

    def begin_store(
        self, fence: Fence, expected_revision: int, record: bytes, timeout: float, kind: Kind = Kind.TOWER
    ) -> Life:
        self._reach("before write")
        write = Write(fence, expected_revision, record)
        self.witness.begun(str(self.number), write)
        self.seen.append(Seen("write", write=write))
        self._reach("after write")
        return self

    def expect_store(self) -> None:
        """Nothing could be prepared."""

    def outcome(self, timeout: float) -> Outcome:
        answer, self.answer = self.answer, None
        if isinstance(answer, (Committed, Refused)):
            self.witness.settled(str(self.number))
        return answer or Unknown("no answer came in time")

    def watch(self, fence: Fence, on_lost: Callable[[int], None]) -> Watch:
        return self._store.watch(fence, on_lost)

    def history(self, identity: str, timeout: float) -> list[Owner]:
        return self._store.history(identity, timeout)
