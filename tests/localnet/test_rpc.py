"""The JSON-RPC over real HTTP: shapes, commitments, a vote followed to its root, and requests that are none."""

from __future__ import annotations

import base64
import json
from typing import Any

from solders.pubkey import Pubkey
from solders.signature import Signature

from tests.localnet.served import ACCOUNT, CLOCK, PROCESSED, QUIET, SLOT_HASHES, SLOT_HISTORY, VOTE_PROGRAM, run, running, until
from tests.localnet.support import OUR_ACCOUNT, OURS, our_vote, vote
from tower.keys import from_base58
from tower.localnet.render import base58
from tower.restore import SlotHistory, SlotState
from tower.wire import decode_slot_hashes, decode_vote_account


def test_slot_history_names_the_slots_of_the_bank_s_own_fork() -> None:
    async def scenario() -> None:
        async with running(QUIET, clock=False) as client:
            made = client.localnet.cluster
            while made.slot < 60:
                made.step()
            root = made.rpc_view.root
            for level, newest in (("processed", made.rpc_view.best), ("finalized", root)):
                answer = await client.call("getAccountInfo", SLOT_HISTORY, {"commitment": level, "encoding": "base64"})
                history = SlotHistory.decode(base64.b64decode(answer["value"]["data"][0]))
                assert (answer["context"]["slot"], history.newest) == (newest, newest)
                chain = set(made.rpc_view.chain()) | set(made.rooted)
                for slot in range(newest + 1):
                    assert history.check(slot) is (SlotState.FOUND if slot in chain else SlotState.NOT_FOUND)
            assert root > 0

    run(scenario)


