"""One vote with 31 lockouts, ours beside the same work in Rust with the field's crates: the same bytes, both timed from inside.

The peer keeps a tower as validators in Rust do, in the types of solana-vote-interface, encodes it with bincode and signs with
ed25519-dalek. Nothing of it crosses a language; ours is called from Python, and that is part of its figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter as clock
from typing import Any

import pytest

from benchmarks.conftest import FULL, Bench
from benchmarks.measure import Timed, in_turns
from benchmarks.peers.cargo import CannotBuild, build
from benchmarks.peers.pipe import Peer, Turn
from benchmarks.workload import DEPTH, FIRST_SLOT, SIZE, Voting
from tower import _fast

INNER = 20  # votes between two looks at the clock


@pytest.fixture
def rust() -> Iterator[Peer]:
    try:
        binary = build(only_if_built=not FULL)
    except CannotBuild as problem:
        pytest.skip(str(problem))
    with Peer([binary]) as peer:
        yield peer


class Calls:
    """Ours, timed as the peer times itself: each entry is the average of `inner` calls."""

    def __init__(self, call: Callable[[], object], inner: int) -> None:
        self._call, self._inner = call, inner

    def take(self, calls: int) -> list[float]:
        call, taken = self._call, []
        for _ in range(calls):
            began = clock()
            for _ in range(self._inner):
                call()
            taken.append((clock() - began) / self._inner)
        return taken


@pytest.mark.timeout(1200)
def test_the_same_vote_in_rust(rust: Peer, bench: Bench, benchmark: Any) -> None:
    ours = Voting(_fast)
    made = rust.ask(
        do="prepare_vote",
        seed=ours.identity.secret[:32].hex(),
        vote_account=ours.vote_account.hex(),
        blockhash=ours.blockhash.hex(),
        bank_hash=ours.bank_hash.hex(),
        block_id=ours.block_id.hex(),
        timestamp=ours.timestamp,
        slots=list(range(FIRST_SLOT, ours.slot)),
        slot=ours.slot,
        threshold_depth=DEPTH,
        threshold_size=SIZE,
    )
    record, transaction = benchmark.pedantic(ours.vote, rounds=1)
    assert (made["record"], made["transaction"]) == (record.hex(), transaction.hex())
    cases: dict[str, Timed] = {
        "ours": Calls(ours.vote, INNER),
        "our signatures": Calls(ours.two_signatures, INNER),
        "rust": Turn(rust, do="vote", inner=INNER),
        "its signatures": Turn(rust, do="sign", inner=INNER),
    }
    taken = in_turns(cases, rounds=bench.rounds(200, 2), calls=5)
    bench.row(
        "signing", "the same vote in Rust: record, encode and sign the tower, build and sign the transaction", taken["ours"],
        against="bincode, ed25519-dalek, solana-vote-interface", other=taken["rust"], at_most=1.0,
        note=f"the same {len(record):,} and {len(transaction)} bytes",
    )  # fmt: skip
    bench.row(
        "signing", "of it, the two signatures: libsodium beside ed25519-dalek", taken["our signatures"],
        against="ed25519-dalek", other=taken["its signatures"],
    )  # fmt: skip
