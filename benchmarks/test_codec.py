"""Saved towers and vote messages: encoding and reading, in signatures and against the readable twin."""

from __future__ import annotations

from functools import partial

import pytest

from benchmarks.measure import interleaved
from benchmarks.workload import SHORT_BYTES, Voting, calls_of
from tower import _fast, _reference, wire

TABLE = "codec"
ALLOWED = {  # in signatures of 300 bytes
    "encode_vote_body": 0.04,
    "read_saved_tower": 0.08,
    "read_saved_tower, TowerVoteState.of_saved": 0.08,
}
NAMES = [
    "encode_vote_body",
    "encode_tower_body",
    "encode_vote_message",
    "read_saved_tower",
    "read_saved_tower, TowerVoteState.of_saved",
    "decode_saved_tower",
]
WHAT = {
    "encode_vote_body": "encode the voter's tower",
    "encode_tower_body": "encode a `Tower`, any generation",
    "encode_vote_message": "build the vote message",
    "read_saved_tower": "read a saved tower, check its structure",
    "read_saved_tower, TowerVoteState.of_saved": "the same, and the lockout stack in it",
    "decode_saved_tower": "the same, and a `Tower` of Python values",
}


@pytest.mark.parametrize("name", NAMES)
def test_codec(benchmark, bench, name):
    ours, twins = (calls_of(Voting(twin))[name] for twin in (_fast, _reference))
    bare = partial(_fast.sign, Voting(_fast).secrets[0], bytes(SHORT_BYTES))
    done, expected = benchmark(ours), twins()
    if name == "read_saved_tower":
        assert (done.data, done.tower()) == (expected.data, expected.tower())
    elif "of_saved" in name:
        assert (done.votes, done.root) == (expected.votes, expected.root)
    else:
        assert done == expected
    samples = interleaved(
        {"ours": ours, "twin": twins, "sig": bare}, rounds=bench.rounds(1000), inner=1 if not bench.full else 10
    )
    bench.row(
        TABLE, WHAT[name], samples["ours"],
        against="a signature of 300 bytes", other=samples["sig"], at_most=ALLOWED.get(name), unit="sig", note=f"`{name}`",
    )  # fmt: skip
    bench.row(TABLE, WHAT[name], samples["ours"], against="the readable twin", other=samples["twin"])


def test_loading_a_tower(benchmark, bench):
    """As a voter does at a claim: structure, signature, owner, values. The signature check is nearly all of it."""
    voting = Voting(_fast)
    load = partial(wire.decode_saved_tower, voting.record, voting.identity.pubkey)
    check = partial(_fast.verify, voting.identity.pubkey, voting.body, voting.record[4:68])
    assert benchmark(load) == voting.tower
    assert check()
    samples = interleaved({"load": load, "check": check}, rounds=bench.rounds(1000), inner=1 if not bench.full else 5)
    bench.row(TABLE, "load a tower, with its owner", samples["load"], against="the signature check in it", other=samples["check"])