def test_the_rpc_has_the_shapes_of_a_real_node() -> None:
    async def scenario() -> None:
        async with running(QUIET, clock=False) as client:
            made = client.localnet.cluster
            while made.slot < 60:
                made.step()
            made.submit(our_vote(made, 58), "a")
            made.step()
            bank = made.tree[61]
            assert await client.call("getHealth") == "ok"
            assert set(await client.call("getVersion")) == {"solana-core", "feature-set"}
            assert len(from_base58((await client.call("getIdentity"))["identity"])) == 32
            assert await client.call("getGenesisHash") == str(Pubkey(made.genesis.genesis_hash))
            view = made.rpc_view
            assert 0 < view.root < view.confirmed < 61
            for level, slot in (("processed", 61), ("confirmed", view.confirmed), ("finalized", view.root)):
                assert await client.call("getSlot", {"commitment": level}) == slot
            assert await client.call("getSlot") == view.root
            assert (await client.call("getSlot", {"minContextSlot": 10**9}))["code"] == -32016
            assert await client.call("getEpochInfo", {"commitment": "processed"}) == {
                "absoluteSlot": 61,
                "blockHeight": 61,
                "epoch": 0,
                "slotIndex": 61,
                "slotsInEpoch": 8192,
                "transactionCount": bank.transaction_count,
            }

            whole = await client.call("getLeaderSchedule")
            assert sorted(slot for slots in whole.values() for slot in slots) == list(range(8192))
            some = str(Pubkey(made.leader(60)))
            assert await client.call("getLeaderSchedule", None, {"identity": some}) == {some: whole[some]}
            assert await client.call("getLeaderSchedule", 8192 * 5) is None

            votes = await client.call("getVoteAccounts", {"commitment": "processed"})
            assert len(votes["current"]) == 4
            assert votes["delinquent"] == []
            ours = next(entry for entry in votes["current"] if entry["votePubkey"] == ACCOUNT)
            assert ours == {
                "votePubkey": ACCOUNT,
                "nodePubkey": OURS.address,
                "activatedStake": made.genesis.ours.stake,
                "epochVoteAccount": True,
                "commission": 0,
                "lastVote": 58,
                "epochCredits": [list(entry) for entry in bank.votes[OUR_ACCOUNT].epoch_credits],
                "rootSlot": 0,
            }
            only = await client.call("getVoteAccounts", {"commitment": "processed", "votePubkey": ACCOUNT})
            assert only == {"current": [ours], "delinquent": []}
            late = {"commitment": "processed", "votePubkey": ACCOUNT, "delinquentSlotDistance": 3}
            assert await client.call("getVoteAccounts", late) == {"current": [], "delinquent": [ours]}

            latest = await client.call("getLatestBlockhash", {"commitment": "processed"})
            assert latest["context"]["slot"] == 61
            assert latest["value"] == {"blockhash": str(Pubkey(bank.blockhash)), "lastValidBlockHeight": 211}
            balance = await client.call("getBalance", OURS.address, {"commitment": "processed"})
            assert balance["value"] == 1_000 * 10**9 - 5000

            several = await client.call(
                "getMultipleAccounts", [SLOT_HASHES, CLOCK, ACCOUNT, OURS.address, SLOT_HASHES[:-1] + "2"], PROCESSED
            )
            assert several["context"]["slot"] == 61
            named, clock, account, identity, nothing = several["value"]
            assert nothing is None
            hashes = decode_slot_hashes(base64.b64decode(named["data"][0]))
            assert hashes[0] == (60, made.tree[60].hash)
            assert (named["owner"], named["space"]) == ("Sysvar1111111111111111111111111111111111111", 20488)
            assert int.from_bytes(base64.b64decode(clock["data"][0])[:8], "little") == 61
            assert decode_vote_account(base64.b64decode(account["data"][0])).last_voted_slot == 58
            assert (account["owner"], account["space"], account["executable"]) == (VOTE_PROGRAM, 3762, False)
            assert identity["data"] == ["", "base64"]
            assert (await client.call("getAccountInfo", ACCOUNT, PROCESSED))["value"] == account
            rooted = await client.call("getAccountInfo", ACCOUNT, {"encoding": "base64"})
            assert rooted["context"]["slot"] == view.root
            assert rooted["value"]["data"] != account["data"]
            part = {"encoding": "base58", "dataSlice": {"offset": 4, "length": 32}}
            assert (await client.call("getAccountInfo", ACCOUNT, part))["value"]["data"] == [OURS.address, "base58"]
            assert (await client.call("getAccountInfo", ACCOUNT))["code"] == -32600
            assert (await client.call("getAccountInfo", ACCOUNT, {"encoding": "jsonParsed"}))["code"] == -32602

            memcmp = {"memcmp": {"offset": 4, "bytes": OURS.address}}
            mine = await client.call("getProgramAccounts", VOTE_PROGRAM, {**PROCESSED, "filters": [memcmp]})
            assert mine == [{"pubkey": ACCOUNT, "account": account}]
            sized = {"encoding": "base64", "filters": [{"dataSize": 3762}], "withContext": True}
            assert len((await client.call("getProgramAccounts", VOTE_PROGRAM, sized))["value"]) == 4

            commitment = await client.call("getBlockCommitment", 60)
            assert (
                commitment == {"commitment": None, "totalStake": made.genesis.total_stake} or len(commitment["commitment"]) == 32
            )
            deep = (await client.call("getBlockCommitment", view.root))["commitment"]
            assert sum(deep) > 0.9 * made.genesis.total_stake
            nodes = await client.call("getClusterNodes")
            assert nodes[0]["tpuVote"] == client.localnet.vote_address
            assert (await client.call("getHighestSnapshotSlot"))["code"] == -32008

    run(scenario)


