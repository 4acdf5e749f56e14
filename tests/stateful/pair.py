"""The model and the real thing, side by side: what the real lives do is turned into steps of the model, and both are compared.

A step that the model does not allow is a difference, and so is anything visible that is not equal afterwards. The promises are
asked of the model by its own functions at each step, and of the real side by the witness. Revisions are translated, for a
store that others use as well skips some; towers are translated by `stack`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spec import model, values
from spec.values import Constants, Init, Message, Node, Reply, State, Voting
from tests.stateful.chain import FIRST_SLOT, Chain, stack
from tests.stateful.lives import STORE_TIMEOUT, Life, Seen
from tests.stateful.servers import TIMEOUT, ServerSide
from tests.stateful.witness import Broken, Witness
from tower.keys import Keypair
from tower.leader import RESERVATIONS_HELD_MAX, decode_reservation
from tower.runner import Runner
from tower.store import ABSENT, Claimed, Committed, Fence, Outcome, Refused, Unknown
from tower.voter import Voter, VoterState
from tower.wire import decode_saved_tower

__all__ = ["INSTANCES", "LEGACY", "Differs", "Letter", "Pair"]

INSTANCES, LEGACY = (0, 1, 2), (3,)
CLAIMS_MAX = 1000  # of one example: more than it can have steps
SHOWS_AS = {  # what the voter's state is in the model's states; an older validator's load is part of its claim
    "standby": VoterState.STANDBY,
    "looking": VoterState.LOOKING,
    "claiming": VoterState.CLAIMING,
    "loading": VoterState.CLAIMING,
    "ready": VoterState.READY,
    "persisting": VoterState.PERSISTING,
    "unresolved": VoterState.UNRESOLVED,
}


class Differs(AssertionError):
    """The real side and the model do not agree."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A request that was sent: whoever holds it can let it arrive, now, later, or again. `instance` is its sender's."""

    instance: bytes
    arrive: Callable[[], Claimed | Committed | Refused]


def bytes_of(value: int) -> bytes | None:
    """The instance's bytes for a value of the model; the model's 0 is a key that is not there."""
    return value.to_bytes(8, "big") if value else None


