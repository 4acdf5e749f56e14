"""The admin RPC of real processes: what it says of a change of identity, and to the bytes of the command line in use."""

from __future__ import annotations

import json
import socket
from typing import Any

from tests.support.cluster import Validator, World, until
from tower.validator.admin import AdminClient


def ask(machine: Validator, method: str, *params: Any) -> Any:
    return AdminClient(machine.folder / "ledger").call(method, *params)


def theirs(machine: Validator, method: str, params: str = "null") -> Any:
    """The result that their command line would get for what it sends."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(machine.folder / "ledger" / "admin.rpc"))
        link.settimeout(60)
        link.sendall(f'{{"jsonrpc":"2.0","method":"{method}","params":{params},"id":0}}\n'.encode())
        answer = json.loads(link.makefile("rb").readline())
    assert answer["id"] == 0
    assert "result" in answer, answer
    return answer["result"]


def test_a_change_of_identity_is_told_on_both_sides(on_file: World) -> None:
    primary, spare = on_file.validator("127.0.0.2"), on_file.validator("127.0.0.3", spare=True)
    primary.more += ["--on-lost-lock", "demote"]
    primary.start().wait_running().wait_vote()
    spare.start().wait_running()
    idle = ask(primary, "identityTransitionStatus")
    assert (idle["state"], idle["sequence"], idle["currentIdentity"]) == ("idle", 0, on_file.identity.address)

    assert theirs(spare, "setIdentity", json.dumps([str(spare.folder / "validator-keypair.json"), False])) is None
    taken = theirs(spare, "identityTransitionStatus")
    assert (taken["state"], taken["error"], taken["voteAccount"]) == ("complete", None, on_file.vote_account)
    assert (taken["fromIdentity"], taken["toIdentity"]) == (spare.identity.address, on_file.identity.address)
    assert taken["fromIdentityLastSubmittedVoteSlot"] is None

    until(lambda: primary.status().get("state") == "standby", "the primary is demoted")
    given = ask(primary, "identityTransitionStatus")
    assert (given["state"], given["fromIdentity"], given["sequence"]) == ("complete", on_file.identity.address, 1)
    assert given["toIdentity"] == given["currentIdentity"] == ask(primary, "contactInfo")["id"]
    last = max(vote["last_slot"] for vote in on_file.votes(primary.address))
    assert given["fromIdentityLastSubmittedVoteSlot"] == last
    assert given["processInstanceId"] != taken["processInstanceId"]

    same = json.dumps([str(spare.folder / "validator-keypair.json"), False])
    assert theirs(spare, "setIdentity", same) is None
    again = ask(spare, "identityTransitionStatus")
    assert (again["state"], again["sequence"]) == ("failed", 2)
    assert again["error"] == f"nothing to change: this node votes as {on_file.identity.address} already"

    watched = primary.command("exit", "--force", "--monitor")
    assert (watched.returncode, watched.stderr) == (0, "")
    lines = watched.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("Exit request sent", "The validator has ended")
    primary.wait_exit(0)

    assert theirs(spare, "startProgress") == "Running"
    assert theirs(spare, "exit") is None
    spare.wait_exit(0)