def test_a_vote_by_rpc_is_followed_to_its_root() -> None:
    async def scenario() -> None:
        async with running(QUIET) as client:
            made = client.localnet.cluster

            async def send(encoding: str, raw: bytes, **config: object) -> Any:
                text = base64.b64encode(raw).decode() if encoding == "base64" else base58(raw)
                return await client.call("sendTransaction", text, {"encoding": encoding, **config})

            async def at_slot() -> bool:
                return made.rpc_view.best >= 5

            await until(at_slot)
            tip = made.rpc_view.tip
            parent = made.tree[tip.parent_slot or 0]
            raw = vote([(parent.slot, 1)], parent.hash, tip.blockhash)
            name = await send("base64", raw, preflightCommitment="processed")
            assert bytes(Signature.from_string(name)) == raw[1:65]
            assert await send("base58", raw, skipPreflight=True) == name

            async def rooted() -> bool:
                status = (await client.call("getSignatureStatuses", [name]))["value"][0]
                return status is not None and status["confirmationStatus"] == "finalized"

            await until(rooted)
            status = (await client.call("getSignatureStatuses", [name, name]))["value"][1]
            assert (status["err"], status["status"], status["confirmations"]) == (None, {"Ok": None}, None)
            found = await client.call("getTransaction", name, {"encoding": "base64"})
            assert found["slot"] == status["slot"]
            assert found["transaction"] == [base64.b64encode(raw).decode(), "base64"]
            assert (found["meta"]["err"], found["meta"]["fee"]) == (None, 5000)
            plain = (await client.call("getTransaction", name))["transaction"]
            assert plain["signatures"] == [name]
            assert plain["message"]["accountKeys"] == [OURS.address, ACCOUNT, VOTE_PROGRAM]
            unknown = base58(bytes([9]) * 64)
            assert await client.call("getTransaction", unknown) is None
            assert (await client.call("getSignatureStatuses", [unknown]))["value"] == [None]

            forged = bytes([1]) + bytes(64) + raw[65:]
            assert (await send("base64", forged))["code"] == -32003
            assert (await send("base64", raw[:50]))["code"] == -32602
            assert (await client.call("sendTransaction", "0OIl"))["code"] == -32602
            stale = vote([(parent.slot, 1)], parent.hash, bytes([3]) * 32)
            assert (await send("base64", stale))["code"] == -32002
            report = await client.call("localnetReport")
            assert report["conflicts"] == []
            mine = [entry for entry in report["votes"] if entry["vote_account"] == ACCOUNT]
            assert mine[0]["landed"] == status["slot"]
            assert {entry["source"] for entry in mine} == {"127.0.0.1"}
            assert parent.slot in report["chain"]
            later = await client.call("localnetReport", {"sinceMs": report["now_ms"], "fromSlot": report["slot"]})
            assert all(entry["at_ms"] >= report["now_ms"] for entry in later["votes"])
            assert all(slot >= report["slot"] for slot in later["chain"])
            assert set(await client.call("localnetChain")) == {"chain", "slot", "root", "confirmed", "now_ms"}

    run(scenario)


def test_requests_that_are_none() -> None:
    async def scenario() -> None:
        async with running(QUIET, clock=False) as client:
            for body, code in (
                ("{", -32700),
                (b"\xff\xfe", -32700),
                ("[" * 10_000, -32700),
                ("[]", -32600),
                ("7", -32600),
                ('{"jsonrpc":"1.0","id":1,"method":"getSlot"}', -32600),
                ('{"jsonrpc":"2.0","id":1,"method":7}', -32600),
                ('{"jsonrpc":"2.0","id":1,"method":"noSuchMethod"}', -32601),
                ('{"jsonrpc":"2.0","id":1,"method":"get_slot"}', -32601),
                ('{"jsonrpc":"2.0","id":1,"method":"getSlot","params":{"a":1}}', -32602),
                ('{"jsonrpc":"2.0","id":1,"method":"getSlot","params":[7]}', -32602),
                ('{"jsonrpc":"2.0","id":1,"method":"getSlot","params":[{"commitment":"soon"}]}', -32602),
                ('{"jsonrpc":"2.0","id":1,"method":"getAccountInfo","params":["x"]}', -32602),
                ('{"jsonrpc":"2.0","id":1,"method":"getAccountInfo"}', -32602),
                ('{"jsonrpc":"2.0","id":1,"method":"getBlockCommitment","params":[-1]}', -32602),
                ('{"jsonrpc":"2.0","id":1,"method":"sendTransaction","params":[7]}', -32602),
            ):
                answer = await client.post(body)
                assert answer["error"]["code"] == code, body[:80]
                assert answer["error"]["message"]
            batch = '[{"jsonrpc":"2.0","id":"a","method":"getSlot"},{"jsonrpc":"2.0","method":"getSlot"},3]'
            first, second = await client.post(batch)
            assert (first["id"], first["result"]) == ("a", 0)
            assert second["error"]["code"] == -32600
            assert await client.post('{"jsonrpc":"2.0","method":"getSlot"}') is None
            too_many = json.dumps([{"jsonrpc": "2.0", "id": 1, "method": "getSlot"}] * 101)
            assert (await client.post(too_many))["error"]["code"] == -32600
            async with client.session.post(client.localnet.rpc_url, data=b" " * 60_000) as response:
                assert response.status == 413
            assert len((await client.call("getMultipleAccounts", [ACCOUNT] * 101))["message"]) > 0
            assert await client.call("getHealth") == "ok"

    run(scenario)
