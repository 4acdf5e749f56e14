"""Votes as many validators at once, from one thread: each with a store, a connection, a fence and a tower of its own.

`python -m benchmarks.driver` is told by a line of JSON on its standard input what to drive (`Task`), says `ready` when every
identity is claimed, begins at the time (of the monotonic clock) in the second line, and says as JSON what came of it; the
latencies go to the file that the task names. It ends with its input, so that somebody can still read what it has used.

**Open loop.** When a vote is due does not depend on how the ones before it went. A vote that is due while its predecessor is
still under way waits for it, as a tower must, and its latency counts from when it was due all the same. So it does for a vote
that this thread begins late; how late is kept apart (`late`), because that is the fault of the driver and not of the store.

**One thread.** It sleeps until a vote is due or a socket has something to read, and takes all that there is. To wake at a fixed
beat instead (every 2 to 10 ms) spared it a tenth of its processor time and gave no shorter latencies; two drivers cost a
tenth more.
"""

from __future__ import annotations

import gc
import json
import random
import select
import sys
import time
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tower import _fast
from tower.events import Vote
from tower.keys import Keypair
from tower.runner import CommittedVote, SignedVote
from tower.store import ABSENT, Claimed, Committed, Fence, Owner, Refused, Unknown
from tower.stores.etcd import EtcdStore, _EtcdPending
from tower.types import BlockTimestamp

__all__ = ["FIRST_SLOT", "SLOT_S", "Counts", "Driver", "Task", "Validator", "keypair", "plan"]

SLOT_S = 0.4
FIRST_SLOT = 380_000_000  # numbers as long as those of today
STACK = 31  # lockouts
STORE_TIMEOUT_S = 5.0  # of one write, as `--store-timeout` has it
CLAIM_TIMEOUT_S = 20.0
DRAIN_S = 20.0  # after the last vote was due; what is unsettled then is counted as such
SWEEP_S = 0.05  # how often writes are looked at of which nothing is heard
BURST = 32  # votes that are begun before answers are read again
LATENCIES = ("from due", "from begun", "late")


@dataclass(frozen=True, slots=True)
class Task:
    """What one driver drives: the identities numbered `first` and up, each with one vote a slot, for `slots` slots."""

    endpoints: list[list[str | int]]
    certs: str  # the folder of the certificates
    first: int
    count: int
    slots: int
    seed: int
    results: str  # the file for the latencies


@dataclass(slots=True)
class Counts:
    """What became of the votes. `left` were never begun, `unsettled` were begun and their outcome is not known."""

    due: int = 0
    decided: int = 0
    released: int = 0
    repeated: int = 0  # writes that were sent again because their outcome was unknown
    refused: int = 0
    left: int = 0
    unsettled: int = 0


def keypair(seed: int, number: int) -> Keypair:
    return Keypair.from_seed(random.Random(f"{seed}/{number}").randbytes(32))


def plan(count: int, slots: int, rng: random.Random) -> tuple[array[float], array[int]]:
    """When votes are due, in seconds from the start, and whose they are: everybody once in each slot, at a random moment."""
    dues, whose = array("d"), array("I")
    for slot in range(slots):
        for moment, who in sorted((rng.random(), who) for who in range(count)):
            dues.append((slot + moment) * SLOT_S)
            whose.append(who)
    return dues, whose