class Pair:
    """Machines, one store, a chain with forks; all of it twice."""

    def __init__(
        self, server: ServerSide, identity: Keypair, make_voter: Any = Voter, make_runner: Any = Runner, **guards: Any
    ) -> None:
        lives, instances, legacy = (frozenset(numbers) for numbers in (range(1, CLAIMS_MAX), INSTANCES, LEGACY))
        self.c = Constants(Lives=lives, Instances=instances, Legacy=legacy, **guards)
        self.s: State = Init(self.c)
        self.counts: Counter[str] = Counter()  # how often each action happened
        self.witness = Witness(identity)
        self.chain = Chain(identity.pubkey)
        self.witness.judge.add_bank(FIRST_SLOT, 0)
        self.known: dict[int, set[int]] = {}  # the banks that each machine was told of
        self.letters: dict[Message, Letter] = {}
        self.replies: dict[Reply, Outcome | Claimed] = {}
        self.lives: dict[int, Life] = {}
        self.ghosts: dict[int, Life] = {}  # the life before the present one, if it was told to end
        self.server = server
        self._identity = identity
        self._make = make_voter, make_runner
        self._revisions = {0: ABSENT}  # of the model's store, and what they are in the real one
        self._born = 0
        for n in (*INSTANCES, *LEGACY):
            self._begin(n, None)

    # ---- the model follows

    def step(self, action: Callable[..., State | None], *arguments: Any) -> None:
        """The model takes a step, if it may."""
        after = action(self.c, self.s, *arguments)
        named = f"{action.__name__}({', '.join(map(str, arguments))})"
        if after is None:
            raise Differs(f"what happened amounts to {named}, which the model does not allow")
        for holds in model.OF_EVERY_STEP:
            if not holds(self.s, after):
                raise Broken(f"{holds.__name__}: the model does not keep it at {named}")
        for promise in model.OF_EVERY_STATE:
            if not promise(after):
                raise Broken(f"{promise.__name__}: the model does not keep it after {named}")
        self.counts[action.__name__] += 1
        self.s = after

    def _begin(self, n: int, before: Life | None) -> None:
        """A new process on the machine. One that ended by itself hands its tree on; after a crash all is read again."""
        if before is None:
            self.known[n] = set(self.chain.banks)
        forks = self.chain.tree() if before is None else before.voter.forks
        self._born += 1
        store = self.server.adapter(n)
        self.lives[n] = Life(self._born, n, n in LEGACY, forks, self._identity, store, self.witness, *self._make)

    def _end(self, n: int, action: Callable[..., State | None], *arguments: Any) -> None:
        """The life on a machine ends by this action."""
        life = self.lives[n]
        stopped = life.voter.state is VoterState.STOPPED
        if stopped == (action is model.Crash):
            raise Differs(f"{action.__name__} found {life} {life.voter.state.name}: {life.runner.halted}")
        self.step(action, n, *arguments)
        life.close()
        self.ghosts.pop(n, None)
        if stopped:
            self.ghosts[n] = life
        self._begin(n, life if stopped else None)

    def _follow(self, n: int) -> None:
        """Take the model's steps for what the life on a machine has just done."""
        life = self.lives[n]
        for seen in life.seen:
            match seen.what:
                case "look":
                    self.step(model.Look, n)
                case "claim":
                    self._claim_sent(n, seen)
                case "write":
                    self._write_sent(n, seen)
                case "send" if self._may_send(n):
                    pass
                case other:
                    raise Differs(f"{life} did what nobody expects here: {other}")
        if life.died:
            self._end(n, model.Crash)

    def _may_send(self, n: int) -> bool:
        """A vote leaves past `Committed` only in a model that lets it."""
        held = self.c.HoldUnknown and self.c.CommitBeforeRelease
        return not held and self.s.node[n].pending in self.s.released

    def _claim_sent(self, n: int, seen: Seen) -> None:
        self.step(model.Claim, n)
        message = values.ClaimRequest(self.s, n)
        instance, sighting, owner = bytes_of(message.value), seen.sighting, seen.owner
        assert instance is not None
        assert sighting is not None
        assert owner is not None

        def arrive() -> Claimed | Refused:
            return self.server.claim(n, instance, sighting, owner)

        def arrive_from_legacy() -> Claimed:
            self.server.legacy_claim(instance)
            now = self.server.look()
            return Claimed(Fence(now.identity, now.instance_revision, instance), now.record_revision, now.record)

        self.letters[message] = Letter(instance, arrive_from_legacy if n in LEGACY else arrive)

    def _write_sent(self, n: int, seen: Seen) -> None:
        write, me, life = seen.write, self.s.node[n], self.lives[n]
        assert write is not None
        tower = decode_saved_tower(write.record, self._identity)
        slot = tower.last_voted_slot or 0
        if me.state == "unresolved" and self._tower(write.record) == stack(me.pending):
            self.step(model.Settle, n)
            return
        if slot == values.Last(me.tower):
            self.step(model.Refresh, n)
        else:
            self.step(model.Persist, n, slot)
        life.deadline = life.now + STORE_TIMEOUT
        message = values.StoreRequest(self.s, n)
        self._equal(
            f"the write of {life}",
            (write.fence.revision, write.expected, self._tower(write.record)),
            (self._revisions[message.fence], self._revision(message.expected), stack(message.votes)),
        )
        adapter = self.server.adapter(n)

        def arrive() -> Committed | Refused:
            outcome = adapter.begin_store(write.fence, write.expected, write.record, TIMEOUT).outcome(TIMEOUT)
            assert not isinstance(outcome, Unknown), outcome.cause
            return outcome

        def arrive_from_legacy() -> Committed | Refused:
            return self.server.legacy_store(write.fence.instance, write.record)

        self.letters[message] = Letter(write.fence.instance, arrive_from_legacy if n in LEGACY else arrive)

    # ---- the two are equal

    def _revision(self, revision: values.Revision) -> int:
        assert isinstance(revision, int)
        return self._revisions[revision]

    def _tower(self, record: bytes | None) -> Any:
        """What `stack` says of a tower, read from a record."""
        if record is None:
            return stack(())
        tower = decode_saved_tower(record, self._identity)
        return tuple(tower.votes), tower.root

    @staticmethod
    def _equal(what: str, real: Any, asked: Any) -> None:
        if real != asked:
            raise Differs(f"{what}: really {real}, in the model {asked}")

    def compare(self) -> None:
        """Whatever can be seen is the same on both sides."""
        real, asked = self.server.look(), self.s.store
        self._equal(
            "the instance key", (real.instance_revision, real.instance),
            (self._revisions[asked.instance.revision], bytes_of(asked.instance.value)),
        )  # fmt: skip
        self._equal(
            "the tower key", (real.record_revision, self._tower(real.record)),
            (self._revisions[asked.tower.revision], stack(asked.tower.votes)),
        )  # fmt: skip
        for n, me in enumerate(self.s.node):
            self._compare_life(self.lives[n], me)
        marked = 0 if real.blocks is None else decode_reservation(real.blocks).last
        self._equal(
            "the blocks key", (real.blocks_revision, marked), (self._revisions[asked.blocks.revision], asked.blocks.mark)
        )
        released = {(tuple(zip(vote.slots, vote.counts, strict=True)), vote.root) for vote in self.witness.sent}
        self._equal("what was released", released, {stack(tower) for tower in self.s.released})

    def _compare_life(self, life: Life, me: Node) -> None:
        voter = life.voter
        self._equal(f"the state of {life} ({life.runner.halted})", voter.state, SHOWS_AS[me.state])
        if me.state not in Voting:
            return
        assert voter.fence is not None
        votes = voter.votes
        self._equal(
            f"what {life} knows", (voter.fence.revision, voter.fence.instance, (tuple(votes.votes), votes.root)),
            (self._revisions[me.fence], bytes_of(me.value), stack(me.tower)),
        )  # fmt: skip
        self._equal(f"whether {life} waits", life.runner.in_flight, me.state != "ready")
        duty = life.duty
        self._equal(f"whether {duty} waits", duty.runner.in_flight, me.reserving != 0)
        produced = sorted(block.slot for block in self.s.produced if block.by == me.claim)[-RESERVATIONS_HELD_MAX:]
        self._equal(f"what {duty} may lead", [window.last for window in duty.windows], produced)
