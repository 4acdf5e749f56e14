"""What `identityTransitionStatus` says before, during and after a change."""

from __future__ import annotations

import asyncio

import pytest

from tower.errors import InvalidInput
from tower.validator.transition import Transitions

FIELDS = [
    "version", "processInstanceId", "sequence", "state", "consensus", "currentIdentity", "fromIdentity", "toIdentity",
    "voteAccount", "fromIdentityLastSubmittedVoteSlot", "towerRootSlot", "error",
]  # fmt: skip


def test_idle_until_something_changes() -> None:
    status = Transitions("vote").status("A")
    assert list(status) == FIELDS
    assert (status["version"], status["sequence"], status["state"], status["consensus"]) == (1, 0, "idle", "unknown")
    assert {status[key] for key in ("currentIdentity", "fromIdentity", "toIdentity")} == {"A"}
    assert (status["voteAccount"], status["fromIdentityLastSubmittedVoteSlot"], status["error"]) == ("", None, None)
    assert Transitions("vote").status("A")["processInstanceId"] != status["processInstanceId"]


def test_a_change_is_seen_while_it_goes_on_and_when_it_is_over() -> None:
    async def run() -> None:
        seen = Transitions("vote")
        async with seen.change("A", "B") as change:
            status = seen.status("A")
            assert (status["state"], status["consensus"], status["sequence"]) == ("transitioning", "tower", 1)
            assert (status["currentIdentity"], status["fromIdentity"], status["toIdentity"]) == ("A", "A", "B")
            change.adopted(123, 90)
        status = seen.status("B")
        assert (status["state"], status["error"], status["voteAccount"]) == ("complete", None, "vote")
        assert (status["fromIdentityLastSubmittedVoteSlot"], status["towerRootSlot"]) == (123, 90)
        with pytest.raises(InvalidInput):
            async with seen.change("B", "A"):
                raise InvalidInput("the store does not answer")
        status = seen.status("B")
        assert (status["state"], status["error"], status["sequence"]) == ("failed", "the store does not answer", 2)
        assert (status["fromIdentityLastSubmittedVoteSlot"], status["towerRootSlot"]) == (None, None)
        with pytest.raises(ZeroDivisionError):
            async with seen.change("B", "C"):
                raise ZeroDivisionError
        assert seen.status("B")["error"] == "it ended before the new identity was adopted"

    asyncio.run(run())