class Validator:
    """One identity: its tower, its fence, its store, and the vote whose tower is on its way."""

    __slots__ = (
        "address", "begun", "committed", "due", "fence", "free_at", "pair", "pending", "record", "revision", "signed", "slot",
        "state", "store", "waiting",
    )  # fmt: skip

    def __init__(self, pair: Keypair, store: EtcdStore) -> None:
        self.pair, self.store, self.address = pair, store, pair.address
        self.slot = FIRST_SLOT + STACK
        self.state = _fast.TowerVoteState()
        self.state.process_votes(range(FIRST_SLOT, self.slot))
        self.pending: _EtcdPending | None = None
        self.signed: SignedVote | None = None
        self.waiting: deque[float] = deque()  # when the votes were due that wait for the one under way
        self.record, self.committed = b"", b""
        self.due = self.begun = self.free_at = 0.0
        claimed = store.claim(store.look(self.address, CLAIM_TIMEOUT_S), Owner("bench", "start", at_ms=1), CLAIM_TIMEOUT_S)
        if not isinstance(claimed, Claimed):
            raise RuntimeError(f"{self.address} was not claimed: {claimed}")
        self.fence: Fence = claimed.fence
        self.revision = ABSENT

    def vote(self) -> None:
        """Decide the next vote, sign its tower, begin the fenced write, and sign the transaction meanwhile; as `Runner` does."""
        slot, pair = self.slot, self.pair
        pubkey, secret, hash_ = pair.pubkey, pair.secret, slot.to_bytes(32)
        state = self.state.copy()
        state.process_vote(slot)
        self.slot, self.state, seen = slot + 1, state, BlockTimestamp(slot, slot)
        vote = Vote(slot, hash_, hash_, state, slot, seen, 8, 2 / 3, pubkey, hash_, None, slot)
        self.record = _fast.encode_vote_record(pubkey, secret, state, hash_, slot, hash_, seen, 8, 2 / 3)
        self.begin()
        message = _fast.encode_vote_message(pubkey, pubkey, hash_, hash_, state, hash_, slot, hash_, None)
        self.signed = SignedVote(vote, self.record, _fast.sign_transaction(message, [secret]))

    def begin(self) -> None:
        """Begin the write; again with the same bytes, where its outcome is unknown."""
        self.pending = self.store.begin_store(self.fence, self.revision, self.record, STORE_TIMEOUT_S)

    def release(self, committed: Committed) -> CommittedVote:
        """What may leave now. Refused where it is not this very record, or not newer than the last."""
        if self.signed is None or committed.record_revision <= self.revision:
            raise RuntimeError(f"{self.address}: revision {committed.record_revision} after {self.revision}")
        self.revision, self.committed, self.pending = committed.record_revision, committed.record, None
        return CommittedVote(committed, self.signed)


