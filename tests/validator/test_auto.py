"""The automatic take-over's decision: both witnesses, for the whole time, and everything that speaks against it."""

from __future__ import annotations

import itertools
import random

import pytest

from tower.validator.auto import BEHIND_SLOTS, GAP_S, Decision, Memory, Policy, Sample, decide, is_automatic, observe

POLICY = Policy(after_s=10, min_interval_s=600)
NOW_MS = 1_700_000_000_000


def watched(samples: list[Sample], policy: Policy = POLICY) -> Memory:
    memory = Memory()
    for sample in samples:
        memory = observe(policy, memory, sample)
    return memory


def gone(seconds: int, **fields: object) -> list[Sample]:
    """A sample a second of an owner that is silent and behind; `fields` replace what is in each of them."""
    base = {"instance_revision": 3, "record_revision": 70, "tip": 1000, "landed": 900}
    return [Sample(at_s=float(second), **{**base, **fields}) for second in range(seconds + 1)]


def verdict(memory: Memory, paused: str = "", last_ms: int | None = None, policy: Policy = POLICY) -> Decision:
    return decide(policy, memory, paused=paused, now_ms=NOW_MS, last_automatic_ms=last_ms)


def reasons(memory: Memory, **arguments: object) -> tuple[str, ...]:
    found = verdict(memory, **arguments)
    assert not found.take
    assert found.why == ""
    return found.reasons


def test_an_owner_that_is_gone_for_long_enough() -> None:
    assert verdict(watched(gone(10))) == Decision(True, (), "auto-takeover: silent 10 s, 100 slots behind")
    assert is_automatic("auto-takeover: silent 10 s, 100 slots behind")
    assert not is_automatic("set-identity")


def test_not_a_second_too_early() -> None:
    assert reasons(watched(gone(9))) == (
        "the owner is silent in the store for 9 s of 10 s",
        "behind on the chain for 9 s of 10 s (100 slots)",
    )
    assert reasons(Memory()) == ("nothing is seen yet",)


@pytest.mark.parametrize("changed", ["instance_revision", "record_revision"])
def test_any_sign_in_the_store_begins_the_count_anew(changed: str) -> None:
    before, later = gone(9), gone(19, **{changed: 99})[10:]
    memory = watched([*before, *later])
    assert memory.silent_s == 9
    assert memory.behind_s == 19
    assert reasons(memory) == ("the owner is silent in the store for 9 s of 10 s",)


def test_an_owner_whose_votes_land_is_not_gone() -> None:
    memory = watched(gone(60, landed=1000 - BEHIND_SLOTS))
    assert reasons(memory) == (f"votes land: {BEHIND_SLOTS} slots behind",)
    assert verdict(watched(gone(60, landed=1000 - BEHIND_SLOTS - 1))).take


def test_a_vote_that_lands_in_between_begins_the_count_anew() -> None:
    middle = [Sample(6.0, 3, 70, 1000, 999)]
    memory = watched([*gone(5), *middle, *gone(12)[7:]])
    assert memory.behind_s == 5
    assert reasons(memory) == ("behind on the chain for 5 s of 10 s (100 slots)",)


def test_silence_is_not_counted_while_the_store_does_not_answer() -> None:
    """Of an outage that hit everybody the owner may come back first."""
    away = [Sample(float(second), None, None, 1000, 900) for second in range(10, 30)]
    back = [Sample(float(second), 3, 70, 1000, 900) for second in range(30, 36)]
    memory = watched([*gone(9), *away])
    assert reasons(memory) == ("the store does not answer",)
    memory = watched([*gone(9), *away, *back])
    assert reasons(memory) == ("the owner is silent in the store for 5 s of 10 s",)


def test_a_spare_that_slept_knows_nothing() -> None:
    memory = watched([*gone(9), Sample(9 + GAP_S + 0.1, 3, 70, 1000, 900)])
    assert (memory.silent_s, memory.behind_s) == (0, 0)
    memory = watched([*gone(9), Sample(3.0, 3, 70, 1000, 900)])  # nor one whose clock went back
    assert (memory.silent_s, memory.behind_s) == (0, 0)


@pytest.mark.parametrize("absent", [("instance_revision",), ("record_revision",), ("instance_revision", "record_revision")])
def test_an_identity_that_never_used_the_store(absent: tuple[str, ...]) -> None:
    assert "outside of the fence" in reasons(watched(gone(60, **dict.fromkeys(absent, 0))))[0]


def test_every_reason_is_said_at_once() -> None:
    memory = watched(gone(3, unfit="not caught up: slot 5 of 50"))
    said = reasons(memory, paused="by the operator", last_ms=NOW_MS - 90_000)
    assert said == (
        "paused: by the operator",
        "the owner is silent in the store for 3 s of 10 s",
        "behind on the chain for 3 s of 10 s (100 slots)",
        "not caught up: slot 5 of 50",
        "the last automatic take-over was 90 s ago, 600 s must lie between two",
    )


def test_a_spare_that_is_not_fit_waits() -> None:
    assert reasons(watched(gone(60, unfit="a key is missing"))) == ("a key is missing",)
    assert reasons(watched(gone(60, landed=None))) == ("no vote of the account has landed yet",)


def test_the_interval_between_two() -> None:
    memory = watched(gone(60))
    assert not verdict(memory, last_ms=NOW_MS - 599_999).take
    assert verdict(memory, last_ms=NOW_MS - 600_000).take
    assert not verdict(memory, last_ms=NOW_MS + 3_600_000).take  # another machine's clock is ahead: the careful side
    free = Policy(10, 0)
    assert verdict(watched(gone(60), free), last_ms=NOW_MS, policy=free).take


def test_whatever_is_seen_it_takes_over_only_after_both_witnesses_agreed_for_the_whole_time(rng: random.Random) -> None:
    """Random lives of an owner, judged by looking at the samples themselves."""
    takes = 0
    for _ in range(300):
        at_s, instance, record, tip, landed = 0.0, 1, 1, 100, 99
        samples: list[Sample] = []
        memory = Memory()
        for _ in range(80):
            at_s += rng.choice((0.5, 0.5, 0.5, 1.0, GAP_S + 1 if rng.random() < 0.03 else 0.5))
            tip += rng.randrange(3)
            votes, claims = rng.random() < 0.08, rng.random() < 0.01
            record, instance = record + votes, instance + claims
            landed = tip - 1 if votes or rng.random() < 0.02 else landed
            answers = rng.random() > 0.03
            samples.append(Sample(at_s, instance if answers else None, record if answers else None, tip, landed))
            memory = observe(POLICY, memory, samples[-1])
            if not verdict(memory).take:
                continue
            recent = [sample for sample in samples if sample.at_s >= at_s - POLICY.after_s]
            assert recent[0].at_s <= at_s - POLICY.after_s + 1.0
            assert {(sample.instance_revision, sample.record_revision) for sample in recent} == {(instance, record)}
            assert all(sample.tip - (sample.landed or 0) > BEHIND_SLOTS for sample in recent)
            assert max(later.at_s - earlier.at_s for earlier, later in itertools.pairwise(recent)) <= GAP_S
            takes += 1
    assert takes > 100
