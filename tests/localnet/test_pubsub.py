"""The PubSub server over real WebSockets: who is told what, and who is cut off."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.localnet.served import ACCOUNT, CLOCK, PATIENCE_S, PROCESSED, SLOT_HASHES, run, running, send_udp, until
from tests.localnet.support import vote
from tower.localnet import pubsub
from tower.localnet.genesis import LocalnetConfig
from tower.localnet.render import base58
from tower.wire import decode_slot_hashes, decode_vote_account


def test_subscribers_hear_of_every_bank_of_both_forks() -> None:
    config = LocalnetConfig(slot_ms=20, voters=3, fork_every=20, fork_length=6)

    async def scenario() -> None:
        async with running(config) as client, client.session.ws_connect(client.localnet.websocket_url) as ws:
            made = client.localnet.cluster
            wanted = {
                "hashes": ("accountSubscribe", [SLOT_HASHES, PROCESSED]),
                "account": ("accountSubscribe", [ACCOUNT, PROCESSED]),
                "rooted account": ("accountSubscribe", [CLOCK, {"encoding": "base64"}]),
                "slot": ("slotSubscribe", []),
                "root": ("rootSubscribe", []),
            }
            for name, (method, params) in wanted.items():
                await ws.send_json({"jsonrpc": "2.0", "id": name, "method": method, "params": params})
            names: dict[int, str] = {}
            heard: dict[str, list[Any]] = {name: [] for name in wanted}
            sent = ""

            async def listen(done: Callable[[], bool]) -> None:
                async with asyncio.timeout(PATIENCE_S):
                    while not done():
                        message = json.loads((await ws.receive(timeout=PATIENCE_S)).data)
                        if "id" in message:
                            names[message["result"]] = message["id"]
                            continue
                        params = message["params"]
                        name = names.get(params["subscription"], "signature")
                        assert message["method"] == wanted.get(name, ("signatureSubscribe", []))[0].replace(
                            "Subscribe", "Notification"
                        )
                        heard.setdefault(name, []).append(params["result"])

            await listen(lambda: len(names) == 5 and len(heard["hashes"]) > 2)
            tip = made.rpc_view.tip
            parent = made.tree[tip.parent_slot or 0]
            raw = vote([(parent.slot, 1)], parent.hash, tip.blockhash)
            sent = base58(raw[1:65])
            subscribe = {"jsonrpc": "2.0", "id": "s", "method": "signatureSubscribe"}
            await ws.send_json({**subscribe, "params": [sent, {"commitment": "processed"}]})
            send_udp(client.localnet.vote_address, raw)
            await listen(lambda: bool(heard["account"]) and bool(heard.get("s")) and len(heard["root"]) > 20)

            assert heard["s"] == [{"context": heard["s"][0]["context"], "value": {"err": None}}]
            landed = heard["s"][0]["context"]["slot"]
            assert [entry["context"]["slot"] for entry in heard["account"]] == [landed]
            changed = decode_vote_account(base64.b64decode(heard["account"][0]["value"]["data"][0]))
            assert changed.last_voted_slot == parent.slot

            told = [entry["context"]["slot"] for entry in heard["hashes"]]
            assert sorted(set(told)) == sorted(told), "a bank was told twice"
            assert set(range(min(told), max(told) - 5)) - set(told) <= {
                slot for slot in range(max(told)) if slot not in made.rpc_view.slots
            }
            assert told != sorted(told), "no bank of the other fork arrived late"
            for entry in heard["hashes"]:
                slot = entry["context"]["slot"]
                named = decode_slot_hashes(base64.b64decode(entry["value"]["data"][0]))
                if slot in made.tree:
                    assert named[0] == (made.tree[slot].parent_slot, made.tree[slot].parent_hash)
            for entry in heard["slot"]:
                assert entry.keys() == {"slot", "parent", "root"}
            assert {entry["slot"] for entry in heard["slot"]} >= set(told[3:])
            assert heard["root"] == sorted(heard["root"])
            assert [entry["context"]["slot"] for entry in heard["rooted account"]] == sorted(
                {entry["context"]["slot"] for entry in heard["rooted account"]}
            )

            number = next(number for number, name in names.items() if name == "slot")
            for wrong in (number, number):
                await ws.send_json({"jsonrpc": "2.0", "id": "off", "method": "slotUnsubscribe", "params": [wrong]})
            replies: list[Any] = []
            async with asyncio.timeout(PATIENCE_S):
                while len(replies) < 2:
                    message = json.loads((await ws.receive(timeout=PATIENCE_S)).data)
                    replies += [message] if message.get("id") == "off" else []
            assert (replies[0]["result"], replies[1]["error"]["code"]) == (True, -32602)

    run(scenario)


def test_a_subscriber_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pubsub, "QUEUE_MAX", 20)

    async def scenario() -> None:
        config = LocalnetConfig(slot_ms=5, voters=0, fork_every=0)
        async with running(config) as client:
            host, port = client.localnet.websocket_url.removeprefix("ws://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
            writer.write(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
            for _ in range(100):
                text = json.dumps(
                    {"jsonrpc": "2.0", "id": 1, "method": "accountSubscribe", "params": [SLOT_HASHES, PROCESSED]}
                ).encode()
                writer.write(bytes([0x81, 0x80 | 126]) + len(text).to_bytes(2, "big") + bytes(4) + text)
            await writer.drain()

            async def cut_off() -> bool:
                return client.localnet.pubsub.cut_off == 1

            await until(cut_off)
            slot = client.localnet.cluster.slot

            async def goes_on() -> bool:
                return client.localnet.cluster.slot > slot + 5

            await until(goes_on)
            assert not client.localnet.pubsub._connections
            writer.close()

    run(scenario)
