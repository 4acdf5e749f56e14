"""When a spare may take an identity over by itself: a pure function of what it has seen. Off by default.

`observe` folds one sample after another into a memory; `decide` says, from memory, pause and history, whether to take over, and
collects every reason against it. Nothing here does I/O or asks for the time.

**Two witnesses, both for the whole time.** *Silent in the store*: neither claim nor tower changed. An owner that votes writes
two or three times a second, so this sees it before anything lands; but a store that is away, or a cluster that stands still,
silences a healthy owner too. *Behind on the chain*: in the newest bank of our own fork choice the vote account's last vote is
more than `BEHIND_SLOTS` old. Those banks are what a take-over will be judged by, they arrive with no further request, and a
feed that stands still shows no vote growing old: it errs on the side of doing nothing. `getVoteAccounts` calls an account
delinquent after 128 slots only, and of whatever fork its server is on.

**Time counts only while it is watched.** A store that does not answer, or a spare that slept, starts the count anew: of an outage
that hit everybody the owner may come back first.

None of this is part of safety. A wrong decision costs some slots, because the take-over itself is the same as any: look, then
claim, under the fence, and only if the store is still as it was when this was decided.

>>> policy = Policy(after_s=12, min_interval_s=600)
>>> memory = Memory()
>>> for second in range(14):
...     memory = observe(policy, memory, Sample(float(second), 3, 70, tip=1000 + 2 * second, landed=980))
>>> decide(policy, memory, paused="", now_ms=0, last_automatic_ms=None)
Decision(take=True, reasons=(), why='auto-takeover: silent 13 s, 46 slots behind')
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tower.store import ABSENT

__all__ = ["BEHIND_SLOTS", "WHY", "Decision", "Memory", "Policy", "Sample", "decide", "is_automatic", "observe"]

BEHIND_SLOTS = 8  # two leaders' turns without a vote of ours: a vote that lands late is not that late
GAP_S = 5.0  # between two samples beyond which nothing is known of the time in between
WHY = "auto-takeover"


@dataclass(frozen=True, slots=True)
class Policy:
    """Seconds. `after_s` is how long both witnesses must agree, `min_interval_s` the least time between two of these."""

    after_s: float
    min_interval_s: float
    behind_slots: int = BEHIND_SLOTS


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment, on the monotonic clock. Revisions are `None` where the store did not answer.

    `tip` is our newest bank and `landed` the newest vote of the account in it. `unfit` is why this node could not vote as
    the identity now (not caught up, a key is missing); empty if it could.
    """

    at_s: float
    instance_revision: int | None
    record_revision: int | None
    tip: int
    landed: int | None
    unfit: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """The newest sample, and since when each witness has said the same."""

    sample: Sample | None = None
    silent_since: float | None = None
    behind_since: float | None = None

    @property
    def silent_s(self) -> float | None:
        """How long the store has not changed; `None` where that is not known."""
        return self._since(self.silent_since)

    @property
    def behind_s(self) -> float | None:
        """How long the account has been behind; `None` if it is not."""
        return self._since(self.behind_since)

    @property
    def behind_slots(self) -> int | None:
        """How far the account's last landed vote is behind the newest bank."""
        seen = self.sample
        return None if seen is None or seen.landed is None else max(0, seen.tip - seen.landed)

    def _since(self, start: float | None) -> float | None:
        return None if start is None or self.sample is None else self.sample.at_s - start


@dataclass(frozen=True, slots=True)
class Decision:
    """`reasons` is everything that speaks against; `why` goes into the history if nothing does."""

    take: bool
    reasons: tuple[str, ...]
    why: str


def observe(policy: Policy, memory: Memory, sample: Sample) -> Memory:
    """The memory after one more sample."""
    before = memory.sample
    if before is not None and not 0 <= sample.at_s - before.at_s <= GAP_S:
        memory, before = Memory(), None  # we slept: who knows what happened
    silent_since = None
    if sample.instance_revision is not None and sample.record_revision is not None:
        revisions = (sample.instance_revision, sample.record_revision)
        same = before is not None and revisions == (before.instance_revision, before.record_revision)
        silent_since = memory.silent_since if same and memory.silent_since is not None else sample.at_s
    memory = replace(memory, sample=sample, silent_since=silent_since)
    lag = memory.behind_slots
    behind_since = None
    if lag is not None and lag > policy.behind_slots:
        behind_since = sample.at_s if memory.behind_since is None else memory.behind_since
    return replace(memory, behind_since=behind_since)


def decide(
    policy: Policy, memory: Memory, *, paused: str, now_ms: int, last_automatic_ms: int | None
) -> Decision:
    """Whether to take over now. `paused` is why not, if paused; the two times are Unix milliseconds."""
    reasons = [f"paused: {paused}"] if paused else []
    seen, silent, behind = memory.sample, memory.silent_s, memory.behind_s
    if seen is None:
        return Decision(False, (*reasons, "nothing is seen yet"), "")
    if silent is None:
        reasons.append("the store does not answer")
    elif seen.instance_revision == ABSENT or seen.record_revision == ABSENT:
        reasons.append("this store never held the identity's tower: whoever votes with it now may be outside of the fence")
    elif silent < policy.after_s:
        reasons.append(f"the owner is silent in the store for {silent:.0f} s of {policy.after_s:g} s")
    lag = memory.behind_slots
    if lag is None:
        reasons.append("no vote of the account has landed yet")
    elif behind is None:
        reasons.append(f"votes land: {lag} slots behind")
    elif behind < policy.after_s:
        reasons.append(f"behind on the chain for {behind:.0f} s of {policy.after_s:g} s ({lag} slots)")
    if seen.unfit:
        reasons.append(seen.unfit)
    if last_automatic_ms is not None and policy.min_interval_s > 0:
        ago_s = max(0.0, (now_ms - last_automatic_ms) / 1000)
        if ago_s < policy.min_interval_s:
            wanted = f"{policy.min_interval_s:g} s must lie between two"
            reasons.append(f"the last automatic take-over was {ago_s:.0f} s ago, {wanted}")
    if reasons or silent is None:
        return Decision(False, tuple(reasons), "")
    return Decision(True, (), f"{WHY}: silent {silent:.0f} s, {lag} slots behind")


def is_automatic(why: str) -> bool:
    """Whether a claim in the history was an automatic take-over."""
    return why.startswith(f"{WHY}: ")