class Driver:
    """Votes for `validators` by the plan, until all votes are settled or `DRAIN_S` after the last was due."""

    def __init__(self, validators: Sequence[Validator], epoll: select.epoll) -> None:
        self.counts = Counts()
        self.latencies = {name: array("d") for name in LATENCIES}
        self.validators = validators
        self._epoll = epoll
        self._by_socket: dict[int, Validator] = {}
        self._under_way: dict[str, Validator] = {}

    def run(self, dues: Sequence[float], whose: Sequence[int], start: float) -> None:
        """Begin at `start` on the monotonic clock."""
        clock, counts, validators, total = time.monotonic, self.counts, self.validators, len(dues)
        counts.due, done = total, 0
        give_up, sweep_at = start + dues[-1] + DRAIN_S, start
        while (done < total or self._under_way) and (now := clock()) < give_up:
            for _ in range(BURST):
                if done == total or start + dues[done] > now:
                    break
                self._due(validators[whose[done]], start + dues[done])
                done += 1
            now = clock()
            next_due = start + dues[done] if done < total else give_up
            for descriptor, _ in self._wait(min(next_due, now + SWEEP_S) - now):
                self._look(self._by_socket[descriptor])
            if clock() >= sweep_at:
                sweep_at = self._sweep()
        counts.unsettled = len(self._under_way)
        counts.left = total - done + sum(len(each.waiting) for each in validators)
        self._count_the_rest([start + due for due in dues[done:]])
        self._epoll.close()

    def _wait(self, seconds: float) -> list[tuple[int, int]]:
        """Wait for answers, at most so long; the sockets that have one. To the microsecond: `epoll` itself knows only whole
        milliseconds."""
        if seconds > 0:
            select.select([self._epoll], [], [], seconds)
        return self._epoll.poll(0)

    def _due(self, who: Validator, due: float) -> None:
        if who.pending is not None:
            who.waiting.append(due)
            return
        self._begin(who, due)

    def _begin(self, who: Validator, due: float) -> None:
        who.begun, who.due = time.monotonic(), due
        self.counts.decided += 1
        who.vote()
        self._under_way[who.address] = who
        self._await(who)

    def _await(self, who: Validator) -> None:
        """Hear of the next thing on its socket, once: a connection opened anew is another socket, perhaps of the same number."""
        descriptor = -1 if who.pending is None else who.pending.fileno()
        if descriptor < 0:
            return  # between two attempts; `_sweep` goes on with it
        self._by_socket[descriptor] = who
        try:
            self._epoll.modify(descriptor, select.EPOLLIN | select.EPOLLONESHOT)
        except FileNotFoundError:
            self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLONESHOT)

    def _look(self, who: Validator) -> None:
        pending, counts = who.pending, self.counts
        if pending is None:
            return
        if not pending.ready():
            self._await(who)
            return
        outcome = pending.outcome(0)
        if isinstance(outcome, Unknown):
            counts.repeated += 1
            who.begin()
            self._await(who)
            return
        del self._under_way[who.address]
        if isinstance(outcome, Refused):
            counts.refused += 1
            raise RuntimeError(f"{who.address}: {outcome}")
        who.release(outcome)
        counts.released += 1
        now = time.monotonic()
        self._keep(now - who.due, now - who.begun, who.begun - max(who.due, who.free_at))
        who.free_at = now
        if who.waiting:
            self._begin(who, who.waiting.popleft())

    def _sweep(self) -> float:
        """Look at every write under way of which nothing was heard for a while; when to do so again."""
        now = time.monotonic()
        for who in [each for each in self._under_way.values() if now - each.begun > SWEEP_S]:
            self._look(who)
        return now + SWEEP_S

    def _keep(self, *latencies: float) -> None:
        for name, latency in zip(LATENCIES, latencies, strict=True):
            self.latencies[name].append(latency)

    def _count_the_rest(self, never_due: Sequence[float]) -> None:
        """Votes without an end count with the time that they have waited already: they must not make the others look good."""
        now = time.monotonic()
        waiting = [due for who in self.validators for due in who.waiting]
        for due in (*never_due, *waiting, *(who.due for who in self._under_way.values())):
            self.latencies["from due"].append(now - due)


def open_validators(task: Task) -> list[Validator]:
    """Every identity with a store of its own; their first endpoints go around the members, as operators would have it."""
    ca_cert, cert, key = (
        (Path(task.certs) / name).read_bytes() for name in ("etcd-ca.pem", "validator.pem", "validator-key.pem")
    )
    endpoints = [(str(host), int(port)) for host, port in task.endpoints]
    made = []
    for number in range(task.first, task.first + task.count):
        turn = number % len(endpoints)
        own = endpoints[turn:] + endpoints[:turn]
        store = EtcdStore(own, ca_cert=ca_cert, cert=cert, key=key, transport="http2")
        made.append(Validator(keypair(task.seed, number), store))
    return made


def main() -> None:
    """See the top of this file."""
    task = Task(**json.loads(sys.stdin.readline()))
    dues, whose = plan(task.count, task.slots, random.Random(f"{task.seed}/{task.first}/plan"))
    epoll = select.epoll()  # before there are sockets: `select` takes numbers below 1024 only
    validators = open_validators(task)
    driver = Driver(validators, epoll)
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    driver.run(dues, whose, float(sys.stdin.readline()))
    with open(task.results, "wb") as file:
        for name in LATENCIES:
            driver.latencies[name].tofile(file)
    ends = {who.address: [who.slot - FIRST_SLOT - STACK, who.revision, who.fence.revision] for who in validators}
    lengths = [len(driver.latencies[name]) for name in LATENCIES]
    last = {who.address: who.committed.hex() for who in validators}
    said = {"counts": asdict(driver.counts), "lengths": lengths, "ends": ends, "last": last}
    print(json.dumps(said), flush=True)
    sys.stdin.read()
    for who in validators:
        who.store.close()


if __name__ == "__main__":
    main()
